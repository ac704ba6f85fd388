"""The ledger on each database: an `out_call_id` is used once, compared byte by byte."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from attrs import evolve
from callback_peer import body_of
from conformance import ids_in, in_one_go, replica, rows_in
from ledger_support import HOSTILE_IDS, opening, place
from store_support import keep

from qmc_async.models import CallState
from qmc_async.store.ledger import CallListing, Settlement
from qmc_async.store.records import exact_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from database_servers import TestDatabase

    from qmc_async.models import LedgerEntry
    from qmc_async.store import Store
    from qmc_async.store.ledger import Opening

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


# --- each id once ------------------------------------------------------------------------------


async def test_an_id_that_is_used(store: Store, database: TestDatabase) -> None:
    """Who comes second is told of the call that is there, and nothing is written down."""
    await place(store)
    there = await store.open_entry(opening(token="2"))
    assert there == await _find(store, "4711")
    assert rows_in(database, STATES) == [("order-1", "placed")]


async def test_an_id_that_is_used_again(store: Store, database: TestDatabase) -> None:
    """Where that is wanted, each call has an entry of its own, and the id means the last."""
    await place(store, "1", again=True)
    await place(store, "2", again=True)
    await place(store, "3", again=True)
    assert ids_in(database, IDS) == ["order-1", _later("2"), _later("3")]
    assert [(await _find(store, one)).call_id for one in "123"] == ["1", "2", "3"]
    assert (await _find(store, out_call_id="order-1")).call_id == "3"
    assert await store.open_entry(opening(token="4")) is not None


async def test_an_id_that_was_refused(store: Store, database: TestDatabase) -> None:
    """Nobody's telephone rang under it: the next call takes its place."""
    for token in ("1", "2"):
        one = opening(token=token)
        assert await store.open_entry(one) is None
        await store.settle_entry(Settlement(opening=one, state=CallState.REFUSED, error="why"))
    await place(store, "3", again=True)
    assert rows_in(database, "SELECT entry_id, state, call_id, error FROM qmc_calls") == [
        ("order-1", "placed", "3", "")
    ]


async def test_a_refused_call_that_was_reported(store: Store, database: TestDatabase) -> None:
    """It has rung, whatever the platform said: its id is used."""
    await place(store, None, state=CallState.REFUSED)
    await keep(store, body_of("4711", outCallId="order-1"))
    there = await store.open_entry(opening(token="2"))
    assert there is not None
    assert (there.state, there.call_id) == (CallState.ENDED, "4711")
    assert await store.open_entry(opening(token="3", again=True)) is None
    assert ids_in(database, IDS) == ["order-1", _later("3")]


async def test_a_refused_call_beside_another(store: Store, database: TestDatabase) -> None:
    """That the first call with an id was refused does not free it where a second one was placed."""
    first = opening()
    await store.open_entry(first)
    await place(store, "2", again=True)
    await store.settle_entry(Settlement(opening=first, state=CallState.REFUSED))
    there = await store.open_entry(opening(token="3"))
    assert there is not None
    assert (there.state, there.call_id) == (CallState.PLACED, "2")
    assert rows_in(database, STATES) == [("order-1", "refused"), (_later("2"), "placed")]


async def test_the_first_call_is_purged_and_others_are_not(
    store: Store, database: TestDatabase
) -> None:
    """The id is used as long as any call that may have rung under it is known."""
    await place(store, "1")
    await place(store, "2", again=True)
    await place(store, None, again=True, state=CallState.REFUSED)
    database.execute("DELETE FROM qmc_calls WHERE entry_id = 'order-1'")
    there = await store.open_entry(opening(token="4"))
    assert there is not None
    assert there.call_id == "2"
    database.execute("DELETE FROM qmc_calls WHERE call_id = '2'")
    assert await store.open_entry(opening(token="5")) is None
    assert rows_in(database, STATES)[-1] == ("order-1", "placing")


async def test_a_commit_whose_answer_was_lost(store: Store, database: TestDatabase) -> None:
    """Writing the same attempt down once more finds it there, and is no duplicate."""
    await place(store, None, "refused", state=CallState.REFUSED)
    await place(store, "4711", "placed")
    tries = [opening("new", "2"), opening("refused", "2"), opening("placed", "2", again=True)]
    for one in tries * 3:
        assert await store.open_entry(one) is None
    assert ids_in(database, IDS) == ["refused", "placed", "new", _later("2", "placed")]


async def test_the_same_id_several_times_in_one_go(store: Store, database: TestDatabase) -> None:
    """Within one transaction too, the first has it, and the others are told."""
    tries = [opening(token=str(number)) for number in range(4)]
    wanted = [*tries[:3], evolve(tries[3], again=True), opening("order-2"), tries[0]]
    got = await in_one_go({store: [partial(_open, store, one) for one in wanted]})
    assert [None if one is None else one.state for one in got] == [
        None,
        CallState.PLACING,
        CallState.PLACING,
        None,
        None,
        None,
    ]
    assert ids_in(database, IDS) == ["order-1", _later("3"), "order-2"]


async def _open(store: Store, one: Opening) -> LedgerEntry | None:
    return await store.open_entry(one)


ALIKE = [*HOSTILE_IDS, "a ", "a~", "á", "a\u0301", "Å", "\u212b", "ss", "ß", "a'", "a\\", "01", "1"]


async def test_ids_that_are_alike(store: Store, database: TestDatabase) -> None:
    """None is taken for another: each is new, used once, and found by itself."""
    assert len(set(ALIKE)) == len(ALIKE)
    openings = [opening(name, str(number)) for number, name in enumerate(ALIKE)]
    got = await in_one_go({store: [partial(_open, store, one) for one in openings]})
    assert got == [None] * len(ALIKE)
    assert sorted(ids_in(database, IDS)) == sorted(exact_key(name) for name in ALIKE)
    for one in openings:
        name = one.out_call_id
        settlement = Settlement(opening=one, state=CallState.PLACED, call_id=f"of {name}")
        await store.settle_entry(settlement)
        there = await store.open_entry(evolve(one, token="x" * 32))
        assert there is not None
        assert (there.out_call_id, there.call_id) == (name, f"of {name}")
        assert await _find(store, out_call_id=name) == there
        assert await store.open_entry(evolve(one, token="y" * 32, again=True)) is None
    assert {one.out_call_id for one in (await store.list_calls(CallListing(limit=99)))[0]} == set(
        ALIKE
    )


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    """However alike what is there: half of them are, and the others are asked for."""
    for number, name in enumerate(ALIKE[::2]):
        await place(store, name, name, again=number % 3 == 0)
    for name in ALIKE[1::2]:
        assert await store.ledger_entry(call_id=name) is None, name
        assert await store.ledger_entry(out_call_id=name) is None, name
    assert await store.ledger_entry() is None
