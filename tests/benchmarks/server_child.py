"""Servers as processes of their own, on a core of their own, which end with this one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from machine import SERVER_CORE, cpu_time, on_all_cores, pin

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["HOST", "ServerChild"]

HOST: Final = "127.0.0.1"
_HERE: Final = Path(__file__).parent
_PATIENCE: Final = 120.0
_NO_BYTECODE: Final = "PYTHONDONTWRITEBYTECODE"  # every start would take a second more


class ServerChild:
    """One of the programs ``serve_….py``, listening on a free port.

    Args:
        program: the file's name.
        arguments: what follows the port.
        folder: where it runs; what it says goes to a file there.
    """

    def __init__(
        self,
        program: str,
        *arguments: str,
        folder: Path,
    ) -> None:
        self.port = _free_port()
        self.started = time.perf_counter()
        self._log = folder / f"{program}-{self.port}.log"
        with self._log.open("wb") as log, on_all_cores():
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, str(_HERE / program), str(self.port), *arguments],
                stdin=subprocess.PIPE,  # the program ends when this is closed
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={name: value for name, value in os.environ.items() if name != _NO_BYTECODE},
            )

    def __enter__(self) -> Self:
        self.wait()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def cpu(self) -> float:
        """Seconds of CPU time so far, of all threads."""
        return cpu_time(self._process.pid)

    @property
    def peak_memory(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    @property
    def said(self) -> str:
        """All its output so far."""
        return self._log.read_text(encoding="utf-8")

    def wait(self) -> float:
        """Wait until it takes connections.

        It may start on any core, because many start at a time; from then on it keeps to its own.

        Returns:
            How many seconds that was from its start.

        Raises:
            RuntimeError: it has ended instead.
        """
        while True:
            try:
                socket.create_connection((HOST, self.port), 1).close()
            except OSError:
                late = time.perf_counter() - self.started > _PATIENCE
                if late or self._process.poll() is not None:
                    raise RuntimeError(f"{self._log.name}: {self.said}") from None
                time.sleep(0.002)
            else:
                took = time.perf_counter() - self.started
                pin(SERVER_CORE, self.pid)
                return took


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
