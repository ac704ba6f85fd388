"""Two replicas of one database that place calls under the same ids at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest
from conformance import ids_in, in_one_go, in_transaction, on_servers, replica, rows_in
from ledger_support import HOSTILE_IDS, opening, place

from qmc_async.models import CallState
from qmc_async.store import Store, ledger
from qmc_async.store.ledger import Settlement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

    from qmc_async.models import LedgerEntry
    from qmc_async.store.ledger import Opening

WAITS = {
    "postgresql": "SELECT 1 FROM pg_locks WHERE NOT granted",
    "mariadb": "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}
"""Answers with something while somebody waits for a row."""

NAMES = [*HOSTILE_IDS, *(f"order-{number}" for number in range(20))]


@pytest.fixture
async def stores(database: TestDatabase, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Two replicas, each with a connection and a thread of its own."""
    if database.kind == "postgresql":  # it looks for dead-locks once a second otherwise
        database.execute("ALTER DATABASE qmc SET deadlock_timeout = '20ms'")
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(replica(database, tmp_path, name))
            for name in ("one", "other")
        ]
        yield one, other


async def _open(store: Store, one: Opening) -> LedgerEntry | None:
    return await store.open_entry(one)


async def _open_all_at_once(
    stores: tuple[Store, Store], *, again: bool = False
) -> list[tuple[LedgerEntry | None, LedgerEntry | None]]:
    """Each opens all, in opposite orders; what each was told, by the order of `NAMES`."""
    works = {
        store: [partial(_open, store, opening(name, token, again=again)) for name in names]
        for store, token, names in zip(stores, "12", (NAMES, NAMES[::-1]), strict=True)
    }
    got: list[LedgerEntry | None] = await in_one_go(works)
    return list(zip(got[: len(NAMES)], got[len(NAMES) :][::-1], strict=True))


async def test_new_ids(stores: tuple[Store, Store], database: TestDatabase) -> None:
    """Exactly one may place the call of each, the other is told of it, and nobody gets an error."""
    for name, told in zip(NAMES, await _open_all_at_once(stores), strict=True):
        [entry] = [one for one in told if one is not None]
        assert (entry.out_call_id, entry.state) == (name, CallState.PLACING)
    assert rows_in(database, "SELECT count(*) FROM qmc_calls") == [(len(NAMES),)]


async def test_ids_that_were_refused(stores: tuple[Store, Store], database: TestDatabase) -> None:
    """Exactly one takes the place of each, and the other is told that it is being placed now."""
    for name in NAMES:
        one = opening(name, "0")
        await stores[0].open_entry(one)
        await stores[0].settle_entry(Settlement(opening=one, state=CallState.REFUSED))
    for name, told in zip(NAMES, await _open_all_at_once(stores), strict=True):
        [entry] = [one for one in told if one is not None]
        assert (entry.out_call_id, entry.state) == (name, CallState.PLACING)
    assert rows_in(database, "SELECT count(*) FROM qmc_calls") == [(len(NAMES),)]


async def test_ids_that_may_be_used_again(
    stores: tuple[Store, Store], database: TestDatabase
) -> None:
    """Both place a call of each, and each has its own entry."""
    assert await _open_all_at_once(stores, again=True) == [(None, None)] * len(NAMES)
    rows = rows_in(database, "SELECT out_call_id, token FROM qmc_calls")
    expected = {(name, token.rjust(32, "0")) for name in NAMES for token in "12"}
    assert len(rows) == len(expected)
    assert set(rows) == expected


@on_servers
@pytest.mark.parametrize("before", ["nothing", "refused"])
async def test_one_that_another_is_just_opening(
    stores: tuple[Store, Store], database: TestDatabase, before: str
) -> None:
    """Whoever comes second waits for the first one's commit, and is told of its call."""
    one, other = stores
    if before == "refused":
        await place(one, None, state=CallState.REFUSED)

    def work(connection: Connection) -> list[LedgerEntry | None]:
        return ledger.open_entries(connection, [opening(token="1")])

    async with in_transaction(one, work) as opened:
        asked = other.open_entry(opening(token="2"))
        async with asyncio.timeout(20):
            while not database.select(WAITS[database.kind]):  # noqa: ASYNC110 - a server has no Event
                await asyncio.sleep(0.12)  # MariaDB looks no sooner: whoever asks gets old answers
        assert not asked.done()
    assert await opened == [None]
    entry = await asked
    assert entry is not None
    assert entry.state is CallState.PLACING
    assert ids_in(database, "SELECT token FROM qmc_calls") == ["1".rjust(32, "0")]
