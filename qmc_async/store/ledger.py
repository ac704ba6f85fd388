"""What is done with `calls`, as calls are placed and looked up: functions of a connection.

Whether a call has ended stands in `events`, where its notification was kept: nothing is written
here for that on the way to the platform's answer.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen
from sqlalchemy import and_, bindparam, delete, insert, or_, select, update

from qmc_async.models import RECORDING_LIFETIME, CallState, LedgerEntry
from qmc_async.store.records import Kind, exact_key, from_milliseconds
from qmc_async.store.rows import CHUNK
from qmc_async.store.schema import calls, events
from qmc_async.store.transaction import time_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Row

__all__ = [
    "CallListing",
    "Ended",
    "Opening",
    "Settlement",
    "count_overdue",
    "ends_of",
    "find_entries",
    "find_traces",
    "going_on",
    "list_calls",
    "open_entries",
    "purge_calls",
    "settle_entries",
    "to_entry",
    "withdraw_entries",
]


_ANY_CALL = select(calls.c.seq).limit(1)
_TRACES = (
    select(calls.c.call_key, calls.c.traceparent)
    .where(calls.c.call_key.in_(bindparam("keys", expanding=True)))
    .order_by(calls.c.seq)
)
_CLOCKS_APART: Final = int(RECORDING_LIFETIME.total_seconds() * 1000)
"""How far the clock of who receives a report may be behind the database's, in milliseconds."""


@frozen(kw_only=True)
class Opening:
    """A call that is about to be placed.

    Attributes:
        token: tells this attempt from all others.
        out_call_id: ours.
        caller: as the ledger is to have it.
        callee: the same.
        again: whether the `out_call_id` may have been used before.
        missing_after: milliseconds from when it is placed until its notification is overdue.
        traceparent: of the span by which it is placed (W3C Trace Context), None where there is
            none.
    """

    token: str
    out_call_id: str
    caller: str = field(repr=False)
    callee: str = field(repr=False)
    again: bool
    missing_after: int
    traceparent: str | None = None

    @property
    def entry_ids(self) -> tuple[str, str]:
        """Under which its entry is: the first call with this `out_call_id`, and any other."""
        key = exact_key(self.out_call_id)
        return key, f"{key}~{self.token}"


@frozen(kw_only=True)
class Settlement:
    """What became of a call that was to be placed.

    Attributes:
        opening: the same that was written down.
        state: `CallState.PLACED`, `REFUSED` or `UNKNOWN`.
        call_id: the platform's, where it is known.
        error: why it was not placed, or is not known to be.
    """

    opening: Opening
    state: CallState
    call_id: str | None = None
    error: str = ""


@frozen(kw_only=True)
class CallListing:
    """Which calls to list, newest first.

    Attributes:
        limit: how many at most.
        before: only those before this position, None for the newest.
        since: only those that were placed at this time, in milliseconds since 1970, or later.
    """

    limit: int
    before: int | None = None
    since: int | None = None


@frozen
class Ended:
    """What `events` has of a call's end: the key of its id, and when the notification came."""

    call_key: str
    received_at: int

    @property
    def call_id(self) -> str | None:
        """The platform's id, where it is its own key."""
        return None if self.call_key.startswith("~") else self.call_key


def open_entries(connection: Connection, openings: Sequence[Opening]) -> list[LedgerEntry | None]:
    """Write calls down before they are placed.

    Returns:
        For each None, or the entry of the call that has its `out_call_id` already.
    """
    known = _rows_by_entry_id(connection, [opening.entry_ids[0] for opening in openings])
    # In one order everywhere: else two processes wait for each other's rows.
    ordered = sorted(openings, key=lambda opening: opening.entry_ids[0])
    wanted = Counter(opening.entry_ids[0] for opening in openings)
    told: dict[Opening, LedgerEntry | None] = {}
    for opening in ordered:
        told[opening] = _open(connection, opening, known)
        if wanted[opening.entry_ids[0]] > 1:  # the next one must see it
            known.update(_rows_by_entry_id(connection, [opening.entry_ids[0]]))
    return [told[opening] for opening in openings]


