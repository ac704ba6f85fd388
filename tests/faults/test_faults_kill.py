"""SIGKILL at each boundary: what was answered for is in the store, and handled or dead later."""

from __future__ import annotations

import random
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from fault_boundaries import BOUNDARIES
from fault_platform import calls
from fault_scene import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fault_scene import Scene, Server

pytest_plugins = ["fault_plugin"]

REASONS = ["CalleeBusy", "CalleeNoAnswer", "HangUp", "HangUp"]
IN_FLIGHT = 240

# How often a step comes, at least, while so many notifications come in.
_REACHED = {"dead": 40, "clear": 1}


def _last(step: str) -> str:
    return step.rpartition(" ")[2]


def _after(step: str, chance: random.Random) -> int:
    return chance.randint(1, _REACHED.get(_last(step), 160))


async def _load(scene: Scene, server: Server, name: str, step: str) -> None:
    """Post until the process is dead."""
    if _last(step) not in ("forward", "clear"):
        for batch in range(20):
            ended = calls(f"{name}-{batch}", IN_FLIGHT, REASONS)
            await scene.platform.post(server.url, ended)
            if not server.is_alive:
                return
        pytest.fail(f"{step} was never reached")
    ended = calls(name, IN_FLIGHT, REASONS)
    with closing(scene.connect()) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        await scene.platform.post(server.url, ended)
        assert set(ended) <= set(scene.platform.kept), "the spool takes them all"


@pytest.mark.timeout(60 + 20 * ROUNDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_killed(scene: Scene, figure: Callable[[str], None], boundary: str) -> None:
    """Nothing that was answered with success is lost, and all of it is in the store."""
    chance = random.Random(boundary)  # noqa: S311 - the same each time
    steps = BOUNDARIES[boundary]
    unanswered = 0
    for number in range(ROUNDS):
        step = steps[number % len(steps)]
        server = await scene.start(kill=step, after=_after(step, chance))
        await scene.all_handled()  # what the last one left
        assert not scene.not_in_store()
        server.arm()
        name = f"{number}-{step.replace(' ', '-')}"
        await _load(scene, server, name, step)
        assert await server.ends() == -9, server.log.read_text()
        unanswered += sum(
            one.startswith(f"{name}-") and one not in scene.platform.answered
            for one in scene.platform.reasons
        )
    server = await scene.start()
    await scene.all_handled()
    await scene.settled()
    await server.stop()
    assert not scene.not_in_store()
    assert not list(scene.spool.rglob("*.spool")), "nothing stays behind"
    rows = scene.query("SELECT count(*), count(DISTINCT event_id) FROM qmc_events")
    assert rows[0][0] == rows[0][1]
    assert set(scene.platform.statuses) == {200}
    figure(
        f"SIGKILL {boundary}: {ROUNDS} rounds, {len(scene.platform.kept)} answered 200, 0 lost, "
        f"{scene.repeated()} handled more than once, {unanswered} in flight unanswered"
    )
