"""The ledger: every call is written down before it is placed, and what became of it after.

1. What cannot be written down is not placed. What was written down and then not sent is struck out.
2. What became of a call is written down before its caller goes on, if the database answers within a
   second; else as soon as it does.
3. A process that dies in between leaves a call that may have been placed. Its notification, which
   has our id, or the watchdog settles it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Final

from qmc_async.errors import DuplicateCall, StoreError
from qmc_async.numbers import mask
from qmc_async.store.ledger import Opening, Settlement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from qmc_async.models import CallState, LedgerEntry
    from qmc_async.store import Store

__all__ = ["Ledger"]

logger = logging.getLogger(__name__)

_PATIENCE: Final = 5.0  # seconds that the database has to take a call; nobody's telephone rings yet
_SETTLED_WITHIN: Final = 1.0  # seconds that whoever placed a call waits for the ledger
_TRIED_EVERY: Final = 1.0  # seconds
_LAST: Final = 5.0  # seconds that what is still to be written has when the client is closed
_LONGEST_ERROR: Final = 2000  # characters; the platform's own words may be a megabyte


class Ledger:
    """One client's view of the ledger.

    Args:
        store: where it is.
        missing_after: seconds from when a call is placed until its notification is overdue.
        whole_numbers: whether telephone numbers are written down whole.
    """

    def __init__(self, store: Store, *, missing_after: float, whole_numbers: bool) -> None:
        self.store = store
        self._missing_after = missing_after
        self._whole_numbers = whole_numbers
        self._opening = asyncio.Lock()
        self._is_open = False
        self._is_closed = False
        self._placing: dict[Opening, asyncio.Future[None]] = {}
        self._unwritten: set[asyncio.Task[None]] = set()
        self._withdrawals: dict[asyncio.Task[None], str] = {}

    async def open(self) -> None:
        """Open the store, unless that is done.

        Raises:
            ConfigError: nothing can be kept there; the message says why.
            RuntimeError: the client is closed.
        """
        async with self._opening:
            self._check_usable()
            if self._is_open:
                return
            await self.store.open()
            self._is_open = True

    async def aclose(self) -> None:
        """Write down what is still to be written, and close the store."""
        self._is_closed = True
        loop = asyncio.get_running_loop()
        end = loop.time() + _LAST
        try:
            while rest := {*self._placing.values(), *self._unwritten}:
                if (left := end - loop.time()) <= 0:
                    break
                await asyncio.wait(rest, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (unwritten := set(self._unwritten)):
                task.cancel()
            await asyncio.gather(*unwritten, return_exceptions=True)
            async with self._opening:
                if self._is_open:
                    self._is_open = False
                    await self.store.close()

    def _check_usable(self) -> None:
        if self._is_closed:
            raise RuntimeError("this AsyncQmcClient is closed: make a new one")

    def _check_whole(self) -> None:
        # The call that had an id may be in what is yet to be copied.
        if self.store.is_copying:
            raise StoreError("the ledger is still being copied from a broken file")

    async def write_down(
        self,
        out_call_id: str,
        caller: str,
        callee: str,
        *,
        again: bool,
        traceparent: str | None = None,
    ) -> Opening:
        """Write a call down before anything of it is sent, and by which span that is done.

        Raises:
            DuplicateCall: its `out_call_id` was used before, and `again` is False.
            StoreError: it could not be written down.
            ConfigError: the store cannot be opened.
            RuntimeError: the client was closed meanwhile.
        """
        await self.open()
        opening = Opening(
            token=uuid.uuid4().hex,
            out_call_id=out_call_id,
            caller=caller if self._whole_numbers else mask(caller),
            callee=callee if self._whole_numbers else mask(callee),
            again=again,
            missing_after=round(self._missing_after * 1000),
            traceparent=traceparent,
        )
        self._placing[opening] = asyncio.get_running_loop().create_future()
        asked: asyncio.Future[LedgerEntry | None] | None = None
        try:
            async with asyncio.timeout(_PATIENCE):
                # An earlier try that was given up must not look like a call that was placed.
                earlier = [task for task, ours in self._withdrawals.items() if ours == out_call_id]
                if earlier:
                    await asyncio.wait(earlier)
                asked = self.store.open_entry(opening)
                there = await asyncio.shield(asked)
            self._check_usable()
            if there is None:
                self._check_whole()
        except (StoreError, TimeoutError) as error:
            self._withdraw(opening, asked)
            why = str(error) or f"the store did not answer in {_PATIENCE:g} s"
            raise StoreError(
                f"the call {out_call_id} was not placed, because it cannot be written down: {why}",
                temporary=getattr(error, "temporary", True),
            ) from None
        except BaseException:  # cancelled, in time
            self._withdraw(opening, asked)
            raise
        if there is None:
            return opening
        self._end(opening)
        raise DuplicateCall(
            f"out_call_id {out_call_id} was used before: that call is {there.state} since "
            f"{there.changed_at:%Y-%m-%d %H:%M:%S}. To ring again, take another id, or pass "
            "again=True",
            out_call_id=out_call_id,
            call_id=there.call_id,
            state=there.state,
        )

    async def settle(
        self,
        opening: Opening,
        state: CallState,
        *,
        call_id: str | None = None,
        error: str = "",
    ) -> None:
        """Write down what became of a call, now or as soon as the database takes it."""
        task = self.settle_soon(opening, state, call_id=call_id, error=error)
        await asyncio.wait({task}, timeout=_SETTLED_WITHIN)

    def settle_soon(
        self,
        opening: Opening,
        state: CallState,
        *,
        call_id: str | None = None,
        error: str = "",
    ) -> asyncio.Task[None]:
        """The same, for who cannot wait."""
        settlement = Settlement(
            opening=opening, state=state, call_id=call_id, error=_storable(error)
        )
        task = self._start(self._settle(settlement))
        self._end(opening)
        return task

    def _end(self, opening: Opening) -> None:
        self._placing.pop(opening).set_result(None)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._unwritten.add(task)
        task.add_done_callback(self._unwritten.discard)
        return task

    async def _settle(self, settlement: Settlement) -> None:
        what = f"that the call {settlement.opening.out_call_id} is {settlement.state}"
        await self._write(what, lambda: self.store.settle_entry(settlement))

    def _withdraw(self, opening: Opening, asked: asyncio.Future[LedgerEntry | None] | None) -> None:
        if asked is not None:
            task = self._start(self._strike_out(opening, asked))
            self._withdrawals[task] = opening.out_call_id
            task.add_done_callback(self._withdrawals.pop)
        self._end(opening)

    async def _strike_out(
        self, opening: Opening, asked: asyncio.Future[LedgerEntry | None]
    ) -> None:
        async def write() -> None:
            # Of what waits for the store together, the order is not that of asking.
            await asyncio.gather(asked, return_exceptions=True)
            await self.store.withdraw_entry(opening)

        await self._write(f"that the call {opening.out_call_id} was not placed", write)

    async def _write(self, what: str, write: Callable[[], Awaitable[None]]) -> None:
        is_late = False
        try:
            while True:
                try:
                    await write()
                except StoreError as error:
                    if not error.temporary or not self._is_open:
                        logger.error("%s cannot be written down: %s", what, error)  # noqa: TRY400 - the traceback says no more
                        return
                    if not is_late:
                        logger.warning("%s is yet to be written down: %s", what, error)
                    is_late = True
                else:
                    return
                await asyncio.sleep(_TRIED_EVERY)
        except asyncio.CancelledError:
            logger.error("%s was not written down", what)  # noqa: TRY400 - the same
            raise


def _storable(error: str) -> str:
    # No database takes half a character, and PostgreSQL no NUL.
    text = error.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return text[:_LONGEST_ERROR]
