"""The tables on a server: made once, upgraded once, and left alone by who only looks."""

# pyright: reportPrivateUsage=false
# (a fault is put where it hurts)
from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, until
from conformance import ids_in, on_mariadb, on_postgresql, on_servers, replica
from sqlalchemy import create_engine, event, inspect, make_url, text
from store_support import Process, database_of, hurry_spool, keep, names_in, never_late, put_of

from qmc_async import CallbackServer, ConfigError
from qmc_async.store import Kind, Store, schema, server_database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

TABLES = {"qmc_events", "qmc_deliveries", "qmc_calls", "qmc_schema"}
VERSION = "SELECT version FROM qmc_schema"


@pytest.fixture(autouse=True)
def _spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for other processes."""
    monkeypatch.setenv("QMC_SPOOL", str(tmp_path / "spool"))


def _tables(database: TestDatabase) -> set[str]:
    where = "DATABASE()" if database.kind == "mariadb" else "'public'"
    return set(
        ids_in(
            database,
            f"SELECT table_name FROM information_schema.tables WHERE table_schema = {where}",  # noqa: S608 - no input
        )
    )


def _indexes(database: TestDatabase) -> set[str | None]:
    engine = create_engine(database.url)
    with engine.connect() as connection:
        seen = inspect(connection)
        found = {one["name"] for table in TABLES for one in seen.get_indexes(table)}
    engine.dispose()
    return found


INDEXES = {"qmc_events_out_call_id", "qmc_events_unrouted", "qmc_events_received_at"} | {
    "qmc_deliveries_due",
    "qmc_calls_call_id",
}


@on_servers
async def test_an_empty_database(database: TestDatabase) -> None:
    """It gets tables, with their indexes and version; nothing is changed the next time."""
    for _ in range(2):
        async with Store(database.url, patience=30) as store:
            await keep(store, body_of())
        assert _tables(database) == TABLES
        assert _indexes(database) >= INDEXES
        assert database.select(VERSION) == [(schema.VERSION,)]
    assert database.select("SELECT count(*) FROM qmc_events") == [(1,)]


@on_servers
async def test_a_newer_version_is_refused(database: TestDatabase) -> None:
    """A clear error before the port opens; the tables stay as the newer version wrote them."""
    async with Store(database.url):
        database.execute("UPDATE qmc_schema SET version = 99")
    for visiting in (False, True):
        with pytest.raises(ConfigError, match=r"newer version of qmc-async.*version 99") as caught:
            await Store(database.url, visiting=visiting).open()
        assert caught.value.setting == "store"
    server = CallbackServer(store=database.url, port=0)
    with pytest.raises(ConfigError):
        await server.start()
    with pytest.raises(RuntimeError, match="port is not known"):
        assert server.url
    assert database.select(VERSION) == [(99,)]


@on_servers
async def test_a_newer_version_while_it_runs(
    database: TestDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A replica that connects again to tables that it does not know spools until it is updated."""
    hurry_spool(monkeypatch)
    async with replica(database, tmp_path) as store:
        database.execute("UPDATE qmc_schema SET version = 99")
        database_of(store).close()  # as after a failure
        assert await store.keep(put_of(body_of()), never_late) is None
        assert "newer version of qmc-async" in caplog.text
        database.execute("UPDATE qmc_schema SET version = 1")
        await until(lambda: not store.problems)
    assert ids_in(database, "SELECT event_id FROM qmc_events") == ["4711"]


# --- who only looks ----------------------------------------------------------------------------


@on_servers
async def test_looking_makes_nothing(database: TestDatabase) -> None:
    """Where there is no store, or an older one, that is said, and nothing is changed."""
    visitor = Store(database.url, visiting=True)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"^store: there are no tables.*start a server"):
            await visitor.open()
        assert _tables(database) == set()
    async with Store(database.url):
        database.execute("UPDATE qmc_schema SET version = 0")
    with pytest.raises(ConfigError, match=r"found version 0.*start a server"):
        await visitor.open()
    assert database.select(VERSION) == [(0,)]


@on_servers
async def test_looking_beside_a_server(database: TestDatabase, tmp_path: Path) -> None:
    """A visitor sees what is there, has no spool, and can be opened again."""
    visitor = Store(database.url, visiting=True)
    async with replica(database, tmp_path) as store:
        for number in range(2):
            await keep(store, body_of(str(number)), {})
            async with visitor:
                found, _ = await visitor.find(["0", "1"])
                assert len(found) == number + 1
    assert names_in(tmp_path) == ["spool"]


# --- upgrades ----------------------------------------------------------------------------------


def _add(column: str) -> Callable[[Connection], None]:
    def upgrade(connection: Connection) -> None:
        connection.execute(text(f"ALTER TABLE qmc_calls ADD COLUMN {column} INTEGER"))

    return upgrade


