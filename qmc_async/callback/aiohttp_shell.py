"""The receiver for aiohttp: on a port of our own, and in an application."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, web
from aiohttp.http import HttpProcessingError

from qmc_async.callback.body import Body, collect, unpacked
from qmc_async.callback.health import health_reply
from qmc_async.callback.reply import CONTENT_TYPE, RECEIVED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from qmc_async.callback.guard import Guard
    from qmc_async.callback.receiver import Receiver
    from qmc_async.callback.reply import Reply

__all__ = ["AiohttpShell"]

_GZIP: Final = b"\x1f\x8b"
_BROKEN: Final = (OSError, web.RequestPayloadError, HttpProcessingError)


class AiohttpShell:
    """Answers aiohttp's requests.

    Args:
        guard: of the server.
        receiver: of the server.
        problems: tells the server's.
    """

    def __init__(
        self, guard: Guard, receiver: Receiver, problems: Callable[[], Mapping[str, str]]
    ) -> None:
        self._guard = guard
        self._receiver = receiver
        self._problems = problems
        self._success = _Success()

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer whatever is asked on a port of our own."""
        path = request.rel_url.raw_path
        if health := health_reply(path, self._problems):
            return _response(health)
        return await self.serve_at(path, request)

    async def serve_at(self, path: str, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request for this path."""
        headers = request.headers
        reply = self._guard.refuse(
            request.method,
            (path,),
            request.content_length,
            request.remote,
            lambda name: headers.getall(name, ()),
        )
        if reply is None:
            if request.content.is_eof() and request.content.exception() is None:
                body = Body(request.content.read_nowait())  # it came with the head, as most do
            else:
                body = await collect(_pieces(request), _BROKEN)
            encoding = ",".join(headers.getall("Content-Encoding", ()))
            # An application's server may have unpacked it by itself, the bare one is told not to.
            is_bare = not isinstance(request, web.Request)
            if encoding and (is_bare or body.content.startswith(_GZIP)):
                body = unpacked(body, encoding)
            reply = await self._receiver.take(body.content, body.problem)
            if (
                reply is RECEIVED
                and is_bare
                and request.version == HttpVersion11
                and request.keep_alive
            ):
                return self._success
        return _response(reply)


async def _pieces(request: web.BaseRequest) -> AsyncIterator[bytes]:
    # Ask for the body, if the sender waits to be asked (RFC 9110, 10.1.1): an application's router
    # does this by itself, the bare server does not.
    is_bare = not isinstance(request, web.Request) and request.version >= HttpVersion11
    if is_bare and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # nothing of the answer is sent yet
    async for piece in request.content.iter_any():
        yield piece


class _Success(web.StreamResponse):
    """The answer to nearly every request, to as many as there are.

    To have aiohttp make it anew each time would take as long as everything else that it does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made_at = 0
        self._whole = b""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection goes on."""
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send it."""
        now = int(time.time())
        if now != self._made_at:
            self._made_at = now
            self._whole = (
                f"HTTP/1.1 {RECEIVED.status} OK\r\n"
                f"Content-Type: {CONTENT_TYPE}\r\n"
                f"Content-Length: {len(RECEIVED.body)}\r\n"
                f"Date: {formatdate(now, usegmt=True)}\r\n\r\n"
            ).encode() + RECEIVED.body
        await request.writer.write(self._whole)
        await request.writer.drain()  # who never reads must not fill the memory

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to be sent."""


def _response(reply: Reply) -> web.Response:
    return web.Response(
        status=reply.status, body=reply.body, headers={"Content-Type": CONTENT_TYPE}
    )
