"""Deadlines of many things by one timer, on either event loop: nobody is late who was in time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from loop_runners import LOOPS, on

from qmc_async.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Of an event loop."""
    with on(request.param) as runner:
        yield runner


def test_who_waits_too_long(runner: asyncio.Runner) -> None:
    """Each is told of once, at its time, whichever was added first, and whenever that was."""
    late: list[str] = []

    async def scene() -> None:
        deadlines = Deadlines(late.append)
        now = asyncio.get_running_loop().time()
        for name, seconds in {"never": 60, "third": 0.2, "second": 0.05, "past": -1}.items():
            deadlines.add(name, now + seconds)
        deadlines.add("discarded", now + 0.05)
        assert deadlines.discard("discarded")
        await asyncio.sleep(0.12)
        assert late == ["past", "second"]
        deadlines.add("fourth", now)
        await asyncio.sleep(0.15)
        assert [name for name in ("never", "third", "fourth") if deadlines.discard(name)] == [
            "never"
        ]

    runner.run(scene())
    assert late == ["past", "second", "fourth", "third"]


def test_one_a_millisecond(runner: asyncio.Runner) -> None:
    """There is always one whose time is just up as the next are looked at."""
    late: list[int] = []

    async def scene() -> None:
        deadlines = Deadlines(late.append)
        loop = asyncio.get_running_loop()
        for number in range(300):
            deadlines.add(number, loop.time() + 0.02)
            await asyncio.sleep(0.0003)
        await asyncio.sleep(0.1)

    runner.run(scene())
    assert late == list(range(300))


def test_an_answer_in_the_round_in_which_time_is_up(runner: asyncio.Runner) -> None:
    """It counts: the event loop had it to do already. Who asks again has as long as he says."""
    late: list[str] = []
    discarded: list[bool] = []

    async def scene() -> None:
        deadlines = Deadlines(late.append)
        loop = asyncio.get_running_loop()

        def answer() -> None:
            discarded.extend(map(deadlines.discard, ("one", "other")))
            deadlines.add("other", loop.time() + 60)

        for name in ("one", "other"):
            deadlines.add(name, loop.time() + 0.01)
        loop.call_at(loop.time() + 0.011, answer)
        time.sleep(0.03)  # noqa: ASYNC251 - so that all are due in one round
        await asyncio.sleep(0.02)

    runner.run(scene())
    assert discarded == [True, True]
    assert not late
