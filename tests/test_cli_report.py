"""`qmc report`: what the calls of a period come to, in a terminal, as JSON and as a page."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import shlex
import stat
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click
import pytest
from callback_peer import body_of, select_in, url_in
from click.testing import CliRunner, Result
from conformance import replica
from events_store import COLOURS
from rich.text import Text
from store_support import never_late, put_of, store_in

from qmc_async.cli import cli
from qmc_async.cli.report import report
from qmc_async.models import BEIJING, CallState
from qmc_async.store.ledger import Opening, Settlement

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from database_servers import TestDatabase

    from qmc_async.store import Store

NUMBER = "13912345678"
TALK = {
    "reason": "HangUp",
    "startTime": "2026-01-31 23:00:00",
    "answerTime": "2026-01-31 23:00:10",
    "recordingResult": "success",
}
BODIES = (
    body_of("1", **TALK, endTime="2026-01-30 00:00:00", callDuration="60"),
    body_of("2", **TALK, endTime="2026-01-30 23:59:59", callDuration="3600"),
    body_of("3", **TALK | {"recordingResult": "fail"}, endTime="2026-01-31 09:30:00"),
    body_of("4", reason="CalleeBusy", endTime="2026-01-31 09:00:00", startTime=TALK["startTime"]),
    body_of("5", reason="CallerBusy", endTime="2026-01-31 09:00:00", callDuration="0"),
    body_of("5", reason="Other", endTime="2026-01-31 09:00:00"),  # a conflict, which is no call
    body_of("6", status="Ringing"),
    b"?",
    # Not in the period:
    body_of("7", endTime="2026-01-29 23:59:59"),
    body_of("8", endTime="2026-02-01 00:00:00"),
)
PERIOD = ("--since", "2026-01-30", "--until", "2026-01-31")
PLAIN = """\
calls that ended from 2026-01-30 to 2026-01-31, Beijing time

ended            5
caller picked up 4 (80.0 %)
connected        3 (60.0 %), 75.0 % of those picked up
recorded         2, and 1 failed
talk             1:01:00 in 2 calls
talk of a call   mean 30:30, median 30:30, longest 1:00:00

day             calls  picked up  connected     rate     talk
2026-01-30 Fri      2          2          2  100.0 %  1:01:00
2026-01-31 Sat      3          2          1   33.3 %     0:00
"""
REASONS = """\
reason      calls   share
HangUp          3  60.0 %
CalleeBusy      1  20.0 %
CallerBusy      1  20.0 %
"""


def qmc(folder: Path, *words: str, columns: int = 0, charset: str = "utf-8") -> Result:
    """Run `qmc report` on the store in a folder; on a terminal of so many columns, if any."""
    terminal = {**COLOURS, "COLUMNS": str(columns)} if columns else {}
    runner = CliRunner(env={"QMC_STORE": url_in(folder), **terminal}, charset=charset)
    return runner.invoke(cli, ["report", *words])


async def keep(store: Store, *bodies: bytes) -> None:
    """Keep notifications."""
    await asyncio.gather(*(store.keep(put_of(body, {}), never_late) for body in bodies))


async def place(store: Store, ours: str, state: CallState = CallState.PLACED) -> None:
    """Write a call down in the ledger."""
    opening = Opening(
        token=ours.rjust(32, "0"),
        out_call_id=ours,
        caller="139****5678",
        callee="139****5678",
        again=False,
        missing_after=60_000,
    )
    assert await store.open_entry(opening) is None
    await store.settle_entry(Settlement(opening=opening, state=state, error="no such number"))


def fill(folder: Path, *bodies: bytes, calls: Sequence[tuple[str, CallState]] = ()) -> None:
    """Make a store with these in it."""

    async def make() -> None:
        async with store_in(folder) as store:
            for body in bodies:
                await keep(store, body)
            for ours, state in calls:
                await place(store, ours, state)

    asyncio.run(make())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a store is, with two days of calls, and other things."""
    folder = tmp_path / "store"
    folder.mkdir()
    fill(folder, *BODIES)
    return folder


def plain(result: Result) -> str:
    """What a terminal shows, without colours and trailing spaces."""
    lines = Text.from_ansi(result.stdout).plain.splitlines()
    return "\n".join(line.rstrip() for line in lines)


