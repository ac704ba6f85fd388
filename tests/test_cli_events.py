"""`qmc events`: what the commands that only look print."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest
from callback_peer import alone, body_of, select_in, url_in
from click.testing import CliRunner
from events_store import BODIES, MASKED, NUMBER, fill, keep, qmc
from rich.text import Text

from qmc_async.cli import cli
from qmc_async.cli.events import events
from qmc_async.store.store import DEFAULT_URL

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = sorted(events.commands)
CONFLICT, UNKNOWN, UNREADABLE = "1001~", "1003~", "~"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a store is, with one event of each sort."""
    fill(tmp_path)
    return tmp_path


def columns_of(output: str) -> list[list[str]]:
    """The cells of plain columns."""
    return [re.split(r" {2,}", line) for line in output.splitlines()]


def received(folder: Path, event_id: str) -> str:
    """When an event came, by SQLite's own clockwork."""
    query = (
        "SELECT datetime(received_at / 1000, 'unixepoch', '+8 hours') FROM qmc_events"
        " WHERE event_id = ?"
    )
    [(time,)] = select_in(folder, query, event_id)
    return str(time)


def test_list_has_a_line_for_each_event(folder: Path) -> None:
    """The newest is first; columns have names, no tabs, and "-" where there is nothing."""
    result = qmc(folder, "list")
    assert result.exit_code == 0, result.output
    assert not result.stderr
    assert "\t" not in result.stdout
    heading, *rows = columns_of(result.stdout)
    assert heading == [
        *("event id", "received", "kind", "reason", "talk", "out call id", "deliveries")
    ]
    ids = [event_id for (event_id,) in select_in(folder, "SELECT event_id FROM qmc_events")]
    assert sorted(row[0] for row in rows) == sorted(ids)
    unreadable, unknown, conflict, second, first = rows
    assert unreadable[2:] == ["unknown", "unreadable", "-", "-", "no handler"]
    assert unknown[2:] == ["unknown", "Ringing", "-", "-", "no handler"]
    assert conflict[2:] == ["conflict", "Other", "1:02:03", "order-1", "no handler"]
    assert second[2:] == ["disconnected", "CalleeBusy", "-", "order-2", "1 done, 1 pending"]
    assert first == [
        *("1001", received(folder, "1001"), "disconnected", "HangUp", "1:02:03", "order-1"),
        "1 done, 1 dead",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--kind", "unknown"), [UNREADABLE, UNKNOWN]),
        (("--kind", "conflict"), [CONFLICT]),
        (("--state", "dead"), ["1001"]),
        (("--state", "pending"), ["1002"]),
        (("--state", "done"), ["1002", "1001"]),
        (("--call", "1001"), [CONFLICT, "1001"]),
        (("--call", "order-2"), ["1002"]),
        (("--call", "order-1", "--kind", "disconnected"), ["1001"]),
        (("--limit", "2"), [UNREADABLE, UNKNOWN]),
    ],
)
def test_list_can_choose(folder: Path, words: tuple[str, ...], expected: list[str]) -> None:
    """By kind, by what handlers made of it, by either id of the call, and how many."""
    _, *rows = columns_of(qmc(folder, "list", *words).stdout)
    assert [re.sub("~.*", "~", row[0]) for row in rows] == expected


def test_what_is_left_out_is_told(folder: Path) -> None:
    """Where there is more than was asked for, the standard error says so; otherwise it does not."""
    assert qmc(folder, "list", "--limit", "4").stderr == "there are more than 4: see --limit\n"
    assert qmc(folder, "list", "--limit", "5").stderr == ""


def test_list_of_nothing(folder: Path) -> None:
    """Nothing to list is no error; it is told where there is nothing."""
    result = qmc(folder, "list", "--call", "nobody's")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"no such events in {folder / 'qmc.db'}\n"


