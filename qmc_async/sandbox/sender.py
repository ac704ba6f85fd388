"""Sends notifications: each once, to the address of the moment, and writes down what came back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
from attrs import evolve

from qmc_async.sandbox.history import Attempt
from qmc_async.sandbox.wire import notification

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from qmc_async.sandbox.assumed import Assumed
    from qmc_async.sandbox.calls import SimulatedCall
    from qmc_async.signer import Signer

__all__ = ["Sender"]

_LONGEST_REPLY = 64 * 1024  # bytes; the document's has under a hundred
_HEADERS = {"Content-Type": "application/json;charset=utf-8"}


class Sender:
    """Posts notifications (3.2). "A wrongly configured address is not sent to again" (1).

    Attributes:
        url: where to; None sends nothing, and writes the attempt down all the same.
        attempts: in the order in which they ended.

    Args:
        signer: signs, where that is assumed.
        assumed: what the document does not say.
        now: tells the simulated time.
        on_ended: called as each attempt has ended, and as the last that was on its way has.
    """

    def __init__(
        self,
        signer: Signer,
        assumed: Assumed,
        *,
        now: Callable[[], datetime],
        on_ended: Callable[[], None],
    ) -> None:
        self.url: str | None = None
        self.attempts: list[Attempt] = []
        self._signer = signer
        self._assumed = assumed
        self._now = now
        self._on_ended = on_ended
        self._session: aiohttp.ClientSession  # from `open` on; nothing is posted before
        self._tasks: dict[asyncio.Task[Attempt], SimulatedCall] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._tasks

    @property
    def reporting(self) -> set[str]:
        """The calls whose notifications are on their way."""
        return {call.call_id for call in self._tasks.values()}

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

    def post(self, call: SimulatedCall, *, by_hand: bool = False) -> asyncio.Task[Attempt]:
        """Send the notification about a call, from a task of its own that never fails.

        Args:
            call: it has ended.
            by_hand: send it as it should be, once, whatever fault the call has.

        Returns:
            The task, whose result is the last attempt; it is cancelled where that is given up.
        """
        task = asyncio.create_task(self._send(call, by_hand=by_hand))
        self._tasks[task] = call
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Attempt]) -> None:
        del self._tasks[task]
        self._on_ended()

    async def _send(self, call: SimulatedCall, *, by_hand: bool) -> Attempt:
        faults = call.behaviour.faults
        body = notification(call, self._assumed)
        copies = 1
        if not by_hand:
            copies += faults.duplicate_notification
            if faults.malformed_notification:
                body = body[: len(body) // 2]
        while True:
            unsent = Attempt(call_id=call.call_id, at=self._now(), body=body, by_hand=by_hand)
            attempt = (
                evolve(unsent, error="no callback_url")
                if self.url is None
                else await self._attempt(unsent, self.url)
            )
            self.attempts.append(attempt)
            call.history.append(attempt)
            self._on_ended()
            copies -= 1
            if not copies:
                return attempt

    async def _attempt(self, unsent: Attempt, url: str) -> Attempt:
        headers = dict(_HEADERS)
        if self._assumed.notification_authorization:
            now = time.time() + self._assumed.clock_skew.total_seconds()
            headers["Authorization"] = self._signer.sign(now)
        sent = evolve(unsent, url=url, headers=tuple(headers.items()))
        began = time.monotonic()
        try:
            async with self._session.post(
                url, data=sent.body, headers=headers, allow_redirects=False
            ) as response:
                reply = await _beginning(response)
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            # Only its name: the text may hold the address, whose path is a secret.
            error = type(problem).__name__
            return evolve(sent, error=error, elapsed=time.monotonic() - began)
        return evolve(
            sent,
            http_status=response.status,
            reply_headers=tuple(response.headers.items()),
            reply=reply,
            elapsed=time.monotonic() - began,
        )


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """The body of an answer, but no more of it than anybody will look at."""
    kept = bytearray()
    async for piece in response.content.iter_any():
        kept += piece
        if len(kept) > _LONGEST_REPLY:
            break
    return bytes(kept[:_LONGEST_REPLY])