def test_in_a_pipe(folder: Path) -> None:
    """All in words and plain columns: in all, by day, by hour and by reason."""
    result = qmc(folder, *PERIOD)
    assert (result.exit_code, result.stderr) == (0, "")
    days, hours, reasons = result.stdout.replace(PLAIN, "days\n").split("\n\n")
    assert days == "days"
    heading, *rows = [line.split() for line in hours.splitlines()]
    assert heading == ["hour", "calls", "picked", "up", "connected", "rate", "talk"]
    assert [row[0] for row in rows] == [f"{hour:02}:00" for hour in range(24)]
    assert {row[0]: row[1:] for row in rows if row[1] != "0"} == {
        "00:00": ["1", "1", "1", "100.0", "%", "1:00"],
        "09:00": ["3", "2", "1", "33.3", "%", "0:00"],
        "23:00": ["1", "1", "1", "100.0", "%", "1:00:00"],
    }
    assert rows[1][1:] == ["0", "0", "0", "-", "0:00"]
    assert reasons == REASONS


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("2026-01-30", "2026-01-30", ["1", "2"]),
        ("2026-01-31", "2026-01-31", ["3", "4", "5"]),
        ("2026-01-29", "2026-01-29", ["7"]),
        ("2026-02-01", "2026-02-01", ["8"]),
        ("2026-01-29", "2026-02-01", ["1", "2", "3", "4", "5", "7", "8"]),
    ],
)
def test_days_are_days_in_beijing(
    folder: Path, since: str, until: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From midnight to midnight, both days included, wherever this machine stands."""
    monkeypatch.setenv("TZ", "XXX+11")
    time.tzset()
    try:
        result = qmc(folder, "--since", since, "--until", until, "--json")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert json.loads(result.stdout)["total"]["ended"] == len(expected)


def test_the_time_of_the_call_decides_not_that_of_its_arrival(folder: Path) -> None:
    """One that came with a clock a day behind is counted, as is one that was taken in later."""
    begin = 1_769_702_400_000  # date -d 2026-01-30T00:00+08:00 +%s%3N
    for received_at, expected in ((begin - 86_400_000, 5), (begin + 10 * 86_400_000, 5)):
        select_in(folder, "UPDATE qmc_events SET received_at = ?", received_at)
        result = qmc(folder, *PERIOD, "--json")
        assert json.loads(result.stdout)["total"]["ended"] == expected


def test_what_can_no_longer_be_read_is_no_call(folder: Path) -> None:
    """A report whose body is broken counts for nothing, and stops nothing."""
    select_in(folder, "UPDATE qmc_events SET body = x'3f' WHERE event_id = '2'")
    assert json.loads(qmc(folder, *PERIOD, "--json").stdout)["total"]["ended"] == 4


def test_until_today(tmp_path: Path) -> None:
    """Without `--until`, or with a day to come, it goes up to this day in Beijing."""
    before = datetime.now(BEIJING)
    fill(tmp_path, body_of("1", endTime=f"{before:%Y-%m-%d %H:%M:%S}"))
    since = ("--since", f"{before - timedelta(days=1):%Y-%m-%d}")
    for words in (since, (*since, "--until", "9999-12-31")):
        result = json.loads(qmc(tmp_path, *words, "--json").stdout)
        assert result["total"]["ended"] == 1
        assert result["until"] in {f"{before:%Y-%m-%d}", f"{datetime.now(BEIJING):%Y-%m-%d}"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--since", "2026-02-01", "--until", "2026-01-31"), "--since is after --until"),
        (("--since", "9999-12-31"), "has not come yet"),
        (("--since", "0001-01-01"), "--since is before 2000"),
        (("--since", "2026-01-01", "--json", "--html", "-"), "--json and --html -"),
        (("--since", "yesterday"), "'%Y-%m-%d'"),
        ((), "'--since'"),
    ],
)
def test_what_cannot_be_asked(folder: Path, words: tuple[str, ...], message: str) -> None:
    """Status 2, and what is wrong with it."""
    result = qmc(folder, *words)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("page", [1, 2, 500])
@pytest.mark.parametrize("tied", [False, True])
def test_pages_make_a_whole(
    folder: Path,
    page: int,
    tied: bool,  # noqa: FBT001 - a parameter of a test
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However few are read at once, each is counted once, also where many came together."""
    if tied:
        select_in(folder, "UPDATE qmc_events SET received_at = 1769784000000")
    # In its package the command has the name of its module.
    monkeypatch.setattr(importlib.import_module("qmc_async.cli.report"), "PAGE", page)
    assert qmc(folder, *PERIOD).stdout.startswith(PLAIN)


@pytest.mark.parametrize("width", [65, 80, 120])
def test_it_fits_the_terminal(folder: Path, width: int) -> None:
    """Every number is there at any width, in colours, and with bars where there is room."""
    select_in(folder, "UPDATE qmc_events SET kind = 'unknown' WHERE event_id = '2'")
    fill(folder, calls=[("order-1", CallState.REFUSED)])
    select_in(folder, "UPDATE qmc_calls SET placed_at = 1769702400000")
    result = qmc(folder, *PERIOD, columns=width)
    shown = plain(result)
    assert max(map(len, shown.splitlines())) <= width
    assert "\x1b[" in result.stdout
    assert "…" not in shown
    lines = [line.split() for line in shown.splitlines()]
    bars = {line[0]: line[-1] for line in lines if line and line[-1][0] in "█▒░"}
    longest = len(bars["09:00"])
    assert longest >= 10
    for sign in "█▒░":
        assert bars["09:00"].count(sign) == pytest.approx(longest / 3, abs=1)
    assert set(bars["00:00"]) == {"█"}
    assert len(bars["00:00"]) == pytest.approx(longest / 3, abs=1)
    assert ("2026-01-31" in bars) is (width > 65), "there is no room for them"
    keys = shown.count("█ connected  ▒ callee not reached  ░ caller not reached")
    assert keys == (1 if width == 65 else 2)
    assert len(bars["HangUp"]) == pytest.approx(2 * len(bars["CalleeBusy"]), abs=1)
    for line in (
        ["2026-01-30", "Fri", "1", "1", "1", "100.0", "%", "1:00"],
        ["2026-01-31", "Sat", "3", "2", "1", "33.3", "%", "0:00"],
        ["CallerBusy", "1", "25.0", "%"],
        ["refused", "1", "not", "placed:", "no", "telephone", "rang"],
    ):
        assert line in [one[: len(line)] for one in lines]


def test_a_terminal_without_blocks(folder: Path) -> None:
    """Bars are letters where it can show nothing else."""
    result = qmc(folder, *PERIOD, columns=80, charset="ascii")
    assert result.exit_code == 0
    shown = plain(result)
    assert shown.isascii()
    assert "# connected  = callee not reached  - caller not reached" in shown
    assert re.search(r"09:00 .*0:00 #+=+-+$", shown, re.MULTILINE)


def test_json(folder: Path) -> None:
    """One object a line, which is all that stands on the standard output."""
    result = qmc(folder, *PERIOD, "--json")
    assert (result.exit_code, result.stderr, result.stdout.count("\n")) == (0, "", 1)
    read = json.loads(result.stdout)
    assert read["total"] == {"ended": 5, "picked_up": 4, "connected": 3, "talk": 3660.0}
    assert read["answer_rate"] == 0.6
    assert read["talk"] == {
        "calls": 2,
        "total": 3660.0,
        "mean": 1830.0,
        "median": 1830.0,
        "longest": 3600.0,
    }
    assert {one["reason"]: one["calls"] for one in read["reasons"]} == {
        "HangUp": 3,
        "CalleeBusy": 1,
        "CallerBusy": 1,
    }
    assert {day: count["ended"] for day, count in read["days"].items()} == {
        "2026-01-30": 2,
        "2026-01-31": 3,
    }
    assert (read["recorded"], read["not_recorded"], read["ledger"]) == (2, 1, {})


def test_nothing_ended(folder: Path) -> None:
    """That is said plainly, and is no error; as JSON it is zeros, as a page it says so too."""
    words = ("--since", "2025-01-01", "--until", "2025-01-31")
    result = qmc(folder, *words)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        f"no call ended from 2025-01-01 to 2025-01-31, Beijing time, in {folder / 'qmc.db'}\n"
    )
    as_json = qmc(folder, *words, "--json")
    assert (as_json.exit_code, as_json.stderr) == (0, "")
    assert json.loads(as_json.stdout)["total"]["ended"] == 0
    assert "No call ended in this period." in qmc(folder, *words, "--html", "-").stdout


