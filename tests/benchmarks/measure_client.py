"""The client: `AsyncQmcClient.call` against HTTP libraries, with 1, 50 and 200 calls in flight.

The CPU time is this process's, which has the client; the platform is on the other core.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import define
from bench import OURS
from client_rivals import with_aiohttp, with_httpx, with_niquests, with_qmc
from event_loops import event_loops
from machine import is_installed
from server_child import HOST, ServerChild

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench import Bench
    from client_rivals import Opened, Place

__all__ = ["AIOHTTP", "HTTPX", "SECTION", "measure", "scenario"]

SECTION: Final = "client"
HTTPX: Final = "httpx, its own pool"
AIOHTTP: Final = "aiohttp"

_BUSY: Final = 0.9  # of a core


def scenario(at_once: int, loop: str = "asyncio", *, closes: bool = False) -> str:
    """What the contestants do."""
    return f"{at_once} in flight, {loop}" + (", Connection: close" if closes else "")


def measure(bench: Bench) -> None:
    """All contestants, on each event loop."""
    contestants: dict[str, Opened] = {
        OURS: with_qmc(),
        f"{OURS}, ledger": with_qmc(f"sqlite:///{bench.folder / 'ledger.db'}"),
        AIOHTTP: with_aiohttp,
        HTTPX: with_httpx,
    }
    if is_installed("niquests"):
        contestants["niquests"] = with_niquests
    loops = event_loops()
    for name in ("niquests", "uvloop"):
        if not is_installed(name):
            bench.note(f"client: {name} is not installed, and left out")
    kinds = [(count, loop, False) for loop in loops for count in (1, 50, 200)]
    kinds.append((50, "asyncio", True))
    if bench.is_quick:
        kinds = [(50, "asyncio", False)]
    with ExitStack() as stack:
        platforms = {
            closes: stack.enter_context(
                ServerChild("serve_platform.py", "close" if closes else "keep", folder=bench.folder)
            )
            for closes in (False, True)
        }
        for at_once, loop, closes in kinds:
            runner = stack.enter_context(asyncio.Runner(loop_factory=loops[loop]))
            what = scenario(at_once, loop, closes=closes)
            calling = _Calling(bench, what, at_once, platforms[closes], runner)
            bench.compare(
                SECTION,
                what,
                {name: partial(calling.measure, opened) for name, opened in contestants.items()},
            )


@define(eq=False)
class _Calling:
    """What the contestants of one comparison have in common."""

    bench: Bench
    scenario: str
    at_once: int
    platform: ServerChild
    runner: asyncio.Runner

    def measure(self, opened: Opened, seconds: float) -> Mapping[str, float]:
        """One round of one of them."""
        url = f"http://{HOST}:{self.platform.port}"
        served = self.platform.cpu
        figures = self.runner.run(_calls(opened, url, self.at_once, seconds))
        busy = (self.platform.cpu - served) / figures.pop("seconds")
        if busy > _BUSY:
            self.bench.note(
                f"client, {self.scenario}: the platform was the limit: CPU time says more"
            )
        return {**figures, "platform": busy}


async def _calls(opened: Opened, url: str, at_once: int, seconds: float) -> dict[str, float]:
    async with opened(url, at_once) as place:
        await asyncio.gather(*(place() for _ in range(at_once)))  # the connections are there
        cpu, begin = time.process_time(), time.perf_counter()
        counts = await asyncio.gather(*(_worker(place, begin + seconds) for _ in range(at_once)))
        taken, cpu = time.perf_counter() - begin, time.process_time() - cpu
    count = sum(counts)
    return {"throughput": count / taken, "cpu": cpu / count, "seconds": taken}


async def _worker(place: Place, until: float) -> int:
    count = 0
    while not count or time.perf_counter() < until:
        await place()
        count += 1
    return count
