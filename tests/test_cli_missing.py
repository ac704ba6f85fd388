"""`qmc events`: what the commands print of calls whose notification did not come."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from callback_peer import Seen, body_of, post_to, select_in, until, url_in
from events_store import qmc
from faulty_platform import FaultyPlatform
from ledger_support import client_of, place
from rich.text import Text
from watchdog_support import HOUR, hurry_watchdog, make_overdue, recorded

from qmc_async import CallbackServer, CallState, Reject
from qmc_async.models import BEIJING
from qmc_async.store import Store

if TYPE_CHECKING:
    from pathlib import Path


async def _fill(folder: Path) -> None:
    """Three calls that were not reported in time; the first of them was reported later.

    ``crm`` does its work; ``billing`` gives up the one that was connected.
    """
    seen = Seen()
    async with FaultyPlatform(recorded(["1002"])) as platform:
        store = Store(url_in(folder), patience=30)
        client = client_of(platform.url, store)
        server = CallbackServer(client=client, port=0)
        server.on_missing(name="crm")(seen.handler("crm"))
        server.on_missing(name="billing")(
            seen.handler("billing", None, Reject("no order for 13912345678"))
        )
        server.on_disconnected(name="ended")(seen.handler("ended"))
        async with client, server:
            for number, call_id in enumerate(("1001", "1002", None), 1):
                state = CallState.UNKNOWN if call_id is None else CallState.PLACED
                await place(store, call_id, f"order-{number}", state=state, missing_after=HOUR)
                make_overdue(folder)
                await until(lambda: len(seen.all) == 2 * number)  # noqa: B023 - awaited here
            await post_to(server, body_of("1001", outCallId="order-1"))
            await until(lambda: len(seen.all) == 7)
            busy = "SELECT count(*) FROM qmc_deliveries WHERE state = 'pending'"
            await until(lambda: select_in(folder, busy) == [(0,)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a store is, with an event of each sort of call that was not reported in time."""
    hurry_watchdog(monkeypatch)
    asyncio.run(_fill(tmp_path))
    return tmp_path


def _columns(output: str) -> list[list[str]]:
    """The cells of plain columns."""
    return [re.split(r" {2,}", line) for line in output.splitlines()]


def _shown(folder: Path, *words: str) -> dict[str, str]:
    """What `show` says of one event, by the name of the line; handlers are counted."""
    result = qmc(folder, "show", *words)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    return {line[:14].strip(): line[15:] for line in lines if not line.startswith("handler")}


def test_list(folder: Path) -> None:
    """What the watchdog inferred, what is missing and what was reported can be told apart."""
    result = qmc(folder, "list")
    assert result.exit_code == 0, result.output
    _, *rows = _columns(result.stdout)
    assert [[row[0][:12], *row[2:]] for row in rows] == [
        ["1001", "disconnected", "HangUp", "-", "order-1", "1 done"],
        [rows[1][0][:12], "missing", "missing", "-", "order-3", "2 done"],
        ["1002~missing", "missing", "inferred", "-", "order-2", "1 done, 1 dead"],
        ["1001~missing", "missing", "missing", "-", "order-1", "2 done"],
    ]
    assert rows[1][0].startswith("~")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--kind", "missing"), ["~", "1002~missing", "1001~missing"]),
        (("--kind", "disconnected"), ["1001"]),
        (("--call", "1001"), ["1001", "1001~missing"]),
        (("--call", "order-1"), ["1001", "1001~missing"]),
        (("--call", "order-3"), ["~"]),
        (("--state", "dead"), ["1002~missing"]),
    ],
)
def test_list_can_choose(folder: Path, words: tuple[str, ...], expected: list[str]) -> None:
    """By kind, by either id of the call, and by what handlers made of it."""
    _, *rows = _columns(qmc(folder, "list", *words).stdout)
    assert [re.sub("^~.*", "~", row[0]) for row in rows] == expected


@pytest.mark.parametrize("width", [80, 120])
def test_list_fits_the_terminal(folder: Path, width: int) -> None:
    """Both outcomes, and both ids, can be read at any width."""
    plain = Text.from_ansi(qmc(folder, "list", columns=width).stdout).plain
    assert max(map(len, plain.splitlines())) <= width
    for text in ("1001~missing", "1002~missing", "inferred", "order-3", "1 dead"):
        assert text in plain
    assert "…" not in plain


