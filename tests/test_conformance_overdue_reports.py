"""Overdue calls and their notifications, on each database: the report wins, purged or not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import pytest
from callback_peer import body_of
from conformance import in_transaction, on_servers, replica, rows_in
from ledger_support import opening, place
from overdue_support import (
    CALLS,
    EVENTS,
    HOUR,
    let_calls_pass,
    look_in,
    only_look,
    place_overdue,
)
from store_support import keep

from qmc_async import CallState, Disconnected, Overdue
from qmc_async.store import Store, overdue
from qmc_async.store.records import LONGEST_DELAY, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

    from qmc_async.store.records import Look

MISSING = CallState.MISSING


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


# --- notifications -----------------------------------------------------------------------------


async def _overdue_pair(store: Store, database: TestDatabase) -> None:
    """Two overdue calls: of one the id is known, of the other it is not."""
    await place_overdue(store, database, "1", "order-1")
    await place_overdue(store, database, None, "order-2")


async def _report(store: Store) -> None:
    """Keep the notifications of both."""
    for number in "12":
        await keep(store, body_of(number, outCallId=f"order-{number}"), {})


REPORTED = [(str(number), "disconnected", f"order-{number}", 1) for number in (1, 2)]


async def test_what_was_reported(store: Store, database: TestDatabase) -> None:
    """It is no look: the ledger has its end from now on, with the time and the id of it."""
    await _overdue_pair(store, database)
    await _report(store)
    assert await store.count_overdue() == 0
    assert await look_in(store) == []
    rows = rows_in(
        database,
        "SELECT entry_id, state, due_at, call_id, call_key, changed_at - received_at"
        " FROM qmc_calls JOIN qmc_events ON event_id = call_key ORDER BY entry_id",
    )
    assert rows == [
        ("order-1", "ended", None, "1", "1", 0),
        ("order-2", "ended", None, "2", "2", 0),
    ]


async def test_what_is_reported_meanwhile(
    store: Store, another: Store, database: TestDatabase
) -> None:
    """Between the look and its verdict: the call is ended, and there is no event but its own."""
    await _overdue_pair(store, database)
    looks = await look_in(store)
    await _report(another)
    for look in looks:
        assert not await store.settle_overdue(Verdict(look, MISSING))
    assert rows_in(database, CALLS) == [
        ("order-1", "ended", 1, 0, 0),
        ("order-2", "ended", 1, 0, 0),
    ]
    assert rows_in(database, EVENTS) == REPORTED


async def test_what_is_reported_later(store: Store, another: Store, database: TestDatabase) -> None:
    """Until then either id leads to the event of it, from then on to the report."""
    await _overdue_pair(store, database)
    for look in await look_in(store):
        await store.settle_overdue(Verdict(look, MISSING))
    by_call_id, by_ours = await another.find("12", ["order-1", "order-2"])
    assert by_call_id.keys() == {"1"}
    assert by_ours.keys() == {"order-1", "order-2"}
    found = [*by_call_id.values(), *by_ours.values()]
    assert all(isinstance(event, Overdue) for event in found)
    await _report(store)
    by_call_id, by_ours = await another.find("12", ["order-1", "order-2"])
    found = [*by_call_id.values(), *by_ours.values()]
    assert [event.call_id for event in found] == ["1", "2"] * 2
    assert all(isinstance(event, Disconnected) for event in found)
    for number in "12":
        entry = await another.ledger_entry(out_call_id=f"order-{number}")
        assert entry is not None
        assert (entry.state, entry.call_id) == (CallState.ENDED, number)


async def test_an_id_that_was_used_again(store: Store, database: TestDatabase) -> None:
    """The end of one call under an id is not the end of the other."""
    await place(store, "1", missing_after=HOUR)
    await place(store, "2", again=True, missing_after=HOUR)
    let_calls_pass(database)
    await keep(store, body_of("2", outCallId="order-1"))
    look = await only_look(store)
    assert look.entry.call_id == "1"
    assert await store.settle_overdue(Verdict(look, MISSING))
    _, found = await store.find((), ["order-1"])
    assert found["order-1"].call_id == "2"


# --- purged ------------------------------------------------------------------------------------


async def _purge_all(store: Store) -> int:
    return await store.purge(datetime.now(UTC) + timedelta(days=1))


async def test_a_report_that_is_purged(store: Store, database: TestDatabase) -> None:
    """The call does not seem to be missing without it, although it was placed after that."""
    await _overdue_pair(store, database)
    await _report(store)
    database.execute("UPDATE qmc_events SET received_at = received_at - ?", 24 * HOUR)
    assert await store.purge(datetime.now(UTC) - timedelta(hours=20)) == 2
    assert rows_in(database, EVENTS) == []
    assert rows_in(database, CALLS) == [
        ("order-1", "ended", 0, 0, 0),
        ("order-2", "ended", 0, 0, 0),
    ]
    assert await look_in(store) == []


async def test_a_report_that_is_purged_during_the_look(
    store: Store, database: TestDatabase
) -> None:
    """The verdict of a look that had begun before says nothing any more."""
    await place_overdue(store, database)
    look = await only_look(store)
    await keep(store, body_of(), {})
    assert await _purge_all(store) == 1
    assert not await store.settle_overdue(Verdict(look, MISSING))
    assert rows_in(database, EVENTS) == []


async def test_what_is_purged(store: Store, database: TestDatabase) -> None:
    """A call that is settled goes; one that is still waited for stays, as does its dead letter."""
    for number in range(3):
        await place_overdue(store, database, str(number), f"order-{number}")
    for look in (await look_in(store))[:2]:
        assert await store.settle_overdue(Verdict(look, MISSING))
    await store.route({"0~missing": [], "1~missing": ["a"]})
    assert await _purge_all(store) == 1
    assert [row[0] for row in rows_in(database, EVENTS)] == ["1~missing"]
    assert [row[0] for row in rows_in(database, CALLS)] == ["order-2"]


async def test_more_reports_than_are_told_at_once(
    store: Store, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All calls are told from each other before the reports of them are purged, page by page."""
    monkeypatch.setattr("qmc_async.store.overdue.CHUNK", 7)
    numbers = range(21)
    for one in numbers:
        assert await store.open_entry(opening(f"order-{one}", str(one), missing_after=HOUR)) is None
        if one % 10:
            await keep(store, body_of(str(one), outCallId=f"order-{one}"), {})
    let_calls_pass(database)
    assert await store.count_overdue() == 3
    database.execute("UPDATE qmc_calls SET placed_at = placed_at + ?", 48 * HOUR)
    assert await _purge_all(store) == 18
    counts = rows_in(database, "SELECT state, count(*) FROM qmc_calls GROUP BY state ORDER BY 1")
    assert counts == [("ended", 18), ("placing", 3)]


