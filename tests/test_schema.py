"""The schema: its version, the way from an older one, and indexes that are really used."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from callback_peer import body_of, select_in, url_in
from ledger_support import opening, place
from sqlalchemy import event
from store_support import Process, in_thread, keep, put_of, store_in

from qmc_async import CallbackServer, ConfigError
from qmc_async.models import CallState
from qmc_async.store import Kind, State, Store, deliveries, events, ledger, overdue, rows, schema
from qmc_async.store.deliveries import dead_letters, poll, settle
from qmc_async.store.ledger import CallListing, Settlement
from qmc_async.store.prepared import sqlite_driver
from qmc_async.store.records import Claim, Outcome, Poll

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection


def _set_version(folder: Path, version: int) -> None:
    with closing(sqlite3.connect(folder / "qmc.db")) as file, file:
        file.execute("UPDATE qmc_schema SET version = ?", (version,))


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A folder with a store that has kept one notification."""
    async with store_in(tmp_path) as store:
        await keep(store, body_of())
    return tmp_path


# --- versions ----------------------------------------------------------------------------------


async def test_a_fresh_file_has_the_version(folder: Path) -> None:
    """Tables and version are written together, under names of our own."""
    assert select_in(folder, "SELECT version FROM qmc_schema") == [(schema.VERSION,)]
    names = select_in(folder, "SELECT name FROM sqlite_schema WHERE type = 'table'")
    ours = {"qmc_events", "qmc_deliveries", "qmc_calls", "qmc_schema", "sqlite_sequence"}
    assert {name for (name,) in names} == ours


async def test_a_file_of_this_version_is_left_as_it_is(folder: Path) -> None:
    """Opening it again changes neither tables nor rows."""
    query = "SELECT sql FROM sqlite_schema ORDER BY name"
    before = select_in(folder, query)
    async with store_in(folder) as store:
        assert (await keep(store, body_of())).kind is None
    assert select_in(folder, query) == before


async def test_a_newer_version_is_refused(folder: Path) -> None:
    """A clear error before the port opens; the file stays as the newer version wrote it."""
    _set_version(folder, 99)
    with pytest.raises(ConfigError, match=r"newer version of qmc-async.*version 99") as caught:
        await CallbackServer(store=url_in(folder), port=0).start()
    assert caught.value.setting == "store"
    assert select_in(folder, "SELECT version FROM qmc_schema") == [(99,)]


NOW = schema.VERSION


def _add(column: str) -> Callable[[Connection], None]:
    def upgrade(connection: Connection) -> None:
        connection.exec_driver_sql(f"ALTER TABLE qmc_calls ADD COLUMN {column} TEXT")

    return upgrade


def _columns(folder: Path) -> set[str]:
    return {row[1] for row in select_in(folder, "PRAGMA table_info(qmc_calls)")}


async def test_an_older_file_is_upgraded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One version after the other, from where the file stands, with what is in it."""
    monkeypatch.setattr(schema, "VERSION", NOW + 2)
    monkeypatch.setattr(schema, "UPGRADES", {NOW: _add("one"), NOW + 1: _add("two")})
    async with store_in(folder) as store:
        assert (await keep(store, body_of())).kind is None
    assert select_in(folder, "SELECT version FROM qmc_schema") == [(NOW + 2,)]
    assert {"one", "two"} <= _columns(folder)
    monkeypatch.setattr(schema, "VERSION", NOW + 3)
    monkeypatch.setattr(schema, "UPGRADES", {NOW + 2: _add("three")})
    async with store_in(folder) as store:
        assert (await keep(store, body_of())).kind is None
    assert select_in(folder, "SELECT version FROM qmc_schema") == [(NOW + 3,)]
    assert "three" in _columns(folder)


def _mistake(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE qmc_nothing ADD COLUMN x TEXT")


def _crash(_: Connection) -> None:
    raise RuntimeError("in the upgrade")


@pytest.mark.parametrize(
    ("failing", "error"), [(_mistake, ConfigError), (_crash, RuntimeError)], ids=["sql", "python"]
)
async def test_an_upgrade_that_fails_leaves_the_file(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: Callable[[Connection], None],
    error: type[Exception],
) -> None:
    """All or nothing: the older version can use the file as if nothing had been tried."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "VERSION", NOW + 2)
        patch.setattr(schema, "UPGRADES", {NOW: _add("one"), NOW + 1: failing})
        with pytest.raises(error):
            await Store(url_in(folder)).open()
    assert select_in(folder, "SELECT version FROM qmc_schema") == [(NOW,)]
    assert "one" not in _columns(folder)
    async with store_in(folder) as store:
        assert (await keep(store, body_of())).kind is None
        assert (await keep(store, body_of("4712"))).kind is Kind.DISCONNECTED


