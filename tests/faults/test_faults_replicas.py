"""Several replicas on one database: processes and servers are killed, and nobody notices."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from fault_clock import DAY, Clock
from fault_load import Load, Replica, replicas_of
from fault_platform import Connection, body_of, calls
from fault_scene import FULL, until
from fault_waits import Asker, read_waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from database_servers import TestDatabase
    from fault_scene import Scene
    from pgbouncer import PgBouncer

pytest_plugins = ["fault_plugin"]

CALLS = 20_000 if FULL else 1_000
RATE = 200  # calls in a second
WAITS = 1_000 if FULL else 200
AWAY = 2.0  # seconds between the database's death and its next start


@pytest.mark.timeout(60 + CALLS / 20)
@pytest.mark.parametrize(
    "database", ["postgresql", "mariadb"] if FULL else ["postgresql"], indirect=True
)
async def test_killed(scene: Scene, database: TestDatabase, figure: Callable[[str], None]) -> None:
    """Replicas and the database are killed under load: nothing is lost, and every wait ends."""
    scene.store = database
    replicas = await replicas_of(scene, 3)
    load = Load(scene, replicas, rate=RATE)
    reporting = asyncio.create_task(load.report("call", CALLS))
    for eighths, replica in ((1, replicas[0]), (5, replicas[1])):
        await load.until(CALLS * eighths // 8)
        await load.kill_replica(replica)
        await load.until(CALLS * (eighths + 1) // 8)
        await load.kill_server(database.server, AWAY)
    await reporting
    figure(
        f"3 replicas, one {database.kind}, {RATE} calls a second, a replica killed twice, the "
        f"database killed twice for {AWAY:g} s: {await load.end()}"
    )


@pytest.mark.parametrize("database", ["pgbouncer"], indirect=True)
async def test_behind_pgbouncer(
    scene: Scene, database: TestDatabase, pgbouncer: PgBouncer, figure: Callable[[str], None]
) -> None:
    """The same behind a PgBouncer that pools transactions, and is killed too."""
    scene.store = database
    replicas = await replicas_of(scene, 3, lease=2)
    load = Load(scene, replicas, rate=RATE)
    number = CALLS // 5
    reporting = asyncio.create_task(load.report("call", number))
    await load.until(number // 4)
    await load.kill_replica(replicas[0])
    await load.until(number // 2)
    await load.kill_server(pgbouncer)
    await reporting
    figure(
        f"3 replicas, PgBouncer in transaction mode, {RATE} calls a second, a replica and "
        f"PgBouncer killed: {await load.end()}"
    )


@pytest.mark.timeout(60 + WAITS / 10)
@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
async def test_woken(scene: Scene, database: TestDatabase, figure: Callable[[str], None]) -> None:
    """Who waits on one replica is woken by what another one takes."""
    scene.store = database
    here, there = await replicas_of(scene, 2)
    asker, connection = Asker(here.server.address), Connection(there.server.url)
    names = [f"woken-{number}" for number in range(WAITS)]
    for name in [*names, "there-before"]:
        assert await asker.ask(name)
    assert await connection.post(body_of("there-before")) == 200
    # Then all of them have been looked for once, and wait for what is yet to come.
    await until(lambda: read_waits(scene.waits), "the first wait ends")
    times: list[tuple[float, float]] = []
    for name in names:
        asked = time.monotonic()
        assert await connection.post(body_of(name)) == 200
        times.append((asked, time.monotonic()))
        await asyncio.sleep(1 / RATE)
    await until(lambda: len(read_waits(scene.waits)) == WAITS + 1, "all waits end")
    ended = read_waits(scene.waits)
    woken = [ended[name, here.server.name] for name in names]
    figure(
        f"{database.kind}, {WAITS} waits: from the answer on one replica to the wake on another "
        f"{_spread(at - answered for at, (_, answered) in zip(woken, times, strict=True))}, from "
        f"the request {_spread(at - asked for at, (asked, _) in zip(woken, times, strict=True))}"
    )
    await asker.close()
    connection.close()
    for replica in (here, there):
        await replica.server.stop()


def _spread(seconds: Iterable[float]) -> str:
    times = sorted(seconds)
    p50, p99 = (times[len(times) * part // 100] * 1000 for part in (50, 99))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_rolling_deployment(scene: Scene, database: TestDatabase) -> None:
    """What is left for a handler that some replicas do not have waits for one that has it."""
    scene.store = database
    new = Replica(scene, "new", later=1.0)
    old = Replica(scene, "old", handlers="good")
    await new.start()
    await old.start()
    left = calls("left", 40, ["CalleeNoAnswer"])
    await scene.platform.post(new.server.url, left)
    failed = "SELECT count(*) FROM qmc_deliveries WHERE handler = 'later' AND attempts = 1"
    await until(lambda: scene.query(failed) == [(len(left),)], "it has failed once for all")
    await new.server.kill()
    waiting = "SELECT event_id, attempts, fence FROM qmc_deliveries WHERE handler = 'later' AND {}"
    not_due = waiting.format("due_at > ?")
    await until(lambda: not scene.query(not_due, int(time.time() * 1000)), "all are due")
    ours = scene.query(waiting.format("state = 'pending'"))
    assert ours, "some wait for the second attempt"
    # The old one has looked for what is due when it has done what came after that.
    more = calls("more", 20)
    await scene.platform.post(old.server.url, more)
    await scene.all_handled(good_only=True)
    assert scene.query(waiting.format("state = 'pending'")) == ours
    await new.start()
    await scene.all_handled()
    await scene.settled()
    assert scene.platform.kept == left | more
    for replica in (new, old):
        await replica.server.stop()


@pytest.mark.parametrize(
    "database", ["postgresql", "mariadb"] if FULL else ["postgresql"], indirect=True
)
async def test_clocks_differ(
    scene: Scene, database: TestDatabase, figure: Callable[[str], None]
) -> None:
    """The database's clock decides: nobody takes the work of who lives in another day."""
    scene.store = database
    replicas: list[Replica] = []
    for name, shift in (("right", 0), ("ahead", DAY), ("behind", -DAY)):
        clock = Clock(scene.folder / name)
        clock.set(shift)
        # Leases as they are in life; all are looked through more than once meanwhile.
        replica = Replica(scene, name, clock=str(clock.file), lease=0, hangs=1.2, later=0.5)
        await replica.start()
        replicas.append(replica)
    reasons = ["CalleeBusy", "CalleeNoAnswer", "HangUp", "Other"]
    await asyncio.gather(
        *(
            scene.platform.post(replica.server.url, calls(f"clock-{number}", 100, reasons))
            for number, replica in enumerate(replicas)
        )
    )
    assert scene.platform.statuses == {200: 300}
    await scene.all_handled()
    await scene.settled()
    assert not scene.not_in_store()
    assert scene.repeated() == 0
    for replica in replicas:
        await replica.server.stop()
    figure(
        f"{database.kind}, the clocks of three replicas a day off from each other: 300 answered "
        "200, 0 lost, 0 handled more than once"
    )
