"""Starts processes under test quickly: it has imported all that they need, and forks.

A line on its standard input is the JSON of what to start; it answers with the process id. How a
process ended it writes into a file, as `subprocess` tells it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any


class Child:
    """A process of the nursery, as far as `subprocess.Popen` is needed."""

    def __init__(self, pid: int, ended: Path) -> None:
        self.pid = pid
        self._ended = ended

    @property
    def returncode(self) -> int | None:
        """How it ended, None while it lives."""
        return int(self._ended.read_text()) if self._ended.exists() else None

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without a warning."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class Nursery:
    """The nursery's other end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def start(self, options: dict[str, Any], log: Path) -> Child:
        """Start a process with its options, in the folder of its log."""
        ended = log.with_name(f"{log.name}-ended")
        told = {"options": options, "log": str(log), "ended": str(ended)}
        self._input.write(json.dumps(told).encode() + b"\n")
        self._input.flush()
        return Child(int(self._output.readline()), ended)

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def close(self) -> None:
        """End it."""
        self._input.close()
        self._process.wait(30)
        self._output.close()


def _serve() -> None:
    from fault_process import run  # noqa: PLC0415 - of no use to the other end
    from sqlalchemy import create_engine  # noqa: PLC0415 - the same

    for driver in ("postgresql+psycopg", "mysql+pymysql"):
        create_engine(f"{driver}://")  # which imports it
    lines = open(0, "rb", buffering=0)  # noqa: SIM115 - as long as the process lives
    ended: dict[int, str] = {}
    while True:
        readable, _, _ = select.select([lines], [], [], 0.01)
        if readable:
            line = lines.readline()
            if not line:
                return
            told = json.loads(line)
            pid = os.fork()
            if not pid:
                _redirect(told["log"])
                # The parent's exit handlers are none of the child's business.
                os._exit(run(told["options"]))
            ended[pid] = told["ended"]
            os.write(1, b"%d\n" % pid)
        while ended:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            part = Path(f"{ended[pid]}.part")
            part.write_text(str(os.waitstatus_to_exitcode(status)))
            part.rename(ended.pop(pid))


def _redirect(log: str) -> None:
    os.chdir(Path(log).parent)
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(file, 1)
    os.dup2(file, 2)


if __name__ == "__main__":
    _serve()
