"""The sandbox's time: real and perhaps hurried, or virtual and moved by hand."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TypeAlias

from qmc_async.models import BEIJING

__all__ = ["Clock", "RealClock", "VirtualClock"]


class RealClock:
    """Time that passes by itself. It starts at the real now, when it is made.

    Attributes:
        speed: simulated seconds per real second.

    Raises:
        ValueError: `speed` is not more than nothing.
    """

    def __init__(self, *, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError("speed: it must be more than 0 simulated seconds per real second")
        self.speed = speed
        self._start = datetime.now(BEIJING)
        self._origin = time.monotonic()  # so that setting the machine's clock moves no call

    def now(self) -> datetime:
        """The simulated time, in UTC+8."""
        return self._start + timedelta(seconds=(time.monotonic() - self._origin) * self.speed)

    def seconds_until(self, due: datetime) -> float | None:
        """How many real seconds remain; 0.0 where it is past."""
        return max(0.0, (due - self.now()).total_seconds() / self.speed)


class VirtualClock:
    """Time that stands still until `Sandbox.advance` moves it.

    Args:
        start: an aware datetime; the real now if not given.

    Raises:
        ValueError: `start` has no time zone.
    """

    def __init__(self, start: datetime | None = None) -> None:
        if start is not None and start.utcoffset() is None:
            raise ValueError("start: it needs a time zone, such as qmc_async.models.BEIJING")
        self._now = (start or datetime.now(BEIJING)).astimezone(BEIJING)

    def now(self) -> datetime:
        """The simulated time, in UTC+8."""
        return self._now

    def seconds_until(self, due: datetime) -> float | None:
        """None: no real time brings it nearer."""
        del due
        return None

    def move_to(self, when: datetime) -> None:
        """Let it be later; an earlier time leaves it as it is."""
        self._now = max(self._now, when.astimezone(BEIJING))


Clock: TypeAlias = RealClock | VirtualClock
