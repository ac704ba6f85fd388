"""The tables, and how an older version of them becomes this one.

Rules:

1. `events` has one row for each thing that came, its body untouched. A row is never changed but
   for `routed`; an undecodable one may be replaced by what a better decoder makes of it.
2. `deliveries` has one row for each event and handler that wants it. ``due_at`` is NULL when and
   only when it is settled (done or dead). A row with an owner is leased until ``due_at``.
3. Whoever leases a row raises ``fence``; whoever settles one names the fence it was given.
4. `calls` is written before a call is placed.
5. Times are milliseconds since 1970. Identifiers are as `records.exact_key` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from sqlalchemy import (
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
    false,
    inspect,
    literal_column,
    select,
)

from qmc_async.errors import ConfigError
from qmc_async.store.records import State

__all__ = ["DEAD", "VERSION", "calls", "deliveries", "events", "prepare"]

Upgrade: TypeAlias = Callable[[Connection], None]

VERSION: Final = 1
UPGRADES: Mapping[int, Upgrade] = {}
"""What makes version n + 1 of version n, by n. One transaction holds all that are needed."""

_LONGEST_BODY = 64 * 1024  # MySQL chooses the column's type by it
_Id = String(255)
_Big = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only what it calls INTEGER

metadata = MetaData()

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
)

calls = Table(
    "qmc_calls",
    metadata,
    Column("out_call_id", _Id, primary_key=True),
    Column("call_id", _Id),
    Column("caller", String(32), nullable=False),
    Column("callee", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("placed_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
)
Index("qmc_calls_call_id", calls.c.call_id)

_version = Table("qmc_schema", metadata, Column("version", Integer, nullable=False))


def prepare(connection: Connection) -> None:
    """Make the tables, or bring them to `VERSION`; in one transaction, which the caller commits.

    Raises:
        ConfigError: a newer version of this library has written them.
    """
    if not inspect(connection).has_table(_version.name):
        metadata.create_all(connection)
        connection.execute(_version.insert().values(version=VERSION))
        return
    found: int = connection.execute(select(_version.c.version)).scalar_one()
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
