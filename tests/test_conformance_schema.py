"""The tables on a server: made once, upgraded once, and left alone by who only looks."""

# pyright: reportPrivateUsage=false
# (a fault is put where it hurts)
from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, until
from conformance import ids_in, on_mariadb, on_postgresql, on_servers, replica
from ledger_support import place
from sqlalchemy import create_engine, event, inspect, make_url, text
from store_support import Process, database_of, hurry_spool, keep, names_in, never_late, put_of

from qmc_async import CallbackServer, ConfigError
from qmc_async.models import CallState
from qmc_async.store import Kind, Store, schema, server_database

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

TABLES = {"qmc_events", "qmc_deliveries", "qmc_calls", "qmc_schema"}
VERSION = "SELECT version FROM qmc_schema"
NOW = schema.VERSION


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
    "qmc_calls_call_key",
    "qmc_calls_due",
    "qmc_calls_placed_at",
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
        database.execute("UPDATE qmc_schema SET version = ?", NOW)
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


@contextmanager
def _dying(store: Store, words: tuple[str, ...], after: int) -> Generator[None]:
    """Fail after so many of the statements that begin with one of these words."""
    made: list[str] = []

    def die(*arguments: object) -> None:
        if str(arguments[2]).strip().startswith(words):
            made.append(str(arguments[2]))
            if len(made) == after:
                raise RuntimeError("killed")

    engine = database_of(store)._made
    event.listen(engine, "after_cursor_execute", die)
    yield
    event.remove(engine, "after_cursor_execute", die)


def _know(
    patch: pytest.MonkeyPatch, version: int, upgrades: Mapping[int, Callable[[Connection], None]]
) -> None:
    """Be a version of this library that is to come."""
    for module in (schema, server_database):
        patch.setattr(module, "VERSION", version)
    patch.setattr(schema, "UPGRADES", upgrades)


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
    _know(monkeypatch, NOW + 2, {NOW: _add("one"), NOW + 1: _add("two")})
    async with Store(database.url, patience=30) as store:
        assert (await keep(store, body_of())).kind is None
    assert database.select(VERSION) == [(NOW + 2,)]
    assert database.select("SELECT one, two FROM qmc_calls") == []


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
        _know(patch, NOW + 1, {NOW: _mistake})
        with pytest.raises(ConfigError, match="qmc_nothing"):
            await Store(database.url).open()
    assert database.select(VERSION) == [(NOW,)]
    async with Store(database.url, patience=30) as store:
        assert (await keep(store, body_of())).kind is None


