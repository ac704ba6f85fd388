"""A report's numbers, held against numbers that were counted another way."""

from __future__ import annotations

import json
import statistics
import tracemalloc
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmc_async.models import BEIJING, CallState, Disconnected, LedgerEntry, Reason, RecordingResult
from qmc_async.report import STATES, Count, Part, Report, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SINCE, UNTIL = date(2026, 1, 30), date(2026, 2, 2)
MIDNIGHT = datetime(2026, 1, 29, 16, tzinfo=UTC)
"""As 30 January begins in Beijing."""
NUMBER = "13912345678"

moments = st.integers(-86_400, 5 * 86_400).map(
    lambda seconds: MIDNIGHT + timedelta(seconds=seconds)
)
calls = st.builds(
    Disconnected,
    call_id=st.just("1"),
    end_time=st.builds(
        datetime.astimezone,
        moments,
        st.sampled_from([UTC, BEIJING, timezone(timedelta(hours=-11))]),
    ),
    start_time=st.none() | st.just(MIDNIGHT),
    answer_time=st.none() | st.just(MIDNIGHT),
    reason=st.none() | st.sampled_from([*Reason, "Strange", "stranger"]),
    call_duration=st.none() | st.integers(0, 7200).map(lambda seconds: timedelta(seconds=seconds)),
    recording_result=st.none() | st.sampled_from([*RecordingResult, "perhaps"]),
)


def ended(end: datetime = MIDNIGHT, **fields: Any) -> Disconnected:  # noqa: ANN401 - as the model takes them
    """A call's end, by default in the first second of the period."""
    return Disconnected(call_id="1", end_time=end, **fields)


def report_of(*events: Disconnected, since: date = SINCE, until: date = UNTIL) -> Report:
    """Count them."""
    tally = Tally(since, until)
    tally.add(events)
    return tally.report()


def place_of(event: Disconnected) -> tuple[int, int]:
    """The day since 30 January, and the hour, in Beijing: by counting seconds."""
    seconds = int((event.end_time - MIDNIGHT).total_seconds())
    return seconds // 86_400, seconds % 86_400 // 3600


def count_of(events: Sequence[Disconnected]) -> Count:
    """Count them all, one question after the other."""
    connected = [one for one in events if one.answer_time or one.call_duration]
    rung = [one for one in events if one.start_time or one in connected]
    talks = [one.call_duration for one in connected if one.call_duration is not None]
    return Count(len(events), len(rung), len(connected), sum(talks, timedelta()))


@given(st.lists(calls, max_size=60))
def test_every_number_is_what_counting_by_hand_gives(events: list[Disconnected]) -> None:
    """By day, by hour, by reason and in all, for reports of calls' ends of any kind."""
    report = report_of(*events)
    within = [one for one in events if 0 <= place_of(one)[0] < 4]
    assert report.total == count_of(within)
    for number in range(4):
        on_it = [one for one in within if place_of(one)[0] == number]
        day = SINCE + timedelta(number)
        assert report.days.get(day, Count()) == count_of(on_it)
        assert (day in report.days) is bool(on_it)
    for hour in range(24):
        assert report.hours[hour] == count_of([one for one in within if place_of(one)[1] == hour])
    assert dict(report.reasons) == Counter(one.reason for one in within)
    frequencies = [calls for _, calls in report.reasons]
    assert frequencies == sorted(frequencies, reverse=True)
    results = [one.recording_result for one in within]
    assert (report.recorded, report.not_recorded) == (
        results.count("success"),
        results.count("fail"),
    )


@given(st.lists(st.integers(0, 86_400), min_size=1, max_size=40))
def test_talk_time_is_what_the_statistics_module_says(seconds: list[int]) -> None:
    """Total, mean, median and longest of the calls that were connected."""
    answered = [
        ended(answer_time=MIDNIGHT, call_duration=timedelta(seconds=one)) for one in seconds
    ]
    talk = report_of(*answered, ended(call_duration=timedelta()), ended(answer_time=MIDNIGHT)).talk
    assert talk is not None
    assert talk.calls == len(seconds)
    assert talk.total == timedelta(seconds=sum(seconds))
    assert talk.mean.total_seconds() == pytest.approx(statistics.mean(seconds), abs=1e-6)
    assert talk.median.total_seconds() == statistics.median(seconds)
    assert talk.longest == timedelta(seconds=max(seconds))


