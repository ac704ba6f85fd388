"""What is done with `deliveries`: functions of a connection, each for all arguments of a batch.

A delivery that is due has a ``due_at`` that has passed. A lease moves it to where the lease ends,
so what a dead process held becomes due by itself. The clock may be stepped: ``due_at`` is never
farther ahead than the longest back-off, or, under a lease, than the lease; where it is, the clock
was wrong when it was written.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, bindparam, false, func, insert, or_, select, update

from qmc_async.models import Overdue
from qmc_async.store.prepared import PreparedForKeys, among_keys
from qmc_async.store.records import (
    LEASE,
    LONGEST_DELAY,
    Claim,
    DeadLetter,
    Kind,
    Polled,
    State,
    from_milliseconds,
    keys_of,
)
from qmc_async.store.rows import CHUNK, bodies_of, row_of, to_event, to_receipt
from qmc_async.store.schema import DEAD, deliveries, events
from qmc_async.store.transaction import for_update, time_in

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection, Row

    from qmc_async.store.records import Outcome, Poll

__all__ = [
    "count_pending",
    "count_waiting",
    "dead_letters",
    "left_over",
    "new_delivery",
    "poll",
    "release",
    "renew",
    "replay",
    "route",
    "settle",
    "undo_clock_steps",
]

logger = logging.getLogger(__name__)

_UNROUTED_AT_ONCE: Final = 100
_LONGEST_WAIT: Final = 15 * 60.0  # seconds; a deployment is over by then
_MOST_COUNTED: Final = 100_000  # deliveries; SQLite counts them in 10 ms

_OURS = and_(
    deliveries.c.event_id == bindparam("an_event"),
    deliveries.c.handler == bindparam("a_handler"),
    deliveries.c.fence == bindparam("a_fence"),
    deliveries.c.due_at.is_not(None),
)
_UNROUTED = (
    select(events)
    .where(events.c.routed == false(), events.c.seq > bindparam("after"))
    .order_by(events.c.seq)
    .limit(_UNROUTED_AT_ONCE)
)
_INSERT = insert(deliveries)
_DUE = (
    select(deliveries.c.event_id, deliveries.c.fence, deliveries.c.attempts)
    .where(deliveries.c.handler == bindparam("a_handler"), deliveries.c.due_at <= bindparam("now"))
    .order_by(deliveries.c.due_at)
    .limit(bindparam("limit"))
)
_EVENTS = select(events).where(events.c.event_id.in_(bindparam("ids", expanding=True)))
_TOO_FAR_AHEAD = (
    update(deliveries)
    .where(
        deliveries.c.handler == bindparam("a_handler"),
        deliveries.c.due_at > bindparam("longest_lease"),
        or_(deliveries.c.due_at > bindparam("longest_delay"), deliveries.c.owner.is_not(None)),
    )
    .values(due_at=bindparam("now"), owner=None)
)
_OLDEST = select(func.min(deliveries.c.due_at)).where(
    deliveries.c.handler == bindparam("a_handler"), deliveries.c.due_at.is_not(None)
)
# No further, for that is all one wants to know: notifications wait for the same thread.
_WAITING = select(func.count()).select_from(
    select(deliveries.c.handler)
    .where(deliveries.c.handler == bindparam("a_handler"), deliveries.c.due_at.is_not(None))
    .limit(_MOST_COUNTED)
    .subquery("some")
)
_LEASE = (
    update(deliveries)
    .where(_OURS)
    .values(fence=deliveries.c.fence + 1, owner=bindparam("an_owner"), due_at=bindparam("until"))
)
_RENEW = update(deliveries).where(_OURS).values(due_at=bindparam("until"))
_SETTLE = PreparedForKeys(
    lambda size: (
        update(deliveries)
        .prefix_with("OR FAIL", dialect="sqlite")  # as for what is inserted: see `PreparedInsert`
        .where(
            among_keys(deliveries.c.event_id, size),
            deliveries.c.handler == bindparam("a_handler"),
            deliveries.c.fence == bindparam("a_fence"),
            deliveries.c.due_at.is_not(None),
        )
        .values(
            state=bindparam("a_state"),
            fence=deliveries.c.fence + 1,  # a renewal that comes too late finds nothing to renew
            attempts=bindparam("now_attempts"),
            due_at=bindparam("until"),
            owner=None,
            changed_at=bindparam("now"),
            error=bindparam("an_error"),
        )
    )
)


def new_delivery(event_id: str, handler: str, owner: str | None, time: int) -> dict[str, Any]:
    """A row of `deliveries`: leased to an owner, or due at once."""
    return {
        "event_id": event_id,
        "handler": handler,
        "state": State.PENDING,
        "attempts": 0,
        "fence": 0 if owner is None else 1,
        "owner": owner,
        "due_at": time if owner is None else _lease_end(time),
        "changed_at": time,
        "error": "",
    }


def _lease_end(time: int) -> int:
    return time + int(LEASE * 1000)


def poll(connection: Connection, polls: Sequence[Poll]) -> list[Polled]:
    """Lease what is due, and find what nobody has routed."""
    return [_poll(connection, one) for one in polls]


def _poll(connection: Connection, wanted: Poll) -> Polled:
    time = time_in(connection)
    claims: list[Claim] = []
    for handler, limit in wanted.wanted.items():
        # What is held stands in the way of what is not, if a stepped clock makes it look due.
        held = sum(name == handler for _, name in wanted.held)
        due = connection.execute(
            for_update(connection, _DUE),
            {"a_handler": handler, "now": time, "limit": limit + held},
        )
        free = [row for row in due.all() if (row.event_id, handler) not in wanted.held][:limit]
        found = _events_by_id(connection, [row.event_id for row in free])
        for row in free:
            try:
                claims.append(_to_claim(connection, handler, row, found[row.event_id]))
            except (KeyError, ValueError, TypeError) as error:  # of a newer version, or broken
                _bury(connection, handler, row, type(error).__name__)
    if claims:
        connection.execute(
            _LEASE,
            [
                _ours(claim, claim.fence - 1)
                | {"an_owner": wanted.owner, "until": _lease_end(time)}
                for claim in claims
            ],
        )
    unrouted = connection.execute(_UNROUTED, {"after": wanted.after}).all()
    return Polled(
        claims,
        {
            row.event_id: to_event(connection, row.kind, row.event_id, to_receipt(row))
            for row in unrouted
        },
        unrouted[-1].seq if len(unrouted) == _UNROUTED_AT_ONCE else 0,
    )


def _events_by_id(connection: Connection, ids: Sequence[str]) -> dict[str, Row[Any]]:
    found: dict[str, Row[Any]] = {}
    for start in range(0, len(ids), CHUNK):
        rows = connection.execute(_EVENTS, {"ids": ids[start : start + CHUNK]})
        found.update((row.event_id, row) for row in rows)
    return found


def _bury(connection: Connection, handler: str, row: Row[Any], why: str) -> None:
    """Give up a delivery that cannot be read: it must not stand before those that can."""
    logger.error("the event %s cannot be read (%s): it is a dead letter", row.event_id, why)
    _SETTLE.execute(
        connection,
        [row.event_id],
        a_handler=handler,
        a_fence=row.fence,
        a_state=State.DEAD,
        now_attempts=row.attempts,
        until=None,
        now=time_in(connection),
        an_error=f"this version cannot read it: {why}",
    )


def _to_claim(connection: Connection, handler: str, due: Row[Any], row: Row[Any]) -> Claim:
    receipt = to_receipt(row)
    return Claim(
        event_id=row.event_id,
        handler=handler,
        fence=due.fence + 1,
        attempts=due.attempts,
        event=to_event(connection, row.kind, row.event_id, receipt),
        receipt=receipt,
        kind=Kind(row.kind),
    )


def _ours(claim: Claim, fence: int) -> dict[str, Any]:
    return {"an_event": claim.event_id, "a_handler": claim.handler, "a_fence": fence}


def release(connection: Connection, owners: Sequence[str]) -> list[int]:
    """Make due at once what dead owners hold; how many, for each."""
    handlers = _handlers_that_have_work(connection)
    return [_release(connection, owner, handlers) for owner in owners]


def _release(connection: Connection, owner: str, handlers: Sequence[str]) -> int:
    time = time_in(connection)
    released = 0
    for handler in handlers:
        # A range of the index: a backlog of a million is not looked through.
        released += connection.execute(
            update(deliveries)
            .where(
                deliveries.c.handler == handler,
                deliveries.c.due_at > time,
                deliveries.c.due_at <= _lease_end(time),
                deliveries.c.owner == owner,
            )
            .values(due_at=time, owner=None)
        ).rowcount
    return released


def _handlers_that_have_work(connection: Connection) -> list[str]:
    first = select(func.min(deliveries.c.handler))
    if connection.dialect.name != "mysql":  # its index has the settled ones as well
        first = first.where(deliveries.c.due_at.is_not(None))
    found: list[str] = []
    name = connection.execute(first).scalar()
    while name is not None:
        found.append(name)
        name = connection.execute(first.where(deliveries.c.handler > name)).scalar()
    return found


def left_over(connection: Connection, known: Sequence[Collection[str]]) -> list[list[str]]:
    """Handlers that are none of the known ones, and whose deliveries have waited for long."""
    names = _handlers_that_have_work(connection)
    longest = time_in(connection) - int(_LONGEST_WAIT * 1000)
    waiting: list[str] = []
    for name in names:
        oldest = connection.execute(_OLDEST, {"a_handler": name}).scalar()
        if oldest is not None and oldest < longest:
            waiting.append(name)
    return [[name for name in waiting if name not in ours] for ours in known]


def undo_clock_steps(connection: Connection, asked: Sequence[Sequence[str]]) -> list[None]:
    """Make due at once what a wrong clock has put off too far: the handlers' names."""
    time = time_in(connection)
    times = {
        "longest_delay": time + int(LONGEST_DELAY * 1000),
        "longest_lease": time + int(2 * LEASE * 1000),
        "now": time,
    }
    rows = [{"a_handler": handler} | times for handlers in asked for handler in handlers]
    if rows:
        connection.execute(_TOO_FAR_AHEAD, rows)
    return [None] * len(asked)


