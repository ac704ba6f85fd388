"""The database's clock decides leases and what is due: a replica's own may be wrong by a day."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from callback_peer import alone, body_of, hurry, until
from conformance import deliveries_in, let_time_pass, on_servers, replica
from store_support import keep

from qmc_async.store import State, Store
from qmc_async.store.records import LEASE, LONGEST_DELAY, Outcome, Poll

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from database_servers import TestDatabase

DAY = 86_400_000  # milliseconds
DUE = "SELECT due_at, changed_at FROM qmc_deliveries WHERE handler = ?"


def _now(database: TestDatabase) -> int:
    """What the database's clock says, in another way than the store asks for it."""
    [(now,)] = database.select(
        "SELECT TIMESTAMPDIFF(SECOND, '1970-01-01', UTC_TIMESTAMP()) * 1000"
        if database.kind == "mariadb"
        else "SELECT floor(extract(epoch FROM now())) * 1000"
    )
    return int(now)


either_way = pytest.mark.parametrize("off", [-DAY, DAY], ids=["behind", "ahead"])


def _put_off(monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    """Be wrong to all that asks this machine for the time."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + off * 1_000_000)


@pytest.fixture
def _wrong_clock(off: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _put_off(monkeypatch, off)


@pytest.fixture
async def store(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store."""
    async with replica(database, tmp_path) as store:
        yield store


def _is_at(database: TestDatabase, handler: str, began: int, after: float) -> None:
    """A delivery is due so many seconds after something that was done since `began`."""
    [(due_at, changed_at)] = database.select(DUE, handler)
    ended = _now(database) + 1000
    assert began <= due_at - after * 1000 <= ended
    assert began <= changed_at <= ended


@on_servers
@either_way
@pytest.mark.usefixtures("_wrong_clock")
async def test_times_are_the_databases(store: Store, database: TestDatabase) -> None:
    """Of a first lease, of what waits, of a lease that is taken, renewed, and of a retry."""
    began = _now(database)
    await keep(store, body_of("1"), {"at once": True, "later": False})
    _is_at(database, "at once", began, LEASE)
    _is_at(database, "later", began, 0)
    [claim] = (await store.poll(Poll("us", {"later": 1}))).claims
    _is_at(database, "later", began, LEASE)
    let_time_pass(database, LEASE / 2)
    await store.renew([claim])
    _is_at(database, "later", began, LEASE)
    retry = Outcome(claim, State.PENDING, delay=600.0, failed=True)
    assert await store.settle(retry)
    _is_at(database, "later", began, 600)
    let_time_pass(database, 600)
    [claim] = (await store.poll(Poll("us", {"later": 1}))).claims
    assert await store.settle(Outcome(claim, State.DEAD))
    assert await store.replay("1") == ["later"]
    _is_at(database, "later", began, 0)
    await keep(store, body_of("2"), None)
    await store.route({"2": ["routed"]})
    _is_at(database, "routed", began, 0)


@on_servers
@either_way
async def test_a_lease_lasts_for_a_replica_whose_clock_is_wrong(
    database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    """Neither does it take what another one holds, nor does it wait for what is due."""
    async with replica(database, tmp_path, "right") as right:
        await keep(right, body_of("1"), {"handler": True, "other": False}, right.owner)
        _put_off(monkeypatch, off)
        async with replica(database, tmp_path, "wrong") as wrong:
            wanted = Poll(wrong.owner, {"handler": 5, "other": 5})
            assert [one.handler for one in (await wrong.poll(wanted)).claims] == ["other"]
            let_time_pass(database, LEASE)
            claims = (await wrong.poll(wanted)).claims
            assert [one.handler for one in claims] == ["handler", "other"]


@on_servers
@either_way
@pytest.mark.usefixtures("_wrong_clock")
async def test_no_step_is_undone_that_was_none(store: Store, database: TestDatabase) -> None:
    """A replica with a wrong clock does not take the longest wait for one that is too long."""
    await keep(store, body_of("1"), {"handler": True})
    await keep(store, body_of("2"), {"handler": False})
    [claim] = (await store.poll(Poll("us", {"handler": 1}))).claims
    assert claim.event_id == "2"
    delay = LONGEST_DELAY
    assert await store.settle(Outcome(claim, State.PENDING, delay=delay, failed=True))
    before = database.select(DUE, "handler")
    await store.undo_clock_steps(["handler"])
    assert database.select(DUE, "handler") == before


@on_servers
@either_way
@pytest.mark.usefixtures("_wrong_clock")
async def test_handlers_run_whatever_the_clock_says(
    database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose clock is wrong hands on what comes, and what another process has left."""
    hurry(monkeypatch)
    async with replica(database, tmp_path) as store:
        await keep(store, body_of("left"), {}, "us")
        database.execute("UPDATE qmc_events SET routed = (1 = 0)")
        async with alone(store=store) as there:
            assert (await there.post(body_of("1"))).status == 200
            await until(lambda: len(there.ended) == 2)
            await until(lambda: {row[2] for row in deliveries_in(database)} == {"done"})
    assert sorted(event.call_id for event in there.ended) == ["1", "left"]
