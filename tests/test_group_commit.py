"""Group commit: what comes together is done together, and each is told of its own only."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, select_in, until
from store_support import (
    driver_of,
    held_up,
    in_thread,
    keep,
    never_late,
    put_of,
    store_in,
    waiting,
)

from qmc_async import StoreError
from qmc_async.store import Kind
from qmc_async.store.group_commit import GroupCommit, Job

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy import Connection


class Bench:
    """A `GroupCommit` over a list, whose work can be held up and can fail."""

    def __init__(self) -> None:
        self.done: list[list[object]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.started = threading.Event()
        self.busy = threading.Event()
        self.stopped = 0
        self.failure: BaseException | None = None
        self.group = GroupCommit[list[object]](
            "bench", start=self.start, commit=self.commit, stop=self.stop
        )

    def start(self) -> None:
        """Begin, or fail."""
        self.started.set()
        self.go_on.wait(60)
        if self.failure:
            raise self.failure

    def commit(self, jobs: Sequence[Job]) -> None:
        """Note the arguments of the jobs."""
        self.busy.set()
        self.go_on.wait(60)
        if self.failure:
            raise self.failure
        self.done.append([job.argument for job in jobs])
        for job in jobs:
            job.result = job.argument

    def stop(self) -> None:
        """Count."""
        self.stopped += 1

    def submit(self, argument: object) -> asyncio.Future[object]:
        """Ask for something."""
        return self.group.submit(_echo, argument)


def _echo(_: list[object], arguments: Sequence[object]) -> Sequence[object]:
    return arguments


def _threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


# --- the thread --------------------------------------------------------------------------------


async def test_who_comes_alone_does_not_wait() -> None:
    """One job on an idle thread is done by itself, at once, with its own result."""
    bench = Bench()
    await bench.group.open()
    assert await bench.submit("one") == "one"
    assert await bench.submit("two") == "two"
    await bench.group.close()
    assert bench.done == [["one"], ["two"]]


async def test_who_comes_while_the_thread_is_busy_shares_the_next_go() -> None:
    """Everything that waits is done in one go, in its order, 500 at most."""
    bench = Bench()
    await bench.group.open()
    bench.go_on.clear()
    futures = [bench.submit(0)]
    await until(bench.busy.is_set)
    futures += [bench.submit(number) for number in range(1, 1002)]
    bench.go_on.set()
    assert await asyncio.gather(*futures) == list(range(1002))
    assert [len(go) for go in bench.done] == [1, 500, 500, 1]
    await bench.group.close()


async def test_who_can_wait_is_taken_along() -> None:
    """A job that can wait goes with the next that cannot, or by itself; closing does it at once."""
    bench = Bench()
    await bench.group.open()
    bench.go_on.clear()
    futures = [bench.submit(0)]
    await until(bench.busy.is_set)
    told: list[object] = []
    for number in (1, 2):
        bench.group.begin(_echo, number, told.append, can_wait=True)
    futures.append(bench.submit(3))
    bench.go_on.set()
    assert await asyncio.gather(*futures) == [0, 3]
    bench.group.begin(_echo, 4, told.append, can_wait=True)
    await until(lambda: len(told) == 3)
    bench.group.begin(_echo, 5, told.append, can_wait=True)
    await bench.group.close()
    assert told == [1, 2, 4, 5]
    assert bench.done == [[0], [1, 2, 3], [4], [5]]


async def test_who_is_told_and_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and those who come after are told all the same."""
    bench = Bench()
    await bench.group.open()
    bench.group.begin(_echo, 1, lambda _: 1 / 0)
    assert await bench.submit(2) == 2
    assert "ZeroDivisionError" in caplog.text
    await bench.group.close()


async def test_close_does_what_waits() -> None:
    """Closing ends the thread after everything that was asked for before; later is too late."""
    bench = Bench()
    await bench.group.open()
    bench.go_on.clear()
    futures = [bench.submit(number) for number in range(10)]
    closing = asyncio.ensure_future(bench.group.close())
    await asyncio.sleep(0)
    with pytest.raises(StoreError, match="not open"):
        bench.submit("late")
    bench.go_on.set()
    await closing
    assert await asyncio.gather(*futures) == list(range(10))
    await bench.group.close()
    assert bench.stopped == 1
    await until(lambda: not _threads("bench"))


async def test_before_it_is_open_nothing_is_taken() -> None:
    """Asking too early is an error, and closing what was never open does nothing."""
    bench = Bench()
    with pytest.raises(StoreError, match="not open"):
        bench.submit("early")
    await bench.group.close()
    assert bench.stopped == 0


async def test_a_start_that_fails_is_told_and_leaves_nothing() -> None:
    """Who opens sees the error itself; the thread has let go of everything, and is gone."""
    bench = Bench()
    bench.failure = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        await bench.group.open()
    assert bench.stopped == 1
    await until(lambda: not _threads("bench"))


