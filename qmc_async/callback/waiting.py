"""Coroutines that wait for the end of one call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from qmc_async.models import Disconnected
    from qmc_async.store import EventStore

__all__ = ["Waiting"]

Key: TypeAlias = tuple[str, str]


class Waiting:
    """Wakes who waits for a call by its call id or by its `out_call_id`."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._futures: dict[Key, set[asyncio.Future[Disconnected]]] = {}

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
        future: asyncio.Future[Disconnected] = asyncio.get_running_loop().create_future()
        futures = self._futures.setdefault(key, set())
        # Registered before the look-up, so that nothing can come between the two.
        futures.add(future)
        patience = asyncio.timeout(timeout)
        try:
            async with patience:
                known = await self._store.find(call_id=call_id, out_call_id=out_call_id)
                return await future if known is None else known
        except TimeoutError:
            if not patience.expired():
                raise  # the store's own
            raise TimeoutError(
                f"no notification for {key[0]} {key[1]} in {timeout:g} s; it may yet come"
            ) from None
        finally:
            futures.discard(future)
            if not futures:
                self._futures.pop(key, None)

    def wake(self, event: Disconnected) -> None:
        """Hand the event to all who wait for it."""
        keys = [("call_id", event.call_id)]
        if event.out_call_id is not None:
            keys.append(("out_call_id", event.out_call_id))
        for key in keys:
            for future in self._futures.get(key, ()):
                if not future.done():
                    future.set_result(event)

    def give_up(self) -> None:
        """Let nobody wait for a server that has stopped."""
        for futures in self._futures.values():
            for future in futures:
                if not future.done():
                    future.set_exception(
                        RuntimeError("the callback server stopped before the notification came")
                    )
                    future.exception()  # or asyncio complains, if the store finds the event first
