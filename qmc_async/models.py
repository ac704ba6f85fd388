"""What the platform says, as attrs classes.

Names are the document's names in snake_case, and ``callidentifier`` is ``call_id``. Times are
aware datetimes in UTC+8 (the document says "Beijing time"), durations are `timedelta`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias

from attrs import field, frozen

from qmc_async.numbers import mask_in_text

__all__ = [
    "BEIJING",
    "RECORDING_LIFETIME",
    "Call",
    "CallResult",
    "CallState",
    "Conflict",
    "Disconnected",
    "Envelope",
    "Event",
    "FileResult",
    "LedgerEntry",
    "Notification",
    "Overdue",
    "Reason",
    "Recording",
    "RecordingResult",
    "UnknownNotification",
    "ids_of",
]

BEIJING = timezone(timedelta(hours=8))
"""The platform's time zone. China has kept no daylight-saving time since 1991."""

RECORDING_LIFETIME = timedelta(days=3)
"""How long after the call's end its recording can be fetched (3.3)."""


class Reason(enum.StrEnum):
    """Why the call ended (3.2)."""

    HANG_UP = "HangUp"
    """A normal end; also a call that was deleted after it was connected."""
    CALLER_BUSY = "CallerBusy"
    CALLER_NO_ANSWER = "CallerNoAnswer"
    CALLER_FAILURE = "CallerFailure"
    CALLER_ABANDON = "CallerAbandon"
    """The caller hung up while the callee was being rung."""
    CALLEE_BUSY = "CalleeBusy"
    CALLEE_NO_ANSWER = "CalleeNoAnswer"
    CALLEE_FAILURE = "CalleeFailure"
    OTHER = "Other"


class RecordingResult(enum.StrEnum):
    """Whether the call was recorded (3.2)."""

    SUCCESS = "success"
    FAIL = "fail"


def _masked(value: str | None) -> str:
    """The repr of a text that came from outside, and could hold a telephone number."""
    return mask_in_text(repr(value))


@frozen(kw_only=True)
class Call:
    """A call that the platform has accepted (3.1). The caller's telephone is about to ring.

    Attributes:
        call_id: the platform's ``callidentifier``.
        out_call_id: ours, which the notification repeats.
        placed_at: when the reply came, by this machine's clock corrected to the platform's.
        raw: the reply's whole ``data``.
    """

    call_id: str
    out_call_id: str
    placed_at: datetime
    raw: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, eq=False)


@frozen(kw_only=True)
class Recording:
    """Where a call's recording can be fetched (3.3).

    Attributes:
        call_id: the platform's ``callidentifier``.
        file_url: whoever has it can listen; it is left out of the repr.
        expires_at: from then on it may be gone. Exact (three days after the end) when the
            recording was asked for with the `Disconnected`; a few minutes early, counted from
            when the call was placed, when it was asked for with the `Call`; None for a bare id.
        raw: the reply's whole ``data``.
    """

    call_id: str
    file_url: str = field(repr=False)
    expires_at: datetime | None = None
    raw: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, eq=False)


@frozen(kw_only=True)
class Disconnected:
    """The platform's report that a call has ended (3.2). It is sent once, and never again.

    A conditional field that the platform left out, or sent as ``""``, ``null`` or ``"0"``, is
    None; only ``callDuration`` of ``"0"`` is a duration of nothing.

    Attributes:
        call_id: the ``callidentifier`` that `call` returned.
        end_time: hang-up.
        start_time: the caller picked up.
        answer_time: both parties were connected.
        reason: a `Reason`, or the platform's string where the document does not have it.
        call_duration: talk time, in whole seconds.
        recording_result: a `RecordingResult`, or the platform's string.
        out_call_id: as given to `call`.
        problems: which conditional fields could not be read, and why. They are None, and stand in
            `raw` as they came: that a call has ended must not be lost over its talk time.
        raw: the whole message as it came, fields unknown to the document included.
    """

    call_id: str
    end_time: datetime
    start_time: datetime | None = None
    answer_time: datetime | None = None
    reason: Reason | str | None = field(default=None, repr=_masked)
    call_duration: timedelta | None = None
    recording_result: RecordingResult | str | None = field(default=None, repr=_masked)
    out_call_id: str | None = field(default=None, repr=_masked)
    problems: tuple[str, ...] = field(default=(), eq=False)
    raw: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, eq=False)


