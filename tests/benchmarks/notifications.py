"""Notifications as the document (3.2) has them, and the requests that bring them."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Final

from server_child import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FACTOR", "bodies", "requests"]

# Odd, so that no two numbers below 2**128 have the same product in that many bits. Neighbours lie
# apart in an index, as the platform's ids do for all that anybody knows.
FACTOR: Final = 0x9E3779B97F4A7C15F39CC0605CEDC835
_COMMON: Final = {
    "callidentifier": "%(scattered)032x",
    "status": "Disconnected",
    "endTime": "2023-08-29 10:06:21",
}
_SHAPES: Final[tuple[dict[str, str], ...]] = (
    {
        **_COMMON,
        "startTime": "2023-08-29 10:05:02",
        "answerTime": "2023-08-29 10:05:17",
        "reason": "HangUp",
        "callDuration": "64",
        "recordingResult": "success",
        "outCallId": "order-%(id)020d",
    },
    {
        **_COMMON,
        "startTime": "2023-08-29 10:05:02",
        "reason": "CalleeNoAnswer",
        "outCallId": "order-%(id)020d",
    },
)


def bodies(count: int) -> list[bytes]:
    """So many bodies, each with ids of its own; half of the calls were talked on."""
    return list(itertools.islice(_bodies(0), count))


def _bodies(first: int) -> Iterator[bytes]:
    templates = [json.dumps(shape, separators=(",", ":")).encode() for shape in _SHAPES]
    turns = itertools.cycle(templates)
    for number in itertools.count(first):
        yield next(turns) % {b"id": number, b"scattered": number * FACTOR % 2**128}


def requests(port: int, path: str, first: int = 0) -> Iterator[bytes]:
    """POST requests without end, whole; no two have the same ids."""
    head = (
        f"POST {path} HTTP/1.1\r\n"
        f"Host: {HOST}:{port}\r\n"
        "User-Agent: platform\r\n"
        "Accept: */*\r\n"
        "Content-Type: application/json;charset=utf-8\r\n"
    ).encode()
    for body in _bodies(first):
        yield b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)