def test_nobody_talked() -> None:
    """Where no call was connected there is no talk time, and no mean of nothing."""
    report = report_of(ended(reason=Reason.CALLEE_BUSY, call_duration=timedelta()))
    assert report.talk is None
    assert report.total == Count(ended=1)
    assert report.total.answer_rate == 0


def test_an_empty_period() -> None:
    """Nothing is nothing: no rate, no rows, no reasons."""
    report = report_of(since=UNTIL)
    assert report.total == Count()
    assert report.total.answer_rate is None
    assert (report.rows(), report.reasons, report.days, report.ledger) == ([], [], {}, {})
    assert report.part is Part.DAY


@pytest.mark.parametrize(
    ("fields", "reached"),
    [
        ({}, (0, 0, 1)),
        ({"call_duration": timedelta()}, (0, 0, 1)),
        ({"start_time": MIDNIGHT}, (0, 1, 0)),
        ({"start_time": MIDNIGHT, "answer_time": MIDNIGHT}, (1, 0, 0)),
        ({"answer_time": MIDNIGHT}, (1, 0, 0)),
        ({"call_duration": timedelta(seconds=1)}, (1, 0, 0)),
        ({"reason": Reason.HANG_UP}, (0, 0, 1)),
    ],
)
def test_how_far_a_call_got(fields: dict[str, Any], reached: tuple[int, int, int]) -> None:
    """Whoever was connected has picked up, also where the platform left out when."""
    assert report_of(ended(**fields)).total.reached == reached


@pytest.mark.parametrize(
    ("offset", "is_in"),
    [(-1, False), (0, True), (4 * 86_400 - 1, True), (4 * 86_400, False)],
)
def test_days_begin_at_midnight_in_beijing(offset: int, is_in: bool) -> None:  # noqa: FBT001 - a parameter of a test
    """Both days of a period belong to it, from their first second to their last."""
    event = ended(MIDNIGHT + timedelta(seconds=offset))
    assert bool(report_of(event).total.ended) is is_in
    entry = entry_at(event.end_time, CallState.PLACED)
    tally = Tally(SINCE, UNTIL)
    tally.add_entries([entry])
    assert dict(tally.report().ledger) == ({CallState.PLACED: 1} if is_in else {})


def entry_at(placed_at: datetime, state: CallState) -> LedgerEntry:
    """A call of the ledger."""
    return LedgerEntry(
        out_call_id="order-1",
        call_id=None,
        caller=NUMBER,
        callee=NUMBER,
        state=state,
        placed_at=placed_at,
        changed_at=MIDNIGHT,
    )


@given(st.lists(st.sampled_from(CallState)))
def test_the_ledger_by_state(states: list[CallState]) -> None:
    """Each state with its number of calls, and only those that some call is in."""
    tally = Tally(SINCE, UNTIL)
    tally.add_entries(entry_at(MIDNIGHT, state) for state in states)
    assert dict(tally.report().ledger) == Counter(states)


def test_every_state_has_a_meaning() -> None:
    """A state that is new to the ledger must be explained as well."""
    assert set(STATES) == set(CallState)


@pytest.mark.parametrize(
    ("days", "part", "first", "last"),
    [
        (1, Part.DAY, "2026-01-15 Thu", "2026-01-15 Thu"),
        (31, Part.DAY, "2026-01-15 Thu", "2026-02-14 Sat"),
        (32, Part.WEEK, "2026-01-15 to 01-18", "2026-02-09 to 02-15"),
        (184, Part.WEEK, "2026-01-15 to 01-18", "2026-07-13 to 07-17"),
        (185, Part.MONTH, "2026-01", "2026-07"),
        (1830, Part.MONTH, "2026-01", "2031-01"),
        (1831, Part.YEAR, "2026", "2031"),
    ],
)
def test_rows_are_not_many(days: int, part: Part, first: str, last: str) -> None:
    """A longer period has larger parts, which follow each other without a gap, and lose no call."""
    begin = date(2026, 1, 15)
    until = begin + timedelta(days - 1)
    midnight = datetime(2026, 1, 15, tzinfo=BEIJING)
    events = [ended(midnight + timedelta(n)) for n in range(0, days, 5)]
    report = report_of(*events, since=date(2020, 1, 1), until=until)
    rows = report.rows()
    assert (report.part, rows[0].label, rows[-1].label) == (part, first, last)
    assert len(rows) <= 61
    assert (rows[0].first, rows[-1].last) == (begin, until)
    for row, following in pairwise(rows):
        assert following.first == row.last + timedelta(1)
    for row in rows:
        on_them = [one for one in events if row.first <= one.end_time.date() <= row.last]
        assert row.count == count_of(on_them)


