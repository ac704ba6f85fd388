"""What a handler is told of its delivery, how it says no, and when it is tried again."""

from __future__ import annotations

import math
from datetime import datetime

from attrs import Attribute, field, frozen

from qmc_async.errors import ArgumentError
from qmc_async.retry import full_jitter
from qmc_async.store.records import LONGEST_DELAY

__all__ = ["Delivery", "Reject", "Retry"]


class Reject(Exception):  # noqa: N818 - what a handler does, not what went wrong
    """Raised by a handler that will never be able to handle this event.

    It becomes a dead letter at once; no other attempt is made.
    """


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
    """

    attempt: int
    first_seen: datetime
    idempotency_key: str


def _seconds(_: object, attribute: Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not 0 < value <= LONGEST_DELAY or math.isnan(value):
        raise ArgumentError(
            f"{attribute.name}: it must be a number of seconds above 0, at most {LONGEST_DELAY:g}",
            argument=attribute.name,
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
