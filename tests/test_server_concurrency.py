"""How many runs of a handler go on at once, and where the others wait."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from callback_peer import Store, body_of, held_in, hurry, post_to, select_in, until, url_in

from qmc_async import CallbackServer, ConfigError, Disconnected
from qmc_async.store.records import Kept, Kind, Poll

if TYPE_CHECKING:
    from pathlib import Path

    from qmc_async.callback.dispatcher import Dispatcher
    from qmc_async.store.records import Polled

MANY = 60


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look through the store all the time."""
    hurry(monkeypatch)


class Workload:
    """A handler that counts how many of its runs go on at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.done: Counter[str] = Counter()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def run(self, event: Disconnected) -> None:
        """Take a moment."""
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        await self.go_on.wait()
        self.now -= 1
        self.done[event.call_id] += 1


async def _post_many(server: CallbackServer, numbers: range = range(MANY)) -> None:
    replies = await asyncio.gather(*(post_to(server, body_of(str(one))) for one in numbers))
    assert {reply.status for reply in replies} == {200}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("limit", [1, 3])
async def test_never_more_than_max_concurrency(limit: int, tmp_path: Path) -> None:
    """What is beyond waits in the store; all are handled, once each, and few leases are held."""
    work = Workload()
    work.go_on.clear()
    server = CallbackServer(port=0, store=url_in(tmp_path), max_concurrency=limit)
    server.on_disconnected(name="work")(work.run)
    async with server:
        await _post_many(server)
        await until(lambda: work.now == limit)
        [(leased,)] = select_in(
            tmp_path, "SELECT count(*) FROM qmc_deliveries WHERE owner IS NOT NULL"
        )
        # As many again may be at hand, where what was fetched met what came.
        assert limit <= leased <= 2 * limit
        assert len(held_in(server)) == leased
        work.go_on.set()
        await until(lambda: len(work.done) == MANY)
    assert work.most == limit
    assert set(work.done.values()) == {1}


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_what_is_at_hand(tmp_path: Path, *, is_stopped: bool) -> None:
    """What was fetched while all slots were taken runs next; a stop gives it back at once."""
    work = Workload()
    work.go_on.clear()
    server = CallbackServer(
        port=0, store=url_in(tmp_path), max_concurrency=1, shutdown_timeout=0 if is_stopped else 30
    )
    server.on_disconnected(name="work")(work.run)
    async with server:
        await post_to(server, body_of("1"))
        await until(lambda: work.now == 1)
        await post_to(server, body_of("2"))
        store = server.store
        polled = await store.poll(Poll(store.owner, {"work": 1}, frozenset(), 0))
        dispatcher: Dispatcher = vars(server)["_dispatcher"]
        dispatcher.deliver(Kept(Kind.DISCONNECTED, polled.claims))
        assert (work.now, len(held_in(server))) == (1, 2)
        if not is_stopped:
            work.go_on.set()
            await until(lambda: set(work.done) == {"1", "2"})
    assert work.most == 1
    owned = "SELECT event_id FROM qmc_deliveries WHERE owner IS NOT NULL"
    assert select_in(tmp_path, owned) == []
    due = "SELECT event_id FROM qmc_deliveries WHERE state = 'pending' ORDER BY event_id"
    assert select_in(tmp_path, due) == ([("1",), ("2",)] if is_stopped else [])


async def test_a_run_is_no_outcome_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many may run is not limited by how many outcomes may wait to be written down."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._UNSETTLED", 2)
    work = Workload()
    work.go_on.clear()
    server = CallbackServer(port=0, max_concurrency=5)
    server.on_disconnected(name="work")(work.run)
    async with server:
        for number in range(5):
            await post_to(server, body_of(str(number)))
            await until(lambda: work.now == number + 1)  # noqa: B023 - it is awaited at once
        work.go_on.set()


async def test_more_may_run_by_default() -> None:
    """A hundred runs of one handler, and the limit is each handler's own."""
    works = [Workload(), Workload()]
    server = CallbackServer(port=0)
    for number, work in enumerate(works):
        work.go_on.clear()
        server.on_disconnected(name=str(number))(work.run)
    async with server:
        await _post_many(server, range(101))
        await until(lambda: [work.now for work in works] == [100, 100])
        for work in works:
            work.go_on.set()
        await until(lambda: [len(work.done) for work in works] == [101, 101])
    assert [work.most for work in works] == [100, 100]


@pytest.mark.parametrize("value", [0, -1, True])
def test_a_limit_that_is_none(value: int) -> None:
    """A server on which no handler could ever run is refused at once."""
    with pytest.raises(ConfigError, match=r"^max_concurrency: ") as caught:
        CallbackServer(max_concurrency=value)
    assert caught.value.setting == "max_concurrency"


@pytest.mark.usefixtures("quick")
async def test_a_hanging_handler_starves_nobody() -> None:
    """A handler that has all its runs stuck does not hold up the others."""
    stuck, good = Workload(), Workload()
    stuck.go_on.clear()
    server = CallbackServer(port=0, max_concurrency=2, shutdown_timeout=0)
    server.on_disconnected(name="stuck")(stuck.run)
    server.on_disconnected(name="good")(good.run)
    async with server:
        await _post_many(server)
        await until(lambda: len(good.done) == MANY)
        assert stuck.now == 2
        assert not stuck.done


async def test_a_backlog_needs_no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has room again fetches what waits, without a second between two handfuls."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._POLLED_EVERY", 600)
    work = Workload()
    server = CallbackServer(port=0, max_concurrency=2)
    server.on_disconnected(work.run)
    async with server:
        await _post_many(server)
        await until(lambda: len(work.done) == MANY)


class SlowlySearched(Store):
    """A store that takes its time to be looked through."""

    def __init__(self) -> None:
        super().__init__()
        self.polled = asyncio.Event()
        self.go_on_polling = asyncio.Event()

    async def poll(self, poll: Poll) -> Polled:
        """Look, when told to."""
        self.polled.set()
        await self.go_on_polling.wait()
        return await super().poll(poll)


async def test_what_comes_during_a_look_needs_no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are booked while the store is looked through; what comes then is not left lying."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._POLLED_EVERY", 600)
    store, work = SlowlySearched(), Workload()
    server = CallbackServer(port=0, store=store, max_concurrency=2)
    server.on_disconnected(work.run)
    async with server:
        await store.polled.wait()
        await _post_many(server, range(5))
        store.go_on_polling.set()
        await until(lambda: len(work.done) == 5)
    assert work.most <= 2


@pytest.mark.usefixtures("quick")
async def test_what_the_store_keeps_too_late(tmp_path: Path) -> None:
    """All that a blocked database keeps at once when it is back finds no more slots than ever."""
    work = Workload()
    server = CallbackServer(port=0, store=Store(url_in(tmp_path), patience=0.2), max_concurrency=2)
    server.on_disconnected(name="work")(work.run)
    async with server:
        with closing(sqlite3.connect(tmp_path / "qmc.db", isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            for start in range(0, MANY, 20):
                await _post_many(server, range(start, start + 20))
            assert set(server.problems) == {"store"}
            assert not work.done
            blocker.execute("ROLLBACK")
        await until(lambda: len(work.done) == MANY)
        await until(lambda: not server.problems)
    assert work.most <= 2
    assert set(work.done.values()) == {1}
