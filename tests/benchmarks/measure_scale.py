"""What becomes of it as there is more: events waiting, rows kept, and coroutines that wait."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.request import urlopen

from event_loops import fastest_loop
from filled_store import fill, parts
from kept_events import in_sqlite
from measure_receiver import Receiving
from server_child import HOST, ServerChild

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench import Bench

__all__ = ["SECTION", "START", "measure", "waiting"]

SECTION: Final = "scale"
START: Final = "a start"

_CONNECTIONS: Final = 64
_SETTLING: Final = 2.0  # seconds, for the handlers to be begun


def waiting(count: int) -> str:
    """A contestant of the start."""
    return f"{count:,} waiting"


def measure(bench: Bench) -> None:
    """All three."""
    _starts(bench)
    _growth(bench)
    _waiters(bench)


def _store(bench: Bench, name: str, count: int, *, is_handled: bool) -> Path:
    file = bench.folder / f"{name}-{count}.db"
    with bench.shown.task(f"{SECTION}: writing {count:,} events", parts(count)) as step:
        fill(file, count, is_handled=is_handled, step=step)
    return file


def _starts(bench: Bench) -> None:
    counts = [0, 2_000] if bench.is_quick else [0, 20_000, 200_000, 1_000_000]
    stores = {count: _store(bench, "start", count, is_handled=False) for count in counts}
    bench.compare(
        SECTION,
        START,
        {waiting(count): partial(_start, bench, file) for count, file in stores.items()},
    )
    for file in stores.values():
        file.unlink()


def _start(bench: Bench, file: Path, _: float) -> Mapping[str, float]:
    store = f"sqlite:///{file}"
    with ServerChild("serve_waiting.py", store, "stuck", "0", folder=bench.folder) as server:
        with urlopen(f"http://{HOST}:{server.port}/readyz") as reply:
            assert reply.status == 200
        seconds = time.perf_counter() - server.started
        time.sleep(0.1 if bench.is_quick else _SETTLING)
        return {"seconds": seconds, "work": server.cpu, "memory": server.peak_memory}


def _growth(bench: Bench) -> None:
    counts = [0, 2_000] if bench.is_quick else [0, 100_000, 1_000_000]
    if bench.is_full:
        counts.append(5_000_000)
    files = {count: _store(bench, "kept", count, is_handled=True) for count in counts}
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=fastest_loop()))
        contestants = {
            f"{count:,} kept": Receiving(
                f"{count:,} kept",
                stack.enter_context(
                    ServerChild("serve_qmc.py", f"sqlite:///{file}", folder=bench.folder)
                ),
                bench,
                runner,
                in_sqlite(file),
                count,
            )
            for count, file in files.items()
        }
        _compare(bench, "rows in the store, 64 connections", contestants)
    for file in files.values():
        file.unlink()


def _waiters(bench: Bench) -> None:
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=fastest_loop()))
        contestants: dict[str, Receiving] = {}
        for count in (0, 100) if bench.is_quick else (0, 10_000):
            name = f"{count:,} waiters"
            store = f"sqlite:///{bench.folder / f'waiters-{count}.db'}"
            server = ServerChild("serve_waiting.py", store, "none", str(count), folder=bench.folder)
            contestants[name] = Receiving(name, stack.enter_context(server), bench, runner)
        _compare(bench, "waiters, 64 connections", contestants)
        for name, one in contestants.items():
            bench.record(SECTION, "waiters, memory", name, {"memory": one.server.peak_memory})


def _compare(bench: Bench, scenario: str, contestants: Mapping[str, Receiving]) -> None:
    bench.compare(
        SECTION,
        scenario,
        {name: partial(one.measure, _CONNECTIONS) for name, one in contestants.items()},
    )
