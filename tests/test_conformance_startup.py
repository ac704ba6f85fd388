"""What a server must be and have before the port opens: nothing is accepted that may be lost."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, messages
from conformance import on_mariadb, on_postgresql, on_servers, on_servers_themselves, replica
from mariadb_server import MariadbServer
from postgres_server import PostgresServer
from server_process import wait_until
from store_support import keep

from qmc_async import CallbackServer, ConfigError
from qmc_async.store import State, Store
from qmc_async.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from database_servers import TestDatabase

ALONE = "the database has no synchronous standby: if its machine is lost, so is what it holds"
MAY_LOSE = "the database server may lose what it"


async def is_refused(url: str, *said: str) -> None:
    """No server starts there, and that is said before the port opens."""
    server = CallbackServer(store=url, port=0)
    with pytest.raises(ConfigError, match=r"^store: ") as caught:
        await server.start()
    assert caught.value.setting == "store"
    for one in said:
        assert one in str(caught.value)
    with pytest.raises(RuntimeError, match="the port is not known"):
        assert server.url


@pytest.fixture(autouse=True)
def _spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMC_SPOOL", str(tmp_path / "spool"))


# --- settings that lose what is committed ------------------------------------------------------


@on_postgresql
@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
async def test_postgresql_that_may_lose_commits(
    database: TestDatabase, tmp_path: Path, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused, by the setting's name and with the remedy; or used, with a warning."""
    assert isinstance(database.server, PostgresServer)
    with database.server.configured({setting: "off"}):
        await is_refused(database.url, f"({setting}=off)", "allow_data_loss=True")
        assert not messages(caplog, logging.WARNING)
        async with replica(database, tmp_path, allow_data_loss=True) as store:
            await keep(store, body_of())
        [warning] = messages(caplog, logging.WARNING)
        assert warning == f"{MAY_LOSE} commits: {setting}=off"
    async with replica(database, tmp_path):
        pass
    assert messages(caplog, logging.WARNING)[1:] == [ALONE]


@on_postgresql
async def test_a_setting_of_the_database_alone(database: TestDatabase) -> None:
    """It is what our session has that counts."""
    database.execute("ALTER DATABASE qmc SET synchronous_commit = off")
    await is_refused(database.url, "(synchronous_commit=off)")


