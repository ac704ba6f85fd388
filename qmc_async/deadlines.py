"""Until when many things wait, by one timer for all: most of them end long before.

A timer each, as `asyncio.timeout` sets it, would take longer than what is waited for.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Deadlines"]

T = TypeVar("T")


class Deadlines(Generic[T]):
    """What waits, on one event loop.

    Args:
        on_late: told what has not been discarded by its deadline.
    """

    def __init__(self, on_late: Callable[[T], None]) -> None:
        self._on_late = on_late
        self._ends: dict[T, float] = {}
        self._timer: asyncio.Handle | None = None
        self._timer_ends = math.inf  # uvloop's timers do not tell

    def add(self, one: T, end: float) -> None:
        """Wait for it until then, by the event loop's time."""
        self._ends[one] = end
        if end < self._timer_ends:
            self._look_at(end)

    def discard(self, one: T) -> bool:
        """Wait for it no longer; whether it was waited for."""
        return self._ends.pop(one, None) is not None

    def _look_at(self, end: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ends = end
        self._timer = asyncio.get_running_loop().call_at(end, self._look)

    def _look(self) -> None:
        self._timer, self._timer_ends = None, math.inf
        loop = asyncio.get_running_loop()
        now = loop.time()
        for one in [one for one, end in self._ends.items() if end <= now]:
            self._ends[one] = math.inf
            # Not at once: what this round of the event loop has still to do may discard it.
            loop.call_soon(self._give_up, one)
        end = min(self._ends.values(), default=math.inf)
        if end < math.inf:
            self._look_at(end)

    def _give_up(self, one: T) -> None:
        if self._ends.get(one) == math.inf:  # else it was discarded, or begins anew
            del self._ends[one]
            self._on_late(one)
