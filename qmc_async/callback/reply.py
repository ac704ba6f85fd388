"""What is answered to a request, by whichever library (3.2)."""

from __future__ import annotations

from typing import Final

import orjson
from attrs import field, frozen

__all__ = [
    "CONTENT_TYPE",
    "FORBIDDEN",
    "NOT_ALLOWED",
    "NOT_FOUND",
    "NOT_KEPT",
    "RECEIVED",
    "TOO_LARGE",
    "TOO_MANY",
    "Reply",
    "reply_of",
]

CONTENT_TYPE: Final = "application/json;charset=utf-8"


@frozen
class Reply:
    """What to answer: an HTTP status and a body of `CONTENT_TYPE`."""

    status: int
    body: bytes = field(repr=False)


def reply_of(status: int, msg: str, data: str = "") -> Reply:
    """A reply in the form that the document gives it."""
    # Here `code` and `data` are Strings, unlike in the platform's own replies.
    return Reply(status, orjson.dumps({"code": str(status), "msg": msg, "data": data}))


RECEIVED: Final = reply_of(200, "success")
FORBIDDEN: Final = reply_of(403, "forbidden")
NOT_FOUND: Final = reply_of(404, "not found")
NOT_ALLOWED: Final = reply_of(405, "method not allowed")
TOO_LARGE: Final = reply_of(413, "content too large")
TOO_MANY: Final = reply_of(429, "too many requests")
NOT_KEPT: Final = reply_of(500, "the notification could not be kept")
