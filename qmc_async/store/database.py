"""The database behind a store: one connection, one transaction at a time, in the store's thread."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import ArgumentError as UrlError
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from qmc_async.errors import ConfigError, StoreError
from qmc_async.store.group_commit import grouped
from qmc_async.store.schema import prepare
from qmc_async.store.sqlite_file import (
    SqliteFile,
    check_durability,
    is_corrupt,
    use_immediate_transactions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from qmc_async.store.group_commit import Job

__all__ = ["Database"]

logger = logging.getLogger(__name__)

LOGGING_NAME: Final = "qmc"
# At DEBUG, SQLAlchemy logs every row that it reads, bodies and all. A level of its own would have
# it log every statement, in an application that logs warnings only.
logging.getLogger(f"sqlalchemy.engine.Engine.{LOGGING_NAME}").addFilter(
    lambda record: record.levelno > logging.DEBUG
)


class Database:
    """Does jobs in transactions.

    Args:
        url: SQLAlchemy's, such as ``sqlite:///qmc.db``.
        on_set_aside: told the new name of a broken file, in the store's thread, once a fresh one
            has taken its place.

    Raises:
        ConfigError: the URL is none that this library can use.
    """

    def __init__(self, url: str, on_set_aside: Callable[[Path], None]) -> None:
        try:
            self._url = make_url(url)
        except (UrlError, ValueError):  # the second would quote a password that has a colon
            raise ConfigError(
                "store: it must be a URL such as sqlite:///qmc.db", setting="store"
            ) from None
        if self._url.drivername not in {"sqlite", "sqlite+pysqlite"}:
            raise ConfigError(
                f"store: {self._url.drivername} is not supported: use sqlite:///qmc.db",
                setting="store",
            )
        if self._url.host or self._url.username or self._url.query:
            raise ConfigError(
                "store: it must be sqlite:/// and the path of a file, such as sqlite:///qmc.db",
                setting="store",
            )
        name = self._url.database
        self.file = None if name in (None, "", ":memory:") else SqliteFile(name)
        if self.file is not None:  # where the program goes later changes nothing
            self._url = self._url.set(database=str(self.file.path))
        self._on_set_aside = on_set_aside
        self._engine: Engine | None = None
        self._connection: Connection | None = None

    @property
    def place(self) -> str:
        """Where it is, without a password."""
        if self.file is not None:
            return str(self.file.path)
        return "memory"

    def open(self) -> None:
        """Connect, check, and make the tables.

        Raises:
            ConfigError: nothing can be kept there.
        """
        if self.file is not None:
            self.file.check()
            for aside in self.file.not_copied():
                self._on_set_aside(aside)
        try:
            self._connect()
        except DBAPIError as error:
            if self.file is None or not is_corrupt(error):
                raise ConfigError(f"store: {describe(error)}", setting="store") from None
            self._replace(error)

    def note_copied(self, aside: Path) -> None:
        """Do not copy what was set aside once more."""
        assert self.file is not None  # noqa: S101 - only a file is set aside
        self.file.note_copied(aside)

    def close(self) -> None:
        """Let go of the file."""
        connection, self._connection = self._connection, None
        engine, self._engine = self._engine, None
        # What is broken may not even close; it is let go all the same.
        with suppress(SQLAlchemyError):
            if connection is not None:
                connection.close()
        with suppress(SQLAlchemyError):
            if engine is not None:
                engine.dispose()

    def commit(self, jobs: Sequence[Job]) -> None:
        """Do the jobs in one transaction, or say of each why not.

        A job that is at fault itself does not spoil it for the others.
        """
        try:
            self._transact(jobs)
        except DBAPIError as error:
            if self.file is not None and is_corrupt(error):
                self._commit_elsewhere(error, jobs)
            elif isinstance(error, OperationalError):
                self._give_up(error, jobs)
            elif len(jobs) > 1:
                self._commit_each(jobs)
            else:
                _fail(jobs, describe(error), temporary=False)
        except (OSError, ConfigError) as error:
            self._give_up(error, jobs)
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not stop the thread
            if len(jobs) > 1:
                self._commit_each(jobs)
            else:
                _fail(jobs, describe(error), temporary=False)

    def _commit_each(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.commit([job])

    def _commit_elsewhere(self, error: DBAPIError, jobs: Sequence[Job]) -> None:
        try:
            self._replace(error)
            self._transact(jobs)
        except (DBAPIError, OSError, ConfigError) as again:
            self._give_up(again, jobs)

    def _give_up(self, error: Exception, jobs: Sequence[Job]) -> None:
        if self.file is not None:
            self.close()  # the next transaction begins on a connection that knows nothing of this
        _fail(jobs, describe(error))

    def _transact(self, jobs: Sequence[Job]) -> None:
        if self.file is not None and self.file.is_replaced():
            self._rescue(self.file)
        connection = self._connection or self._connect()
        with connection.begin():
            done = [
                (group, group[0].operation(connection, [job.argument for job in group]))
                for group in grouped(jobs)
            ]
        for group, results in done:
            for job, result in zip(group, results, strict=True):
                job.result = result

    def _connect(self) -> Connection:
        in_memory = self.file is None
        options = {"poolclass": StaticPool} if in_memory else {}
        # A statement that fails must not show what it was to keep.
        engine = create_engine(
            self._url, hide_parameters=True, logging_name=LOGGING_NAME, **options
        )
        use_immediate_transactions(engine)
        self._engine = engine
        try:
            connection = engine.connect()
            self._connection = connection
            with connection.begin():
                check_durability(connection, in_memory=in_memory)
                prepare(connection)
            if self.file is not None:
                self.file.remember()
        except BaseException:
            self.close()
            raise
        return connection

    def _rescue(self, file: SqliteFile) -> None:
        """Save what is in a file that has lost its name, as long as it is open."""
        file.forget()
        if self._connection is None:
            logger.critical("the store's file %s was removed or replaced from outside", file.path)
            return
        aside = file.free_name()
        try:
            source: sqlite3.Connection = self._connection.connection.driver_connection  # type: ignore[assignment]  # the only driver here
            with closing(sqlite3.connect(aside)) as copy:
                source.backup(copy)
        except sqlite3.Error as error:
            logger.critical("what was in the store's file cannot be saved: %s", describe(error))
        self.close()
        logger.critical(
            "the store's file %s was removed or replaced from outside; what was in it is in %s, "
            "and is copied over",
            file.path,
            aside,
        )
        self._on_set_aside(aside)
        self._connect()

    def _replace(self, error: DBAPIError) -> None:
        """Set the broken file aside, and open a fresh one.

        Raises:
            OSError, DBAPIError: there is no fresh one to be had.
        """
        assert self.file is not None  # noqa: S101 - only a file is replaced
        self.close()
        aside = self.file.set_aside()
        if aside is not None:
            logger.critical(
                "the store's file is broken (%s). It was set aside as %s, and a fresh one opened; "
                "what can be read of it is copied over",
                describe(error),
                aside,
            )
            self._on_set_aside(aside)
        self._connect()


def _fail(jobs: Sequence[Job], why: str, *, temporary: bool = True) -> None:
    for job in jobs:
        job.error = StoreError(f"the store failed: {why}", temporary=temporary)


def describe(error: Exception) -> str:
    """What a database says of itself, without what it was to keep."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(cause, "sqlite_errorname", "")
    # SQLite's own messages name tables, never values.
    return f"{name}: {cause}" if name else type(cause).__name__
