"""A store with many events in it, written past our code: that would take too long."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from notifications import FACTOR, bodies

from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["fill", "parts"]

_AT_ONCE: Final = 50_000
_EVENT: Final = (
    "INSERT INTO qmc_events (event_id, kind, out_call_id, received_at, receipt_id, problem, body,"
    " routed) VALUES (?, 'disconnected', ?, ?, ?, '', ?, 1)"
)
_DELIVERY: Final = (
    "INSERT INTO qmc_deliveries (event_id, handler, state, attempts, fence, due_at, changed_at,"
    " error) VALUES (?, 'keep', ?, ?, ?, ?, ?, '')"
)


def fill(file: Path, count: int, *, is_handled: bool, step: Callable[[], None]) -> str:
    """Make a store with so many events, each with one delivery.

    Args:
        file: the database, which is not there yet.
        count: how many.
        is_handled: whether the handler has run; else it is due.
        step: called for each part that is done.

    Returns:
        Its URL.
    """
    url = f"sqlite:///{file}"
    asyncio.run(_make(url))
    now = time.time_ns() // 1_000_000
    state = ("done", 1, 1, None) if is_handled else ("pending", 0, 0, now)
    [body] = bodies(1)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        for first in range(0, count, _AT_ONCE):
            numbers = range(first + 1, min(first + _AT_ONCE, count) + 1)
            ids = [f"{number * FACTOR % 2**128:032x}" for number in numbers]
            connection.execute("BEGIN")
            connection.executemany(
                _EVENT,
                (
                    (one, f"old-{number}", now - count + number, f"{number:032x}", body)
                    for one, number in zip(ids, numbers, strict=True)
                ),
            )
            connection.executemany(_DELIVERY, ((one, *state, now) for one in ids))
            connection.execute("COMMIT")
            step()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return url


def parts(count: int) -> int:
    """How many parts `fill` makes of so many."""
    return -(-count // _AT_ONCE)


async def _make(url: str) -> None:
    async with Store(url):
        pass