@on_mariadb
@pytest.mark.parametrize("value", [0, 2])
async def test_mariadb_that_may_lose_commits(
    database: TestDatabase, tmp_path: Path, value: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused, by the setting's name and with the remedy; or used, with a warning."""
    name = "innodb_flush_log_at_trx_commit"
    assert isinstance(database.server, MariadbServer)
    with database.server.configured({name: value}):
        await is_refused(database.url, f"({name}={value})", "allow_data_loss=True")
        async with replica(database, tmp_path, allow_data_loss=True) as store:
            await keep(store, body_of())
    assert messages(caplog, logging.WARNING) == [f"{MAY_LOSE} commits: {name}={value}"]


@on_mariadb
async def test_mariadb_that_syncs_more_often(database: TestDatabase) -> None:
    """3 is as safe as 1."""
    assert isinstance(database.server, MariadbServer)
    with database.server.configured({"innodb_flush_log_at_trx_commit": 3}):
        async with Store(database.url):
            pass


@on_mariadb
async def test_mariadb_with_a_binary_log(database: TestDatabase) -> None:
    """What is not in it yet, the server takes back as it recovers; pages may be torn."""
    assert database.kind == "mariadb"
    settings = {"log-bin": "log", "sync-binlog": "0", "innodb-doublewrite": "0", "server-id": "1"}
    with MariadbServer(settings) as server:
        url = server.create_database("qmc")
        await is_refused(url, "innodb_doublewrite=OFF", "sync_binlog=0")
        server.execute("SET GLOBAL sync_binlog = 1")
        with pytest.raises(ConfigError) as caught:
            await Store(url).open()
        assert "sync_binlog" not in str(caught.value)
        async with Store(url, allow_data_loss=True):
            pass


# --- characters --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["EUC_CN", "LATIN1"])
async def test_an_encoding_that_lacks_characters(
    postgres_server: PostgresServer, encoding: str
) -> None:
    """What it cannot keep would never get out of the spool."""
    postgres_server.start()
    with _encoded(postgres_server, encoding) as url:
        await is_refused(url, f"encoding is {encoding}", "ENCODING 'UTF8'")


async def _keeps_any_character(url: str) -> None:
    async with Store(url, patience=30) as store:
        kept = await keep(store, body_of("北京 😀 é", outCallId="客户 😀"), {"处理 😀": True})
        [claim] = kept.claims
        assert await store.settle(Outcome(claim, State.DEAD, failed=True, error="错误 😀"))
        assert list((await store.find([], ["客户 😀"]))[1]) == ["客户 😀"]
        [letter] = await store.dead_letters()
        assert (letter.event_id, letter.handler) == ("北京 😀 é", "处理 😀")
        assert letter.error == "错误 😀"


async def test_an_encoding_that_is_none(postgres_server: PostgresServer) -> None:
    """It keeps bytes, and they are ours."""
    postgres_server.start()
    with _encoded(postgres_server, "SQL_ASCII") as url:
        await _keeps_any_character(url)


@on_servers
@pytest.mark.parametrize("encoding", ["utf8", "gbk", "latin1"])
async def test_an_encoding_in_the_url(database: TestDatabase, encoding: str) -> None:
    """It changes nothing: it was meant for another library."""
    option = "charset" if database.kind == "mariadb" else "client_encoding"
    await _keeps_any_character(f"{database.url}?{option}={encoding}")


@contextmanager
def _encoded(server: PostgresServer, encoding: str) -> Generator[str]:
    """The URL of a database of its own."""
    server.execute(f"CREATE DATABASE encoded ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        yield server.url_of("encoded")
    finally:
        server.execute("DROP DATABASE encoded WITH (FORCE)")


# --- a machine that is lost --------------------------------------------------------------------


@on_servers
async def test_no_standby(database: TestDatabase, caplog: pytest.LogCaptureFixture) -> None:
    """That one machine holds everything is worth a warning."""
    async with Store(database.url):
        assert messages(caplog, logging.WARNING) == [ALONE]


@on_mariadb
async def test_a_semi_synchronous_replica(
    database: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """With one there is no warning."""
    assert isinstance(database.server, MariadbServer)
    with database.server.configured({"rpl_semi_sync_master_enabled": 1}):
        async with Store(database.url):
            assert not messages(caplog, logging.WARNING)


@on_postgresql
async def test_a_synchronous_standby(
    database: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """With one there is no warning; itself it is refused, and found by its primary's side."""
    assert database.kind == "postgresql"
    with PostgresServer() as primary, primary.standby() as standby:
        url = primary.create_database("qmc")
        async with Store(url):
            assert not messages(caplog, logging.WARNING)
        primary.execute("ALTER DATABASE qmc SET synchronous_commit = local")
        async with Store(url):
            assert messages(caplog, logging.WARNING) == [ALONE]
        primary.execute("ALTER DATABASE qmc RESET ALL")
        made = "SELECT 1 FROM pg_database WHERE datname = 'qmc'"
        wait_until(lambda: standby.execute(made), "the standby does not follow")
        await is_refused(standby.url_of("qmc"), "takes no writes", "target_session_attrs")
        async with Store(primary.failover_url(standby, "qmc"), patience=30) as store:
            await keep(store, body_of())
        kept = "SELECT event_id FROM qmc_events"
        assert primary.execute(kept, database="qmc") == [("4711",)]
        wait_until(lambda: standby.execute(kept, database="qmc"), "the standby does not follow")
        async with Store(standby.failover_url(primary, "qmc"), visiting=True) as visitor:
            assert len((await visitor.find(["4711"]))[0]) == 1


@on_servers_themselves
async def test_a_server_that_takes_no_writes(database: TestDatabase) -> None:
    """Whether it stands by, or was told so."""
    async with Store(database.url):
        pass
    server = database.server
    if isinstance(server, MariadbServer):
        with server.configured({"read_only": 1}):
            await is_refused(database.url, "takes no writes")
    else:
        database.execute("ALTER DATABASE qmc SET default_transaction_read_only = on")
        await is_refused(database.url, "takes no writes")


@on_servers
async def test_looking_into_it_all_the_same(
    database: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """Who only looks does not ask how safe it is, and warns of nothing."""
    async with Store(database.url):
        caplog.clear()
    server = database.server
    setting: dict[str, Any] = (
        {"innodb_flush_log_at_trx_commit": 0}
        if isinstance(server, MariadbServer)
        else {"fsync": "off"}
    )
    with server.configured(setting):
        async with Store(database.url, visiting=True) as visitor:
            assert await visitor.count_pending() == 0
    assert not messages(caplog, logging.WARNING)
