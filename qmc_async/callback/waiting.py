"""Coroutines that wait for the end of one call.

1. What this process receives wakes them at once.
2. What the store has already is looked up when they begin to wait: one query for all who begin
   while the last one is under way.
3. What another process receives is told by the database where that can tell; anyhow it is found,
   by looking for all who wait again and again.
4. What the watchdog has given up ends the wait, unless the notification has come after all.
5. A store that fails delays them; it does not end their wait.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from qmc_async.errors import NotificationMissing, StoreError
from qmc_async.models import CallState, Overdue

if TYPE_CHECKING:
    from collections.abc import Collection

    from qmc_async.models import Disconnected
    from qmc_async.store import Store

__all__ = ["Waiting"]

logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, str]

_TICK: Final = 0.5  # seconds between two looks for all who wait
_HEARD_TICK: Final = 5.0  # seconds; where the database tells, looking only makes sure
_SKIPPED: Final = 10  # looks, where nothing has changed
_IDLE: Final = 10  # times as long as a look took, the store has for other things
_LOOK_UP: Final = 1.0  # seconds that the store has to answer who has no time
_KINDS: Final = ("call_id", "out_call_id")


class Waiting:
    """Wakes who waits for a call by its call id or by its `out_call_id`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._futures: dict[Key, set[asyncio.Future[Disconnected]]] = {}
        self._new: set[Key] = set()
        self._asked = asyncio.Event()
        self._must_look = False
        self._changes: object = None
        self._skipped = 0
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look into the store for those who wait."""
        self._asked = asyncio.Event()
        self._must_look = False
        self._changes = None
        self._store.hear(self)
        self._watching = asyncio.create_task(self._watch(), name="qmc waiting")

    async def stop(self) -> None:
        """Let nobody wait for a server that has stopped."""
        watching, self._watching = self._watching, None
        self._store.unhear(self)
        for futures in self._futures.values():
            for future in futures:
                if not future.done():
                    future.set_exception(
                        RuntimeError("the callback server stopped before the notification came")
                    )
                    future.exception()  # or asyncio complains, where nobody asks any longer
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def wait(
        self,
        *,
        call_id: str | None,
        out_call_id: str | None,
        timeout: float,  # noqa: ASYNC109 - the error says which call it was
    ) -> Disconnected:
        """The call's `Disconnected`, whether it has come or is yet to come.

        Raises:
            TimeoutError: it did not come in `timeout` seconds.
            NotificationMissing: the watchdog has given it up.
            RuntimeError: the server stopped.
        """
        key = ("call_id", call_id) if call_id is not None else ("out_call_id", out_call_id or "")
        if timeout <= 0 and (event := await self._find(key)):
            return _reported(event)
        future: asyncio.Future[Disconnected] = asyncio.get_running_loop().create_future()
        futures = self._futures.setdefault(key, set())
        futures.add(future)
        self._new.add(key)
        self._asked.set()
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise TimeoutError(
                f"no notification for {key[0]} {key[1]} in {timeout:g} s; it may yet come"
            ) from None
        finally:
            futures.discard(future)
            if not futures and self._futures.get(key) is futures:
                del self._futures[key]

    async def _find(self, key: Key) -> Disconnected | Overdue | None:
        """What is there already, for who has no time to wait."""
        by_call_id, by_ours = [[key[1]] if key[0] == kind else [] for kind in _KINDS]
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_LOOK_UP):
                found = await self._store.find(by_call_id, by_ours)
                return next((event for events in found for event in events.values()), None)
        return None

    def wake(self, event: Disconnected) -> None:
        """Hand the event to all who wait for it."""
        self._wake(("call_id", event.call_id), event)
        if event.out_call_id is not None:
            self._wake(("out_call_id", event.out_call_id), event)

    def _wake(self, key: Key, event: Disconnected | Overdue) -> None:
        for future in self._futures.get(key, ()):
            if future.done():
                continue
            if isinstance(event, Overdue):
                future.set_exception(_missing(event))
            else:
                future.set_result(event)

    def look_for(self, names: Collection[str] | None) -> None:
        """See `Hearer`."""
        # A key of the database's is not always the id itself.
        if names is None or any(name.startswith("~") for name in names):
            self._must_look = True
            self._asked.set()
            return
        heard = {(kind, name) for name in names for kind in _KINDS if (kind, name) in self._futures}
        if heard:
            self._new |= heard
            self._asked.set()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        look_at = 0.0
        while True:
            if not self._futures:
                await self._asked.wait()
            self._asked.clear()
            began = loop.time()
            try:
                if self._must_look or began >= look_at:
                    await self._look_for_all()
                    pause = max(
                        _HEARD_TICK if self._store.is_heard else _TICK,
                        (loop.time() - began) * _IDLE,
                    )
                    look_at = loop.time() + pause
                else:
                    await self._look_up_new()
            except StoreError as error:
                logger.debug("who waits goes on waiting, because of the store: %s", error)
                look_at = began + _TICK
            except Exception:
                # Whatever it is: without this loop nobody would be woken from the store.
                logger.exception("looking for notifications in the store failed")
                look_at = began + _TICK
            with suppress(TimeoutError):
                async with asyncio.timeout_at(look_at):
                    await self._asked.wait()

    async def _look_for_all(self) -> None:
        must_look, self._must_look = self._must_look, False
        try:
            changes = await self._store.changes()
            self._skipped += 1
            if (
                must_look
                or changes is None
                or changes != self._changes
                or self._skipped == _SKIPPED  # to be on the safe side
            ):
                self._skipped = 0
                self._new |= self._futures.keys()
            await self._look_up_new()
        except BaseException:
            self._must_look |= must_look
            raise
        self._changes = changes

    async def _look_up_new(self) -> None:
        new, self._new = self._new & self._futures.keys(), set()
        if not new:
            return
        try:
            found = await self._store.find(
                [name for kind, name in new if kind == "call_id"],
                [name for kind, name in new if kind == "out_call_id"],
            )
        except BaseException:
            self._new |= new
            raise
        for kind, events in zip(_KINDS, found, strict=True):
            for name, event in events.items():
                self._wake((kind, name), event)


def _reported(event: Disconnected | Overdue) -> Disconnected:
    if isinstance(event, Overdue):
        raise _missing(event)
    return event


def _missing(event: Overdue) -> NotificationMissing:
    found = "has a recording, so it was connected and has ended"
    if event.outcome is not CallState.INFERRED:
        found = "has no recording either"
    return NotificationMissing(
        f"the call {event.out_call_id}, placed at {event.placed_at:%Y-%m-%d %H:%M:%S}, was not "
        f"reported by its deadline, and {found}",
        call_id=event.call_id,
        out_call_id=event.out_call_id,
        outcome=event.outcome,
    )
