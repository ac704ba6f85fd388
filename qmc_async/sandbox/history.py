"""What happened to a call, in the order in which it happened: the entries of its history."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

from qmc_async.sandbox.machine import Action

__all__ = [
    "Actor",
    "Attempt",
    "Endpoint",
    "Entry",
    "Exchange",
    "Headers",
    "Move",
    "Received",
    "Withheld",
]

Endpoint: TypeAlias = Literal["call", "endCall", "record", "recording"]
"""The document's name of the operation; ``recording`` is the download of the file (3.3)."""

Headers: TypeAlias = tuple[tuple[str, str], ...]


class Actor(enum.StrEnum):
    """Who made a call go on."""

    SCRIPT = "script"
    """The scenario, when its time had come."""
    PERSON = "person"
    """Somebody by hand: a test, or a button of the console."""
    APPLICATION = "application"
    """Whoever uses the API (3.4)."""


@frozen(kw_only=True)
class Move:
    """Somebody did something to the call.

    Attributes:
        at: the simulated time.
        action: what was done.
        actor: who did it.
    """

    at: datetime
    action: Action
    actor: Actor


@frozen(kw_only=True)
class Received:
    """One request that arrived, accepted or not.

    Attributes:
        endpoint: the document's name of the operation.
        path: which of the paths was used.
        headers: as they came.
        raw: the body as it came; it may hold telephone numbers.
        body: the JSON object in it, None where there was none.
        at: the simulated time.
    """

    endpoint: Endpoint
    path: str = field(repr=False)
    headers: Headers = field(repr=False)
    raw: bytes = field(repr=False)
    body: dict[str, Any] | None = field(repr=False)
    at: datetime


@frozen(kw_only=True)
class Exchange:
    """A request, and what the sandbox answered.

    Attributes:
        received: the request.
        call_id: the call that it is about; None where it is about none.
        http_status: of the answer, None where it was lost on purpose.
        reply: the answer's body; of a download nothing.
        error: the envelope's ``msg`` where its ``code`` is not 200, None where it is.
        elapsed: real seconds until the answer was ready.
    """

    received: Received
    call_id: str | None
    http_status: int | None
    reply: bytes = field(repr=False)
    error: str | None
    elapsed: float

    @property
    def at(self) -> datetime:
        """When the request arrived, in simulated time."""
        return self.received.at


@frozen(kw_only=True)
class Attempt:
    """One notification that was sent, or that could not be.

    Attributes:
        call_id: whose it is.
        at: when it was sent, in simulated time.
        url: where to, None where there was no address; its path is a secret.
        headers: those that say something.
        body: the bytes as they were sent.
        http_status: of the answer, None where there was none.
        reply_headers: of the answer.
        reply: the answer's body, 64 KiB of it at most; None where there was none.
        error: why there was none: the exception's name, or ``no callback_url``.
        elapsed: real seconds.
        by_hand: whether somebody asked for it; the platform sends each notification once.
    """

    call_id: str
    at: datetime
    url: str | None = field(default=None, repr=False)
    headers: Headers = field(default=(), repr=False)
    body: bytes = field(repr=False)
    http_status: int | None = None
    reply_headers: Headers = field(default=(), repr=False)
    reply: bytes | None = field(default=None, repr=False)
    error: str | None = None
    elapsed: float = 0.0
    by_hand: bool = False


@frozen(kw_only=True)
class Withheld:
    """The notification fell due and was not sent, because a fault says so.

    Attributes:
        at: the simulated time.
    """

    at: datetime


Entry: TypeAlias = Move | Exchange | Attempt | Withheld
