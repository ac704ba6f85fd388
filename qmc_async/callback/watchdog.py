"""The watchdog: looks for what became of calls that nobody has reported by their deadline.

1. All that can be asked is for the recording. One that is there means that the call was connected
   and has ended; `end_call` is never used, because it would cut a call that goes on.
2. A platform that cannot be asked is asked again, ever more slowly, for as long as it keeps
   recordings. One that does not accept us is left alone for a while: platforms ban for less.
3. While notifications may be on their way from a spool to the database, nobody is given up.
4. Each call is settled once, by whichever server has its lease, together with the event of it.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from qmc_async.errors import ApiError, AuthenticationError, QmcError, RateLimited, StoreError
from qmc_async.models import CallState
from qmc_async.retry import full_jitter
from qmc_async.store.records import Verdict
from qmc_async.telemetry import SILENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmc_async.models import Recording
    from qmc_async.signer import Signer
    from qmc_async.store import Store
    from qmc_async.store.records import Look
    from qmc_async.telemetry import Telemetry

__all__ = ["CallingClient", "Watchdog"]

logger = logging.getLogger(__name__)

_LOOKED_EVERY: Final = 5.0  # seconds
_AT_ONCE: Final = 32  # calls
_LONGEST_LOOK: Final = 25.0  # seconds; two of them are less than a lease
_FIRST_DELAY: Final = 60.0  # seconds until a platform that could not be asked is asked again
_LONGEST_DELAY: Final = 1800.0  # seconds
_LEFT_ALONE: Final = 600.0  # seconds
_CLOCK_CHECKED_EVERY: Final = 60.0  # seconds
_FORWARDED_WITHIN: Final = 30.0  # seconds in which other machines empty their spools


class CallingClient(Protocol):
    """What a server needs of an `AsyncQmcClient`."""

    @property
    def signer(self) -> Signer:
        """Signs the requests."""
        ...

    @property
    def store(self) -> Store | None:
        """Where the ledger is."""
        ...

    async def recording(self, call: str, /) -> Recording:
        """Look up where a call's recording is (3.3)."""
        ...


class Watchdog:
    """Settles the overdue calls of a store.

    Args:
        store: where the ledger is.
        client: asks the platform.
        on_settled: called when there is an event for handlers.
        telemetry: is told of them, too.
    """

    def __init__(
        self,
        store: Store,
        client: CallingClient,
        on_settled: Callable[[], None],
        telemetry: Telemetry = SILENT,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._client = client
        self._on_settled = on_settled
        self._watching: asyncio.Task[None] | None = None
        self._left_alone_until = 0.0
        self._clock_checked_at = 0.0

    def start(self) -> None:
        """Begin to look, once what an earlier process has left in its spool is forwarded."""
        self._left_alone_until = self._clock_checked_at = 0.0
        self._watching = asyncio.create_task(self._watch(), name="qmc watchdog")

    async def stop(self) -> None:
        """Leave what is being looked at to whoever comes next: its lease ends by itself."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._telemetry.begin_anew()
        while True:
            are_all = True
            try:
                if loop.time() >= self._clock_checked_at + _CLOCK_CHECKED_EVERY:
                    await self._store.undo_clock_steps_of_calls()
                    self._clock_checked_at = loop.time()
                if loop.time() >= self._left_alone_until and not self._store.is_catching_up:
                    found = await self._store.look_for_overdue(_AT_ONCE)
                    # The first alone: if the platform does not accept us, it is asked once.
                    for looks in (found.looks[:1], found.looks[1:]):
                        await asyncio.gather(*map(self._look, looks))
                    are_all = found.are_all
            except StoreError as error:
                level = logging.DEBUG if error.temporary else logging.ERROR
                logger.log(level, "overdue calls cannot be looked for: %s", error)
                self._leave_alone(_FORWARDED_WITHIN)
            except Exception:
                # Whatever it is: without this loop nobody would notice a call that is missing.
                logger.exception("looking for overdue calls failed")
            if are_all:
                await asyncio.sleep(_LOOKED_EVERY)

    def _leave_alone(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        self._left_alone_until = max(self._left_alone_until, until)

    async def _look(self, look: Look) -> None:
        verdict = await self._judge(look)
        if self._store.is_catching_up:  # it may have come meanwhile
            verdict = Verdict(look, None)
        try:
            is_settled = await self._store.settle_overdue(verdict)
        except StoreError as error:  # it is looked at again when the lease has ended
            logger.debug("what became of an overdue call cannot be written down: %s", error)
            self._leave_alone(_FORWARDED_WITHIN)
            return
        if is_settled:
            logger.warning(
                "the call %s was not reported by its deadline: it is %s",
                look.entry.out_call_id,
                verdict.outcome,
            )
            self._telemetry.overdue(str(verdict.outcome))
            self._on_settled()

    async def _judge(self, look: Look) -> Verdict:
        if look.entry.call_id is None or look.is_last:
            return Verdict(look, CallState.MISSING)
        if asyncio.get_running_loop().time() < self._left_alone_until:
            return Verdict(look, None)
        try:
            async with asyncio.timeout(_LONGEST_LOOK):
                await self._client.recording(look.entry.call_id)
        except (QmcError, TimeoutError, RuntimeError) as error:
            if isinstance(error, AuthenticationError | RateLimited):
                pause = min(getattr(error, "retry_after", None) or _LEFT_ALONE, _LONGEST_DELAY)
                self._leave_alone(pause)
            elif isinstance(error, ApiError) and not _is_its_own_fault(error):
                return Verdict(look, CallState.MISSING)
            return _later(look, error)
        return Verdict(look, CallState.INFERRED)


def _is_its_own_fault(error: ApiError) -> bool:
    # Without a code of the document's it is a proxy, or a wrong path, that answers.
    return error.code is None or (error.http_status or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR


def _later(look: Look, error: Exception) -> Verdict:
    logger.warning(
        "the call %s is overdue, and the platform cannot be asked for its recording: %s",
        look.entry.out_call_id,
        str(error) or type(error).__name__,
    )
    delay = full_jitter(look.looks + 1, _FIRST_DELAY, _LONGEST_DELAY)
    return Verdict(look, None, delay=delay)
