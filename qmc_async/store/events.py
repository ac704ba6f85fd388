"""What is done with `events`: functions of a connection, each for all arguments of a batch."""

from __future__ import annotations

from codecs import BOM_UTF8
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from attrs import evolve, frozen
from sqlalchemy import and_, bindparam, delete, exists, or_, select

from qmc_async.codec import read_notification
from qmc_async.models import Disconnected, Overdue
from qmc_async.store.deliveries import new_delivery
from qmc_async.store.ledger import going_on
from qmc_async.store.prepared import PreparedForKeys, PreparedInsert, among_keys
from qmc_async.store.records import (
    Kept,
    Kind,
    Put,
    State,
    StoredDelivery,
    StoredEvent,
    exact_key,
    from_milliseconds,
    keys_of,
)
from qmc_async.store.rows import (
    CHUNK,
    bodies_of,
    read_overdue,
    row_of,
    to_event,
    to_receipt,
)
from qmc_async.store.schema import deliveries, events
from qmc_async.store.transaction import ring, time_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Select


__all__ = [
    "Listing",
    "Purge",
    "Reading",
    "changes",
    "find_by_call_id",
    "find_by_out_call_id",
    "list_events",
    "probe",
    "purge",
    "put",
    "read_again",
    "read_reports",
]

T = TypeVar("T")

_NEWEST_FIRST = select(events).order_by(events.c.seq.desc())
_BY_OUT_CALL_ID = (
    select(events.c.out_call_id, events.c.kind, events.c.body)
    .where(
        events.c.out_call_id.in_(bindparam("ids", expanding=True)),
        events.c.kind.in_((Kind.DISCONNECTED, Kind.MISSING)),
    )
    .order_by(events.c.received_at, events.c.seq)
)
_KNOWN = select(events.c.event_id, events.c.body, events.c.receipt_id).where(
    events.c.event_id.in_(bindparam("ids", expanding=True))
)
_KNOWN_IN_SQLITE = PreparedForKeys(
    lambda size: select(events.c.event_id, events.c.body, events.c.receipt_id).where(
        among_keys(events.c.event_id, size)
    )
)
_INSERT = PreparedInsert(events, [column.name for column in events.c if column.name != "seq"])
_INSERT_DELIVERY = PreparedInsert(deliveries, deliveries.c.keys())


def put(connection: Connection, puts: Sequence[Put]) -> list[Kept]:
    """Keep what came. What is known already is left as it is."""
    batch = _Batch(connection, [one.receipt.event_id for one in puts])
    kept = [batch.put(one) for one in puts]
    batch.insert()
    return kept


class _Batch:
    """Rows that are to be inserted together, and what is there already."""

    def __init__(self, connection: Connection, ids: Sequence[str]) -> None:
        self._connection = connection
        self._time = time_in(connection)
        self._known: dict[str, tuple[bytes, str]] = {}
        self._rows: list[dict[str, Any]] = []
        self._delivery_rows: list[dict[str, Any]] = []
        self._look_up(ids)

    def _look_up(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), CHUNK):
            rows = _known(self._connection, ids[start : start + CHUNK])
            self._known.update((event_id, (body, receipt)) for event_id, body, receipt in rows)

    def put(self, put: Put) -> Kept:
        receipt = put.receipt
        event_id = receipt.event_id
        body, receipt_id = self._known.get(event_id, (None, ""))
        if body is None:
            self._add(put, event_id, receipt.kind, put.handlers)
        elif receipt_id == receipt.receipt_id:
            pass  # kept by a commit whose answer was lost
        elif _is_same(body, receipt.body):
            return Kept(None)
        else:
            return self._put_conflict(put)
        leased = [name for name, is_leased in (put.handlers or {}).items() if is_leased]
        return Kept(receipt.kind, [receipt.claim(name, fence=1) for name in leased])

    def _put_conflict(self, put: Put) -> Kept:
        event_id = put.receipt.variant_id
        if event_id not in self._known:
            self._look_up([event_id])
        if event_id in self._known:
            _, receipt_id = self._known[event_id]
            # As above: kept by a commit whose answer was lost.
            return Kept(Kind.CONFLICT if receipt_id == put.receipt.receipt_id else None)
        handlers = put.conflict_handlers
        self._add(
            put, event_id, Kind.CONFLICT, None if handlers is None else dict.fromkeys(handlers)
        )
        return Kept(Kind.CONFLICT)

    def _add(
        self, put: Put, event_id: str, kind: Kind, handlers: Mapping[str, bool | None] | None
    ) -> None:
        receipt = put.receipt
        self._known[event_id] = receipt.body, receipt.receipt_id
        row = row_of(receipt, event_id, routed=handlers is not None)
        row["kind"] = kind
        self._rows.append(row)
        self._delivery_rows += [
            new_delivery(event_id, name, put.owner if is_leased else None, self._time)
            for name, is_leased in (handlers or {}).items()
        ]

    def insert(self) -> None:
        if self._rows:
            if self._connection.dialect.name != "sqlite":
                # Two that insert the same rows, each in its own order, would wait for each other.
                self._rows.sort(key=lambda row: str(row["event_id"]))
                reports = [row for row in self._rows if row["kind"] == Kind.DISCONNECTED]
                names = {row[key] for row in reports for key in ("event_id", "out_call_id")}
                ring(self._connection, names - {None})
            _INSERT.execute(self._connection, self._rows)
        if self._delivery_rows:
            _INSERT_DELIVERY.execute(self._connection, self._delivery_rows)


