"""Who places calls: our client, and what a user would otherwise write with an HTTP library.

Each signs, sends JSON, and reads the id from the reply.
"""

from __future__ import annotations

import base64
import hashlib
import time
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import aiohttp
import httpx
from account import APP_ID, APP_SECRET

from qmc_async import AsyncQmcClient

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

__all__ = ["Opened", "Place", "with_aiohttp", "with_httpx", "with_niquests", "with_qmc"]

Place: TypeAlias = "Callable[[], Awaitable[object]]"
"""Places one call."""

Opened: TypeAlias = "Callable[[str, int], AbstractAsyncContextManager[Place]]"
"""Opens a client for a base URL and so many calls at once."""

_PATH: Final = "/api/qmc-call/openapi/v1/call"
_CALLER: Final = "13987654321"
_CALLEE: Final = "13912345678"
_BODY: Final = {"caller": _CALLER, "callee": _CALLEE}


def _headers() -> dict[str, str]:
    """As the document (2) has it."""
    now = int(time.time() * 1000)
    sign = hashlib.md5(f"{APP_ID}:{APP_SECRET}:{now}".encode()).hexdigest()  # noqa: S324 - the platform's
    return {"Authorization": base64.b64encode(f"{APP_ID}:{now}:{sign}".encode()).decode()}


def with_qmc(store: str | None = None) -> Opened:
    """Ours, with a ledger or without."""

    @asynccontextmanager
    async def opened(base_url: str, at_once: int) -> AsyncGenerator[Place]:
        limits = httpx.Limits(max_connections=max(at_once, 100), keepalive_expiry=5)
        async with AsyncQmcClient(
            APP_ID, APP_SECRET, base_url=base_url, limits=limits, store=store
        ) as client:
            yield lambda: client.call(_CALLER, _CALLEE)

    return opened


@asynccontextmanager
async def with_httpx(base_url: str, at_once: int) -> AsyncGenerator[Place]:
    """Write it with httpx and its own pool."""
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(base_url=base_url, limits=limits, timeout=60) as client:

        async def place() -> str:
            reply = await client.post(_PATH, json=_BODY, headers=_headers())
            reply.raise_for_status()
            call_id: str = reply.json()["data"]["callidentifier"]
            return call_id

        yield place


@asynccontextmanager
async def with_aiohttp(base_url: str, at_once: int) -> AsyncGenerator[Place]:
    """Write it with aiohttp."""
    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(base_url, connector=connector) as session:

        async def place() -> str:
            async with session.post(_PATH, json=_BODY, headers=_headers()) as reply:
                reply.raise_for_status()
                call_id: str = (await reply.json())["data"]["callidentifier"]
                return call_id

        yield place


@asynccontextmanager
async def with_niquests(base_url: str, at_once: int) -> AsyncGenerator[Place]:
    """Write it with niquests, which must be installed."""
    niquests: Any = import_module("niquests")
    async with niquests.AsyncSession(pool_maxsize=at_once, base_url=base_url) as session:

        async def place() -> str:
            reply = await session.post(_PATH, json=_BODY, headers=_headers())
            reply.raise_for_status()
            call_id: str = reply.json()["data"]["callidentifier"]
            return call_id

        yield place
