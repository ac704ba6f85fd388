"""A server on the event loops that people run it on: uvicorn prefers uvloop, others eager tasks."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, hurry, select_in, until, url_in
from loop_runners import LOOPS, on
from store_support import hurry_spool, locked

from qmc_async import CallbackServer, Disconnected
from qmc_async.store import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_spool(monkeypatch)
    hurry(monkeypatch)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_database_that_stands_still(loop: str, tmp_path: Path) -> None:
    """What comes meanwhile, one a millisecond, is answered and handled once, on every loop."""
    server = CallbackServer(port=0, store=Store(url_in(tmp_path), patience=0.05))
    runs: Counter[str] = Counter()
    statuses: Counter[int] = Counter()

    @server.on_disconnected(name="a")
    async def count(event: Disconnected) -> None:
        runs[event.call_id] += 1

    async def send(number: int) -> None:
        reply = await vars(server)["_receiver"].take(body_of(str(number)))
        statuses[reply.status] += 1

    async def scene() -> None:
        async with server, asyncio.TaskGroup() as group:
            with locked(tmp_path):
                for number in range(300):
                    group.create_task(send(number))
                    await asyncio.sleep(0.001)
            await until(lambda: len(runs) == 300)
            await asyncio.sleep(0.1)

    with on(loop) as runner:
        runner.run(scene())
    assert statuses == {200: 300}
    assert set(runs.values()) == {1}


@pytest.mark.parametrize("loop", LOOPS)
def test_handlers_that_hang(loop: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each is ended at its time, and nothing else fails."""
    server = CallbackServer(port=0, store=url_in(tmp_path))
    quick = 0

    @server.on_disconnected(name="hangs", timeout=0.3)
    async def hang(_: Disconnected) -> None:
        await asyncio.Event().wait()

    @server.on_disconnected(name="quick")
    async def count(_: Disconnected) -> None:
        nonlocal quick
        quick += 1

    async def scene() -> None:
        async with server:
            async with asyncio.TaskGroup() as group:
                for number in range(600):
                    group.create_task(vars(server)["_receiver"].take(body_of(str(number))))
                    await asyncio.sleep(0.001)
            await until(lambda: quick == 600)

    with on(loop) as runner:
        runner.run(scene())
    failures = {repr(record.exc_info[1]) for record in caplog.records if record.exc_info}
    assert failures == {"TimeoutError('it took longer than 0.3 s')"}


def _begin_at_once(loop: Any, work: Any, **options: Any) -> Any:  # noqa: ANN401 - as the loop calls it
    """What `asyncio.eager_task_factory` does, which Python has from 3.12 on."""
    private: Any = asyncio.tasks
    task = private._PyTask(work, loop=loop, **options)
    loop._ready.pop().cancel()  # its first step
    current = asyncio.current_task(loop)
    if current is not None:
        private._leave_task(loop, current)
    try:
        task._context.run(task._Task__step)
    finally:
        if current is not None:
            private._enter_task(loop, current)
    return task


async def test_eager_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers that have ended before their task is there are done, however many they are."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._UNSETTLED", 10)
    server = CallbackServer(port=0, store=url_in(tmp_path))
    runs: Counter[str] = Counter()

    @server.on_disconnected(name="a")
    async def count(event: Disconnected) -> None:
        runs[event.call_id] += 1

    def states() -> list[tuple[str]]:
        return select_in(tmp_path, "SELECT state FROM qmc_deliveries")

    async with server:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory", _begin_at_once))
        try:
            for number in range(50):
                await vars(server)["_receiver"].take(body_of(str(number)))
            await until(lambda: len(runs) == 50 and set(states()) == {("done",)})
        finally:
            loop.set_task_factory(None)
    assert set(runs.values()) == {1}
