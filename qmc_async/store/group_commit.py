"""One thread that does what many coroutines ask for, all that waits in one go.

Whoever comes while the thread is busy shares the next go with all others who do: many
notifications, one fsync. Whoever comes while it is idle does not wait for company, unless nobody
waits for him: then a few milliseconds are worth a transaction. Nor does he wait for the event loop,
which somebody may block.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeAlias, TypeVar

from attrs import define, field

from qmc_async.errors import StoreError

__all__ = ["GroupCommit", "Job", "Operation", "grouped"]

logger = logging.getLogger(__name__)

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")

Operation: TypeAlias = Callable[[R, Sequence[A]], Sequence[B]]
"""Does the same for several arguments, and returns as many results."""

_COMPANY: Final = 0.005  # seconds that a job which can wait is kept back for
_AT_ONCE: Final = 500  # jobs of one go: the first of them waits for the last


@define(eq=False)
class Job:
    """What somebody asks for.

    Attributes:
        operation: an `Operation`.
        argument: its own argument.
        then: is told the result, or the error.
        result: what the operation returned, once it is done for good.
        error: why it could not be done.
    """

    operation: Operation[Any, Any, Any]
    argument: object
    then: Callable[[Any], object] = field(repr=False)
    result: object = None
    error: BaseException | None = None


def grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs with the same operation together, in the order in which the operations came."""
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.operation, []).append(job)
    return list(groups.values())


class GroupCommit(Generic[R]):
    """The thread.

    Args:
        name: of the thread.
        start: run first, in the thread.
        commit: does a list of jobs for good, and sets each one's result or error.
        stop: run last, in the thread, also where `start` has failed.
    """

    def __init__(
        self,
        name: str,
        *,
        start: Callable[[], None],
        commit: Callable[[Sequence[Job]], None],
        stop: Callable[[], None],
    ) -> None:
        self._name = name
        self._start = start
        self._commit = commit
        self._stop = stop
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._closing = False
        self._kept_back: list[Job] = []

    async def open(self) -> None:
        """Start the thread.

        Raises:
            Exception: as `start`; the thread has ended then.
        """
        self._loop = asyncio.get_running_loop()
        started = self._loop.create_future()
        self._ended = self._loop.create_future()
        # A daemon: a program that forgets to close the store must be able to end.
        threading.Thread(target=self._run, args=(started,), name=self._name, daemon=True).start()
        try:
            await asyncio.shield(started)
        except BaseException:
            await self.close()
            started.exception()  # else asyncio tells on its own of one that nobody has seen
            raise

    async def close(self) -> None:
        """Do what waits, and end the thread."""
        if self._ended is not None:
            self.end()
            await asyncio.shield(self._ended)

    def end(self) -> None:
        """Take nothing more; the thread ends once what waits is done."""
        if not self._closing:
            self._closing = True
            self._hand_on()
            self._jobs.put(None)

    def submit(self, operation: Operation[R, A, B], argument: A) -> asyncio.Future[B]:
        """Ask for something; the future has its result once it is committed.

        It goes on where the future is cancelled. The future's error is what `commit` has set.

        Args:
            operation: what to do.
            argument: to what.

        Raises:
            StoreError: the store is closed, or belongs to another event loop.
        """
        future: asyncio.Future[B] = asyncio.get_running_loop().create_future()
        self.begin(operation, argument, partial(_resolve, future))
        return future

    def begin(
        self,
        operation: Operation[R, A, B],
        argument: A,
        then: Callable[[B | BaseException], object],
        *,
        can_wait: bool = False,
    ) -> None:
        """The same without a future: nobody has to wait for an event loop's next round.

        Args:
            operation: what to do.
            argument: to what.
            then: called with the result once it is committed, or with the error.
            can_wait: for a few milliseconds, in which somebody who cannot may come: nobody is kept
                waiting.

        Raises:
            StoreError: as `submit`.
        """
        loop = self._loop
        if loop is None or self._closing:
            raise StoreError("the store is not open")
        if asyncio.get_running_loop() is not loop:
            raise StoreError("the store was opened on another event loop")
        self._kept_back.append(Job(operation, argument, then))
        if not can_wait:
            self._hand_on()
        elif len(self._kept_back) == 1:
            loop.call_later(_COMPANY, self._hand_on)

    def _hand_on(self) -> None:
        for job in self._kept_back:
            self._jobs.put(job)
        self._kept_back.clear()

    def _run(self, started: asyncio.Future[None]) -> None:
        try:
            self._start()
        except BaseException as error:  # noqa: BLE001 - it is the opener's to see
            self._tell(_fail, started, error)
        else:
            self._tell(_succeed, started)
            while self._commit_waiting():
                pass
        finally:
            try:
                self._stop()
            finally:
                self._tell(_succeed, self._ended)

    def _commit_waiting(self) -> bool:
        """Do what waits; False once the thread is to end."""
        jobs: list[Job] = []
        job = self._jobs.get()
        try:
            while job is not None:
                jobs.append(job)
                if len(jobs) == _AT_ONCE:
                    break
                job = self._jobs.get_nowait()
        except Empty:
            pass
        if jobs:
            try:
                self._commit(jobs)
            except BaseException as error:  # noqa: BLE001 - whoever waits must not wait for ever
                for failed in jobs:
                    failed.error = error
            self._tell(_settle, jobs)
        return job is not None

    def _tell(self, what: Callable[..., None], *args: object) -> None:
        assert self._loop is not None  # noqa: S101 - the thread starts after it is set
        try:
            self._loop.call_soon_threadsafe(what, *args)
        except RuntimeError:
            # The loop is closed: nobody waits any longer, and nobody will end the thread.
            self._jobs.put(None)


def _settle(jobs: Sequence[Job]) -> None:
    for job in jobs:
        try:
            job.then(job.result if job.error is None else job.error)
        except Exception:
            # Whatever it is, it is not the fault of those who come after.
            logger.exception("what follows a transaction failed")


def _resolve(future: asyncio.Future[B], answer: B | BaseException) -> None:
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _succeed(future: asyncio.Future[None]) -> None:
    future.set_result(None)


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    future.set_exception(error)
