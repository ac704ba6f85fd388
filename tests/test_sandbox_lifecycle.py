"""Starting, stopping and waiting for the sandbox; its real clock."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from test_sandbox_support import meeting

from qmc_async.models import BEIJING, Reason
from qmc_async.sandbox import Action, RealClock, Rule, Sandbox, Scenario, State, VirtualClock
from qmc_async.signer import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts what sandboxes have in a temporary directory that is this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: len(list(tmp_path.iterdir()))


async def test_real_time_can_run_faster() -> None:
    """At speed 200 a call of 19 s takes a tenth of a second, and its times are as in life."""
    began = time.monotonic()
    async with meeting(RealClock(speed=200)) as peer:
        before = datetime.now(BEIJING)
        call = peer.platform.calls[await peer.call()]
        await peer.platform.settled()
        assert call.state is State.ENDED
        assert len(peer.platform.notifications) == 1
    assert time.monotonic() - began < 2
    assert abs(call.placed_at - before) < timedelta(minutes=2)
    assert call.end_time == call.placed_at + timedelta(seconds=19)
    assert peer.events[0]["callDuration"] == "12"


async def test_a_real_call_can_be_ended() -> None:
    """EndCall works in real time too, and is reported without further ado."""
    async with meeting(RealClock()) as peer:
        call_id = await peer.call()
        waiting = asyncio.create_task(peer.platform.settled())
        await peer.end(call_id)
        await asyncio.wait_for(waiting, 2)
    assert peer.events[0]["reason"] == "Other"


async def test_settled_waits_for_every_call() -> None:
    """Several calls at once each end and are each reported once."""
    async with meeting(RealClock(speed=500)) as peer:
        ids = await asyncio.gather(*(peer.call(f"1390000{n:04}") for n in range(1, 10)))
        await peer.platform.settled()
        assert all(call.state is State.ENDED for call in peer.platform.calls.values())
    assert {event["callidentifier"] for event in peer.events} == set(ids)
    assert len(peer.events) == 9


async def test_only_virtual_time_can_be_advanced() -> None:
    """`advance` needs a VirtualClock, a running sandbox, and a step forwards."""
    async with Sandbox() as real:
        with pytest.raises(RuntimeError, match="VirtualClock"):
            await real.advance(minutes=1)
    virtual = Sandbox(clock=VirtualClock())
    with pytest.raises(ValueError, match="backwards"):
        await virtual.advance(minutes=-1)
    with pytest.raises(RuntimeError, match="not running"):
        await virtual.advance(minutes=1)


async def test_advances_at_once_add_up() -> None:
    """Two tasks that advance the clock do not lose each other's time."""
    start = datetime(2026, 8, 3, tzinfo=BEIJING)
    async with meeting(VirtualClock(start)) as peer:

        async def slow(_: web.Request) -> web.Response:
            await asyncio.sleep(0.05)  # one task is amid its steps when the other begins
            return web.Response()

        peer.answer = slow
        await peer.call("13900000001")
        await asyncio.gather(peer.platform.advance(seconds=15), peer.platform.advance(seconds=5))
        assert peer.platform.clock.now() == start + timedelta(seconds=20)
    assert len(peer.events) == 1


async def test_advance_waits_for_what_is_on_its_way() -> None:
    """A notification that endCall caused is delivered when `advance` returns."""
    async with meeting() as peer:

        async def slow(_: web.Request) -> web.Response:
            await asyncio.sleep(0.05)
            return web.Response()

        peer.answer = slow
        await peer.end(await peer.call())
        await peer.platform.advance()
        assert [one.http_status for one in peer.platform.notifications] == [200]


