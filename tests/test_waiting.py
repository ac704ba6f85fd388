"""`wait_for`: before and after the event came, by either id, and every way not to get it."""

from __future__ import annotations

import asyncio
import builtins
import gc
import json
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from qmc_async import ArgumentError, Call, CallbackServer, Disconnected
from qmc_async.callback.waiting import Waiting
from qmc_async.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qmc_async.models import Notification

END = datetime(2023, 8, 29, 0, 52, 10, tzinfo=UTC)
CALL = Call(call_id="4711", out_call_id="order-42", placed_at=END)


def _event(call_id: str = "4711", out_call_id: str | None = "order-42") -> Disconnected:
    return Disconnected(call_id=call_id, end_time=END, out_call_id=out_call_id)


def _futures(waiting: Waiting) -> dict[object, object]:
    futures: dict[object, object] = vars(waiting)["_futures"]
    return futures


def _waiters(server: CallbackServer) -> dict[object, object]:
    return _futures(vars(server)["_waiting"])


async def _until_waiting(server: CallbackServer, keys: int = 1) -> None:
    async with asyncio.timeout(5):
        while len(_waiters(server)) < keys:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0)
    await asyncio.sleep(0.01)


async def _report(
    server: CallbackServer, call_id: str = "4711", out_call_id: str | None = "order-42"
) -> None:
    """Post a notification as the platform does."""
    body = {
        "callidentifier": call_id,
        "status": "Disconnected",
        "endTime": "2023-08-29 08:52:10",
        "outCallId": out_call_id,
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.url, data=json.dumps(body)) as reply,
    ):
        assert reply.status == 200


@pytest.fixture
async def server() -> AsyncIterator[CallbackServer]:
    """A running server."""
    async with CallbackServer(port=0, shutdown_timeout=0.2) as server:
        yield server


# --- the event ---------------------------------------------------------------------------------

WAYS: list[dict[str, Any]] = [{"call": CALL}, {"call": "4711"}, {"out_call_id": "order-42"}]


@pytest.mark.parametrize("way", WAYS, ids=["call", "id", "out_call_id"])
async def test_after_it_came(server: CallbackServer, way: dict[str, Any]) -> None:
    """A report that is there already is returned at once, even with no time to wait."""
    await _report(server)
    assert await server.wait_for(**way, timeout=0) == _event()
    assert await server.wait_for(**way, timeout=30) == _event()
    assert not _waiters(server)


@pytest.mark.parametrize("way", WAYS, ids=["call", "id", "out_call_id"])
async def test_before_it_comes(server: CallbackServer, way: dict[str, Any]) -> None:
    """Who waits is woken by the report of that call, not by another's; nothing is left behind."""
    waiting = asyncio.ensure_future(server.wait_for(**way, timeout=30))
    await _until_waiting(server)
    await _report(server, "4712", "order-43")
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await _report(server)
    assert await waiting == _event()
    assert not _waiters(server)


async def test_many_wait_for_one_call(server: CallbackServer) -> None:
    """All who wait for a call get its report, whichever id they know."""
    waiting = [asyncio.ensure_future(server.wait_for(**way, timeout=30)) for way in WAYS * 5]
    await _until_waiting(server, 2)
    await _report(server)
    events = await asyncio.gather(*waiting)
    assert len(events) == 15
    assert all(event is events[0] for event in events)
    assert not _waiters(server)


async def test_many_wait_for_many_calls(server: CallbackServer) -> None:
    """Each waiter gets its own call's report, in whatever order they come."""
    ids = [str(number) for number in range(20)]
    waiting = [asyncio.ensure_future(server.wait_for(call_id, timeout=30)) for call_id in ids]
    await _until_waiting(server, 20)
    for call_id in reversed(ids):
        await _report(server, call_id, None)
    assert [event.call_id for event in await asyncio.gather(*waiting)] == ids


async def test_the_handler_gets_it_too() -> None:
    """Waiting takes nothing away from the handlers, and needs none."""
    seen: list[Disconnected] = []
    server = CallbackServer(port=0)

    @server.on_disconnected
    async def note(event: Disconnected) -> None:
        seen.append(event)

    async with server:
        waiting = asyncio.ensure_future(server.wait_for(CALL, timeout=30))
        await _until_waiting(server)
        await _report(server)
        assert await waiting == _event()
    assert seen == [_event()]


async def test_an_unknown_notification_wakes_nobody(server: CallbackServer) -> None:
    """Another status of the same call is not its end."""
    waiting = asyncio.ensure_future(server.wait_for("4711", timeout=30))
    await _until_waiting(server)
    async with aiohttp.ClientSession() as session:
        body = json.dumps({"callidentifier": "4711", "status": "Ringing"})
        async with session.post(server.url, data=body) as reply:
            assert reply.status == 200
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await _report(server)
    assert await waiting == _event()


