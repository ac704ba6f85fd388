"""A call's history as lines for a reader, with what is still to come of its recording."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from attrs import frozen

from qmc_async.sandbox.console.shown import is_taken, ready_at
from qmc_async.sandbox.history import Actor, Attempt, Exchange, Move, Withheld

if TYPE_CHECKING:
    from datetime import timedelta

    from qmc_async.sandbox.calls import SimulatedCall
    from qmc_async.sandbox.history import Entry

__all__ = ["Line", "timeline_of"]

Tone: TypeAlias = Literal["plain", "good", "bad", "coming"]

_SLOW: Final = 0.7  # seconds; comparable platforms wait no longer for an answer


@frozen(kw_only=True)
class Line:
    """One line of a timeline.

    Attributes:
        at: the simulated time.
        offset: simulated seconds since the call was placed.
        tone: how it is to be seen.
        text: what happened, in English; a key of the console's words.
        note: what is shown behind it, such as the status of an answer; also a key, if it is one.
    """

    at: datetime
    offset: float
    tone: Tone
    text: str
    note: str = ""


def timeline_of(call: SimulatedCall, now: datetime, recording_delay: timedelta) -> list[Line]:
    """All that happened to the call, the earliest first, then what is to come.

    Args:
        call: the call.
        now: the simulated time.
        recording_delay: how long after the call its recording can be had.
    """

    def line(at: datetime, tone: Tone, text: str, note: str = "") -> Line:
        offset = (at - call.placed_at).total_seconds()
        return Line(at=at, offset=offset, tone=tone, text=text, note=note)

    lines = [line(call.placed_at, "plain", "placed: the caller's telephone rings")]
    lines += [line(entry.at, *_told(entry)) for entry in call.history if not _is_placing(entry)]
    ready, expires = ready_at(call, recording_delay), call.recording_expires_at
    if ready is not None and expires is not None:
        lines.append(line(ready, "good" if ready <= now else "coming", "the recording is ready"))
        lines.append(
            line(expires, "bad" if expires <= now else "coming", "the recording is deleted")
        )
    # What happened at the same time stays in the order in which it was written down.
    return sorted(lines, key=lambda one: one.at)


def _is_placing(entry: Entry) -> bool:
    return (
        isinstance(entry, Exchange)
        and entry.received.endpoint == "call"
        and entry.http_status is not None
    )


def _told(entry: Entry) -> tuple[Tone, str, str]:
    match entry:
        case Move(action=action, actor=Actor.PERSON):
            return "plain", action, "by hand"
        case Move(action=action):
            return "plain", action, ""
        case Withheld():
            return "bad", "the notification is not sent: a fault", ""
        case Attempt():
            return _notified(entry)
        case Exchange(http_status=None):
            return "bad", "the reply to call is lost: a fault", ""
        case _:
            return _asked(entry)


def _notified(attempt: Attempt) -> tuple[Tone, str, str]:
    what = "notification, by hand" if attempt.by_hand else "notification"
    elapsed = f"{attempt.elapsed * 1000:.0f} ms"
    if attempt.http_status is None:
        return "bad", what, f"{attempt.error}, {elapsed}"
    tone: Tone = "good" if is_taken(attempt) and attempt.elapsed < _SLOW else "bad"
    return tone, what, f"{attempt.http_status}, {elapsed}"


def _asked(exchange: Exchange) -> tuple[Tone, str, str]:
    what = {
        "call": "call",
        "endCall": "endCall",
        "record": "record: the recording's address is asked for",
        "recording": "the recording is fetched",
    }[exchange.received.endpoint]
    if exchange.error is not None:
        return "bad", what, exchange.error
    is_good = exchange.http_status is not None and exchange.http_status < 300  # noqa: PLR2004 - beyond are no successes
    return "good" if is_good else "bad", what, str(exchange.http_status)