def test_list_as_json(folder: Path) -> None:
    """A line is an object with all that was read, numbers masked, and without the body."""
    result = qmc(folder, "list", "--json")
    unreadable, unknown, conflict, second, first = map(json.loads, result.stdout.splitlines())
    assert NUMBER not in result.stdout
    assert len({frozenset(record) for record in (unreadable, unknown, conflict, first)}) == 1
    assert first["call_id"] == first["event_id"] == "1001"
    assert first["out_call_id"] == "order-1"
    assert first["answer_time"] == "2026-02-01T00:00:00+08:00"
    assert first["call_duration"] == 3723
    assert first["recording_result"] == "success"
    assert {one["handler"]: one["state"] for one in first["deliveries"]} == {
        "billing": "dead",
        "crm": "done",
    }
    assert first["received_at"].replace("T", " ").startswith(received(folder, "1001"))
    assert first["rest"] is None
    assert second["problems"] == ["$.callDuration: expected a whole number of seconds"]
    assert conflict["differs_in"] == ["endTime", "reason"]
    assert (unknown["status"], unknown["rest"]) == ("Ringing", f'{{"caller":"{MASKED}"}}')
    assert (unreadable["call_id"], unreadable["status"]) == (None, None)
    assert MASKED in unreadable["rest"]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_list_fits_the_terminal(folder: Path, width: int) -> None:
    """Nothing is cut off: every id and every state can be read at any width."""
    result = qmc(folder, "list", columns=width)
    plain = Text.from_ansi(result.stdout).plain
    lines = [line.rstrip() for line in plain.splitlines()]
    assert max(map(len, lines)) <= width
    assert "…" not in plain
    assert "\x1b[" in result.stdout
    for (event_id,) in select_in(folder, "SELECT event_id FROM qmc_events"):
        # A long id goes on in the next line of its column.
        column = [line[: 19 if width < 110 else 51].strip().partition(" ")[0] for line in lines]
        assert event_id in "".join(column)
    for state in ("1 done", "1 pending", "1 dead", "no handler", "CalleeBusy", "order-2"):
        assert state in plain
    assert ("conflict:" in plain) is (width < 110)
    assert (received(folder, "1001") in plain) is (width >= 110)


def test_strangers_text_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    """Control characters and markup in what came are shown, not obeyed."""

    def wire(call_id: str) -> bytes:
        return body_of(call_id, outCallId="a\x1b[2J\r\nb", reason="[bold]\u202e" + NUMBER)

    asyncio.run(keep(tmp_path, wire("1\u200b"), calls=1))
    for result in (qmc(tmp_path, "list"), qmc(tmp_path, "list", columns=200)):
        shown = Text.from_ansi(result.stdout).plain
        assert r"a\x1b[2J b" in shown
        assert rf"[bold]\u202e{MASKED}" in shown.replace("\n", "")
        assert r"1\u200b" in shown
        assert not {"\x1b[2J", "\r", "\u202e", "\u200b"} & set(result.stdout)
    shown = qmc(tmp_path, "show", "1\u200b").stdout
    assert r"a\x1b[2J\r" in shown
    assert "\x1b" not in shown


def test_strangers_text_widens_no_other_row(tmp_path: Path) -> None:
    """One event with a field of 60 KB does not fill the rows of all others up to its length."""
    long = body_of("long", outCallId="o" * 60_000)
    asyncio.run(keep(tmp_path, long, *(body_of(str(number)) for number in range(5)), calls=10))
    lines = qmc(tmp_path, "list").output.splitlines()
    [line] = [line for line in lines if "o" * 60_000 in line]
    assert max(len(other) for other in lines if other != line) < 300


