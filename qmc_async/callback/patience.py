"""How long tasks may take."""

from __future__ import annotations

import asyncio
from typing import Any

from qmc_async.deadlines import Deadlines

__all__ = ["Patience"]


class Patience:
    """Cancels tasks that take too long."""

    def __init__(self) -> None:
        self._running = Deadlines[asyncio.Task[Any]](self._cancel)
        self._late: set[asyncio.Task[Any]] = set()

    def begin(self, task: asyncio.Task[Any], timeout: float) -> None:
        """Cancel a task after so many seconds, unless `end` comes first."""
        self._running.add(task, asyncio.get_running_loop().time() + timeout)

    def end(self, task: asyncio.Task[Any]) -> bool:
        """Whether it was cancelled. It is not any more, as far as that was done here."""
        self._running.discard(task)
        if task not in self._late:
            return False
        self._late.discard(task)
        task.uncancel()
        return True

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        self._late.add(task)
        task.cancel()
