"""The same for uvicorn, which waits for ever for the head of a request.

>>> import uvicorn
>>> config = uvicorn.Config("service:app", http="qmc_async.callback.uvicorn_edge:EdgeProtocol")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.h11_impl import H11Protocol

from qmc_async.callback.asgi import PEER
from qmc_async.callback.places import MAX_CONNECTIONS, Places

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import (
        ASGI3Application,
        ASGIReceiveCallable,
        ASGISendCallable,
        Scope,
    )
    from uvicorn.server import ServerState

__all__ = ["EdgeProtocol"]

_places: WeakKeyDictionary[ServerState, Places[EdgeProtocol]] = WeakKeyDictionary()


class EdgeProtocol(H11Protocol):
    """One connection of a server that has `MAX_CONNECTIONS` places; see `places`.

    Name it as uvicorn's ``http``. It looks at heads alone: an answer may take as long as it likes.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn has it
        """It was opened."""
        super().connection_made(transport)
        places = _places.get(self.server_state)
        if places is None or places.loop is not self.loop:
            places = _places[self.server_state] = Places(MAX_CONNECTIONS, _drop)
        self._places = places
        places.opened(self)
        self.app = _with_peer(self.app)

    def data_received(self, data: bytes) -> None:
        """Something has come: of a head, or of a body."""
        self._places.heard(self)
        super().data_received(data)
        is_answering = self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison] - None before the first head
        if is_answering or self.transport.get_protocol() is not self:  # it is a websocket now
            self._places.asked(self)

    def on_response_complete(self) -> None:
        """A request is answered; the next one may be there already."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._places.answered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It was closed, by whomever."""
        self._places.asked(self)
        super().connection_lost(exc)


def _with_peer(app: ASGI3Application) -> ASGI3Application:
    # uvicorn writes over the peer what a header says, which on its default settings anybody behind
    # a proxy on this machine can choose.
    async def remember(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        vars_of: dict[str, Any] = scope  # type: ignore[assignment] # pyright: ignore[reportAssignmentType] - one key more
        vars_of[PEER] = scope.get("client")
        await app(scope, receive, send)

    return remember


def _drop(connection: EdgeProtocol) -> None:
    connection.transport.abort()  # nobody waits for an answer