@on_servers
async def test_a_purge_while_another_looks(
    store: Store, another: Store, database: TestDatabase
) -> None:
    """A report that comes as the call is being leased is not purged before it has settled it."""
    await place_overdue(store, database)

    def lease(connection: Connection) -> Sequence[Look]:
        return overdue.look_for_overdue(connection, [1])[0].looks

    async with in_transaction(store, lease) as leased:
        await keep(another, body_of(), {})
        purging = asyncio.ensure_future(_purge_all(another))
        await asyncio.sleep(0.3)
    [look] = cast("Sequence[Look]", await leased)
    assert await purging == 1
    assert not await store.settle_overdue(Verdict(look, MISSING))
    assert rows_in(database, EVENTS) == []


# --- the clock ---------------------------------------------------------------------------------


async def test_a_clock_that_was_far_ahead(store: Store, database: TestDatabase) -> None:
    """A call placed by it has its whole time from now on; no other deadline is touched."""
    await place(store, "1", "far ahead", missing_after=HOUR)
    let_calls_pass(database, -365 * 86400)
    await place(store, "2", "long", missing_after=48 * HOUR)
    await place(store, None, "refused", state=CallState.REFUSED)
    await store.undo_clock_steps_of_calls()
    rows = rows_in(
        database,
        "SELECT due_at - placed_at, abs(placed_at - (SELECT max(placed_at) FROM qmc_calls WHERE"
        " out_call_id = 'long')) < 60000 FROM qmc_calls ORDER BY seq",
    )
    assert rows == [(HOUR, 1), (48 * HOUR, 1), (None, 1)]


async def test_what_such_a_clock_has_put_off(store: Store, database: TestDatabase) -> None:
    """A look that is farther off than any wait may be is due at once, and no other."""
    for ours, delay in (("soon", LONGEST_DELAY - 60), ("never", 7 * 3600)):
        await place_overdue(store, database, ours, ours)
        assert not await store.settle_overdue(Verdict(await only_look(store), None, delay=delay))
    await store.undo_clock_steps_of_calls()
    assert (await only_look(store)).entry_id == "never"