def route(connection: Connection, routes: Sequence[Mapping[str, Sequence[str]]]) -> list[None]:
    """Make the deliveries of events that had none: the handlers' names, by event id.

    They are due at once. Whoever comes second finds nothing to do.
    """
    for by_event in routes:
        for event_id, handlers in by_event.items():
            found = connection.execute(
                update(events)
                .where(events.c.event_id == event_id, events.c.routed == false())
                .values(routed=True)
            )
            if not found.rowcount:
                continue
            # A handler that was running when the store was set aside has brought its own.
            there = set(
                connection.execute(
                    select(deliveries.c.handler).where(deliveries.c.event_id == event_id)
                ).scalars()
            )
            time = time_in(connection)
            rows = [
                new_delivery(event_id, name, None, time) for name in handlers if name not in there
            ]
            if rows:
                connection.execute(_INSERT, rows)
    return [None] * len(routes)


def settle(connection: Connection, outcomes: Sequence[Outcome]) -> list[bool]:
    """Write down how claims ended; False where the lease was lost to another."""
    now = time_in(connection)
    alike: dict[_Change, list[str]] = {}
    for outcome in outcomes:
        alike.setdefault(_change_of(outcome, now), []).append(outcome.claim.event_id)
    settled = 0
    for change, ids in alike.items():
        for start in range(0, len(ids), CHUNK):
            settled += _SETTLE.execute(
                connection, ids[start : start + CHUNK], now=now, **change._asdict()
            ).rowcount
    if settled == len(outcomes):
        return [True] * settled
    # Rare: one of them is not ours any more. Once more, each by itself, to see which.
    return [
        _is_settled(connection, outcome)
        or _restore(connection, outcome, _change_of(outcome, now), now)
        for outcome in outcomes
    ]


