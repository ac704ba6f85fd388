"""Receipts to rows of `events`, and back."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import asdict
from sqlalchemy import bindparam, select

from qmc_async.codec import read_notification
from qmc_async.models import BEIJING, CallState, Conflict, Disconnected, Overdue
from qmc_async.store.records import Kind, Receipt, exact_key
from qmc_async.store.schema import events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

    from qmc_async.models import Event

__all__ = [
    "CHUNK",
    "bodies_of",
    "read_overdue",
    "row_of",
    "to_event",
    "to_receipt",
    "write_overdue",
]

CHUNK: Final = 500
"""Bound parameters of one statement: every database takes that many."""

_BODIES = select(events.c.event_id, events.c.body).where(
    events.c.event_id.in_(bindparam("ids", expanding=True))
)


def row_of(
    receipt: Receipt, event_id: str, *, routed: bool, overdue: Overdue | None = None
) -> dict[str, Any]:
    """A receipt, or what `write_overdue` made one of, as a row of `events`."""
    event = overdue or receipt.event
    ours = event.out_call_id if isinstance(event, Disconnected | Overdue) else None
    return {
        "event_id": event_id,
        "kind": receipt.kind if overdue is None else Kind.MISSING,
        "out_call_id": None if ours is None else exact_key(ours),
        "received_at": receipt.received_at,
        "receipt_id": receipt.receipt_id,
        "problem": receipt.problem,
        "body": receipt.body,
        "routed": routed,
    }


def to_receipt(row: Row[Any]) -> Receipt:
    """What came, read by the decoder of today."""
    return Receipt.read(
        row.body, row.problem, received_at=row.received_at, receipt_id=row.receipt_id
    )


def to_event(connection: Connection, kind: str, event_id: str, receipt: Receipt) -> Event:
    """What a handler gets."""
    event = receipt.event
    if kind == Kind.MISSING:
        return read_overdue(receipt.body) or event  # which tells that it cannot be read
    if kind != Kind.CONFLICT or not isinstance(event, Disconnected):
        return event
    first_id = event_id.rpartition("~")[0]
    body = bodies_of(connection, [first_id]).get(first_id)
    first = None if body is None else read_notification(body)
    return Conflict(
        call_id=event.call_id,
        first=first if isinstance(first, Disconnected) else None,
        second=event,
    )


def write_overdue(event: Overdue) -> bytes:
    """The body of an event that nobody has sent."""
    return orjson.dumps(asdict(event))


def read_overdue(body: bytes) -> Overdue | None:
    """The same, back; None where it is broken, or of a newer version."""
    try:
        fields = orjson.loads(body)
        return Overdue(
            out_call_id=fields["out_call_id"],
            call_id=fields["call_id"],
            placed_at=datetime.fromisoformat(fields["placed_at"]).astimezone(BEIJING),
            outcome=CallState(fields["outcome"]),
        )
    except (ValueError, LookupError, TypeError):
        return None


def bodies_of(connection: Connection, ids: Sequence[str]) -> dict[str, bytes]:
    """The bodies of those events that are there, by event id."""
    found: dict[str, bytes] = {}
    for start in range(0, len(ids), CHUNK):
        rows = connection.execute(_BODIES, {"ids": ids[start : start + CHUNK]})
        found.update((event_id, body) for event_id, body in rows)
    return found
