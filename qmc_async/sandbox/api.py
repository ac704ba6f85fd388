"""The document's three operations (3.1, 3.3, 3.4) over HTTP, and the recordings' files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from aiohttp import web
from attrs import field, frozen

from qmc_async.sandbox.wire import Refused, call_id_in, call_request, failure, read_object, success
from qmc_async.signer import Refusal, Signer

if TYPE_CHECKING:
    from qmc_async.sandbox.engine import Engine
    from qmc_async.sandbox.recordings import Recordings

__all__ = ["Api", "Endpoint", "Received"]

Endpoint: TypeAlias = Literal["call", "endCall", "record"]
_Answer: TypeAlias = Callable[[web.Request, dict[str, Any]], Awaitable[bytes]]

# The document writes the paths in two ways, and for the recording says that both are good (3.3).
_VERSIONS = ("v1", "api/v1")


@frozen(kw_only=True)
class Received:
    """One request that arrived at the API, accepted or not.

    Attributes:
        endpoint: the document's name of the operation.
        path: which of the paths was used.
        body: the JSON object, None where there was none; it may hold telephone numbers.
        at: the simulated time.
    """

    endpoint: Endpoint
    path: str
    body: dict[str, Any] | None = field(repr=False)
    at: datetime


class Api:
    """What stands between the network and the engine.

    Attributes:
        received: what arrived, in order.

    Args:
        engine: the calls.
        signer: checks ``Authorization`` (2).
        now: tells the simulated time.
        pump: lets happen what is due by a simulated time; returns the notifications that are now
            on their way, by ``callidentifier``.
    """

    def __init__(
        self,
        engine: Engine,
        signer: Signer,
        *,
        now: Callable[[], datetime],
        pump: Callable[[datetime], dict[str, asyncio.Task[None]]],
    ) -> None:
        self.received: list[Received] = []
        self._engine = engine
        self._assumed = engine.assumed
        self._signer = signer
        self._now = now
        self._pump = pump
        self._recordings: Recordings  # of the run that `application` was last called for

    def application(self, recordings: Recordings) -> web.Application:
        """Make the application of one run of the sandbox, with that run's recordings."""
        self._recordings = recordings
        application = web.Application()
        application.on_response_prepare.append(self._write_date)
        application.router.add_get("/recordings/{name}", self._download)
        endpoints: tuple[tuple[Endpoint, str, _Answer], ...] = (
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
        self, endpoint: Endpoint, answer: _Answer
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            body = read_object(await request.read())
            self.received.append(
                Received(endpoint=endpoint, path=request.path, body=body, at=self._now())
            )
            refusal = self._refusal(request.headers.get("Authorization"))
            if refusal is not None:
                return self._reply(
                    failure(self._assumed.code_unauthorized, f"鉴权失败: {refusal}"),
                    self._assumed.http_status_of_refusals,
                )
            try:
                return self._reply(await answer(request, self._checked(request, body)))
            except Refused as refused:
                return self._reply(
                    failure(refused.code, refused.msg), self._assumed.http_status_of_errors
                )

        return handle

    def _checked(self, request: web.Request, body: dict[str, Any] | None) -> dict[str, Any]:
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

    async def _call(self, request: web.Request, body: dict[str, Any]) -> bytes:
        asked = call_request(body, self._assumed)
        now = self._now()
        call = self._engine.place(now, asked.caller, asked.callee, asked.out_call_id)
        faults = call.behaviour.faults
        posted = self._pump(now)
        if faults.early_notification and call.call_id in posted:
            await asyncio.wait({posted[call.call_id]})
        if faults.lose_reply:
            request.protocol.force_close()
        return success({"callidentifier": call.call_id})

    async def _end_call(self, _: web.Request, body: dict[str, Any]) -> bytes:
        call_id = call_id_in(body, self._assumed)
        now = self._now()
        self._pump(now)
        self._engine.end(now, call_id)
        self._pump(now)
        return success()

    async def _record(self, request: web.Request, body: dict[str, Any]) -> bytes:
        call_id = call_id_in(body, self._assumed)
        now = self._now()
        self._pump(now)
        name = self._recordings.name(self._engine.recorded(now, call_id))
        # By the name that the client knows this server under: it may be another one outside.
        return success({"fileUrl": f"http://{request.host}/recordings/{name}"})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        path = self._recordings.file(request.match_info["name"], self._now())
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": "audio/wav"})

    async def _write_date(self, _: web.Request, response: web.StreamResponse) -> None:
        if self._assumed.date_header:
            response.headers["Date"] = formatdate(self._platform_time(), usegmt=True)
        else:
            del response.headers["Date"]
