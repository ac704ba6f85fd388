"""What the tests of this folder share: a place, processes in it, and the oracle outside of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from fault_platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable

    from database_servers import TestDatabase
    from fault_nursery import Child, Nursery

__all__ = ["FULL", "ROUNDS", "Scene", "Server", "until"]

# Read when the tests are collected: no test sees a variable of ours from outside.
ROUNDS: Final = int(os.environ.get("QMC_FAULT_ROUNDS", "2"))
FULL: Final = ROUNDS >= 50
_HERE: Final = Path(__file__).parent
_WANTED: Final = {
    "CalleeNoAnswer": "later",
    "Other": "hanging",
    "CallerAbandon": "interrupting",
}


async def until(
    condition: Callable[[], object], what: str, *, seconds: float = 30, every: float = 0.02
) -> None:
    """Wait for a condition; the time is there to notice a hang."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(every)


class Server:
    """A process under test.

    Attributes:
        name: of this process; one that is started in its place has another.
        address: the file that its address stands in.
    """

    def __init__(self, process: Child | subprocess.Popen[bytes], address: Path, log: Path) -> None:
        self.process = process
        self.log = log
        self.address = address
        self.name = address.name

    @property
    def url(self) -> str:
        """Where it takes notifications."""
        return self.address.read_text()

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    async def is_listening(self) -> None:
        """Wait until it takes notifications."""
        assert await self.comes_up(), self.log.read_text()

    async def comes_up(self) -> bool:
        """Wait until it takes notifications, or has ended: False."""
        await until(
            lambda: self.address.exists() or not self.is_alive, "the server starts", seconds=50
        )
        return self.is_alive

    async def ends(self) -> int:
        """Wait for the end; what it ended with."""
        await until(lambda: not self.is_alive, "the server ends")
        code = self.process.returncode
        assert code is not None
        return code

    async def kill(self) -> None:
        """End it without a warning."""
        self.process.kill()
        assert await self.ends() == -signal.SIGKILL

    async def stop(self) -> None:
        """End it as an init system does."""
        self.process.terminate()
        assert await self.ends() == 0, self.log.read_text()

    def arm(self) -> None:
        """Let it die at its boundary from now on."""
        self.process.send_signal(signal.SIGUSR1)

    async def is_frozen(self) -> None:
        """Wait until it stands still."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it freezes")

    async def freeze(self) -> None:
        """Let it stand still."""
        self.process.send_signal(signal.SIGSTOP)
        await self.is_frozen()

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def memory(self, name: str = "VmHWM") -> float:
        """Megabytes: by default the most that it ever had in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{name}:")[1].split()[0]) / 1024

    async def ready(self) -> tuple[int, list[str]]:
        """What it says of itself: the HTTP status, and its problems."""
        address = self.url.split("/qmc/")[0] + "/readyz"
        async with aiohttp.ClientSession() as session, session.get(address) as reply:
            told = json.loads(await reply.read())
        return reply.status, told["problems"]