UPGRADE = """
import asyncio, sys
from qmc_async.store import Store, schema

schema.UPGRADES = {
    schema.VERSION: lambda found: found.exec_driver_sql("INSERT INTO qmc_upgrades VALUES (1)")
}
schema.VERSION += 1

async def main():
    print("ready", flush=True)
    input()
    async with Store(sys.argv[1]):
        pass
    print("done", flush=True)

asyncio.run(main())
"""


async def test_two_processes_upgrade_once(folder: Path) -> None:
    """Whoever comes second waits, and finds it done."""
    with closing(sqlite3.connect(folder / "qmc.db")) as file, file:
        file.execute("CREATE TABLE qmc_upgrades (n)")
    processes = [Process(UPGRADE, url_in(folder)) for _ in range(2)]
    for process in processes:
        assert process.line() == "ready"
    for process in processes:
        process.say()
    assert [process.line() for process in processes] == ["done"] * 2
    for process in processes:
        process.end()
    assert select_in(folder, "SELECT count(*) FROM qmc_upgrades") == [(1,)]
    assert select_in(folder, "SELECT version FROM qmc_schema") == [(NOW + 1,)]


OPEN = """
import asyncio, sys
from qmc_async.store import Store

async def main():
    print("ready", flush=True)
    input()
    async with Store(sys.argv[1]):
        print("done", flush=True)
        input()

asyncio.run(main())
"""


async def test_processes_make_a_store_together(tmp_path: Path) -> None:
    """Replicas that start for the first time, all at once, make one store."""
    processes = [Process(OPEN, url_in(tmp_path)) for _ in range(3)]
    for process in processes:
        assert process.line() == "ready"
    for process in processes:
        process.say()
    assert [process.line() for process in processes] == ["done"] * 3
    for process in processes:
        process.end()
    assert select_in(tmp_path, "SELECT version FROM qmc_schema") == [(NOW,)]


# --- from version 1 to version 2 ---------------------------------------------------------------


VERSION_1 = """
PRAGMA application_id = 0x514D4361;
CREATE TABLE qmc_events (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, event_id VARCHAR(255) NOT NULL,
    kind VARCHAR(16) NOT NULL, out_call_id VARCHAR(255), received_at BIGINT NOT NULL,
    receipt_id VARCHAR(32) NOT NULL, problem TEXT NOT NULL, body BLOB NOT NULL,
    routed BOOLEAN NOT NULL, UNIQUE (event_id)
);
CREATE INDEX qmc_events_out_call_id ON qmc_events (out_call_id) WHERE out_call_id IS NOT NULL;
CREATE INDEX qmc_events_unrouted ON qmc_events (routed) WHERE routed = 0;
CREATE INDEX qmc_events_received_at ON qmc_events (received_at);
CREATE TABLE qmc_deliveries (
    event_id VARCHAR(255) NOT NULL, handler VARCHAR(255) NOT NULL, state VARCHAR(8) NOT NULL,
    attempts INTEGER NOT NULL, fence INTEGER NOT NULL, owner VARCHAR(32), due_at BIGINT,
    changed_at BIGINT NOT NULL, error TEXT NOT NULL, PRIMARY KEY (event_id, handler)
) WITHOUT ROWID;
CREATE INDEX qmc_deliveries_due ON qmc_deliveries (handler, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX qmc_deliveries_dead ON qmc_deliveries (changed_at) WHERE state = 'dead';
CREATE TABLE qmc_calls (
    out_call_id VARCHAR(255) NOT NULL, call_id VARCHAR(255), caller VARCHAR(32) NOT NULL,
    callee VARCHAR(32) NOT NULL, state VARCHAR(16) NOT NULL, placed_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL, PRIMARY KEY (out_call_id)
);
CREATE INDEX qmc_calls_call_id ON qmc_calls (call_id);
CREATE TABLE qmc_schema (version INTEGER NOT NULL, store_id VARCHAR(32) NOT NULL);
INSERT INTO qmc_schema VALUES (1, 'of version 1');
"""
"""What the first release has made, word for word."""


