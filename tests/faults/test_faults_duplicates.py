"""The same notification a thousand times at once, by two processes to two processes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_scene import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

EACH = 500
PROGRAM = Path(__file__).with_name("fault_platform.py")


async def _client(call_id: str, urls: list[str]) -> asyncio.subprocess.Process:
    """A process that has many copies ready."""
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        call_id,
        "CalleeNoAnswer",
        str(EACH),
        *urls,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert client.stdout is not None
    assert await client.stdout.readline() == b"ready\n"
    return client


@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_a_thousand_copies(scene: Scene, figure: Callable[[str], None]) -> None:
    """All are answered with success; it is stored once, and each handler has done it once."""
    # Leases as they are in life: a short one would be a reason to do it twice.
    servers = [await scene.start(lease=0) for _ in range(2)]
    urls = [server.url for server in servers]
    names = [f"copies-{number}" for number in range(ROUNDS)]
    for name in names:
        clients = [await _client(name, urls) for _ in range(2)]
        told = await asyncio.gather(*(client.communicate(b"go\n") for client in clients))
        assert [json.loads(output) for output, _ in told] == [{"200": EACH}] * 2
        scene.platform.answered[name] = 200
        scene.platform.reasons[name] = "CalleeNoAnswer"
    await scene.all_handled()
    await scene.settled()
    for server in servers:
        await server.stop()
    assert sorted(row[0] for row in scene.query("SELECT event_id FROM qmc_events")) == sorted(names)
    assert scene.query("SELECT DISTINCT state FROM qmc_deliveries") == [("done",)]
    assert set(scene.handled().values()) == {1}
    assert len(scene.handled()) == 2 * ROUNDS
    figure(
        f"the same notification 1000 times at once, 2 processes to 2: {ROUNDS} rounds, all "
        "answered 200, stored once, each of 2 handlers done once"
    )
