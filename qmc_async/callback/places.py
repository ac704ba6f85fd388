"""Who has a place among a server's connections, and who holds one for nothing.

1. A request's head has `HEAD_DEADLINE` from its first byte on, or from the connection's begin. Its
   body has a deadline of its own: see `collect`.
2. There are only so many places. For a new connection, the oldest of those that have never sent a
   whole head is closed, else the one that has been quiet for longest: who means well sends at once,
   and who only wants to fill the places closes their own.
3. A connection whose request is being answered is never closed here, nor is a quiet one without
   need: a proxy that keeps connections open may be sending the next notification on it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HEAD_DEADLINE", "MAX_CONNECTIONS", "Places"]

C = TypeVar("C")

HEAD_DEADLINE: Final = 10.0
"""Seconds for the whole head. The platform's is under one thousand bytes."""
MAX_CONNECTIONS: Final = 1000

_TICK: Final = 1.0  # seconds


class Places(Generic[C]):
    """The places of one server.

    Args:
        limit: how many there are.
        drop: closes a connection at once, after which `closed` is called of it.
    """

    def __init__(self, limit: int, drop: Callable[[C], None]) -> None:
        self._limit = limit
        self._drop = drop
        self._loop = asyncio.get_running_loop()
        self._tick: asyncio.TimerHandle | None = None
        self._taken = 0
        # Since when the head is waited for that has begun. Both in the order in which they came.
        self._unknown: dict[C, float | None] = {}
        self._quiet: dict[C, float | None] = {}

    def opened(self, new: C) -> None:
        """Have a place for a connection, if need be another's."""
        self._taken += 1
        self._unknown[new] = self._loop.time()
        if self._tick is None:
            self._tick = self._loop.call_later(_TICK, self._close_late)
        if self._taken > self._limit:
            is_alone = len(self._unknown) == 1
            self._close(next(iter(self._quiet if is_alone and self._quiet else self._unknown)))

    def heard(self, connection: C) -> None:
        """Something has come on it."""
        if self._quiet.get(connection, 0.0) is None:
            self._quiet[connection] = self._loop.time()

    def asked(self, connection: C) -> None:
        """A whole head has come."""
        self._unknown.pop(connection, None)
        self._quiet.pop(connection, None)

    def answered(self, connection: C) -> None:
        """Its request has an answer."""
        self._quiet[connection] = None

    def closed(self, connection: C) -> None:
        """Give its place back."""
        self._taken -= 1
        self.asked(connection)
        if not self._taken and self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def _close_late(self) -> None:
        self._tick = self._loop.call_later(_TICK, self._close_late)
        begun = self._loop.time() - HEAD_DEADLINE
        for waiting in (self._unknown, self._quiet):
            for connection in [one for one, since in waiting.items() if since and since < begun]:
                self._close(connection)

    def _close(self, connection: C) -> None:
        self.asked(connection)
        self._drop(connection)
