"""Timeouts of many tasks by one timer: they end as `asyncio.timeout` would have ended them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qmc_async.callback.patience import Patience


async def _run(
    patience: Patience,
    timeout: float,  # noqa: ASYNC109 - it is what is tested
    work: Any,  # noqa: ANN401 - a coroutine
) -> tuple[str, bool, int]:
    """How a task ended, whether it was late, and how many still want it cancelled."""
    task = asyncio.current_task()
    assert task is not None
    how, is_late = "done", False
    try:
        patience.begin(task, timeout)
        try:
            await work
        finally:
            is_late = patience.end(task)
    except asyncio.CancelledError:
        how = "cancelled"
    return how, is_late, task.cancelling()


async def _stubborn(*, ends: bool) -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        if not ends:
            await asyncio.sleep(0.2)


async def test_who_is_late_is_cancelled() -> None:
    """And nobody else: each has its own time, whoever comes first."""
    patience = Patience()
    tasks = [
        asyncio.create_task(_run(patience, timeout, asyncio.sleep(pause)))
        for timeout, pause in ((60, 0), (0.05, 60), (0.02, 60), (60, 0.1), (0.04, 0.001))
    ]
    assert await asyncio.gather(*tasks) == [
        ("done", False, 0),
        ("cancelled", True, 0),
        ("cancelled", True, 0),
        ("done", False, 0),
        ("done", False, 0),
    ]


@pytest.mark.parametrize("ends", [True, False])
async def test_who_goes_on_all_the_same(*, ends: bool) -> None:
    """It is not cancelled a second time, and known to be late."""
    patience = Patience()
    ended = await asyncio.create_task(_run(patience, 0.01, _stubborn(ends=ends)))
    assert ended == ("done", True, 0)


async def test_who_is_cancelled_from_elsewhere_too() -> None:
    """That is not forgotten, whichever comes first."""
    for pause in (0.01, 0.15):
        task = asyncio.create_task(_run(Patience(), 0.1, _stubborn(ends=False)))
        await asyncio.sleep(pause)
        task.cancel()
        assert await task == ("cancelled", True, 1)


async def test_a_timer_for_all() -> None:
    """A thousand tasks that end in time set one timer."""
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    call_at = loop.call_at

    def noted(when: float, *rest: Any) -> asyncio.TimerHandle:  # noqa: ANN401 - as the loop's
        timers.append(when)
        return call_at(when, *rest)

    loop.call_at = noted  # type: ignore[method-assign, assignment]  # it is counted
    try:
        patience = Patience()
        await asyncio.gather(
            *(asyncio.create_task(_run(patience, 60, asyncio.sleep(0))) for _ in range(1000))
        )
    finally:
        del loop.call_at
    assert len(timers) == 1
