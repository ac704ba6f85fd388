"""SIGTERM while notifications come in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fault_scene import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

REASONS = ["CalleeBusy", "CalleeNoAnswer", "HangUp", "Other"]


@pytest.mark.timeout(60 + 15 * ROUNDS)
async def test_stopped(scene: Scene, figure: Callable[[str], None]) -> None:
    """What was answered for is in the store, and its leases are free for the next process."""
    platform = scene.platform
    for number in range(ROUNDS):
        # Leases as they are in life: what is not given back is out of reach for a minute.
        server = await scene.start(lease=0, hangs=0.5, shutdown_timeout=0.2)
        async with platform.posting(server.url, f"stopped-{number}", REASONS):
            await platform.until_answered(200)
            await server.stop()
        assert not scene.not_in_store()
        assert not scene.query("SELECT 1 FROM qmc_deliveries WHERE owner IS NOT NULL")
    server = await scene.start(lease=0)
    await scene.all_handled(seconds=45)
    await scene.settled()
    await server.stop()
    assert platform.statuses.keys() == {200}
    figure(
        f"SIGTERM under load: {ROUNDS} rounds, {len(platform.kept)} answered 200, 0 lost, all "
        f"leases given back, {scene.repeated()} handled more than once"
    )
