"""What the tests of the ledger and of the watchdog share."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from callback_peer import select_in, url_in
from faulty_platform import APP_ID, SECRET
from sqlalchemy.exc import OperationalError
from store_support import database_of

from qmc_async import AsyncQmcClient
from qmc_async.models import CallState
from qmc_async.store.ledger import Opening, Settlement

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    import pytest
    from faulty_platform import FaultyPlatform

    from qmc_async import Call, LedgerEntry
    from qmc_async.store import Store

NUMBERS = ("13987654321", "13912345678")
MASKED = ("139****4321", "139****5678")
HOSTILE_IDS = (
    "~",
    "a~b",
    "a~" + "0" * 32,
    "~~" + "0" * 64,
    "😀" * 64,
    "100% _'\";--",
    "号码",
    "é",
    "A",
    "a",
)
"""Each a different `out_call_id`, whatever a database may think of them."""


def client_of(url: str, store: Store | str | None, **options: Any) -> AsyncQmcClient:  # noqa: ANN401 - any of the client's
    """A client of the platform at `url`, with a ledger."""
    with_defaults: dict[str, Any] = {"base_url": url, "record_base_url": url} | options
    return AsyncQmcClient(APP_ID, SECRET, store=store, **with_defaults)


def states_in(folder: Path) -> dict[str, str]:
    """The state of each call, by what it is written down under, from the file itself."""
    return dict(select_in(folder, "SELECT entry_id, state FROM qmc_calls ORDER BY seq"))


def opening(
    out_call_id: str = "order-1",
    token: str = "1",  # noqa: S107 - no password
    *,
    again: bool = False,
    missing_after: int = 1000,
) -> Opening:
    """A call that is about to be placed; its token is told from others' by any text."""
    return Opening(
        token=token.rjust(32, "0"),
        out_call_id=out_call_id,
        caller=MASKED[0],
        callee=MASKED[1],
        again=again,
        missing_after=missing_after,
    )


async def place(
    store: Store,
    call_id: str | None = "4711",
    out_call_id: str = "order-1",
    *,
    again: bool = False,
    state: CallState = CallState.PLACED,
    missing_after: int = 1000,
) -> Opening:
    """Write a call down, and what became of it, as a client does."""
    token = call_id or f"of {out_call_id}"
    one = opening(out_call_id, token[:32], again=again, missing_after=missing_after)
    assert await store.open_entry(one) is None
    await store.settle_entry(Settlement(opening=one, state=state, call_id=call_id))
    return one


# --- clients that place calls ------------------------------------------------------------------


@asynccontextmanager
async def calling(
    platform: FaultyPlatform,
    folder: Path,
    **options: Any,  # noqa: ANN401 - any of the client's
) -> AsyncGenerator[AsyncQmcClient]:
    """A client of a platform, with a ledger in a folder."""
    async with client_of(platform.url, url_in(folder), **options) as client:
        yield client


async def call(
    client: AsyncQmcClient, out_call_id: str = "order-1", *, again: bool = False
) -> Call:
    """Place one."""
    return await client.call(*NUMBERS, out_call_id=out_call_id, again=again)


async def entry_of(client: AsyncQmcClient, out_call_id: str = "order-1") -> LedgerEntry:
    """What a client's ledger has of a call."""
    entry = await store_of(client).ledger_entry(out_call_id=out_call_id)
    assert entry is not None
    return entry


def store_of(client: AsyncQmcClient) -> Store:
    """Where a client's ledger is."""
    assert client.store is not None
    return client.store


def unwritten_in(client: AsyncQmcClient) -> set[object]:
    """What a client has yet to write down."""
    unwritten: set[object] = vars(client)["_ledger"]._unwritten
    return unwritten


def fail_for_ever(client: AsyncQmcClient) -> None:
    """Have the database of a client fail from now on, as a broken disk does."""
    fail(client, 1_000_000)


def fail(client: AsyncQmcClient, times: int) -> None:
    """Have the database of a client fail so often, and then work again."""
    database = database_of(store_of(client))
    transact = database._transact
    left = [None] * times

    def transact_or_fail(jobs: object) -> None:
        if left:
            left.pop()
            raise OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error"))
        transact(jobs)

    database._transact = transact_or_fail


def hurry_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the database, and between two tries, for milliseconds."""
    monkeypatch.setattr("qmc_async.ledger._TRIED_EVERY", 0.01)
    monkeypatch.setattr("qmc_async.ledger._SETTLED_WITHIN", 0.02)
