"""Whoever uses the sandbox's console by hand, on real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web
    from test_sandbox_support import Peer

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


async def ask(peer: Peer, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Ask the console's JSON API below /sandbox: the status, and the JSON that came back."""
    data = b"" if body is None else json.dumps(body).encode()
    return await send(peer, method, path, data, JSON)


async def send(
    peer: Peer, method: str, path: str, data: bytes, content_type: str
) -> tuple[int, Any]:
    """The same with any body."""
    reply = await peer.request(method, f"/sandbox{path}", {"Content-Type": content_type}, data)
    assert reply.headers["Content-Type"] == JSON
    return reply.status, reply.json


async def do(peer: Peer, kind: str, method: str, path: str, **members: object) -> tuple[int, Any]:
    """Send members as ``json`` or as a ``form``."""
    if kind == "json":
        return await ask(peer, method, path, members)
    return await send(peer, method, path, form(members), FORM)


def form(members: Mapping[str, object]) -> bytes:
    """A form as a page sends it."""
    return urlencode(members, doseq=True).encode()


async def page(peer: Peer, path: str = "/", language: str = "en") -> str:
    """A page of the console."""
    reply = await peer.request("GET", path, {"Accept-Language": language})
    assert reply.status == 200, reply.body
    return reply.body.decode()


async def bytes_answered(peer: Peer, request: bytes) -> bytes:
    """Send these bytes on a connection of their own, and read all that comes back."""
    port = int(peer.platform.base_url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def head_answered(peer: Peer, path: str) -> bytes:
    """The head of an answer that may not end, and go."""
    port = int(peer.platform.base_url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head


def routes_of(application: web.Application) -> list[tuple[str, str]]:
    """Each method and path of the console in the application, with its names filled in."""
    found = [
        (route.method, re.sub(r"\{\w+\}", "x", route.resource.canonical))
        for route in application.router.routes()
        if route.resource is not None
    ]
    platforms = ("/api/", "/recordings/")
    if not any(path.startswith(platforms) for _, path in found):
        return []  # it is no sandbox
    return [route for route in found if not route[1].startswith(platforms)]