def _open(
    connection: Connection, opening: Opening, known: dict[str, Row[Any]]
) -> LedgerEntry | None:
    entry_id, another_id = opening.entry_ids
    first = known.get(entry_id)
    if first is not None and first.state == CallState.REFUSED:
        # Its place is taken below: by one of those who want it at the same time.
        query = select(calls).where(calls.c.entry_id == entry_id).with_for_update()
        first = connection.execute(query).one_or_none()
    if first is not None and first.token == opening.token:
        return None  # written by a commit whose answer was lost
    rung = _may_have_rung(connection, entry_id, first)
    row = _new_row(connection, opening, entry_id)
    if rung is not None:
        if not opening.again:
            return rung
        if not _rows_by_entry_id(connection, [another_id]):
            connection.execute(insert(calls), [row | {"entry_id": another_id}])
        return None
    if first is None:
        connection.execute(insert(calls), [row])
    else:
        connection.execute(update(calls).where(calls.c.entry_id == entry_id).values(row))
    return None


def _may_have_rung(connection: Connection, key: str, first: Row[Any] | None) -> LedgerEntry | None:
    """The last call with an id that somebody's telephone may have rung for."""
    rows: Sequence[Row[Any]] = [] if first is None else [first]
    if first is None or first.state == CallState.REFUSED:  # it may be purged, and others not
        rows = connection.execute(select(calls).where(_has(key)).order_by(calls.c.seq.desc())).all()
    ends = ends_of(connection, rows)
    for row in rows:
        end = ends.get(row.entry_id)
        if end is not None or row.state != CallState.REFUSED:
            return to_entry(row, end)
    return None


def _new_row(connection: Connection, opening: Opening, entry_id: str) -> dict[str, Any]:
    time = time_in(connection)
    return {
        "entry_id": entry_id,
        "token": opening.token,
        "out_call_id": opening.out_call_id,
        "call_key": None,
        "call_id": None,
        "caller": opening.caller,
        "callee": opening.callee,
        "state": CallState.PLACING,
        "placed_at": time,
        "changed_at": time,
        "missing_after": opening.missing_after,
        "due_at": time + opening.missing_after,
        "fence": 0,
        "looks": 0,
        "error": "",
        "traceparent": opening.traceparent,
    }


def settle_entries(connection: Connection, settlements: Sequence[Settlement]) -> list[None]:
    """Write down what became of calls that were to be placed."""
    for settlement in settlements:
        opening = settlement.opening
        time = time_in(connection)
        values: dict[str, Any] = {
            "state": settlement.state,
            "changed_at": time,
            "error": settlement.error,
        }
        if settlement.state is CallState.PLACED:
            values |= {"placed_at": time, "due_at": time + opening.missing_after}
        elif settlement.state is CallState.REFUSED:
            values |= {"due_at": None}
        if settlement.call_id is not None:
            values |= {
                "call_key": exact_key(settlement.call_id),
                "call_id": _storable(settlement.call_id),
            }
        found = connection.execute(
            update(calls).where(_of(opening), calls.c.state == CallState.PLACING).values(values)
        )
        if not found.rowcount:
            _settle_late(connection, opening, values)
    return [None] * len(settlements)


def _settle_late(connection: Connection, opening: Opening, values: dict[str, Any]) -> None:
    """The same of a call that was given up, or whose entry went with a file that was set aside."""
    there = connection.execute(select(calls.c.call_key).where(_of(opening))).first()
    if there is not None and there.call_key is None and "call_key" in values:
        ids = {name: values[name] for name in ("call_key", "call_id")}
        connection.execute(update(calls).where(_of(opening)).values(ids))
    if there is None:
        used = _rows_by_entry_id(connection, [opening.entry_ids[0]])
        entry_id = opening.entry_ids[bool(used)]
        connection.execute(insert(calls), [_new_row(connection, opening, entry_id) | values])


def withdraw_entries(connection: Connection, openings: Sequence[Opening]) -> list[None]:
    """Strike out calls of which nothing was sent."""
    for opening in openings:
        connection.execute(delete(calls).where(_of(opening), calls.c.state == CallState.PLACING))
    return [None] * len(openings)


def _of(opening: Opening) -> ColumnElement[bool]:
    return and_(calls.c.entry_id.in_(opening.entry_ids), calls.c.token == opening.token)


def _storable(call_id: str) -> str | None:
    # PostgreSQL takes no NUL, and nothing takes half a character: it has its key still.
    return call_id if exact_key(call_id) == call_id or call_id.isprintable() else None


