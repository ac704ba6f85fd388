"""What the conformance tests share: a promise is the same, whichever database keeps it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import until
from database_servers import KINDS
from store_support import in_thread, waiting

from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

ON_POSTGRESQL = [kind for kind in KINDS if kind in {"postgresql", "pgbouncer"}]
ON_MARIADB = [kind for kind in KINDS if kind == "mariadb"]

on_servers = pytest.mark.parametrize("database", ON_POSTGRESQL + ON_MARIADB, indirect=True)
on_postgresql = pytest.mark.parametrize("database", ON_POSTGRESQL, indirect=True)
# PgBouncer has users and sessions of its own.
on_servers_themselves = pytest.mark.parametrize(
    "database", [kind for kind in ON_POSTGRESQL + ON_MARIADB if kind != "pgbouncer"], indirect=True
)
on_mariadb = pytest.mark.parametrize("database", ON_MARIADB, indirect=True)


@asynccontextmanager
async def replica(
    database: TestDatabase,
    folder: Path,
    spool: str = "spool",
    **options: Any,  # noqa: ANN401 - any of the store's
) -> AsyncGenerator[Store]:
    """A store that waits long for its database, because the machine may be busy.

    Give each its own spool: they stand for machines.
    """
    with_defaults: dict[str, Any] = {"patience": 30.0} | options
    async with Store(database.url, spool=folder / spool, **with_defaults) as store:
        yield store


async def in_one_go(
    works: Mapping[Store, Sequence[Callable[[], Awaitable[Any]]]],
) -> list[Any]:
    """Have each store do all of its works in one transaction, and all stores at the same time."""
    go_on = threading.Event()
    for store in works:
        await _hold_up(store, go_on)
    try:
        asked = [asyncio.ensure_future(work()) for some in works.values() for work in some]
        await until(lambda: all(waiting(store) >= len(some) for store, some in works.items()))
    finally:
        go_on.set()
    return await asyncio.gather(*asked)


async def _hold_up(store: Store, go_on: threading.Event) -> None:
    """Have a store's thread stand still, outside of any transaction: SQLite has but one."""
    thread: Any = vars(store)["_rows"]
    commit = thread._commit
    begun = threading.Event()

    def wait(jobs: object) -> None:
        thread._commit = commit
        begun.set()
        go_on.wait(60)
        commit(jobs)

    thread._commit = wait
    asyncio.ensure_future(store.changes()).add_done_callback(lambda done: done.result())
    await until(begun.is_set)


@asynccontextmanager
async def in_transaction(
    store: Store, work: Callable[[Connection], object]
) -> AsyncGenerator[asyncio.Future[object]]:
    """Do something in a transaction that is open until the end; its result, once it is there."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(connection: Connection) -> object:
        done = work(connection)
        begun.set()
        go_on.wait(60)
        return done

    asked = asyncio.ensure_future(in_thread(store, hold))
    await until(begun.is_set)
    try:
        yield asked
    finally:
        go_on.set()
        await asyncio.wait((asked,))


def rows_in(database: TestDatabase, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    """Ask the database itself; ids are text, also where they stand in it as bytes."""
    return [
        tuple(one.decode() if isinstance(one, bytes) else one for one in row)
        for row in database.select(query, *arguments)
    ]


def ids_in(database: TestDatabase, query: str, *arguments: object) -> list[str]:
    """The first column."""
    return [row[0] for row in rows_in(database, query, *arguments)]


def deliveries_in(database: TestDatabase) -> list[tuple[Any, ...]]:
    """All of them: event, handler, state, attempts, fence, owner and error."""
    return rows_in(
        database,
        "SELECT event_id, handler, state, attempts, fence, owner, error FROM qmc_deliveries"
        " ORDER BY event_id, handler",
    )


def let_time_pass(database: TestDatabase, seconds: float) -> None:
    """Make all that is due, or leased, so much older: nobody can set a server's clock."""
    database.execute(
        "UPDATE qmc_deliveries SET due_at = due_at - ? WHERE due_at IS NOT NULL",
        int(seconds * 1000),
    )
