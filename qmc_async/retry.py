"""When to try again, and after how long.

Whether a request *may* be tried again is decided in `qmc_async.verdict`, endpoint by endpoint.

A retry library does not fit here: the decision needs more than the exception's class, the waits
are fully jittered and give way to ``Retry-After`` and to one deadline for all, and a call that
succeeds at once, as nearly all do, should not pay for any of it.
"""

from __future__ import annotations

import random
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["back_off", "full_jitter", "parse_retry_after"]

FIRST_WAIT = 0.25
LONGEST_WAIT = 8.0


def back_off(attempts: int, retry_after: float | None) -> float:
    """How many seconds to wait after `attempts` attempts: exponential, fully jittered, capped.

    Args:
        attempts: how many have failed, at least 1.
        retry_after: seconds that the platform asked for; the wait is never shorter.
    """
    jittered = full_jitter(attempts, FIRST_WAIT, LONGEST_WAIT)
    return jittered if retry_after is None else retry_after + jittered


def full_jitter(attempts: int, first: float, longest: float) -> float:
    """Any number of seconds up to a limit that doubles with each of the `attempts`.

    Args:
        attempts: how many have failed, at least 1.
        first: the limit after the first one.
        longest: what the limit never exceeds.
    """
    # 2.0 ** 1024 is an OverflowError, and by then any limit has been reached.
    limit = min(longest, first * 2.0 ** min(attempts - 1, 1000))
    return random.uniform(0, limit)  # noqa: S311 - spreads load, guards nothing


def parse_retry_after(value: str, now: float) -> float | None:
    """Read a ``Retry-After`` header: seconds, or an HTTP date.

    Args:
        value: the header's value, empty where there is none.
        now: the platform's Unix time in seconds.

    Returns:
        Seconds from now, 0.0 for a date that has passed, None where it cannot be read.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now)