def _rows_by_entry_id(connection: Connection, ids: Sequence[str]) -> dict[str, Row[Any]]:
    found: dict[str, Row[Any]] = {}
    for start in range(0, len(ids), CHUNK):
        query = select(calls).where(calls.c.entry_id.in_(ids[start : start + CHUNK]))
        found.update((row.entry_id, row) for row in connection.execute(query))
    return found


def find_entries(
    connection: Connection, asked: Sequence[tuple[str | None, str | None]]
) -> list[LedgerEntry | None]:
    """The ledger's entries of calls, each by the platform's id or else by ours."""
    entries: list[LedgerEntry | None] = []
    for call_id, ours in asked:
        row = _find(connection, call_id, ours)
        end = None if row is None else ends_of(connection, [row]).get(row.entry_id)
        entries.append(None if row is None else to_entry(row, end))
    return entries


def find_traces(
    connection: Connection, asked: Sequence[tuple[str | None, str | None]]
) -> list[str | None]:
    """The `Opening.traceparent` of calls, each by the platform's id or else by ours.

    They are many where all is recorded: those of whom the platform's id is known, as nearly all
    are, are found together, and where no ledger is kept nothing else is looked for.
    """
    if connection.execute(_ANY_CALL).first() is None:
        return [None] * len(asked)
    keys = [None if call_id is None else exact_key(call_id) for call_id, _ in asked]
    known: dict[str, str | None] = {}
    for some in _chunks(dict.fromkeys(filter(None, keys))):
        found = connection.execute(_TRACES, {"keys": some})
        known.update((row.call_key, row.traceparent) for row in found)
    traces: list[str | None] = []
    for key, (call_id, ours) in zip(keys, asked, strict=True):
        if key is not None and key in known:
            traces.append(known[key])
        else:
            row = _find(connection, call_id, ours)
            traces.append(None if row is None else row.traceparent)
    return traces


def _find(connection: Connection, call_id: str | None, out_call_id: str | None) -> Row[Any] | None:
    row = None
    ours = None if out_call_id is None else exact_key(out_call_id)
    if call_id is not None:
        row = _newest(connection, calls.c.call_key == exact_key(call_id))
        if row is None and ours is None:
            # Where the platform's answer was lost, only the notification has both ids.
            both = select(events.c.out_call_id).where(
                events.c.event_id == exact_key(call_id), events.c.kind == Kind.DISCONNECTED
            )
            ours = connection.execute(both).scalar()
    if row is None and ours is not None:
        wanted = _has(ours)
        if call_id is not None:  # a call of which only our id is known; any other has its own
            wanted = and_(wanted, calls.c.call_key.is_(None))
        row = _newest(connection, wanted)
    return row


def going_on(connection: Connection, keys: Iterable[str]) -> set[str]:
    """Those `out_call_id`s, as `exact_key` makes them, whose last call is not settled."""
    newest = ((key, _newest(connection, _has(key))) for key in keys)
    return {key for key, row in newest if row is not None and row.due_at is not None}


def _has(key: str) -> ColumnElement[bool]:
    """All calls with an `out_call_id`: see `Opening.entry_ids`."""
    return or_(
        calls.c.entry_id == key,
        and_(calls.c.entry_id > f"{key}~", calls.c.entry_id < f"{key}\x7f"),
    )


def _newest(connection: Connection, wanted: ColumnElement[bool]) -> Row[Any] | None:
    query = select(calls).where(wanted).order_by(calls.c.seq.desc()).limit(1)
    return connection.execute(query).one_or_none()


def list_calls(
    connection: Connection, listings: Sequence[CallListing]
) -> list[tuple[Sequence[LedgerEntry], int]]:
    """Calls, and the position to go on from; 0 where these are all."""
    return [_list(connection, listing) for listing in listings]


def _list(connection: Connection, listing: CallListing) -> tuple[Sequence[LedgerEntry], int]:
    query = select(calls).order_by(calls.c.seq.desc()).limit(listing.limit)
    if listing.before is not None:
        query = query.where(calls.c.seq < listing.before)
    if listing.since is not None:
        query = query.where(calls.c.placed_at >= listing.since)
    rows = connection.execute(query).all()
    ends = ends_of(connection, rows)
    entries = [to_entry(row, ends.get(row.entry_id)) for row in rows]
    return entries, rows[-1].seq if len(rows) == listing.limit else 0


