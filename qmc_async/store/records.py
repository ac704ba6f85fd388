"""What goes into the store, and what comes out of it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Final

from attrs import field, frozen

from qmc_async.codec import read_notification
from qmc_async.models import (
    BEIJING,
    CallState,
    Disconnected,
    Event,
    LedgerEntry,
    Notification,
)
from qmc_async.store.receipt_id import new_receipt_id

__all__ = [
    "LEASE",
    "LONGEST_DELAY",
    "Claim",
    "DeadLetter",
    "Found",
    "Kept",
    "Kind",
    "Look",
    "Outcome",
    "Poll",
    "Polled",
    "Put",
    "Receipt",
    "State",
    "StoredDelivery",
    "StoredEvent",
    "Verdict",
    "exact_key",
    "from_milliseconds",
    "keys_of",
    "now",
]

LEASE: Final = 60.0
"""Seconds. Whoever holds a delivery renews its lease three times in this time."""

LONGEST_DELAY: Final = 6 * 3600.0
"""Seconds. No wait between two attempts may be longer."""

_LONGEST_KEY: Final = 200  # bytes; the document's ids have at most 64 characters
_LONGEST_ID: Final = 255  # bytes; with what is put behind a key
_INEXACT: Final = re.compile("[~\0\ud800-\udfff]")
_IMPOSSIBLE: Final = re.compile("[\0\ud800-\udfff]")


def now() -> int:
    """Milliseconds since 1970, by this machine's clock."""
    return time.time_ns() // 1_000_000


def from_milliseconds(milliseconds: int) -> datetime:
    """An aware time in UTC+8."""
    return datetime.fromtimestamp(milliseconds / 1000, BEIJING)


def exact_key(identifier: str) -> str:
    """An identifier as every database can keep, index and compare it.

    It stays as it is unless it is long, or has a NUL, which PostgreSQL refuses, half of a surrogate
    pair, which no database takes, or the ``~`` that marks what is ours.
    """
    if len(identifier) <= _LONGEST_KEY and identifier.isascii() and identifier.isalnum():
        return identifier  # as the platform's are
    raw = identifier.encode("utf-8", "surrogatepass")
    if len(raw) > _LONGEST_KEY or _INEXACT.search(identifier):
        return f"~~{hashlib.sha256(raw).hexdigest()}"
    return identifier


def keys_of(identifier: str) -> list[str]:
    """Under which event ids to look for what somebody calls so: an event id, or a call id."""
    key = exact_key(identifier)
    is_possible = not _IMPOSSIBLE.search(identifier) and len(identifier.encode()) <= _LONGEST_ID
    return [identifier, key] if is_possible and key != identifier else [key]


class Kind(StrEnum):
    """What an event is."""

    DISCONNECTED = "disconnected"
    UNKNOWN = "unknown"
    CONFLICT = "conflict"
    """Another report of a call whose end is known already, with other content."""
    MISSING = "missing"
    """No report of a call came by its deadline: see `Overdue`."""


