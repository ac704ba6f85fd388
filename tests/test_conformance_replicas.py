"""Two replicas of one database that keep, lease, route and purge the same things at once."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
from callback_peer import body_of
from conformance import (
    deliveries_in,
    ids_in,
    in_one_go,
    in_transaction,
    on_servers,
    replica,
    rows_in,
)
from store_support import in_thread, keep, put_of

from qmc_async.store import Kind, Store, deliveries, events
from qmc_async.store.records import Poll

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

    from qmc_async.store.records import Kept

IDS = "SELECT event_id FROM qmc_events WHERE kind = 'disconnected' ORDER BY event_id"


@pytest.fixture
async def stores(database: TestDatabase, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Two replicas, each with a connection and a thread of its own."""
    if database.kind == "postgresql":  # it looks for dead-locks once a second otherwise
        database.execute("ALTER DATABASE qmc SET deadlock_timeout = '20ms'")
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(replica(database, tmp_path, name))
            for name in ("one", "other")
        ]
        yield one, other


# --- the same notifications --------------------------------------------------------------------


async def test_the_same_notifications_at_once(
    stores: tuple[Store, Store], database: TestDatabase
) -> None:
    """In opposite orders: each is stored once, and handed out once; nobody gets an error."""
    bodies = [body_of(str(number)) for number in range(200)]
    kept = await in_one_go(
        {
            store: [partial(keep, store, body, {"handler": True}, store.owner) for body in order]
            for store, order in zip(stores, (bodies, bodies[::-1]), strict=True)
        }
    )
    assert sum(one.kind is Kind.DISCONNECTED for one in kept) == 200
    plain = sorted(map(str, range(200)))
    assert sorted(claim.event_id for one in kept for claim in one.claims) == plain
    assert ids_in(database, IDS) == plain
    assert [row[0] for row in deliveries_in(database)] == plain


async def test_one_by_one(stores: tuple[Store, Store], database: TestDatabase) -> None:
    """So too where each comes while the last ones are being kept."""
    numbers = [str(number) for number in range(200)]
    kept = await asyncio.gather(
        *(
            keep(store, body_of(number), {"handler": True}, store.owner)
            for numbers_of_one in zip(numbers, numbers[::-1], strict=True)
            for store, number in zip(stores, numbers_of_one, strict=True)
        )
    )
    assert sorted(claim.event_id for one in kept for claim in one.claims) == sorted(numbers)
    assert ids_in(database, IDS) == sorted(numbers)


async def test_what_overlaps(stores: tuple[Store, Store], database: TestDatabase) -> None:
    """Batches that share some ids, and contradict each other in some, are kept whole."""
    chance = random.Random(4)  # noqa: S311 - no secret
    mine = [body_of(str(number)) for number in range(80)]
    theirs = [
        body_of(str(number), **({} if number % 3 else {"reason": "Other"}))
        for number in range(40, 120)
    ]
    chance.shuffle(mine)
    chance.shuffle(theirs)
    kept = await in_one_go(
        {
            store: [partial(keep, store, body, {"handler": True}) for body in bodies]
            for store, bodies in zip(stores, (mine, theirs), strict=True)
        }
    )
    plain = sorted(map(str, range(120)))
    assert sorted(claim.event_id for one in kept for claim in one.claims) == plain
    assert ids_in(database, IDS) == plain
    conflicts = "SELECT event_id FROM qmc_events WHERE kind = 'conflict'"
    contradicted = {one.partition("~")[0] for one in ids_in(database, conflicts)}
    assert contradicted == {str(number) for number in range(40, 80) if number % 3 == 0}
    assert sum(one.kind is Kind.CONFLICT for one in kept) == len(contradicted)


@on_servers
async def test_one_that_another_is_just_keeping(
    stores: tuple[Store, Store], database: TestDatabase
) -> None:
    """Whoever comes second waits for the first one's commit, and finds it known."""
    one, other = stores
    late = asyncio.Event()

    def insert(connection: Connection) -> list[Kept]:
        return events.put(connection, [put_of(body_of("1"), {"handler": True}, "one")])

    async with in_transaction(one, insert) as first:
        second = asyncio.ensure_future(keep(other, body_of("1"), {"handler": True}))
        third = asyncio.ensure_future(keep(other, body_of("2"), {"handler": True}))
        second.add_done_callback(lambda _: late.set())
        assert database.select("SELECT count(*) FROM qmc_events") == [(0,)]
        assert not late.is_set()
    [kept] = cast("list[Kept]", await first)
    assert len(kept.claims) == 1
    assert (await second).kind is None
    assert (await third).kind is Kind.DISCONNECTED
    assert [row[:2] + row[5:6] for row in deliveries_in(database)] == [
        ("1", "handler", "one"),
        ("2", "handler", "us"),
    ]


