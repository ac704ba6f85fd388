"""From version 2 of the tables to version 3, which has the span by which a call was placed."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from callback_peer import select_in, url_in
from conformance import on_mariadb, on_servers
from ledger_support import opening, place
from sqlalchemy import event
from store_support import database_of, in_thread, store_in

from qmc_async import StoreError
from qmc_async.models import CallState
from qmc_async.store import Store, ledger, schema
from qmc_async.store.ladder import Ladder
from qmc_async.store.ledger import Opening
from qmc_async.store.salvage import Salvage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
COLUMNS = "SELECT name, type, \"notnull\" FROM pragma_table_info('qmc_calls') ORDER BY cid"
VERSION_2 = """
DROP TABLE qmc_calls;
CREATE TABLE qmc_calls (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, entry_id VARCHAR(255) NOT NULL,
    token VARCHAR(32) NOT NULL, out_call_id TEXT NOT NULL, call_key VARCHAR(255), call_id TEXT,
    caller TEXT NOT NULL, callee TEXT NOT NULL, state VARCHAR(16) NOT NULL,
    placed_at BIGINT NOT NULL, changed_at BIGINT NOT NULL, missing_after BIGINT NOT NULL,
    due_at BIGINT, fence INTEGER NOT NULL, looks INTEGER NOT NULL, error TEXT NOT NULL,
    UNIQUE (entry_id)
);
CREATE INDEX qmc_calls_placed_at ON qmc_calls (placed_at);
CREATE INDEX qmc_calls_call_key ON qmc_calls (call_key) WHERE call_key IS NOT NULL;
CREATE INDEX qmc_calls_due ON qmc_calls (due_at) WHERE due_at IS NOT NULL;
INSERT INTO qmc_calls VALUES (1, 'order-1', 't', 'order-1', '4711', '4711', 'a', 'b', 'placed',
    1690000000000, 1690000000000, 1000, NULL, 0, 0, '');
UPDATE qmc_schema SET version = 2;
"""
"""What the second version had of calls, word for word, and one of them."""


def traced(out_call_id: str, traceparent: str = PARENT) -> Opening:
    """A call that is about to be placed by a span."""
    one = opening(out_call_id, traceparent[-31:])
    return Opening(
        token=one.token,
        out_call_id=out_call_id,
        caller=one.caller,
        callee=one.callee,
        again=False,
        missing_after=one.missing_after,
        traceparent=traceparent,
    )


async def _make_version_2(folder: Path) -> None:
    async with store_in(folder):
        pass
    with closing(sqlite3.connect(folder / "qmc.db")) as file, file:
        file.executescript(VERSION_2)


async def test_a_file_of_version_2(tmp_path: Path) -> None:
    """Its calls stay, with nothing to link to; those that come have it, in the same columns."""
    await _make_version_2(tmp_path)
    async with store_in(tmp_path) as store:
        assert select_in(tmp_path, "SELECT version FROM qmc_schema") == [(schema.VERSION,)]
        entry = await store.ledger_entry(call_id="4711")
        assert entry is not None
        assert entry.state is CallState.PLACED
        assert await store.trace_of("4711", None) is None
        assert await store.open_entry(traced("order-2")) is None
        assert await store.trace_of(None, "order-2") == PARENT
    (tmp_path / "fresh").mkdir()
    async with store_in(tmp_path / "fresh"):
        pass
    assert select_in(tmp_path, COLUMNS) == select_in(tmp_path / "fresh", COLUMNS)


async def test_a_broken_file_of_either_version(tmp_path: Path) -> None:
    """What is copied from it keeps what it had to link to."""
    for name in ("2", "3", "fresh"):
        (tmp_path / name).mkdir()
    await _make_version_2(tmp_path / "2")
    async with store_in(tmp_path / "3") as store:
        assert await store.open_entry(traced("order-3")) is None
    async with store_in(tmp_path / "fresh") as store:
        for name in ("2", "3"):
            salvage = Salvage(tmp_path / name / "qmc.db")

            def copy(connection: Connection, salvage: Salvage = salvage) -> int:
                [(below, _)] = salvage.copy_some(connection, [None])
                return salvage.copy_some(connection, [below])[0][1]

            assert await in_thread(store, copy) == 1
        assert await store.trace_of(None, "order-1") is None
        assert await store.trace_of(None, "order-3") == PARENT


async def test_which_call_is_found(tmp_path: Path) -> None:
    """The same that the ledger's entry is of: a call of another id is not linked to."""
    async with store_in(tmp_path) as store:
        assert await store.open_entry(traced("order-1")) is None
        await place(store, "4712", "order-2")
        assert await store.trace_of("4711", "order-1") == PARENT
        assert await store.trace_of("4712", "order-2") is None
        assert await store.trace_of("4713", "order-9") is None
        together = [("4712", "order-2"), (None, "order-1"), ("4713", None), ("4711", "order-1")]
        asked = [store.trace_of(*ids) for ids in together]
        assert await asyncio.gather(*asked) == [None, PARENT, None, PARENT]


