"""What is done with `events`: functions of a connection, each for all arguments of a batch."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any

import orjson
from attrs import frozen
from sqlalchemy import and_, bindparam, delete, exists, func, insert, or_, select, true

from qmc_async.codec import read_notification
from qmc_async.models import Disconnected
from qmc_async.store.deliveries import new_delivery
from qmc_async.store.records import (
    Claim,
    Kept,
    Kind,
    Put,
    State,
    StoredDelivery,
    StoredEvent,
    exact_key,
    from_milliseconds,
)
from qmc_async.store.rows import CHUNK, bodies_of, row_of, to_event, to_receipt
from qmc_async.store.schema import deliveries, events

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Select


__all__ = [
    "Listing",
    "find_by_call_id",
    "find_by_out_call_id",
    "find_since",
    "list_events",
    "position",
    "purge",
    "put",
    "read_again",
]

_NEWEST_FIRST = select(events).order_by(events.c.seq.desc())
_BY_OUT_CALL_ID = (
    select(events.c.out_call_id, events.c.body)
    .where(
        events.c.out_call_id.in_(bindparam("ids", expanding=True)),
        events.c.kind == Kind.DISCONNECTED,
    )
    .order_by(events.c.seq)
)
_SINCE = (
    select(events.c.seq, events.c.body)
    .where(events.c.seq > bindparam("position"), events.c.kind == Kind.DISCONNECTED)
    .order_by(events.c.seq)
    .limit(bindparam("limit"))
)
_INSERT = insert(events)
_INSERT_DELIVERY = insert(deliveries)


def put(connection: Connection, puts: Sequence[Put]) -> list[Kept]:
    """Keep what came. What is known already is left as it is."""
    ids = [one.receipt.event_id for one in puts]
    bodies = bodies_of(connection, ids)
    rows: list[dict[str, Any]] = []
    delivery_rows: list[dict[str, Any]] = []
    kept: list[Kept] = []
    for one, event_id in zip(puts, ids, strict=True):
        receipt = one.receipt
        known = bodies.get(event_id)
        if known is None:
            bodies[event_id] = receipt.body
            rows.append(row_of(receipt, event_id, routed=one.handlers is not None))
            claims: list[Claim] = []
            for handler, leased in (one.handlers or {}).items():
                delivery_rows.append(new_delivery(event_id, handler, one.owner if leased else None))
                if leased:
                    claims.append(
                        Claim(
                            event_id=event_id,
                            handler=handler,
                            fence=1,
                            attempts=0,
                            event=receipt.event,
                            receipt=receipt,
                            kind=receipt.kind,
                        )
                    )
            kept.append(Kept(receipt.kind, claims))
        elif _is_same(known, receipt.body):
            kept.append(Kept(None))
        else:
            kept.append(_put_conflict(connection, one, rows, delivery_rows, bodies))
    if rows:
        connection.execute(_INSERT, rows)
    if delivery_rows:
        connection.execute(_INSERT_DELIVERY, delivery_rows)
    return kept


def _put_conflict(
    connection: Connection,
    put: Put,
    rows: list[dict[str, Any]],
    delivery_rows: list[dict[str, Any]],
    bodies: dict[str, bytes],
) -> Kept:
    event_id = put.receipt.variant_id
    if event_id in bodies or bodies_of(connection, [event_id]):
        return Kept(None)
    bodies[event_id] = put.receipt.body
    row = row_of(put.receipt, event_id, routed=put.conflict_handlers is not None)
    rows.append(row | {"kind": Kind.CONFLICT})
    delivery_rows += [
        new_delivery(event_id, handler, None) for handler in put.conflict_handlers or ()
    ]
    return Kept(Kind.CONFLICT)


def _is_same(known: bytes, body: bytes) -> bool:
    """Whether two bodies of one id say the same: spaces and the order of fields do not matter."""
    if known == body:
        return True
    try:
        return _canonical(known) == _canonical(body)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # no JSON, or too deep to be written
        return False


def _canonical(body: bytes) -> bytes:
    # Compared as values, 1 and 1.0 and true would be the same.
    return orjson.dumps(orjson.loads(body.removeprefix(BOM_UTF8)), option=orjson.OPT_SORT_KEYS)


def find_by_call_id(
    connection: Connection, asked: Sequence[Collection[str]]
) -> list[dict[str, Disconnected]]:
    """The reports of calls' ends, by call id; one query for each 500 ids of a batch."""
    by_key = {exact_key(call_id): call_id for ids in asked for call_id in ids}
    bodies = bodies_of(connection, list(by_key))
    found = _reports((by_key[key], body) for key, body in bodies.items())
    return [_of(ids, found) for ids in asked]


def find_by_out_call_id(
    connection: Connection, asked: Sequence[Collection[str]]
) -> list[dict[str, Disconnected]]:
    """The same, by our own id; of several calls under one id, the one that was reported last."""
    by_key = {exact_key(ours): ours for ids in asked for ours in ids}
    keys = list(by_key)
    found: dict[str, Disconnected] = {}
    for start in range(0, len(keys), CHUNK):
        rows = connection.execute(_BY_OUT_CALL_ID, {"ids": keys[start : start + CHUNK]})
        found |= _reports((by_key[key], body) for key, body in rows)
    return [_of(ids, found) for ids in asked]


def _reports(bodies: Iterable[tuple[str, bytes]]) -> dict[str, Disconnected]:
    events_read = ((name, read_notification(body)) for name, body in bodies)
    return {name: event for name, event in events_read if isinstance(event, Disconnected)}