@on_servers
async def test_a_deadlock(stores: tuple[Store, Store], database: TestDatabase) -> None:
    """Two transactions that wait for each other are both done in the end: nobody is told."""
    begun = [threading.Event(), threading.Event()]
    tries: list[int] = []

    def cross(mine: int, connection: Connection) -> list[Kept]:
        tries.append(mine)
        puts = [put_of(body_of(str(number)), {"h": True}) for number in (mine, 1 - mine)]
        first = events.put(connection, puts[:1])
        begun[mine].set()
        begun[1 - mine].wait(30)
        return first + events.put(connection, puts[1:])

    kept = await asyncio.gather(
        *(in_thread(store, partial(cross, number)) for number, store in enumerate(stores))
    )
    assert len(tries) > 2, "there was no dead-lock"
    claims = [claim.event_id for some in kept for one in some for claim in one.claims]
    assert sorted(claims) == ["0", "1"]
    assert ids_in(database, IDS) == ["0", "1"]


# --- leases ------------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["skip locked", "wait"])
def _locking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases that can leave out what others have locked, and one that cannot."""
    if not request.param:

        def cannot(_: object) -> bool:
            return False

        monkeypatch.setattr("qmc_async.store.server_database.can_skip_locked", cannot)


@pytest.mark.usefixtures("_locking")
async def test_two_that_poll_at_once(stores: tuple[Store, Store], database: TestDatabase) -> None:
    """No delivery is leased twice, and none is left."""
    for number in range(60):
        await keep(stores[0], body_of(str(number)), {"a": False, "b": False})
    found: list[tuple[str, str]] = []
    rounds = 0
    while len(found) < 120:
        polled = await asyncio.gather(
            *(
                store.poll(Poll(store.owner, dict.fromkeys(order, 4)))
                for store, order in zip(stores, ("ab", "ba"), strict=True)
                for _ in range(3)
            )
        )
        found += [claim.key for one in polled for claim in one.claims]
        rounds += 1
        assert rounds < 100
    assert len(set(found)) == len(found)
    owners = {row[5] for row in deliveries_in(database)}
    assert owners <= {store.owner for store in stores}
    assert {row[4] for row in deliveries_in(database)} == {1}


@on_servers
@pytest.mark.usefixtures("_locking")
async def test_one_that_polls_while_another_does(
    stores: tuple[Store, Store], database: TestDatabase
) -> None:
    """What is being leased is passed over, whether it can be seen or must be waited for."""
    one, other = stores
    for number in range(6):
        await keep(one, body_of(str(number)), {"handler": False})

    def lease(connection: Connection) -> object:
        return deliveries.poll(connection, [Poll("one", {"handler": 3})])

    async with in_transaction(one, lease):
        polling = asyncio.ensure_future(other.poll(Poll("other", {"handler": 3})))
    assert len((await polling).claims) == 3
    assert sorted(row[5] for row in deliveries_in(database)) == ["one"] * 3 + ["other"] * 3


@on_servers
async def test_whoever_skips_does_not_wait(stores: tuple[Store, Store]) -> None:
    """What another is just leasing keeps nobody from the rest."""
    one, other = stores
    for number in range(3):
        await keep(one, body_of(str(number)), {"handler": False})

    def lease(connection: Connection) -> object:
        return deliveries.poll(connection, [Poll("one", {"handler": 2})])

    async with in_transaction(one, lease):
        assert len((await other.poll(Poll("other", {"handler": 3}))).claims) == 1


async def test_two_that_route_at_once(stores: tuple[Store, Store], database: TestDatabase) -> None:
    """Each event gets its deliveries once, from whoever comes first."""
    for number in range(30):
        await keep(stores[0], body_of(str(number)), None)
    polled = await asyncio.gather(*(store.poll(Poll("us", {})) for store in stores))
    assert [len(one.unrouted) for one in polled] == [30, 30]
    await asyncio.gather(
        *(
            store.route({event_id: ["a", "b"] for event_id in order})
            for store, one in zip(stores, polled, strict=True)
            for order in (list(one.unrouted), list(one.unrouted)[::-1])
        )
    )
    assert len(deliveries_in(database)) == 60
    assert rows_in(database, "SELECT count(*) FROM qmc_events WHERE routed") == [(30,)]
    assert not (await stores[1].poll(Poll("us", {}))).unrouted


@on_servers
async def test_one_that_routes_while_another_does(
    stores: tuple[Store, Store], database: TestDatabase
) -> None:
    """With other handlers: the second waits, and finds nothing to do."""
    one, other = stores
    await keep(one, body_of("1"), None)

    def route(connection: Connection) -> object:
        return deliveries.route(connection, [{"1": ["a"]}])

    async with in_transaction(one, route):
        second = asyncio.ensure_future(other.route({"1": ["a", "b"]}))
    await second
    assert [row[1] for row in deliveries_in(database)] == ["a"]


async def test_two_that_purge_at_once(stores: tuple[Store, Store], database: TestDatabase) -> None:
    """What is finished goes once; what is not stays."""
    for number in range(40):
        await keep(stores[0], body_of(str(number)), {} if number else {"handler": False})
    counts = await asyncio.gather(
        *(store.purge(datetime.now(UTC) + timedelta(days=1)) for store in stores for _ in range(2))
    )
    assert sum(counts) >= 39
    assert ids_in(database, IDS) == ["0"]
    assert len(deliveries_in(database)) == 1