async def test_a_call_that_was_refused(tmp_path: Path) -> None:
    """Who uses its id again is linked to, and not the first; late news lose no link."""
    async with store_in(tmp_path) as store:
        refused = traced("order-1", PARENT.replace("-01", "-00"))
        assert await store.open_entry(refused) is None
        await store.settle_entry(ledger.Settlement(opening=refused, state=CallState.REFUSED))
        again = traced("order-1")
        assert await store.open_entry(again) is None
        assert await store.trace_of(None, "order-1") == PARENT
        await store.withdraw_entry(again)
        placed = ledger.Settlement(opening=again, state=CallState.PLACED, call_id="4711")
        await store.settle_entry(placed)
        assert await store.trace_of("4711", None) == PARENT


def _dies_after(store: Store, words: str) -> Callable[[], None]:
    """Have a store's process die once it has done a statement; returns what ends that."""

    def die(*arguments: object) -> None:
        if str(arguments[2]).startswith(words):
            raise RuntimeError("killed")

    engine = database_of(store)._made
    event.listen(engine, "after_cursor_execute", die)
    return lambda: event.remove(engine, "after_cursor_execute", die)


async def _make_tables_of_version_2(database: TestDatabase) -> None:
    async with Store(database.url, patience=30) as store:
        await place(store, "4711", "order-1")
    database.execute("ALTER TABLE qmc_calls DROP COLUMN traceparent")
    database.execute("UPDATE qmc_schema SET version = 2")


async def _check(database: TestDatabase) -> None:
    async with Store(database.url, patience=30) as store:
        assert database.select("SELECT version FROM qmc_schema") == [(schema.VERSION,)]
        assert await store.trace_of("4711", None) is None
        assert await store.open_entry(traced("order-2")) is None
        assert await store.trace_of(None, "order-2") == PARENT


@on_servers
async def test_tables_of_version_2(
    database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on a server."""
    monkeypatch.setenv("QMC_SPOOL", str(tmp_path / "spool"))
    await _make_tables_of_version_2(database)
    await _check(database)


@on_mariadb
async def test_who_dies_in_the_upgrade(
    database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL takes no column back: whoever comes next finds it there."""
    monkeypatch.setenv("QMC_SPOOL", str(tmp_path / "spool"))
    await _make_tables_of_version_2(database)
    store = Store(database.url, patience=30)
    live = _dies_after(store, "ALTER")
    with pytest.raises(RuntimeError, match="killed"):
        await store.open()
    live()
    assert database.select("SELECT version FROM qmc_schema") == [(2,)]
    await _check(database)


async def test_nobody_is_asked_for_links_while_the_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has other worries, and would be slow to answer."""
    async with Store(url_in(tmp_path)) as store:
        monkeypatch.setattr(Ladder, "problems", {"store": "it is away"})
        with pytest.raises(StoreError, match="other worries"):
            store.trace_of("4711", None)
