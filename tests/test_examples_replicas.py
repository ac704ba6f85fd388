"""examples/replicas/ does what it shows: machines die, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from postgres_server import PostgresServer
from server_process import accepts, find_program

if TYPE_CHECKING:
    from collections.abc import Generator

PROGRAM = Path(__file__).parents[1] / "examples" / "replicas" / "run.py"
PATIENCE = 50.0

pytestmark = [
    pytest.mark.skipif(
        find_program("nginx") is None, reason="nginx is not installed (Debian's package is nginx)"
    ),
    pytest.mark.skipif(
        PostgresServer.missing_reason() is not None, reason=str(PostgresServer.missing_reason())
    ),
]


@contextlib.contextmanager
def started(
    *arguments: str, terminal: int = subprocess.DEVNULL
) -> Generator[subprocess.Popen[str]]:
    """The program, with what it shows on a terminal; it is ended in order whatever happens."""
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, str(PROGRAM), *arguments],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if terminal == subprocess.DEVNULL else terminal,
        env={**os.environ, "TERM": "xterm"},
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def check(summary: dict[str, Any]) -> None:
    """Nothing is lost, nobody's telephone rang twice, and nobody waits for ever."""
    assert summary["rang_twice"] == summary["lost"] == summary["unresolved"] == 0
    assert summary["placed"] == summary["handled"] == summary["resolved"] > 0
    assert summary["resolved_elsewhere"] > 0


def test_two_replicas_and_the_database_die() -> None:
    """Every call rings once, is handled, and is told to who waits; nothing is left behind."""
    with started("--seconds=1", "--kill", "--load=20") as process:
        out, shown = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, shown
    assert re.findall("> (kill .*)", shown) == ["kill 1", "kill db", "kill 3"]
    check(json.loads(out))
    found = re.search(r"the service: http://[\d.]+:(\d+)   logs: (.*)", shown)
    assert found is not None
    assert not accepts(int(found[1]))
    assert not Path(found[2]).exists()


def test_what_is_typed_is_done() -> None:
    """A machine that is killed by hand is shown as dead, and quitting brings it back first."""
    ours, theirs = pty.openpty()
    with started(terminal=theirs) as process:
        os.close(theirs)
        _read_until(ours, "calls placed")
        os.write(ours, b"kill 9\x7f2\n")
        _read_until(ours, "replica 2.*dead")
        os.write(ours, b"kill db\n")
        _read_until(ours, "spooling.*db.*dead")
        os.write(ours, b"load 0\n")
        _read_until(ours, r"calls per second\W+0\D")
        os.write(ours, b"quit\n")
        with contextlib.suppress(OSError):  # how a terminal tells that nobody writes any longer
            while os.read(ours, 65536):
                pass
        assert process.stdout is not None
        check(json.loads(process.stdout.read()))
    os.close(ours)
    assert process.returncode == 0


def _read_until(terminal: int, pattern: str) -> None:
    """Read what is drawn until it shows something."""
    deadline = time.monotonic() + PATIENCE
    drawn = ""
    while not re.search(pattern, drawn, re.DOTALL):
        assert time.monotonic() < deadline, drawn[-2000:]
        drawn += os.read(terminal, 65536).decode(errors="replace")
