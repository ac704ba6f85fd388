"""A report is of one call: where an `out_call_id` was used again, it ends no other.

The platform's answer was lost for these calls, so that only the `out_call_id` tells.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, select_in
from ledger_support import opening, place
from store_support import keep, never_late, put_of, store_in

from qmc_async import CallState
from qmc_async.models import BEIJING
from qmc_async.store.ledger import Opening, Settlement

if TYPE_CHECKING:
    from pathlib import Path

    from qmc_async.store import Store

CALLS = "SELECT state, call_id, due_at IS NOT NULL FROM qmc_calls ORDER BY seq"
DAY = 86_400_000  # milliseconds


async def _again(store: Store, state: CallState | None = CallState.UNKNOWN) -> Opening:
    """Use the id of `order-1` for a second call, of which no answer is known."""
    two = opening("order-1", "2", again=True)
    assert await store.open_entry(two) is None
    if state is not None:
        await store.settle_entry(Settlement(opening=two, state=state))
    return two


async def _settle(store: Store, folder: Path) -> list[tuple[object, ...]]:
    """Have the ends that are known written down, and tell what is."""
    select_in(folder, "UPDATE qmc_calls SET due_at = 1 WHERE due_at IS NOT NULL")
    await store.look_for_overdue(10)
    return select_in(folder, CALLS)


async def test_a_call_after_one_that_was_reported(tmp_path: Path) -> None:
    """The first one's report does not end the second, which is still looked for."""
    async with store_in(tmp_path) as store:
        await place(store, None, state=CallState.UNKNOWN)
        await keep(store, body_of("111", outCallId="order-1"))
        select_in(tmp_path, "UPDATE qmc_events SET received_at = received_at + 5")
        await _again(store)
        select_in(tmp_path, "UPDATE qmc_calls SET placed_at = placed_at + 10 WHERE seq = 2")
        assert await _settle(store, tmp_path) == [("ended", "111", 0), ("unknown", None, 1)]
        await keep(store, body_of("222", outCallId="order-1"))
        select_in(tmp_path, "UPDATE qmc_events SET received_at = received_at + 100 WHERE seq = 2")
        rows = await _settle(store, tmp_path)
    assert rows == [("ended", "111", 0), ("ended", "222", 0)]


async def test_a_report_from_long_ago(tmp_path: Path) -> None:
    """Before there was a ledger, an id could be used as often as one liked."""
    async with store_in(tmp_path) as store:
        put = put_of(body_of("old", outCallId="order-1"), {}, received_at=1_690_000_000_000)
        assert await store.keep(put, never_late) is not None
        await place(store, None, state=CallState.UNKNOWN)
        rows = await _settle(store, tmp_path)
    assert rows == [("unknown", None, 1)]


async def test_two_calls_and_one_report(tmp_path: Path) -> None:
    """One of them has ended, and the other is looked for."""
    async with store_in(tmp_path) as store:
        await place(store, None, state=CallState.UNKNOWN)
        await _again(store)
        await keep(store, body_of("222", outCallId="order-1"))
        rows = await _settle(store, tmp_path)
    assert rows == [("unknown", None, 1), ("ended", "222", 0)]


async def test_a_report_that_overtakes_the_answer(tmp_path: Path) -> None:
    """It is the later call's, whose answer is still on its way: the earlier one is looked for."""
    async with store_in(tmp_path) as store:
        await place(store, None, state=CallState.UNKNOWN)
        two = await _again(store, state=None)
        await keep(store, body_of("222", outCallId="order-1"))
        await store.purge(datetime.now(BEIJING) - timedelta(days=1))
        await store.settle_entry(Settlement(opening=two, state=CallState.PLACED, call_id="222"))
        rows = await _settle(store, tmp_path)
    assert rows == [("unknown", None, 1), ("ended", "222", 0)]


@pytest.mark.parametrize("behind", [0, 1000, 2 * DAY])
async def test_a_clock_that_is_behind(behind: int, tmp_path: Path) -> None:
    """Who received the report may have thought it earlier: it ends the call all the same."""
    async with store_in(tmp_path) as store:
        await place(store, None, state=CallState.UNKNOWN)
        await keep(store, body_of("111", outCallId="order-1"))
        select_in(tmp_path, "UPDATE qmc_events SET received_at = received_at - ?", behind)
        rows = await _settle(store, tmp_path)
    assert rows == [("ended", "111", 0)]


async def test_a_call_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken row keeps no other call from being looked for; that it is broken is told."""
    async with store_in(tmp_path) as store:
        await place(store, "bad", "order-bad")
        select_in(tmp_path, "UPDATE qmc_calls SET changed_at = ?", 2**62)
        await place(store, "good", "order-good")
        select_in(tmp_path, "UPDATE qmc_calls SET due_at = 1")
        found = await store.look_for_overdue(10)
        assert [look.entry.call_id for look in found.looks] == ["good"]
        assert "the call order-bad cannot be read" in caplog.text
        assert (await store.look_for_overdue(10)).looks == []
