"""Sessions that end, servers that restart, die and stand still: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import glob
from typing import TYPE_CHECKING

import pytest
from callback_peer import alone, body_of, hurry, messages, until
from conformance import (
    deliveries_in,
    ids_in,
    in_transaction,
    on_servers,
    on_servers_themselves,
    replica,
)
from store_support import hurry_spool, keep, put_of

from qmc_async.store import Kind, State, Store, events
from qmc_async.store.events import Listing
from qmc_async.store.records import Outcome, Poll

if TYPE_CHECKING:
    from pathlib import Path

    from callback_peer import Listening
    from database_servers import TestDatabase
    from sqlalchemy import Connection

IDS = "SELECT event_id FROM qmc_events"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    hurry_spool(monkeypatch)


def _end_sessions(database: TestDatabase) -> None:
    """As an administrator does, or a proxy that has had enough."""
    if database.kind == "mariadb":
        query = "SELECT id FROM information_schema.processlist WHERE db = 'qmc'"
        for (session,) in database.server.execute(query):
            database.server.execute(f"KILL {session}")
    else:
        database.server.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = 'qmc'"
        )


@on_servers
async def test_sessions_that_end_between_two_transactions(
    database: TestDatabase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is asked for next is done, on another one, and nobody notices."""
    async with replica(database, tmp_path) as store:
        _end_sessions(database)
        kept = await keep(store, body_of("1", outCallId="order"), {"a": True, "b": False})
        assert kept.kind is Kind.DISCONNECTED
        _end_sessions(database)
        assert await store.settle(Outcome(kept.claims[0], State.DEAD, failed=True, error="why"))
        _end_sessions(database)
        [claim] = (await store.poll(Poll("us", {"b": 1}))).claims
        _end_sessions(database)
        await store.renew([claim])
        _end_sessions(database)
        assert list((await store.find(["1"], ["order"]))[1]) == ["order"]
        _end_sessions(database)
        assert len((await store.list_events(Listing(limit=5)))[0]) == 1
        _end_sessions(database)
        assert await store.replay("1") == ["a"]
        assert not store.problems
    assert len(deliveries_in(database)) == 2
    assert not [one for one in caplog.records if one.levelname in {"ERROR", "CRITICAL"}]


@on_servers
async def test_a_session_that_ends_within_a_transaction(
    database: TestDatabase, tmp_path: Path
) -> None:
    """What it was about to keep is kept by the next one, once."""

    def insert(connection: Connection) -> object:
        return events.put(connection, [put_of(body_of("1"), {"handler": True})])[0].kind

    async with replica(database, tmp_path) as store:
        async with in_transaction(store, insert) as done:
            _end_sessions(database)
        assert await done is Kind.DISCONNECTED
    assert [row[:2] for row in deliveries_in(database)] == [("1", "handler")]


@on_servers
async def test_a_restart_between_two_notifications(
    database: TestDatabase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one simply succeeds."""
    async with replica(database, tmp_path) as store:
        await keep(store, body_of("1"))
        await asyncio.to_thread(database.server.restart)
        assert (await keep(store, body_of("1"))).kind is None
        assert (await keep(store, body_of("2"))).kind is Kind.DISCONNECTED
        assert not store.problems
    assert not [one for one in caplog.records if one.levelname in {"ERROR", "CRITICAL"}]


class _Load:
    """Notifications that come one after the other, from several senders, and all are answered."""

    def __init__(self, there: Listening) -> None:
        self._there = there
        self._goes_on = True
        self.sent: list[str] = []
        self.statuses: set[int] = set()
        self._senders = [asyncio.create_task(self._send(name)) for name in "abcd"]

    async def _send(self, name: str) -> None:
        while self._goes_on:
            self.sent.append(f"{name}-{len(self.sent)}")
            body = body_of(self.sent[-1], outCallId=f"order-{self.sent[-1]}")
            self.statuses.add((await self._there.post(body)).status)
            await asyncio.sleep(0.03)

    async def more(self) -> None:
        """Wait until some more have come."""
        enough = len(self.sent) + 30
        await until(lambda: len(self.sent) > enough)

    async def end(self) -> None:
        """Send no more; all were answered with success."""
        self._goes_on = False
        await asyncio.gather(*self._senders)
        assert self.statuses == {200}


@on_servers
@pytest.mark.timeout(150)
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_server_that_goes_away_under_load(
    database: TestDatabase,
    tmp_path: Path,
    how: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each notification is answered with success all the while, stored once, and handled once."""
    monkeypatch.setattr("qmc_async.store.deliveries.LEASE", 5.0)
    monkeypatch.setattr("qmc_async.callback.dispatcher._RENEWED_EVERY", 1.0)
    server = database.server
    leave, come = (server.kill, server.start) if how == "killed" else (server.freeze, server.thaw)
    async with (
        replica(database, tmp_path, patience=0.2) as store,
        alone(store=store) as there,
    ):
        load = _Load(there)
        waiting = asyncio.create_task(there.server.wait_for("a-0", timeout=30))
        await load.more()
        await asyncio.to_thread(leave)
        await load.more()
        assert list(there.server.problems) == ["store"]
        never = asyncio.create_task(there.server.wait_for("never", timeout=0))
        await load.more()
        await asyncio.to_thread(come)
        await until(lambda: not there.server.problems)
        await load.more()
        await load.end()
        done = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
        # What was leased by a commit whose answer was lost is ours again when the lease ends.
        await until(lambda: database.select(done) == [(len(load.sent),)], seconds=90)
        assert (await waiting).call_id == "a-0"
        with pytest.raises(TimeoutError):
            await never
    assert sorted(ids_in(database, IDS)) == sorted(load.sent)
    assert sorted(event.call_id for event in there.ended) == sorted(load.sent)
    assert "the store is back" in caplog.text
    assert not messages(caplog, 50)
    assert not glob.glob(f"{tmp_path}/**/*.damaged", recursive=True)  # noqa: PTH207 - a path's own is not for coroutines


@on_servers_themselves
async def test_a_server_that_is_away_when_we_stop(database: TestDatabase, tmp_path: Path) -> None:
    """What is in the spool is there for the next start."""
    async with replica(database, tmp_path, patience=0.2) as store, alone(store=store) as there:
        database.server.kill()
        assert (await there.post(body_of("1"))).status == 200
    database.server.start()
    assert ids_in(database, IDS) == []
    async with replica(database, tmp_path) as store, alone(store=store) as there:
        await until(lambda: there.ended)
    assert ids_in(database, IDS) == ["1"]


@on_servers
async def test_a_server_that_stands_still_when_we_stop(
    database: TestDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It keeps nobody from ending: what it was to do is left to it, and the store opens again."""
    monkeypatch.setattr("qmc_async.store.store._LONGEST_CLOSE", 0.1)
    store = Store(database.url, spool=tmp_path / "spool", patience=0.1)
    async with store:
        await asyncio.to_thread(database.server.freeze)
        assert await store.keep(put_of(body_of("1")), print) is None
    assert "the store did not close" in caplog.text
    await asyncio.to_thread(database.server.thaw)
    async with store:
        await until(lambda: ids_in(database, IDS))
    assert ids_in(database, IDS) == ["1"]
