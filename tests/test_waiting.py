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
from callback_peer import Store as SlowStore
from callback_peer import until

from qmc_async import ArgumentError, Call, CallbackServer, Disconnected
from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from qmc_async.callback.waiting import Waiting
    from qmc_async.models import Overdue

END = datetime(2023, 8, 29, 0, 52, 10, tzinfo=UTC)
CALL = Call(call_id="4711", out_call_id="order-42", placed_at=END)


def _event(call_id: str = "4711", out_call_id: str | None = "order-42") -> Disconnected:
    return Disconnected(call_id=call_id, end_time=END, out_call_id=out_call_id)


def _waiters(server: CallbackServer) -> dict[object, object]:
    waiting: Waiting = vars(server)["_waiting"]
    futures: dict[object, object] = vars(waiting)["_futures"]
    return futures


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
        await until(lambda: seen)
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
        await until(lambda: found)
    assert found == [_event()]


class Racing(Store):
    """A store whose look-up is overtaken by the notification."""

    def __init__(self) -> None:
        super().__init__("sqlite://")
        self.looked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.find_first = True

    async def find(
        self, call_ids: Collection[str] = (), out_call_ids: Collection[str] = ()
    ) -> tuple[Mapping[str, Disconnected | Overdue], Mapping[str, Disconnected | Overdue]]:
        """Look before, or after, the pause."""
        known = await super().find(call_ids, out_call_ids)
        self.looked.set()
        await self.go_on.wait()
        return known if self.find_first else await super().find(call_ids, out_call_ids)


@pytest.mark.parametrize("find_first", [True, False])
async def test_it_comes_during_the_look_up(find_first: bool) -> None:  # noqa: FBT001 - both orders
    """A report that comes between the look-up and the wait is not missed."""
    store = Racing()
    store.find_first = find_first
    async with CallbackServer(port=0, store=store) as server:
        task = asyncio.ensure_future(server.wait_for("4711", timeout=5))
        await store.looked.wait()
        await _report(server)
        store.go_on.set()
        assert await task == _event()
        assert not _waiters(server)


async def test_woken_twice(server: CallbackServer) -> None:
    """A second report for the same waiter changes nothing: the first one counts."""
    waiting: Waiting = vars(server)["_waiting"]
    task = asyncio.ensure_future(server.wait_for(out_call_id="order-42", timeout=5))
    await _until_waiting(server)
    first, second = _event("1"), _event("2")
    waiting.wake(first)
    waiting.wake(second)
    await waiting.stop()
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
    async with CallbackServer(port=0, store=Racing()) as server, asyncio.timeout(15):
        for patience in (0, 0.05):
            with pytest.raises(TimeoutError, match="call_id 4711"):
                await server.wait_for("4711", timeout=patience)
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


async def test_cancelled_as_it_comes(server: CallbackServer) -> None:
    """A waiter cancelled in the very moment that its event comes ends cancelled, and is gone."""
    waiting: Waiting = vars(server)["_waiting"]
    task = asyncio.ensure_future(server.wait_for("4711", timeout=5))
    await _until_waiting(server)
    task.cancel()
    waiting.wake(_event())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _waiters(server)


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
    """A waiter that is still looked up when the server stops is told; asyncio does not complain."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    store = Racing()
    async with CallbackServer(port=0, store=store) as server:
        task = asyncio.ensure_future(server.wait_for("4711", timeout=5))
        await store.looked.wait()
    await asyncio.wait([task])
    assert isinstance(task.exception(), RuntimeError)
    del task
    gc.collect()
    await asyncio.sleep(0)
    assert not complaints


async def test_cancelled_as_the_server_stops() -> None:
    """A waiter that is gone already when the server stops leaves nobody who complains."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    server = CallbackServer(port=0)
    async with server:
        task = asyncio.ensure_future(server.wait_for("4711", timeout=5))
        await _until_waiting(server)
        stopping = asyncio.ensure_future(server.stop())
        task.cancel()
        await asyncio.wait([task, stopping])
    del task
    gc.collect()
    assert not complaints
    assert not _waiters(server)


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


@pytest.mark.parametrize("ids", [{"call": 4711}, {"out_call_id": 42}, {"call": b"4711"}])
async def test_an_id_is_a_string(ids: dict[str, Any], server: CallbackServer) -> None:
    """Any other type could never be found: it is a mistake in the program, told at once."""
    with pytest.raises(ArgumentError, match="must be a str") as caught:
        await server.wait_for(**ids, timeout=1)
    assert caught.value.argument == next(iter(ids))


async def test_nobody_is_woken_before_it_is_kept() -> None:
    """What is not kept yet could be lost yet: it wakes nobody."""
    store = SlowStore()
    store.go_on.clear()
    async with CallbackServer(port=0, store=store) as server:
        waiting = asyncio.ensure_future(server.wait_for(CALL, timeout=30))
        await _until_waiting(server)
        posting = asyncio.ensure_future(_report(server))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        store.go_on.set()
        assert await waiting == _event()
        await posting
