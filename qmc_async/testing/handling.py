"""Waiting until handlers have done their work, and being told where one has not."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Final

from qmc_async.models import BEIJING
from qmc_async.store import State
from qmc_async.store.events import Listing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qmc_async.callback import CallbackServer
    from qmc_async.store import Store, StoredDelivery, StoredEvent

__all__ = ["HandlerFailed", "handled"]

_LOOKED_EVERY: Final = 0.005  # seconds
_AT_ONCE: Final = 500  # events


class HandlerFailed(Exception):  # noqa: N818 - what happened, as a test reports it
    """A handler has raised an exception. Its traceback is in the log.

    Attributes:
        handler: its name.
        event_id: the call's id, where it is the report of a call's end.
        error: the exception's name and text; telephone numbers in it are masked.
    """

    def __init__(self, handler: str, event_id: str, error: str) -> None:
        super().__init__(handler, event_id, error)
        self.handler = handler
        self.event_id = event_id
        self.error = error

    def __str__(self) -> str:
        return f"the handler {self.handler} failed at event {self.event_id}: {self.error}"


async def handled(
    server: CallbackServer,
    *,
    retries: bool = False,
    timeout: float = 5.0,  # noqa: ASYNC109 - the error says what was not done
) -> None:
    """Wait until every event that has come is handled, by each handler that wants it.

    A notification that was answered has come. One that a handler postponed counts as handled.

    Args:
        server: it runs, on this event loop.
        retries: give a handler that fails its other tries, at their time, and tell only what it
            gives up. By default its first failure is told: a test had better not take the second
            try for the first.
        timeout: real seconds.

    Raises:
        HandlerFailed: a handler has raised an exception; of several, the latest event's.
        TimeoutError: a handler still runs, or nobody runs it.
        StoreError: the server does not run, or its store does not answer.
    """
    waiting: set[str] = set()
    try:
        async with asyncio.timeout(timeout):
            while waiting := await _unfinished(server.store, retries=retries):  # noqa: ASYNC110 - it may be another process that handles it
                await asyncio.sleep(_LOOKED_EVERY)
    except TimeoutError:
        raise TimeoutError(
            f"not done in {timeout:g} s: {', '.join(sorted(waiting)) or 'the look into the store'}"
        ) from None


async def _unfinished(store: Store, *, retries: bool) -> set[str]:
    """The handlers that have something to do now."""
    names: set[str] = set()
    async for event in _events(store):
        if not event.routed:
            names.add("the choice of handlers")
        for delivery in event.deliveries:
            if delivery.state is State.DEAD or (delivery.attempts and not retries):
                raise HandlerFailed(delivery.handler, event.event_id, delivery.error)
            if _is_to_come(delivery):
                names.add(delivery.handler)
    return names


def _is_to_come(delivery: StoredDelivery) -> bool:
    if delivery.due_at is None:
        return False
    # One that failed is tried again; one that was postponed has not failed.
    return delivery.is_leased or delivery.attempts > 0 or delivery.due_at <= datetime.now(BEIJING)


async def _events(store: Store) -> AsyncIterator[StoredEvent]:
    before: int | None = None
    while before != 0:
        events, before = await store.list_events(Listing(limit=_AT_ONCE, before=before))
        for event in events:
            yield event
