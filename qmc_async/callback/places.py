"""Who waits on a server's connections, and who only holds them.

1. A request's head has `HEAD_DEADLINE` from its first byte on, or from the connection's begin. Its
   body has a deadline of its own: see `collect`.
2. There are only so many places for connections on which nothing is asked: those that have never
   sent a whole head, and those that are quiet after an answer. For a new one, the oldest of those
   is closed of which there are more: who means well sends at once, and who only wants to fill the
   places closes their own.
3. A connection whose request is being answered needs no place, so that nobody can hold all of them,
   and is never closed here. Nor is a quiet one without need: a proxy that keeps connections open
   may be sending the next notification on it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HEAD_DEADLINE", "MAX_CONNECTIONS", "Places"]

logger = logging.getLogger(__name__)

C = TypeVar("C")

HEAD_DEADLINE: Final = 10.0
"""Seconds for the whole head. The platform's is under one thousand bytes."""
MAX_CONNECTIONS: Final = 1000

_TICK: Final = 1.0  # seconds
_RESERVED: Final = 256  # files: the store, the client, and what is just being accepted or answered


class Places(Generic[C]):
    """The places of one server.

    Args:
        limit: how many there are; fewer, where this process may not open so many files.
        drop: closes a connection at once.
    """

    def __init__(self, limit: int, drop: Callable[[C], None]) -> None:
        self._limit = _affordable(limit)
        self._drop = drop
        self.loop = asyncio.get_running_loop()
        self._tick: asyncio.TimerHandle | None = None
        # Since when the head is waited for that has begun. Both in the order in which they came.
        self._unknown: dict[C, float | None] = {}
        self._quiet: dict[C, float | None] = {}

    def opened(self, new: C) -> None:
        """Have a place for a connection, if need be another's."""
        self._unknown[new] = self.loop.time()
        if self._tick is None:
            self._tick = self.loop.call_later(_TICK, self._close_late)
        while len(self._unknown) + len(self._quiet) > self._limit:
            larger = self._unknown if len(self._unknown) > len(self._quiet) else self._quiet
            self._close(next(iter(larger)))

    def heard(self, connection: C) -> None:
        """Something has come on it."""
        if self._quiet.get(connection, 0.0) is None:
            self._quiet[connection] = self.loop.time()

    def asked(self, connection: C) -> None:
        """A whole head has come, or it is closed."""
        self._unknown.pop(connection, None)
        self._quiet.pop(connection, None)

    def answered(self, connection: C) -> None:
        """Its request has an answer."""
        self._quiet[connection] = None

    def _close_late(self) -> None:
        self._tick = None
        begun = self.loop.time() - HEAD_DEADLINE
        for waiting in (self._unknown, self._quiet):
            for connection in [one for one, since in waiting.items() if since and since < begun]:
                self._close(connection)
        if self._unknown or self._quiet:
            self._tick = self.loop.call_later(_TICK, self._close_late)

    def _close(self, connection: C) -> None:
        self.asked(connection)
        self._drop(connection)


def _affordable(limit: int) -> int:
    if sys.platform == "win32":  # pragma: no cover - it has no such limit
        return limit
    import resource  # noqa: PLC0415 - see above

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    affordable = limit if files == resource.RLIM_INFINITY else max(1, files - _RESERVED)
    if affordable < limit:
        logger.info(
            "of %d connections only %d are kept open without need: this process may open %d files "
            "(ulimit -n)",
            limit,
            affordable,
            files,
        )
    return min(limit, affordable)