@on_postgresql
async def test_an_upgrade_that_fails_leaves_the_tables(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing, where the database can: MySQL commits each change of a table at once."""
    async with Store(database.url):
        pass
    _know(monkeypatch, NOW + 2, {NOW: _add("one"), NOW + 1: _mistake})
    with pytest.raises(ConfigError, match="qmc_nothing"):
        await Store(database.url).open()
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'qmc_calls'"
    assert "one" not in ids_in(database, columns)


VERSION_1 = """
DROP TABLE qmc_calls;
CREATE TABLE qmc_calls (
    out_call_id VARCHAR(250) NOT NULL PRIMARY KEY, call_id VARCHAR(250),
    caller VARCHAR(32) NOT NULL, callee VARCHAR(32) NOT NULL, state VARCHAR(16) NOT NULL,
    placed_at BIGINT NOT NULL, changed_at BIGINT NOT NULL
);
CREATE INDEX qmc_calls_call_id ON qmc_calls (call_id);
UPDATE qmc_schema SET version = 1
"""
"""What makes the tables those of the first release: they had another `qmc_calls`."""


async def _use_as_the_first_release(database: TestDatabase) -> list[object]:
    async with Store(database.url, patience=30) as store:
        await keep(store, body_of("4711", outCallId="order-1"), {"handler": False})
        await keep(store, b"\xff\0")
    for statement in VERSION_1.split(";"):
        database.execute(statement)
    return _kept_in(database)


def _kept_in(database: TestDatabase) -> list[object]:
    tables = ("qmc_events", "qmc_deliveries")
    return [database.select(f"SELECT * FROM {table} ORDER BY 1") for table in tables]  # noqa: S608 - no input


async def _check_ledger(store: Store) -> None:
    """A call can be written down, and its end is known by what version 1 has kept."""
    await place(store, "4711", "order-1")
    entry = await store.ledger_entry(out_call_id="order-1")
    assert entry is not None
    assert entry.state is CallState.ENDED


@on_servers
async def test_tables_of_the_first_release(database: TestDatabase) -> None:
    """Events and deliveries stay as they are; the ledger is made, with all of its indexes."""
    before = await _use_as_the_first_release(database)
    async with Store(database.url, patience=30) as store:
        assert _kept_in(database) == before
        assert database.select(VERSION) == [(NOW,)]
        assert _indexes(database) >= INDEXES
        assert "qmc_calls_call_id" not in _indexes(database)
        await _check_ledger(store)


@on_servers
@pytest.mark.parametrize("after", [1, 2, 3, 5])
async def test_who_dies_while_making_the_ledger(database: TestDatabase, after: int) -> None:
    """Whoever comes next makes it, wherever that was: MySQL takes no table back."""
    before = await _use_as_the_first_release(database)
    store = Store(database.url, patience=30)
    with _dying(store, ("DROP", "CREATE"), after), pytest.raises(RuntimeError, match="killed"):
        await store.open()
    assert database.select(VERSION) == [(1,)]
    async with store:
        assert _kept_in(database) == before
        assert _indexes(database) >= INDEXES
        await _check_ledger(store)
    assert database.select(VERSION) == [(NOW,)]


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
    assert database.select(VERSION) == [(NOW,)]
    assert _tables(database) == TABLES
    assert _indexes(database) >= INDEXES


@on_servers
@pytest.mark.parametrize("found", ["nothing", "an older version"])
async def test_many_that_start_at_once(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    """The tables are made, or upgraded, once; whoever comes later waits, and finds it done."""
    version = NOW
    if found != "nothing":
        version = NOW + 1
        async with Store(database.url):
            database.execute("CREATE TABLE qmc_upgrades (n INTEGER)")

        def upgrade(connection: Connection) -> None:
            connection.execute(text("INSERT INTO qmc_upgrades VALUES (1)"))

        _know(monkeypatch, version, {NOW: upgrade})
    stores = [Store(database.url) for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))
    assert database.select(VERSION) == [(version,)]
    if version > NOW:
        assert database.select("SELECT count(*) FROM qmc_upgrades") == [(1,)]


@on_servers
async def test_a_first_start_whose_commit_is_slow(database: TestDatabase) -> None:
    """Whoever starts meanwhile waits until that is done, and does not do it again."""
    first, second = Store(database.url), Store(database.url)
    slept: list[bool] = []

    def sleep(connection: Connection) -> None:
        if not slept and inspect(connection).has_table("qmc_schema"):
            slept.append(True)
            time.sleep(1)

    event.listen(database_of(first)._made, "commit", sleep)
    starting = asyncio.ensure_future(first.open())
    await until(lambda: slept)
    await asyncio.gather(starting, second.open())
    await asyncio.gather(first.close(), second.close())
    assert database.select(VERSION) == [(NOW,)]
    async with Store(database.url) as store:
        assert await store.count_pending() == 0


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
@pytest.mark.parametrize("after", [1, 2, 4, 7, 12])
async def test_who_dies_while_making_the_tables(database: TestDatabase, after: int) -> None:
    """Whoever comes next goes on, wherever that was: MySQL takes no table back."""
    store = Store(database.url, patience=30)
    with _dying(store, ("CREATE",), after), pytest.raises(RuntimeError, match="killed"):
        await store.open()
    async with store:
        assert (await keep(store, body_of())).kind is Kind.DISCONNECTED
    assert _tables(database) == TABLES
    assert _indexes(database) >= INDEXES
    assert database.select(VERSION) == [(NOW,)]


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
