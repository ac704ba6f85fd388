"""A report as one HTML page that needs nothing else: no script, no request, no file beside it.

It is a tree that the standard library writes out, so that nothing can be left unescaped; and its
policy forbids a browser whatever it should not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from math import ceil
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, tostring

from attrs import frozen

from qmc_async.models import BEIJING
from qmc_async.report import (
    NO_REASON,
    OTHER_REASONS,
    STATES,
    Count,
    Part,
    Report,
    as_duration,
    as_percent,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

__all__ = ["page_of"]

_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_KEYS: Final = {
    "connected": "connected",
    "callee": "callee not reached",
    "caller": "caller not reached",
}
"""What the parts of a column mean, from below, by how they are styled."""

_MOST_MARKS: Final = 6  # below a plot; it has room for as many columns, where there are fewer
_MOST_LINES: Final = 4


@frozen
class _Column:
    """One of a plot: what stands below it, what a pointer is told, and its parts from below."""

    mark: str
    told: str
    parts: Sequence[tuple[str, float]]


def page_of(report: Report, made_at: datetime) -> str:
    """Write a report as HTML, for a browser, a telephone or paper.

    It holds no identifiers, and no telephone numbers; what the platform wrote is escaped.

    Args:
        report: the numbers.
        made_at: when they were counted; an aware time.
    """
    title = f"Calls from {report.since} to {report.until}"
    page = _tag(
        "html",
        _tag(
            "head",
            _tag("meta", charset="utf-8"),
            _tag("meta", {"http-equiv": "Content-Security-Policy"}, content=_POLICY),
            _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            _tag("meta", name="color-scheme", content="light dark"),
            _tag("title", title),
            _tag("style", files("qmc_async").joinpath("report_page.css").read_text("utf-8")),
        ),
        _tag(
            "body",
            _tag(
                "header",
                _tag("h1", title),
                _tag(
                    "p", "A call belongs to the day and to the hour in which it ended, in Beijing."
                ),
            ),
            _tag("main", *_sections(report)),
            _tag("footer", f"Counted on {made_at.astimezone(BEIJING):%Y-%m-%d at %H:%M}, Beijing."),
        ),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{tostring(page, encoding='unicode', method='html')}\n"


def _sections(report: Report) -> list[Element]:
    sections = [_tag("p", {"class": "nothing"}, "No call ended in this period.")]
    if report.total.ended:
        sections = [_figures(report), _by_part(report), _by_hour(report), _by_reason(report)]
    return [*sections, _ledger(report)] if report.ledger else sections


def _figures(report: Report) -> Element:
    total, talk = report.total, report.talk
    figures = [
        ("Calls", f"{total.ended:,}", "that ended"),
        (
            "Answer rate",
            as_percent(total.connected, total.ended),
            f"{total.connected:,} of {total.ended:,} connected",
        ),
        (
            "Caller picked up",
            as_percent(total.picked_up, total.ended),
            f"{total.picked_up:,} of {total.ended:,}",
        ),
        (
            "Callee picked up",
            as_percent(total.connected, total.picked_up) or "–",
            f"{total.connected:,} of {total.picked_up:,} rung",
        ),
    ]
    if talk is not None:
        figures += [
            ("Talk time", as_duration(talk.total), f"in {talk.calls:,} calls"),
            ("Mean talk", as_duration(talk.mean), f"median {as_duration(talk.median)}"),
            ("Longest talk", as_duration(talk.longest), "in one call"),
        ]
    if report.recorded or report.not_recorded:
        figures.append(("Recorded", f"{report.recorded:,}", f"{report.not_recorded:,} failed"))
    tiles = [
        _tag("div", _tag("dt", name), _tag("dd", figure), _tag("dd", {"class": "note"}, note))
        for name, figure, note in figures
    ]
    return _tag("dl", {"class": "figures"}, *tiles)


def _by_part(report: Report) -> Element:
    # The year stands above, and a telephone is narrow.
    first = len("2026-") if report.part in (Part.DAY, Part.WEEK) else 0
    counted = [(row.label[first:], row.count) for row in report.rows()]
    return _section(f"By {report.part}", *_counts(report.part, counted))


def _by_hour(report: Report) -> Element:
    counted = [(f"{hour:02}:00", count) for hour, count in enumerate(report.hours)]
    return _section("By hour of the day", *_counts("hour", counted))


def _counts(what: str, counted: Sequence[tuple[str, Count]]) -> list[Element]:
    calls: list[_Column] = []
    rates: list[_Column] = []
    rows: list[list[str]] = []
    for label, count in counted:
        mark = label.partition(" ")[0]
        rate = as_percent(count.connected, count.ended) or "–"
        told = f"{label}: {count.ended:,} calls, {count.connected:,} connected"
        calls.append(_Column(mark, told, list(zip(_KEYS, count.reached, strict=True))))
        share = 100 * (count.answer_rate or 0)
        rates.append(_Column(mark, f"{label}: {rate}", [("connected", share)]))
        numbers = (f"{number:,}" for number in (count.ended, count.picked_up, count.connected))
        rows.append([label, *numbers, rate, as_duration(count.talk)])
    keys = (_tag("span", {"class": key}, meaning) for key, meaning in _KEYS.items())
    plots = (
        _plot("Calls", what, calls, _lines(counted), "", _tag("p", {"class": "keys"}, *keys)),
        _plot("Answer rate", what, rates, range(0, 101, 25), " %"),
    )
    headings = (what.capitalize(), "Calls", "Picked up", "Connected", "Rate", "Talk")
    return [
        _tag("div", {"class": "plots"}, *plots),
        _tag("details", _tag("summary", "The numbers"), _table("counts", headings, rows)),
    ]


def _lines(counted: Sequence[tuple[str, Count]]) -> range:
    """At which numbers of calls a plot has lines: a few, such as 0, 20, 40, 60."""
    most = max(count.ended for _, count in counted)
    steps = (digit * 10**zeros for zeros in range(20) for digit in (1, 2, 5))
    step = next(step for step in steps if most <= step * _MOST_LINES)
    return range(0, ceil(most / step) * step + 1, step)


def _plot(
    title: str, what: str, columns: Sequence[_Column], lines: range, unit: str, *keys: Element
) -> Element:
    """Columns, which stretch with the page; the letters beside them do not."""
    width, top = max(len(columns), _MOST_MARKS), lines[-1]
    levels = {f"{line:,}{unit}": f"{100 - 100 * line / top:.4g}" for line in lines}
    every = ceil(width / _MOST_MARKS)
    marks = {place: columns[place].mark for place in range(0, len(columns), every)}
    scale = [_tag("span", name, style=f"top: {level}%") for name, level in levels.items()]
    below = [
        _tag("span", mark, style=f"left: {100 * (place + 0.5) / width:.4g}%")
        for place, mark in marks.items()
    ]
    drawing = _tag(
        "svg",
        _tag("title", f"{title} by {what}: the numbers are in the table that follows"),
        *(_tag("line", x1="0", x2=f"{width}", y1=level, y2=level) for level in levels.values()),
        *(_drawn(place, column, top) for place, column in enumerate(columns)),
        role="img",
        viewBox=f"0 0 {width} 100",
        preserveAspectRatio="none",
    )
    return _tag(
        "figure",
        _tag("figcaption", title),
        *keys,
        _tag(
            "div",
            {"class": "plot"},
            _tag("div", {"aria-hidden": "true", "class": "scale"}, *scale),
            drawing,
            _tag("div", {"aria-hidden": "true", "class": "marks"}, *below),
        ),
    )


def _drawn(place: int, column: _Column, top: int) -> Element:
    drawn = _tag("g", _tag("title", column.told), _rectangle("told", place, 0, 100))
    level = 100.0
    for key, value in column.parts:
        height = 100 * value / top
        level -= height
        drawn.append(_rectangle(key, place, level, height))
    return drawn


def _rectangle(key: str, place: int, level: float, height: float) -> Element:
    return _tag(
        "rect",
        {"class": key},
        x=f"{place + 0.1:.4g}",
        y=f"{level:.4g}",
        width="0.8",
        height=f"{height:.4g}",
    )


def _by_reason(report: Report) -> Element:
    reasons = [
        *((NO_REASON if reason is None else reason, calls) for reason, calls in report.reasons),
        *([(OTHER_REASONS, report.other_reasons)] if report.other_reasons else []),
    ]
    most = max(calls for _, calls in reasons)
    rows: list[list[Element | str]] = [
        [
            "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in reason),
            f"{calls:,}",
            as_percent(calls, report.total.ended),
            _tag("div", {"class": "bar"}, style=f"width: {100 * calls / most:.4g}%"),
        ]
        for reason, calls in reasons
    ]
    return _section("Why they ended", _table("reasons", ("Reason", "Calls", "Share", ""), rows))


def _ledger(report: Report) -> Element:
    rows = [
        [state.capitalize(), f"{calls:,}", STATES[state]] for state, calls in report.ledger.items()
    ]
    return _section(
        "The ledger",
        _tag("p", "Calls that were placed in this period, and what is known of them now."),
        _table("states", ("State", "Calls", "Meaning"), rows),
    )


def _section(title: str, *children: Element) -> Element:
    return _tag("section", _tag("h2", title), *children)


def _table(key: str, headings: Sequence[str], rows: Iterable[Sequence[Element | str]]) -> Element:
    head = _tag("tr", *(_tag("th", heading, scope="col") for heading in headings))
    body = (
        # Whoever writes a reason from right to left turns only that.
        _tag(
            "tr",
            _tag("th", _tag("bdi", row[0]), scope="row"),
            *(_tag("td", one) for one in row[1:]),
        )
        for row in rows
    )
    table = _tag("table", {"class": key}, _tag("thead", head), _tag("tbody", *body))
    return _tag("div", {"class": "wide"}, table, tabindex="0")


def _tag(name: str, /, *children: Element | str | dict[str, str], **attributes: str) -> Element:
    tag = Element(name, attributes)
    for child in children:
        if isinstance(child, dict):
            tag.attrib.update(child)
        elif isinstance(child, str):
            tag.text = child
        else:
            tag.append(child)
    return tag
