"""The clock is set, a day ahead or a day back, while leases and waits are under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fault_clock import DAY, Clock
from fault_scene import ROUNDS, Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

REASONS = ["CalleeBusy", "CalleeNoAnswer", "HangUp", "Other"]
STEPS = {"ahead": [DAY, 0], "back": [-DAY, 0]}


async def _start(scene: Scene, number: int) -> tuple[Server, Clock]:
    clock = Clock(scene.folder / f"clock-{number}")
    # Two that disagree take each other's work away, at each look: a handler must be quicker.
    server = await scene.start(clock=str(clock.file), takes=0.1, later=0.5, hangs=0.4)
    return server, clock


@pytest.mark.timeout(60 + 15 * ROUNDS)
@pytest.mark.parametrize("step", STEPS)
async def test_one_process(scene: Scene, figure: Callable[[str], None], step: str) -> None:
    """Nothing is lost, and nothing waits a day."""
    server, clock = await _start(scene, 0)
    platform = scene.platform
    shifts = STEPS[step] * max(1, ROUNDS // 2)
    for number, shift in enumerate(shifts):
        async with platform.posting(server.url, f"clock-{number}", REASONS):
            await platform.until_answered(150)
            clock.set(shift)
            await platform.until_answered(50)
        await scene.all_handled()
        await scene.settled()
    assert platform.statuses.keys() == {200}
    assert not scene.not_in_store()
    await server.stop()
    figure(
        f"clock set a day {step}, and back to right, {len(shifts)} steps: {len(platform.kept)} "
        f"answered 200, 0 lost, {scene.repeated()} handled more than once"
    )


@pytest.mark.timeout(60 + 15 * ROUNDS)
@pytest.mark.parametrize("step", STEPS)
async def test_two_processes(scene: Scene, figure: Callable[[str], None], step: str) -> None:
    """Two processes on one file that do not agree on the day lose nothing either."""
    (right, _), (wrong, clock) = await _start(scene, 0), await _start(scene, 1)
    platform = scene.platform
    shifts = STEPS[step] * max(1, ROUNDS // 2)
    for number, shift in enumerate(shifts):
        async with (
            platform.posting(right.url, f"right-{number}", REASONS),
            platform.posting(wrong.url, f"wrong-{number}", REASONS),
        ):
            await platform.until_answered(150)
            clock.set(shift)
            await platform.until_answered(50)
        await scene.all_handled()
        await scene.settled()
    assert platform.statuses.keys() == {200}
    assert not scene.not_in_store()
    await right.stop()
    await wrong.stop()
    figure(
        f"clock of one of two processes set a day {step}, and back, {len(shifts)} steps: "
        f"{len(platform.kept)} answered 200, 0 lost, {scene.repeated()} handled more than once"
    )
