"""The database behind a store: one connection, one transaction at a time, in the store's thread."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from qmc_async.errors import ConfigError, StoreError
from qmc_async.store.group_commit import grouped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from qmc_async.store.bell import Bell
    from qmc_async.store.group_commit import Job

__all__ = ["LOGGING_NAME", "MEMORY", "Database", "describe"]

MEMORY: Final = "memory"
LOGGING_NAME: Final = "qmc"
# At DEBUG, SQLAlchemy logs every row that it reads, bodies and all. A level of its own would have
# it log every statement, in an application that logs warnings only.
logging.getLogger(f"sqlalchemy.engine.Engine.{LOGGING_NAME}").addFilter(
    lambda record: record.levelno > logging.DEBUG
)


class Database(ABC):
    """Does jobs in transactions."""

    place: str
    """Where it is, without a password; `MEMORY` where a restart forgets it."""

    bell: Bell | None = None
    """Hears what other processes keep, where the database tells."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._connection: Connection | None = None

    @abstractmethod
    def open(self) -> None:
        """Connect, check, and make the tables.

        Raises:
            ConfigError: nothing can be kept there.
        """

    @abstractmethod
    def spool_folder(self, chosen: Path | None) -> Path | None:
        """Where the spool of this database is; None where there is none. It must be open.

        Args:
            chosen: a folder that other databases may use as well: what is in one's spool must
                never go into another.
        """

    @abstractmethod
    def _connect(self) -> Connection:
        """Connect again, once it has been open."""

    def close(self) -> None:
        """Let go of it."""
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
            self._try(jobs)
        except DBAPIError as error:
            if self._is_its_own_fault(error):
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

    @abstractmethod
    def _try(self, jobs: Sequence[Job]) -> None:
        """Do the jobs in one transaction, and in another where the first may fail in passing."""

    @abstractmethod
    def _is_its_own_fault(self, error: DBAPIError) -> bool:
        """Whether it is the database that fails, and the job may succeed later."""

    def _commit_each(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.commit([job])

    def _give_up(self, error: Exception, jobs: Sequence[Job]) -> None:
        if self.place != MEMORY:
            self.close()  # the next transaction begins on a connection that knows nothing of this
        _fail(jobs, describe(error))

    def _transact(self, jobs: Sequence[Job]) -> None:
        connection = self._connection or self._connect()
        with self._transaction(connection):
            done = [
                (group, group[0].operation(connection, [job.argument for job in group]))
                for group in grouped(jobs)
            ]
        for group, results in done:
            for job, result in zip(group, results, strict=True):
                job.result = result

    def _transaction(self, connection: Connection) -> AbstractContextManager[object]:
        """What is done inside is committed, or, where it raises a `DBAPIError`, not done."""
        return connection.begin()


def _fail(jobs: Sequence[Job], why: str, *, temporary: bool = True) -> None:
    for job in jobs:
        job.error = StoreError(f"the store failed: {why}", temporary=temporary)


def describe(error: Exception) -> str:
    """What a database says of itself, without what it was to keep."""
    if isinstance(error, ConfigError):
        return str(error)
    cause = error.orig if isinstance(error, DBAPIError) else error
    # SQLite's own messages name tables, never values. The servers' quote them.
    if name := getattr(cause, "sqlite_errorname", ""):
        return f"{name}: {cause}"
    # MySQL's own number says more than the state beside it.
    numbers = [one for one in getattr(cause, "args", ()) if isinstance(one, int)]
    code = numbers[0] if numbers else getattr(cause, "sqlstate", None)
    return f"{type(cause).__name__} {code or ''}".rstrip()
