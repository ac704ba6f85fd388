"""The body of a request, as far as it comes: a notification is sent once, whole or not."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.http import HttpProcessingError
from attrs import field, frozen

from qmc_async.callback.receiver import LONGEST_BODY

__all__ = ["BODY_DEADLINE", "Body", "read_body"]

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


async def read_body(request: web.BaseRequest) -> Body:
    """Read until the end, the limit, the deadline, or the sender's failure; none of them raises."""
    pieces: list[bytes] = []
    length = 0
    problem = ""
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            await _continue(request)
            async for piece in request.content.iter_any():
                pieces.append(piece)
                length += len(piece)
                if length > LONGEST_BODY:  # a chunked body declares no length
                    break
    except TimeoutError:
        problem = "the body did not come in time"
    except (OSError, web.RequestPayloadError, HttpProcessingError):
        problem = "the body was cut off or is malformed"
    return Body(b"".join(pieces), problem)


async def _continue(request: web.BaseRequest) -> None:
    """Ask for the body, if the sender waits to be asked (RFC 9110, 10.1.1)."""
    # An application's router does this by itself, the bare server does not.
    if isinstance(request, web.Request) or request.version < HttpVersion11:
        return
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # nothing of the answer is sent yet
