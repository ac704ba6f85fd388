"""An aiohttp server whose connections cannot be held by who sends nothing, or too slowly.

aiohttp waits an hour for the first byte of a request, and for ever for its last header.

1. A request's head has `HEAD_DEADLINE` from its first byte on, or from the connection's begin. Its
   body has a deadline of its own: see `read_body`.
2. There are at most so many connections. For a new one, the oldest of those that have never sent a
   whole head is closed, else the one that has been quiet for longest: who means well sends at once,
   and who only wants to fill the places closes their own.
3. A connection whose request is being answered is never closed here, nor is a quiet one without
   need: a proxy that keeps connections open may be sending the next notification on it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["HEAD_DEADLINE", "EdgeServer"]

HEAD_DEADLINE: Final = 10.0
"""Seconds for the whole head. The platform's is under one thousand bytes."""

_TICK: Final = 1.0  # seconds


class _Connection(web.RequestHandler):
    """One connection, and since when we wait for the head of a request on it."""

    __slots__ = ("edge", "waits_since")

    def __init__(self, edge: EdgeServer, **options: Any) -> None:  # noqa: ANN401 - aiohttp's own
        super().__init__(edge, **options)
        self.edge = edge
        self.waits_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It was opened."""
        super().connection_made(transport)
        self.edge.opened(self)

    def data_received(self, data: bytes) -> None:
        """Something has come: of a head, or of a body."""
        if data and self.waits_since is None:
            self.waits_since = self.edge.time()
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It was closed, by whomever."""
        self.edge.closed(self)
        super().connection_lost(exc)


class EdgeServer(web.Server):
    """An aiohttp server with these limits.

    Args:
        handler: answers a request.
        max_connections: how many there may be.
        options: of aiohttp's `RequestHandler`.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        max_connections: int,
        **options: Any,  # noqa: ANN401 - aiohttp's own
    ) -> None:
        super().__init__(self._answer)
        self._handler = handler
        self._limit = max_connections
        self._options = options
        self._event_loop = asyncio.get_running_loop()
        self._tick: asyncio.TimerHandle | None = None
        self._open = 0
        # Both in the order in which they came here.
        self._unknown: dict[_Connection, None] = {}
        self._quiet: dict[_Connection, None] = {}
        self.time = self._event_loop.time

    def __call__(self) -> _Connection:
        """Make the protocol of one connection."""
        return _Connection(self, loop=self._event_loop, **self._options)

    def opened(self, new: _Connection) -> None:
        """Have a place for a connection, if need be another's."""
        new.waits_since = self.time()
        self._open += 1
        self._unknown[new] = None
        if self._tick is None:
            self._tick = self._event_loop.call_later(_TICK, self._close_late)
        if self._open > self._limit:
            is_alone = len(self._unknown) == 1
            self._drop(next(iter(self._quiet if is_alone and self._quiet else self._unknown)))

    def closed(self, connection: _Connection) -> None:
        """Give its place back."""
        self._open -= 1
        self._unknown.pop(connection, None)
        self._quiet.pop(connection, None)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("_Connection", request.protocol)
        self._unknown.pop(connection, None)
        self._quiet.pop(connection, None)
        connection.waits_since = None
        try:
            return await self._handler(request)
        finally:
            connection.waits_since = None  # what came meanwhile was the body
            self._quiet[connection] = None

    def _close_late(self) -> None:
        self._tick = None
        if self._open:
            self._tick = self._event_loop.call_later(_TICK, self._close_late)
        begun = self.time() - HEAD_DEADLINE
        for connection in [*self._unknown, *self._quiet]:
            if connection.waits_since is not None and connection.waits_since < begun:
                self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._unknown.pop(connection, None)
        self._quiet.pop(connection, None)
        if connection.transport is not None:
            connection.transport.abort()  # nobody waits for an answer
        connection.force_close()
