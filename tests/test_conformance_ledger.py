"""The ledger on each database: what became of a call is written down, and found again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from callback_peer import body_of
from conformance import ids_in, replica, rows_in
from ledger_support import MASKED, opening, place
from sqlalchemy import delete, insert, select, update
from store_support import ask, in_thread, keep

from qmc_async.models import CallState
from qmc_async.store import Store, ledger
from qmc_async.store.ledger import CallListing, Settlement
from qmc_async.store.records import now
from qmc_async.store.schema import calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

    from qmc_async.models import LedgerEntry

IDS = "SELECT entry_id FROM qmc_calls ORDER BY seq"
STATES = "SELECT entry_id, state FROM qmc_calls ORDER BY seq"


@pytest.fixture
async def store(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store."""
    async with replica(database, tmp_path) as store:
        yield store


def _later(token: str, out_call_id: str = "order-1") -> str:
    """Under what a further call with an id is."""
    return f"{out_call_id}~{token.rjust(32, '0')}"


async def _find(
    store: Store, call_id: str | None = None, out_call_id: str | None = None
) -> LedgerEntry:
    entry = await store.ledger_entry(call_id=call_id, out_call_id=out_call_id)
    assert entry is not None
    return entry


async def _state(
    store: Store, call_id: str | None = None, out_call_id: str | None = None
) -> CallState:
    return (await _find(store, call_id, out_call_id)).state


# --- one call ----------------------------------------------------------------------------------


async def test_a_call_that_is_written_down(store: Store, database: TestDatabase) -> None:
    """It is being placed, with a deadline from the first moment on."""
    before = now()
    assert await store.open_entry(opening(missing_after=5000)) is None
    [row] = rows_in(
        database,
        "SELECT entry_id, token, out_call_id, call_key, call_id, caller, callee, state, fence,"
        " looks, error, missing_after, due_at - placed_at, placed_at, changed_at FROM qmc_calls",
    )
    assert row[:5] == ("order-1", "1".rjust(32, "0"), "order-1", None, None)
    assert row[5:11] == (*MASKED, "placing", 0, 0, "")
    assert row[11:13] == (5000, 5000)
    assert before - 1000 <= row[13] == row[14] <= now() + 1000


async def test_a_call_that_was_placed(store: Store, database: TestDatabase) -> None:
    """The platform's id is written down, and the deadline counts from the answer on."""
    one = opening(missing_after=5000)
    await store.open_entry(one)
    database.execute("UPDATE qmc_calls SET placed_at = 1, changed_at = 1, due_at = 1")
    settlement = Settlement(opening=one, state=CallState.PLACED, call_id="4711")
    await store.settle_entry(settlement)
    query = "SELECT state, call_key, call_id, error, due_at - placed_at, placed_at FROM qmc_calls"
    [row] = rows_in(database, query)
    assert row[:5] == ("placed", "4711", "4711", "", 5000)
    assert row[5] > 1
    entry = await _find(store, "4711")
    assert entry == await _find(store, out_call_id="order-1")
    assert (entry.out_call_id, entry.call_id, entry.state) == ("order-1", "4711", "placed")
    assert (entry.caller, entry.callee) == MASKED
    assert entry.placed_at == entry.changed_at


async def test_a_call_that_was_not_placed(store: Store, database: TestDatabase) -> None:
    """It is written down why; a notification is waited for only where one may come."""
    for state, error in (CallState.REFUSED, "no 号码"), (CallState.UNKNOWN, "why"):
        one = opening(state, missing_after=5000)
        await store.open_entry(one)
        await store.settle_entry(Settlement(opening=one, state=state, error=error))
    query = "SELECT state, call_key, error, due_at - placed_at FROM qmc_calls ORDER BY seq"
    assert rows_in(database, query) == [
        ("refused", None, "no 号码", None),
        ("unknown", None, "why", 5000),
    ]
    assert (await _find(store, out_call_id="refused")).error == "no 号码"


async def test_what_is_settled_stays(store: Store, database: TestDatabase) -> None:
    """What is told of it later changes nothing, and does not make a second call of it."""
    one = await place(store)
    await store.settle_entry(Settlement(opening=one, state=CallState.UNKNOWN, error="late"))
    await store.withdraw_entry(one)
    assert rows_in(database, "SELECT state, call_id, error FROM qmc_calls") == [
        ("placed", "4711", "")
    ]


async def test_an_answer_after_the_call_was_given_up(store: Store, database: TestDatabase) -> None:
    """The platform's id is written down all the same, once; that it was given up stays."""
    one = opening()
    await store.open_entry(one)
    database.execute("UPDATE qmc_calls SET state = 'missing', due_at = NULL")
    await store.settle_entry(Settlement(opening=one, state=CallState.UNKNOWN, error="late"))
    for call_id in ("4711", "4712"):
        settlement = Settlement(opening=one, state=CallState.PLACED, call_id=call_id)
        await store.settle_entry(settlement)
    query = "SELECT state, call_key, call_id, due_at, error FROM qmc_calls"
    assert rows_in(database, query) == [("missing", "4711", "4711", None, "")]