async def test_a_file_of_the_first_release(tmp_path: Path) -> None:
    """Its events and deliveries stay as they are, and it has a ledger from then on."""
    with closing(sqlite3.connect(tmp_path / "qmc.db")) as file, file:
        file.executescript(VERSION_1)
        for call_id, state, due_at in (("4711", "pending", 1), ("4712", "dead", None)):
            body = body_of(call_id, outCallId=f"order-{call_id}")
            file.execute(
                "INSERT INTO qmc_events (event_id, kind, out_call_id, received_at, receipt_id,"
                " problem, body, routed) VALUES (?, 'disconnected', ?, 1690000000000, 'r', '', ?,"
                " 1)",
                (call_id, f"order-{call_id}", body),
            )
            file.execute(
                "INSERT INTO qmc_deliveries VALUES (?, 'handler', ?, 3, 5, NULL, ?, 7, 'why')",
                (call_id, state, due_at),
            )
    queries = ["SELECT * FROM qmc_events ORDER BY 1", "SELECT * FROM qmc_deliveries ORDER BY 1"]
    before = [select_in(tmp_path, query) for query in queries]
    async with store_in(tmp_path) as store:
        assert [select_in(tmp_path, query) for query in queries] == before
        assert select_in(tmp_path, "SELECT * FROM qmc_schema") == [(NOW, "of version 1")]
        assert (await keep(store, body_of("4711", outCallId="order-4711"))).kind is None
        polled = await store.poll(Poll("us", {"handler": 9}))
        [dead] = await store.dead_letters()
        assert ([one.event_id for one in polled.claims], dead.event_id) == (["4711"], "4712")
        await place(store, "4712", "order-4712")
        entry = await store.ledger_entry(call_id="4712")
    assert entry is not None
    assert entry.state is CallState.ENDED


async def test_an_upgraded_file_has_the_tables_of_a_fresh_one(tmp_path: Path) -> None:
    """To the letter, where the ledger is concerned: nothing is left of what version 1 had."""
    (tmp_path / "fresh").mkdir()
    with closing(sqlite3.connect(tmp_path / "qmc.db")) as file, file:
        file.executescript(VERSION_1)
    shapes: list[set[object]] = []
    for folder in (tmp_path, tmp_path / "fresh"):
        async with store_in(folder):
            pass
        query = "SELECT name, sql FROM sqlite_schema WHERE tbl_name = 'qmc_calls'"
        shapes.append(set(select_in(folder, query)))
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 3


# --- indexes -----------------------------------------------------------------------------------


