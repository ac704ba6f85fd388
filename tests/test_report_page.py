"""A report's page: read by a parser of the standard library, and laid out by a browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final

import pytest
from attrs import define, field

from qmc_async.models import BEIJING, CallState, Disconnected, LedgerEntry, Reason, RecordingResult
from qmc_async.report import STATES, Report, Tally, as_duration, as_percent
from qmc_async.report_page import page_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NUMBER = "13912345678"
NOW = datetime(2026, 2, 1, 2, 30, tzinfo=UTC)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title><h1>&amp;",
    "\u202eright to left",
    "\x00\x1b[2J\n",
    "x" * 60,
    f"call {NUMBER}",
    "原因",
)
VOID: Final = {"meta", "br", "img", "link", "input", "hr", "base"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def report_of(days: int = 31, calls: int = 400) -> Report:
    """A month in which much happened, and a platform that says things of its own."""
    tally = Tally(date(2026, 1, 31) - timedelta(days - 1), date(2026, 1, 31))
    end = datetime(2026, 1, 31, 21, 59, 59, tzinfo=BEIJING)
    reasons: list[Reason | str | None] = [*Reason, None, *HOSTILE]
    for n in range(calls):
        is_connected = n % 3 == 0
        time = end - timedelta(days=n % days, hours=n % 13)
        tally.add(
            [
                Disconnected(
                    call_id=f"call-{n}",
                    out_call_id=f"order-{n}",
                    end_time=time,
                    start_time=time if n % 2 else None,
                    answer_time=time if is_connected else None,
                    reason=reasons[n % len(reasons)],
                    call_duration=timedelta(seconds=n * 97 % 1800) if is_connected else None,
                    recording_result=RecordingResult.SUCCESS if n % 6 else RecordingResult.FAIL,
                )
            ]
        )
    for n, state in enumerate(CallState):
        tally.add_entries([entry_of(state, end)] * (n + 1))
    return tally.report()


def entry_of(state: CallState, placed_at: datetime) -> LedgerEntry:
    """A call of the ledger."""
    return LedgerEntry(
        out_call_id="order-0",
        call_id="call-0",
        caller=NUMBER,
        callee=NUMBER,
        state=state,
        placed_at=placed_at,
        changed_at=placed_at,
        error="it was refused",
    )


@define
class Page(HTMLParser):
    """What a browser would make of it: elements, attributes, tables and plots."""

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    open_tags: list[str] = field(factory=list[str])
    tags: list[tuple[str, Mapping[str, str]]] = field(factory=list[tuple[str, "Mapping[str, str]"]])
    tables: list[list[list[str]]] = field(factory=list[list[list[str]]])
    texts: list[tuple[str, str]] = field(factory=list[tuple[str, str]])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it, and where it stands in a table."""
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open_tags.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """Every element ends where it should."""
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note it under the element that it stands in."""
        self.texts.append((self.open_tags[-1] if self.open_tags else "", data))
        if {"td", "th"} & set(self.open_tags):
            self.tables[-1][-1][-1] += data


def parsed(text: str) -> Page:
    """The page, wholly read."""
    page = Page()
    page.feed(text)
    page.close()
    assert page.open_tags == []
    return page


@pytest.fixture(scope="module")
def report() -> Report:
    """A month in which much happened."""
    return report_of()


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    """Its page."""
    return page_of(report, NOW)


def test_nothing_is_fetched_and_nothing_is_run(text: str) -> None:
    """No element and no style names anything outside, and the policy forbids it besides."""
    page = parsed(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a"}
    attributes = {name for _, attributes in page.tags for name in attributes}
    assert not attributes & {"src", "href", "xlink:href", "action", "srcset", "data", "background"}
    assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|//", text)
    policies = [one["content"] for tag, one in page.tags if tag == "meta" and "http-equiv" in one]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]


def test_it_is_a_document_of_its_own(text: str) -> None:
    """A doctype, a language, a character set, a width, a title, and both colour schemes."""
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    page = parsed(text)
    metas = [attributes for tag, attributes in page.tags if tag == "meta"]
    assert metas[0] == {"charset": "utf-8"}
    named = {one["name"]: one["content"] for one in metas if "name" in one}
    assert named == {
        "viewport": "width=device-width, initial-scale=1",
        "color-scheme": "light dark",
    }
    assert ("title", "Calls from 2026-01-01 to 2026-01-31") in page.texts
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "Counted on 2026-02-01 at 10:30, Beijing." in text


def test_every_number_stands_in_a_table(text: str, report: Report) -> None:
    """What a plot shows can be read, by eyes and by a screen reader; so can the rest."""
    by_day, by_hour, reasons, states = parsed(text).tables
    counts = [row.count for row in report.rows()]
    for table, counted in ((by_day, counts), (by_hour, report.hours)):
        assert [row[1:] for row in table[1:]] == [
            [
                str(count.ended),
                str(count.picked_up),
                str(count.connected),
                as_percent(count.connected, count.ended) or "–",
                as_duration(count.talk),
            ]
            for count in counted
        ]
    assert [row[0] for row in by_day[1:3]] == ["01-01 Thu", "01-02 Fri"]
    assert [row[0] for row in by_hour[1:]] == [f"{hour:02}:00" for hour in range(24)]
    assert [int(row[1]) for row in reasons[1:]] == [calls for _, calls in report.reasons]
    assert {row[0]: int(row[1]) for row in states[1:]} == {
        state.capitalize(): calls for state, calls in report.ledger.items()
    }
    assert [row[2] for row in states[1:]] == list(STATES.values())


def test_the_figures(text: str, report: Report) -> None:
    """What matters most stands above, in words."""
    figures = [data for tag, data in parsed(text).texts if tag in {"dt", "dd"}]
    total, talk = report.total, report.talk
    assert talk is not None
    assert figures == [
        *("Calls", "400", "that ended"),
        *("Answer rate", "33.5 %", "134 of 400 connected"),
        *("Caller picked up", "66.8 %", f"{total.picked_up} of 400"),
        *("Callee picked up", "50.2 %", f"134 of {total.picked_up} rung"),
        *("Talk time", as_duration(talk.total), "in 134 calls"),
        *("Mean talk", as_duration(talk.mean), f"median {as_duration(talk.median)}"),
        *("Longest talk", as_duration(talk.longest), "in one call"),
        *("Recorded", str(report.recorded), f"{report.not_recorded} failed"),
    ]


def test_a_plot_is_as_high_as_its_numbers(text: str, report: Report) -> None:
    """Each column ends where the scale beside it says that its number is."""
    drawn = [
        (attributes["class"], float(attributes["height"]))
        for tag, attributes in parsed(text).tags
        if tag == "rect"
    ]
    plots: list[list[dict[str, float]]] = []
    columns = [index for index, (key, _) in enumerate(drawn) if key == "told"]
    whole = [
        dict(drawn[begin + 1 : end])
        for begin, end in zip(columns, [*columns[1:], len(drawn)], strict=True)
    ]
    days = [row.count for row in report.rows()]
    for length in (31, 31, 24, 24):
        plots.append(whole[:length])
        whole = whole[length:]
    assert not whole
    tops = [re.findall(r'<span style="top: 0%">([0-9,]+)', text)]
    assert tops == [["15", "100", "40", "100"]]
    for plot, counts, top in ((plots[0], days, 15), (plots[2], report.hours, 40)):
        assert [sum(column.values()) for column in plot] == [
            pytest.approx(100 * count.ended / top, abs=0.1) for count in counts
        ]
        assert [column["connected"] for column in plot] == [
            pytest.approx(100 * count.connected / top, abs=0.1) for count in counts
        ]
    for plot, counts in ((plots[1], days), (plots[3], report.hours)):
        assert [column["connected"] for column in plot] == [
            pytest.approx(100 * (count.answer_rate or 0), abs=0.1) for count in counts
        ]


def test_every_plot_has_a_name(text: str) -> None:
    """For those who do not see it, and, for each column, for those who point at it."""
    page = parsed(text)
    assert [one["role"] for tag, one in page.tags if tag == "svg"] == ["img"] * 4
    titles = [data for tag, data in page.texts if tag == "title"]
    assert [one for one in titles if "the numbers are in the table" in one] == [
        f"{what} by {part}: the numbers are in the table that follows"
        for part in ("day", "hour")
        for what in ("Calls", "Answer rate")
    ]
    assert "01-31 Sat: 13 calls, 5 connected" in titles
    assert "23:00: –" in titles


def test_strangers_text_is_only_text(text: str) -> None:
    """Whatever the platform gives as a reason is shown as it is, and does nothing."""
    cells = [row[0] for row in parsed(text).tables[2][1:]]
    assert {
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</style></title><h1>&amp;",
        "�right to left",
        "��[2J�",
        "x" * 60,
        "call 139****5678",
        "原因",
        "none given",
    } <= set(cells)
    assert text.count("<script") == text.count("<img") == 0
    assert text.count("<h1") == 1


def test_nobody_is_named(text: str) -> None:
    """No telephone numbers, no identifiers, and no errors of single calls."""
    for private in (NUMBER, "call-0", "order-0", "it was refused"):
        assert private not in text


def test_reasons_that_are_too_many() -> None:
    """They stand together, in the last line."""
    tally = Tally(date(2026, 1, 31), date(2026, 1, 31))
    end = datetime(2026, 1, 31, 9, tzinfo=BEIJING)
    tally.add(Disconnected(call_id="1", end_time=end, reason=f"R{n}") for n in range(23))
    page = page_of(tally.report(), NOW)
    [*_, last] = parsed(page).tables[2]
    assert last[:3] == ["all others", "3", "13.0 %"]
    # Nobody talked, and nothing was recorded, so that nothing is said of it.
    figures = [data for tag, data in parsed(page).texts if tag in {"dt", "dd"}]
    assert figures[::3] == ["Calls", "Answer rate", "Caller picked up", "Callee picked up"]
    assert figures[-2:] == ["–", "0 of 0 rung"]
    assert "The ledger" not in page


def test_a_period_without_calls() -> None:
    """It says so, instead of empty plots; what the ledger has is there all the same."""
    tally = Tally(date(2026, 1, 31), date(2026, 1, 31))
    page = page_of(tally.report(), NOW)
    assert "No call ended in this period." in page
    assert parsed(page).tables == []
    tally.add_entries([entry_of(CallState.MISSING, datetime(2026, 1, 31, tzinfo=BEIJING))])
    page = page_of(tally.report(), NOW)
    [states] = parsed(page).tables
    assert states[1][:2] == ["Missing", "1"]


@pytest.mark.parametrize(
    ("days", "label", "marks"),
    [
        (1, "01-31 Sat", ["01-31"]),
        (100, "01-26 to 01-31", ["10-24", "11-10", "12-01", "12-22", "01-12"]),
        (1000, "2026-01", ["2023-05", "2023-11", "2024-05", "2024-11", "2025-05", "2025-11"]),
        (3000, "2026", ["2017", "2019", "2021", "2023", "2025"]),
    ],
)
def test_longer_periods(days: int, label: str, marks: list[str]) -> None:
    """Weeks, months and years have fewer columns, and not so many marks that they touch."""
    page = page_of(report_of(days, 3 * days), NOW)
    assert parsed(page).tables[0][-1][0] == label
    [below, *_] = re.findall(r'class="marks">(.*?)</div>', page)
    assert re.findall(r">([^<]+)<", below) == marks


SCRIPT: Final = """
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, width = frame.clientWidth;
    page.querySelectorAll("details").forEach((one) => { one.open = true; });
    const outside = [...page.querySelectorAll("body *")].filter((one) => {
      const box = one.getBoundingClientRect();
      return (box.right > width + 0.5 || box.left < -0.5) && !one.closest(".wide *");
    });
    const wide = [...page.querySelectorAll(".wide")];
    return {
      width,
      scrolled: page.documentElement.scrollWidth,
      height: page.documentElement.scrollHeight,
      cut: wide.filter((one) => one.scrollWidth > one.clientWidth).length,
      outside: outside.map((one) => `${one.tagName} ${one.className} ${one.textContent}`),
    };
  });
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")
def test_a_browser_lays_it_out(tmp_path: Path) -> None:
    """On a telephone and on a desk nothing stands outside of the page, also where it is long."""
    pages = [page_of(report_of(days, 900), NOW) for days in (31, 180, 1800)]
    frames = [
        f'<iframe width="{width}" height="900" style="border:0" srcdoc="{html.escape(page)}">'
        "</iframe>"
        for page in pages
        for width in (400, 1280)
    ]
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(f"<!DOCTYPE html><script>{SCRIPT}</script>{''.join(frames)}", "utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(  # noqa: S603 - the browser, with a page of ours
        [
            CHROMIUM,
            *("--headless", "--disable-gpu", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update"),
            # A container allows no sandbox, and the page is ours.
            *("--no-sandbox", "--disable-dev-shm-usage"),
            f"--user-data-dir={tmp_path / 'profile'}",
            *("--dump-dom", wrapper.as_uri()),
        ],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result is not None, done.stderr[-2000:]
    laid_out = json.loads(html.unescape(result[1]))
    assert [one["width"] for one in laid_out] == [400, 1280] * len(pages)
    assert [one["cut"] for one in laid_out[:2]] == [0, 0], "a month's tables need no scrolling"
    for one in laid_out:
        assert one["scrolled"] <= one["width"]
        assert one["height"] > 900, "it was not laid out"
        assert one["outside"] == []
