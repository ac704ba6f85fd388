"""How whoever watches a sandbox hears that something has happened."""

from __future__ import annotations

import asyncio

import pytest
from test_sandbox_support import CALLER, meeting

from qmc_async.sandbox import Action, Sandbox, VirtualClock

CALLEE = "13900000010"  # endless


async def _seen(sandbox: Sandbox, since: int) -> int:
    async with asyncio.timeout(5):
        return await sandbox.changed(since)


async def test_everything_that_happens_is_noticed() -> None:
    """Placing, acting, requests, refusals, notifications, the passing of time, forgetting."""
    async with meeting() as peer:
        platform = peer.platform
        counts = [platform.changes]

        def grown() -> bool:
            counts.append(platform.changes)
            return counts[-1] > counts[-2]

        call = platform.place(CALLER, CALLEE)
        assert grown()
        platform.act(call.call_id, Action.CALLER_ANSWERS)
        assert grown()
        await peer.record(call.call_id)
        assert grown()
        await peer.try_call("1")
        assert grown()
        await platform.advance(seconds=30)
        assert grown()
        await platform.hang_up(call)
        assert grown()
        await platform.resend(call)
        assert grown()
        platform.forget()
        assert grown()
        assert await _seen(platform, counts[-2]) == counts[-1]


async def test_all_who_wait_hear_of_it() -> None:
    """Several waiters, each at a count of its own, miss nothing and are woken by one change."""
    async with meeting() as peer:
        platform = peer.platform
        platform.place(CALLER, CALLEE)
        now = platform.changes
        assert await _seen(platform, 0) == await _seen(platform, now + 7) == now
        waiting = [asyncio.create_task(_seen(platform, now)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        platform.place(CALLER, CALLEE)
        assert await asyncio.gather(*waiting) == [platform.changes] * 3


async def test_many_changes_are_heard_of_once() -> None:
    """Whoever looks again sees the count of the moment, not each change."""
    async with meeting() as peer:
        since = peer.platform.changes
        waiting = asyncio.create_task(_seen(peer.platform, since))
        await asyncio.sleep(0)
        for _ in range(200):
            peer.platform.place(CALLER, CALLEE)
        assert await waiting == peer.platform.changes == since + 200


async def test_whoever_waits_hears_of_the_stop() -> None:
    """`changed` and `settled` raise when it stops; after a restart the count goes on."""
    sandbox = Sandbox(clock=VirtualClock())
    async with sandbox:
        sandbox.place(CALLER, CALLEE)
        since = sandbox.changes
        waiting = [asyncio.create_task(sandbox.changed(since)) for _ in range(2)]
        waiting.append(asyncio.ensure_future(_settled(sandbox)))
        await asyncio.sleep(0)
    for task in waiting:
        with pytest.raises(RuntimeError, match="not running"):
            await task
    async with sandbox:
        assert await _seen(sandbox, since) > since


async def _settled(sandbox: Sandbox) -> int:
    await sandbox.settled()
    return 0


def test_it_is_watched_on_another_event_loop() -> None:
    """Started again on a second event loop, it can be waited for there."""
    sandbox = Sandbox(clock=VirtualClock())

    async def watch() -> int:
        async with sandbox:
            waiting = asyncio.create_task(_seen(sandbox, sandbox.changes))
            await asyncio.sleep(0)
            await sandbox.hang_up(sandbox.place(CALLER, CALLEE))
            return await waiting

    first = asyncio.run(watch())
    assert asyncio.run(watch()) > first
