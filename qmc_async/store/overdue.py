"""What the watchdog does with `calls`: functions of a connection.

A call whose deadline has passed is leased, as a delivery is, while somebody asks for its recording.
Whoever settles it names the fence it was given, and makes the event of it in the same transaction:
so there is one for each call, whatever dies.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, insert, or_, select, update

from qmc_async.models import RECORDING_LIFETIME, CallState, Overdue
from qmc_async.store.ledger import ends_of, to_entry
from qmc_async.store.records import (
    LEASE,
    LONGEST_DELAY,
    Found,
    Kind,
    Look,
    Receipt,
    exact_key,
)
from qmc_async.store.rows import CHUNK, bodies_of, row_of, write_overdue
from qmc_async.store.schema import calls, events
from qmc_async.store.transaction import for_update, ring, time_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Row

    from qmc_async.store.ledger import Ended
    from qmc_async.store.records import Verdict

__all__ = [
    "end_reported",
    "look_for_overdue",
    "settle_overdue",
    "undo_clock_steps_of_calls",
]

logger = logging.getLogger(__name__)

_RECORDED_FOR: Final = int(RECORDING_LIFETIME.total_seconds() * 1000)
_LATER: Final = int(LEASE * 1000)
_PLACED_WITHIN: Final = 60_000  # milliseconds; until then the reply may be on its way


def undo_clock_steps_of_calls(connection: Connection, asked: Sequence[None]) -> list[None]:
    """Count the deadline from now, for calls that were placed by a clock that was far ahead."""
    time = time_in(connection)
    ahead = update(calls).where(calls.c.placed_at > time + _LATER, calls.c.due_at.is_not(None))
    connection.execute(ahead.values(placed_at=time, due_at=time + calls.c.missing_after))
    # Looked at, and put off, by such a clock.
    put_off = update(calls).where(
        calls.c.due_at > time + int(LONGEST_DELAY * 1000),
        calls.c.due_at > calls.c.placed_at + calls.c.missing_after,
    )
    connection.execute(put_off.values(due_at=time))
    return [None] * len(asked)


def look_for_overdue(connection: Connection, limits: Sequence[int]) -> list[Found]:
    """Lease calls whose deadline has passed, and settle those whose notification has come."""
    return [_look_for(connection, limit) for limit in limits]


def _look_for(connection: Connection, limit: int) -> Found:
    time = time_in(connection)
    query = (
        select(calls)
        .where(
            calls.c.due_at.is_not(None),
            calls.c.due_at <= time,
            or_(calls.c.state != CallState.PLACING, calls.c.placed_at <= time - _PLACED_WITHIN),
        )
        .order_by(calls.c.due_at)
        .limit(limit)
    )
    rows = connection.execute(for_update(connection, query)).all()
    ends = ends_of(connection, rows)
    looks: list[Look] = []
    _end(connection, rows, ends)
    for row in rows:
        if row.entry_id in ends:
            continue
        try:
            entry = to_entry(row, None)
        except (ValueError, OverflowError, TypeError, OSError) as error:
            # Broken, and copied from a broken file: the others must be found all the same.
            logger.error("the call %s cannot be read (%s)", row.entry_id, type(error).__name__)  # noqa: TRY400 - the traceback says no more
            put_aside = update(calls).where(calls.c.entry_id == row.entry_id)
            connection.execute(put_aside.values(due_at=None))
            continue
        connection.execute(
            update(calls)
            .where(calls.c.entry_id == row.entry_id)
            .values(due_at=time + _LATER, fence=row.fence + 1)
        )
        looks.append(
            Look(
                entry=entry,
                entry_id=row.entry_id,
                fence=row.fence + 1,
                looks=row.looks,
                is_last=time > row.placed_at + _RECORDED_FOR,
            )
        )
    return Found(looks, len(rows) < limit)


_END = (
    update(calls)
    .where(calls.c.entry_id == bindparam("an_entry"))
    .values(
        state=CallState.ENDED,
        due_at=None,
        changed_at=bindparam("at"),
        call_key=bindparam("a_key"),
        call_id=bindparam("an_id"),
    )
)


def _end(connection: Connection, rows: Sequence[Row[Any]], ends: Mapping[str, Ended]) -> None:
    found = [(row, ends[row.entry_id]) for row in rows if row.entry_id in ends]
    if found:
        connection.execute(
            _END,
            [
                {
                    "an_entry": row.entry_id,
                    "at": end.received_at,
                    "a_key": row.call_key or end.call_key,
                    "an_id": row.call_id or end.call_id,
                }
                for row, end in found
            ],
        )


def end_reported(connection: Connection, after: Sequence[int]) -> list[int | None]:
    """Settle the calls whose notification has come, 500 at a time; None after the last."""
    return [_end_reported(connection, seq) for seq in after]


def _end_reported(connection: Connection, after: int) -> int | None:
    query = select(calls).where(calls.c.due_at.is_not(None), calls.c.seq > after)
    # Those that others have locked are waited for: a report that is purged tells nothing later.
    rows = connection.execute(query.order_by(calls.c.seq).limit(CHUNK).with_for_update()).all()
    ends = ends_of(connection, rows)
    _end(connection, rows, ends)
    return rows[-1].seq if len(rows) == CHUNK else None


def settle_overdue(connection: Connection, verdicts: Sequence[Verdict]) -> list[bool]:
    """Write down what became of looks, and make the events of calls that nobody reported.

    Returns:
        Of which looks there is an event now.
    """
    names = [_settle(connection, verdict) for verdict in verdicts]
    ring(connection, set[str]().union(*names))
    return [bool(some) for some in names]


def _settle(connection: Connection, verdict: Verdict) -> set[str]:
    look = verdict.look
    time = time_in(connection)
    ours = select(calls).where(
        calls.c.entry_id == look.entry_id,
        calls.c.fence == look.fence,
        calls.c.due_at.is_not(None),
    )
    call = connection.execute(for_update(connection, ours)).one_or_none()
    if call is None or to_entry(call, None).state is not look.entry.state:
        return set()  # it is not ours, or was placed meanwhile, and has another deadline
    if end := ends_of(connection, [call]).get(look.entry_id):  # it has come meanwhile
        _end(connection, [call], {call.entry_id: end})
        return set()
    values = {"looks": call.looks + 1, "due_at": time + int(verdict.delay * 1000)}
    if verdict.outcome is not None:
        values = {"state": verdict.outcome, "due_at": None, "changed_at": time}
    connection.execute(update(calls).where(calls.c.entry_id == look.entry_id).values(values))
    if verdict.outcome is None:
        return set()
    key = call.call_key
    event_id = f"~{uuid.uuid4().hex}" if key is None else f"{key}~{Kind.MISSING}"
    if not bodies_of(connection, [event_id]):
        event = Overdue(
            out_call_id=look.entry.out_call_id,
            call_id=look.entry.call_id,
            placed_at=look.entry.placed_at,
            outcome=verdict.outcome,
        )
        receipt = Receipt.read(write_overdue(event), received_at=time)
        row = row_of(receipt, event_id, routed=False, overdue=event)
        connection.execute(insert(events), [row])
    return {exact_key(look.entry.out_call_id), *filter(None, [key])}
