"""`qmc events` on each database: what it prints, and what it changes."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from conformance import deliveries_in, ids_in, on_servers, replica
from events_store import BODIES, MASKED, NUMBER, UNREADABLE
from store_support import never_late

from qmc_async.cli import cli
from qmc_async.store import State
from qmc_async.store.records import Outcome, Put, Receipt

if TYPE_CHECKING:
    from pathlib import Path

    from database_servers import TestDatabase

NEWEST_FIRST = "SELECT event_id FROM qmc_events ORDER BY seq DESC"


def qmc(database: TestDatabase, *words: str, answer: str | None = None) -> Result:
    """Run `qmc events` on the database."""
    words = ("events", *words, "--store", database.url)
    return CliRunner().invoke(cli, words, input=answer)


@pytest.fixture
def filled(database: TestDatabase, tmp_path: Path) -> TestDatabase:
    """A database with one event of each sort; ``billing`` gave up 1001, and is to try 1002."""

    async def fill() -> None:
        async with replica(database, tmp_path) as store:
            for body in BODIES:
                put = Put(Receipt.read(body), {"crm": True, "billing": True}, "us", [])
                kept = await store.keep(put, never_late)
                assert kept is not None
                for claim in kept.claims:
                    fails = claim.handler == "billing" and claim.event_id == "1001"
                    waits = claim.handler == "billing" and claim.event_id == "1002"
                    state = State.PENDING if waits else State.DEAD if fails else State.DONE
                    error = f"ValueError: no {MASKED} 😀" if fails or waits else ""
                    outcome = Outcome(claim, state, 3600.0, failed=bool(error), error=error)
                    assert await store.settle(outcome)

    asyncio.run(fill())
    return database


def test_list(filled: TestDatabase) -> None:
    """A line for each event, the newest first, with its kind and what has become of it."""
    result = qmc(filled, "list")
    assert (result.exit_code, result.stderr) == (0, "")
    heading, *rows = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    assert heading[0] == "event id"
    assert [row[0] for row in rows] == ids_in(filled, NEWEST_FIRST)
    assert [row[2:] for row in rows] == [
        ["unknown", "unreadable", "-", "-", "2 done"],
        ["unknown", "Ringing", "-", "-", "2 done"],
        ["conflict", "Other", "1:02:03", "order-1", "no handler"],
        ["disconnected", "CalleeBusy", "-", "order-2", "1 done, 1 pending"],
        ["disconnected", "HangUp", "1:02:03", "order-1", "1 done, 1 dead"],
    ]


WANTED = {
    ("--kind", "conflict"): 1,
    ("--state", "dead"): 1,
    ("--state", "done", "--kind", "unknown"): 2,
    ("--call", "order-1"): 2,
    ("--call", "1001"): 2,
    ("--call", "ORDER-1"): 0,
    ("--call", "order-1 "): 0,
    ("--limit", "3"): 3,
}


def test_list_some(filled: TestDatabase) -> None:
    """Only those that were asked for."""
    for words, expected in WANTED.items():
        result = qmc(filled, "list", "--json", *words)
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) == expected, words


def test_show(filled: TestDatabase) -> None:
    """Everything about an event, with numbers masked."""
    result = qmc(filled, "show", "1001")
    assert result.exit_code == 0, result.output
    for said in ("1001~", "order-1", "conflict", "billing", f"no {MASKED} 😀"):
        assert said in result.stdout
    assert NUMBER not in result.stdout
    missing = qmc(filled, "show", "1001 ")
    assert missing.exit_code == 1
    assert "no event in" in missing.stderr


def test_dead(filled: TestDatabase) -> None:
    """What handlers gave up."""
    result = qmc(filled, "dead", "--json")
    [letter] = [json.loads(line) for line in result.stdout.splitlines()]
    assert (letter["event_id"], letter["handler"]) == ("1001", "billing")


def test_replay(filled: TestDatabase) -> None:
    """Only what was given up is tried again."""
    result = qmc(filled, "replay", "order-1")
    assert (result.exit_code, result.output) == (0, "1001  again to billing\n")
    states = {row[:2]: row[2:4] for row in deliveries_in(filled)}
    assert states["1001", "billing"] == ("pending", 0)
    assert states["1001", "crm"] == ("done", 0)


def test_export(filled: TestDatabase) -> None:
    """Every event, whole."""
    result = qmc(filled, "export", "--format", "jsonl")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["event_id"] for one in records] == ids_in(filled, NEWEST_FIRST)
    assert base64.b64decode(records[0]["body_base64"]) == UNREADABLE
    assert {one["body"].encode() for one in records[1:]} == set(BODIES) - {UNREADABLE}
    csv = qmc(filled, "export", "--format", "csv")
    assert csv.exit_code == 0
    assert len(csv.stdout.splitlines()) == 1 + len(BODIES)


def test_purge(filled: TestDatabase) -> None:
    """What is finished goes, and what is not stays."""
    filled.execute("UPDATE qmc_events SET received_at = 1")
    result = qmc(filled, "purge", "--older-than", "1", "--yes")
    assert result.exit_code == 0, result.output
    assert ids_in(filled, NEWEST_FIRST) == ["1002", "1001"]


@on_servers
def test_where_there_is_no_store(database: TestDatabase) -> None:
    """One line, without the password, and nothing is made."""
    for url in (database.url, f"{database.url}x"):
        result = CliRunner().invoke(cli, ["events", "list", "--store", url])
        assert result.exit_code == 2
        assert result.stderr.startswith("qmc: store: ")
        assert result.stderr.count("\n") == 1
        assert "open-sesame" not in result.stderr
    assert database.select(
        "SELECT count(*) FROM information_schema.tables WHERE table_name LIKE 'qmc_%'"
        if database.kind == "mariadb"
        else "SELECT count(*) FROM pg_class WHERE relname LIKE 'qmc_%'"
    ) == [(0,)]
