"""Replicas that stand still, as a machine does that is suspended, and go on when all is over."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest
from fault_load import Replica
from fault_platform import calls
from fault_scene import FULL, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from database_servers import TestDatabase
    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

TOO_LATE = "hanging took so long over event frozen-0 that another process has it too"
ROW = "SELECT state, attempts, fence, owner, due_at, changed_at FROM qmc_deliveries WHERE handler"
LONG = 8.0  # seconds; a lease that lasts longer than anybody waits for a lock
HANGING = f"{ROW} = 'hanging'"


@pytest.mark.parametrize(
    "ends",
    ["while the other is at it", "after the other"] if FULL else ["while the other is at it"],
)
@pytest.mark.parametrize(
    "database", ["sqlite", "postgresql", "mariadb"] if FULL else ["postgresql"], indirect=True
)
async def test_frozen_in_a_handler(scene: Scene, database: TestDatabase, ends: str) -> None:
    """Who is frozen past its lease does not write down what another has taken over."""
    scene.store = database
    frozen = Replica(scene, "frozen", lease=2.0, hangs=0.2)
    other = Replica(scene, "other", lease=2.0, hangs=1.0)
    await frozen.start()
    posting = asyncio.create_task(
        scene.platform.post(frozen.server.url, {"frozen-0": "Other"}, connections=1)
    )
    begun = ("hanging begun", "frozen-0")
    await until(lambda: scene.handled()[begun] == 1, "the handler begins")
    await frozen.server.freeze()
    await other.start()
    await until(lambda: scene.handled()[begun] == 2, "another has taken it over")
    if ends == "after the other":
        await scene.settled()
    before = scene.query(HANGING)
    frozen.server.thaw()
    await until(lambda: TOO_LATE in frozen.server.log.read_text(), "it comes too late")
    await posting
    if ends == "after the other":
        assert scene.query(HANGING) == before
    else:
        assert [row[:4] for row in scene.query(HANGING)] == [row[:4] for row in before]
        assert before[0][0] == "pending"
    await scene.settled()
    [(state, attempts, fence, owner, due_at, _)] = scene.query(HANGING)
    # Leased twice, and settled once, by who had it last.
    assert (state, attempts, fence, owner, due_at) == ("done", 0, 3, None, None)
    assert scene.handled()["hanging", "frozen-0"] == 2
    assert scene.platform.statuses == {200: 1}
    await frozen.server.stop()
    await other.server.stop()


async def _leave(scene: Scene, taken: dict[str, str]) -> None:
    """Have deliveries that are due, because who has leased them is dead."""
    left = Replica(scene, "left", hangs=60)
    await left.start()
    await scene.platform.post(left.server.url, taken)
    begun = [("hanging begun", one) for one in taken]
    await until(lambda: all(scene.handled()[one] for one in begun), "the handlers begin")
    done = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
    await until(lambda: scene.query(done) == [(len(taken),)], "all else is done")
    await left.server.kill()
    leased = "SELECT count(*) FROM qmc_deliveries WHERE due_at > ?"
    await until(lambda: scene.query(leased, int(time.time() * 1000)) == [(0,)], "leases end")


@pytest.mark.parametrize(
    "database", ["postgresql", "mariadb"] if FULL else ["postgresql"], indirect=True
)
async def test_frozen_in_a_transaction(
    scene: Scene, database: TestDatabase, figure: Callable[[str], None]
) -> None:
    """What it has locked is free again soon, and all others go on meanwhile."""
    scene.store = database
    taken = calls("taken", 20, ["Other"])
    await _leave(scene, taken)
    freeze = {"signal": signal.SIGSTOP, "after": 1, "lease": LONG}
    # One with a row that nobody else sees yet, and one with rows that it leases.
    putting = Replica(scene, "putting", kill="before put", handlers="good", **freeze)
    await putting.start()
    putting.server.arm()
    put = calls("put", 1)
    posting = asyncio.create_task(scene.platform.post(putting.server.url, put, connections=1))
    await putting.server.is_frozen()
    polling = Replica(scene, "polling", kill="before poll", armed=True, **freeze)
    polling.launch()
    await polling.server.is_frozen()
    began = time.monotonic()
    other = Replica(scene, "other", lease=LONG)
    await other.start()
    reported = put | calls("more", 100)
    await scene.platform.post(other.server.url, reported)
    assert scene.platform.kept == taken | reported
    await scene.all_handled()
    await scene.settled()
    blocked = time.monotonic() - began
    putting.server.thaw()
    polling.server.thaw()
    await posting
    await polling.server.is_listening()
    await scene.settled()
    assert not scene.not_in_store()
    assert scene.repeated() == 0
    assert scene.platform.statuses == {200: len(taken | reported)}
    for replica in (putting, polling, other):
        await replica.server.stop()
    figure(
        f"{database.kind}, two replicas frozen in the middle of a transaction: another one has "
        f"handled all that they had locked {blocked:.1f} s later"
    )
