"""What stands on the other end of the callback server: the platform, and applications."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from qmc_async import (
    CallbackServer,
    Credentials,
    Disconnected,
    Signer,
    UnknownNotification,
)
from qmc_async.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from qmc_async.models import Notification


SIGNER = Signer(Credentials(1696054309969104898, "secret"))
TOKEN = SIGNER.callback_token
NUMBERS = ("13987654321", "13912345678")
SUCCESS = b'{"code":"200","msg":"success","data":""}'
NOT_FOUND = b'{"code":"404","msg":"not found","data":""}'
TOO_LARGE = b'{"code":"413","msg":"content too large","data":""}'
LONGEST = 65_536


def body_of(call_id: str = "4711", **fields: object) -> bytes:
    """A notification's body."""
    wire = {
        "callidentifier": call_id,
        "status": "Disconnected",
        "endTime": "2023-08-29 08:52:10",
        "reason": "HangUp",
    }
    return json.dumps(wire | fields).encode()


def port_of(server: CallbackServer) -> int:
    """Where it listens."""
    port: int = vars(server)["_port"]
    return port


def path_of(server: CallbackServer) -> str:
    """Where it takes notifications, the token included."""
    path: str = vars(server)["_path"]
    return path


class Reply:
    """An answer, read from the socket."""

    def __init__(self, whole: bytes) -> None:
        self.whole = whole
        head, _, self.body = whole.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.version, status, self.reason = first.split(" ", 2)
        self.status = int(status)
        self.headers = dict(line.split(": ", 1) for line in lines)


def request_bytes(
    body: bytes = b"",
    *headers: str,
    method: str = "POST",
    target: str = "/qmc/callback",
    version: str = "1.1",
    length: int | None = -1,
) -> bytes:
    """A request as it goes over the wire; its `length` is a claim, -1 the truth, None nothing."""
    lines = [f"{method} {target} HTTP/{version}", "Host: platform", *headers]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


async def exchange(port: int, data: bytes, host: str = "127.0.0.1") -> Reply:
    """Send bytes and read one answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.timeout(5):
            writer.write(data)
            await writer.drain()
            reply = Reply(await reader.readuntil(b"\r\n\r\n"))
            if data.startswith(b"HEAD "):
                return Reply(reply.whole + await reader.read())
            return Reply(
                reply.whole + await reader.readexactly(int(reply.headers["Content-Length"]))
            )
    finally:
        writer.close()
        await writer.wait_closed()


async def post_to(server: CallbackServer, body: bytes, *headers: str, **how: Any) -> Reply:  # noqa: ANN401 - as `request_bytes` takes it
    """Post a body to the server's path, or as told."""
    how = {"target": path_of(server)} | how
    return await exchange(port_of(server), request_bytes(body, *headers, **how))


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, for five seconds at most."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.002)


class Listening:
    """A server, or an application that holds one, with a handler for either kind of event."""

    def __init__(self, server: CallbackServer, port: int) -> None:
        self.server = server
        self.port = port
        self.ended: list[Disconnected] = []
        self.unknown: list[UnknownNotification] = []

    async def on_end(self, event: Disconnected) -> None:
        """Note it."""
        self.ended.append(event)

    async def on_unknown(self, event: UnknownNotification) -> None:
        """Note it."""
        self.unknown.append(event)

    async def send(self, data: bytes) -> Reply:
        """Send bytes and read one answer."""
        return await exchange(self.port, data)

    async def post(self, body: bytes, *headers: str, **how: Any) -> Reply:  # noqa: ANN401 - as `request_bytes` takes it
        """Post to the path, or as told."""
        how = {"target": path_of(self.server)} | how
        return await self.send(request_bytes(body, *headers, **how))


@asynccontextmanager
async def alone(**options: Any) -> AsyncGenerator[Listening]:  # noqa: ANN401 - any of the server's
    """A server that listens on its own."""
    with_defaults: dict[str, Any] = {"port": 0, "shutdown_timeout": 0.2} | options
    server = CallbackServer(**with_defaults)
    listening = Listening(server, 0)
    server.on_disconnected(listening.on_end)
    server.on_unknown(listening.on_unknown)
    async with server:
        listening.port = port_of(server)
        yield listening


@asynccontextmanager
async def serving(app: web.Application) -> AsyncGenerator[int]:
    """An application on a free port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@web.middleware
async def stamp(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """A middleware that leaves its mark."""
    response = await handler(request)
    response.headers["X-Stamp"] = "yes"
    return response


async def home(_: web.Request) -> web.Response:
    """Another route."""
    return web.Response(text="home")


def an_application() -> web.Application:
    """Somebody's application, with routes and a middleware of its own."""
    app = web.Application(middlewares=[stamp], client_max_size=100)
    app.router.add_get("/", home)
    app.router.add_post("/orders/{id}", home)
    return app


@asynccontextmanager
async def attached(**options: Any) -> AsyncGenerator[Listening]:  # noqa: ANN401 - any of the server's
    """A server in an aiohttp application that has other things to do."""
    with_defaults: dict[str, Any] = {"shutdown_timeout": 0.2} | options
    server = CallbackServer(**with_defaults)
    listening = Listening(server, 0)
    server.on_disconnected(listening.on_end)
    server.on_unknown(listening.on_unknown)
    app = an_application()
    server.attach(app)
    async with serving(app) as listening.port:
        yield listening


both = pytest.mark.parametrize("listen", [alone, attached], ids=["alone", "attached"])


class Store(MemoryStore):
    """A store that can be slow and can fail, and that is false while it is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.put_bodies: list[bytes] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.failure: Exception | None = None

    def __len__(self) -> int:
        return len(self.put_bodies)

    async def put(self, event: Notification, body: bytes) -> bool:
        """Keep it, when told to."""
        await self.go_on.wait()
        if self.failure:
            raise self.failure
        self.put_bodies.append(body)
        return await super().put(event, body)
