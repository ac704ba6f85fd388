"""What the databases do not have in common, as a transaction on one of them needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from sqlalchemy import func, select

from qmc_async.store.records import now

if TYPE_CHECKING:
    from collections.abc import Collection, Generator
    from typing import Any

    from sqlalchemy import Connection, Select

__all__ = ["CHANNEL", "CLOCK", "SKIP_LOCKED", "for_update", "ring", "time_in"]

CHANNEL: Final = "qmc_stored"
"""Where PostgreSQL tells what was kept: a JSON list of call ids and `out_call_id`s."""

CLOCK: Final = "qmc clock"
SKIP_LOCKED: Final = "qmc skip locked"
"""Keys of ``connection.info``, for what is known of the transaction and of the database."""

_LONGEST_PAYLOAD: Final = 7900  # bytes; PostgreSQL takes 7999


def time_in(connection: Connection) -> int:
    """Milliseconds since 1970, by the clock that all who use the database share.

    A server's clock was read as the transaction began. SQLite's is this machine's.
    """
    time: int | None = connection.info.get(CLOCK)
    return now() if time is None else time


def for_update(connection: Connection, query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """Rows that nobody else changes until the transaction ends, without those of others.

    SQLite needs no such thing: a transaction has the database for itself.
    """
    return query.with_for_update(skip_locked=connection.info.get(SKIP_LOCKED, False))


def ring(connection: Connection, names: Collection[str]) -> None:
    """Tell the other processes, once the transaction is committed, whose calls have ended."""
    if connection.dialect.name == "postgresql":
        for payload in _payloads(names):
            connection.execute(select(func.pg_notify(CHANNEL, payload)))


def _payloads(names: Collection[str]) -> Generator[str]:
    part: list[str] = []
    size = 0
    for name in names:
        # Escaped, a character is at most six bytes for each byte that it has.
        length = len(orjson.dumps(name)) + 1
        if part and size + length > _LONGEST_PAYLOAD:
            yield orjson.dumps(part).decode()
            part, size = [], 0
        part.append(name)
        size += length
    if part:
        yield orjson.dumps(part).decode()
