"""`qmc events export`: every event, whole, in a form that others read."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import os
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, select_in, url_in
from events_store import BODIES, MASKED, NUMBER, fill, keep, qmc

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = ("csv", "jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a store is, with one event of each sort."""
    folder = tmp_path / "store"
    folder.mkdir()
    fill(folder)
    return folder


def rows_of(text: str) -> list[dict[str, str]]:
    """CSV, read by Python's own reader."""
    return list(csv.DictReader(io.StringIO(text), strict=True))


def records_of(text: str) -> list[dict[str, Any]]:
    """JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def body_in(record: dict[str, Any]) -> bytes:
    """The bytes that a record stands for."""
    if "body_base64" in record:
        return base64.b64decode(record["body_base64"])
    return str(record["body"]).encode()


def ids_in(folder: Path) -> list[str]:
    """Of all events, the newest first."""
    return [
        one for (one,) in select_in(folder, "SELECT event_id FROM qmc_events ORDER BY seq DESC")
    ]


def test_csv_has_a_row_for_each_event(folder: Path) -> None:
    """The newest first, under a header; times are Beijing time, numbers are numbers."""
    result = qmc(folder, "export", "--format", "csv")
    assert result.exit_code == 0, result.output
    assert not result.stderr
    rows = rows_of(result.stdout)
    assert [row["event_id"] for row in rows] == ids_in(folder)
    unreadable, unknown, conflict, second, first = rows
    assert first | {"received_at": ""} == {
        "event_id": "1001",
        "kind": "disconnected",
        "received_at": "",
        "call_id": "1001",
        "out_call_id": "order-1",
        "status": "Disconnected",
        "reason": "HangUp",
        "start_time": "2026-01-31 23:59:50",
        "answer_time": "2026-02-01 00:00:00",
        "end_time": "2026-02-01 01:02:03",
        "call_duration": "3723",
        "recording_result": "success",
        "problems": "",
        "done": "1",
        "pending": "0",
        "dead": "1",
        "errors": f"billing: Reject: no order for {MASKED}\nin the books",
    }
    assert second["problems"] == "$.callDuration: expected a whole number of seconds"
    assert (second["call_duration"], second["pending"]) == ("", "1")
    assert (conflict["kind"], unknown["status"]) == ("conflict", "Ringing")
    assert unreadable["problems"].startswith("$: not JSON")
    assert NUMBER not in result.stdout


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1+1", "'+1+1"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("＝1+1", "'＝1+1"),
        ("+8613912345678", "+8613912345678"),
        ("-12.5", "-12.5"),
        ("a=b", "a=b"),
        ('say "=1",\n=2', 'say "=1",\n=2'),
        ("订单 7", "订单 7"),
    ],
)
def test_no_cell_is_a_formula(tmp_path: Path, text: str, cell: str) -> None:
    """What a spreadsheet would run has an apostrophe before it; nothing else has one."""
    asyncio.run(keep(tmp_path, body_of("1", outCallId=text), calls=2))
    [row] = rows_of(qmc(tmp_path, "export", "--format", "csv").stdout)
    assert row["out_call_id"] == cell


def test_the_mark_for_excel(folder: Path) -> None:
    """`--bom` is the first thing in the file, and only there when asked for; jsonl has none."""
    words = ("export", "--format", "csv")
    plain, marked = qmc(folder, *words), qmc(folder, *words, "--bom")
    assert marked.stdout_bytes == b"\xef\xbb\xbf" + plain.stdout_bytes
    refused = qmc(folder, "export", "--format", "jsonl", "--bom")
    assert refused.exit_code == 2
    assert "--bom is for csv" in refused.stderr


def test_jsonl_has_the_bodies_as_they_came(folder: Path) -> None:
    """Each body is there byte for byte, also one that is no text."""
    records = records_of(qmc(folder, "export", "--format", "jsonl").stdout)
    assert [record["event_id"] for record in records] == ids_in(folder)
    assert [body_in(record) for record in records] == list(reversed(BODIES))


def test_jsonl_can_be_taken_in_again(folder: Path, tmp_path: Path) -> None:
    """The bodies, posted to an empty store in their order, make the same events."""
    records = records_of(qmc(folder, "export", "--format", "jsonl").stdout)
    again = tmp_path / "again"
    again.mkdir()
    asyncio.run(keep(again, *(body_in(record) for record in reversed(records))))
    query = "SELECT kind, body, out_call_id FROM qmc_events ORDER BY seq"
    assert select_in(again, query) == select_in(folder, query)
    assert ids_in(again)[1:] == ids_in(folder)[1:]  # what names no call has an id of its own


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("page", [1, 2, 5])
def test_pages_make_a_whole(
    folder: Path, form: str, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few events are read at once, each is there once."""
    whole = qmc(folder, "export", "--format", form).stdout
    monkeypatch.setattr("qmc_async.cli.export.PAGE", page)
    assert qmc(folder, "export", "--format", form).stdout == whole


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_store(folder: Path, form: str) -> None:
    """Nothing is exported as nothing, but for csv's header."""
    select_in(folder, "DELETE FROM qmc_events")
    result = qmc(folder, "export", "--format", form)
    assert result.exit_code == 0
    assert result.stdout.count("\n") == (form == "csv")


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("2026-01-31", ["1002", "1001"]),
        ("2026-02-01", ["1002"]),
        ("2026-02-01 00:00:00", ["1002"]),
        ("2026-02-01T00:00:01", []),
    ],
)
def test_since_is_beijing_time(folder: Path, since: str, expected: list[str]) -> None:
    """A day begins at midnight in Beijing, and what came right then is in it."""
    midnight = 1_769_875_200_000  # date -d 2026-02-01T00:00+08:00 +%s%3N
    select_in(folder, "DELETE FROM qmc_events WHERE event_id NOT IN ('1001', '1002')")
    for event_id, time in (("1001", midnight - 1), ("1002", midnight)):
        select_in(
            folder, "UPDATE qmc_events SET received_at = ? WHERE event_id = ?", time, event_id
        )
    rows = rows_of(qmc(folder, "export", "--format", "csv", "--since", since).stdout)
    assert [row["event_id"] for row in rows] == expected