def _known(connection: Connection, ids: Sequence[str]) -> Iterable[Any]:
    if connection.dialect.name == "sqlite":
        return _KNOWN_IN_SQLITE.execute(connection, ids)
    # On PostgreSQL, what another transaction has kept may not have reached the synchronous standby
    # yet. A transaction that only reads would not wait for that; one that locks does.
    is_locked = connection.dialect.name == "postgresql"
    query = _KNOWN.with_for_update(read=True, key_share=True) if is_locked else _KNOWN
    return connection.execute(query, {"ids": ids})


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
) -> list[dict[str, Disconnected | Overdue]]:
    """How calls ended, or that it will not be known, by call id."""
    by_key = {exact_key(call_id): call_id for ids in asked for call_id in ids}
    bodies = bodies_of(connection, list(by_key))
    found = _reports((by_key[key], body) for key, body in bodies.items())
    overdue_ids = {f"{key}~{Kind.MISSING}": by_key[key] for key in by_key if key not in bodies}
    overdue = bodies_of(connection, list(overdue_ids))
    found |= _given_up((overdue_ids[event_id], body) for event_id, body in overdue.items())
    return [_of(ids, found) for ids in asked]


def find_by_out_call_id(
    connection: Connection, asked: Sequence[Collection[str]]
) -> list[dict[str, Disconnected | Overdue]]:
    """The same, by our own id; of several calls under one id, the one that was reported last."""
    by_key = {exact_key(ours): ours for ids in asked for ours in ids}
    keys = list(by_key)
    found: dict[str, Disconnected | Overdue] = {}
    for start in range(0, len(keys), CHUNK):
        rows = connection.execute(_BY_OUT_CALL_ID, {"ids": keys[start : start + CHUNK]}).all()
        given_up = [row for row in rows if row.kind == Kind.MISSING]
        # Where an id was used again, the call that was given up is not the one that goes on.
        others = going_on(connection, {row.out_call_id for row in given_up})
        found |= _given_up(
            (by_key[row.out_call_id], row.body) for row in given_up if row.out_call_id not in others
        )
        found |= _reports(
            (by_key[row.out_call_id], row.body) for row in rows if row.kind != Kind.MISSING
        )
    return [_of(ids, found) for ids in asked]


def _reports(bodies: Iterable[tuple[str, bytes]]) -> dict[str, Disconnected | Overdue]:
    events_read = ((name, read_notification(body)) for name, body in bodies)
    return {name: event for name, event in events_read if isinstance(event, Disconnected)}


def _given_up(bodies: Iterable[tuple[str, bytes]]) -> dict[str, Disconnected | Overdue]:
    read = ((name, read_overdue(body)) for name, body in bodies)
    return {name: event for name, event in read if event is not None}


def _of(wanted: Collection[str], found: Mapping[str, T]) -> dict[str, T]:
    return {name: found[name] for name in wanted if name in found}


def probe(connection: Connection, asked: Sequence[None]) -> list[None]:
    """Do nothing, which only a database that works can."""
    connection.execute(select(events.c.seq).limit(1))
    return [None] * len(asked)


def changes(connection: Connection, asked: Sequence[None]) -> list[object]:
    """A mark that differs from the last one if another process may have written since.

    It is None where the database does not tell.
    """
    if connection.dialect.name != "sqlite":
        return [None] * len(asked)
    version = connection.exec_driver_sql("PRAGMA data_version").scalar()
    # It counts anew for each connection.
    return [(connection.info.setdefault("qmc born", monotonic_ns()), version)] * len(asked)


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
                    is_leased=row.owner is not None,
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