class Scene:
    """A folder with a store, the processes that use it, and what they have done.

    Attributes:
        platform: who posts.
        database: the file.
        store: instead of a file.
        spool: the folder.
        runs: the file for who has handled what, and when, where that is asked for.
        waits: the file for waits that have ended, where that is asked for.
        given_up: calls whose loss has been reported.
    """

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder = folder
        self.database = folder / "qmc.db"
        self.store: TestDatabase | None = None
        self.spool = folder / "spool"
        self.runs = folder / "runs"
        self.waits = folder / "waits"
        self.platform = Platform()
        self.given_up: set[str] = set()
        self._handled = folder / "handled"
        self._called = folder / "called"
        self._nursery = nursery
        self._servers: list[Server] = []

    def options(self, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """What a process is told."""
        return {
            "database": str(self.database) if self.store is None else self.store.url,
            "spool": str(self.spool),
            "handled": str(self._handled),
            "released": False,
            "address": "",
            "clock": "",
            "kill": "",
            "signal": signal.SIGKILL,
            "after": 0,
            "armed": False,
            "lease": 0.5,
            "spool_patience": 10.0,
            "later": 0.05,
            "takes": 0.005,
            "hangs": 0.1,
            "handlers": "all",
            "commits": "",
            "runs": "",
            "waits": "",
            "shutdown_timeout": 5.0,
            "port": 0,
            "patience": 0.4,
            "platform": "",
            "calls": "",
            "called": str(self._called),
            "calls_at_once": 16,
            "missing_after": 7200.0,
            "watchdog": True,
        } | options

    def launch(self, *prefix: str, fresh: bool = False, **options: Any) -> Server:  # noqa: ANN401 - see `options`
        """Start a process, and do not wait for it.

        Args:
            prefix: of its command.
            fresh: it begins with nothing imported; that takes a second.
            options: see `options`.
        """
        number = len(self._servers)
        address = self.folder / f"address-{number}"
        log = self.folder / f"log-{number}"
        chosen = self.options(**options) | {"address": str(address), "name": address.name}
        process: Child | subprocess.Popen[bytes]
        if prefix or fresh:
            told = self.folder / f"options-{number}"
            told.write_text(json.dumps(chosen))
            with log.open("wb") as output:
                process = subprocess.Popen(  # noqa: S603 - our own program
                    [*prefix, sys.executable, str(_HERE / "fault_process.py"), str(told)],
                    stdout=output,
                    stderr=output,
                    cwd=self.folder,
                )
        else:
            process = self._nursery.start(chosen, log)
        server = Server(process, address, log)
        self._servers.append(server)
        return server

    async def start(self, *prefix: str, **options: Any) -> Server:  # noqa: ANN401 - see `launch`
        """Start a process that takes notifications."""
        server = self.launch(*prefix, **options)
        await server.is_listening()
        return server

    async def end(self) -> None:
        """Leave nothing running."""
        for server in self._servers:
            if server.is_alive:
                await server.kill()

    def connect(self) -> sqlite3.Connection:
        """The database, without the code under test."""
        return sqlite3.connect(self.database, isolation_level=None, timeout=30)

    def query(self, query: str, *arguments: object) -> list[Any]:
        """Rows of the database as it is on the disk."""
        if self.store is not None:
            rows = self.store.select(query, *arguments)
            # MySQL keeps identifiers as bytes.
            return [tuple(_to_text(value) for value in row) for row in rows]
        with closing(self.connect()) as connection:
            return connection.execute(query, arguments).fetchall()

    def handled(self) -> Counter[tuple[str, str]]:
        """How many times each handler has handled each call."""
        return _read_notes(self._handled)

    def called(self) -> Counter[tuple[str, str]]:
        """What became of each call that was to be placed, as often as it was tried."""
        return _read_notes(self._called)

    def pending(self) -> set[tuple[str, str]]:
        """Which handlers are yet to be done with which calls, by our ids of these."""
        rows = self.query(
            "SELECT d.handler, e.out_call_id FROM qmc_deliveries d"
            " JOIN qmc_events e ON e.event_id = d.event_id WHERE d.due_at IS NOT NULL"
        )
        return {(handler, out_call_id) for handler, out_call_id in rows}

    def dead(self) -> set[tuple[str, str]]:
        """Which handlers have given up which calls."""
        rows = self.query("SELECT handler, event_id FROM qmc_deliveries WHERE state = 'dead'")
        return {(handler, event_id) for handler, event_id in rows}

    def missing(self, *, good_only: bool = False) -> set[tuple[str, str]]:
        """What was answered for, and is neither handled nor dead: handler and call."""
        kept = self.platform.kept
        wanted = {("good", call_id) for call_id in kept}
        if good_only:
            return wanted - set(self.handled())
        wanted |= {(_WANTED[kept[one]], one) for one in kept if kept[one] in _WANTED}
        wanted -= set(self.handled())
        fatal = {"CalleeBusy": "failing", "CallerFailure": "rude"}
        wanted |= {(fatal[kept[one]], one) for one in kept if kept[one] in fatal}
        return wanted - self.dead() if wanted else wanted

    def repeated(self) -> int:
        """How many times a handler that had done its work did it again."""
        good = ("good", "later", "hanging")
        return sum(count - 1 for (name, _), count in self.handled().items() if name in good)

    def not_in_store(self) -> set[str]:
        """Calls that were answered for, and are not in the database."""
        kept = {row[0] for row in self.query("SELECT event_id FROM qmc_events")}
        return set(self.platform.kept) - kept

    async def all_handled(self, *, seconds: float = 30, good_only: bool = False) -> None:
        """Wait until nothing that was answered for is missing; fail with what is."""
        end = time.monotonic() + seconds
        while missing := self.missing(good_only=good_only):
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.05)
        assert not missing, f"{len(missing)} lost: {sorted(missing)[:5]}"

    async def settled(self) -> None:
        """Wait until the store has nothing more to do."""
        await until(
            lambda: not self.query("SELECT 1 FROM qmc_deliveries WHERE due_at IS NOT NULL LIMIT 1"),
            "the store settles",
        )

    def set_aside(self) -> list[Path]:
        """The broken files that were put away."""
        found = self.folder.rglob("*.corrupt-*")
        return [one for one in found if not one.name.endswith(("-wal", "-shm"))]


def _read_notes(file: Path) -> Counter[tuple[str, str]]:
    if not file.exists():
        return Counter()
    # A process that dies may leave half a line, which is no note.
    lines = file.read_text().split("\n")[:-1]
    return Counter((line.rpartition(" ")[0], line.rpartition(" ")[2]) for line in lines)


def _to_text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
