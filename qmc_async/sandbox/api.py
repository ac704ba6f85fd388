"""The document's three operations (3.1, 3.3, 3.4) over HTTP, and the recordings' files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import web
from attrs import frozen

from qmc_async.sandbox.calls import SimulatedCall
from qmc_async.sandbox.history import Exchange, Received
from qmc_async.sandbox.wire import Refused, call_id_in, call_request, failure, read_object, success
from qmc_async.signer import Refusal, Signer

if TYPE_CHECKING:
    from datetime import datetime

    from qmc_async.sandbox.engine import Engine
    from qmc_async.sandbox.history import Attempt, Endpoint
    from qmc_async.sandbox.recordings import Recordings

__all__ = ["Api"]


# The document writes the paths in two ways, and for the recording says that both are good (3.3).
_VERSIONS = ("v1", "api/v1")
_DOWNLOADED = web.RequestKey("downloaded", SimulatedCall)


_Operation: TypeAlias = Callable[[web.Request, dict[str, Any], "datetime"], Awaitable["_Answer"]]


@frozen
class _Answer:
    """What is said to one request, and which call it is about."""

    body: bytes
    call: SimulatedCall | None = None


class _Unauthorized(Refused):
    """`Authorization` is missing or not right (2)."""


class Api:
    """What stands between the network and the engine.

    Attributes:
        received: what arrived, in order.
        refused: the exchanges that are about no call of the sandbox, in order.

    Args:
        engine: the calls.
        signer: checks ``Authorization`` (2).
        now: tells the simulated time.
        pump: lets happen what is due by a simulated time; returns the notifications that are now
            on their way, by ``callidentifier``.
        on_change: called when a history has grown.
    """

    def __init__(
        self,
        engine: Engine,
        signer: Signer,
        *,
        now: Callable[[], datetime],
        pump: Callable[[datetime], dict[str, asyncio.Task[Attempt]]],
        on_change: Callable[[], None],
    ) -> None:
        self.received: list[Received] = []
        self.refused: list[Exchange] = []
        self._engine = engine
        self._assumed = engine.assumed
        self._signer = signer
        self._now = now
        self._pump = pump
        self._on_change = on_change
        self._recordings: Recordings  # of the run that `application` was last called for

    def application(self, recordings: Recordings) -> web.Application:
        """Make the application of one run of the sandbox, with that run's recordings."""
        self._recordings = recordings
        application = web.Application()
        application.on_response_prepare.append(self._write_date)
        application.on_response_prepare.append(self._write_down_a_download)
        application.router.add_get("/recordings/{name}", self._download)
        endpoints: tuple[tuple[Endpoint, str, _Operation], ...] = (
            ("call", "qmc-call", self._call),
            ("endCall", "qmc-call", self._end_call),
            ("record", "qmc-cdr", self._record),
        )
        for endpoint, service, answer in endpoints:
            for version in _VERSIONS:
                path = f"/api/{service}/openapi/{version}/{endpoint}"
                application.router.add_post(path, self._handler(endpoint, answer))
        return application

    def _handler(
        self, endpoint: Endpoint, operation: _Operation
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            began = time.monotonic()
            raw = await request.read()
            received = self._as_received(request, endpoint, raw, read_object(raw))
            self.received.append(received)
            status, error, call = 200, None, None
            try:
                answer = await operation(
                    request, self._checked(request, received.body), received.at
                )
                body, call = answer.body, answer.call
            except Refused as refused:
                error, body = refused.msg, failure(refused.code, refused.msg)
                status = self._assumed.http_status_of_errors
                if isinstance(refused, _Unauthorized):
                    status = self._assumed.http_status_of_refusals
                call = None if endpoint == "call" else self._call_in(received.body)
            lost = endpoint == "call" and call is not None and call.behaviour.faults.lose_reply
            exchange = Exchange(
                received=received,
                call_id=None if call is None else call.call_id,
                http_status=None if lost else status,
                reply=body,
                error=error,
                elapsed=time.monotonic() - began,
            )
            (self.refused if call is None else call.history).append(exchange)
            self._on_change()
            return self._reply(body, status)

        return handle

    def _as_received(
        self, request: web.Request, endpoint: Endpoint, raw: bytes, body: dict[str, Any] | None
    ) -> Received:
        return Received(
            endpoint=endpoint,
            path=request.path,
            headers=tuple(request.headers.items()),
            raw=raw,
            body=body,
            at=self._now(),
        )

    def _call_in(self, body: dict[str, Any] | None) -> SimulatedCall | None:
        call_id = (body or {}).get("callidentifier")
        return self._engine.calls.get(call_id.strip()) if isinstance(call_id, str) else None

    def _checked(self, request: web.Request, body: dict[str, Any] | None) -> dict[str, Any]:
        refusal = self._refusal(request.headers.get("Authorization"))
        if refusal is not None:
            raise _Unauthorized(self._assumed.code_unauthorized, f"鉴权失败: {refusal}")
        if self._assumed.content_type_checked and request.content_type != "application/json":
            raise Refused(self._assumed.code_bad_request, "Content-Type必须是application/json")
        if body is None:
            raise Refused(self._assumed.code_bad_request, "请求体必须是JSON对象")
        return body

    def _refusal(self, header: str | None) -> str | None:
        """Why the request is not authorized (2); None where it is."""
        if header is None:
            return "there is no Authorization"
        found = self._signer.verify(header, self._platform_time())
        return found.value if isinstance(found, Refusal) else None

    def _platform_time(self) -> float:
        """The platform's Unix time in seconds. Signatures live in real time, calls need not."""
        return time.time() + self._assumed.clock_skew.total_seconds()

    def _reply(self, body: bytes, status: int = 200) -> web.Response:
        response = web.Response(
            body=body, status=status, headers={"Content-Type": "application/json;charset=utf-8"}
        )
        if not self._assumed.keep_alive:
            response.force_close()
        return response

    async def _call(self, request: web.Request, body: dict[str, Any], now: datetime) -> _Answer:
        asked = call_request(body, self._assumed)
        call = self._engine.place(now, asked.caller, asked.callee, asked.out_call_id)
        faults = call.behaviour.faults
        posted = self._pump(now)
        if faults.early_notification and call.call_id in posted:
            await asyncio.wait({posted[call.call_id]})
        if faults.lose_reply:
            request.protocol.force_close()
        return _Answer(success({"callidentifier": call.call_id}), call)

    async def _end_call(self, _: web.Request, body: dict[str, Any], now: datetime) -> _Answer:
        call_id = call_id_in(body, self._assumed)
        self._pump(now)
        call = self._engine.end(now, call_id)
        self._pump(now)
        return _Answer(success(), call)

    async def _record(self, request: web.Request, body: dict[str, Any], now: datetime) -> _Answer:
        call_id = call_id_in(body, self._assumed)
        self._pump(now)
        call = self._engine.recorded(now, call_id)
        name = self._recordings.name(call)
        # By the name that the client knows this server under: it may be another one outside.
        return _Answer(success({"fileUrl": f"http://{request.host}/recordings/{name}"}), call)

    async def _download(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = self._recordings.file(name, self._now())
        call = self._recordings.call(name)
        if call is not None:
            request[_DOWNLOADED] = call
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": "audio/wav"})

    async def _write_date(self, _: web.Request, response: web.StreamResponse) -> None:
        if self._assumed.date_header:
            response.headers["Date"] = formatdate(self._platform_time(), usegmt=True)
        else:
            del response.headers["Date"]

    async def _write_down_a_download(
        self, request: web.Request, response: web.StreamResponse
    ) -> None:
        call = request.get(_DOWNLOADED)
        if call is not None:
            exchange = Exchange(
                received=self._as_received(request, "recording", b"", None),
                call_id=call.call_id,
                http_status=response.status,
                reply=b"",
                error=None,
                elapsed=0.0,
            )
            call.history.append(exchange)
            self._on_change()
