"""The database's machine is lost for good, and its standby takes over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from database_servers import TestDatabase
from fault_load import Load, replicas_of
from fault_platform import calls
from fault_scene import FULL, until
from postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

CALLS = 5_000 if FULL else 300
RATE = 150  # calls in a second
NAME = "qmc"


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    """A server of the test's own, because it is not started again."""
    if reason := PostgresServer.missing_reason():
        pytest.skip(reason)
    with PostgresServer() as server:
        server.create_database(NAME)
        yield server


@pytest.fixture
def standby(primary: PostgresServer) -> Iterator[PostgresServer]:
    """Has all that the primary has committed."""
    server = primary.standby()
    try:
        yield server
    finally:
        server.close()


@pytest.mark.timeout(60 + CALLS / 20)
async def test_primary_lost(
    scene: Scene,
    primary: PostgresServer,
    standby: PostgresServer,
    figure: Callable[[str], None],
) -> None:
    """Under load, with one URL for both: nothing is lost, every wait ends, and all go on."""
    url = primary.failover_url(standby, NAME)
    scene.store = TestDatabase("postgresql", url, primary)
    replicas = await replicas_of(scene, 2)
    load = Load(scene, replicas, rate=RATE)
    reporting = asyncio.create_task(load.report("call", CALLS))
    await load.until(CALLS // 3)
    async with load.watched("the primary"):
        await asyncio.to_thread(primary.kill)
        # As long as it takes whoever watches over them to be sure.
        await asyncio.sleep(1)
        await asyncio.to_thread(standby.promote)
        scene.store = TestDatabase("postgresql", url, standby)
    await reporting
    figure(
        f"2 replicas, {RATE} calls a second, the PostgreSQL primary killed for good, its "
        f"synchronous standby promoted 1 s later: {await load.end()}"
    )


async def test_standby_behind(
    scene: Scene, primary: PostgresServer, standby: PostgresServer
) -> None:
    """What has not reached the standby stays in the spool, also where the primary shows it."""
    url = primary.failover_url(standby, NAME)
    scene.store = TestDatabase("postgresql", url, primary)
    # Leases as they are in life: nobody looks for the delivery before the spool is forwarded.
    server = await scene.start(lease=0)
    await asyncio.to_thread(standby.kill)
    await scene.platform.post(server.url, calls("late", 1))
    assert scene.platform.statuses == {200: 1}
    # A commit that waits for the standby is seen by all once the primary has crashed.
    await asyncio.to_thread(primary.kill)
    await asyncio.to_thread(primary.start)
    await until(lambda: not scene.not_in_store(), "the primary shows it")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

    def is_spooled() -> bool:
        return any(file.stat().st_size for file in scene.spool.rglob("*.spool"))

    await until(lambda: scene.query(waiting) != [(0,)] or not is_spooled(), "it is forwarded")
    await asyncio.to_thread(primary.kill)
    await asyncio.to_thread(standby.start)
    await asyncio.to_thread(standby.promote)
    scene.store = TestDatabase("postgresql", url, standby)
    await scene.all_handled()
    assert not scene.not_in_store()
    await server.stop()
