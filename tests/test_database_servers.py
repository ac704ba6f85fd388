"""The servers that the database tests stand on: what they do when they are killed and frozen."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from mariadb_server import MariadbServer
from pgbouncer import PgBouncer
from postgres_server import PostgresServer
from server_process import accepts, new_folder, wait_until
from sqlalchemy import create_engine, text

if TYPE_CHECKING:
    from database_servers import TestDatabase

pytest_plugins = ["database_servers"]

_SERVERS = ["postgresql", "mariadb"]
_on_servers = pytest.mark.parametrize("database", _SERVERS, indirect=True)


def _rows(database: TestDatabase) -> list[tuple[Any, ...]]:
    return database.select("SELECT id FROM t ORDER BY id")


@pytest.mark.parametrize("name", ["the first test's", "the next test's"])
def test_each_test_has_an_empty_database(database: TestDatabase, name: str) -> None:
    """What one test leaves is not there for the next, and the URL leads to what `select` sees."""
    engine = create_engine(database.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id VARCHAR(99))"))
        connection.execute(text("INSERT INTO t VALUES (:name)"), {"name": name})
    engine.dispose()
    database.execute("INSERT INTO t VALUES (?)", "100 %")
    assert database.select("SELECT id FROM t WHERE id <> ?", "100 %") == [(name,)]


@_on_servers
def test_a_database_is_emptied_whoever_holds_it(database: TestDatabase) -> None:
    """A session that an earlier test forgot, with its locks, is ended."""
    database.execute("CREATE TABLE t (id INTEGER)")
    engine = create_engine(database.url)
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
        database.server.empty_database("qmc")
        database.execute("CREATE TABLE t (id INTEGER)")
        connection.invalidate()
    engine.dispose()
    assert _rows(database) == []


@_on_servers
def test_committed_rows_survive_a_kill(database: TestDatabase) -> None:
    """A killed server is gone, with all its processes, and starts again with what was committed."""
    server = database.server
    database.execute("CREATE TABLE t (id INTEGER)")
    for number in range(3):
        database.execute("INSERT INTO t VALUES (?)", number)
        server.kill()
        assert not server.running
        assert not accepts(server.port)
        server.start()
    assert _rows(database) == [(0,), (1,), (2,)]
    server.restart()
    assert _rows(database) == [(0,), (1,), (2,)]


@_on_servers
def test_a_frozen_server_hangs_until_it_goes_on(database: TestDatabase) -> None:
    """A session that was open hangs, and ends as if nothing had been."""
    engine = create_engine(database.url)
    with ThreadPoolExecutor(1) as thread, engine.connect() as connection:
        asked = thread.submit(connection.scalar, text("SELECT 1"))
        assert asked.result(30) == 1
        database.server.freeze()
        asked = thread.submit(connection.scalar, text("SELECT 2"))
        with pytest.raises(TimeoutError):
            asked.result(0.3)
        assert accepts(database.server.port)
        database.server.thaw()
        assert asked.result(30) == 2
    engine.dispose()


@_on_servers
def test_a_server_left_frozen_can_be_ended(database: TestDatabase) -> None:
    """Neither stopping nor killing nor starting one needs to know that it is frozen."""
    server = database.server
    for end in (server.kill, server.stop):
        server.freeze()
        end()
        assert not accepts(server.port)
        server.start()
    server.freeze()
    server.start()
    assert database.select("SELECT 1") == [(1,)]


@_on_servers
def test_a_setting_is_changed_for_a_while(database: TestDatabase) -> None:
    """New sessions see it, until it is as before."""
    server = database.server
    if isinstance(server, PostgresServer):
        query, name, value, usual = "SHOW fsync", "fsync", "off", "on"
        with server.configured({name: value}):
            assert server.execute(query) == [(value,)]
        assert server.execute(query) == [(usual,)]
    else:
        name = "innodb_flush_log_at_trx_commit"
        with server.configured({name: 0}):
            assert server.execute(f"SELECT @@{name}") == [(0,)]
        assert server.execute(f"SELECT @@{name}") == [(1,)]


@pytest.mark.parametrize("kind", _SERVERS)
def test_a_server_takes_settings(kind: str) -> None:
    """Those that need a start, too."""
    server: PostgresServer | MariadbServer
    if kind == "postgresql":
        name, server = "max_connections", PostgresServer({"max_connections": "42"})
    else:
        if reason := MariadbServer.missing_reason():
            pytest.skip(reason)
        name, server = "@@max_connections", MariadbServer({"max-connections": "42"})
    with server:
        shown = server.execute(f"SHOW {name}" if kind == "postgresql" else f"SELECT {name}")
        assert [int(value) for (value,) in shown] == [42]
        folder = server.folder
    assert not folder.exists()


def test_a_promoted_standby_has_what_was_committed() -> None:
    """A commit waits for the synchronous standby, which lacks nothing when the primary dies."""
    with PostgresServer() as primary, primary.standby() as standby:
        primary.create_database("orders")
        primary.execute("CREATE TABLE t (id INTEGER)", database="orders")
        standby.freeze()
        insert = "INSERT INTO t VALUES (1)"
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(primary.execute, insert, database="orders")
            with pytest.raises(TimeoutError):
                asked.result(0.3)
            standby.thaw()
            asked.result(30)
        primary.kill()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            standby.execute("CREATE TABLE t (id INTEGER)")
        standby.promote()
        engine = create_engine(primary.failover_url(standby, "orders"))
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO t VALUES (2)"))
        engine.dispose()
        assert standby.execute("SELECT id FROM t ORDER BY id", database="orders") == [(1,), (2,)]


def test_an_asynchronous_standby_holds_nobody_up() -> None:
    """A commit does not wait for it; it follows."""
    with PostgresServer() as primary, primary.standby(synchronous=False) as standby:
        standby.freeze()
        primary.execute("CREATE TABLE t (id INTEGER)")
        standby.thaw()
        wait_until(lambda: standby.execute("SELECT to_regclass('t')") != [(None,)], "not followed")


def test_pgbouncer_shares_one_session_among_clients(postgres_server: PostgresServer) -> None:
    """In transaction mode a client that does nothing keeps no session of the server."""
    if reason := PgBouncer.missing_reason():
        pytest.skip(reason)
    postgres_server.start()
    with PgBouncer(postgres_server, {"default_pool_size": "1"}) as bouncer:
        url = bouncer.url_of("postgres").replace("+psycopg", "")
        with (
            psycopg.connect(url, autocommit=True) as one,
            psycopg.connect(url, autocommit=True) as other,
        ):
            sessions = {
                client.execute("SELECT pg_backend_pid()").fetchall()[0][0]
                for client in (one, other, one, other)
            }
        assert len(sessions) == 1


@pytest.mark.parametrize("database", ["pgbouncer"], indirect=True)
def test_a_database_behind_pgbouncer(database: TestDatabase, pgbouncer: PgBouncer) -> None:
    """The URL leads through PgBouncer, `select` past it."""
    assert database.kind == "postgresql"
    engine = create_engine(database.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    engine.dispose()
    assert f":{pgbouncer.port}/" in database.url
    pgbouncer.kill()
    assert _rows(database) == []


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of a skipped test names the program."""

    def nothing(*_: object, **__: object) -> None:
        return

    monkeypatch.setattr("server_process.shutil.which", nothing)
    assert "mariadbd" in (MariadbServer.missing_reason() or "")
    assert "pgbouncer" in (PgBouncer.missing_reason() or "")


def test_a_server_outlives_the_thread_that_started_it() -> None:
    """A test may start one with `asyncio.to_thread`."""
    server = PostgresServer()
    try:
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        assert server.execute("SELECT 1") == [(1,)]
        assert server.running
    finally:
        server.close()


_ABANDONED = """
import sys
from postgres_server import PostgresServer
server = PostgresServer()
server.start()
print(server.pid, server.port, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is missing")
def test_a_server_ends_with_the_tests() -> None:
    """Also where these are killed."""
    folder = new_folder("abandoned")
    tests = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", _ABANDONED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder)},
    )
    assert tests.stdout is not None
    try:
        pid, port = tests.stdout.readline().split()
        tests.send_signal(signal.SIGKILL)
        tests.communicate(timeout=30)
        wait_until(lambda: not accepts(int(port)), f"the server {pid} lives on")
    finally:
        shutil.rmtree(folder)
