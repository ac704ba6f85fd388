"""Bad handlers next to a good one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from fault_platform import calls
from fault_process import INTERRUPTED
from fault_scene import FULL, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

NUMBER = 4000 if FULL else 480
BAD = ["CalleeBusy", "Other", "CallerFailure", "Other"]


async def _handle(scene: Scene, url: str, ended: dict[str, str]) -> float:
    """Post calls; how many seconds pass until the good handler has had them all."""
    began = time.monotonic()
    await scene.platform.post(url, ended)
    await scene.all_handled(good_only=True)
    return time.monotonic() - began


@pytest.mark.timeout(120)
async def test_bad_neighbours(scene: Scene, figure: Callable[[str], None]) -> None:
    """The good one has handled all while others fail, raise what they may not, and hang."""
    # So long that nobody lives to see it: what is done meanwhile is not delayed by it.
    server = await scene.start(hangs=3600.0, shutdown_timeout=0.5)
    alone = await _handle(scene, server.url, calls("alone", NUMBER))
    beside = await _handle(scene, server.url, calls("beside", NUMBER, BAD))
    again = await _handle(scene, server.url, calls("again", NUMBER))
    bad = {one: why for one, why in scene.platform.kept.items() if why != "HangUp"}
    fatal = {one for one, why in bad.items() if why != "Other"}
    await until(lambda: fatal <= {one for _, one in scene.dead()}, "the failing ones are dead")
    begun = sum(name == "hanging begun" for name, _ in scene.handled())
    assert begun >= 100, "they hang in all slots"
    assert not any(name == "hanging" for name, _ in scene.handled())
    assert not scene.missing(good_only=True)
    await server.stop()
    assert not scene.query("SELECT 1 FROM qmc_deliveries WHERE owner IS NOT NULL")
    server = await scene.start(hangs=0.01)
    await scene.all_handled()
    await scene.settled()
    await server.stop()
    assert max(count for (name, _), count in scene.handled().items() if name == "good") == 1
    figure(
        f"bad handlers: {NUMBER} events by the good one alone in {alone:.2f} s, next to failing, "
        f"hanging and BaseException ones in {beside:.2f} s, and, while {begun} of them hang, in "
        f"{again:.2f} s; all handled once, {len(scene.dead())} dead letters"
    )


async def test_keyboard_interrupt(scene: Scene) -> None:
    """It ends the program, as anywhere else, and nothing of what was answered for is lost."""
    server = await scene.start(takes=0.2)
    ended = calls("interrupted", 40) | calls("interrupting", 1, ["CallerAbandon"])
    await scene.platform.post(server.url, ended)
    assert await server.ends() == INTERRUPTED, server.log.read_text()
    server = await scene.start(released=True)
    await scene.all_handled()
    await scene.settled()
    await server.stop()
    assert not scene.not_in_store()