def test_show_tells_everything(folder: Path) -> None:
    """Every field and every delivery of one event, in words, with numbers masked."""
    result = qmc(folder, "show", "order-2")
    assert result.exit_code == 0, result.output
    lines = [re.sub(" {2,}", "|", line) for line in result.stdout.splitlines()]
    assert lines[:9] == [
        "event id|1002",
        "kind|disconnected",
        f"received|{received(folder, '1002')}",
        "call id|1002",
        "out call id|order-2",
        "status|Disconnected",
        "reason|CalleeBusy",
        "ended|2023-08-29 08:52:10",
        "unreadable|$.callDuration: expected a whole number of seconds",
    ]
    assert re.fullmatch(
        r"handler\|billing: pending, next due 2\d{3}-.*, 1 failed attempt", lines[9]
    )
    assert lines[10] == "|ConnectionError: the books are closed"
    assert re.fullmatch(r"handler\|crm: done 2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d", lines[11])
    assert len(lines) == 12


def test_show_finds_all_of_a_call(folder: Path) -> None:
    """A call id shows its conflict too, and where that differs; an error keeps its lines."""
    conflict, first = qmc(folder, "show", "1001").stdout.split("\n\n")
    assert "differs in     endTime, reason\n" in conflict
    assert "handlers       no handler" in conflict
    assert re.search(r"handler +billing: dead 2.*, 1 failed attempt\n", first)
    assert f"               Reject: no order for {MASKED}\n               in the books\n" in first
    for line in (
        r"picked up +2026-01-31 23:59:50",
        r"connected +2026-02-01 00:00:00",
        r"ended +2026-02-01 01:02:03",
        r"talk +1:02:03",
        r"recording +success",
    ):
        assert re.search(line, first)


def test_show_of_a_conflict_whose_first_report_is_gone(folder: Path) -> None:
    """What it differed from cannot be told any more, and nothing breaks."""
    select_in(folder, "DELETE FROM qmc_events WHERE event_id = '1001'")
    result = qmc(folder, "show", "1001")
    assert "kind           conflict" in result.stdout
    assert "differs" not in result.stdout


@pytest.mark.parametrize("kind", [UNKNOWN, UNREADABLE])
def test_show_masks_what_the_document_does_not_have(folder: Path, kind: str) -> None:
    """Also what no decoder understands shows no whole number, unless the body is asked for."""
    ids = [one for (one,) in select_in(folder, "SELECT event_id FROM qmc_events")]
    [event_id] = [one for one in ids if one.startswith(kind)]
    result = qmc(folder, "show", event_id)
    assert NUMBER not in result.stdout
    assert re.search(rf"also says +.*{re.escape(MASKED)}", result.stdout)


@pytest.mark.parametrize("body", BODIES)
def test_show_gives_the_body_when_asked(folder: Path, body: bytes) -> None:
    """With `--body` it is there whole: as text, or in base64 where it is none."""
    select_in(folder, "DELETE FROM qmc_events WHERE body != ?", body)
    [(event_id,)] = select_in(folder, "SELECT event_id FROM qmc_events")
    for result in (qmc(folder, "show", event_id), qmc(folder, "show", event_id, "--json")):
        assert "body" not in result.stdout
    record = json.loads(qmc(folder, "show", event_id, "--body", "--json").stdout.splitlines()[0])
    told = qmc(folder, "show", event_id, "--body").stdout
    if body.isascii():
        assert record["body"] == body.decode()
        assert f"body           {body.decode()}\n" in told
    else:
        assert record["body_base64"] == "//4gMTM5MTIzNDU2Nzg="
        assert "body_base64    //4gMTM5MTIzNDU2Nzg=\n" in told


def test_show_of_what_is_not_there(folder: Path) -> None:
    """Status 1, and one line that says where to look."""
    result = qmc(folder, "show", "4711")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"qmc: no event in {folder / 'qmc.db'} has this")
    assert "qmc events list" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_long_body_is_cut_unless_asked_for(tmp_path: Path) -> None:
    """A stranger's 60 KB do not fill the screen; what cannot be written again is shown as text."""
    deep = b'{"x":' + b"[" * 500 + b"]" * 500 + b"}"
    wide = "8".encode("utf-16-le") * 3 + NUMBER.encode("utf-16-le")
    asyncio.run(keep(tmp_path, b"?" * 60_000, deep, wide))
    wide_one, deep_one, long_one = qmc(tmp_path, "list", "--json").stdout.splitlines()
    assert len(json.loads(long_one)["rest"]) == 2001
    assert json.loads(deep_one)["rest"] == deep.decode()
    assert NUMBER not in wide_one
    assert NUMBER[:7] not in wide_one


