"""An aiohttp server whose connections cannot be held by who sends nothing, or too slowly.

aiohttp waits an hour for the first byte of a request, and for ever for its last header. What is
done about that stands in `places`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from qmc_async.callback.places import Places

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["EdgeServer"]


class _Connection(web.RequestHandler):
    """One connection, and the places that it has one of."""

    __slots__ = ("line", "places")

    line: asyncio.BaseTransport

    def __init__(self, edge: EdgeServer, **options: Any) -> None:  # noqa: ANN401 - aiohttp's own
        super().__init__(edge, **options)
        self.places = edge.places

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It was opened."""
        super().connection_made(transport)
        self.line = transport  # which aiohttp forgets as soon as it means to close it
        self.places.opened(self)

    def data_received(self, data: bytes) -> None:
        """Something has come: of a head, or of a body."""
        self.places.heard(self)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It was closed, by whomever."""
        self.places.asked(self)
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
        self._options = options
        self.places = Places(max_connections, _drop)

    def __call__(self) -> _Connection:
        """Make the protocol of one connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("_Connection", request.protocol)
        self.places.asked(connection)
        try:
            return await self._handler(request)
        finally:
            if connection.connected:
                self.places.answered(connection)


def _drop(connection: _Connection) -> None:
    cast("asyncio.Transport", connection.line).abort()  # nobody waits for an answer
    connection.force_close()
