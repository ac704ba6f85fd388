"""The body of a request, as far as it comes: a notification is sent once, whole or not."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from qmc_async.callback.guard import LONGEST_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["BODY_DEADLINE", "Body", "collect", "unpacked"]

BODY_DEADLINE: Final = 5.0
"""Seconds for the whole body. The platform's is under one thousand bytes."""
_ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})


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


def unpacked(body: Body, encoding: str) -> Body:
    """Undo a ``Content-Encoding``; what cannot be undone stays as it came, and may be read so.

    Args:
        body: as it was sent.
        encoding: the header's value. Others than ``gzip`` and ``deflate`` are not known.
    """
    named = [each.strip().lower() for each in encoding.split(",")]
    applied = [name for name in named if name not in {"", "identity"}]
    if body.problem or len(applied) != 1 or applied[0] not in _ENCODINGS:
        return body
    content, rest, is_whole = b"", body.content, False
    try:
        # One piece more than is taken, so that a burst is refused; gzip may have several members.
        while rest and len(content) <= LONGEST_BODY:
            unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either format, by its head
            content += unpacker.decompress(rest, LONGEST_BODY + 1 - len(content))
            rest, is_whole = unpacker.unused_data, unpacker.eof
    except zlib.error:
        # What follows a whole member may be padding.
        return Body(content or body.content, "the body is not compressed as its header says")
    if is_whole or len(content) > LONGEST_BODY:
        return Body(content)
    return Body(content, "the compressed body was cut off")
