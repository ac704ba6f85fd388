"""The events of calls that nobody reported, as the store keeps them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from callback_peer import Seen, body_of, post_to, select_in, until, url_in
from events_store import qmc
from faulty_platform import FaultyPlatform
from ledger_support import opening, place, states_in
from store_support import keep, store_in
from watchdog_support import KINDS, SILENT, hurry_watchdog, make_overdue, watched

from qmc_async import CallbackServer, CallState
from qmc_async.models import BEIJING
from qmc_async.store import State, Store
from qmc_async.store.ledger import Settlement
from qmc_async.store.records import Outcome, Poll, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from qmc_async.store.records import Look

BROKEN = (
    b"",
    b"[]",
    b"{}",
    b'{"out_call_id": "order-1", "call_id": "4711", "placed_at": 1, "outcome": "missing"}',
    b'{"out_call_id": "order-1", "call_id": "4711", "placed_at": "2026-01-01", "outcome": "new"}',
)


async def _give_up(store: Store, folder: Path) -> None:
    """Settle the one call that is overdue, as the watchdog does."""
    make_overdue(folder)
    assert await store.settle_overdue(Verdict(await _look(store), CallState.MISSING))


async def _look(store: Store) -> Look:
    [look] = (await store.look_for_overdue(10)).looks
    return look


@pytest.mark.parametrize("body", BROKEN)
async def test_one_that_cannot_be_read(
    body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in nobody's way: other events are handled, the list is shown, waiters wait on."""
    hurry_watchdog(monkeypatch)
    async with store_in(tmp_path) as store:
        await place(store)
        await _give_up(store, tmp_path)
        select_in(tmp_path, "UPDATE qmc_events SET body = ?", body)
        await keep(store, body_of("4712"))  # nobody has looked up its handlers, either
    seen = Seen()
    server = CallbackServer(port=0, store=Store(url_in(tmp_path), patience=30))
    server.on_disconnected(seen.handler("ended"))
    async with server:
        await until(lambda: seen.all)
        for way in ({"call": "4711"}, {"out_call_id": "order-1"}):
            with pytest.raises(TimeoutError):
                await server.wait_for(**way, timeout=0.05)
        await post_to(server, body_of("4711", outCallId="order-1"))
        assert (await server.wait_for("4711", timeout=30)).call_id == "4711"
    listed = await asyncio.to_thread(qmc, tmp_path, "list")
    assert listed.exit_code == 0, listed.output
    assert "4711~missing" in listed.stdout


async def test_one_without_a_handler_is_purged(tmp_path: Path) -> None:
    """Where nobody has a handler for it, it does not stay for ever."""
    async with store_in(tmp_path) as store:
        await place(store)
        await _give_up(store, tmp_path)
        assert len(select_in(tmp_path, KINDS)) == 1
        assert await store.purge(datetime.now(BEIJING) + timedelta(minutes=1)) == 1
    assert select_in(tmp_path, KINDS) == []


async def test_an_answer_that_is_written_down_after_it_was_given_up(tmp_path: Path) -> None:
    """The platform's id is kept, so that the notification still finds its call."""
    async with store_in(tmp_path) as store:
        one = opening("order-1")
        assert await store.open_entry(one) is None
        select_in(tmp_path, "UPDATE qmc_calls SET placed_at = placed_at - 3600000")
        await _give_up(store, tmp_path)
        await store.settle_entry(Settlement(opening=one, state=CallState.PLACED, call_id="4711"))
        assert states_in(tmp_path) == {"order-1": "missing"}
        entry = await store.ledger_entry(call_id="4711")
        assert entry is not None
        assert (entry.out_call_id, entry.state) == ("order-1", CallState.MISSING)
        await keep(store, body_of("4711"))  # which need not repeat our id
        entry = await store.ledger_entry(out_call_id="order-1")
        assert entry is not None
        assert entry.state is CallState.ENDED


async def test_one_that_was_lost_with_a_file(tmp_path: Path) -> None:
    """Written down again by whoever was handling it, it is found by both ids as before."""
    async with store_in(tmp_path) as store:
        await place(store)
        await _give_up(store, tmp_path)
        await store.route({"4711~missing": ["crm"]})
        [claim] = (await store.poll(Poll("us", {"crm": 1}, frozenset(), 0))).claims
        before = select_in(tmp_path, "SELECT event_id, kind, out_call_id, body FROM qmc_events")
        select_in(tmp_path, "DELETE FROM qmc_deliveries")
        select_in(tmp_path, "DELETE FROM qmc_events")
        assert await store.settle(Outcome(claim, State.DONE))
        after = select_in(tmp_path, "SELECT event_id, kind, out_call_id, body FROM qmc_events")
    assert after == before


async def test_an_id_whose_last_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That an earlier call under it was given up does not end the wait for the later one."""
    hurry_watchdog(monkeypatch)
    async with FaultyPlatform(SILENT) as platform, watched(tmp_path, platform.url) as there:
        await there.overdue("1")
        await until(lambda: there.seen.all)
        await there.place("2", again=True)
        with pytest.raises(TimeoutError):
            await there.server.wait_for(out_call_id="order-1", timeout=0.1)
        await post_to(there.server, body_of("2", outCallId="order-1"))
        event = await there.server.wait_for(out_call_id="order-1", timeout=30)
    assert event.call_id == "2"


async def test_a_call_whose_answer_was_lost(tmp_path: Path) -> None:
    """Once it is reported, the ledger finds it by the platform's id, which the report alone has."""
    async with store_in(tmp_path) as store:
        await place(store, None, state=CallState.UNKNOWN)
        assert await store.ledger_entry(call_id="4711") is None
        await keep(store, body_of("4711", outCallId="order-1"))
        entry = await store.ledger_entry(call_id="4711")
    assert entry is not None
    assert (entry.out_call_id, entry.call_id, entry.state) == ("order-1", "4711", CallState.ENDED)