async def test_no_id_of_ours_is_not_the_empty_one(server: CallbackServer) -> None:
    """A report without `outCallId` is never handed to who waits for an empty one."""
    waiting = asyncio.ensure_future(server.wait_for(out_call_id="", timeout=0.1))
    await _until_waiting(server)
    await _report(server, "9", None)
    with pytest.raises(TimeoutError):
        await waiting


async def test_wait_in_a_handler() -> None:
    """A handler may itself wait for the call that it handles: it is reported already."""
    found: list[Disconnected] = []
    server = CallbackServer(port=0)

    @server.on_disconnected
    async def wait(event: Disconnected) -> None:
        found.append(await server.wait_for(event.call_id, timeout=1))

    async with server:
        await _report(server)
    assert found == [_event()]


class Racing(MemoryStore):
    """A store whose look-up is overtaken by the notification."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.find_first = True

    async def find(
        self, *, call_id: str | None = None, out_call_id: str | None = None
    ) -> Disconnected | None:
        """Look before, or after, the pause."""
        known = await super().find(call_id=call_id, out_call_id=out_call_id)
        self.looked.set()
        await self.go_on.wait()
        if self.find_first:
            return known
        return await super().find(call_id=call_id, out_call_id=out_call_id)


@pytest.mark.parametrize("find_first", [True, False])
async def test_it_comes_during_the_look_up(find_first: bool) -> None:  # noqa: FBT001 - both orders
    """A report that comes between the look-up and the wait is not missed."""
    store = Racing()
    store.find_first = find_first
    waiting = Waiting(store)
    task = asyncio.ensure_future(waiting.wait(call_id="4711", out_call_id=None, timeout=5))
    await store.looked.wait()
    event = _event()
    await store.put(event, b"{}")
    waiting.wake(event)
    store.go_on.set()
    assert await task is event
    assert not _futures(waiting)


async def test_woken_twice() -> None:
    """A second report for the same waiter changes nothing: the first one counts."""
    waiting = Waiting(MemoryStore())
    task = asyncio.ensure_future(waiting.wait(call_id=None, out_call_id="order-42", timeout=5))
    await asyncio.sleep(0)
    first, second = _event("1"), _event("2")
    waiting.wake(first)
    waiting.wake(second)
    waiting.give_up()
    assert await task is first


# --- no event ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "name"),
    [(WAYS[0], "call_id 4711"), (WAYS[1], "call_id 4711"), (WAYS[2], "out_call_id order-42")],
)
async def test_timeout(server: CallbackServer, way: dict[str, Any], name: str) -> None:
    """Nothing in time is the builtin `TimeoutError`, which names the call; nobody is left."""
    began = time.monotonic()
    with pytest.raises(builtins.TimeoutError) as caught:
        await server.wait_for(**way, timeout=0.05)
    assert 0.05 <= time.monotonic() - began < 5
    assert str(caught.value) == f"no notification for {name} in 0.05 s; it may yet come"
    assert caught.value.__suppress_context__
    assert not _waiters(server)


async def test_timeout_leaves_the_others_waiting(server: CallbackServer) -> None:
    """One waiter's patience is not another's."""
    patient = asyncio.ensure_future(server.wait_for(CALL, timeout=30))
    with pytest.raises(TimeoutError):
        await server.wait_for(CALL, timeout=0.02)
    assert not patient.done()
    await _report(server)
    assert await patient == _event()
    assert not _waiters(server)


async def test_a_store_that_does_not_answer() -> None:
    """The timeout counts from the beginning: a look-up that hangs does not outlive it."""
    waiting = Waiting(Racing())
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError, match="call_id 4711"):
            await waiting.wait(call_id="4711", out_call_id=None, timeout=0.05)
    assert not _futures(waiting)


class Broken(MemoryStore):
    """A store that cannot look anything up."""

    async def find(
        self, *, call_id: str | None = None, out_call_id: str | None = None
    ) -> Disconnected | None:
        """Fail."""
        raise OSError(f"{call_id}{out_call_id}")


async def test_a_store_that_fails() -> None:
    """The store's error reaches who waits, who leaves nothing behind."""
    async with CallbackServer(port=0, store=Broken()) as server:
        with pytest.raises(OSError, match="4711"):
            await server.wait_for("4711", timeout=5)
        assert not _waiters(server)


async def test_cancelled(server: CallbackServer) -> None:
    """Who stops waiting leaves nothing behind, and the others go on."""
    tasks = [asyncio.ensure_future(server.wait_for(CALL, timeout=30)) for _ in range(3)]
    await _until_waiting(server)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert len(_waiters(server)) == 1
    for task in tasks[1:]:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert not _waiters(server)


