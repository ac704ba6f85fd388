"""A store in a file of this machine, or in memory, by SQLite."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import StaticPool

from qmc_async.errors import ConfigError
from qmc_async.store.database import LOGGING_NAME, MEMORY, Database, describe
from qmc_async.store.schema import prepare
from qmc_async.store.sqlite_file import (
    SqliteFile,
    check_durability,
    is_corrupt,
    use_immediate_transactions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from sqlalchemy import URL, Connection

    from qmc_async.store.group_commit import Job

__all__ = ["SqliteDatabase"]

logger = logging.getLogger(__name__)


class SqliteDatabase(Database):
    """Does jobs in transactions, and sets a broken file aside.

    Args:
        url: ``sqlite:///`` and a path, or ``sqlite://``.
        on_set_aside: told the new name of a broken file, in the store's thread, once a fresh one
            has taken its place.

    Raises:
        ConfigError: the URL names more than a file.
    """

    _begin = "BEGIN IMMEDIATE"

    def __init__(self, url: URL, on_set_aside: Callable[[Path], None]) -> None:
        super().__init__()
        if url.host or url.username or url.query:
            raise ConfigError(
                "store: it must be sqlite:/// and the path of a file, such as sqlite:///qmc.db",
                setting="store",
            )
        name = url.database
        self.file = None if name in (None, "", ":memory:") else SqliteFile(name)
        self._url = url
        self.place = MEMORY
        if self.file is not None:  # where the program goes later changes nothing
            self._url = url.set(database=str(self.file.path))
            self.place = str(self.file.path)
        self._on_set_aside = on_set_aside

    def open(self) -> None:
        """See `Database.open`."""
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

    def spool_folder(self, chosen: Path | None) -> Path | None:
        """See `Database.spool_folder`."""
        if chosen is not None:
            # Not what stands in the file: a fresh one may take its place.
            return chosen / hashlib.sha256(self.place.encode()).hexdigest()[:32]
        return None if self.file is None else Path(f"{self.file.path}-spool")

    def note_copied(self, aside: Path) -> None:
        """Do not copy what was set aside once more."""
        assert self.file is not None  # noqa: S101 - only a file is set aside
        self.file.note_copied(aside)

    def _is_its_own_fault(self, error: DBAPIError) -> bool:
        return isinstance(error, OperationalError) or is_corrupt(error)

    def _try(self, jobs: Sequence[Job]) -> None:
        try:
            self._transact(jobs)
        except DBAPIError as error:
            if self.file is None or not is_corrupt(error):
                raise
            self._replace(error)
            self._transact(jobs)

    def _transact(self, jobs: Sequence[Job]) -> None:
        if self.file is not None and self.file.is_replaced():
            self._rescue(self.file)
        super()._transact(jobs)

    @contextmanager
    def _transaction(self, connection: Connection) -> Generator[None]:
        # By way of SQLAlchemy, beginning and ending one takes longer than what is done in it. Where
        # a job uses it all the same, it joins in: see `use_immediate_transactions`.
        driver = _driver_of(connection)
        try:
            driver.execute(self._begin)
            try:
                yield
                self._commit(connection)
            except BaseException:
                connection.rollback()
                driver.rollback()
                raise
        except sqlite3.Error as error:
            kind = OperationalError if isinstance(error, sqlite3.OperationalError) else DBAPIError
            raise kind(None, None, error, hide_parameters=True) from error

    def _commit(self, connection: Connection) -> None:
        connection.commit()
        _driver_of(connection).commit()

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
            with closing(sqlite3.connect(aside)) as copy:
                _driver_of(self._connection).backup(copy)
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


def _driver_of(connection: Connection) -> sqlite3.Connection:
    return connection.connection.driver_connection  # type: ignore[return-value]  # the only driver here