class _Change(NamedTuple):
    """What most deliveries that are settled together have in common; the names are `_SETTLE`'s."""

    a_handler: str
    a_fence: int
    a_state: State
    now_attempts: int
    until: int | None
    an_error: str


def _change_of(outcome: Outcome, now: int) -> _Change:
    claim = outcome.claim
    return _Change(
        claim.handler,
        claim.fence,
        outcome.state,
        claim.attempts + outcome.failed,
        now + int(outcome.delay * 1000) if outcome.state is State.PENDING else None,
        outcome.error,
    )


def _is_settled(connection: Connection, outcome: Outcome) -> bool:
    """Whether it stands as we have left it, now or in a commit whose answer was lost."""
    claim = outcome.claim
    found = connection.execute(
        select(deliveries.c.event_id).where(
            deliveries.c.event_id == claim.event_id,
            deliveries.c.handler == claim.handler,
            deliveries.c.fence == claim.fence + 1,
            deliveries.c.state == outcome.state,
            deliveries.c.owner.is_(None),
        )
    )
    return found.one_or_none() is not None


def _restore(connection: Connection, outcome: Outcome, change: _Change, now: int) -> bool:
    """Write down a delivery that went with a store that was set aside."""
    claim = outcome.claim
    known = connection.execute(
        select(deliveries.c.event_id).where(
            deliveries.c.event_id == claim.event_id, deliveries.c.handler == claim.handler
        )
    )
    if known.one_or_none() is not None:
        return False
    if not bodies_of(connection, [claim.event_id]):
        overdue = claim.event if isinstance(claim.event, Overdue) else None
        event = row_of(claim.receipt, claim.event_id, routed=True, overdue=overdue)
        connection.execute(insert(events), [event | {"kind": claim.kind}])
    connection.execute(
        _INSERT,
        [
            new_delivery(claim.event_id, claim.handler, None, now)
            | {
                "state": change.a_state,
                "attempts": change.now_attempts,
                "fence": change.a_fence,
                "due_at": change.until,
                "error": change.an_error,
            }
        ],
    )
    return True