@frozen(kw_only=True)
class UnknownNotification:
    """A notification that is no `Disconnected`: kept whole, because it will not come again.

    Attributes:
        status: what stands in ``status``; the document (3.2) knows only ``Disconnected``.
        problem: what kept it from being decoded, None where only the status is unknown.
        call_id: the ``callidentifier``, None where there is none to be read.
        body: the bytes as they came; they may hold telephone numbers.
        raw: the JSON object, empty where there is none.
    """

    status: str | None = field(repr=_masked)
    body: bytes = field(repr=False)
    problem: str | None = None
    call_id: str | None = None
    raw: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, eq=False)


Notification: TypeAlias = Disconnected | UnknownNotification
"""What one request of the platform says."""


@frozen(kw_only=True)
class Conflict:
    """Two reports of one call's end that say different things. Both are kept.

    The first was delivered as the `Disconnected` that it is, and stays what `wait_for` returns.

    Attributes:
        call_id: the ``callidentifier`` of both.
        first: the report that came first; None where it was purged meanwhile.
        second: the report that came later, and differs.
    """

    call_id: str
    first: Disconnected | None
    second: Disconnected


class CallState(enum.StrEnum):
    """What the ledger knows of a call."""

    PLACING = "placing"
    """Written down, and perhaps sent: the process may have died before the platform answered."""
    PLACED = "placed"
    """The platform has accepted it."""
    REFUSED = "refused"
    """It was not placed, and no telephone rang."""
    UNKNOWN = "unknown"
    """It may have been placed, and no answer says so: see `CallOutcomeUnknown`."""
    ENDED = "ended"
    """Its notification has come."""
    INFERRED = "inferred"
    """No notification came in time, but there is a recording: so it was connected, and ended."""
    MISSING = "missing"
    """No notification came in time, and nothing else tells what became of it."""


@frozen(kw_only=True)
class LedgerEntry:
    """A call as the ledger has it, written down before anything of it was sent.

    Attributes:
        out_call_id: ours, which the notification repeats.
        call_id: the platform's ``callidentifier``; None until it is known.
        caller: masked, unless the client was told to keep numbers whole.
        callee: the same.
        state: see `CallState`.
        placed_at: when the platform accepted it or, before that, when it was written down, in
            UTC+8, by the clock of the store.
        changed_at: when the state was last written, in UTC+8. An end that the notification tells
            need not be written: then it is when that came.
        error: why it was refused, or is unknown; empty otherwise.
    """

    out_call_id: str
    call_id: str | None
    caller: str = field(repr=mask_in_text)
    callee: str = field(repr=mask_in_text)
    state: CallState
    placed_at: datetime
    changed_at: datetime
    error: str = ""


@frozen(kw_only=True)
class Overdue:
    """No notification of a call came by its deadline, and none can be asked for.

    Its recording was looked for. A notification that comes later is delivered as any other, and is
    what `wait_for` returns from then on.

    Attributes:
        out_call_id: ours.
        call_id: the platform's ``callidentifier``; None where the platform's answer was lost.
        placed_at: as in the `LedgerEntry`.
        outcome: `CallState.INFERRED` where there is a recording, so that the call was connected
            and has ended, but not when; otherwise `CallState.MISSING`.
    """

    out_call_id: str
    call_id: str | None
    placed_at: datetime
    outcome: CallState


Event: TypeAlias = Disconnected | UnknownNotification | Conflict | Overdue
"""What a handler can be registered for."""


@frozen(kw_only=True)
class Envelope:
    """What surrounds every reply of the platform (3.1).

    Attributes:
        code: 200 is success, anything else is an error; no other code is documented.
        msg: for people; it may quote a telephone number.
        data: the result, as JSON.
    """

    code: int
    msg: str = field(default="", repr=False)
    data: Any = field(default=None, repr=False)


@frozen(kw_only=True)
class CallResult:
    """The ``data`` of a reply to ``call`` (3.1)."""

    call_id: str


@frozen(kw_only=True)
class FileResult:
    """The ``data`` of a reply to ``record`` (3.3)."""

    file_url: str = field(repr=False)


def ids_of(event: Event) -> tuple[str | None, str | None]:
    """The call id and the `out_call_id` of the call that an event is about."""
    report = event.second if isinstance(event, Conflict) else event
    return report.call_id, getattr(report, "out_call_id", None)
