"""A platform that takes calls as fast as it can, and reports each of them to any replica, or none.

Each call is over as soon as it is placed.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from fault_balancer import Balancer
from fault_platform import body_of

from qmc_async import CallState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from fault_load import Replica

__all__ = ["Switchboard"]

_AT_ONCE: Final = 48  # notifications
_LATEST: Final = 0.3  # seconds between the reply and the notification
_NO_RECORDING: Final = {"code": 40401, "success": False, "msg": "没有录音"}


class Switchboard:
    """The platform.

    Args:
        silent: the calls that it does not report, by our ids, and what is to be found out of them.

    Attributes:
        url: where it is.
        replicas: whom it reports to; to be set before the first call.
        call_ids: of all calls, by ours.
        placed: how many requests for a call came.
        asked: for which calls the recording was asked for, by ours, and how often.
        statuses: of the answers to notifications, by ours; None where the process has died.
        slowest: seconds from a call to the answer to its notification, at most.
    """

    def __init__(self, silent: Mapping[str, CallState]) -> None:
        self.url = ""
        self.replicas: Sequence[Replica] = ()
        self.call_ids: dict[str, str] = {}
        self.placed = 0
        self.asked: dict[str, int] = {}
        self.statuses: dict[str, int | None] = {}
        self.slowest = 0.0
        self._silent = silent
        self._ours: dict[str, str] = {}
        self._chance = random.Random(str(len(silent)))  # noqa: S311 - the same each time
        self._balancer = Balancer()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._reports: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[Self]:
        """Take requests while the block goes on."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Line(self), "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for report in self._reports:
                report.cancel()
            await asyncio.gather(*self._reports, return_exceptions=True)
            self._balancer.close()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What it says to a request."""
        if path.endswith("/call"):
            return {"code": 200, "success": True, "data": {"callidentifier": self._place(body)}}
        ours = self._ours[body["callidentifier"]]
        self.asked[ours] = self.asked.get(ours, 0) + 1
        if self._silent.get(ours) is not CallState.INFERRED:
            return _NO_RECORDING
        return {"code": 200, "success": True, "data": {"fileUrl": f"{self.url}/recording.wav"}}

    def _place(self, body: dict[str, Any]) -> str:
        ours: str = body["outCallId"]
        self.placed += 1
        call_id = f"{self.placed:018}"
        self.call_ids[ours] = call_id
        self._ours[call_id] = ours
        if ours not in self._silent:
            report = asyncio.create_task(self._report(ours, call_id))
            self._reports.add(report)
            report.add_done_callback(self._reports.discard)
        return call_id

    async def _report(self, ours: str, call_id: str) -> None:
        began = time.monotonic()
        await asyncio.sleep(self._chance.uniform(0, _LATEST))
        replicas = list(self.replicas)
        self._chance.shuffle(replicas)
        async with self._slots:
            body = body_of(call_id, outCallId=ours)
            self.statuses[ours] = await self._balancer.post(replicas, body)
        self.slowest = max(self.slowest, time.monotonic() - began)


class _Line(asyncio.Protocol):
    """One connection: a request, its answer, and the next."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._transport: asyncio.Transport
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(rest) < length:
            return
        self._received = rest[length:]
        path = head.split(b" ", 2)[1].decode()
        answer = json.dumps(self._switchboard.answer(path, json.loads(rest[:length]))).encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(answer), answer)
        )