async def test_only_what_was_not_sent_is_struck_out(store: Store, database: TestDatabase) -> None:
    """That is one attempt: another under the same id, or none, is no matter."""
    await store.open_entry(opening("order-1", "1"))
    for other in (opening("order-1", "2"), opening("order-2", "1")):
        await store.withdraw_entry(other)
    assert ids_in(database, IDS) == ["order-1"]
    await store.withdraw_entry(opening("order-1", "1"))
    assert ids_in(database, IDS) == []


CALL_IDS = ["a\0b", "~", "a~b", "x" * 5000, "\ud800", "😀", "号码", "a\nb", "É "]


async def test_any_id_of_the_platform(store: Store) -> None:
    """The call is found by it, and by no other; where no database can keep it, it is not shown."""
    for number, call_id in enumerate(CALL_IDS):
        one = opening(f"order-{number}", f"{number}")
        await store.open_entry(one)
        await store.settle_entry(Settlement(opening=one, state=CallState.PLACED, call_id=call_id))
    for number, call_id in enumerate(CALL_IDS):
        entry = await _find(store, call_id)
        assert entry.out_call_id == f"order-{number}"
        assert entry.call_id == (None if call_id in {"a\0b", "\ud800"} else call_id)
        assert await store.ledger_entry(call_id=call_id + "x") is None


async def test_a_state_of_a_newer_version(store: Store, database: TestDatabase) -> None:
    """It is unknown here, and hides no other call."""
    await place(store, "1", "order-1")
    await place(store, "2", "order-2")
    database.execute("UPDATE qmc_calls SET state = 'on hold' WHERE call_id = '1'")
    listed, _ = await store.list_calls(CallListing(limit=10))
    assert [one.state for one in listed] == [CallState.PLACED, CallState.UNKNOWN]


# --- how a call ended --------------------------------------------------------------------------


async def test_a_call_that_has_ended(store: Store, database: TestDatabase) -> None:
    """Its notification tells, by the platform's id or, where that is not known, by ours."""
    await store.open_entry(opening("placing"))
    await place(store, "of placed", "placed")
    await place(store, None, "unknown", state=CallState.UNKNOWN)
    await keep(store, body_of("4711", outCallId="another"))
    names = ["placing", "placed", "unknown"]
    assert [await _state(store, out_call_id=name) for name in names] == names
    for name in names:
        await keep(store, body_of(f"of {name}", outCallId=name))
    for name in names:
        entry = await _find(store, f"of {name}", name)
        assert (entry.state, entry.call_id) == (CallState.ENDED, f"of {name}")
        query = "SELECT received_at FROM qmc_events WHERE out_call_id = ?"
        [(received_at,)] = rows_in(database, query, name)
        assert entry.changed_at.timestamp() * 1000 == pytest.approx(received_at, abs=0.5)
    assert [row[1] for row in rows_in(database, STATES)] == names, "it stands in the events"


async def test_an_end_under_an_id_that_was_used_again(store: Store) -> None:
    """The end of one call is not the end of another with the same id."""
    await place(store, None, state=CallState.UNKNOWN)
    await place(store, "2", again=True)
    await keep(store, body_of("2", outCallId="order-1"))
    listed, _ = await store.list_calls(CallListing(limit=9))
    assert [one.state for one in listed] == [CallState.ENDED, CallState.UNKNOWN]
    await keep(store, body_of("1", outCallId="order-1"))
    listed, _ = await store.list_calls(CallListing(limit=9))
    assert [(one.state, one.call_id) for one in listed] == [
        (CallState.ENDED, "2"),
        (CallState.ENDED, "1"),
    ]


async def test_what_is_no_end(store: Store) -> None:
    """Neither another status nor what cannot be read ends a call."""
    await place(store)
    await keep(store, body_of("4711", outCallId="order-1", status="Ringing"))
    await keep(store, b'{"callidentifier": "4711"')
    assert await _state(store, "4711") is CallState.PLACED


async def test_which_call_is_meant(store: Store) -> None:
    """The platform's id decides; ours helps only where that one is not known."""
    await place(store, "1", "order-1")
    assert (await _find(store, "1", "order-2")).out_call_id == "order-1"
    assert await store.ledger_entry(call_id="2", out_call_id="order-1") is None
    await place(store, None, "order-1", again=True, state=CallState.UNKNOWN)
    assert await _state(store, "2", "order-1") is CallState.UNKNOWN