async def test_cancelled_as_it_comes() -> None:
    """A waiter cancelled in the very moment that its event comes ends cancelled, and is gone."""
    waiting = Waiting(MemoryStore())
    task = asyncio.ensure_future(waiting.wait(call_id="4711", out_call_id=None, timeout=5))
    await asyncio.sleep(0)
    task.cancel()
    waiting.wake(_event())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _futures(waiting)


async def test_an_impatient_caller(server: CallbackServer) -> None:
    """The caller's own timeout stays the caller's: it is not taken for ours."""
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.02):
            await server.wait_for(CALL, timeout=30)
    assert "no notification" not in str(caught.value)
    assert not _waiters(server)


# --- no server ---------------------------------------------------------------------------------


async def test_stop_while_waiting() -> None:
    """Nobody waits for a server that has stopped: all are told, and nothing is left behind."""
    server = CallbackServer(port=0)
    async with server:
        tasks = [asyncio.ensure_future(server.wait_for(**way, timeout=30)) for way in WAYS]
        await _until_waiting(server, 2)
    for task in tasks:
        with pytest.raises(RuntimeError, match="stopped before the notification came"):
            await task
    assert not _waiters(server)


async def test_stop_during_the_look_up() -> None:
    """A waiter that is still looking it up when the server stops finds it, or is told."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    for found in (True, False):
        store = Racing()
        store.find_first = False
        waiting = Waiting(store)
        task = asyncio.ensure_future(waiting.wait(call_id="4711", out_call_id=None, timeout=5))
        await store.looked.wait()
        waiting.give_up()
        if found:
            await store.put(_event(), b"{}")
        store.go_on.set()
        await asyncio.wait([task])
        if found:
            assert task.result() == _event()
        else:
            assert isinstance(task.exception(), RuntimeError)
        del task
        gc.collect()
    await asyncio.sleep(0)
    assert not complaints


async def test_not_running() -> None:
    """Before the start and after the stop nothing can come, and waiting is refused at once."""
    server = CallbackServer(port=0)
    with pytest.raises(RuntimeError, match="to be running"):
        await server.wait_for(CALL, timeout=30)
    async with server:
        await _report(server)
    with pytest.raises(RuntimeError, match="to be running"):
        await server.wait_for(CALL, timeout=30)


async def test_waiting_again_after_a_restart() -> None:
    """A server that was started again can be waited for again."""
    server = CallbackServer(port=0)
    async with server:
        pass
    async with server:
        waiting = asyncio.ensure_future(server.wait_for(CALL, timeout=30))
        await _until_waiting(server)
        await _report(server)
        assert await waiting == _event()


async def test_another_event_loop(server: CallbackServer) -> None:
    """A server belongs to the loop it was started on; from another one it cannot be waited for."""
    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(server.wait_for(CALL, timeout=0.1))
        except BaseException as error:  # noqa: BLE001 - it is looked at below
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    [error] = caught
    assert isinstance(error, RuntimeError)
    assert "on this event loop" in str(error)
    assert not _waiters(server)


@pytest.mark.parametrize(
    "ids", [{}, {"call": CALL, "out_call_id": "x"}, {"call": "", "out_call_id": ""}]
)
async def test_exactly_one_id(ids: dict[str, Any]) -> None:
    """Neither and both are a mistake in the program, whether the server runs or not."""
    server = CallbackServer(port=0)
    with pytest.raises(ArgumentError, match="either call or out_call_id") as caught:
        await server.wait_for(**ids, timeout=1)
    assert caught.value.argument == "call"


class Slow(MemoryStore):
    """A store that takes its time to keep something."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def put(self, event: Notification, body: bytes) -> bool:
        """Keep it when told to."""
        await self.go_on.wait()
        return await super().put(event, body)


async def test_nobody_is_woken_before_it_is_kept() -> None:
    """What is not kept yet could be lost yet: it wakes nobody."""
    store = Slow()
    async with CallbackServer(port=0, store=store) as server:
        waiting = asyncio.ensure_future(server.wait_for(CALL, timeout=30))
        await _until_waiting(server)
        posting = asyncio.ensure_future(_report(server))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        store.go_on.set()
        assert await waiting == _event()
        await posting


class Hasty(MemoryStore):
    """A store whose own time is up."""

    async def find(self, *, call_id: str | None = None, out_call_id: str | None = None) -> None:
        """Fail as a database does."""
        del call_id, out_call_id
        raise TimeoutError("the database did not answer")


async def test_the_store_gives_up() -> None:
    """The store's time-out is not taken for a notification that did not come."""
    with pytest.raises(TimeoutError, match="the database did not answer"):
        await Waiting(Hasty()).wait(call_id="4711", out_call_id=None, timeout=5)
