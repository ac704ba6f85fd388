"""Asking the store: by id, since a position, as a list, and forgetting what is finished."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, select_in
from store_support import database_of, in_thread, keep, never_late, put_of, store_in

from qmc_async.models import Conflict, Disconnected, UnknownNotification
from qmc_async.store import Kind, State, Store
from qmc_async.store.events import Listing
from qmc_async.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An open store in a file."""
    async with store_in(tmp_path) as store:
        yield store


async def _settle(store: Store, call_id: str, state: State, **fields: object) -> None:
    kept = await keep(store, body_of(call_id, **fields), {"handler": True})
    assert await store.settle(Outcome(kept.claims[0], state, failed=True, error="why"))


async def _ids(store: Store, **wanted: object) -> list[str]:
    listing = Listing(**({"limit": 100} | wanted))  # type: ignore[arg-type]  # as the test has it
    return [one.event_id for one in (await store.list_events(listing))[0]]


# --- by id -------------------------------------------------------------------------------------


async def test_find_by_both_ids(store: Store) -> None:
    """Only what was asked for, each under the id that was asked for, in one answer."""
    await keep(store, body_of("1", outCallId="one"))
    await keep(store, body_of("2"))
    await keep(store, body_of("3", outCallId="three"))
    by_call_id, by_ours = await store.find(["1", "2", "9", "one", ""], ["one", "three", "1", ""])
    assert {name: event.out_call_id for name, event in by_call_id.items()} == {
        "1": "one",
        "2": None,
    }
    assert {name: event.call_id for name, event in by_ours.items()} == {"one": "1", "three": "3"}
    assert await store.find() == ({}, {})


async def test_what_is_under_way(store: Store) -> None:
    """Who looks can tell what is being tried from what waits for another try."""
    kept = await keep(store, body_of(), {"handler": True})
    seen: list[tuple[bool, int]] = []
    for outcome in (None, Outcome(kept.claims[0], State.PENDING, delay=60, failed=True)):
        if outcome is not None:
            assert await store.settle(outcome)
        [event], _ = await store.list_events(Listing(limit=2))
        seen += [(one.is_leased, one.attempts) for one in event.deliveries]
    assert seen == [(True, 0), (False, 1)]


async def test_find_thousands(store: Store) -> None:
    """More ids than one statement takes."""
    for number in (0, 777, 1999):
        await keep(store, body_of(str(number), outCallId=f"order-{number}"))
    ids = [str(number) for number in range(2000)]
    by_call_id, by_ours = await store.find(ids, [f"order-{one}" for one in ids])
    assert list(by_call_id) == ["0", "777", "1999"]
    assert list(by_ours) == ["order-0", "order-777", "order-1999"]


async def test_two_calls_of_one_order(store: Store) -> None:
    """The one that was reported last is what an order's id stands for."""
    for call_id in "321":
        await keep(store, body_of(call_id, outCallId="order"))
    assert (await store.find([], ["order"]))[1]["order"].call_id == "1"


async def test_only_the_first_report_of_a_call_is_found(store: Store) -> None:
    """Neither its conflicts nor what cannot be decoded stands for the call's end."""
    await keep(store, body_of("1", status="Ringing", outCallId="one"))
    assert await store.find(["1"], ["one"]) == ({}, {})
    await keep(store, body_of("1", outCallId="one", reason="A"))
    await keep(store, body_of("1", outCallId="one", reason="B"))
    by_call_id, by_ours = await store.find(["1"], ["one"])
    found = by_call_id["1"], by_ours["one"]
    assert [isinstance(one, Disconnected) and one.reason for one in found] == ["A", "A"]


@pytest.mark.parametrize("name", ["\ud800", "a\udfff", "~", "\0", "x" * 5000, "'; --"])
async def test_ids_that_no_database_takes(store: Store, name: str) -> None:
    """They are simply not there; asking for them spoils nobody's answer."""
    await keep(store, body_of("1"))
    by_call_id, by_ours = await store.find([name, "1"], [name])
    assert list(by_call_id) == ["1"]
    assert not by_ours


# --- changes -----------------------------------------------------------------------------------


async def test_changes_of_another_process(store: Store, tmp_path: Path) -> None:
    """They show, and what this process does itself does not: it has told whom it concerns."""
    before = await store.changes()
    await keep(store, body_of("1"))
    assert await store.changes() == before
    async with store_in(tmp_path) as another:
        await keep(another, body_of("2"))
        after = await store.changes()
        assert after != before
        assert await store.changes() == after
    database = database_of(store)
    await in_thread(store, lambda _: None)
    marks = {await store.changes()}
    database.close()  # as after a failure
    assert await store.changes() not in marks | {before, after}


# --- lists -------------------------------------------------------------------------------------


