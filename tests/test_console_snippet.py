"""A call as a test: it compiles, and it does again what was done."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from console_support import ask
from test_sandbox_support import CALLER, meeting

from qmc_async.models import Reason
from qmc_async.sandbox import Action, Faults, Rule, Scenario, SimulatedCall
from qmc_async.sandbox.console.snippet import as_pytest

if TYPE_CHECKING:
    from test_sandbox_support import Peer

ENDLESS = "13900000010"
HOSTILE = [
    "order-42",
    "\"quoted\" and 'quoted'",
    "it's",
    "back\\slash\\",
    '"""',
    "{braces}",
    "line\nend\r\t\0",
    "\u202e\u2028号",
    "'; import os #",
]


class Replay:
    """The three fixtures of the pytest plugin, as a snippet uses them, on one sandbox."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.calls: list[SimulatedCall] = []

    async def call(self, caller: str, callee: str, out_call_id: str | None = None) -> SimulatedCall:
        """The client's."""
        call = self._peer.platform.place(caller, callee, out_call_id=out_call_id)
        self.calls.append(call)
        return call

    async def end_call(self, call: SimulatedCall) -> None:
        """The client's."""
        assert (await self._peer.end(call.call_id)).code == 200

    async def wait_for(self, call: SimulatedCall, *, timeout: float) -> SimulatedCall:  # noqa: ASYNC109 - as the receiver's
        """The receiver's: whoever was told of the call knows how it ended."""
        async with asyncio.timeout(timeout):
            platform, since = self._peer.platform, 0
            while call.call_id not in [one.call_id for one in platform.notifications]:
                since = await platform.changed(since)
        return call


async def replayed(call: SimulatedCall) -> SimulatedCall:
    """Run a call's snippet against a sandbox of its own, and return what became of it there."""
    text = as_pytest(call)
    names: dict[str, Any] = {}
    exec(compile(text, "snippet", "exec"), names)  # noqa: S102 - that is what is tested
    async with meeting() as peer:
        replay = Replay(peer)
        await names["test_the_call"](peer.platform, replay, replay)
    (again,) = replay.calls
    assert again.call_id != call.call_id
    return again


def same(call: SimulatedCall, again: SimulatedCall) -> None:
    """Two calls went the same way, each since its own placing."""

    def way(one: SimulatedCall) -> list[object]:
        times = (one.start_time, one.answer_time, one.end_time)
        since = [None if time is None else time - one.placed_at for time in times]
        return [one.caller, one.callee, one.out_call_id, one.state, one.reason, *since]

    assert way(call) == way(again)


@pytest.mark.parametrize("digits", [*range(1, 12), *range(21, 26), 31, 5678])
async def test_each_script_is_done_again(digits: int) -> None:
    """By last digits, with the faults that these bring."""
    async with meeting() as peer:
        call = peer.platform.place(CALLER, f"1390000{digits:04}")
        await peer.platform.advance(minutes=2)
    same(call, await replayed(call))


@pytest.mark.parametrize("seconds", [0, 1, 3, 5.5, 10])
async def test_a_live_call_is_done_again(seconds: float) -> None:
    """As far as it has come."""
    async with meeting() as peer:
        call = peer.platform.place(CALLER, ENDLESS)
        await peer.platform.advance(seconds=seconds)
        same(call, await replayed(call))


@pytest.mark.parametrize("reason", Reason)
async def test_what_people_did_is_done_again(reason: Reason) -> None:
    """At the second at which they did it, whatever the script had been."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, "13912345678")
        await peer.platform.advance(seconds=1.25)
        await peer.platform.hang_up(call, reason=reason)
        _, shown = await ask(peer, "GET", "/calls/latest/pytest")
    assert shown == {"pytest": as_pytest(call)}
    assert f"Reason.{reason.name}" in shown["pytest"]
    same(call, await replayed(call))


@pytest.mark.parametrize("seconds", [0, 5, 60])
async def test_what_the_application_did_is_done_again(seconds: float) -> None:
    """EndCall stands in the test, where a test of an application has it."""
    async with meeting() as peer:
        call = peer.platform.place(CALLER, ENDLESS)
        await peer.platform.advance(seconds=seconds)
        await peer.end(call.call_id)
        await peer.platform.settled()
    assert "await qmc_client.end_call(call)" in as_pytest(call)
    same(call, await replayed(call))


async def test_a_person_and_the_application() -> None:
    """Both in one call."""
    async with meeting() as peer:
        call = peer.platform.place(CALLER, ENDLESS)
        await peer.platform.advance(seconds=1)
        peer.platform.act(call.call_id, Action.CALLER_ANSWERS)
        await peer.platform.advance(seconds=1)
        await peer.end(call.call_id)
        await peer.platform.settled()
    same(call, await replayed(call))


@pytest.mark.parametrize("text", HOSTILE)
async def test_any_text_is_a_string(text: str) -> None:
    """An outCallId comes back as it was, and is no program."""
    async with meeting() as peer:
        call = peer.platform.place(CALLER, ENDLESS, out_call_id=text)
        await peer.platform.hang_up(call)
    again = await replayed(call)
    assert again.out_call_id == text


async def test_every_fault_at_once() -> None:
    """The faults are the call's own, but the lost reply, and no others."""
    faults = Faults(
        delay_notification=timedelta(seconds=7.5),
        duplicate_notification=True,
        malformed_notification=True,
        lose_reply=True,
        recording_fails=True,
    )
    rule = Rule(faults=faults, scenario=Scenario.for_reason(Reason.HANG_UP))
    async with meeting(rules=[rule]) as peer:
        call = peer.platform.place(CALLER, "13900000021")
        await peer.platform.advance(minutes=1)
    assert "delay_notification=timedelta(seconds=7.5)" in as_pytest(call)
    again = await replayed(call)
    assert again.behaviour.faults == Faults(
        delay_notification=timedelta(seconds=7.5),
        duplicate_notification=True,
        malformed_notification=True,
        recording_fails=True,
    )
