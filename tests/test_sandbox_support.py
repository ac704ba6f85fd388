"""An application made by hand: the other side of the sandbox in its tests.

It shares no code with the sandbox or with the library: it signs with hashlib, speaks raw HTTP, and
takes notifications with a bare aiohttp server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from qmc_async.sandbox import Assumed, Rule, Sandbox, VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from qmc_async.sandbox import RealClock

APP_ID = "1696054309969104898"
SECRET = "sandbox-secret"
CALLER = "13987654321"
CALL = "/api/qmc-call/openapi/v1/call"
END_CALL = "/api/qmc-call/openapi/v1/endCall"
RECORD = "/api/qmc-cdr/openapi/v1/record"


def authorization(*, seconds_off: float = 0, app_id: str = APP_ID, secret: str = SECRET) -> str:
    """The header's value as the document (2) describes it."""
    return _header(app_id, secret, round((time.time() + seconds_off) * 1000))


def _header(app_id: str, secret: str, milliseconds: int) -> str:
    sign = hashlib.md5(f"{app_id}:{secret}:{milliseconds}".encode()).hexdigest()  # noqa: S324 - the document's own choice
    return base64.b64encode(f"{app_id}:{milliseconds}:{sign}".encode()).decode()


class Reply:
    """What came back, read whole."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON may be anything
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> int:
        """The envelope's code."""
        code = self.json["code"]
        assert type(code) is int
        return code


class Peer:
    """An application that uses the sandbox.

    Attributes:
        platform: the sandbox.
        posted: the bodies of the notifications that came, with their headers.
        answer: answers a notification.
    """

    def __init__(self, platform: Sandbox, session: aiohttp.ClientSession) -> None:
        self.platform = platform
        self.posted: list[tuple[Any, bytes]] = []
        self.answer: Callable[[web.Request], Awaitable[web.Response]] = self._accept
        self._session = session

    async def _accept(self, _: web.Request) -> web.Response:
        return web.json_response({"code": "200", "msg": "成功", "data": ""})

    async def take(self, request: web.Request) -> web.Response:
        """Take a notification."""
        self.posted.append((request.headers.copy(), await request.read()))
        return await self.answer(request)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The notifications that came, as JSON."""
        return [json.loads(body) for _, body in self.posted]

    async def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, data: bytes = b""
    ) -> Reply:
        """Send anything; the path may be a whole URL."""
        url = path if "://" in path else self.platform.base_url + path
        async with self._session.request(method, url, headers=headers, data=data) as response:
            return Reply(response, await response.read())

    async def post(self, path: str, body: dict[str, Any], **auth: Any) -> Reply:  # noqa: ANN401 - as `authorization` takes it
        """Send what the document describes."""
        headers = {
            "Content-Type": "application/json;charset=utf-8",
            "Authorization": authorization(**auth),
        }
        return await self.request("POST", path, headers, json.dumps(body).encode())

    async def try_call(self, callee: str = "13912345678", **more: Any) -> Reply:  # noqa: ANN401 - any parameter
        """Ask for a call, whatever comes of it."""
        return await self.post(CALL, {"caller": CALLER, "callee": callee, **more})

    async def call(self, callee: str = "13912345678", **more: Any) -> str:  # noqa: ANN401 - any parameter
        """Place a call that the sandbox must accept."""
        reply = await self.try_call(callee, **more)
        assert reply.code == 200, reply.json
        return str(reply.json["data"]["callidentifier"])

    async def end(self, call_id: str) -> Reply:
        """End a call."""
        return await self.post(END_CALL, {"callidentifier": call_id})

    async def record(self, call_id: str) -> Reply:
        """Ask for a recording."""
        return await self.post(RECORD, {"callidentifier": call_id})


@asynccontextmanager
async def meeting(
    clock: VirtualClock | RealClock | None = None,
    *,
    rules: Iterable[Rule] = (),
    assumed: Assumed = Assumed(),  # noqa: B008 - frozen
    console: bool = False,
) -> AsyncGenerator[Peer]:
    """A running sandbox and an application that listens; the clock is virtual if not given."""
    async with (
        Sandbox(
            clock=clock or VirtualClock(), rules=rules, assumed=assumed, console=console
        ) as platform,
        aiohttp.ClientSession() as session,
    ):
        peer = Peer(platform, session)
        application = web.Application()
        application.router.add_post("/callback", peer.take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            platform.callback_url = f"http://127.0.0.1:{runner.addresses[0][1]}/callback"
            yield peer
        finally:
            await runner.cleanup()


def test_the_hand_made_signature_is_the_documents() -> None:
    """The oracle itself signs the platform README's vector as md5sum does."""
    plain = base64.b64decode(_header(APP_ID, "secret", 1693270226642)).decode()
    assert plain == f"{APP_ID}:1693270226642:afd0fc7d026834e1ac42e87875b0d9a8"
