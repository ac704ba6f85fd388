"""What a handler is told of its delivery, how it says no, and when it is tried again."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import datetime

from attrs import Attribute, field, frozen

from qmc_async.errors import ArgumentError
from qmc_async.models import LedgerEntry
from qmc_async.retry import full_jitter
from qmc_async.store.records import LONGEST_DELAY

__all__ = ["Delivery", "Postpone", "Reject", "Retry"]


class Reject(Exception):  # noqa: N818 - what a handler does, not what went wrong
    """Raised by a handler that will never be able to handle this event.

    It becomes a dead letter at once; no other attempt is made.
    """


class Postpone(Exception):  # noqa: N818 - what a handler does, not what went wrong
    """Raised by a handler that cannot do its work yet: it gets the event again later.

    That counts as no attempt, so that a handler may do so as often as it wants; and it is no
    error, so that nothing is logged but a line at level DEBUG.

    Args:
        delay: seconds until then, above 0, at most six hours.
        why: for who looks at what waits, as `qmc events show` does.

    Raises:
        ArgumentError: the delay is out of its range.
    """

    def __init__(self, delay: float, why: str = "") -> None:
        _check_delay(delay, "delay")
        super().__init__(delay, why)
        self.delay = delay
        self.why = why

    def __str__(self) -> str:
        return self.why or f"by {self.delay:g} s"


async def _no_entry() -> None:
    return None


@frozen(kw_only=True)
class Delivery:
    """What a handler may take as its second argument.

    Attributes:
        attempt: 1 for the first. An attempt that was cut short because the server stopped, or was
            killed, does not count.
        first_seen: when the notification came, in UTC+8.
        idempotency_key: the same for every attempt of this handler at this event, also after a
            restart or a replay, and never the same for another. Pass it on to what must not
            happen twice.
        body: the notification's bytes as they came (3.2), of a `Conflict` those of the second; they
            may hold telephone numbers. Empty for an `Overdue`, of which nothing came.
    """

    attempt: int
    first_seen: datetime
    idempotency_key: str
    body: bytes = field(default=b"", repr=False)
    _find_entry: Callable[[], Awaitable[LedgerEntry | None]] = field(
        default=_no_entry, alias="find_entry", repr=False, eq=False
    )

    async def entry(self) -> LedgerEntry | None:
        """What the ledger knows of the event's call: who was called, by which `out_call_id`.

        None where there is no such call: no ledger is kept, or not in this store.

        Raises:
            StoreError: the store did not answer.
        """
        return await self._find_entry()


def _seconds(_: object, attribute: Attribute[float], value: float) -> None:
    _check_delay(value, attribute.name)


def _check_delay(value: float, name: str) -> None:
    if isinstance(value, bool) or not 0 < value <= LONGEST_DELAY or math.isnan(value):
        raise ArgumentError(
            f"{name}: it must be a number of seconds above 0, at most {LONGEST_DELAY:g}",
            argument=name,
        )


def _attempts(_: object, attribute: Attribute[int], value: int) -> None:
    if isinstance(value, bool) or value not in range(1, 10_000):
        raise ArgumentError(
            "attempts: it must be a whole number from 1 to 9999", argument=attribute.name
        )


@frozen(kw_only=True)
class Retry:
    """When a handler that fails is tried again.

    The wait is any time up to a limit, which doubles with each failure. The default tries for
    about a day: twelve times in the first hour, then once an hour.

    >>> Retry(attempts=1)  # never again
    Retry(attempts=1, first_delay=1.0, longest_delay=7200.0)

    Args:
        attempts: in all; then the event becomes a dead letter of this handler.
        first_delay: seconds; the limit after the first failure.
        longest_delay: seconds; what the limit never exceeds, at most six hours.

    Raises:
        ArgumentError: one of them is out of its range.
    """

    attempts: int = field(default=32, validator=_attempts)
    first_delay: float = field(default=1.0, validator=_seconds)
    longest_delay: float = field(default=7200.0, validator=_seconds)

    def delay(self, failed: int) -> float:
        """Seconds to wait after so many failed attempts."""
        return full_jitter(failed, self.first_delay, self.longest_delay)
