"""A store full of events that nobody has handled yet."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from fault_platform import body_of
from fault_scene import FULL, until

from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

BACKLOG = 200_000 if FULL else 5_000
ROOM = 48.0  # megabytes; a backlog that is in memory takes more, if it is large


async def _fill(scene: Scene, number: int, *, routed: bool) -> None:
    async with Store(f"sqlite:///{scene.database}", spool=scene.spool):
        pass
    ids = [f"old-{one}" for one in range(number)]
    with closing(scene.connect()) as connection:
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO qmc_events (event_id, kind, received_at, receipt_id, problem, body, "
            "routed) VALUES (?, 'disconnected', 0, '', '', ?, ?)",
            [(one, body_of(one), routed) for one in ids],
        )
        if routed:
            connection.executemany(
                "INSERT INTO qmc_deliveries (event_id, handler, state, attempts, fence, due_at, "
                "changed_at, error) VALUES (?, 'good', 'pending', 0, 0, 1, 0, '')",
                [(one,) for one in ids],
            )
        connection.execute("COMMIT")


async def _drain(scene: Scene, number: int) -> tuple[float, float, float, float]:
    """Seconds until it is ready, and until it is done, and the memory that it had by then."""
    began = time.monotonic()
    server = await scene.start(fresh=FULL, handlers="noop", lease=0)
    assert await server.ready() == (200, [])
    ready, memory = time.monotonic() - began, server.memory()
    done = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
    await until(lambda: scene.query(done) == [(number,)], "all are handled", seconds=800)
    drained, most = time.monotonic() - began, server.memory()
    await server.stop()
    return ready, memory, drained, most


@pytest.mark.timeout(900)
@pytest.mark.parametrize("routed", [True, False], ids=["routed", "unrouted"])
async def test_backlog(scene: Scene, figure: Callable[[str], None], *, routed: bool) -> None:
    """It is worked off, and memory does not grow with it."""
    await _fill(scene, 100, routed=routed)
    _, _, _, little = await _drain(scene, 100)
    scene.database = scene.folder / "backlog.db"
    await _fill(scene, BACKLOG, routed=routed)
    ready, memory, drained, most = await _drain(scene, BACKLOG)
    assert most < little + ROOM
    figure(
        f"a backlog of {BACKLOG}, {'routed' if routed else 'unrouted'}: ready after {ready:.2f} s "
        f"with {memory:.0f} MB, drained after {drained:.1f} s with {most:.0f} MB at most (a "
        f"backlog of 100: {little:.0f} MB)"
    )
