"""The receiver: a notification answered, kept and handled, against those that do less.

Ours is answered once it is on the disk, and counts once its handler has run and is marked done: a
round lasts until all have, and so does its CPU time.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from account import CALLBACK_PATH
from attrs import define
from bench import OURS
from event_loops import fastest_loop
from http_load import Load, quantile
from kept_events import count_handled, in_postgresql, in_sqlite, wait_until_handled
from machine import is_installed
from notifications import requests
from server_child import ServerChild

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench import Bench
    from kept_events import Query

__all__ = [
    "BARE",
    "COMMITTING",
    "SECTION",
    "SESSION",
    "STORING_NOTHING",
    "Receiving",
    "measure",
    "scenario",
]

SECTION: Final = "receiver"
BARE: Final = "aiohttp, bare"
STORING_NOTHING: Final = "FastAPI + pydantic"
COMMITTING: Final = "FastAPI + pydantic + a commit"
SESSION: Final = "FastAPI + pydantic + a session"

_BUSY: Final = 0.9  # of a core
_rounds = itertools.count(1)


def scenario(connections: int) -> str:
    """What the contestants do."""
    return "1 connection" if connections == 1 else f"{connections} connections"


@define(eq=False)
class Receiving:
    """One contestant, that listens."""

    name: str
    server: ServerChild
    bench: Bench
    runner: asyncio.Runner
    ask: Query | None = None
    done: int = 0

    def measure(self, connections: int, seconds: float) -> Mapping[str, float]:
        """One round."""
        first = next(_rounds) * 10_000_000  # an id is there once, whatever the store has
        load = Load.on(self.server.port, requests(self.server.port, CALLBACK_PATH, first))
        cpu = self.server.cpu
        self.runner.run(load.run(connections, seconds))
        answered, end = len(load.answers), time.perf_counter()
        behind = 0.0
        if self.ask is not None:
            wait_until_handled(self.ask)
            behind = time.perf_counter() - end
        cpu = self.server.cpu - cpu
        if load.generator > _BUSY:
            self.bench.note(
                f"receiver, {scenario(connections)}: the sender was the limit of {self.name}: its"
                " CPU time says more than its throughput"
            )
        figures = {
            "throughput": answered / (load.seconds + behind),
            "cpu": cpu / answered,
            "p50": quantile(load.answers, 0.5),
            "p99": quantile(load.answers, 0.99),
            "sender": load.generator,
        }
        if self.ask is not None:
            figures["behind"] = behind
            before, self.done = self.done, count_handled(self.ask)
            if self.done != before + answered:
                raise RuntimeError(
                    f"{self.name}: {answered} were answered, {self.done - before} are done"
                )
        return figures


def measure(bench: Bench) -> None:
    """All contestants, with few and with many connections."""
    there = [module for module in ("uvloop", "httptools") if is_installed(module)]
    bench.note(
        f"receiver: FastAPI runs on uvicorn with {' and '.join(there) or 'h11 on asyncio'}; our"
        " own server and those on aiohttp run on asyncio's own event loop"
    )
    with ExitStack() as stack:
        contestants = _started(bench, stack)
        for connections in (1, 64) if bench.is_quick else (1, 64, 256):
            bench.compare(
                SECTION,
                scenario(connections),
                {one.name: partial(one.measure, connections) for one in contestants},
            )


def _started(bench: Bench, stack: ExitStack) -> list[Receiving]:
    runner = stack.enter_context(asyncio.Runner(loop_factory=fastest_loop()))
    files = {name: bench.folder / f"{name}.db" for name in ("qmc", "asgi", "commit", "session")}
    asgi = f"{OURS} in FastAPI"
    programs = {
        BARE: ("serve_aiohttp.py", CALLBACK_PATH, "bare"),
        OURS: ("serve_qmc.py", f"sqlite:///{files['qmc']}"),
        asgi: ("serve_qmc_asgi.py", f"sqlite:///{files['asgi']}"),
        "aiohttp + json": ("serve_aiohttp.py", CALLBACK_PATH, "json"),
        STORING_NOTHING: ("serve_fastapi.py", CALLBACK_PATH, "nothing"),
        COMMITTING: ("serve_fastapi.py", CALLBACK_PATH, "commit", str(files["commit"])),
        SESSION: ("serve_fastapi.py", CALLBACK_PATH, "session", str(files["session"])),
    }
    postgresql = f"{OURS}, PostgreSQL"
    if url := _postgresql(bench, stack):
        programs[postgresql] = ("serve_qmc.py", url)
    servers = {
        name: ServerChild(*command, folder=bench.folder) for name, command in programs.items()
    }
    for server in servers.values():
        stack.enter_context(server)
    contestants = {name: Receiving(name, server, bench, runner) for name, server in servers.items()}
    contestants[OURS].ask = in_sqlite(files["qmc"])
    contestants[asgi].ask = in_sqlite(files["asgi"])
    if url:
        contestants[postgresql].ask = in_postgresql(url)
    return list(contestants.values())


def _postgresql(bench: Bench, stack: ExitStack) -> str | None:
    sys.path.append(str(Path(__file__).parents[1]))
    from postgres_server import PostgresServer  # noqa: PLC0415 - the tests' own

    if reason := PostgresServer.missing_reason():
        bench.note(f"receiver: PostgreSQL is left out: {reason}")
        return None
    bench.note(
        "receiver: PostgreSQL runs on the sender's core, and its CPU time is not that of ours"
    )
    return stack.enter_context(PostgresServer()).create_database("bench")
