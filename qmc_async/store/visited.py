"""A database that a server may have open, as a command line looks into it.

It is used as it is, or not at all: nothing is made, upgraded, set aside or copied here. What only
reads takes no lock, so that however long it takes, a server's commits do not wait for it.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import StaticPool

from qmc_async.errors import ConfigError, StoreError
from qmc_async.store.database import LOGGING_NAME, describe
from qmc_async.store.deliveries import dead_letters
from qmc_async.store.events import list_events, probe, read_reports
from qmc_async.store.examination import examine
from qmc_async.store.ledger import count_overdue, find_entries, list_calls
from qmc_async.store.schema import VERSION
from qmc_async.store.sqlite_database import SqliteDatabase
from qmc_async.store.sqlite_file import APPLICATION_ID, is_corrupt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy import Connection

    from qmc_async.store.group_commit import Job
    from qmc_async.store.sqlite_file import SqliteFile

__all__ = ["VisitedDatabase"]

_READS: Final = (
    *(list_events, read_reports, dead_letters, probe),
    *(find_entries, list_calls, count_overdue, examine),
)
_BUSY: Final = 5.0  # seconds that a server may hold the lock


class VisitedDatabase(SqliteDatabase):
    """Does jobs in transactions, on what is there already."""

    _begin = "BEGIN"

    def open(self) -> None:
        """Connect, and check that it is a store.

        Raises:
            ConfigError: it is none, or not one that this version can read as it is.
            StoreError: its file is broken.
        """
        if self.file is None:
            raise ConfigError(
                "a store in memory cannot be looked into: pass --store or set QMC_STORE",
                setting="store",
            )
        if not self.file.path.exists():
            raise ConfigError(
                f"there is no store at {self.place}: pass --store or set QMC_STORE",
                setting="store",
            )
        self.file.check()
        try:
            self._connect()
        except DBAPIError as error:
            raise _problem(error) from None

    def commit(self, jobs: Sequence[Job]) -> None:
        """Do the jobs in one transaction, or say of each why not."""
        reads = all(job.operation in _READS for job in jobs)
        self._begin = "BEGIN" if reads else "BEGIN IMMEDIATE"
        try:
            self._transact(jobs)
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not stop the thread
            problem = error if isinstance(error, StoreError | ConfigError) else _problem(error)
            for job in jobs:
                job.error = problem

    def _connect(self) -> Connection:
        assert self.file is not None  # noqa: S101 - checked as it was opened
        path = self.file.path

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                f"{path.as_uri()}?mode=rw",
                uri=True,
                timeout=_BUSY,
                isolation_level=None,  # transactions begin and end below
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA synchronous = FULL")
            except BaseException:
                connection.close()
                raise
            return connection

        engine = create_engine(
            "sqlite://",
            creator=connect,
            poolclass=StaticPool,
            hide_parameters=True,
            logging_name=LOGGING_NAME,
        )

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction] - the event's
            driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]  # the only driver here
            if not driver.in_transaction:
                connection.exec_driver_sql(self._begin)

        self._engine = engine
        connection = self._connection = engine.connect()
        with connection.begin():
            _check(connection, path)
        self.file.remember()
        return connection

    def _rescue(self, file: SqliteFile) -> None:
        raise StoreError(f"another file has taken the place of {file.path}: try again")


def _check(connection: Connection, path: Path) -> None:
    if connection.exec_driver_sql("PRAGMA application_id").scalar_one() != APPLICATION_ID:
        raise ConfigError(f"{path} is no database of qmc-async: choose another", setting="store")
    version = connection.exec_driver_sql("SELECT version FROM qmc_schema").scalar_one()
    if version != VERSION:
        raise ConfigError(
            f"the tables in {path} have version {version}, and this qmc-async knows {VERSION}: "
            + ("update it" if version > VERSION else "start a server with it, which upgrades them"),
            setting="store",
        )


def _problem(error: Exception) -> StoreError:
    what = describe(error)
    if is_corrupt(error):
        return StoreError(
            f"the store's file is broken ({what}): a server that runs sets it aside, and goes on "
            "with what can be read of it",
            temporary=False,
        )
    if isinstance(error, OperationalError):
        return StoreError(f"the store did not answer ({what}): try again")
    return StoreError(f"the store failed ({what})", temporary=False)
