"""What can be told of a store in one look: a function of a connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen
from sqlalchemy import exists, func, select

from qmc_async.codec import read_notification
from qmc_async.errors import ConfigError
from qmc_async.models import RECORDING_LIFETIME, CallState, Disconnected, RecordingResult
from qmc_async.store import durability, sqlite_file
from qmc_async.store.ledger import count_overdue
from qmc_async.store.records import Kind, State, from_milliseconds
from qmc_async.store.rows import CHUNK, read_overdue
from qmc_async.store.schema import DEAD, deliveries, events
from qmc_async.store.transaction import time_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Select

__all__ = ["LAST_DAY", "Examined", "examine", "of_missing"]

LAST_DAY: Final = RECORDING_LIFETIME / 3
"""How long before a recording is gone it is told."""

_SLACK: Final = LAST_DAY / 24
"""How far the clocks of the platform and of who received a report may be apart."""


@frozen(kw_only=True)
class Examined:
    """What was found.

    Attributes:
        problem: why the database may lose what it has committed, empty where it does not.
        overdue: how many calls are past their deadline, and neither reported nor settled.
        dead: how many dead letters each handler has, the one that gave up last first.
        has_archive: whether the archive's handlers have ever been given anything.
        expiring: how many recordings are gone within a day, and not archived by them.
    """

    problem: str
    overdue: int
    dead: Mapping[str, int]
    has_archive: bool
    expiring: int


def of_missing(archive: str) -> str:
    """The name of the handler that archives calls that nobody has reported."""
    return f"{archive} of missing"


def examine(connection: Connection, archives: Sequence[str]) -> list[Examined]:
    """Look, without changing anything: once for the name of each archive's handler."""
    problem = _problem(connection)
    [overdue] = count_overdue(connection, [None])
    dead = (
        select(deliveries.c.handler, func.count())
        .where(DEAD)
        .group_by(deliveries.c.handler)
        .order_by(func.max(deliveries.c.changed_at).desc())
    )
    letters = {row[0]: row[1] for row in connection.execute(dead)}
    return [
        Examined(
            problem=problem,
            overdue=overdue,
            dead=letters,
            has_archive=_is_known(connection, archive),
            expiring=_count_expiring(connection, archive),
        )
        for archive in archives
    ]


def _problem(connection: Connection) -> str:
    try:
        if connection.dialect.name == "sqlite":
            sqlite_file.check_durability(connection, in_memory=False)
        else:
            durability.check_durability(connection, allow_data_loss=False, is_first=False)
    except ConfigError as error:
        return str(error)
    return ""


def _is_known(connection: Connection, archive: str) -> bool:
    names = (archive, of_missing(archive))
    one = select(deliveries.c.event_id).where(deliveries.c.handler.in_(names)).limit(1)
    return connection.execute(one).first() is not None


def _count_expiring(connection: Connection, archive: str) -> int:
    now = from_milliseconds(time_in(connection))
    first, last = now - RECORDING_LIFETIME, now - RECORDING_LIFETIME + LAST_DAY
    received = events.c.received_at
    reported = _not_archived(Kind.DISCONNECTED, archive).where(
        received.between(_milliseconds(first - _SLACK), _milliseconds(last + _SLACK))
    )
    missing = _not_archived(Kind.MISSING, of_missing(archive)).where(
        received >= _milliseconds(first - _SLACK)  # but it was placed long before
    )
    return sum(
        end is not None and first < end < last
        for query, read_end in ((reported, _recorded_end), (missing, _placed))
        for rows in connection.execute(query).partitions(CHUNK)
        for end in (read_end(row.body) for row in rows)
    )


def _not_archived(kind: Kind, handler: str) -> Select[tuple[Any]]:
    # Also what the archive was never given: it may have been added later.
    done = exists().where(
        deliveries.c.event_id == events.c.event_id,
        deliveries.c.handler == handler,
        deliveries.c.state == State.DONE,
    )
    return select(events.c.body).where(events.c.kind == kind, ~done)


def _recorded_end(body: bytes) -> datetime | None:
    event = read_notification(body)
    if isinstance(event, Disconnected) and event.recording_result == RecordingResult.SUCCESS:
        return event.end_time
    return None


def _placed(body: bytes) -> datetime | None:
    """About when a call ended that nobody has reported, but that has a recording."""
    event = read_overdue(body)
    return event.placed_at if event is not None and event.outcome is CallState.INFERRED else None


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