async def test_list_everything(store: Store) -> None:
    """Newest first, with the event as it is read today, and its deliveries by handler."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    await keep(store, body_of("1", reason="A"), {"b": True, "a": False})
    await keep(store, body_of("1", reason="B"))
    await store.keep(put_of(b"?", {}, problem="cut off"), never_late)
    (unknown, conflict, first), position = await store.list_events(Listing(limit=10))
    assert position == 0
    assert isinstance(unknown.event, UnknownNotification)
    assert (unknown.kind, unknown.body, unknown.problem) == (Kind.UNKNOWN, b"?", "cut off")
    assert unknown.routed
    assert isinstance(conflict.event, Conflict)
    assert (conflict.kind, conflict.routed, conflict.deliveries) == (Kind.CONFLICT, False, [])
    assert conflict.event.first is not None
    assert (conflict.event.first.reason, conflict.event.second.reason) == ("A", "B")
    assert isinstance(first.event, Disconnected)
    assert before <= first.first_seen <= datetime.now(UTC)
    assert [(one.handler, one.state, one.attempts) for one in first.deliveries] == [
        ("a", State.PENDING, 0),
        ("b", State.PENDING, 0),
    ]
    leased = first.deliveries[1].due_at
    assert leased is not None
    assert leased > first.deliveries[1].changed_at


async def test_list_in_pages(store: Store) -> None:
    """From one page to the next, each event once, and a clear end."""
    for number in range(7):
        await keep(store, body_of(str(number)))
    pages: list[list[str]] = []
    before: int | None = None
    while before != 0:
        page, before = await store.list_events(Listing(limit=3, before=before))
        pages.append([one.event_id for one in page])
    assert [one for page in pages for one in page] == list("6543210")
    assert all(len(page) <= 3 for page in pages)
    assert await store.list_events(Listing(limit=0)) == ([], 0)


async def test_list_by_identifier(store: Store) -> None:
    """By call id with all that concerns the call, by our id, by the event's own; exactly."""
    await keep(store, body_of("1", outCallId="one"))
    await keep(store, body_of("1", reason="Other"))
    await keep(store, body_of("1", status="Ringing"))
    await keep(store, body_of("11", outCallId="1"))
    await keep(store, body_of("a~b"))
    await keep(store, b"?")
    everything = await _ids(store)
    assert len(everything) == 6
    nameless, odd, eleven, *_ = everything
    assert sorted(await _ids(store, identifier="1")) == sorted(set(everything) - {nameless, odd})
    assert await _ids(store, identifier="one") == ["1"]
    assert await _ids(store, identifier="11") == [eleven]
    assert await _ids(store, identifier="a~b") == [odd]
    for event_id in everything[:2]:
        assert await _ids(store, identifier=event_id) == [event_id]
    assert await _ids(store, identifier="o") == []


async def test_list_by_kind_and_state(store: Store) -> None:
    """Each filter alone, and all together."""
    await _settle(store, "done", State.DONE)
    await _settle(store, "dead", State.DEAD)
    await keep(store, body_of("pending"), {"handler": False})
    await keep(store, body_of("dead", reason="Other"))
    await keep(store, b"?")
    assert await _ids(store, kind=Kind.DISCONNECTED) == ["pending", "dead", "done"]
    assert len(await _ids(store, kind=Kind.CONFLICT)) == 1
    assert len(await _ids(store, kind=Kind.UNKNOWN)) == 1
    for state in State:
        assert await _ids(store, state=state) == [str(state)]
    assert await _ids(store, state=State.DEAD, kind=Kind.DISCONNECTED, identifier="dead") == [
        "dead"
    ]
    assert await _ids(store, state=State.DEAD, kind=Kind.CONFLICT) == []


async def test_list_since(store: Store) -> None:
    """Only what came at that time or later."""
    for time in (1000, 2000, 3000):
        await store.keep(put_of(body_of(str(time)), received_at=time), never_late)
    assert await _ids(store, since=2000) == ["3000", "2000"]


async def test_list_more_than_one_statement_takes(store: Store, tmp_path: Path) -> None:
    """The deliveries of every event come along."""
    await keep(store, body_of("first"), {"handler": False})
    with closing(sqlite3.connect(tmp_path / "qmc.db", timeout=30)) as file, file:
        for n in range(700):
            file.execute(
                "INSERT INTO qmc_events SELECT NULL, ?, kind, NULL, 0, '', '', body, 1"
                " FROM qmc_events WHERE event_id = 'first'",
                (str(n),),
            )
            file.execute(
                "INSERT INTO qmc_deliveries SELECT ?, handler, state, 0, 0, NULL, 1, 1, ''"
                " FROM qmc_deliveries WHERE event_id = 'first'",
                (str(n),),
            )
    found, _ = await store.list_events(Listing(limit=1000))
    assert len(found) == 701
    assert all(len(one.deliveries) == 1 for one in found)


# --- purge -------------------------------------------------------------------------------------


async def test_purge(store: Store, tmp_path: Path) -> None:
    """Only what is finished and came before; nothing dead, pending or not yet routed."""
    await _settle(store, "done", State.DONE)
    await _settle(store, "dead", State.DEAD)
    await keep(store, body_of("pending"), {"handler": False})
    await keep(store, body_of("nobody's"), {})
    await keep(store, body_of("unrouted"), None)
    assert await store.purge(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await store.purge(datetime.now(UTC) + timedelta(hours=1)) == 2
    assert await _ids(store) == ["unrouted", "pending", "dead"]
    query = "SELECT event_id FROM qmc_deliveries ORDER BY event_id"
    assert select_in(tmp_path, query) == [("dead",), ("pending",)]
    assert (await keep(store, body_of("done"), {})).kind is Kind.DISCONNECTED


async def test_purge_thousands(store: Store, tmp_path: Path) -> None:
    """Many small transactions, and the count of all."""
    await keep(store, body_of("first"), {})
    with closing(sqlite3.connect(tmp_path / "qmc.db", timeout=30)) as file, file:
        file.executemany(
            "INSERT INTO qmc_events SELECT NULL, ?, kind, NULL, 0, '', '', body, 1"
            " FROM qmc_events WHERE event_id = 'first'",
            [(str(n),) for n in range(1300)],
        )
    assert await store.purge(datetime.now(UTC) + timedelta(hours=1)) == 1301
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(0,)]