async def test_a_stopped_sandbox_does_nothing() -> None:
    """After `stop` nothing is sent, the port is closed, and waiting for it fails loudly."""
    async with meeting(RealClock(speed=10)) as peer:
        platform = peer.platform
        call_id = await peer.call()
        waiting = asyncio.create_task(platform.settled())
        await asyncio.sleep(0)
        await platform.stop()
        await platform.stop()
        with pytest.raises(RuntimeError, match="not running"):
            await waiting
        with pytest.raises(RuntimeError, match="not running"):
            platform.act(call_id, Action.CALLER_BUSY)
        with pytest.raises(aiohttp.ClientConnectorError):
            await peer.call()
        await asyncio.sleep(0.35)  # the caller would have answered by now
        assert platform.calls[call_id].state is State.CALLER_RINGING


async def test_a_sandbox_can_be_started_again() -> None:
    """Calls stay, and what fell due meanwhile happens at the restart."""
    async with meeting(RealClock(speed=100)) as peer:
        call_id = await peer.call()
        await peer.platform.stop()
        await asyncio.sleep(0.25)
        await peer.platform.start()
        await peer.platform.settled()
        assert peer.platform.calls[call_id].reason is Reason.HANG_UP
    assert len(peer.events) == 1


async def test_a_sandbox_is_started_once() -> None:
    """There is no address before the start, and a second start is refused."""
    sandbox = Sandbox()
    with pytest.raises(RuntimeError, match="no address"):
        _ = sandbox.base_url
    async with sandbox as platform:
        assert platform is sandbox
        with pytest.raises(RuntimeError, match="already"):
            await sandbox.start()


async def test_a_port_in_use_is_an_error_that_leaves_nothing(left: Callable[[], int]) -> None:
    """A start that fails leaves no server, session or directory."""
    async with Sandbox() as first:
        second = Sandbox(port=int(first.base_url.rpartition(":")[2]))
        with pytest.raises(OSError, match="address already in use"):
            await second.start()
        assert left() == 1
    assert left() == 0


@pytest.mark.parametrize("steps", range(8))
async def test_a_start_can_be_cancelled_anywhere(steps: int, left: Callable[[], int]) -> None:
    """Cancelled after any number of steps, a start leaves nothing, and can be tried again."""
    sandbox = Sandbox()
    starting = asyncio.create_task(sandbox.start())
    for _ in range(steps):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait({starting})
    await sandbox.stop()
    assert left() == 0
    async with sandbox:
        assert left() == 1
    assert left() == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()  # an unclosed session or socket would warn now, and a warning is an error


async def test_stopping_gives_up_what_is_on_its_way() -> None:
    """A notification in flight, and a call that waits for it, do not hold up `stop`."""
    async with meeting() as peer:
        arrived = asyncio.Event()

        async def never(_: web.Request) -> web.Response:
            arrived.set()
            await asyncio.sleep(3)
            return web.Response()

        peer.answer = never
        calling = asyncio.create_task(peer.try_call("13900000025"))
        await arrived.wait()
        began = time.monotonic()
        await peer.platform.stop()
        assert time.monotonic() - began < 0.9
        assert (await calling).code == 200
        assert not peer.platform.notifications


async def test_stopping_during_an_advance_ends_it() -> None:
    """`advance` does not go on with a sandbox that was stopped meanwhile."""
    async with meeting() as peer:

        async def stop(_: web.Request) -> web.Response:
            await peer.platform.stop()
            return web.Response()

        peer.answer = stop
        await peer.call("13900000001")
        await peer.call("13900000001")
        with pytest.raises(RuntimeError, match="not running"):
            await peer.platform.advance(minutes=1)
    assert len(peer.posted) == 1


async def test_the_arguments_arrive() -> None:
    """Credentials, port, callback_url, rules and the default credentials are what was given."""
    credentials = Credentials(7, "seven")
    rule = Rule(scenario=Scenario.endless())
    sandbox = Sandbox(credentials, host="localhost", callback_url="http://a/b", rules=[rule])
    async with sandbox:
        assert sandbox.base_url.startswith("http://localhost:")
    assert (sandbox.credentials, sandbox.callback_url) == (credentials, "http://a/b")
    assert sandbox.rules == [rule]
    assert Sandbox().credentials == Credentials(1696054309969104898, "sandbox-secret")
