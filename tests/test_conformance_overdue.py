"""Calls whose deadline has passed, on each database: leased, looked for, and settled once."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest
from conformance import in_one_go, in_transaction, on_servers, replica, rows_in
from ledger_support import HOSTILE_IDS, opening, place
from overdue_support import (
    CALLS,
    EVENTS,
    HOUR,
    let_calls_pass,
    look_in,
    only_look,
    place_overdue,
)

from qmc_async import CallState, Overdue
from qmc_async.store import Store, overdue
from qmc_async.store.ledger import Settlement
from qmc_async.store.records import LEASE, Poll, Verdict, from_milliseconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection


MISSING, INFERRED = CallState.MISSING, CallState.INFERRED


@pytest.fixture
async def store(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store."""
    async with replica(database, tmp_path) as store:
        yield store


@pytest.fixture
async def another(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    """Another replica's."""
    async with replica(database, tmp_path, "another") as another:
        yield another


# --- leases ------------------------------------------------------------------------------------


async def test_a_look_is_leased(store: Store, another: Store, database: TestDatabase) -> None:
    """Nobody else gets the call until the lease has ended; then it has a higher fence."""
    await place_overdue(store, database)
    look = await only_look(store)
    assert (look.entry.call_id, look.entry.out_call_id) == ("4711", "order-1")
    assert (look.entry_id, look.fence, look.looks, look.is_last) == ("order-1", 1, 0, False)
    assert look.entry.state is CallState.PLACED
    for one in (store, another):
        assert await look_in(one) == []
    let_calls_pass(database, LEASE - 10)
    assert await look_in(another) == []
    let_calls_pass(database, 20)
    assert (await only_look(another)).fence == 2
    assert rows_in(database, CALLS) == [("order-1", "placed", 2, 0, 1)]


async def test_nothing_before_the_deadline(store: Store, database: TestDatabase) -> None:
    """What may yet be reported in time, and what needs no report, is not looked for."""
    await place(store, "1", "in time", missing_after=HOUR)
    await place(store, None, "refused", state=CallState.REFUSED, missing_after=HOUR)
    let_calls_pass(database, 3500)
    assert await look_in(store) == []
    let_calls_pass(database, 200)
    assert [look.entry_id for look in await look_in(store)] == ["in time"]


async def test_a_limit(store: Store, database: TestDatabase) -> None:
    """No more are leased than were asked for, those that wait longest first; it is told."""
    for number in range(5):
        await place_overdue(store, database, str(number), f"order-{number}")
    found = await store.look_for_overdue(2)
    assert ([look.entry.call_id for look in found.looks], found.are_all) == (["0", "1"], False)
    found = await store.look_for_overdue(4)
    assert ([look.entry.call_id for look in found.looks], found.are_all) == (["2", "3", "4"], True)


async def test_two_that_look_at_once(store: Store, another: Store, database: TestDatabase) -> None:
    """Each call is leased to one of them, and none is left."""
    for number in range(40):
        await place(store, str(number), f"order-{number}", missing_after=HOUR)
    let_calls_pass(database)
    looks = [
        look
        for some in await in_one_go({one: [partial(look_in, one)] * 4 for one in (store, another)})
        for look in some
    ]
    looks += await look_in(store, 100)  # what one of them had locked, the other passed over
    assert sorted(look.entry.call_id or "" for look in looks) == sorted(map(str, range(40)))
    assert {fence for _, _, fence, _, _ in rows_in(database, CALLS)} == {1}


@on_servers
async def test_one_that_looks_while_another_does(
    store: Store, another: Store, database: TestDatabase
) -> None:
    """What is being leased is passed over, whether it can be seen or must be waited for."""
    for number in range(4):
        await place_overdue(store, database, str(number), f"order-{number}")

    def lease(connection: Connection) -> object:
        return overdue.look_for_overdue(connection, [2])

    async with in_transaction(store, lease):
        looking = asyncio.ensure_future(look_in(another))
    assert [look.entry.call_id for look in await looking] == ["2", "3"]


# --- settled -----------------------------------------------------------------------------------


async def test_a_verdict(store: Store, database: TestDatabase) -> None:
    """The call is settled and there is one event of it, for whoever knows the handlers."""
    events: dict[str, Overdue] = {}
    for call_id, outcome in (("1", INFERRED), ("2", MISSING)):
        await place_overdue(store, database, call_id, f"order-{call_id}")
        look = await only_look(store)
        assert await store.settle_overdue(Verdict(look, outcome))
        events[f"{call_id}~missing"] = Overdue(
            out_call_id=f"order-{call_id}",
            call_id=call_id,
            placed_at=look.entry.placed_at,
            outcome=outcome,
        )
        entry = await store.ledger_entry(call_id=call_id)
        assert entry is not None
        assert entry.state is outcome
        query = (
            "SELECT changed_at, received_at FROM qmc_calls JOIN qmc_events"
            " ON entry_id = qmc_events.out_call_id WHERE entry_id = ?"
        )
        [(changed_at, received_at)] = rows_in(database, query, f"order-{call_id}")
        assert entry.changed_at == from_milliseconds(changed_at) == from_milliseconds(received_at)
    assert rows_in(database, CALLS) == [
        ("order-1", "inferred", 1, 0, 0),
        ("order-2", "missing", 1, 0, 0),
    ]
    assert rows_in(database, EVENTS) == [
        ("1~missing", "missing", "order-1", 0),
        ("2~missing", "missing", "order-2", 0),
    ]
    assert (await store.poll(Poll("us", {}))).unrouted == events
    let_calls_pass(database)
    assert await look_in(store) == []
    assert await store.count_overdue() == 0


async def test_a_verdict_is_given_once(
    store: Store, another: Store, database: TestDatabase
) -> None:
    """A second one changes nothing, not even in the same transaction, and not of another sort."""
    await place_overdue(store, database)
    look = await only_look(store)
    works = [
        partial(one.settle_overdue, Verdict(look, outcome))
        for one in (store, another)
        for outcome in (INFERRED, MISSING)
    ]
    done = await in_one_go({store: works[:2], another: works[2:]})
    assert sum(done) == 1
    for outcome in (INFERRED, MISSING, None):
        assert not await another.settle_overdue(Verdict(look, outcome))
    [(_, state, *_)] = rows_in(database, CALLS)
    expected = INFERRED if done[0] or done[2] else MISSING
    assert state == expected
    assert len(rows_in(database, EVENTS)) == 1
    [event] = (await store.poll(Poll("us", {}))).unrouted.values()
    assert isinstance(event, Overdue)
    assert event.outcome is expected


async def test_a_stale_fence(store: Store, another: Store, database: TestDatabase) -> None:
    """Whoever took longer than the lease settles nothing; whoever has it now does."""
    await place_overdue(store, database)
    late = await only_look(store)
    let_calls_pass(database, LEASE + 10)
    now = await only_look(another)
    for outcome in (INFERRED, MISSING, None):
        assert not await store.settle_overdue(Verdict(late, outcome))
    assert rows_in(database, CALLS) == [("order-1", "placed", 2, 0, 1)]
    assert rows_in(database, EVENTS) == []
    assert await another.settle_overdue(Verdict(now, INFERRED))
    assert rows_in(database, CALLS) == [("order-1", "inferred", 2, 0, 0)]


async def test_to_look_again(store: Store, another: Store, database: TestDatabase) -> None:
    """It is due after the delay, for any replica, and how often that was is counted."""
    await place_overdue(store, database)
    for looks in range(3):
        look = await only_look((store, another)[looks % 2])
        assert look.looks == looks
        assert not await store.settle_overdue(Verdict(look, None, delay=600.0))
        let_calls_pass(database, 590)
        assert await look_in(store) == []
        let_calls_pass(database, 20)
    assert rows_in(database, CALLS) == [("order-1", "placed", 3, 3, 1)]
    assert rows_in(database, EVENTS) == []


async def test_the_last_look(store: Store, database: TestDatabase) -> None:
    """It is the last once three days have passed since the call was placed."""
    await place_overdue(store, database)
    let_calls_pass(database, 3 * 86400 - 2 * 3600 - 100)
    assert not (await only_look(store)).is_last
    let_calls_pass(database, 200)
    assert (await only_look(store)).is_last


async def test_any_id(store: Store, database: TestDatabase) -> None:
    """Whatever a database may think of it: each has its event, and is found by either id."""
    ids = {f"call {ours}": ours for ours in HOSTILE_IDS}
    for call_id, ours in ids.items():
        await place(store, call_id, ours, missing_after=HOUR)
    let_calls_pass(database)
    looks = await look_in(store, 100)
    assert [look.entry.out_call_id for look in looks] == list(ids.values())
    for look in looks:
        assert await store.settle_overdue(Verdict(look, MISSING))
    by_call_id, by_ours = await store.find([*ids, "x"], [*ids.values(), "x"])
    found = {call_id: event.out_call_id for call_id, event in by_call_id.items()}
    assert found == ids
    assert {event.call_id: ours for ours, event in by_ours.items()} == ids


async def test_two_without_a_call_id(store: Store, database: TestDatabase) -> None:
    """Each has an event of its own, although neither has an id to name it by."""
    for ours in ("order-1", "order-2"):
        await place_overdue(store, database, None, ours)
    for look in await look_in(store):
        assert look.entry.call_id is None
        assert await store.settle_overdue(Verdict(look, MISSING))
    ids = [(row[0][:1], len(row[0]), row[2]) for row in rows_in(database, EVENTS)]
    assert ids == [("~", 33, "order-1"), ("~", 33, "order-2")]
    _, found = await store.find((), ["order-1", "order-2", "order-3"])
    assert {ours: event.out_call_id for ours, event in found.items()} == {
        "order-1": "order-1",
        "order-2": "order-2",
    }


async def test_two_calls_with_one_call_id(store: Store, database: TestDatabase) -> None:
    """A platform that gives an id twice: both calls are settled, and there is one event."""
    for ours in ("order-1", "order-2"):
        await place_overdue(store, database, "4711", ours)
    for look in await look_in(store):
        assert await store.settle_overdue(Verdict(look, MISSING))
    assert [row[1] for row in rows_in(database, CALLS)] == ["missing"] * 2
    assert rows_in(database, EVENTS) == [("4711~missing", "missing", "order-1", 0)]


# --- calls that are being placed ---------------------------------------------------------------


async def test_a_call_that_is_being_placed(store: Store, database: TestDatabase) -> None:
    """However short the deadline is, it is not looked for while its reply may be on the way."""
    assert await store.open_entry(opening(missing_after=1)) is None
    let_calls_pass(database, 50)
    assert await look_in(store) == []
    let_calls_pass(database, 20)
    assert (await only_look(store)).entry.state is CallState.PLACING


@pytest.mark.parametrize("outcome", [MISSING, None])
async def test_a_call_that_is_placed_meanwhile(
    store: Store, another: Store, database: TestDatabase, outcome: CallState | None
) -> None:
    """What becomes known of it after the look decides: it has a deadline of its own."""
    one = opening(missing_after=HOUR)
    assert await store.open_entry(one) is None
    let_calls_pass(database)
    look = await only_look(another)
    await store.settle_entry(Settlement(opening=one, state=CallState.PLACED, call_id="4711"))
    before = database.select("SELECT * FROM qmc_calls")
    assert not await another.settle_overdue(Verdict(look, outcome))
    assert database.select("SELECT * FROM qmc_calls") == before
    assert rows_in(database, EVENTS) == []
    assert await look_in(another) == []
    let_calls_pass(database)
    assert (await only_look(another)).entry.call_id == "4711"