def count_overdue(connection: Connection, asked: Sequence[None]) -> list[int]:
    """How many calls are past their deadline, and not settled yet."""
    query = select(calls).where(
        calls.c.due_at.is_not(None),
        calls.c.placed_at + calls.c.missing_after <= time_in(connection),
    )
    count = 0
    for rows in connection.execute(query).partitions(CHUNK):
        count += len(rows) - len(ends_of(connection, rows))
    return [count] * len(asked)


def ends_of(connection: Connection, rows: Iterable[Row[Any]]) -> dict[str, Ended]:
    """The ends of those calls whose notification has come, by entry id."""
    wanted = [row for row in rows if row.state != CallState.ENDED]
    by_key: dict[str, list[str]] = {}
    for row in wanted:
        if row.call_key is not None:
            by_key.setdefault(row.call_key, []).append(row.entry_id)
    # Of these nobody has told the platform's id.
    nameless = {row.entry_id: exact_key(row.out_call_id) for row in wanted if row.call_key is None}
    reported = select(events.c.event_id, events.c.out_call_id, events.c.received_at).where(
        events.c.kind == Kind.DISCONNECTED
    )
    found: dict[str, Ended] = {}
    for keys in _chunks(by_key):
        for event in connection.execute(reported.where(events.c.event_id.in_(keys))):
            for entry_id in by_key[event.event_id]:
                found[entry_id] = Ended(event.event_id, event.received_at)
    for keys in _chunks(dict.fromkeys(nameless.values())):
        reports = connection.execute(
            reported.where(events.c.out_call_id.in_(keys)).order_by(events.c.received_at)
        ).all()
        taken = set(
            connection.execute(
                select(calls.c.call_key).where(
                    calls.c.call_key.in_([event.event_id for event in reports])
                )
            ).scalars()
        )
        for key in keys:
            ours = [one for one in reports if one.out_call_id == key and one.event_id not in taken]
            if ours:
                ends = _ends_of_nameless(connection, key, ours)
                found |= {entry_id: ends[entry_id] for entry_id in ends if entry_id in nameless}
    return found


def _ends_of_nameless(connection: Connection, key: str, reports: Iterable[Any]) -> dict[str, Ended]:
    """Where an id was used again, or long ago, the end of one call is not that of the other.

    Each report is of one call: of the last that was placed before it came. Whose clock is wrong may
    have received it before that; then it is of the next one, if that is not much later.
    """
    query = select(calls.c.entry_id, calls.c.placed_at).where(_has(key), calls.c.call_key.is_(None))
    left = list(connection.execute(query.order_by(calls.c.placed_at, calls.c.seq)))
    found: dict[str, Ended] = {}
    for report in reports:
        came = report.received_at
        before = [call for call in left if call.placed_at <= came]
        after = [call for call in left if came < call.placed_at <= came + _CLOCKS_APART]
        if before or after:
            call = before[-1] if before else after[0]
            left.remove(call)
            found[call.entry_id] = Ended(report.event_id, came)
    return found


def _chunks(keys: Iterable[str]) -> Iterable[list[str]]:
    listed = list(keys)
    return (listed[start : start + CHUNK] for start in range(0, len(listed), CHUNK))


def to_entry(row: Row[Any], end: Ended | None) -> LedgerEntry:
    """A row of `calls`, and what `events` has of its end."""
    changed_at = row.changed_at
    if end is not None:
        changed_at = end.received_at
    return LedgerEntry(
        out_call_id=row.out_call_id,
        call_id=row.call_id if row.call_id is not None or end is None else end.call_id,
        caller=row.caller,
        callee=row.callee,
        state=_state_of(row) if end is None else CallState.ENDED,
        placed_at=from_milliseconds(row.placed_at),
        changed_at=from_milliseconds(changed_at),
        error=row.error,
    )


def _state_of(row: Row[Any]) -> CallState:
    try:
        return CallState(row.state)
    except ValueError:  # of a newer version, or broken: the others must be found all the same
        return CallState.UNKNOWN


def purge_calls(connection: Connection, befores: Sequence[int]) -> list[int]:
    """Delete up to 500 settled calls that were placed before a time; how many."""
    return [_purge(connection, before) for before in befores]


def _purge(connection: Connection, before: int) -> int:
    settled = select(calls.c.entry_id).where(calls.c.placed_at < before, calls.c.due_at.is_(None))
    ids = list(connection.execute(settled.limit(CHUNK)).scalars())
    connection.execute(delete(calls).where(calls.c.entry_id.in_(ids)))
    return len(ids)
