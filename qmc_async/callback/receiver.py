"""A request to a reply, without a web framework: what the platform posts, and what we answer (3.2).

A notification that got here is answered with success, whatever is in it: the platform does not
send it again, so refusing what cannot be decoded would only lose it. It becomes an
`UnknownNotification` that holds the whole body.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from qmc_async.callback.guard import LONGEST_BODY
from qmc_async.callback.reply import NOT_KEPT, RECEIVED
from qmc_async.models import UnknownNotification
from qmc_async.store.records import Receipt
from qmc_async.telemetry import SILENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmc_async.callback.guard import Guard
    from qmc_async.callback.reply import Reply
    from qmc_async.models import Notification
    from qmc_async.telemetry import Receiving, Telemetry

__all__ = ["Receiver"]

logger = logging.getLogger(__name__)


class Receiver:
    """Takes the bodies that the guard has let through.

    Args:
        guard: refuses what is too long.
        accept: keeps a notification, and hands it on. It tells once it is answered for, or why it
            could not be kept, whatever becomes of who asks.
        telemetry: is told of what comes.
    """

    def __init__(
        self,
        guard: Guard,
        accept: Callable[[Receipt, Callable[[BaseException | None], None]], None],
        telemetry: Telemetry = SILENT,
    ) -> None:
        self._telemetry = telemetry
        self._guard = guard
        self._accept = accept
        self._taking: set[asyncio.Future[BaseException | None]] = set()
        self._is_idle = asyncio.Event()

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - what is late goes on
        """Wait until all that is being taken is answered for, for so many seconds at most."""
        # Of an event loop that has ended nobody is told any more.
        loop = asyncio.get_running_loop()
        self._taking = {one for one in self._taking if one.get_loop() is loop}
        if self._taking:
            self._is_idle = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._is_idle.wait()

    async def take(self, body: bytes, problem: str = "") -> Reply:
        """Take one notification.

        Once it is being kept, neither a sender that goes away nor a stop of the server comes
        between that and handing it on: where this is cancelled, it goes on.

        Args:
            body: any bytes.
            problem: why they may not be all that was sent. What can be decoded is taken all the
                same.
        """
        with self._telemetry.receiving() as receiving:
            reply = await self._take(body, problem, receiving)
            receiving.answers(reply.status)
            return reply

    async def _take(self, body: bytes, problem: str, receiving: Receiving) -> Reply:
        if len(body) > LONGEST_BODY:
            return self._guard.too_long()
        receipt = Receipt.read(body, problem)
        event = receipt.event
        receiving.reads(event)
        if isinstance(event, UnknownNotification):
            if event.problem:
                logger.warning(
                    "a notification cannot be decoded, and is kept as it came: %s", event.problem
                )
        elif event.problems:
            # Ids have 64 characters at most (3.1); a stranger's may be as long as the body.
            logger.warning(
                "parts of the notification of call %.64s cannot be read: %s",
                event.call_id,
                "; ".join(event.problems),
            )
        taken: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._taking.add(taken)
        then = partial(self._taken, taken, event)
        try:
            self._accept(receipt, then)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is answered for
            then(error)
        return NOT_KEPT if await taken else RECEIVED

    def _taken(
        self,
        taken: asyncio.Future[BaseException | None],
        event: Notification,
        error: BaseException | None,
    ) -> None:
        self._taking.discard(taken)
        if not self._taking:
            self._is_idle.set()
        if error is not None:
            # Databases quote in their errors what they were to keep, so that is left out.
            logger.critical(
                "the notification of call %.64s could not be kept (%s), and will not come again",
                event.call_id,
                type(error).__name__,
            )
        if not taken.done():  # nobody may wait any longer
            taken.set_result(error)
