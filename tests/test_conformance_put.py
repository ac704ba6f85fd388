"""Keeping notifications, on each database: new, known, in conflict, and every byte of them."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, until
from conformance import deliveries_in, ids_in, in_one_go, replica, rows_in
from store_support import ask, held_up, in_thread, keep, never_late, put_of, waiting

from qmc_async import StoreError
from qmc_async.store import Kind, Store
from qmc_async.store.events import put
from qmc_async.store.records import Put, Receipt, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

    from qmc_async.store.records import Kept

BODIES = "SELECT body FROM qmc_events ORDER BY seq"


@pytest.fixture
async def store(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store."""
    async with replica(database, tmp_path) as store:
        yield store


async def test_what_is_new(store: Store, database: TestDatabase) -> None:
    """The row has the body as it came, and when; its deliveries are leased, or due."""
    before = now()
    body = body_of(outCallId="order-42")
    kept = await keep(store, body, {"at once": True, "later": False}, "somebody")
    assert kept.kind is Kind.DISCONNECTED
    [claim] = kept.claims
    assert (claim.event_id, claim.handler, claim.fence, claim.attempts) == ("4711", "at once", 1, 0)
    assert database.select(BODIES) == [(body,)]
    [row] = rows_in(
        database,
        "SELECT event_id, kind, out_call_id, problem, routed, receipt_id, received_at"
        " FROM qmc_events",
    )
    assert row[:5] == ("4711", "disconnected", "order-42", "", 1)
    assert row[5] == claim.receipt.receipt_id
    assert before <= row[6] <= now()
    assert deliveries_in(database) == [
        ("4711", "at once", "pending", 0, 1, "somebody", ""),
        ("4711", "later", "pending", 0, 0, None, ""),
    ]


async def test_an_event_without_handlers_known_is_not_routed(
    store: Store, database: TestDatabase
) -> None:
    """Whoever knows the handlers finds it; with none that want it, it is routed and finished."""
    await keep(store, body_of("1"), None)
    await keep(store, body_of("2"), {})
    rows = rows_in(database, "SELECT event_id, routed FROM qmc_events ORDER BY seq")
    assert rows == [("1", 0), ("2", 1)]


SAME = [
    body_of(),
    json.dumps(dict(reversed(json.loads(body_of()).items())), indent=3).encode(),
    b"\xef\xbb\xbf" + body_of() + b" \t\r\n",
]


@pytest.mark.parametrize("again", SAME, ids=["bytes", "order", "mark"])
async def test_the_same_again_is_known(store: Store, database: TestDatabase, again: bytes) -> None:
    """The same JSON, however it is written, is not kept a second time, nor handled."""
    await keep(store, body_of(), {"handler": True})
    kept = await keep(store, again, {"handler": True})
    assert kept.kind is None
    assert not kept.claims
    assert database.select(BODIES) == [(body_of(),)]
    assert len(deliveries_in(database)) == 1


@pytest.mark.parametrize("reason", ["Other", "hangup", "HangUp "])
async def test_other_content_is_a_conflict(
    store: Store, database: TestDatabase, reason: str
) -> None:
    """It is kept beside the first, once, for the handlers of conflicts."""
    other = body_of(reason=reason)
    await keep(store, body_of(), {"handler": True})
    put = Put(Receipt.read(other), {"handler": True}, "us", ["conflicts"])
    kept = await store.keep(put, never_late)
    assert kept is not None
    assert kept.kind is Kind.CONFLICT
    assert not kept.claims
    assert (await keep(store, other, {"handler": True})).kind is None
    conflict = Receipt.read(other).variant_id
    rows = rows_in(database, "SELECT event_id, kind, routed FROM qmc_events ORDER BY seq")
    assert rows == [("4711", "disconnected", 1), (conflict, "conflict", 1)]
    assert database.select(BODIES) == [(body_of(),), (other,)]
    assert [row[:2] for row in deliveries_in(database)] == [
        ("4711", "handler"),
        (conflict, "conflicts"),
    ]


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"\0", b"{}", "𝒩ö".encode()])
async def test_what_names_no_call_is_kept_each_time(
    store: Store, database: TestDatabase, body: bytes
) -> None:
    """Two undecodable requests may be two things: both stay, byte for byte."""
    for _ in range(2):
        assert (await keep(store, body)).kind is Kind.UNKNOWN
    assert database.select("SELECT kind, body FROM qmc_events") == [("unknown", body)] * 2


