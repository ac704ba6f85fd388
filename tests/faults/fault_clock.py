"""A process's clock, that can be set while it runs: a file of eight bytes tells how wrong it is."""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DAY", "Clock", "bend_time"]

DAY: Final = 86_400 * 10**9  # nanoseconds


class Clock:
    """A process's clock, that can be set."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.set(0)

    def set(self, shift: int) -> None:
        """Shift it by nanoseconds, from the right time."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("q", shift))


def bend_time(path: str) -> None:
    """Shift the clock of this process by the nanoseconds that a file holds at the moment."""
    with Path(path).open("rb") as file:
        shift = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real: Callable[[], int] = time.time_ns

    def time_ns() -> int:
        offset: int = struct.unpack("q", shift[:])[0]
        return real() + offset

    def seconds() -> float:
        return time_ns() / 1e9

    mock.patch.object(time, "time_ns", time_ns).start()
    mock.patch.object(time, "time", seconds).start()