class State(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    DONE = "done"
    DEAD = "dead"


@frozen(kw_only=True)
class Receipt:
    """One request of the platform, as it came and as it was read.

    Attributes:
        event: what the decoder made of it.
        body: the bytes as they came.
        problem: why they may not be all that was sent, empty where they are.
        received_at: milliseconds since 1970.
        receipt_id: tells two requests apart whose bodies do not.
    """

    event: Notification
    body: bytes = field(repr=False)
    problem: str = ""
    received_at: int = field(factory=now)
    receipt_id: str = field(factory=new_receipt_id)

    @classmethod
    def read(
        cls, body: bytes, problem: str = "", *, received_at: int | None = None, receipt_id: str = ""
    ) -> Receipt:
        """Decode a body; whatever cannot be decoded is kept too."""
        return cls(
            event=read_notification(body, problem),
            body=body,
            problem=problem,
            received_at=now() if received_at is None else received_at,
            receipt_id=receipt_id or new_receipt_id(),
        )

    @cached_property
    def kind(self) -> Kind:
        """`Kind.CONFLICT` takes two receipts, and `Kind.MISSING` none: it is neither."""
        return Kind.DISCONNECTED if isinstance(self.event, Disconnected) else Kind.UNKNOWN

    @cached_property
    def event_id(self) -> str:
        """Under which it is kept: a second receipt of the same thing has the same.

        A call ends once, so its id is enough. Of anything else only the same bytes are known to be
        the same, and what names no call cannot be told from another.
        """
        if self.event.call_id is None:
            return f"~{self.receipt_id}"
        if isinstance(self.event, Disconnected):
            return exact_key(self.event.call_id)
        return self.variant_id

    def claim(self, handler: str, *, fence: int) -> Claim:
        """A first delivery of it to a handler, as it is leased with that fence; 0 is not yet."""
        return Claim(
            event_id=self.event_id,
            handler=handler,
            fence=fence,
            attempts=0,
            event=self.event,
            receipt=self,
            kind=self.kind,
        )

    @property
    def variant_id(self) -> str:
        """Under which it is kept beside another event of the same call."""
        digest = hashlib.sha256(self.body).hexdigest()[:32]
        return f"{exact_key(self.event.call_id or '')}~{digest}"


@frozen
class Put:
    """A receipt to keep, and who is to handle it.

    Attributes:
        receipt: what came.
        handlers: names, each with whether its delivery is leased to `owner` at once; None where
            the handlers are not known here.
        owner: who takes the leases.
        conflict_handlers: names of those that are to handle it if it turns out to be a
            `Kind.CONFLICT`; None where they are not known here.
    """

    receipt: Receipt
    handlers: Mapping[str, bool] | None
    owner: str
    conflict_handlers: Sequence[str] | None = None


@frozen(kw_only=True)
class Claim:
    """A delivery that is leased to us until it is settled, released, or left to expire.

    Attributes:
        event_id: of the event.
        handler: the handler's name.
        fence: counts the leases of this delivery: of two who believe to hold one, the higher does.
        attempts: how many have failed.
        event: what the handler gets.
        receipt: what came.
        kind: of the event.
    """

    event_id: str
    handler: str
    fence: int
    attempts: int
    event: Event
    receipt: Receipt
    kind: Kind

    @property
    def key(self) -> tuple[str, str]:
        """What no two deliveries share."""
        return self.event_id, self.handler


@frozen
class Outcome:
    """How a claim ended.

    Attributes:
        claim: what was claimed.
        state: `State.PENDING` is to be tried again.
        delay: seconds until then.
        failed: whether this counts as an attempt that failed.
        error: what the handler raised; empty where it has nothing to say.
    """

    claim: Claim
    state: State
    delay: float = 0.0
    failed: bool = False
    error: str = ""


@frozen
class Kept:
    """What became of a `Put`.

    Attributes:
        kind: `Kind.CONFLICT` where another report of the call was there; None where the same was.
        claims: the deliveries that are leased to the owner.
    """

    kind: Kind | None
    claims: Sequence[Claim] = ()


@frozen
class Poll:
    """What to look for in the store.

    Attributes:
        owner: who takes the leases.
        wanted: how many deliveries of each handler.
        held: what the owner holds already, which is not to be leased again.
        after: where the look for unrouted events goes on: what nobody here wants must not stand
            before what somebody does.
    """

    owner: str
    wanted: Mapping[str, int]
    held: frozenset[tuple[str, str]] = frozenset()
    after: int = 0


@frozen
class Polled:
    """What was found.

    Attributes:
        claims: deliveries that were due, now leased.
        unrouted: events whose handlers nobody has looked up yet, by event id.
        looked_until: where the next look for them goes on, 0 after the last.
    """

    claims: Sequence[Claim]
    unrouted: Mapping[str, Event]
    looked_until: int = 0


@frozen(kw_only=True)
class DeadLetter:
    """A delivery that was given up, with everything that is needed to try it again.

    Attributes:
        event_id: of the event; the call id, where it is the report of a call's end.
        handler: the name of the handler that could not do it.
        event: what it was given.
        body: the request's bytes as they came; they may hold telephone numbers.
        error: the last failure: the exception's name, and its message with numbers masked.
        attempts: how many failed.
        first_seen: when the notification came, in UTC+8.
        died_at: when the last attempt failed, in UTC+8.
    """

    event_id: str
    handler: str
    event: Event
    body: bytes = field(repr=False)
    error: str
    attempts: int
    first_seen: datetime
    died_at: datetime


@frozen(kw_only=True)
class StoredDelivery:
    """What one handler has made of an event.

    Attributes:
        handler: its name.
        state: see `State`.
        attempts: how many failed.
        error: the last failure, empty where there was none.
        due_at: when it is tried next, or its lease ends, in UTC+8; None where it is settled.
        changed_at: in UTC+8.
        is_leased: whether somebody has it under way, until `due_at`.
    """

    handler: str
    state: State
    attempts: int
    error: str
    due_at: datetime | None
    changed_at: datetime
    is_leased: bool


@frozen(kw_only=True)
class StoredEvent:
    """An event and its deliveries.

    Attributes:
        event_id: the call id, where it is the report of a call's end.
        kind: see `Kind`.
        event: what the decoder makes of it today.
        body: the request's bytes as they came; they may hold telephone numbers.
        problem: why they may not be all that was sent, empty where they are.
        first_seen: when it came, in UTC+8.
        routed: False until a server has looked up its handlers.
        deliveries: one for each handler.
    """

    event_id: str
    kind: Kind
    event: Event
    body: bytes = field(repr=False)
    problem: str
    first_seen: datetime
    routed: bool
    deliveries: Sequence[StoredDelivery]


@frozen(kw_only=True)
class Look:
    """A call whose recording is to be looked for, and which is ours until the lease ends.

    Attributes:
        entry: the ledger's.
        entry_id: under which it is.
        fence: counts the leases.
        looks: how often the platform could not be asked.
        is_last: whether no recording can be there any more the next time.
    """

    entry: LedgerEntry
    entry_id: str
    fence: int
    looks: int
    is_last: bool


@frozen
class Found:
    """Calls that are overdue.

    Attributes:
        looks: those that are to be looked for.
        are_all: whether there are no more.
    """

    looks: Sequence[Look]
    are_all: bool


@frozen
class Verdict:
    """What became of a look.

    Attributes:
        look: which.
        outcome: `CallState.INFERRED` or `MISSING`; None to look again.
        delay: seconds until then.
    """

    look: Look
    outcome: CallState | None
    delay: float = 0.0
