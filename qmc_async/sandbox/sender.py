"""Sends notifications: each once, to the address of the moment, and writes down what came back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
from attrs import field, frozen

from qmc_async.sandbox.wire import notification

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmc_async.sandbox.assumed import Assumed
    from qmc_async.sandbox.calls import SimulatedCall
    from qmc_async.signer import Signer

__all__ = ["Attempt", "Sender"]

_HEADERS = {"Content-Type": "application/json;charset=utf-8"}


@frozen(kw_only=True)
class Attempt:
    """One notification that was sent, or that could not be.

    Attributes:
        call_id: whose it is.
        body: the bytes as they were sent.
        http_status: of the answer, None where there was none.
        reply: the answer's body, None where there was none.
        error: why there was none: the exception's name, or ``no callback_url``.
        elapsed: real seconds.
    """

    call_id: str
    body: bytes = field(repr=False)
    http_status: int | None = None
    reply: bytes | None = field(default=None, repr=False)
    error: str | None = None
    elapsed: float = 0.0


class Sender:
    """Posts notifications (3.2). "A wrongly configured address is not sent to again" (1).

    Attributes:
        url: where to; None sends nothing, and writes the attempt down all the same.
        attempts: in the order in which they ended.
    """

    def __init__(self, signer: Signer, assumed: Assumed, on_idle: Callable[[], None]) -> None:
        self.url: str | None = None
        self.attempts: list[Attempt] = []
        self._signer = signer
        self._assumed = assumed
        self._on_idle = on_idle
        self._session: aiohttp.ClientSession  # from `open` on; nothing is posted before
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._tasks

    def open(self) -> None:
        """Make ready, on the running event loop."""
        self._session = aiohttp.ClientSession(
            # A kept connection that the receiver has closed would lose the only attempt.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._assumed.patience.total_seconds()),
        )

    async def close(self) -> None:
        """Give up what is on its way, and close all connections."""
        await self.cancel()
        await self._session.close()

    async def cancel(self) -> None:
        """Give up what is on its way."""
        for task in self._tasks:
            task.cancel()
        await self.wait()

    async def wait(self) -> None:
        """Wait for what is on its way now."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def post(self, call: SimulatedCall) -> asyncio.Task[None]:
        """Send the notification about a call, from a task of its own that never fails."""
        task = asyncio.create_task(self._send(call))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._on_idle()

    async def _send(self, call: SimulatedCall) -> None:
        faults = call.behaviour.faults
        body = notification(call, self._assumed)
        if faults.malformed_notification:
            body = body[: len(body) // 2]
        for _ in range(1 + faults.duplicate_notification):
            self.attempts.append(await self._attempt(call.call_id, body))

    async def _attempt(self, call_id: str, body: bytes) -> Attempt:
        if self.url is None:
            return Attempt(call_id=call_id, body=body, error="no callback_url")
        headers = dict(_HEADERS)
        if self._assumed.notification_authorization:
            now = time.time() + self._assumed.clock_skew.total_seconds()
            headers["Authorization"] = self._signer.sign(now)
        began = time.monotonic()
        status = reply = error = None
        try:
            async with self._session.post(
                self.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                reply = await response.read()
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            # Only its name: the text may hold the address, whose path is a secret.
            error = type(problem).__name__
        return Attempt(
            call_id=call_id,
            body=body,
            http_status=status,
            reply=reply,
            error=error,
            elapsed=time.monotonic() - began,
        )