def test_dead_lists_dead_letters(folder: Path) -> None:
    """Who gave up what, when, why, and after how many attempts."""
    _, row = columns_of(qmc(folder, "dead").stdout)
    assert row[:3] == ["1001", "billing", "1"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row[3])
    assert row[4:] == [f"Reject: no order for {MASKED} in the books"]
    [record] = map(json.loads, qmc(folder, "dead", "--json").stdout.splitlines())
    assert record["error"] == f"Reject: no order for {MASKED}\nin the books"
    assert set(record) == {
        *("event_id", "handler", "error", "attempts", "first_seen", "died_at"),
    }


def test_dead_says_what_is_left_out(folder: Path) -> None:
    """No dead letters are told as such; more than were asked for, too."""
    select_in(folder, "UPDATE qmc_deliveries SET state = 'dead', due_at = NULL")
    both = qmc(folder, "dead", "--limit", "3")
    assert len(both.stdout.splitlines()) == 4
    assert both.stderr == "there are more than 3: see --limit\n"
    assert len(qmc(folder, "dead", "--limit", "3", "--json").stdout.splitlines()) == 3
    select_in(folder, "UPDATE qmc_deliveries SET state = 'done'")
    none = qmc(folder, "dead")
    assert (none.exit_code, none.stdout) == (0, "")
    assert none.stderr == f"no dead letters in {folder / 'qmc.db'}\n"


@pytest.mark.parametrize("width", [80, 120])
def test_dead_fits_the_terminal(folder: Path, width: int) -> None:
    """An error that is longer than the line is folded, not cut."""
    select_in(folder, "UPDATE qmc_deliveries SET error = ?", "word " * 40 + "end")
    plain = Text.from_ansi(qmc(folder, "dead", columns=width).stdout).plain
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= width
    assert plain.count("word") == 40
    assert "end" in plain


async def test_a_server_that_has_the_store_open_can_be_looked_into(tmp_path: Path) -> None:
    """What a running server has answered for is listed at once."""
    async with alone(store=url_in(tmp_path)) as listening:
        await listening.post(body_of("1"))
        result = await asyncio.to_thread(qmc, tmp_path, "list")
        assert columns_of(result.stdout)[1][0] == "1"
        await listening.post(body_of("2"))
        result = await asyncio.to_thread(qmc, tmp_path, "list")
        assert columns_of(result.stdout)[1][0] == "2"


def test_the_option_goes_before_the_variable(folder: Path, tmp_path: Path) -> None:
    """`--store` is taken where `QMC_STORE` names another store; without both, the default is."""
    other = tmp_path / "other"
    other.mkdir()
    fill(other)
    select_in(other, "DELETE FROM qmc_events")
    assert "1001" in qmc(folder, "list").stdout
    assert "1001" not in qmc(folder, "list", "--store", url_in(other)).stdout
    option = next(one for one in events.commands["list"].params if one.name == "url")
    assert option.default == DEFAULT_URL


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    """The help says what each option means, and its example is one that the command takes."""
    result = CliRunner().invoke(cli, ["events", name, "--help"], terminal_width=200)
    assert result.exit_code == 0
    command = events.commands[name]
    assert all(one.help for one in command.params if isinstance(one, click.Option))
    example = re.search(rf"Example: qmc events {name} ?(.*)", result.stdout)
    assert example is not None
    command.make_context(name, shlex.split(example[1]))


def test_bytes_that_are_no_text_are_no_id(folder: Path) -> None:
    """A terminal may send them; they are refused with status 2."""
    result = qmc(folder, "show", b"\xff".decode(errors="surrogateescape"))
    assert result.exit_code == 2
    assert "no text in UTF-8" in result.stderr
