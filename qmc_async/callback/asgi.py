"""The receiver for FastAPI, Starlette, and whatever else speaks ASGI.

1. Who mounts an application does not run its lifespan. So the server is started by the outer one's,
   with ``async with server.asgi:``; where that was forgotten, each request is an error. Where it is
   itself the outermost application, its own lifespan starts it.
2. Bodies are refused, and given up, as on a port of our own. Heads and connections are the ASGI
   server's: none of them reaches an application before it is whole.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from qmc_async.callback.body import collect, unpacked
from qmc_async.callback.health import health_reply
from qmc_async.callback.reply import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from qmc_async.callback.guard import Guard
    from qmc_async.callback.receiver import Receiver
    from qmc_async.callback.reply import Reply

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]

__all__ = ["PEER", "AsgiApplication"]

PEER: Final = "qmc_async.peer"
"""The key of a scope under which `EdgeProtocol` has the other end of the connection."""

_LONGEST_NUMBER = 18  # digits


class _CutError(Exception):
    """The sender has gone in the middle of the body."""


class AsgiApplication:
    """A `CallbackServer` as an ASGI application; `CallbackServer.asgi` makes it.

    Args:
        lifetime: starts the server, and stops it.
        guard: of the server.
        receiver: of the server.
        problems: tells the server's.
    """

    def __init__(
        self,
        lifetime: Callable[[], AbstractAsyncContextManager[None]],
        guard: Guard,
        receiver: Receiver,
        problems: Callable[[], Mapping[str, str]],
    ) -> None:
        self._lifetime = lifetime
        self._guard = guard
        self._receiver = receiver
        self._problems = problems
        self._running = AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        """Start the server, without a port.

        Raises:
            RuntimeError: it is running already.
            ConfigError: the store is not fit for keeping anything.
        """
        await self._running.enter_async_context(self._lifetime())
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it: give the handlers their time."""
        self._loop = None
        await self._running.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or live as long as the process.

        Raises:
            RuntimeError: the server was not started, or runs on another event loop.
        """
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            reply = await self._answer(scope, receive)
            with suppress(OSError):  # the sender has gone
                await send(
                    {
                        "type": "http.response.start",
                        "status": reply.status,
                        "headers": [
                            (b"content-type", CONTENT_TYPE.encode()),
                            (b"content-length", b"%d" % len(reply.body)),
                        ],
                    }
                )
                await send({"type": "http.response.body", "body": reply.body})

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        raw: bytes | None = scope.get("raw_path")
        # As it came, where that is known: what only means the same is not the address.
        path = str(scope["path"]) if raw is None else raw.decode("latin-1")
        root = str(scope.get("root_path", ""))
        # The specification has the prefix of a mounted application in the path; not all heed it.
        whole = path if path.startswith(root) else root + path
        if health := health_reply(whole[len(root) :], self._problems):
            return health
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "the CallbackServer does not run on this event loop, and loses what comes: put "
                "'async with server.asgi: yield' into your application's lifespan"
            )
        headers: list[tuple[bytes, bytes]] = scope["headers"]

        def values(name: str) -> list[str]:
            key = name.lower().encode()
            return [value.decode("latin-1") for name, value in headers if name == key]

        length = next(iter(values("Content-Length")), "")
        is_number = length.isascii() and length.isdigit()
        client = scope.get(PEER, scope.get("client"))
        refusal = self._guard.refuse(
            scope["method"],
            # With all of the prefix, some of it, or none: proxies and applications add to it.
            [whole[at:] for at in range(len(root) + 1) if whole[at : at + 1] == "/" or not at],
            int(length[:_LONGEST_NUMBER]) if is_number else None,
            client[0] if client else None,
            values,
        )
        if refusal is not None:
            return refusal
        body = await collect(_pieces(receive), (_CutError,))
        body = unpacked(body, ",".join(values("Content-Encoding")))
        return await self._receiver.take(body.content, body.problem)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.__aenter__()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            problem = f"{type(error).__name__}: {error}"
            await send({"type": "lifespan.startup.failed", "message": problem})
            return
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        finally:
            await self.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise _CutError
        yield message.get("body", b"")
        more = message.get("more_body", False)
