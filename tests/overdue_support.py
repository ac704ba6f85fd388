"""What the conformance tests of overdue calls share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger_support import place

from qmc_async import CallState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from database_servers import TestDatabase

    from qmc_async.store import Store
    from qmc_async.store.records import Look

HOUR = 3_600_000  # milliseconds
CALLS = "SELECT entry_id, state, fence, looks, due_at IS NOT NULL FROM qmc_calls ORDER BY seq"
EVENTS = "SELECT event_id, kind, out_call_id, routed FROM qmc_events ORDER BY seq"


def let_calls_pass(database: TestDatabase, seconds: float = 2 * 3600) -> None:
    """Make all calls, and their leases, so much older."""
    database.execute(
        "UPDATE qmc_calls SET placed_at = placed_at - ?, due_at = due_at - ?",
        *[int(seconds * 1000)] * 2,
    )


async def place_overdue(
    store: Store, database: TestDatabase, call_id: str | None = "4711", ours: str = "order-1"
) -> None:
    """Write down a call whose deadline has passed."""
    state = CallState.UNKNOWN if call_id is None else CallState.PLACED
    await place(store, call_id, ours, state=state, missing_after=HOUR)
    let_calls_pass(database)


async def look_in(store: Store, limit: int = 10) -> Sequence[Look]:
    """Lease what is overdue."""
    return (await store.look_for_overdue(limit)).looks


async def only_look(store: Store) -> Look:
    """The same, where one call is."""
    [look] = await look_in(store)
    return look