async def test_an_unknown_status_is_no_end(store: Store, database: TestDatabase) -> None:
    """It neither hides the report of the call's end nor contradicts it; a copy of it is known."""
    ringing = body_of(status="Ringing")
    kinds = [(await keep(store, body)).kind for body in (ringing, body_of(), ringing, body_of())]
    assert kinds == [Kind.UNKNOWN, Kind.DISCONNECTED, None, None]
    assert database.select(BODIES) == [(ringing,), (body_of(),)]


async def test_the_longest_body(store: Store, database: TestDatabase) -> None:
    """64 KiB, which is as much as the receiver takes, come back byte for byte."""
    body = body_of(x="")
    body = body_of(x="x" * (65_536 - len(body)))
    assert len(body) == 65_536
    every_byte = bytes(range(256)) * 256
    await keep(store, body)
    await keep(store, every_byte)
    assert database.select(BODIES) == [(body,), (every_byte,)]


async def test_why_a_body_may_not_be_whole(store: Store, database: TestDatabase) -> None:
    """The reason stands beside it."""
    await store.keep(put_of(body_of()[:-3], problem="cut off"), never_late)
    assert rows_in(database, "SELECT kind, problem FROM qmc_events") == [("unknown", "cut off")]


# --- many at once ------------------------------------------------------------------------------


async def test_the_same_several_times_in_one_go(store: Store, database: TestDatabase) -> None:
    """Within one transaction too, the first is new, its copies are known, others contradict."""
    other = body_of(reason="Other")
    bodies = [body_of(), SAME[1], body_of("5"), other, other, b"{}", b"{}", body_of("5")]
    kept = await in_one_go({store: [partial(keep, store, one, {"h": True}) for one in bodies]})
    new, conflict, unknown = Kind.DISCONNECTED, Kind.CONFLICT, Kind.UNKNOWN
    kinds = [one.kind for one in kept]
    assert kinds == [new, None, new, conflict, None, unknown, unknown, None]
    assert [len(one.claims) for one in kept] == [1, 0, 1, 0, 0, 1, 1, 0]
    assert database.select("SELECT count(*) FROM qmc_events") == [(5,)]


async def test_more_than_one_statement_takes(store: Store, database: TestDatabase) -> None:
    """Twelve hundred in one call, half of them known: beyond every limit on parameters."""
    known = [put_of(body_of(str(number))) for number in range(0, 1200, 2)]
    every = [put_of(body_of(str(number)), {"a": True, "b": False}) for number in range(1200)]

    def work(connection: Connection) -> list[Kept]:
        put(connection, known)
        return put(connection, every)

    kept = await in_thread(store, work)
    expected = [None if number % 2 == 0 else Kind.DISCONNECTED for number in range(1200)]
    assert [one.kind for one in kept] == expected
    assert database.select("SELECT count(*) FROM qmc_events") == [(1200,)]
    assert database.select("SELECT count(*) FROM qmc_deliveries") == [(1200,)]


async def test_many_of_the_longest_in_one_go(store: Store, database: TestDatabase) -> None:
    """A batch of megabytes is one transaction, with no limit of a packet or a parameter."""
    bodies = [body_of(str(number), x="x" * 65_000) for number in range(100)]
    kept = await in_one_go({store: [partial(keep, store, body) for body in bodies]})
    assert {one.kind for one in kept} == {Kind.DISCONNECTED}
    assert sum(len(body) for (body,) in database.select(BODIES)) == sum(map(len, bodies))


FAULTS: dict[str, dict[str, Any]] = {
    "nothing": {"problem": None},
    "too long": {"receipt_id": "x" * 33},
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_at_fault_does_not_spoil_the_others(
    store: Store, database: TestDatabase, fault: str
) -> None:
    """A value that the database does not take fails for good; the rest of its batch is kept."""
    if database.kind == "sqlite" and fault == "too long":
        pytest.skip("SQLite takes text of any length")
    broken = put_of(body_of("0"), {}, **FAULTS[fault])
    async with held_up(store):
        failing = ask(store, put, broken)
        keeping = [asyncio.ensure_future(keep(store, body_of(one))) for one in "123"]
        await until(lambda: waiting(store) >= 4)
    assert [one.kind for one in await asyncio.gather(*keeping)] == [Kind.DISCONNECTED] * 3
    with pytest.raises(StoreError, match="the store failed") as caught:
        await failing
    assert not caught.value.temporary
    assert ids_in(database, "SELECT event_id FROM qmc_events ORDER BY 1") == ["1", "2", "3"]
