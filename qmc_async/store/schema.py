"""The tables, and how an older version of them becomes this one.

Rules:

1. `events` has one row for each thing that came, its body untouched. A row is never changed but
   for `routed`; an undecodable one may be replaced by what a better decoder makes of it.
2. `deliveries` has one row for each event and handler that wants it. ``due_at`` is NULL when and
   only when it is settled (done or dead). A row with an owner is leased until ``due_at``.
3. Whoever leases a row raises ``fence``; whoever settles one names the fence it was given.
4. `calls` is the ledger: a row is written before a call is placed, under the key of its
   `out_call_id`, with something behind it for each further call under the same one. ``due_at`` is
   when the watchdog looks for its end, and NULL when that is settled; who looks moves it and
   raises ``fence``. That a notification has come stands in `events`, and here only later.
   ``traceparent`` (W3C Trace Context) is of the span by which it was placed, if one was recorded.
5. Times are milliseconds since 1970. Identifiers are as `records.exact_key` makes them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import (
    VARBINARY,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
    inspect,
    literal_column,
    select,
    text,
)

from qmc_async.errors import ConfigError
from qmc_async.store.records import State

if TYPE_CHECKING:
    from sqlalchemy import Dialect

__all__ = [
    "DEAD",
    "VERSION",
    "calls",
    "deliveries",
    "events",
    "found_version",
    "prepare",
    "store_id",
]

Upgrade: TypeAlias = Callable[[Connection], None]

VERSION: Final = 3


def _make_the_ledger(connection: Connection) -> None:
    # Version 1 had a table of this name that nothing was ever written to.
    calls.drop(connection, checkfirst=True)
    calls.create(connection)


def _link_to_traces(connection: Connection) -> None:
    # It is there where the ledger has just been made, and where an earlier start was cut short on
    # MySQL, which commits this by itself.
    there = {column["name"] for column in inspect(connection).get_columns(calls.name)}
    if calls.c.traceparent.name not in there:
        connection.execute(text(f"ALTER TABLE {calls.name} ADD COLUMN traceparent VARCHAR(55)"))


UPGRADES: Mapping[int, Upgrade] = {1: _make_the_ledger, 2: _link_to_traces}
"""What makes version n + 1 of version n, by n. One transaction holds all that are needed."""


class _Bytes(TypeDecorator[str]):
    """Text that MySQL compares byte by byte: its collations take some for the same, or pad."""

    impl = VARBINARY
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - as it is called
        return None if value is None else value.encode()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - as it is called
        return None if value is None else value.decode()


_LONGEST_BODY = 64 * 1024  # MySQL chooses the column's type by it
_Id = (
    String(255)
    .with_variant(String(255, collation="C"), "postgresql")
    .with_variant(_Bytes(255), "mysql")
)
_Big = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only what it calls INTEGER

metadata = MetaData()
_ON_MYSQL: Final[dict[str, Any]] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}

events = Table(
    "qmc_events",
    metadata,
    Column("seq", _Big, primary_key=True, autoincrement=True),
    Column("event_id", _Id, nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("out_call_id", _Id),
    Column("received_at", BigInteger, nullable=False),
    Column("receipt_id", String(32), nullable=False),
    Column("problem", Text, nullable=False),
    Column("body", LargeBinary(_LONGEST_BODY + 1), nullable=False),
    Column("routed", Boolean, nullable=False),
    sqlite_autoincrement=True,  # a number that was purged does not come back
    **_ON_MYSQL,
)
Index(
    "qmc_events_out_call_id",
    events.c.out_call_id,
    sqlite_where=events.c.out_call_id.is_not(None),
    postgresql_where=events.c.out_call_id.is_not(None),
)
Index(
    "qmc_events_unrouted",
    events.c.routed,
    sqlite_where=events.c.routed == false(),
    postgresql_where=events.c.routed == false(),
)
Index("qmc_events_received_at", events.c.received_at)


def _has_partial_indexes(*_: object, **known: Any) -> bool:  # noqa: ANN401 - as it is called
    name: str = known["dialect"].name
    return name != "mysql"


deliveries = Table(
    "qmc_deliveries",
    metadata,
    Column("event_id", _Id, primary_key=True),
    Column("handler", _Id, primary_key=True),
    Column("state", String(8), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", String(32)),
    Column("due_at", BigInteger),
    Column("changed_at", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
    sqlite_with_rowid=False,
    **_ON_MYSQL,
)
Index(
    "qmc_deliveries_due",
    deliveries.c.handler,
    deliveries.c.due_at,
    sqlite_where=deliveries.c.due_at.is_not(None),
    postgresql_where=deliveries.c.due_at.is_not(None),
)
# Written out, because a partial index serves only a query that repeats its words.
DEAD = deliveries.c.state == literal_column(f"'{State.DEAD}'")
Index(
    "qmc_deliveries_dead",
    deliveries.c.changed_at,
    sqlite_where=DEAD,
    postgresql_where=DEAD,
).ddl_if(callable_=_has_partial_indexes)
# MySQL has no partial indexes.
Index("qmc_deliveries_state", deliveries.c.state, deliveries.c.changed_at).ddl_if(dialect="mysql")

calls = Table(
    "qmc_calls",
    metadata,
    Column("seq", _Big, primary_key=True, autoincrement=True),
    Column("entry_id", _Id, nullable=False, unique=True),
    Column("token", String(32), nullable=False),
    Column("out_call_id", Text, nullable=False),
    Column("call_key", _Id),
    Column("call_id", Text),
    Column("caller", Text, nullable=False),
    Column("callee", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("placed_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("missing_after", BigInteger, nullable=False),
    Column("due_at", BigInteger),
    Column("fence", Integer, nullable=False),
    Column("looks", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("traceparent", String(55)),
    sqlite_autoincrement=True,
    **_ON_MYSQL,
)
Index(
    "qmc_calls_call_key",
    calls.c.call_key,
    sqlite_where=calls.c.call_key.is_not(None),
    postgresql_where=calls.c.call_key.is_not(None),
)
Index(
    "qmc_calls_due",
    calls.c.due_at,
    sqlite_where=calls.c.due_at.is_not(None),
    postgresql_where=calls.c.due_at.is_not(None),
)
Index("qmc_calls_placed_at", calls.c.placed_at)

_version = Table(
    "qmc_schema",
    metadata,
    Column("version", Integer, nullable=False),
    Column("store_id", String(32), nullable=False),
    **_ON_MYSQL,
)


def prepare(connection: Connection) -> None:
    """Make the tables, or bring them to `VERSION`; in one transaction, which the caller commits.

    Raises:
        ConfigError: a newer version of this library has written them.
    """
    found = found_version(connection)
    if found is None:
        metadata.create_all(connection)
        if connection.dialect.name == "mysql":
            # It commits each of them by itself: a start that was cut short has left some.
            for table in metadata.sorted_tables:
                for index in table.indexes:
                    index.create(connection, checkfirst=True)
        connection.execute(_version.insert().values(version=VERSION, store_id=uuid.uuid4().hex))
        return
    if found > VERSION:
        raise ConfigError(
            f"store: it was written by a newer version of qmc-async (its tables have version "
            f"{found}, this one knows {VERSION}): update qmc-async, or take another store",
            setting="store",
        )
    for version in range(found, VERSION):
        UPGRADES[version](connection)
    if found < VERSION:
        connection.execute(_version.update().values(version=VERSION))


def found_version(connection: Connection) -> int | None:
    """The version of the tables that are there; None where they are not, or not all."""
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.execute(select(_version.c.version)).scalar_one_or_none()


def store_id(connection: Connection) -> str:
    """What tells this store from all others, wherever it is moved to."""
    return str(connection.execute(select(_version.c.store_id)).scalar_one())
