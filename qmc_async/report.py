"""What the calls of a period come to: how many, how they ended, and how long was talked.

A call belongs to the day and to the hour in which it ended, in Beijing: a report always says when
that was, and when its telephones rang only sometimes (3.2). A call of the ledger, which may not
have ended, belongs to the day on which it was placed.

Nothing here grows with the number of calls, and nothing tells one of them from another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from enum import StrEnum
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import asdict, define, frozen

from qmc_async.models import BEIJING, CallState, Disconnected, Reason, RecordingResult
from qmc_async.numbers import mask_in_text

if TYPE_CHECKING:
    from qmc_async.models import LedgerEntry

__all__ = [
    "NO_REASON",
    "OTHER_REASONS",
    "STATES",
    "Count",
    "Part",
    "Report",
    "Row",
    "Talk",
    "Tally",
    "as_duration",
    "as_percent",
]


class Part(StrEnum):
    """Into what a period is parted."""

    DAY = "day"
    """Where it has no more than 31 days."""
    WEEK = "week"
    """From Monday on; where it is no longer than half a year."""
    MONTH = "month"
    """Where it is no longer than five years."""
    YEAR = "year"


STATES: Final[Mapping[CallState, str]] = {
    CallState.ENDED: "its notification has come",
    CallState.PLACED: "accepted; it is not known yet how it ended",
    CallState.PLACING: "perhaps placed: no answer was written down",
    CallState.UNKNOWN: "perhaps placed: the answer was lost",
    CallState.REFUSED: "not placed: no telephone rang",
    CallState.INFERRED: "no notification came, but a recording did: it was connected",
    CallState.MISSING: "no notification came, and nothing tells how it ended",
}
"""What the states of the ledger mean, in the order in which they are shown."""

NO_REASON: Final = "none given"
OTHER_REASONS: Final = "all others"
"""What stands for a reason where there is none to show."""

_MOST_UNKNOWN_REASONS: Final = 20
_LONGEST_REASON: Final = 60  # characters
_LONGEST_LOOKED_AT: Final = 1000  # characters, in which numbers are masked before it is cut
_DAY: Final = 86_400  # seconds
_LONGEST: Final[Mapping[Part, int]] = {Part.DAY: 31, Part.WEEK: 184, Part.MONTH: 5 * 366}  # days
_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@define
class Count:
    """Calls that ended, and how far they got.

    Attributes:
        ended: all of them.
        picked_up: those whose caller picked up.
        connected: those in which both parties were connected: the report has an ``answerTime``,
            or talk time.
        talk: how long they talked, all together.
    """

    ended: int = 0
    picked_up: int = 0
    connected: int = 0
    talk: timedelta = timedelta()

    @property
    def answer_rate(self) -> float | None:
        """The share of `connected` in `ended`, from 0 to 1; None where nothing ended."""
        return self.connected / self.ended if self.ended else None

    @property
    def reached(self) -> tuple[int, int, int]:
        """Calls that were connected; in which only the caller picked up; in which nobody did."""
        return self.connected, self.picked_up - self.connected, self.ended - self.picked_up

    @classmethod
    def sum(cls, counts: Iterable[Count]) -> Count:
        """All of them together."""
        total = cls()
        for count in counts:
            total.ended += count.ended
            total.picked_up += count.picked_up
            total.connected += count.connected
            total.talk += count.talk
        return total


@frozen(kw_only=True)
class Talk:
    """How long was talked in the calls that were connected and whose report says it.

    Attributes:
        calls: how many these are.
        total: all together.
        mean: of one call.
        median: half of the calls were no longer. What is longer than a day counts as whole days.
        longest: of one call.
    """

    calls: int
    total: timedelta
    mean: timedelta
    median: timedelta
    longest: timedelta


@frozen(kw_only=True)
class Row:
    """A part of the period.

    Attributes:
        first: its first day.
        last: its last day; both are in the period.
        label: what it is called, such as ``2026-01-31 Sat`` or ``2026-01``.
        count: the calls that ended in it.
    """

    first: date
    last: date
    label: str
    count: Count


@frozen(kw_only=True)
class Report:
    """What the calls of a period come to.

    Attributes:
        since: its first day, in Beijing.
        until: its last day.
        total: all calls that ended in it.
        days: the same by day; a day on which none ended is left out.
        hours: the same by hour of the day, from 0 to 23.
        reasons: why they ended, the most frequent first, each with its number of calls. None
            stands for a report without one. What the document does not have is as the platform
            wrote it, with telephone numbers masked, and cut to 60 characters.
        other_reasons: calls that ended for further reasons that the document does not have: only
            20 of them are told apart.
        recorded: calls that have a recording.
        not_recorded: calls whose recording failed.
        talk: see `Talk`; None where nobody talked.
        ledger: how many calls were placed in the period, by what the ledger knows of them now;
            empty where it has none.
    """

    since: date
    until: date
    total: Count
    days: Mapping[date, Count]
    hours: Sequence[Count]
    reasons: Sequence[tuple[Reason | str | None, int]]
    other_reasons: int
    recorded: int
    not_recorded: int
    talk: Talk | None
    ledger: Mapping[CallState, int]

    @property
    def part(self) -> Part:
        """Into what `rows` parts the period."""
        length = (self.until - min(self.days, default=self.until)).days + 1
        return next((part for part, longest in _LONGEST.items() if length <= longest), Part.YEAR)

    def rows(self) -> list[Row]:
        """The period from the first day on which a call ended, in parts that are not many."""
        if not self.days:
            return []
        first, part = min(self.days), self.part
        days = (first + timedelta(n) for n in range((self.until - first).days + 1))
        rows: list[Row] = []
        for _, group in groupby(days, lambda day: _start(day, part)):
            among = list(group)
            count = Count.sum(self.days[day] for day in among if day in self.days)
            label = _label(among[0], among[-1], part)
            rows.append(Row(first=among[0], last=among[-1], label=label, count=count))
        return rows

    def to_json(self) -> str:
        """One line. Durations are in seconds."""
        record = asdict(self, value_serializer=_plain) | {
            "answer_rate": self.total.answer_rate,
            "reasons": [{"reason": reason, "calls": calls} for reason, calls in self.reasons],
        }
        return orjson.dumps(record, option=orjson.OPT_NON_STR_KEYS).decode()


def _start(day: date, part: Part) -> date:
    """The first day of the part that a day is in."""
    match part:
        case Part.DAY:
            return day
        case Part.WEEK:
            return day - timedelta(day.weekday())
        case Part.MONTH:
            return day.replace(day=1)
        case _:
            return day.replace(month=1, day=1)


def _label(first: date, last: date, part: Part) -> str:
    match part:
        case Part.DAY:
            return f"{first} {_WEEKDAYS[first.weekday()]}"
        case Part.WEEK:
            return f"{first} to {last.isoformat()[5:]}"
        case Part.MONTH:
            return first.isoformat()[:7]
        case _:
            return first.isoformat()[:4]


class Tally:
    """Counts, and then makes the report.

    Args:
        since: the first day of the period, in Beijing.
        until: its last day.
    """

    def __init__(self, since: date, until: date) -> None:
        self._since, self._until = since, until
        self._cells: dict[tuple[date, int], Count] = {}
        self._reasons: Counter[str | None] = Counter()
        self._unknown_reasons: Counter[str] = Counter()
        self._other_reasons = 0
        self._recorded = self._not_recorded = 0
        self._talks: Counter[int] = Counter()
        self._longest = timedelta()
        self._ledger: Counter[CallState] = Counter()

    def add(self, events: Iterable[Disconnected]) -> None:
        """Count reports of calls' ends; those of other days are left out."""
        for event in events:
            end = event.end_time.astimezone(BEIJING)
            day = end.date()
            if self._since <= day <= self._until:
                self._add(event, self._cells.setdefault((day, end.hour), Count()))

    def _add(self, event: Disconnected, cell: Count) -> None:
        talk = event.call_duration
        is_connected = event.answer_time is not None or bool(talk)
        cell.ended += 1
        cell.picked_up += is_connected or event.start_time is not None
        if is_connected:
            cell.connected += 1
            if talk is not None:
                cell.talk += talk
                self._longest = max(self._longest, talk)
                self._talks[_coarse(int(talk.total_seconds()))] += 1
        self._recorded += event.recording_result == RecordingResult.SUCCESS
        self._not_recorded += event.recording_result == RecordingResult.FAIL
        self._add_reason(event.reason)

    def _add_reason(self, reason: Reason | str | None) -> None:
        if reason is None or isinstance(reason, Reason):
            self._reasons[reason] += 1
            return
        text = mask_in_text(reason[:_LONGEST_LOOKED_AT])
        if len(text) > _LONGEST_REASON:
            text = f"{text[: _LONGEST_REASON - 3]}..."
        if text in self._unknown_reasons or len(self._unknown_reasons) < _MOST_UNKNOWN_REASONS:
            self._unknown_reasons[text] += 1
        else:
            self._other_reasons += 1

    def add_entries(self, entries: Iterable[LedgerEntry]) -> None:
        """Count calls of the ledger; those that were placed on other days are left out."""
        self._ledger.update(
            entry.state
            for entry in entries
            if self._since <= entry.placed_at.astimezone(BEIJING).date() <= self._until
        )

    def report(self) -> Report:
        """What has been counted so far."""
        days: dict[date, list[Count]] = {}
        hours: list[list[Count]] = [[] for _ in range(24)]
        for (day, hour), count in sorted(self._cells.items(), key=lambda cell: cell[0]):
            days.setdefault(day, []).append(count)
            hours[hour].append(count)
        total = Count.sum(self._cells.values())
        reasons = [*self._reasons.items(), *self._unknown_reasons.items()]
        return Report(
            since=self._since,
            until=self._until,
            total=total,
            days={day: Count.sum(counts) for day, counts in days.items()},
            hours=[Count.sum(counts) for counts in hours],
            reasons=sorted(reasons, key=lambda one: (-one[1], one[0] or "")),
            other_reasons=self._other_reasons,
            recorded=self._recorded,
            not_recorded=self._not_recorded,
            talk=self._talk(total.talk),
            ledger={state: self._ledger[state] for state in STATES if self._ledger[state]},
        )

    def _talk(self, total: timedelta) -> Talk | None:
        calls = self._talks.total()
        if not calls:
            return None
        lengths = sorted(self._talks)
        until = list(accumulate(self._talks[length] for length in lengths))
        lower, upper = (
            lengths[bisect_right(until, place)] for place in ((calls - 1) // 2, calls // 2)
        )
        return Talk(
            calls=calls,
            total=total,
            mean=total / calls,
            median=timedelta(seconds=(lower + upper) / 2),
            longest=self._longest,
        )


def _coarse(seconds: int) -> int:
    # Whatever the platform sends, there are not many different ones.
    return seconds if seconds <= _DAY else seconds // _DAY * _DAY


def _plain(_: object, __: object, value: Any) -> Any:  # noqa: ANN401 - as attrs has it
    return value.total_seconds() if isinstance(value, timedelta) else value


def as_duration(duration: timedelta) -> str:
    """A duration for people, to the second.

    >>> as_duration(timedelta(seconds=12)), as_duration(timedelta(days=2, seconds=3723))
    ('0:12', '49:02:03')
    """
    minutes, seconds = divmod(round(duration.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def as_percent(part: int, whole: int) -> str:
    """A share for people; nothing where there is no whole.

    >>> as_percent(2, 3), as_percent(0, 0)
    ('66.7 %', '')
    """
    return f"{part / whole:.1%}".replace("%", " %") if whole else ""
