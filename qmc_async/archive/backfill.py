"""The calls of a store whose recordings can still be fetched (3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import evolve

from qmc_async.archive.handler import end_of, is_recorded
from qmc_async.models import RECORDING_LIFETIME, Disconnected, Overdue
from qmc_async.store.events import Listing, Reading
from qmc_async.store.records import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from qmc_async.store import Store

__all__ = ["recorded_calls"]

_PAGE: Final = 500
_LATENESS: Final = RECORDING_LIFETIME / 3
"""How far the clock of whoever received a report may be behind the platform's."""


async def recorded_calls(
    store: Store, now: datetime
) -> AsyncGenerator[Sequence[Disconnected | Overdue]]:
    """Calls that were recorded and ended within three days, the oldest first, page by page.

    Then those that nobody reported, but that have a recording.

    Args:
        store: a server may be writing to it.
        now: the platform's time.

    Raises:
        StoreError: the store did not answer.
    """
    earliest = now - RECORDING_LIFETIME
    since = round((earliest - _LATENESS).timestamp() * 1000)
    reading: Reading | None = Reading(limit=_PAGE, since=since)
    while reading is not None:
        reports, reading = await store.read_reports(reading)
        yield [one for one in reports if is_recorded(one) and end_of(one) > earliest]
    listing = Listing(limit=_PAGE, kind=Kind.MISSING, since=since)
    while True:
        found, position = await store.list_events(listing)
        overdue = [stored.event for stored in found if isinstance(stored.event, Overdue)]
        yield [one for one in overdue if is_recorded(one) and end_of(one) > earliest]
        if not position:
            return
        listing = evolve(listing, before=position)