@frozen(kw_only=True)
class Reading:
    """Which reports of calls' ends to read, in the order in which they came.

    Attributes:
        limit: how many at most.
        since: only those that came at this time, in milliseconds since 1970, or later.
        after: of those that came at this very time, only those with a higher number.
    """

    limit: int
    since: int
    after: int = 0


def read_reports(
    connection: Connection, readings: Sequence[Reading]
) -> list[tuple[list[Disconnected], Reading | None]]:
    """Reports alone, in a quarter of the time of `list_events`, and how to go on; None at the end.

    However many there are that came before, these are found by the index.
    """
    return [_read_reports(connection, reading) for reading in readings]


def _read_reports(
    connection: Connection, reading: Reading
) -> tuple[list[Disconnected], Reading | None]:
    rows = connection.execute(
        select(events.c.received_at, events.c.seq, events.c.body)
        .where(
            events.c.kind == Kind.DISCONNECTED,
            events.c.received_at >= reading.since,
            or_(events.c.received_at > reading.since, events.c.seq > reading.after),
        )
        .order_by(events.c.received_at, events.c.seq)
        .limit(reading.limit)
    ).all()
    read = (read_notification(row.body) for row in rows)
    reports = [event for event in read if isinstance(event, Disconnected)]
    if len(rows) < reading.limit:
        return reports, None
    return reports, evolve(reading, since=rows[-1].received_at, after=rows[-1].seq)


def _selection(listing: Listing) -> Select[Any]:
    query = _NEWEST_FIRST
    if listing.before is not None:
        query = query.where(events.c.seq < listing.before)
    if listing.identifier is not None:
        key = exact_key(listing.identifier)
        query = query.where(
            or_(
                events.c.event_id.in_(keys_of(listing.identifier)),
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
        select(events).where(
            events.c.event_id.in_(keys_of(event_id)), events.c.kind == Kind.UNKNOWN
        )
    ).one_or_none()
    if row is None:
        return False
    event_id = row.event_id
    receipt = to_receipt(row)
    if receipt.kind is Kind.UNKNOWN:
        return False
    connection.execute(delete(deliveries).where(deliveries.c.event_id == event_id))
    connection.execute(delete(events).where(events.c.event_id == event_id))
    put(connection, [Put(receipt, None, "")])
    return True


@frozen
class Purge:
    """A part of what is to be deleted.

    Attributes:
        before: milliseconds since 1970; only events that came before are deleted.
        after: where the look goes on: the time and the number of the last event that was looked
            at. What is not finished stays, and must not be looked at again and again.
        deleted: how many events were.
    """

    before: int
    after: tuple[int, int] | None = (-1, -1)
    deleted: int = 0


def purge(connection: Connection, purges: Sequence[Purge]) -> list[Purge]:
    """Delete what is finished among the next 500 events; `Purge.after` is None after the last."""
    return [_purge(connection, one) for one in purges]


def _purge(connection: Connection, wanted: Purge) -> Purge:
    assert wanted.after is not None  # noqa: S101 - there is no more
    received_at, seq = wanted.after
    rows = connection.execute(
        select(
            events.c.event_id, events.c.received_at, events.c.seq, events.c.routed, events.c.kind
        )
        .where(
            events.c.received_at < wanted.before,
            events.c.received_at >= received_at,
            or_(events.c.received_at > received_at, events.c.seq > seq),
        )
        .order_by(events.c.received_at, events.c.seq)
        .limit(CHUNK)
    ).all()
    ids = [row.event_id for row in rows]
    unfinished = set(
        connection.execute(
            select(deliveries.c.event_id).where(
                deliveries.c.event_id.in_(ids), deliveries.c.state != State.DONE
            )
        ).scalars()
    )
    # Many have no handler at all for calls that are missing.
    finished = [
        row.event_id
        for row in rows
        if (row.routed or row.kind == Kind.MISSING) and row.event_id not in unfinished
    ]
    connection.execute(delete(deliveries).where(deliveries.c.event_id.in_(finished)))
    connection.execute(delete(events).where(events.c.event_id.in_(finished)))
    after = (rows[-1].received_at, rows[-1].seq) if len(rows) == CHUNK else None
    return Purge(wanted.before, after, len(finished))
