"""Who waits on one replica is woken by what another one keeps."""

# pyright: reportPrivateUsage=false
# (a fault is put where it hurts)
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from callback_peer import body_of, hurry, until
from conformance import in_one_go, replica
from sqlalchemy import make_url, text
from store_support import database_of, in_thread, keep

from qmc_async import CallbackServer
from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from database_servers import TestDatabase

# Behind PgBouncer nothing is heard.
on_listening = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
LISTENERS = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = 'qmc'"
SUCCESS = 30.0  # seconds; whoever waits so long is not woken


@pytest.fixture
async def sides(
    database: TestDatabase, tmp_path: Path
) -> AsyncIterator[tuple[CallbackServer, Store]]:
    """A server that somebody waits on, and another replica's store."""
    here = Store(database.url, spool=tmp_path / "here", patience=30)
    async with (
        CallbackServer(store=here, port=0, shutdown_timeout=0.2) as server,
        replica(database, tmp_path, "there") as there,
    ):
        yield server, there


# --- any database ------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["call_id", "out_call_id"])
async def test_waiting_across_replicas(
    sides: tuple[CallbackServer, Store], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was kept before, or while somebody waits, and whether there is time to wait."""
    hurry(monkeypatch)
    server, there = sides
    names = ["1", "2"] if key == "call_id" else ["order-1", "order-2"]
    asked: list[dict[str, Any]] = [{"call" if key == "call_id" else key: name} for name in names]
    await keep(there, body_of("1", outCallId="order-1"))
    assert (await server.wait_for(**asked[0], timeout=SUCCESS)).call_id == "1"
    assert (await server.wait_for(**asked[0], timeout=0)).call_id == "1"
    waiting = asyncio.ensure_future(server.wait_for(**asked[1], timeout=SUCCESS))
    await asyncio.sleep(0)
    await keep(there, body_of("2", outCallId="order-2"))
    assert (await waiting).out_call_id == "order-2"


async def test_five_hundred_that_wait(
    sides: tuple[CallbackServer, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are woken by one batch, whose ids fill more than one message."""
    monkeypatch.setattr("qmc_async.callback.waiting._TICK", 0.05)
    server, there = sides
    names = [f"{number:064}" for number in range(500)]
    waiting = [asyncio.ensure_future(server.wait_for(name, timeout=SUCCESS)) for name in names]
    await asyncio.sleep(0)
    await in_one_go({there: [lambda name=name: keep(there, body_of(name)) for name in names]})  # type: ignore[misc]  # its default
    events = await asyncio.gather(*waiting)
    assert [event.call_id for event in events] == names


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_user_with_one_session(
    database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the store's: nothing is heard, and who waits is woken all the same."""
    hurry(monkeypatch)
    monkeypatch.setattr("qmc_async.store.bell._TRIED_EVERY", 0.01)
    for statement in (
        "DROP ROLE IF EXISTS poor",
        "CREATE ROLE poor LOGIN CONNECTION LIMIT 1",
        "GRANT ALL ON SCHEMA public TO poor",
    ):
        database.execute(statement)
    url = make_url(database.url).set(username="poor").render_as_string()
    store = Store(url, spool=tmp_path / "spool", patience=30)
    try:
        async with CallbackServer(store=store, port=0) as server:
            waiting = asyncio.ensure_future(server.wait_for("1", timeout=SUCCESS))
            async with replica(database, tmp_path, "there") as there:
                await keep(there, body_of("1"))
                assert (await waiting).call_id == "1"
            assert not store.is_heard
    finally:
        database.execute("DROP OWNED BY poor")
        database.execute("DROP ROLE poor")


# --- where the database tells ------------------------------------------------------------------


@pytest.fixture
def _never_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking into the store for all who wait happens once an hour."""
    monkeypatch.setattr("qmc_async.callback.waiting._TICK", 3600.0)
    monkeypatch.setattr("qmc_async.callback.waiting._HEARD_TICK", 3600.0)


async def _wait(server: CallbackServer, database: TestDatabase, **asked: Any) -> asyncio.Task[Any]:  # noqa: ANN401 - as `wait_for` takes it
    """Begin to wait, and have looked into the store in vain."""
    await until(lambda: database.select(LISTENERS))
    waiting: Any = vars(server)["_waiting"]
    task = asyncio.create_task(server.wait_for(**asked, timeout=SUCCESS))
    # Its own first look, and the one after the connection was made, are over.
    await until(lambda: waiting._futures and not waiting._new and not waiting._must_look)
    await vars(server)["_store"].changes()
    await asyncio.sleep(0.02)
    assert not task.done()
    return task


NAMES = ["4711", "x" * 300, "a~b", "~", "😀" * 60, "quote \" \\ '", "北京"]


@on_listening
@pytest.mark.usefixtures("_never_looking")
@pytest.mark.parametrize("key", ["call", "out_call_id"])
async def test_a_bell(
    sides: tuple[CallbackServer, Store], database: TestDatabase, key: str
) -> None:
    """Whatever the id is, it wakes who waits for it without a look into the store."""
    server, there = sides
    for name in NAMES:
        waiting = await _wait(server, database, **{key: name})
        await keep(there, body_of(f"another than {name}", outCallId="another one"))
        ids = {"call_id": name} if key == "call" else {"outCallId": name}
        await keep(there, body_of(**({"call_id": f"of {name}"} | ids)))
        event = await waiting
        assert name == (event.call_id if key == "call" else event.out_call_id)


@on_listening
@pytest.mark.usefixtures("_never_looking")
async def test_whoever_is_deaf_for_a_while(
    sides: tuple[CallbackServer, Store], database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it hears again, it looks for all who wait."""
    monkeypatch.setattr("qmc_async.store.bell._TRIED_EVERY", 0.02)
    server, there = sides
    waiting = await _wait(server, database, call="4711")
    listeners = [pid for (pid,) in database.select(LISTENERS)]
    database.server.execute("ALTER DATABASE qmc ALLOW_CONNECTIONS false")
    for pid in listeners:
        database.server.execute("SELECT pg_terminate_backend(%s, 30000)", pid)
    await keep(there, body_of("4711"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert not server._store.is_heard
    database.server.execute("ALTER DATABASE qmc ALLOW_CONNECTIONS true")
    assert (await waiting).call_id == "4711"
    await until(lambda: len(database.select(LISTENERS)) == 2)


@on_listening
@pytest.mark.usefixtures("_never_looking")
async def test_what_strangers_say(
    sides: tuple[CallbackServer, Store], database: TestDatabase
) -> None:
    """Anybody can ring, with any words: what is said by ours is heard all the same."""
    server, there = sides
    waiting = await _wait(server, database, call="4711")
    before = database.select(LISTENERS)
    for payload in ("nonsense", "", "5", "null", "[5]", '"4711"', '{"4711": 1}', "[null, []]"):
        database.select("SELECT pg_notify('qmc_stored', ?)", payload)
    await until(lambda: server._store.is_heard)
    await keep(there, body_of("4711"))
    assert (await waiting).call_id == "4711"
    assert sorted(database.select(LISTENERS)) == sorted(before)


@on_listening
async def test_what_is_said(sides: tuple[CallbackServer, Store], database: TestDatabase) -> None:
    """Ids, and nothing else of what came: of ends of calls only, and only of new ones."""
    _, there = sides
    url = database.url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("LISTEN qmc_stored")
        secret = "13912345678"
        await keep(there, body_of("1", outCallId="order", caller=secret, reason=secret))
        await keep(there, body_of("1", outCallId="order", caller=secret, reason=secret))
        await keep(there, body_of("1", outCallId="order", reason="Other"))
        await keep(there, body_of("2", status="Ringing"))
        await keep(there, b"?")
        await keep(there, body_of("3"))
        heard = [one.payload for one in listener.notifies(timeout=SUCCESS, stop_after=2)]
    assert [sorted(eval(payload)) for payload in heard] == [["1", "order"], ["3"]]  # noqa: S307 - ours


@on_listening
async def test_whoever_only_looks_does_not_listen(database: TestDatabase, tmp_path: Path) -> None:
    """A command line costs the server one session."""
    async with replica(database, tmp_path):
        await until(lambda: database.select(LISTENERS))
        async with Store(database.url, visiting=True) as visitor:
            await visitor.count_pending()
            assert len(database.select(LISTENERS)) == 1
    await until(lambda: database.select(LISTENERS) == [])  # the server takes a moment


@on_listening
async def test_how_often_it_is_looked(
    sides: tuple[CallbackServer, Store], database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bell makes it seldom, and without one it is often."""

    def look_every(unheard: float, heard: float) -> None:
        monkeypatch.setattr("qmc_async.callback.waiting._TICK", unheard)
        monkeypatch.setattr("qmc_async.callback.waiting._HEARD_TICK", heard)

    monkeypatch.setattr("qmc_async.store.bell._TRIED_EVERY", 3600.0)
    look_every(0.01, 0.01)
    server, there = sides
    store: Any = vars(server)["_store"]
    looks: list[object] = []
    changes = store.changes

    async def count() -> object:
        looks.append(None)
        return await changes()

    monkeypatch.setattr(store, "changes", count)
    waiting = asyncio.create_task(server.wait_for("never", timeout=SUCCESS))
    await until(lambda: database.select(LISTENERS))
    await keep(there, body_of("1"))
    await until(lambda: store.is_heard)
    look_every(3600.0, 0.01)
    looks.clear()
    await until(lambda: len(looks) > 5)
    look_every(0.01, 3600.0)
    for (pid,) in database.select(LISTENERS):
        database.select("SELECT pg_terminate_backend(?, 30000)", pid)
    await until(lambda: not store.is_heard)
    # The look that is waited for was put off while it was heard.
    vars(server)["_waiting"].look_for(None)
    looks.clear()
    await until(lambda: len(looks) > 5)
    waiting.cancel()


@on_listening
@pytest.mark.usefixtures("_never_looking")
async def test_an_encoding_in_the_url(database: TestDatabase, tmp_path: Path) -> None:
    """It changes nothing in what is heard."""
    url = f"{database.url}?client_encoding=latin1"
    here = Store(url, spool=tmp_path / "here", patience=30)
    async with (
        CallbackServer(store=here, port=0, shutdown_timeout=0.2) as server,
        replica(database, tmp_path, "there") as there,
    ):
        waiting = await _wait(server, database, call="北京 😀")
        await keep(there, body_of("北京 😀"))
        assert (await waiting).call_id == "北京 😀"


@on_listening
async def test_what_the_stores_own_connection_hears(
    sides: tuple[CallbackServer, Store], database: TestDatabase
) -> None:
    """Nothing of it is hoarded, if PgBouncer makes a listener of it."""
    _, there = sides
    await in_thread(there, lambda connection: connection.execute(text("LISTEN qmc_stored")))
    for number in range(3):
        await keep(there, body_of(str(number)))
    driver = database_of(there)._connection.connection.driver_connection
    assert not driver._notifies_backlog
    assert database.select("SELECT count(*) FROM qmc_events") == [(3,)]
