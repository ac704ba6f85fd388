"""What can be told of a store in one look: a function of a connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen
from sqlalchemy import and_, exists, false, func, or_, select

from qmc_async.codec import read_notification
from qmc_async.errors import ConfigError
from qmc_async.models import RECORDING_LIFETIME, Disconnected, RecordingResult
from qmc_async.store import durability, sqlite_file
from qmc_async.store.ledger import count_overdue
from qmc_async.store.records import Kind, State, from_milliseconds
from qmc_async.store.rows import CHUNK
from qmc_async.store.schema import DEAD, deliveries, events
from qmc_async.store.transaction import time_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Select

__all__ = ["LAST_DAY", "Examined", "examine"]

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
        has_archive: whether the archive's handler has ever been given anything.
        expiring: how many recordings are gone within a day, and not archived yet.
    """

    problem: str
    overdue: int
    dead: Mapping[str, int]
    has_archive: bool
    expiring: int


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


def _is_known(connection: Connection, handler: str) -> bool:
    one = select(deliveries.c.event_id).where(deliveries.c.handler == handler).limit(1)
    return connection.execute(one).first() is not None


def _count_expiring(connection: Connection, archive: str) -> int:
    now = from_milliseconds(time_in(connection))
    first, last = now - RECORDING_LIFETIME, now - RECORDING_LIFETIME + LAST_DAY
    query = _not_archived(archive, first - _SLACK, last + _SLACK)
    count = 0
    for rows in connection.execute(query).partitions(CHUNK):
        for row in rows:
            event = read_notification(row.body)
            count += (
                isinstance(event, Disconnected)
                and event.recording_result == RecordingResult.SUCCESS
                and first < event.end_time < last
            )
    return count


def _not_archived(archive: str, first: datetime, last: datetime) -> Select[tuple[Any]]:
    unfinished = and_(
        deliveries.c.event_id == events.c.event_id,
        deliveries.c.handler == archive,
        deliveries.c.state != State.DONE,
    )
    return select(events.c.body).where(
        events.c.kind == Kind.DISCONNECTED,
        events.c.received_at.between(_milliseconds(first), _milliseconds(last)),
        or_(events.c.routed == false(), exists().where(unfinished)),
    )


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
