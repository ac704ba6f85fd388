"""Whoever stands still in the middle of a transaction holds nobody up for ever."""

# pyright: reportPrivateUsage=false
# (a fault is put where it hurts)
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, hurry, until
from conformance import deliveries_in, ids_in, in_transaction, on_servers, replica
from sqlalchemy import create_engine, text
from store_support import hurry_spool, keep, never_late, put_of

from qmc_async.store import Kind, State, deliveries, events, server_database
from qmc_async.store.records import Claim, Outcome, Poll

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

IDS = "SELECT event_id FROM qmc_events ORDER BY event_id"
INSERT = (
    "INSERT INTO qmc_events (event_id, kind, received_at, receipt_id, problem, body, routed)"
    " VALUES ('1', 'disconnected', 1, 'x', '', '', (1 = 1))"
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits as long as in earnest: for a lock, and until a transaction is ended."""
    hurry(monkeypatch)
    hurry_spool(monkeypatch)
    begin = str(server_database._BEGIN["postgresql"])
    for before, after in {"'3s'": "'300ms'", "'5s'": "'800ms'"}.items():
        assert before in begin
        begin = begin.replace(before, after)
    monkeypatch.setitem(server_database._BEGIN, "postgresql", text(begin))
    options = dict(server_database._CONNECT["mysql"])
    for name in ("innodb_lock_wait_timeout", "idle_transaction_timeout"):
        words = options["init_command"].partition(f"{name} = ")
        options["init_command"] = "".join((*words[:2], "1", words[2][1:]))
    monkeypatch.setitem(server_database._CONNECT, "mysql", options)


@on_servers
@pytest.mark.parametrize("then", ["rolls back", "commits"])
async def test_a_stranger_who_holds_an_id(
    database: TestDatabase, tmp_path: Path, then: str
) -> None:
    """Its notification goes to the spool, then to the database; no thread hangs."""
    engine = create_engine(database.url)
    async with replica(database, tmp_path) as store:
        with engine.connect() as stranger:
            stranger.execute(text(INSERT))
            assert await store.keep(put_of(body_of("1"), {"h": True}), never_late) is None
            if then == "commits":
                stranger.commit()
        await until(lambda: not store.problems and ids_in(database, IDS))
    engine.dispose()
    kinds = [kind for (kind,) in database.select("SELECT kind FROM qmc_events ORDER BY kind")]
    if then == "commits":  # with other content
        assert kinds == ["conflict", "disconnected"]
    else:
        assert kinds == ["disconnected"]
        assert [row[:4] for row in deliveries_in(database)] == [("1", "h", "pending", 0)]


@on_servers
async def test_a_replica_that_stands_still(database: TestDatabase, tmp_path: Path) -> None:
    """The server ends its transaction: another one keeps the same, and it finds that known."""

    def insert(connection: Connection) -> object:
        return events.put(connection, [put_of(body_of("1"), {"h": True}, "frozen")])[0].kind

    async with (
        replica(database, tmp_path, "frozen") as frozen,
        replica(database, tmp_path, "other") as other,
    ):
        async with in_transaction(frozen, insert) as done:
            await other.keep(put_of(body_of("1"), {"h": True}, "other"), print)
            await until(lambda: ids_in(database, IDS))
        assert await done is None
        await until(lambda: not other.problems)
    assert [row[:2] for row in deliveries_in(database)] == [("1", "h")]


@on_servers
async def test_a_replica_that_stands_still_with_leases(
    database: TestDatabase, tmp_path: Path
) -> None:
    """What it was about to lease, others lease; what it was about to settle is settled once."""
    async with (
        replica(database, tmp_path, "frozen") as frozen,
        replica(database, tmp_path, "other") as other,
    ):
        for call_id in "12":
            await keep(other, body_of(call_id), {"h": False})
        [mine] = (await frozen.poll(Poll("frozen", {"h": 1}))).claims

        def work(connection: Connection) -> object:
            polled = deliveries.poll(connection, [Poll("frozen", {"h": 1})])[0]
            return polled.claims, deliveries.settle(connection, [Outcome(mine, State.DONE)])

        async with in_transaction(frozen, work) as done:
            claims: Sequence[Claim] = ()
            while not claims:
                claims = (await other.poll(Poll("other", {"h": 1}))).claims
        assert await done == ([], [True])
        assert await other.settle(Outcome(claims[0], State.DONE))
        assert {row[2] for row in deliveries_in(database)} == {"done"}
        assert (await keep(frozen, body_of("1"))).kind is None
        assert (await keep(other, body_of("3"))).kind is Kind.DISCONNECTED