def test_list_as_json(folder: Path) -> None:
    """The same fields as of any event; the outcome is the status, and there is no reason."""
    lines = qmc(folder, "list", "--json").stdout.splitlines()
    reported, unknown, inferred, missing = [json.loads(line) for line in lines]
    assert len({frozenset(one) for one in (reported, unknown, inferred, missing)}) == 1
    for one, status in ((unknown, "missing"), (inferred, "inferred"), (missing, "missing")):
        assert (one["kind"], one["status"], one["reason"]) == ("missing", status, None)
        assert (one["end_time"], one["rest"], one["problems"]) == (None, None, [])
    assert (unknown["call_id"], unknown["out_call_id"]) == (None, "order-3")
    assert (inferred["call_id"], inferred["out_call_id"]) == ("1002", "order-2")


def test_show(folder: Path) -> None:
    """By its own id or by ours: what is known of it, and what its handlers made of it."""
    [(received_at,)] = select_in(
        folder, "SELECT received_at FROM qmc_events WHERE event_id = '1002~missing'"
    )
    received = f"{datetime.fromtimestamp(received_at / 1000, BEIJING):%Y-%m-%d %H:%M:%S}"
    [(placed_at,)] = select_in(folder, "SELECT placed_at FROM qmc_calls WHERE call_id = '1002'")
    placed = f"{datetime.fromtimestamp(placed_at / 1000, BEIJING):%Y-%m-%d %H:%M:%S}"
    for words in (["1002~missing"], ["order-2"], ["1002"]):
        assert _shown(folder, *words).items() >= {
            ("event id", "1002~missing"),
            ("kind", "missing"),
            ("received", received),
            ("call id", "1002"),
            ("out call id", "order-2"),
            ("status", "inferred"),
            ("placed", placed),
        }
    shown = _shown(folder, "order-3", "--body")
    assert "call id" not in shown
    assert json.loads(shown["body"])["outcome"] == "missing"
    told = qmc(folder, "show", "order-2").stdout
    assert "billing: dead" in told
    assert "Reject: no order for 139****5678" in told


def test_show_both(folder: Path) -> None:
    """Of a call that was reported late, the report and what stood in its place until then."""
    told = qmc(folder, "show", "1001").stdout
    assert re.findall("^kind +(.*)", told, re.MULTILINE) == ["disconnected", "missing"]


def test_csv(folder: Path) -> None:
    """A row has the outcome as its status, and nothing that nobody knows."""
    result = qmc(folder, "export", "--format", "csv", "--kind", "missing")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout), strict=True))
    assert [(row["call_id"], row["out_call_id"], row["status"]) for row in rows] == [
        ("", "order-3", "missing"),
        ("1002", "order-2", "inferred"),
        ("1001", "order-1", "missing"),
    ]
    for row in rows:
        assert row["reason"] == row["end_time"] == row["problems"] == ""


def test_jsonl(folder: Path) -> None:
    """An object has the body that the store has, from which the event can be made again."""
    result = qmc(folder, "export", "--format", "jsonl", "--kind", "missing")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    bodies = select_in(
        folder, "SELECT body FROM qmc_events WHERE kind = 'missing' ORDER BY seq DESC"
    )
    assert [record["body"].encode() for record in records] == [body for (body,) in bodies]


def test_dead_and_replay(folder: Path) -> None:
    """A dead letter of one is listed, and goes back to its handler by the call's own id."""
    _, *rows = _columns(qmc(folder, "dead").stdout)
    assert [row[:3] for row in rows] == [["1002~missing", "billing", "1"]]
    result = qmc(folder, "replay", "1002")
    assert (result.exit_code, result.stdout) == (0, "1002~missing  again to billing\n")
    states = "SELECT handler, state FROM qmc_deliveries WHERE event_id = '1002~missing' ORDER BY 1"
    assert select_in(folder, states) == [("billing", "pending"), ("crm", "done")]
