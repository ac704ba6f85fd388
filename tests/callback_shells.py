"""The callback server in each of its shells: on a port of its own, and in others' applications."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from aiohttp import web
from callback_peer import Listening, alone
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from qmc_async import CallbackServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp


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


@asynccontextmanager
async def asgi_serving(app: ASGIApp, **options: Any) -> AsyncGenerator[int]:  # noqa: ANN401 - uvicorn's own
    """An ASGI application on a free port."""
    with_defaults: dict[str, Any] = {
        "http": "h11",
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "timeout_graceful_shutdown": 1,
    } | options
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, **with_defaults))
        run = asyncio.create_task(server.serve([listening]))
        try:
            async with asyncio.timeout(20):
                while not server.started and not run.done():  # noqa: ASYNC110 - it rings no bell
                    await asyncio.sleep(0.002)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await run


async def asgi_home(_: Request) -> Response:
    """Another route."""
    return PlainTextResponse("home")


async def asgi_stamp(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """A middleware that leaves its mark."""
    response = await call_next(request)
    response.headers["X-Stamp"] = "yes"
    return response


def an_asgi_application(server: CallbackServer, prefix: str = "/qmc") -> Starlette:
    """Somebody's application that has mounted it."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with server.asgi:
            yield

    routes = [Route("/", asgi_home), Mount(prefix, server.asgi)]
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=asgi_stamp)]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


@asynccontextmanager
async def mounted(*, http: str = "h11", **options: Any) -> AsyncGenerator[Listening]:  # noqa: ANN401 - any of the server's
    """A server in an ASGI application that has other things to do."""
    with_defaults: dict[str, Any] = {"shutdown_timeout": 0.2} | options
    server = CallbackServer(**with_defaults)
    listening = Listening(server, 0)
    server.on_disconnected(listening.on_end)
    server.on_unknown(listening.on_unknown)
    async with asgi_serving(an_asgi_application(server), http=http) as listening.port:
        yield listening


shells = pytest.mark.parametrize(
    "listen", [alone, attached, mounted], ids=["alone", "attached", "mounted"]
)
