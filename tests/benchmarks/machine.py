"""The machine that is measured on: its cores, and what a reader must know of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "LOAD_CORE",
    "SERVER_CORE",
    "cpu_time",
    "describe",
    "is_installed",
    "on_all_cores",
    "pin",
]

_CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = _CORES[0]
LOAD_CORE: Final = _CORES[-1]

_DISTRIBUTIONS: Final = (
    "qmc-async",
    "aiohttp",
    "httpx",
    "httpx-aiohttp",
    "niquests",
    "uvloop",
    "fastapi",
    "uvicorn",
    "httptools",
    "pydantic",
    "msgspec",
    "orjson",
    "attrs",
    "cattrs",
    "sqlalchemy",
    "psycopg",
)


def pin(core: int, pid: int = 0) -> None:
    """Keep a process with all its threads, and what they start from now on, on one core."""
    for thread in Path(f"/proc/{pid or 'self'}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


@contextmanager
def on_all_cores() -> Generator[None]:
    """Let what is started here run on any core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_time(pid: int) -> float:
    """Seconds of CPU that a process has taken, with all its threads, also those that are gone.

    ``/proc/PID/stat`` has the same in hundredths of a second, which is too coarse for a round.
    """
    clock = (~pid << 3) | 2  # what `clock_getcpuclockid(3)` makes of it
    return time.clock_gettime_ns(clock) / 1e9


def is_installed(module: str) -> bool:
    """Whether a rival is there."""
    return find_spec(module) is not None


def describe(folder: Path) -> dict[str, Any]:
    """What the figures depend on. It has neither the machine's name nor a path."""
    return {
        "cores": len(_CORES),
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file system": _file_system(folder),
        "fsync of 4 KiB, median seconds": _fsync_time(folder),
        "load average before": os.getloadavg()[0],
        "versions": _versions(),
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _file_system(folder: Path) -> str:
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    asked = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own command
    return asked.stdout.strip() or sys.platform


def _fsync_time(folder: Path) -> float:
    times: list[float] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(30):
            begin = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begin)
    return round(median(times), 6)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