def _of(wanted: Collection[str], found: Mapping[str, Disconnected]) -> dict[str, Disconnected]:
    return {name: found[name] for name in wanted if name in found}


def position(connection: Connection, asked: Sequence[None]) -> list[int]:
    """After what was kept last; `find_since` takes it."""
    last = connection.execute(select(func.max(events.c.seq))).scalar()
    return [last or 0] * len(asked)


def find_since(
    connection: Connection, positions: Sequence[int]
) -> list[tuple[list[Disconnected], int]]:
    """The reports of calls' ends that were kept after a position, and the position after them."""
    found: list[tuple[list[Disconnected], int]] = []
    for start in positions:
        rows = connection.execute(_SINCE, {"position": start, "limit": 1000}).all()
        if not rows and position(connection, [None])[0] < start:
            # A store that was set aside has given way to a fresh one, which counts anew.
            rows = connection.execute(_SINCE, {"position": 0, "limit": 1000}).all()
            start = 0  # noqa: PLW2901 - from here on
        read = [read_notification(body) for _, body in rows]
        reports = [event for event in read if isinstance(event, Disconnected)]
        found.append((reports, rows[-1].seq if rows else start))
    return found


@frozen(kw_only=True)
class Listing:
    """Which events to list, newest first.

    Attributes:
        limit: how many at most.
        before: only those before this position, None for the newest.
        identifier: only those with this event id, call id or `out_call_id`.
        kind: only those of this kind.
        state: only those that have a delivery in this state.
        since: only those that came at this time, in milliseconds since 1970, or later.
    """

    limit: int
    before: int | None = None
    identifier: str | None = None
    kind: Kind | None = None
    state: State | None = None
    since: int | None = None


def list_events(
    connection: Connection, listings: Sequence[Listing]
) -> list[tuple[list[StoredEvent], int]]:
    """Events with their deliveries, and the position to go on from."""
    return [_list_events(connection, listing) for listing in listings]


def _list_events(connection: Connection, listing: Listing) -> tuple[list[StoredEvent], int]:
    rows = connection.execute(_selection(listing).limit(listing.limit)).all()
    ids = [row.event_id for row in rows]
    by_event: dict[str, list[StoredDelivery]] = {}
    for start in range(0, len(ids), CHUNK):
        for row in connection.execute(
            select(deliveries)
            .where(deliveries.c.event_id.in_(ids[start : start + CHUNK]))
            .order_by(deliveries.c.event_id, deliveries.c.handler)
        ):
            by_event.setdefault(row.event_id, []).append(
                StoredDelivery(
                    handler=row.handler,
                    state=State(row.state),
                    attempts=row.attempts,
                    error=row.error,
                    due_at=None if row.due_at is None else from_milliseconds(row.due_at),
                    changed_at=from_milliseconds(row.changed_at),
                )
            )
    stored = [
        StoredEvent(
            event_id=row.event_id,
            kind=Kind(row.kind),
            event=to_event(connection, row.kind, row.event_id, to_receipt(row)),
            body=row.body,
            problem=row.problem,
            first_seen=from_milliseconds(row.received_at),
            routed=row.routed,
            deliveries=by_event.get(row.event_id, []),
        )
        for row in rows
    ]
    return stored, rows[-1].seq if rows and len(rows) == listing.limit else 0


def _selection(listing: Listing) -> Select[Any]:
    query = _NEWEST_FIRST
    if listing.before is not None:
        query = query.where(events.c.seq < listing.before)
    if listing.identifier is not None:
        key = exact_key(listing.identifier)
        query = query.where(
            or_(
                events.c.event_id == listing.identifier,
                events.c.event_id == key,
                and_(events.c.event_id > f"{key}~", events.c.event_id < f"{key}\x7f"),
                events.c.out_call_id == key,
            )
        )
    if listing.kind is not None:
        query = query.where(events.c.kind == listing.kind)
    if listing.since is not None:
        query = query.where(events.c.received_at >= listing.since)
    if listing.state is not None:
        query = query.where(_has_delivery(deliveries.c.state == listing.state))
    return query


def _has_delivery(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(deliveries.c.event_id == events.c.event_id, condition)


def read_again(connection: Connection, ids: Sequence[str]) -> list[bool]:
    """Give undecodable events to the decoder once more, and tell which it can read now.

    One that it can becomes what it says it is, and goes to the handlers of that.
    """
    return [_read_again(connection, event_id) for event_id in ids]


def _read_again(connection: Connection, event_id: str) -> bool:
    row = connection.execute(
        select(events).where(events.c.event_id == event_id, events.c.kind == Kind.UNKNOWN)
    ).one_or_none()
    if row is None:
        return False
    receipt = to_receipt(row)
    if receipt.kind is Kind.UNKNOWN:
        return False
    connection.execute(delete(deliveries).where(deliveries.c.event_id == event_id))
    connection.execute(delete(events).where(events.c.event_id == event_id))
    put(connection, [Put(receipt, None, "")])
    return True


def purge(connection: Connection, before: Sequence[int]) -> list[int]:
    """Delete up to 500 events that came before a time and are finished; how many, for each."""
    return [_purge(connection, time) for time in before]


def _purge(connection: Connection, time: int) -> int:
    finished = (
        select(events.c.event_id)
        .where(
            events.c.received_at < time,
            events.c.routed == true(),
            ~_has_delivery(deliveries.c.state != State.DONE),
        )
        .limit(CHUNK)
    )
    ids = list(connection.execute(finished).scalars())
    connection.execute(delete(deliveries).where(deliveries.c.event_id.in_(ids)))
    connection.execute(delete(events).where(events.c.event_id.in_(ids)))
    return len(ids)
