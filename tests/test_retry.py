"""How long to wait before the next attempt: pure functions, tried with tables and statistics."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmc_async.retry import back_off, parse_retry_after

NOW = 1693270226.0  # Tue, 29 Aug 2023 00:50:26 GMT


@pytest.mark.parametrize(
    ("attempts", "longest"),
    [(1, 0.25), (2, 0.5), (3, 1.0), (4, 2.0), (5, 4.0), (6, 8.0), (7, 8.0), (999, 8.0)],
)
def test_bounds(attempts: int, longest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest wait doubles from a quarter of a second, and stays at eight seconds."""
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", uniform)
    assert back_off(attempts, None) == longest
    assert asked == [(0, longest)]


def test_full_jitter() -> None:
    """Waits spread over the whole range, so that clients that failed together come back apart."""
    waits = [back_off(3, None) for _ in range(2000)]
    assert 0 <= min(waits) < 0.05
    assert 0.95 < max(waits) <= 1.0
    assert statistics.mean(waits) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("retry_after", [0.0, 0.5, 30.0, 1e8])
def test_retry_after_is_the_least(retry_after: float) -> None:
    """The wait is never shorter than the platform asked for, and jittered on top of it."""
    waits = {back_off(1, retry_after) for _ in range(50)}
    assert all(retry_after <= wait <= retry_after + 0.25 for wait in waits)
    assert len(waits) > 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("007", 7.0),
        # So many digits that `int` would refuse them: as long as nine digits can say.
        ("9" * 5000, 999_999_999.0),
        ("Tue, 29 Aug 2023 00:50:36 GMT", 10.0),
        ("Tuesday, 29-Aug-23 00:50:36 GMT", 10.0),
        ("Tue Aug 29 00:50:36 2023", 10.0),
        ("Tue, 29 Aug 2023 08:50:36 +0800", 10.0),
        ("Tue, 29 Aug 2023 00:50:36 -0000", 10.0),
        ("Tue, 29 Aug 2023 00:00:00 GMT", 0.0),
        ("", None),
        ("   ", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e3", None),
        ("٣", None),
        ("²", None),
        ("soon", None),
        ("inf", None),
        ("Tue, 31 Feb 2023 00:00:00 GMT", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2024 00:00:00 +9999999999999999999", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds and HTTP dates of all three forms are read; anything else counts as not given."""
    assert parse_retry_after(value, NOW) == seconds


@given(st.text() | st.from_regex(r"\w{3}, \d{1,30} \w{3} \d{1,30} \d{1,4}:\d\d:\d\d [+-]?\w*"))
def test_retry_after_takes_anything(value: str) -> None:
    """No header makes it raise, or wait for less than nothing."""
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0
