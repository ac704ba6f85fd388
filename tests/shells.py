"""The shells that a callback server can stand in, each as a base URL to send to."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from callback_peer import port_of
from callback_shells import asgi_serving
from starlette.applications import Starlette
from starlette.routing import Mount

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from qmc_async import CallbackServer

SHELLS = ["aiohttp", "asgi"]
WAITING = frozenset({"aiohttp"})
"""Those that hand on nothing of what came together with the mistake for which they refuse it."""


@asynccontextmanager
async def serving(shell: str, server: CallbackServer) -> AsyncGenerator[str]:
    """The server in that shell, started; its scheme, host and port."""
    assert shell in SHELLS
    if shell == "aiohttp":
        async with server:
            yield f"http://127.0.0.1:{port_of(server)}"
        return
    app = Starlette(routes=[Mount("/", app=server.asgi)])
    async with server.asgi, asgi_serving(app, lifespan="off") as port:
        yield f"http://127.0.0.1:{port}"
