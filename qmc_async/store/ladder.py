"""The ladder: the database; where it is slow or fails, the spool; where that fails too, an error.

1. What is in the spool goes to the database once that is back, and stays until it is there.
2. While the database is down nobody waits for it, unless there is nothing else.
3. A commit that comes too late is no loss: the same notification is known when it comes from the
   spool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from attrs import define

from qmc_async.deadlines import Deadlines
from qmc_async.errors import StoreError
from qmc_async.store import deliveries, events, spool_file
from qmc_async.store.records import Kept

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sqlalchemy import Connection

    from qmc_async.store.group_commit import GroupCommit
    from qmc_async.store.records import Put

__all__ = ["Ladder", "Then"]

Then: TypeAlias = Callable[[Kept | BaseException | None], None]
"""Is told what became of a notification in the database; None where it is in the spool."""

logger = logging.getLogger(__name__)

_SPOOL_PATIENCE: Final = 0.25  # seconds beyond the database's 0.4: the answer leaves in 0.7
_TRIED_EVERY: Final = 0.5  # seconds between two looks whether the database is back
_ADOPTED_EVERY: Final = 10.0  # seconds between two looks for processes that have died
_LONGEST_COMMIT: Final = 60.0  # seconds
_FEW: Final = 100  # notifications that are left to forward; the rest need not come this way


@define(eq=False)
class _Keeping:
    """A notification on its way down the ladder.

    Attributes:
        put: what came.
        then: told what became of it.
        on_late: told what became of it in the database, where that took too long.
        end: of the event loop's time; by then `then` is told.
        failure: why the first rung did not hold.
    """

    put: Put
    then: Then
    on_late: Callable[[Kept], None]
    end: float
    failure: StoreError | None = None


class Ladder:
    """Keeps notifications, one way or the other.

    Args:
        rows: the database.
        spool: None where there is none.
        patience: seconds that a notification waits for the database.
        on_kept: told of each notification that was kept, and what became of it, before who waits
            for that is.
        on_forwarded: called when something has gone from the spool to the database.
    """

    def __init__(
        self,
        rows: GroupCommit[Connection],
        spool: GroupCommit[spool_file.Spool] | None,
        patience: float,
        *,
        on_kept: Callable[[Put, Kept | None], None],
        on_forwarded: Callable[[], None],
    ) -> None:
        self._rows = rows
        self._on_kept = on_kept
        self._on_forwarded = on_forwarded
        self._spool = spool
        self._patience = patience
        self._is_down = False
        self._failures = 0
        self._is_spool_down = spool is None
        self._to_forward = asyncio.Event()
        self._to_forward.set()  # what an earlier process may have left
        self._is_forwarding = True
        self._unreadable: set[Path] = set()
        self._at_database = Deadlines[_Keeping](
            lambda keeping: self._leave_database(keeping, TimeoutError())
        )
        self._at_spool = Deadlines[_Keeping](
            lambda keeping: self._leave_spool(keeping, TimeoutError())
        )

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong, each with what it means."""
        found: dict[str, str] = {}
        if self._is_down:
            found["store"] = "the database does not take notifications; they go to the spool"
        if self._is_down and self._is_spool_down:
            found["spool"] = "the spool does not take them either"
        return found

    @property
    def is_forwarding(self) -> bool:
        """Whether the spool may hold what the database does not have yet."""
        return self._is_down or self._is_forwarding or self._to_forward.is_set()

    def keep(self, put: Put, then: Then, on_late: Callable[[Kept], None]) -> None:
        """Keep a notification.

        Args:
            put: what came.
            then: told once it is on the disk what became of it, or the `StoreError` that says why
                it could not be kept at all.
            on_late: told what became of it in the database, where that took longer than
                `patience`.
        """
        end = asyncio.get_running_loop().time() + self._patience + _SPOOL_PATIENCE
        keeping = _Keeping(put, then, on_late, end)
        if self._is_down:  # then nobody waits for it, unless there is nothing else
            self._ask_spool(keeping)
        else:
            self._ask_database(keeping)

    def _ask_database(self, keeping: _Keeping) -> None:
        deadline = keeping.end
        if self._spool is not None:
            deadline = min(deadline, asyncio.get_running_loop().time() + self._patience)
        self._at_database.add(keeping, deadline)
        try:
            self._rows.begin(events.put, keeping.put, partial(self._database_answered, keeping))
        except StoreError as error:
            self._at_database.discard(keeping)
            self._leave_database(keeping, error)

    def _database_answered(self, keeping: _Keeping, answer: Kept | BaseException) -> None:
        if self._at_database.discard(keeping):
            self._leave_database(keeping, answer)
        elif isinstance(answer, Kept):  # else it is in the spool, or that was told
            if self._at_spool.discard(keeping):
                self._tell(keeping, answer)
            else:
                keeping.on_late(answer)

    def _leave_database(self, keeping: _Keeping, answer: Kept | BaseException) -> None:
        if isinstance(answer, TimeoutError):
            self._went_down(f"it did not answer in {self._patience:.2g} s")
            answer = StoreError("the store is too slow")
        elif isinstance(answer, StoreError) and answer.temporary:
            self._went_down(str(answer))
        self._go_on(keeping, answer, self._ask_spool)

    def _ask_spool(self, keeping: _Keeping) -> None:
        if self._spool is None:
            self._go_on(keeping, StoreError("there is no spool"), self._ask_database)
            return
        self._at_spool.add(keeping, keeping.end)
        try:
            answered = partial(self._spool_answered, keeping)
            self._spool.begin(spool_file.append, keeping.put, answered)
        except StoreError as error:
            self._at_spool.discard(keeping)
            self._leave_spool(keeping, error)

    def _spool_answered(self, keeping: _Keeping, answer: BaseException | None) -> None:
        if self._at_spool.discard(keeping):
            self._leave_spool(keeping, answer)
        else:
            self._to_forward.set()

    def _leave_spool(self, keeping: _Keeping, answer: BaseException | None) -> None:
        self._to_forward.set()
        self._is_spool_down = isinstance(answer, OSError)
        if isinstance(answer, OSError):  # a TimeoutError is one
            answer = StoreError(f"the spool failed: {type(answer).__name__}")
        self._go_on(keeping, answer, self._ask_database)

    def _go_on(
        self,
        keeping: _Keeping,
        answer: Kept | BaseException | None,
        ask_other: Callable[[_Keeping], None],
    ) -> None:
        if not isinstance(answer, StoreError):
            self._tell(keeping, answer)
        elif keeping.failure is None:
            keeping.failure = answer
            ask_other(keeping)
        else:
            self._tell(keeping, StoreError(f"{keeping.failure}; {answer}"))

    def _tell(self, keeping: _Keeping, answer: Kept | BaseException | None) -> None:
        try:
            if not isinstance(answer, BaseException):
                self._on_kept(keeping.put, answer)
        finally:
            keeping.then(answer)

    def _went_down(self, why: str) -> None:
        if not self._is_down:
            logger.error("notifications go to the spool until the store is back: %s", why)
        self._is_down = True
        self._failures += 1
        self._to_forward.set()

    async def forward_for_ever(self) -> None:
        """Move the spool to the database whenever there is something in it; never returns."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_ADOPTED_EVERY):
                    await self._to_forward.wait()
            self._is_forwarding = True  # also where others may have died and left something
            self._to_forward.clear()
            while True:
                failures = self._failures
                if await self._forward_all() and self._came_back(failures):
                    break
                await asyncio.sleep(_TRIED_EVERY)
            self._is_forwarding = False

    def _came_back(self, failures: int) -> bool:
        """Go back to the database, unless it has failed since: then a look proves nothing."""
        if failures != self._failures:
            return False
        if self._is_down:
            logger.warning("the store is back")
        self._is_down = False
        return True

    async def _forward_all(self) -> bool:
        """Move the spool to the database; whether that is done, and the database quick again."""
        loop = asyncio.get_running_loop()
        try:
            began = loop.time()
            async with asyncio.timeout(_LONGEST_COMMIT):
                await self._rows.submit(events.probe, None)
            is_quick = loop.time() - began < self._patience
            await self._adopt()
            await self._forward_files()
        except (StoreError, OSError) as error:
            logger.debug("the store is not back yet: %s", error)
            return False
        except Exception:
            # Whatever it is: without this loop the spool would stay where it is.
            logger.exception("forwarding the spool failed")
            return False
        return is_quick

    async def _adopt(self) -> None:
        """Take over what processes of this machine have left behind when they died."""
        if self._spool is None:
            return
        for owner in await self._spool.submit(spool_file.adopt, None):
            released = await self._rows.submit(deliveries.release, owner)
            logger.warning(
                "a process has died; its spool is taken over, and %d deliveries", released
            )

    async def _forward_files(self) -> None:
        lines = self._spool
        if lines is None:
            return
        for path in await lines.submit(spool_file.files, None):
            try:
                await self._forward_file(lines, path)
            except OSError as error:
                # It must not keep the others from the database, nor the watchdog from looking.
                if path not in self._unreadable:
                    logger.error("the spool file %s cannot be read: %s", path, error.strerror)  # noqa: TRY400 - the traceback says no more
                self._unreadable.add(path)
            else:
                self._unreadable.discard(path)

    async def _forward_file(self, lines: GroupCommit[spool_file.Spool], path: Path) -> None:
        loop = asyncio.get_running_loop()
        end = 0
        while True:
            chunk = await lines.submit(spool_file.read, (path, end))
            began, failures = loop.time(), self._failures
            await asyncio.gather(*(self._forward(path, one) for one in chunk.puts))
            if chunk.puts:
                self._on_forwarded()
                is_quick = loop.time() - began < self._patience
                # Under a load that never pauses there would be no end.
                if end and is_quick and len(chunk.puts) < _FEW:
                    self._came_back(failures)
            if chunk.end == end and await lines.submit(spool_file.clear, (path, end)):
                return
            end = chunk.end

    async def _forward(self, path: Path, put: Put) -> None:
        try:
            await self._rows.submit(events.put, put)
        except StoreError as error:
            if error.temporary or self._spool is None:
                raise
            await self._spool.submit(spool_file.set_apart, (path, put))