def test_the_ledger(tmp_path: Path) -> None:
    """What became of the calls that were placed in the period, also where none has ended."""
    states = (CallState.REFUSED, CallState.UNKNOWN, CallState.UNKNOWN, CallState.PLACED)
    fill(tmp_path, calls=[(f"order-{n}", state) for n, state in enumerate(states)])
    begin = 1_769_702_400_000  # date -d 2026-01-30T00:00+08:00 +%s%3N
    for ours, time_ in (("order-1", begin), ("order-2", begin - 1), ("order-3", begin + 1)):
        query = "UPDATE qmc_calls SET placed_at = ? WHERE out_call_id = ?"
        select_in(tmp_path, query, time_, ours)
    result = qmc(tmp_path, *PERIOD)
    assert "no call ended" in result.stderr
    assert result.stdout == (
        "in the ledger  calls  which means\n"
        "placed             1  accepted; it is not known yet how it ended\n"
        "unknown            1  perhaps placed: the answer was lost\n"
    )
    assert json.loads(qmc(tmp_path, *PERIOD, "--json").stdout)["ledger"] == {
        "placed": 1,
        "unknown": 1,
    }


def test_strangers_text_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    """A reason of the platform's own is shown, not obeyed, and its telephone numbers are masked."""
    reasons = ("[bold]\x1b[2J\r\nx", f"\u202e{NUMBER}", "<script>")
    end = "2026-01-31 00:00:00"
    fill(tmp_path, *(body_of(f"{n}", reason=one, endTime=end) for n, one in enumerate(reasons)))
    for result in (qmc(tmp_path, *PERIOD), qmc(tmp_path, *PERIOD, columns=80)):
        shown = Text.from_ansi(result.stdout).plain
        assert r"[bold]\x1b[2J x" in shown
        assert r"\u202e139****5678" in shown
        assert not {"\x1b[2J", "\r", "\u202e"} & set(result.stdout)
    as_json = qmc(tmp_path, *PERIOD, "--json").stdout
    page = qmc(tmp_path, *PERIOD, "--html", "-").stdout
    assert NUMBER not in as_json + page
    assert "<script" not in page


