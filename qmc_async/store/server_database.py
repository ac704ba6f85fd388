"""A store on a database server: PostgreSQL, MySQL, or what speaks the protocol of one of them."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from qmc_async.errors import ConfigError
from qmc_async.store.bell import Bell
from qmc_async.store.database import LOGGING_NAME, Database, describe
from qmc_async.store.durability import can_skip_locked, check_durability
from qmc_async.store.schema import VERSION, found_version, prepare, store_id
from qmc_async.store.transaction import CLOCK, SKIP_LOCKED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import psycopg
    from sqlalchemy import URL, Connection

    from qmc_async.store.group_commit import Job

__all__ = ["ServerDatabase"]

logger = logging.getLogger(__name__)

_SPOOL: Final = Path("qmc-spool")
_TRIES: Final = 6
_LONGEST_PAUSE: Final = 0.05  # seconds; whoever was in the way is done by then
# A serialization failure, a dead-lock, or a row that another has inserted; TiDB's write conflict.
_IN_THE_WAY: Final = frozenset({"40001", "40P01", "23505", 1213, 1062, 9007})
_LOCK_ID: Final = 0x716D63  # of what makes or changes the tables

# Each comes before whatever the URL says, and gives way to it.
_CONNECT: Final[dict[str, dict[str, Any]]] = {
    "postgresql": {
        "connect_timeout": 5,
        # Else a machine that is gone without a word holds the thread for a quarter of an hour.
        "tcp_user_timeout": 10_000,  # milliseconds
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        # A PgBouncer that pools transactions hands the next one to another server process.
        "prepare_threshold": None,
    },
    "mysql": {
        "connect_timeout": 5,
        "read_timeout": 30,
        "write_timeout": 30,
        "init_command": (
            "SET SESSION innodb_lock_wait_timeout = 3, sql_mode = 'STRICT_ALL_TABLES'"
            # As below. To all but MariaDB it is a comment.
            "/*M!100300 , idle_transaction_timeout = 5 */"
        ),
    },
}
# Whatever the URL says, which may be a copy of one for another library: any script may come.
_ENCODING: Final = {
    "postgresql": {"client_encoding": "utf8"},
    "mysql": {"charset": "utf8mb4"},
}
# A process that stands still in the middle of a transaction must not keep the others from their
# rows. Of this transaction only: the server's process may be another's in the next.
_BEGIN: Final = {
    "postgresql": text(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, "
        "set_config('lock_timeout', '3s', true), "
        "set_config('idle_in_transaction_session_timeout', '5s', true)"
    ),
    # Not by way of local time, which some places have twice in an autumn's night.
    "mysql": text("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000"),
}
# Longer than for a row: whoever holds it may be making an index of a large table. It ends with the
# transaction, or with the session.
_LOCK: Final = {
    "postgresql": text(
        f"SELECT set_config('lock_timeout', '60s', true), pg_advisory_xact_lock({_LOCK_ID}), "
        "set_config('lock_timeout', '3s', true)"
    ),
    "mysql": text("SELECT GET_LOCK('qmc_schema', 25)"),  # less than the driver waits for an answer
}
_UNLOCK: Final = text("SELECT RELEASE_LOCK('qmc_schema')")


class ServerDatabase(Database):
    """Does jobs in transactions, each again where another was in its way or the server has gone.

    Args:
        url: of SQLAlchemy, with a driver that this library knows.
        allow_data_loss: use it even where its settings may lose what is committed.
        visiting: it must be a store already, and is used as it is.

    Raises:
        ConfigError: the driver is not installed, or does not take what the URL says.
    """

    def __init__(self, url: URL, *, allow_data_loss: bool, visiting: bool) -> None:
        super().__init__()
        self._url = url
        self._kind = url.get_backend_name()
        self._allow_data_loss = allow_data_loss
        self._visiting = visiting
        self.place = _place(url)
        self._default_spool = _SPOOL.absolute()
        self._store_id = ""
        options = {
            name: value for name, value in _CONNECT[self._kind].items() if name not in url.query
        } | _ENCODING[self._kind]
        try:
            # Made once: how to reach it is known, whether or not it can be reached.
            self._made = create_engine(
                url,
                poolclass=NullPool,
                isolation_level="READ COMMITTED",
                hide_parameters=True,  # a statement that fails must not show what it was to keep
                logging_name=LOGGING_NAME,
                connect_args=options,
            )
        except ImportError:  # or a library that it needs
            driver = url.get_driver_name()
            extra = "postgres" if self._kind == "postgresql" else "mysql"
            raise ConfigError(
                f"store: {driver} is missing: pip install 'qmc-async[{extra}]'", setting="store"
            ) from None
        except (ArgumentError, ValueError) as error:
            raise _bad_options(self.place, error) from None
        event.listen(self._made, "begin", self._begin)
        if self._kind == "postgresql" and not visiting:
            self.bell = Bell(self._made, options)

    def open(self) -> None:
        """See `Database.open`."""
        try:
            self._connect()
        except DBAPIError as error:
            # What a server says of a connection that it refuses holds no rows.
            why = str(error.orig).strip().partition("\n")[0]
        else:
            return
        # Out here: psycopg's own error holds the password, and would be this one's context.
        raise ConfigError(f"store: {self.place}: {why}", setting="store")

    def spool_folder(self, chosen: Path | None) -> Path | None:
        """See `Database.spool_folder`."""
        return (chosen or self._default_spool) / self._store_id

    def _begin(self, connection: Connection) -> None:
        found = connection.execute(_BEGIN[self._kind]).first()
        connection.info[CLOCK] = None if found is None else found[0]

    def _connect(self) -> Connection:
        self._engine = self._made
        try:
            connection = self._connection = self._dial()
            if self._kind == "postgresql":
                # PgBouncer may lead to it what a bell is to hear, and psycopg would hoard that.
                driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]  # SQLAlchemy does not say
                driver.add_notify_handler(_ignore)
            connection.info[SKIP_LOCKED] = can_skip_locked(connection)
            with connection.begin():
                if not self._visiting:
                    check_durability(
                        connection,
                        allow_data_loss=self._allow_data_loss,
                        is_first=not self._store_id,
                    )
                version = found_version(connection)
            if version != VERSION:
                self._prepare(connection, version)
            if not self._store_id:
                with connection.begin():
                    self._store_id = store_id(connection)
        except BaseException:
            self.close()
            raise
        return connection

    def _dial(self) -> Connection:
        try:
            return self._made.connect()
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - a driver trips over an option in any way
            problem = _bad_options(self.place, error)
        raise problem  # out here: the error may hold the password that it could not take

    def _prepare(self, connection: Connection, version: int | None) -> None:
        if self._visiting and (version or 0) < VERSION:
            raise ConfigError(
                f"store: there are no tables of this qmc-async in {self.place} (found version "
                f"{version}, known {VERSION}): start a server with it, which makes them",
                setting="store",
            )
        with connection.begin():
            if not connection.execute(_LOCK[self._kind]).scalar():
                raise ConfigError(
                    f"store: another process is still changing the tables in {self.place}: try "
                    "again",
                    setting="store",
                )
            prepare(connection)
        if self._kind == "mysql":  # once that is committed: whoever comes next must see it
            with connection.begin():
                connection.execute(_UNLOCK)

    def _try(self, jobs: Sequence[Job]) -> None:
        tries = 0
        while True:
            was_open = self._connection is not None
            tries += 1
            try:
                self._transact(jobs)
            except DBAPIError as error:
                is_lost = error.connection_invalidated and was_open
                if tries == _TRIES or not (is_lost or _is_in_the_way(error)):
                    raise
                logger.debug("a transaction is done again: %s", describe(error))
                if is_lost:
                    self.close()
                else:
                    time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - no secret
            else:
                return

    def _is_its_own_fault(self, error: DBAPIError) -> bool:
        # Whatever is said of one value is the job's fault. All else may pass: tables that are
        # being restored, a disk that is full, a standby that is about to be promoted.
        return not isinstance(error, DataError | IntegrityError)


def _ignore(_: object) -> None:
    pass


def _bad_options(place: str, error: Exception) -> ConfigError:
    # It is the password that may not be encoded.
    told = type(error).__name__ if isinstance(error, UnicodeError) else str(error)
    return ConfigError(
        f"store: {place}: the driver does not take what its URL says ({told})", setting="store"
    )


def _place(url: URL) -> str:
    named = url.query.get("host", ())  # of several, as libpq takes them
    hosts = [url.host] if url.host else [named] if isinstance(named, str) else named
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{','.join(hosts)}{port}/{url.database}"


def _is_in_the_way(error: DBAPIError) -> bool:
    cause = error.orig
    # MySQL's own numbers say more than the state that newer drivers tell beside them.
    return not _IN_THE_WAY.isdisjoint(
        {getattr(cause, "sqlstate", None), *getattr(cause, "args", ())[:1]}
    )