def test_rows_begin_with_the_first_call() -> None:
    """Empty days before it would fill the page; those after it may mean that nothing arrives."""
    event = ended(datetime(2026, 1, 30, 12, tzinfo=BEIJING))
    rows = report_of(event, since=date(1970, 1, 1)).rows()
    assert [row.count.ended for row in rows] == [1, 0, 0, 0]


def test_reasons_of_the_platforms_own() -> None:
    """They stand as they came, but masked and cut; twenty are told apart, and none is lost."""
    long = f"{NUMBER} " + "x" * 5000
    events = [ended(reason=reason) for reason in (long, long, None, *map(str, range(30)))]
    report = report_of(*events)
    assert report.reasons[0] == (f"139****5678 {'x' * 45}...", 2)
    assert (None, 1) in report.reasons
    assert len(report.reasons) == 21
    assert report.other_reasons == 11
    assert sum(calls for _, calls in report.reasons) + report.other_reasons == len(events)


def hostile(number: int) -> Iterator[Disconnected]:
    """Calls of which none is like another, as a broken platform might report them."""
    for n in range(number):
        yield ended(
            MIDNIGHT + timedelta(seconds=n % 86_400),
            reason=f"{n}" * 50,
            call_duration=timedelta(seconds=86_400 + n * 49_999),
            recording_result=f"{n}",
        )


def test_memory_does_not_grow_with_the_calls() -> None:
    """Nothing of a call is kept but what it adds to."""
    tally = Tally(SINCE, UNTIL)
    tally.add(hostile(1000))
    tracemalloc.start()
    try:
        tally.add(hostile(20_000))
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Days are told apart among talks that are longer than one: 11,574 of them at most.
    assert grown < 20_000 * 100


def test_a_talk_of_days() -> None:
    """Its length is exact in the total and as the longest; the median is a day short at most."""
    length = timedelta(days=3, seconds=5)
    talk = report_of(ended(call_duration=length)).talk
    assert talk is not None
    assert (talk.total, talk.longest) == (length, length)
    assert talk.median == timedelta(days=3)


def test_json_is_read_by_others() -> None:
    """One line with all of it; durations are seconds, days are dates, and a rate is there."""
    talk: dict[str, Any] = {"answer_time": MIDNIGHT, "call_duration": timedelta(seconds=61)}
    tally = Tally(SINCE, UNTIL)
    tally.add([ended(reason=Reason.HANG_UP, **talk), ended(reason="null"), ended()])
    tally.add_entries([entry_at(MIDNIGHT, CallState.MISSING)])
    line = tally.report().to_json()
    assert "\n" not in line
    read = json.loads(line)
    count = {"ended": 3, "picked_up": 1, "connected": 1, "talk": 61.0}
    nothing = {"ended": 0, "picked_up": 0, "connected": 0, "talk": 0.0}
    assert read == {
        "since": "2026-01-30",
        "until": "2026-02-02",
        "total": count,
        "answer_rate": pytest.approx(1 / 3),
        "days": {"2026-01-30": count},
        "hours": [count, *[nothing] * 23],
        "reasons": [
            {"reason": None, "calls": 1},
            {"reason": "HangUp", "calls": 1},
            {"reason": "null", "calls": 1},
        ],
        "other_reasons": 0,
        "recorded": 0,
        "not_recorded": 0,
        "talk": {"calls": 1, "total": 61.0, "mean": 61.0, "median": 61.0, "longest": 61.0},
        "ledger": {"missing": 1},
    }
