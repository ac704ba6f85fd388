"""What the commands show of a stored event.

Identifiers are whole, because one searches by them. Everything else that came from outside has its
telephone numbers masked, and what goes to a terminal has its control characters written out: it
would obey them.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from attrs import asdict, field, frozen

from qmc_async.codec import STATUS
from qmc_async.models import Conflict, Overdue, UnknownNotification
from qmc_async.numbers import mask_in_text
from qmc_async.report import as_duration
from qmc_async.store.records import Kind, State, StoredDelivery, StoredEvent

__all__ = ["Shown", "as_talk", "as_time", "body_of", "one_line", "printable"]

_IN_THE_DOCUMENT: Final = frozenset(
    {
        "answerTime",
        "callDuration",
        "callidentifier",
        "endTime",
        "outCallId",
        "reason",
        "recordingResult",
        "startTime",
        "status",
    }
)
_LONGEST_REST: Final = 2000  # characters; the whole is in the body


@frozen(kw_only=True)
class Shown:
    """An event, fit to be shown.

    Attributes:
        event_id: under which it is kept.
        kind: see `Kind`.
        received_at: in UTC+8.
        call_id: the platform's.
        out_call_id: ours.
        status: the platform's; of a call that nobody reported, the watchdog's.
        reason: why the call ended.
        placed_at: of a call that nobody reported, when it was placed.
        start_time: the caller picked up.
        answer_time: both were connected.
        end_time: hang-up.
        call_duration: talk time in seconds.
        recording_result: whether it was recorded.
        differs_in: of a conflict, the fields in which it differs from the first report.
        rest: the fields that the document does not have, as JSON; all of a body that is no JSON.
        problems: what could not be read, and why.
        routed: False until a server has looked up its handlers.
        deliveries: one for each handler.
    """

    event_id: str
    kind: Kind
    received_at: datetime
    call_id: str | None
    out_call_id: str | None = None
    status: str | None
    reason: str | None = None
    placed_at: datetime | None = None
    start_time: datetime | None = None
    answer_time: datetime | None = None
    end_time: datetime | None = None
    call_duration: int | None = None
    recording_result: str | None = None
    differs_in: Sequence[str] = field(factory=list[str])
    rest: str | None
    problems: Sequence[str]
    routed: bool
    deliveries: Sequence[StoredDelivery]

    @classmethod
    def of(cls, stored: StoredEvent) -> Shown:
        """Take from a stored event what is to be shown."""
        event = stored.event
        shown: dict[str, Any] = {
            "event_id": stored.event_id,
            "kind": stored.kind,
            "received_at": stored.first_seen,
            "call_id": event.call_id,
            "routed": stored.routed,
            "deliveries": stored.deliveries,
        }
        if isinstance(event, Overdue):
            return cls(
                **shown,
                out_call_id=event.out_call_id,
                status=event.outcome,
                placed_at=event.placed_at,
                rest=None,
                problems=[],
            )
        report = event.second if isinstance(event, Conflict) else event
        shown["rest"] = _rest(report.raw, stored.body)
        if isinstance(report, UnknownNotification):
            return cls(
                **shown,
                status=_masked(report.status),
                problems=[] if report.problem is None else [report.problem],
            )
        talk = report.call_duration
        return cls(
            **shown,
            out_call_id=report.out_call_id,
            status=STATUS,
            reason=_masked(report.reason),
            start_time=report.start_time,
            answer_time=report.answer_time,
            end_time=report.end_time,
            call_duration=None if talk is None else int(talk.total_seconds()),
            recording_result=_masked(report.recording_result),
            differs_in=_differences(event) if isinstance(event, Conflict) else [],
            problems=[*filter(None, [stored.problem]), *report.problems],
        )

    @property
    def outcome(self) -> str:
        """How the call ended; of anything else, what it is about."""
        if self.end_time is not None:
            return self.reason or ""
        return "unreadable" if self.problems else self.status or "no status"

    @property
    def progress(self) -> str:
        """What has become of it, such as "2 done, 1 dead"."""
        if not self.deliveries:
            return "no handler" if self.routed else "no server yet"
        counts = Counter(delivery.state for delivery in self.deliveries)
        states = (State.DONE, State.PENDING, State.DEAD)
        return ", ".join(f"{counts[state]} {state}" for state in states if counts[state])

    def to_json(self, extra: Mapping[str, object]) -> str:
        """One line, with every field."""
        return orjson.dumps(asdict(self) | dict(extra)).decode()


def _masked(text: str | None) -> str | None:
    return None if text is None else mask_in_text(text)


def _rest(raw: Mapping[str, Any], body: bytes) -> str | None:
    others = {name: value for name, value in raw.items() if name not in _IN_THE_DOCUMENT}
    if raw and not others:
        return None
    try:
        text = orjson.dumps(others).decode() if raw else None
    except orjson.JSONEncodeError:
        text = None  # deeper than it can be written again
    if text is None:
        # In UTF-16 there are NULs between the digits of a number.
        text = body.decode(errors="replace").replace("\0", "")
    masked = mask_in_text(text)
    return f"{masked[:_LONGEST_REST]}…" if len(masked) > _LONGEST_REST else masked


def _differences(conflict: Conflict) -> list[str]:
    if conflict.first is None:
        return []
    first, second = conflict.first.raw, conflict.second.raw
    names = sorted({*first, *second})
    return [mask_in_text(name) for name in names if first.get(name) != second.get(name)]


def body_of(stored: StoredEvent) -> Mapping[str, str]:
    """The bytes as they came: under ``body`` where they are text, else under ``body_base64``."""
    try:
        return {"body": stored.body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(stored.body).decode()}


def printable(text: str) -> str:
    r"""A text that does nothing to a terminal.

    >>> print(printable("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def one_line(text: str) -> str:
    r"""The same, for a cell of a table.

    >>> one_line("ValueError: no\n  such order")
    'ValueError: no such order'
    """
    return printable(" ".join(text.split()))


def as_time(time: datetime | None) -> str:
    """A time in UTC+8, to the second."""
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def as_talk(seconds: int | None) -> str:
    """Talk time.

    >>> as_talk(12), as_talk(3723)
    ('0:12', '1:02:03')
    """
    return "" if seconds is None else as_duration(timedelta(seconds=seconds))
