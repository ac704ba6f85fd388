"""From hang-up in the sandbox until our user's code knows: a handler, and `wait_for`."""

from __future__ import annotations

import asyncio
import time
from array import array
from typing import TYPE_CHECKING, Final

from account import APP_ID, APP_SECRET, CALLBACK_PATH
from http_load import quantile
from server_child import HOST, ServerChild

from qmc_async import Credentials
from qmc_async.sandbox import Rule, Sandbox, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench import Bench

__all__ = ["HANDLER", "SCENARIO", "SECTION", "WAITER", "measure"]

SECTION: Final = "end-to-end"
SCENARIO: Final = "one call at a time"
HANDLER: Final = "to the handler's first line"
WAITER: Final = "to wait_for returning"

_KINDS: Final = {"handler": HANDLER, "wait_for": WAITER}
_PATIENCE: Final = 30.0
_PAUSE: Final = 0.005  # seconds between two calls: each finds an idle server


def measure(bench: Bench) -> None:
    """One call after another, in rounds."""
    count = 5 if bench.is_quick else 100
    total = (bench.rounds + 1) * count
    store = f"sqlite:///{bench.folder / 'calls.db'}"
    with (
        ServerChild("serve_calls.py", store, str(total), folder=bench.folder) as server,
        bench.shown.task(f"{SECTION}: {SCENARIO}", bench.rounds + 1) as step,
        asyncio.Runner() as runner,
    ):
        ended = runner.run(_hang_up(server.port, total, count, step))
        end = time.monotonic() + _PATIENCE
        while server.said.count("\n") < 2 * total:
            if time.monotonic() > end:
                raise RuntimeError("the end of a call is not known")
            time.sleep(0.01)
        known = dict(_known(server.said))
    for name in _KINDS.values():
        for number in range(bench.rounds):
            calls = range(count * (number + 1), count * (number + 2))  # the first were to warm up
            times = array("d", (known[name, one] - ended[one] for one in calls))
            figures = {f"p{part}": quantile(times, part / 100) for part in (50, 90, 99)}
            bench.record(SECTION, SCENARIO, name, figures, number)


async def _hang_up(port: int, total: int, count: int, step: Callable[[], None]) -> list[float]:
    """When each call has ended."""
    ended: list[float] = []
    async with Sandbox(
        Credentials(APP_ID, APP_SECRET),
        callback_url=f"http://{HOST}:{port}{CALLBACK_PATH}",
        rules=[Rule(scenario=Scenario.endless())],
    ) as platform:
        for number in range(total):
            call = platform.place("13987654321", "13912345678", out_call_id=f"call-{number}")
            ended.append(time.monotonic())
            await platform.hang_up(call)
            await asyncio.sleep(_PAUSE)
            if (number + 1) % count == 0:
                step()
    return ended


def _known(said: str) -> Iterator[tuple[tuple[str, int], float]]:
    for line in said.splitlines():
        kind, number, when = line.split()
        yield (_KINDS[kind], int(number.removeprefix("call-"))), float(when)