def test_one_kind(folder: Path) -> None:
    """`--kind` leaves out the others."""
    rows = rows_of(qmc(folder, "export", "--format", "csv", "--kind", "unknown").stdout)
    assert [row["kind"] for row in rows] == ["unknown", "unknown"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_is_whole_and_private(folder: Path, tmp_path: Path, form: str) -> None:
    """`-o` replaces the file, nobody else may read it, and nothing stands beside it."""
    out = tmp_path / "out"
    out.mkdir()
    file = out / "events"
    file.write_text("old")
    result = qmc(folder, "export", "--format", form, "-o", str(file))
    assert (result.exit_code, result.output) == (0, f"5 events in {file}\n")
    assert file.read_bytes() == qmc(folder, "export", "--format", form).stdout_bytes
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(out.iterdir()) == [file]


def test_a_file_that_cannot_be_finished_is_not_begun(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the old file as it was, and no half of a new one."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    out.mkdir()
    file = out / "events"
    file.write_text("old")
    result = qmc(folder, "export", "--format", "csv", "-o", str(file))
    assert result.exit_code == 1
    assert result.stderr == "qmc: [Errno 28] No space left on device\n"
    assert file.read_text() == "old"
    assert list(out.iterdir()) == [file]


def test_a_missing_folder_is_named(folder: Path, tmp_path: Path) -> None:
    """Status 2, and one line that says what to do."""
    result = qmc(folder, "export", "--format", "csv", "-o", str(tmp_path / "no" / "x.csv"))
    assert result.exit_code == 2
    assert result.stderr == (
        f"qmc: there is no folder {tmp_path / 'no'}: make it, or choose another\n"
    )


def test_a_pipe_stays_a_pipe(folder: Path, tmp_path: Path) -> None:
    """What is no plain file is written to, not replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    result = qmc(folder, "export", "--format", "csv", "-o", str(pipe))
    reader.join(10)
    assert result.exit_code == 0
    assert read == [qmc(folder, "export", "--format", "csv").stdout_bytes]
    assert pipe.is_fifo()


def test_progress_is_shown_beside_a_file_only(folder: Path, tmp_path: Path) -> None:
    """On a terminal, the standard error tells how far it is; never among the events themselves."""
    words = ("export", "--format", "csv")
    into_file = qmc(folder, *words, "-o", str(tmp_path / "x.csv"), columns=80)
    assert "5 events" in into_file.stderr
    assert "100%" in into_file.stderr
    assert qmc(folder, *words, columns=80).stderr == ""


def test_a_reader_may_have_enough(folder: Path) -> None:
    """`| head` ends it without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "qmc_async", "events", "export", "--format", "jsonl"],
            env={**os.environ, "QMC_STORE": url_in(folder)},
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            timeout=50,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
