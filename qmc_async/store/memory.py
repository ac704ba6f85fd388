"""What a store of notifications does, and one that does it in memory."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Protocol

from qmc_async.models import Disconnected, Notification

__all__ = ["EventStore", "MemoryStore"]

logger = logging.getLogger(__name__)


class EventStore(Protocol):
    """Keeps notifications. The platform sends each one once, and never again."""

    async def put(self, event: Notification, body: bytes) -> bool:
        """Keep a notification; it is answered with 200 once this returns.

        Args:
            event: what was decoded.
            body: the bytes as they came.

        Returns:
            Whether it is new: False where this event is known already.
        """
        ...

    async def find(
        self, *, call_id: str | None = None, out_call_id: str | None = None
    ) -> Disconnected | None:
        """The report of a call's end, by either of its ids; None while there is none."""
        ...


class MemoryStore:
    """Keeps the latest notifications in memory: **a restart forgets them**.

    Args:
        capacity: how many are kept; the oldest go first.
    """

    def __init__(self, *, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._events: OrderedDict[tuple[str, bytes], Notification] = OrderedDict()
        self._by_out_call_id: dict[str, Disconnected] = {}

    async def put(self, event: Notification, body: bytes) -> bool:
        """See `EventStore.put`. What has no call id cannot be told from another, so it is new."""
        if event.call_id is None:
            return True
        # A call ends once; of anything else only the same bytes are known to be the same.
        key = (event.call_id, b"" if isinstance(event, Disconnected) else body)
        if (known := self._events.get(key)) is not None:
            if known != event:
                logger.warning(
                    "the notification of call %s came again with other content, which is dropped",
                    event.call_id,
                )
            return False
        self._events[key] = event
        if isinstance(event, Disconnected) and event.out_call_id is not None:
            self._by_out_call_id[event.out_call_id] = event
        if len(self._events) > self._capacity:
            self._forget_oldest()
        return True

    async def find(
        self, *, call_id: str | None = None, out_call_id: str | None = None
    ) -> Disconnected | None:
        """See `EventStore.find`."""
        if call_id is not None:
            found = self._events.get((call_id, b""))
            return found if isinstance(found, Disconnected) else None
        return self._by_out_call_id.get(out_call_id or "")

    def _forget_oldest(self) -> None:
        _, oldest = self._events.popitem(last=False)
        if isinstance(oldest, Disconnected):
            out_call_id = oldest.out_call_id or ""
            if self._by_out_call_id.get(out_call_id) is oldest:
                del self._by_out_call_id[out_call_id]