async def test_which_ids_are_going_on(store: Store) -> None:
    """Those whose last call is waited for still, whatever the calls before it came to."""
    await place(store, "1", "first settled")
    await place(store, None, "last settled", state=CallState.UNKNOWN)
    await place(store, None, "refused", state=CallState.REFUSED)
    await in_thread(store, lambda found: found.execute(update(calls).values(due_at=None)))
    await place(store, "2", "first settled", again=True)
    names = ["first settled", "last settled", "refused", "nobody's"]
    going_on = await in_thread(store, lambda found: ledger.going_on(found, names))
    assert going_on == {"first settled"}


# --- the whole ledger --------------------------------------------------------------------------


async def test_it_is_listed_in_parts(store: Store, database: TestDatabase) -> None:
    """Newest first, each call once, whatever comes in between."""
    for number in range(5):
        await place(store, str(number), f"order-{number}", missing_after=0)
        database.execute(
            "UPDATE qmc_calls SET placed_at = ? WHERE call_id = ?", number, f"{number}"
        )
    await keep(store, body_of("3"))
    first, before = await store.list_calls(CallListing(limit=2))
    await place(store, "later", "later")
    second, before = await store.list_calls(CallListing(limit=2, before=before))
    last, end = await store.list_calls(CallListing(limit=2, before=before))
    assert [one.call_id for one in (*first, *second, *last)] == list("43210")
    assert [one.state for one in first] == [CallState.PLACED, CallState.ENDED]
    assert end == 0
    recent, end = await store.list_calls(CallListing(limit=9, since=3))
    assert ([one.call_id for one in recent], end) == (["later", "4", "3"], 0)


async def test_more_than_one_statement_takes(store: Store, database: TestDatabase) -> None:
    """Beyond every limit on parameters, calls are opened, looked up, counted and purged."""
    openings = [opening(f"order-{number}", f"{number}", missing_after=0) for number in range(502)]
    tomorrow = now() + 86_400_000

    def work(connection: Connection) -> list[LedgerEntry | None]:
        ledger.open_entries(connection, openings[:1])
        row: dict[str, Any] = dict(connection.execute(select(calls)).mappings().one())
        del row["seq"]
        names = [one.out_call_id for one in openings]
        same = ("entry_id", "out_call_id", "call_key")
        rows: list[dict[str, Any]] = [row | dict.fromkeys(same, one) for one in names]
        connection.execute(delete(calls))
        connection.execute(insert(calls), rows)
        return ledger.open_entries(connection, [evolve(one, token="x" * 32) for one in openings])

    got = await in_thread(store, work)
    assert [one and one.out_call_id for one in got] == [one.out_call_id for one in openings]
    await keep(store, body_of("order-501"))
    assert await store.count_overdue() == 501
    database.execute("UPDATE qmc_calls SET call_key = NULL WHERE entry_id <> 'order-1'")
    await keep(store, body_of("4711", outCallId="order-500"))
    assert await store.count_overdue() == 501
    listed, _ = await store.list_calls(CallListing(limit=5000))
    assert len(listed) == 502
    assert [one.out_call_id for one in listed if one.state is CallState.ENDED] == ["order-500"]
    assert await ask(store, ledger.purge_calls, tomorrow) == 0
    database.execute("UPDATE qmc_calls SET due_at = NULL")
    assert [await ask(store, ledger.purge_calls, tomorrow) for _ in range(3)] == [500, 2, 0]


async def test_purging(store: Store, database: TestDatabase) -> None:
    """What is settled and old enough goes, and its id is free; the rest is waited for still."""
    await place(store, "ended", "ended")
    await keep(store, body_of("ended"), {})
    await place(store, None, "refused", state=CallState.REFUSED)
    await place(store, "placed", "placed")
    await place(store, None, "unknown", state=CallState.UNKNOWN)
    await store.open_entry(opening("placing", "p"))
    await store.purge(datetime.now(UTC) - timedelta(days=1))
    assert len(ids_in(database, IDS)) == 5
    await store.purge(datetime.now(UTC) + timedelta(days=1))
    assert ids_in(database, IDS) == ["placed", "unknown", "placing"]
    for name in ("ended", "refused"):
        assert await store.open_entry(opening(name, "new")) is None
    for name in ("placed", "unknown", "placing"):
        assert await store.open_entry(opening(name, "new")) is not None


# --- a file that was lost ----------------------------------------------------------------------


async def test_what_became_of_a_call_that_is_not_there(
    store: Store, database: TestDatabase
) -> None:
    """Its entry went with the database that was restored: it is written down again."""
    for one, call_id in ((opening(token="1"), "4711"), (opening(token="2"), "4712")):
        settlement = Settlement(opening=one, state=CallState.PLACED, call_id=call_id)
        for _ in range(2):
            await store.settle_entry(settlement)
    assert ids_in(database, IDS) == ["order-1", _later("2")]
    assert [await _state(store, one) for one in ("4711", "4712")] == [CallState.PLACED] * 2
    assert await store.open_entry(opening(token="3")) is not None