def renew(connection: Connection, held: Sequence[Sequence[Claim]]) -> list[None]:
    """Move the end of leases."""
    until = _lease_end(time_in(connection))
    rows = [_ours(claim, claim.fence) | {"until": until} for claims in held for claim in claims]
    if rows:
        connection.execute(_RENEW, rows)
    return [None] * len(held)


def dead_letters(connection: Connection, limits: Sequence[int]) -> list[list[DeadLetter]]:
    """What was given up, the latest first."""
    found: list[list[DeadLetter]] = []
    for limit in limits:
        rows = connection.execute(
            select(deliveries, events)
            .join_from(deliveries, events, deliveries.c.event_id == events.c.event_id)
            .where(DEAD)
            .order_by(deliveries.c.changed_at.desc())
            .limit(limit)
        ).all()
        found.append(
            [
                DeadLetter(
                    event_id=row.event_id,
                    handler=row.handler,
                    event=to_event(connection, row.kind, row.event_id, to_receipt(row)),
                    body=row.body,
                    error=row.error,
                    attempts=row.attempts,
                    first_seen=from_milliseconds(row.received_at),
                    died_at=from_milliseconds(row.changed_at),
                )
                for row in rows
            ]
        )
    return found


def replay(connection: Connection, letters: Sequence[tuple[str, str | None]]) -> list[list[str]]:
    """Make dead letters due again, as if they had never been tried.

    Args:
        connection: in a transaction.
        letters: event ids, each with a handler's name, or None for all that gave it up.

    Returns:
        For each, the handlers that get it again.
    """
    done: list[list[str]] = []
    for event_id, handler in letters:
        one = and_(
            deliveries.c.event_id.in_(keys_of(event_id)),
            deliveries.c.state == State.DEAD,
            *(() if handler is None else (deliveries.c.handler == handler,)),
        )
        names = list(connection.execute(select(deliveries.c.handler).where(one)).scalars())
        time = time_in(connection)
        connection.execute(
            update(deliveries)
            .where(one)
            .values(
                state=State.PENDING,
                attempts=0,
                due_at=time,
                changed_at=time,
                fence=deliveries.c.fence + 1,  # nothing of its first life settles it
            )
        )
        done.append(names)
    return done


def count_waiting(connection: Connection, asked: Sequence[Collection[str]]) -> list[dict[str, int]]:
    """How many deliveries are not settled, for each of some handlers; 100,000 where it is more."""
    counts = {
        handler: connection.execute(_WAITING, {"a_handler": handler}).scalar_one()
        for handler in set[str]().union(*asked)
    }
    return [{handler: counts[handler] for handler in handlers} for handlers in asked]


def count_pending(connection: Connection, asked: Sequence[None]) -> list[int]:
    """How many deliveries are not settled."""
    count = connection.execute(
        select(func.count()).select_from(deliveries).where(deliveries.c.due_at.is_not(None))
    ).scalar_one()
    return [count] * len(asked)
