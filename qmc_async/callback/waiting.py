"""Coroutines that wait for the end of one call.

1. What this process receives wakes them at once.
2. What the store has already is looked up when they begin to wait: one query for all who begin
   while the last one is under way.
3. What another process receives is found by one query a tick for all who wait.
4. A store that fails delays them; it does not end their wait.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from qmc_async.errors import StoreError

if TYPE_CHECKING:
    from qmc_async.models import Disconnected
    from qmc_async.store import Store

__all__ = ["Waiting"]

logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, str]

_TICK: Final = 0.5  # seconds
_LOOK_UP: Final = 1.0  # seconds that the store has to answer who has no time
_KINDS: Final = ("call_id", "out_call_id")


class Waiting:
    """Wakes who waits for a call by its call id or by its `out_call_id`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._futures: dict[Key, set[asyncio.Future[Disconnected]]] = {}
        self._new: set[Key] = set()
        self._asked = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look into the store for those who wait."""
        self._asked = asyncio.Event()
        self._watching = asyncio.create_task(self._watch(), name="qmc waiting")

    async def stop(self) -> None:
        """Let nobody wait for a server that has stopped."""
        watching, self._watching = self._watching, None
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
            RuntimeError: the server stopped.
        """
        key = ("call_id", call_id) if call_id is not None else ("out_call_id", out_call_id or "")
        if timeout <= 0 and (event := await self._find(key)):
            return event
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

    async def _find(self, key: Key) -> Disconnected | None:
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

    def _wake(self, key: Key, event: Disconnected) -> None:
        for future in self._futures.get(key, ()):
            if not future.done():
                future.set_result(event)

    async def _watch(self) -> None:
        position: int | None = None
        while True:
            if not self._futures:
                await self._asked.wait()
                position = None  # what came while nobody waited is looked up by its id
            self._asked.clear()
            try:
                if position is None:
                    position = await self._store.position()
                await self._look_up_new()
                position = await self._look_up_since(position)
            except StoreError as error:
                logger.debug("who waits goes on waiting, because of the store: %s", error)
            except Exception:
                # Whatever it is: without this loop nobody would be woken from the store.
                logger.exception("looking for notifications in the store failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._asked.wait()

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

    async def _look_up_since(self, position: int) -> int:
        while True:
            events, after = await self._store.find_since(position)
            for event in events:
                self.wake(event)
            if after == position:
                return position
            position = after