def test_reasons_that_are_too_many(tmp_path: Path) -> None:
    """They stand together in the last line; what had no reason is told as such."""
    bodies = [body_of(f"{n}", reason=f"R{n}", endTime="2026-01-31 00:00:00") for n in range(23)]
    fill(tmp_path, *bodies, body_of("x", reason="", endTime="2026-01-31 00:00:00"))
    lines = qmc(tmp_path, *PERIOD).stdout.splitlines()
    assert lines[-1].split() == ["all", "others", "3", "12.5", "%"]
    assert "none given      1   4.2 %" in lines
    assert "recorded         0, and 0 failed" in lines
    assert "connected        0 (0.0 %)" in lines
    assert not [line for line in lines if line.startswith("talk")]


def test_a_page_beside_the_table(folder: Path, tmp_path: Path) -> None:
    """`--html` writes a whole file that nobody else may read, and says where; the rest stays."""
    file = tmp_path / "report.html"
    for words, expected in (((), PLAIN), (("--json",), "{")):
        result = qmc(folder, *PERIOD, *words, "--html", str(file))
        assert result.exit_code == 0
        assert result.stdout.startswith(expected)
        assert result.stderr == f"the page is {file}\n"
        text = file.read_text("utf-8")
        assert text.startswith("<!DOCTYPE html>")
        assert text.endswith("</html>\n")
        assert "Calls from 2026-01-30 to 2026-01-31" in text
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(tmp_path.iterdir()) == [file, folder]


def test_a_page_alone(folder: Path) -> None:
    """`--html -` writes nothing else to the standard output."""
    result = qmc(folder, *PERIOD, "--html", "-")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("<!DOCTYPE html>")
    assert result.stdout.endswith("</html>\n")


def test_a_page_that_cannot_be_finished_is_not_begun(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the old page as it was."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "report.html"
    file.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    result = qmc(folder, *PERIOD, "--html", str(file))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No space left" in result.stderr
    assert file.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [file, folder]


def test_progress_is_shown_on_a_terminal(folder: Path, tmp_path: Path) -> None:
    """The standard error tells how far it is; in a pipe it does not."""
    result = qmc(folder, *PERIOD, columns=80)
    assert "7 calls" in Text.from_ansi(result.stderr).plain
    assert qmc(folder, *PERIOD, "--html", str(tmp_path / "x")).stderr.count("\n") == 1


def test_where_there_is_no_store(tmp_path: Path) -> None:
    """Status 2, one line, and nothing is made."""
    result = qmc(tmp_path, *PERIOD, "--html", str(tmp_path / "x.html"))
    assert result.exit_code == 2
    assert result.stderr.startswith("qmc: there is no store at")
    assert list(tmp_path.iterdir()) == []


def test_help_has_an_example() -> None:
    """The help says what each option means, and its example is one that the command takes."""
    result = CliRunner().invoke(cli, ["report", "--help"], terminal_width=200)
    assert all(one.help for one in report.params if isinstance(one, click.Option))
    example = re.search(r"Example: qmc report (.*)", result.stdout)
    assert example is not None
    report.make_context("report", shlex.split(example[1]))


def test_on_each_database(database: TestDatabase, tmp_path: Path) -> None:
    """The numbers are the same, whichever database has the calls."""

    async def fill_it() -> None:
        async with replica(database, tmp_path) as store:
            for body in BODIES:
                await keep(store, body)
            await place(store, "order-1", CallState.UNKNOWN)

    asyncio.run(fill_it())
    today = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
    words = ["report", "--store", database.url, "--json", "--since"]
    old = json.loads(CliRunner().invoke(cli, [*words, "2026-01-30", *PERIOD[2:]]).stdout)
    assert old["total"] == {"ended": 5, "picked_up": 4, "connected": 3, "talk": 3660.0}
    assert json.loads(CliRunner().invoke(cli, [*words, today]).stdout)["ledger"] == {"unknown": 1}