def _explained(connection: Connection, work: Callable[[], object]) -> list[tuple[str, str]]:
    """Every statement that is executed, by whichever way, with SQLite's plan for it."""
    plans: list[tuple[str, str]] = []

    def explain(_: object, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:  # noqa: ANN401 - as the event has it
        one = parameters[0] if rest[-1] else parameters
        found = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", one)
        plans.extend((statement, row[3]) for row in found)

    def handed_on(_: Connection) -> object:
        return driver

    def execute(statement: str, parameters: Any) -> object:  # noqa: ANN401 - as the driver has it
        found = real.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        plans.extend((statement, row[3]) for row in found)
        return real.execute(statement, parameters)

    real: Any = sqlite_driver(connection)
    driver = SimpleNamespace(execute=execute)
    event.listen(connection, "before_cursor_execute", explain)
    with mock.patch("qmc_async.store.prepared.sqlite_driver", handed_on):
        work()
    event.remove(connection, "before_cursor_execute", explain)
    return plans


ASKED: dict[str, tuple[Any, Any]] = {
    "due": (deliveries.poll, Poll("us", {"handler": 10})),
    "settle": (settle, None),
    "dead": (dead_letters, 10),
    "renew": (deliveries.renew, None),
    "clock": (deliveries.undo_clock_steps, ["handler"]),
    "release": (deliveries.release, "somebody"),
    "route": (deliveries.route, {"4711": ["other"]}),
    "replay": (deliveries.replay, ("4711", None)),
    "put": (events.put, put_of(body_of())),
    "call_id": (events.find_by_call_id, ["4711", "4712"]),
    "out_call_id": (events.find_by_out_call_id, ["order-1", "order-2"]),
    "probe": (events.probe, None),
    "id": (events.list_events, events.Listing(limit=10, identifier="4711")),
    "newest": (events.list_events, events.Listing(limit=10)),
    "open a call": (ledger.open_entries, opening("order-9", "9")),
    "open it again": (ledger.open_entries, opening("order-1", "9", again=True)),
    "settle a call": (
        ledger.settle_entries,
        Settlement(opening=opening("order-9", "9"), state=CallState.PLACED, call_id="4719"),
    ),
    "withdraw a call": (ledger.withdraw_entries, opening("order-1", "9")),
    "a call by its id": (ledger.find_entries, ("4711", None)),
    "a call by ours": (ledger.find_entries, ("9", "order-2")),
    "a call's trace": (ledger.find_traces, ("9", "order-2")),
    "count waiting": (deliveries.count_waiting, ["handler", "other"]),
    "newest calls": (ledger.list_calls, CallListing(limit=10)),
    "purge calls": (ledger.purge_calls, 1 << 60),
    "count overdue calls": (ledger.count_overdue, None),
    "overdue calls": (overdue.look_for_overdue, 10),
}


@pytest.mark.parametrize("name", ASKED)
async def test_no_query_looks_through_a_table(name: str, tmp_path: Path) -> None:
    """Each query of the busy path finds its rows by an index, as SQLite itself says."""
    operation, argument = ASKED[name]

    def work(connection: Connection) -> list[tuple[str, str]]:
        claim = poll(connection, [Poll("us", {"handler": 1})])[0].claims[0]
        if name in {"settle", "renew"}:
            nobody = Claim(
                event_id="4712",
                handler="handler",
                fence=7,
                attempts=0,
                event=claim.event,
                receipt=put_of(body_of("4712")).receipt,
                kind=claim.kind,
            )
            given = [
                [Outcome(claim, State.DEAD), Outcome(nobody, State.DONE)]
                if name == "settle"
                else [[claim]]
            ][0]
        else:
            given = [argument]
        return _explained(connection, lambda: operation(connection, given))

    async with store_in(tmp_path) as store:
        await keep(store, body_of(outCallId="order-1"), {"handler": False})
        await keep(store, body_of("unrouted"))
        # One of each kind, so that no list of ids is empty: SQLite would scan that.
        await place(store, "4711", "order-1", missing_after=-1)
        await place(store, None, "order-2", state=CallState.UNKNOWN, missing_after=-1)
        await keep(store, body_of("4712", outCallId="order-2"))
        await place(store, None, "order-3", state=CallState.REFUSED)
        plans = await in_thread(store, work)
    assert plans
    for statement, plan in plans:
        is_in_order = re.fullmatch(r"SCAN (qmc_\w+)", plan) and (
            f"ORDER BY {plan.removeprefix('SCAN ')}.seq DESC" in statement
        )
        is_index = re.fullmatch(r"SCAN qmc_\w+ USING (COVERING )?INDEX qmc_\w+", plan)
        # What was found by an index, and is counted, is no table.
        assert (
            "SCAN" not in plan
            or is_index
            or plan == "SCAN some"
            or (name.startswith("newest") and is_in_order)
        ), plan
    if name == "due":
        shown = " ".join(plan for _, plan in plans)
        assert "qmc_deliveries_due" in shown
        assert "qmc_events_unrouted" in shown


def test_the_columns_of_the_index_suffice() -> None:
    """Each chunk of ids fits what the smallest database takes in one statement."""
    assert rows.CHUNK <= 999
