"""From a store's URL to the database behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError as UrlError

from qmc_async.errors import ConfigError
from qmc_async.store.server_database import ServerDatabase
from qmc_async.store.sqlite_database import SqliteDatabase
from qmc_async.store.visited import VisitedDatabase

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qmc_async.store.database import Database

__all__ = ["database_at"]

_DRIVERS: Final = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}
_EXAMPLES: Final = (
    "sqlite:///qmc.db, postgresql://user:…@host/database or mysql://user:…@host/database"
)


def database_at(
    url: str, on_set_aside: Callable[[Path], None], *, allow_data_loss: bool, visiting: bool
) -> Database:
    """The database that a URL names; nothing is opened yet.

    Args:
        url: as SQLAlchemy has them.
        on_set_aside: see `SqliteDatabase`.
        allow_data_loss: see `ServerDatabase`.
        visiting: look into the store of a server that may run.

    Raises:
        ConfigError: the URL is none that this library can use, or its driver is missing.
    """
    try:
        read = make_url(url)
    except (UrlError, ValueError):  # the second would quote a password that has a colon
        raise ConfigError(f"store: it must be a URL such as {_EXAMPLES}", setting="store") from None
    driver = _DRIVERS.get(read.drivername)
    if driver is None:
        raise ConfigError(
            f"store: {read.drivername} is not supported: use {_EXAMPLES}", setting="store"
        )
    read = read.set(drivername=driver)
    if driver == "sqlite":
        return (VisitedDatabase if visiting else SqliteDatabase)(read, on_set_aside)
    if not read.database:
        raise ConfigError(f"store: it must name a database: use {_EXAMPLES}", setting="store")
    return ServerDatabase(read, allow_data_loss=allow_data_loss, visiting=visiting)
