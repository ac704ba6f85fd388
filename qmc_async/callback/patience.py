"""How long tasks may take: one timer for all of them, where `asyncio.timeout` sets one for each."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Patience"]


class Patience:
    """Cancels tasks that take too long."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._look: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[Any], timeout: float) -> None:
        """Cancel a task after so many seconds, unless `end` comes first."""
        loop = asyncio.get_running_loop()
        end = self._ends[task] = loop.time() + timeout
        if self._look is None or self._look.when() > end:
            self._look_at(loop, end)

    def end(self, task: asyncio.Task[Any]) -> bool:
        """Whether it was cancelled. It is not any more, as far as that was done here."""
        if task in self._late:
            self._late.discard(task)
            task.uncancel()
            return True
        self._ends.pop(task, None)
        return False

    def _look_at(self, loop: asyncio.AbstractEventLoop, end: float) -> None:
        if self._look is not None:
            self._look.cancel()
        self._look = loop.call_at(end, self._look_for_late, loop)

    def _look_for_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._look = None
        now = loop.time()
        for task in [task for task, end in self._ends.items() if end <= now]:
            del self._ends[task]
            self._late.add(task)
            task.cancel()
        if self._ends:
            self._look_at(loop, min(self._ends.values()))
