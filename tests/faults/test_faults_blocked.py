"""Another process keeps the database to itself: the spool takes over meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from fault_scene import FULL

if TYPE_CHECKING:
    from collections.abc import Callable

    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

BLOCKED = 30.0 if FULL else 5.5  # seconds: longer than SQLite itself waits for a lock


@pytest.mark.timeout(120)
async def test_blocked(scene: Scene, figure: Callable[[str], None]) -> None:
    """Everything is answered with success all the time, and handled once the store is back."""
    server = await scene.start()
    platform = scene.platform
    async with platform.posting(server.url, "blocked", ["CalleeBusy", "CalleeNoAnswer", "HangUp"]):
        await platform.until_answered(100)
        with closing(scene.connect()) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(BLOCKED)
            assert await server.ready() == (200, ["store"])
        await platform.until_answered(100)
    assert platform.statuses.keys() == {200}
    await scene.all_handled(seconds=90)
    await scene.settled()
    assert not scene.not_in_store()
    assert await server.ready() == (200, [])
    assert server.is_alive
    await server.stop()
    assert not list(scene.spool.rglob("*.spool"))
    figure(
        f"store blocked for {BLOCKED:g} s: {len(platform.kept)} answered 200, none otherwise, 0 "
        f"lost, {scene.repeated()} handled more than once, slowest answer {platform.slowest:.2f} s"
    )
