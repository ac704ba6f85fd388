"""Identifiers are compared exactly, byte by byte, on each database."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import unicodedata
from functools import partial
from typing import TYPE_CHECKING

import pytest
from attrs import evolve
from callback_peer import body_of
from conformance import deliveries_in, in_one_go, replica, rows_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_support import never_late

from qmc_async.models import Disconnected
from qmc_async.store import Kind, State, Store
from qmc_async.store.events import Listing
from qmc_async.store.records import Outcome, Poll, Put, Receipt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from database_servers import TestDatabase

    from qmc_async.store.records import Kept

# As the store calls another one of these: by it, both are found.
FORGED = f"~~{hashlib.sha256(b'x' * 5000).hexdigest()}"
ALIKE = [
    *("A1", "a1", "A1 ", "A1  ", " A1", "A1\t", "A1\n", "A1\xa0", "A1\u200b", "\ufeffA1", "Ａ1"),
    *("ß", "ss", "SS", "ẞ", "é", "e\u0301", "e", "É", "i", "I", "ı", "İ", "Å", "\u212b", "ä", "ae"),
    *("1", "01", "1.0", "１", "١", "0x1", "1e0", "true", "null", "NULL"),
    *("😀", "😁", "👩‍👩‍👧", "\U0010ffff", "\ufffd", "\uffff", "€", "北京", "\u202e"),
    *("a\0b", "a\0", "a", "ab", "\0", "a\0c", "\x01", "\x7f", "\x80"),
    *("x" * 64, "x" * 63, "x" * 200, "x" * 201, "x" * 255, "x" * 256, "x" * 5000, "x" * 5001),
    *("😀" * 50, "😀" * 51, "é" * 100, "é" * 101),
    *("~", "~~", "a~b", "a~", "~a", FORGED),
    *("'", '"', "''", "`", "\\", "\\\\", "\\'", "%", "_", "%%", "%s", "?", ":id", "';--", "{}"),
    *("A1~", "A1\x7f", "$1", "/*", "--", "#", ","),
    *("\ud800", "a\udfff", "\udfffa", "\ud83d", "\ude00"),
]


@pytest.fixture
async def store(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store."""
    async with replica(database, tmp_path) as store:
        yield store


def _put(name: str, number: int) -> Put:
    """A call with this id, and this id of ours; in its body it has the number for its id.

    Today's decoder makes no such id as some of these.
    """
    receipt = Receipt.read(body_of(str(number)))
    assert isinstance(receipt.event, Disconnected)
    event = evolve(receipt.event, call_id=name, out_call_id=name)
    return Put(evolve(receipt, event=event), {"handler": True}, "us")


async def _keep_all(store: Store, first: int = 0) -> list[Kept]:
    puts = [_put(name, first + number) for number, name in enumerate(ALIKE)]
    kept: list[Kept] = await in_one_go(
        {store: [partial(store.keep, put, never_late) for put in puts]}
    )
    return kept


async def test_ids_that_are_alike(store: Store, database: TestDatabase) -> None:
    """None is taken for another: each is new, and found by itself, and by nothing else."""
    assert len(set(ALIKE)) == len(ALIKE)
    assert {one.kind for one in await _keep_all(store)} == {Kind.DISCONNECTED}
    assert database.select("SELECT count(*) FROM qmc_events") == [(len(ALIKE),)]
    assert len(deliveries_in(database)) == len(ALIKE)
    numbers = {name: str(number) for number, name in enumerate(ALIKE)}
    for found in await store.find(ALIKE, ALIKE):
        assert {name: event.call_id for name, event in found.items()} == numbers
    alone = await asyncio.gather(*(store.find([name], [name]) for name in ALIKE))
    for name, founds in zip(ALIKE, alone, strict=True):
        for found in founds:
            assert {name: event.call_id for name, event in found.items()} == {name: numbers[name]}


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    """However alike what is there: half of them are, and the others are asked for."""
    for number, name in enumerate(ALIKE):
        if number % 2:
            await store.keep(_put(name, number), never_late)
    assert await store.find(ALIKE[::2], ALIKE[::2]) == ({}, {})


async def test_they_are_known_again(store: Store, database: TestDatabase) -> None:
    """So they are when they come once more, and each contradicts itself only."""
    await _keep_all(store)
    assert {one.kind for one in await _keep_all(store)} == {None}
    assert {one.kind for one in await _keep_all(store, len(ALIKE))} == {Kind.CONFLICT}
    kinds = rows_in(database, "SELECT kind, count(*) FROM qmc_events GROUP BY kind ORDER BY kind")
    assert kinds == [("conflict", len(ALIKE)), ("disconnected", len(ALIKE))]


async def test_they_are_listed(store: Store) -> None:
    """Listing by an id finds its call and its conflicts, and nobody else's."""
    await _keep_all(store)
    await _keep_all(store, len(ALIKE))
    for number, name in enumerate(ALIKE):
        if name == FORGED:
            continue
        listed, _ = await store.list_events(Listing(limit=100, identifier=name))
        assert [one.kind for one in listed] == [Kind.CONFLICT, Kind.DISCONNECTED], name
        assert listed[1].event.call_id == str(number)
        for one in listed:
            again, _ = await store.list_events(Listing(limit=100, identifier=one.event_id))
            assert one.event_id in {other.event_id for other in again}


async def test_they_are_replayed(store: Store, database: TestDatabase) -> None:
    """A dead letter is replayed by its event's id, and by the call's, and no other with it."""
    kept = dict(zip(ALIKE, await _keep_all(store), strict=True))
    await store.settle(Outcome(kept.pop(FORGED).claims[0], State.DONE))
    replayed = "SELECT count(*) FROM qmc_deliveries WHERE state = 'pending' AND fence > 1"
    for name, one in kept.items():
        [claim] = one.claims
        for identifier in dict.fromkeys((claim.event_id, name)):
            assert await store.settle(Outcome(claim, State.DEAD, failed=True, error="why")), name
            assert await store.replay(identifier) == ["handler"], name
            assert database.select(replayed) == [(1,)]
            [claim] = (await store.poll(Poll("us", {"handler": 1}))).claims
        assert await store.settle(Outcome(claim, State.DONE))


CHANGES: list[Callable[[str], str]] = [
    str.upper,
    str.lower,
    str.title,
    str.casefold,
    str.swapcase,
    str.strip,
    lambda text: f"{text} ",
    lambda text: f"{text}\0",
    lambda text: text.replace("\0", ""),
    lambda text: f"\u200b{text}",
    lambda text: text[::-1],
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFKC", text),
    lambda text: unicodedata.normalize("NFKD", text),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)
NUMBERS = itertools.count()


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.tuples(TEXTS, TEXTS), st.sampled_from(CHANGES))
async def test_two_ids_are_two_calls(
    store: Store, texts: tuple[str, str], change: Callable[[str], str]
) -> None:
    """Whatever an id is, and however little another differs from it."""
    number = next(NUMBERS)
    pair = [f"{left}{number}-{right}" for left, right in (texts, map(change, texts))]
    names = {name: _put(name, number) for number, name in enumerate(pair)}
    for put in names.values():
        kept = await store.keep(put, never_late)
        assert kept is not None
        assert kept.kind is Kind.DISCONNECTED
    for found in await store.find(pair, pair):
        assert {name: event.call_id for name, event in found.items()} == {
            name: str(number) for number, name in enumerate(pair)
        }