@pytest.mark.parametrize("fails", [False, True])
async def test_opening_can_be_cancelled(*, fails: bool) -> None:
    """The thread ends all the same, and a start that fails meanwhile is no loose end."""
    loose: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: loose.append(context))
    bench = Bench()
    bench.go_on.clear()
    opening = asyncio.ensure_future(bench.group.open())
    await until(bench.started.is_set)
    opening.cancel()
    await asyncio.sleep(0)
    bench.failure = ValueError("no") if fails else None
    bench.go_on.set()
    await asyncio.wait([opening])  # who awaits it itself keeps its frames, and what they hold
    assert opening.cancelled()
    assert bench.stopped == 1
    await until(lambda: not _threads("bench"))
    del opening, bench
    gc.collect()
    assert not loose


async def test_a_commit_that_breaks_is_told_to_all() -> None:
    """Nobody waits for ever, and the thread goes on."""
    bench = Bench()
    await bench.group.open()
    bench.failure = MemoryError()
    with pytest.raises(MemoryError):
        await bench.submit("one")
    bench.failure = None
    assert await bench.submit("two") == "two"
    await bench.group.close()


async def test_a_job_goes_on_where_nobody_waits_for_it() -> None:
    """Who is cancelled has asked all the same."""
    bench = Bench()
    await bench.group.open()
    bench.go_on.clear()
    future = bench.submit("one")
    future.cancel()
    bench.go_on.set()
    await bench.group.close()
    assert bench.done == [["one"]]


async def test_a_stop_that_fails_does_not_hang_who_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing ends, whatever letting go runs into."""
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    bench = Bench()
    vars(bench.group)["_stop"] = lambda: 1 / 0
    await bench.group.open()
    async with asyncio.timeout(5):
        await bench.group.close()
    await until(lambda: seen)


# --- event loops -------------------------------------------------------------------------------


def test_another_event_loop_is_told_so() -> None:
    """The futures belong to one loop: from another one it is a clear error, not a hang."""
    bench = Bench()

    async def elsewhere() -> None:
        with pytest.raises(StoreError, match="another event loop"):
            bench.submit("one")

    async def here() -> None:
        await bench.group.open()
        await asyncio.to_thread(asyncio.run, elsewhere())
        await bench.group.close()

    asyncio.run(here())


def test_a_loop_that_is_gone() -> None:
    """A loop that is closed while the thread works: what was asked for is done, then it ends."""
    bench = Bench()

    async def leave() -> None:
        await bench.group.open()
        bench.go_on.clear()
        bench.submit("one")
        await until(bench.busy.is_set)
        bench.submit("two")

    asyncio.run(leave())
    bench.go_on.set()
    for thread in _threads("bench"):
        thread.join(10)
    assert not _threads("bench")
    assert bench.stopped == 1
    assert bench.done == [["one"], ["two"]]


# --- in the database ---------------------------------------------------------------------------


async def test_concurrent_notifications_share_a_transaction(tmp_path: Path) -> None:
    """While one commit is under way all others gather: one transaction for a hundred of them."""
    async with store_in(tmp_path) as store:
        statements: list[str] = []
        async with held_up(store):
            driver_of(store).set_trace_callback(statements.append)
            keeping = [asyncio.ensure_future(keep(store, body_of(str(n)))) for n in range(100)]
            await until(lambda: waiting(store) >= 100)
            assert not any(one.done() for one in keeping)
        await asyncio.gather(*keeping)
        assert statements.count("COMMIT") == 2  # one for what was under way, one for the hundred
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(100,)]


async def test_nobody_is_told_before_the_commit(tmp_path: Path) -> None:
    """Whoever has an answer finds the row from another connection: it was committed before."""
    async with store_in(tmp_path) as store:

        async def one(number: int) -> None:
            await keep(store, body_of(str(number)))
            query = "SELECT count(*) FROM qmc_events WHERE event_id = ?"
            assert select_in(tmp_path, query, str(number)) == [(1,)]

        await asyncio.gather(*(one(number) for number in range(50)))


async def test_a_job_at_fault_does_not_spoil_the_others(tmp_path: Path) -> None:
    """In one go with a mistake and with what the database refuses, the good ones are done."""

    def refused(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO qmc_schema (version) VALUES (NULL)")

    def mistaken(_: Connection) -> None:
        raise KeyError("a mistake")

    async with store_in(tmp_path) as store:
        async with held_up(store):
            good = [asyncio.ensure_future(keep(store, body_of(str(n)))) for n in range(10)]
            bad = [asyncio.ensure_future(in_thread(store, work)) for work in (refused, mistaken)]
            await until(lambda: waiting(store) >= 12)
        assert {kept.kind for kept in await asyncio.gather(*good)} == {Kind.DISCONNECTED}
        refusal, mistake = await asyncio.gather(*bad, return_exceptions=True)
        assert isinstance(refusal, StoreError)
        assert not refusal.temporary
        assert isinstance(mistake, StoreError | KeyError)
        assert store.problems == {}
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(10,)]
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_schema") == [(1,)]


async def test_closing_the_store_commits_what_waits(tmp_path: Path) -> None:
    """What was handed over before `close` is in the file after it."""
    async with store_in(tmp_path) as store:
        async with held_up(store):
            keeping = [
                asyncio.ensure_future(store.keep(put_of(body_of(str(n))), never_late))
                for n in range(20)
            ]
            await until(lambda: waiting(store) >= 20)
            closing = asyncio.ensure_future(store.close())
            await asyncio.sleep(0)
        await closing
        assert all(await asyncio.gather(*keeping))
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(20,)]