@on_servers
async def test_older_tables_are_upgraded(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One version after the other, from where they stand, with what is in them."""
    async with Store(database.url, patience=30) as store:
        await keep(store, body_of())
    monkeypatch.setattr(schema, "VERSION", 3)
    monkeypatch.setattr(server_database, "VERSION", 3)
    monkeypatch.setattr(schema, "UPGRADES", {1: _add("two"), 2: _add("three")})
    async with Store(database.url, patience=30) as store:
        assert (await keep(store, body_of())).kind is None
    assert database.select(VERSION) == [(3,)]
    assert database.select("SELECT two, three FROM qmc_calls") == []


def _mistake(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE qmc_nothing ADD COLUMN x INTEGER"))


@on_servers
async def test_an_upgrade_that_fails(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server says of it is told, and the version stays."""
    async with Store(database.url, patience=30) as store:
        await keep(store, body_of())
    with monkeypatch.context() as patch:
        patch.setattr(schema, "VERSION", 2)
        patch.setattr(server_database, "VERSION", 2)
        patch.setattr(schema, "UPGRADES", {1: _mistake})
        with pytest.raises(ConfigError, match="qmc_nothing"):
            await Store(database.url).open()
    assert database.select(VERSION) == [(1,)]
    async with Store(database.url, patience=30) as store:
        assert (await keep(store, body_of())).kind is None


@on_postgresql
async def test_an_upgrade_that_fails_leaves_the_tables(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing, where the database can: MySQL commits each change of a table at once."""
    async with Store(database.url):
        pass
    monkeypatch.setattr(schema, "VERSION", 3)
    monkeypatch.setattr(server_database, "VERSION", 3)
    monkeypatch.setattr(schema, "UPGRADES", {1: _add("two"), 2: _mistake})
    with pytest.raises(ConfigError, match="qmc_nothing"):
        await Store(database.url).open()
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'qmc_calls'"
    assert "two" not in ids_in(database, columns)


# --- several at once ---------------------------------------------------------------------------


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


@on_servers
def test_processes_make_the_tables_together(database: TestDatabase) -> None:
    """Replicas that start for the first time, all at once, make one store."""
    processes = [Process(OPEN, database.url) for _ in range(2)]
    for process in processes:
        assert process.line() == "ready"
    for process in processes:
        process.say()
    assert [process.line() for process in processes] == ["done"] * 2
    for process in processes:
        process.end()
    assert database.select(VERSION) == [(1,)]
    assert _tables(database) == TABLES
    assert _indexes(database) >= INDEXES


@on_servers
@pytest.mark.parametrize("found", ["nothing", "an older version"])
async def test_many_that_start_at_once(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    """The tables are made, or upgraded, once; whoever comes later waits, and finds it done."""
    if found == "nothing":
        version = 1
    else:
        version = 2
        async with Store(database.url):
            database.execute("CREATE TABLE qmc_upgrades (n INTEGER)")

        def upgrade(connection: Connection) -> None:
            connection.execute(text("INSERT INTO qmc_upgrades VALUES (1)"))

        for module in (schema, server_database):
            monkeypatch.setattr(module, "VERSION", 2)
        monkeypatch.setattr(schema, "UPGRADES", {1: upgrade})
    stores = [Store(database.url) for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))
    assert database.select(VERSION) == [(version,)]
    if version > 1:
        assert database.select("SELECT count(*) FROM qmc_upgrades") == [(1,)]


@on_postgresql
async def test_who_waits_for_an_upgrade_waits_long(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than for a row: whoever makes an index of a large table takes its time."""
    begin = text(str(server_database._BEGIN["postgresql"]).replace("'3s'", "'20ms'"))
    monkeypatch.setitem(server_database._BEGIN, "postgresql", begin)
    key = server_database._LOCK_ID
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    engine = create_engine(database.url)
    with ThreadPoolExecutor(1) as thread, engine.connect() as another:
        another.execute(text(f"SELECT pg_advisory_xact_lock({key})"))

        def let_go() -> None:
            while not database.select(waits):
                pass
            database.select("SELECT pg_sleep(0.2)")
            another.rollback()

        done = thread.submit(let_go)
        async with Store(database.url):
            assert _tables(database) == TABLES
        done.result(30)
    engine.dispose()


@on_mariadb
async def test_who_waits_for_an_upgrade_in_vain(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody changes the tables while another one may be doing so."""
    lock = str(server_database._LOCK["mysql"])
    monkeypatch.setitem(server_database._LOCK, "mysql", text(lock.replace("25", "0.02")))
    engine = create_engine(database.url)
    with engine.connect() as another:
        another.execute(text(lock))
        with pytest.raises(ConfigError, match="another process is still changing the tables"):
            await Store(database.url).open()
        assert _tables(database) == set()
    engine.dispose()


@on_mariadb
@pytest.mark.parametrize("after", [1, 2, 4, 7])
async def test_who_dies_while_making_the_tables(database: TestDatabase, after: int) -> None:
    """Whoever comes next goes on, wherever that was: MySQL takes no table back."""
    made: list[str] = []

    def die(*arguments: object) -> None:
        if str(arguments[2]).strip().startswith("CREATE"):
            made.append(str(arguments[2]))
            if len(made) == after:
                raise RuntimeError("killed")

    store = Store(database.url, patience=30)
    engine = vars(store)["_database"]._made
    event.listen(engine, "after_cursor_execute", die)
    with pytest.raises(RuntimeError, match="killed"):
        await store.open()
    event.remove(engine, "after_cursor_execute", die)
    async with store:
        assert (await keep(store, body_of())).kind is Kind.DISCONNECTED
    assert _tables(database) == TABLES
    assert _indexes(database) >= INDEXES
    assert database.select(VERSION) == [(1,)]


# --- what a user may not do --------------------------------------------------------------------


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_user_who_may_not_make_tables(database: TestDatabase) -> None:
    """What the server says of it is told."""
    for statement in ("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN"):
        database.execute(statement)
    database.execute("GRANT USAGE ON SCHEMA public TO reader")
    url = make_url(database.url).set(username="reader").render_as_string()
    try:
        with pytest.raises(ConfigError, match="permission denied for schema public"):
            await Store(url).open()
    finally:
        database.execute("DROP OWNED BY reader")
        database.execute("DROP ROLE reader")
