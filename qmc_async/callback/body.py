"""The body of a request, as far as it comes: a notification is sent once, whole or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from qmc_async.callback.guard import LONGEST_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["BODY_DEADLINE", "Body", "collect"]

BODY_DEADLINE: Final = 5.0
"""Seconds for the whole body. The platform's is under one thousand bytes."""


@frozen
class Body:
    """What came of a body.

    Attributes:
        content: at most one piece longer than `LONGEST_BODY`.
        problem: why it may not be whole, empty where it is.
    """

    content: bytes = field(repr=False)
    problem: str = ""


async def collect(pieces: AsyncIterator[bytes], broken: tuple[type[Exception], ...]) -> Body:
    """Read until the end, the limit, the deadline, or the sender's failure; none of them raises.

    Args:
        pieces: of the body.
        broken: what they raise where it is cut off or malformed.
    """
    kept: list[bytes] = []
    length = 0
    problem = ""
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            async for piece in pieces:
                kept.append(piece)
                length += len(piece)
                if length > LONGEST_BODY:  # a chunked body declares no length
                    break
    except TimeoutError:
        problem = "the body did not come in time"
    except broken:
        problem = "the body was cut off or is malformed"
    return Body(b"".join(kept), problem)
