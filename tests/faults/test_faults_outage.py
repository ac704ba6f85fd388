"""The database is away for longer than the platform waits: the spool of each replica takes over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from fault_load import Load, replicas_of
from fault_scene import FULL, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from database_servers import TestDatabase
    from fault_load import Replica
    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

RATE = 100  # calls in a second
AWAY = 30.0 if FULL else 2.0  # seconds
CALLS = int(RATE * (AWAY + 2))
LEASE = AWAY + 5  # what was done meanwhile is written down before it ends


@pytest.mark.timeout(60 + 5 * AWAY)
@pytest.mark.parametrize("how", ["frozen", "killed"] if FULL else ["frozen"])
@pytest.mark.parametrize(
    "database", ["postgresql", "mariadb"] if FULL else ["postgresql"], indirect=True
)
async def test_away(
    scene: Scene, database: TestDatabase, figure: Callable[[str], None], how: str
) -> None:
    """All are answered with success all the time, and forwarded once it is back."""
    scene.store = database
    replicas = await replicas_of(scene, 2, lease=LEASE)
    load = Load(scene, replicas, rate=RATE)
    reporting = asyncio.create_task(load.report("away", CALLS))
    await load.until(RATE)
    async with load.watched(database.kind):
        await asyncio.to_thread(database.server.freeze if how == "frozen" else database.server.kill)
        await asyncio.sleep(AWAY)
        for replica in replicas:
            assert await replica.server.ready() == (200, ["store"])
        await asyncio.to_thread(database.server.start)
    await reporting
    assert len(scene.platform.kept) == CALLS
    figure(f"{database.kind} {how} for {AWAY:g} s, 2 replicas: {await load.end()}")


def _spooled(replica: Replica) -> int:
    return sum(file.stat().st_size for file in replica.spool.rglob("*.spool"))


@pytest.mark.timeout(60 + 5 * AWAY)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_replica_killed_meanwhile(
    scene: Scene, database: TestDatabase, figure: Callable[[str], None]
) -> None:
    """Who is started in the place of a killed replica forwards what that one had spooled."""
    scene.store = database
    replicas = await replicas_of(scene, 2, lease=LEASE)
    load = Load(scene, replicas, rate=RATE)
    first = replicas[0]
    reporting = asyncio.create_task(load.report("away", CALLS))
    await load.until(RATE)
    async with load.watched(database.kind), load.watched("a replica", first.server.name):
        await asyncio.to_thread(database.server.kill)
        await load.until(RATE * 2)
        await until(lambda: _spooled(first), "something is in the spool")
        await first.server.kill()
        assert _spooled(first)
        restarting = asyncio.create_task(first.start())
        await load.until(int(RATE * (AWAY + 1)))
        await asyncio.to_thread(database.server.start)
    await restarting
    await reporting
    figure(
        f"{database.kind} killed for {AWAY:g} s, one of 2 replicas killed meanwhile: "
        f"{await load.end()}"
    )
