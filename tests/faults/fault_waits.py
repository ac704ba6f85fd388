"""Waiting in a process under test: it is told for which calls over a socket, one on each line.

Which waits have ended, and when, stands in a file, line by line.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from qmc_async import CallbackServer

__all__ = ["Asker", "read_waits", "take_questions"]

_HOST: Final = "127.0.0.1"
_PATIENCE: Final = 600.0  # seconds; no test takes as long


def _port_file(address: Path) -> Path:
    return address.with_name(f"{address.name}-waits")


@asynccontextmanager
async def take_questions(server: CallbackServer, options: dict[str, Any]) -> AsyncGenerator[None]:
    """Wait for the calls that are asked for, in the process under test."""
    if not options["waits"]:
        yield
        return
    ended = os.open(options["waits"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    waiting: set[asyncio.Task[None]] = set()

    async def wait(call_id: str) -> None:
        event = await server.wait_for(call_id, timeout=_PATIENCE)
        told = f"{event.call_id} {options['name']} {time.monotonic()}\n"
        os.write(ended, told.encode())

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            task = asyncio.create_task(wait(line.decode().strip()))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        writer.close()

    listening = await asyncio.start_server(take, _HOST, 0)
    port = listening.sockets[0].getsockname()[1]
    _port_file(Path(options["address"])).write_text(str(port))
    try:
        yield
    finally:
        listening.close()
        for task in waiting:
            task.cancel()


class Asker:
    """Has a process wait for calls.

    Args:
        address: the file that its address stands in.
    """

    def __init__(self, address: Path) -> None:
        self._port = int(_port_file(address).read_text())
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, call_id: str) -> bool:
        """Have it wait for a call; False where it is gone."""
        with suppress(OSError):
            async with self._connecting:
                if self._writer is None:
                    _, self._writer = await asyncio.open_connection(_HOST, self._port)
            if self._writer.is_closing():
                return False
            self._writer.write(f"{call_id}\n".encode())
            await self._writer.drain()
            return True
        return False

    async def close(self) -> None:
        """Let go of the socket."""
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()


def read_waits(file: Path) -> dict[tuple[str, str], float]:
    """When each wait has ended, by the call's id and the process's name."""
    if not file.exists():
        return {}
    # A process that dies may leave half a line.
    lines = [line.split() for line in file.read_text().split("\n")[:-1]]
    return {(call_id, name): float(at) for call_id, name, at in lines}
