"""What a test, or a person, does to the sandbox's calls besides the API."""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
import weakref
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from test_sandbox_support import CALLER, meeting

from qmc_async.models import BEIJING, Call, Reason
from qmc_async.sandbox import (
    Action,
    Actor,
    Attempt,
    Faults,
    IllegalAction,
    Move,
    RealClock,
    Rule,
    Sandbox,
    Scenario,
    SimulatedCall,
    State,
    VirtualClock,
    Withheld,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from test_sandbox_support import Peer

START = datetime(2026, 8, 3, 9, 0, 0, tzinfo=BEIJING)
CALLEE = "13900000010"  # endless
UNKNOWN = "128754716574532539"

CALLER_SIDE = {Reason.CALLER_BUSY, Reason.CALLER_NO_ANSWER, Reason.CALLER_FAILURE}
CALLEE_SIDE = {
    Reason.CALLER_ABANDON,
    Reason.CALLEE_BUSY,
    Reason.CALLEE_NO_ANSWER,
    Reason.CALLEE_FAILURE,
}
ALWAYS = {Reason.HANG_UP, Reason.OTHER}
REACHABLE = {
    State.CALLER_RINGING: CALLER_SIDE | CALLEE_SIDE | ALWAYS,
    State.CALLEE_RINGING: CALLEE_SIDE | ALWAYS,
    State.CONNECTED: ALWAYS,
    State.ENDED: set[Reason](),
}


WAYS = {
    State.CALLER_RINGING: (),
    State.CALLEE_RINGING: (Action.CALLER_ANSWERS,),
    State.CONNECTED: (Action.CALLER_ANSWERS, Action.CALLEE_ANSWERS),
    State.ENDED: (Action.PLATFORM_FAILS,),
}


def called_in(peer: Peer, state: State) -> SimulatedCall:
    """An endless call that people have brought to that state."""
    call = peer.platform.place(CALLER, CALLEE)
    for action in WAYS[state]:
        peer.platform.act(call.call_id, action)
    return call


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("reason", Reason)
async def test_a_call_is_hung_up_with_any_reason(reason: Reason, real: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """From each state it ends so, at once and reported; or nothing changes, and one is told why."""
    clock = RealClock() if real else VirtualClock(START)
    async with meeting(clock) as peer:
        ended = called_in(peer, State.ENDED)
        await peer.platform.settled()
        for state in State:
            call = ended if state is State.ENDED else called_in(peer, state)
            before, told = call.progress, list(call.history)
            if reason in REACHABLE[state]:
                await peer.platform.hang_up(call, reason=reason)
                assert (call.state, call.reason) == (State.ENDED, reason)
                moves = [one for one in call.history if isinstance(one, Move)]
                assert {one.actor for one in moves} == {Actor.PERSON}
                assert [one.at for one in moves[len(told) :]][-1:] == [call.end_time]
                assert isinstance(call.history[-1], Attempt)
                assert peer.events[-1]["reason"] == reason.value
            else:
                with pytest.raises(IllegalAction) as caught:
                    await peer.platform.hang_up(call, reason=reason)
                says = f"{reason.value}: not possible while the call is {state}"
                assert str(caught.value) == says
                assert (caught.value.state, caught.value.action) == (state, reason)
                assert (call.progress, call.history) == (before, told)


async def test_a_call_is_hung_up_by_whatever_names_it() -> None:
    """The client's Call, the sandbox's own, its id; and the callee hangs up if nothing is said."""
    async with meeting() as peer:
        first, second, third = (called_in(peer, State.CONNECTED) for _ in range(3))
        await peer.platform.hang_up(
            Call(call_id=first.call_id, out_call_id="order-42", placed_at=START)
        )
        await peer.platform.hang_up(second)
        await peer.platform.hang_up(third.call_id)
        with pytest.raises(KeyError):
            await peer.platform.hang_up(UNKNOWN)
        with pytest.raises(KeyError):
            await peer.platform.resend(UNKNOWN)
    assert {call.reason for call in (first, second, third)} == {Reason.HANG_UP}
    assert [one.action for one in first.history if isinstance(one, Move)][-1] == (
        Action.CALLEE_HANGS_UP
    )
    assert len(peer.events) == 3


async def test_what_is_due_happens_before_people_act() -> None:
    """A script that has just ended the call was faster than whoever hangs up."""
    async with meeting(RealClock(speed=1e6)) as peer:
        call = peer.platform.place(CALLER, "13900000001")
        while peer.platform.clock.now() < call.placed_at + timedelta(seconds=2):
            pass
        with pytest.raises(IllegalAction, match="HangUp: not possible while the call is ended"):
            await peer.platform.hang_up(call)
        assert call.reason is Reason.CALLER_BUSY
        await peer.platform.settled()


async def test_a_late_notification_is_not_waited_for() -> None:
    """`hang_up` returns, and the notification comes when it is due."""
    rule = Rule(faults=Faults(delay_notification=timedelta(minutes=1)))
    async with meeting(rules=[rule]) as peer:
        call = peer.platform.place(CALLER, CALLEE)
        await peer.platform.hang_up(call)
        assert not peer.posted
        await peer.platform.advance(minutes=1)
        assert len(peer.posted) == 1


@pytest.mark.parametrize(
    "faults",
    [
        Faults(drop_notification=True),
        Faults(duplicate_notification=True, malformed_notification=True),
        Faults(delay_notification=timedelta(minutes=1)),
    ],
)
async def test_a_notification_is_sent_again_by_hand(faults: Faults) -> None:
    """`resend` sends the whole body once, at once, whatever faults the call has."""
    async with meeting(rules=[Rule(faults=faults)]) as peer:
        call = peer.platform.place(CALLER, CALLEE)
        with pytest.raises(ValueError, match="has not ended"):
            await peer.platform.resend(call)
        await peer.platform.hang_up(call)
        before = len(peer.posted)
        attempt = await peer.platform.resend(call)
        assert peer.platform.notifications[-1] is attempt is call.history[-1]
    assert (attempt.by_hand, attempt.http_status) == (True, 200)
    assert [body for _, body in peer.posted[before:]] == [attempt.body]
    assert json.loads(attempt.body)["callidentifier"] == call.call_id


async def test_each_who_sends_again_hears_of_his_own() -> None:
    """Two at once get two attempts, whichever is answered first."""
    async with meeting() as peer:
        call = called_in(peer, State.ENDED)
        await peer.platform.settled()
        both = asyncio.Barrier(2)

        async def together(_: web.Request) -> web.Response:
            await both.wait()
            return web.Response()

        peer.answer = together
        first, second = await asyncio.gather(*(peer.platform.resend(call) for _ in range(2)))
    assert first is not second


async def test_a_resend_that_the_stop_gives_up_is_told() -> None:
    """Whoever waits for an answer hears that the sandbox was stopped, even if it runs again."""
    async with meeting() as peer:
        call = called_in(peer, State.ENDED)
        await peer.platform.settled()
        arrived, release = asyncio.Event(), asyncio.Event()

        async def never(_: web.Request) -> web.Response:
            arrived.set()
            await release.wait()
            return web.Response()

        peer.answer = never
        sending = asyncio.create_task(peer.platform.resend(call))
        await arrived.wait()
        await peer.platform.stop()
        await peer.platform.start()
        with pytest.raises(RuntimeError, match="was stopped"):
            await sending
        release.set()


async def test_the_next_notifications_are_dropped() -> None:
    """As many as was said, of whichever calls; a fault's own are not counted; all is settled."""
    async with meeting(RealClock(speed=1000)) as peer:
        for _ in range(2):
            peer.platform.drop_next_notification()
        dropped = peer.platform.place(CALLER, "13900000021")
        await peer.platform.hang_up(dropped)
        assert peer.platform.notifications_to_drop == 2
        calls = [peer.platform.place(CALLER, "13900000001") for _ in range(4)]
        await asyncio.wait_for(peer.platform.settled(), 5)
        assert peer.platform.notifications_to_drop == 0
        withheld = [call for call in calls if isinstance(call.history[-1], Withheld)]
    assert len(withheld) == len(peer.posted) == 2
    assert dropped.history[-1] == Withheld(at=dropped.end_time or START)


async def test_a_call_is_placed_without_the_api() -> None:
    """It is like any other, without a request; what the platform would refuse raises."""
    async with meeting(VirtualClock(START)) as peer:
        call = peer.platform.place("+86 139-8765-4321", "13900000005", out_call_id="order-42")
        assert (call.caller, call.placed_at, call.history) == (CALLER, START, [])
        assert peer.platform.calls == {call.call_id: call}
        with pytest.raises(ValueError, match="callee"):
            peer.platform.place(CALLER, "1")
        with pytest.raises(ValueError, match="64"):
            peer.platform.place(CALLER, CALLEE, out_call_id="x" * 65)
        await peer.platform.advance(minutes=1)
        assert not peer.platform.received
    assert peer.events[0]["outCallId"] == "order-42"


async def test_nothing_can_be_done_while_it_does_not_run() -> None:
    """Placing, hanging up, sending again and watching need a running sandbox."""
    sandbox = Sandbox()
    with pytest.raises(RuntimeError, match="not running"):
        sandbox.place(CALLER, CALLEE)
    for doing in (sandbox.hang_up("1"), sandbox.resend("1"), sandbox.changed(0)):
        with pytest.raises(RuntimeError, match="not running"):
            await doing


async def test_only_what_is_over_is_forgotten() -> None:
    """A live call, one whose notification is due, and one whose notification is on its way stay."""
    async with meeting() as peer:
        live = called_in(peer, State.CONNECTED)
        peer.platform.rules.append(Rule(faults=Faults(delay_notification=timedelta(minutes=1))))
        late = called_in(peer, State.ENDED)
        peer.platform.rules.clear()
        over = called_in(peer, State.CALLER_RINGING)
        await peer.platform.hang_up(over)
        arrived, release = asyncio.Event(), asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            arrived.set()
            await release.wait()
            return web.Response()

        peer.answer = slow
        sent = called_in(peer, State.ENDED)
        await arrived.wait()
        await peer.try_call("1")
        peer.platform.forget()
        assert list(peer.platform.calls.values()) == [live, late, sent]
        assert not peer.platform.received
        assert not peer.platform.refused
        assert not peer.platform.notifications
        assert (await peer.end(over.call_id)).code == 404
        release.set()
        await peer.platform.advance(minutes=1)
        assert [one.call_id for one in peer.platform.notifications] == [sent.call_id, late.call_id]
        peer.platform.forget()
        assert list(peer.platform.calls.values()) == [live]


@pytest.fixture
def kept_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts the recordings that the test's sandbox has written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: len(list(tmp_path.rglob("*.wav")))


async def test_what_is_forgotten_leaves_nothing(kept_files: Callable[[], int]) -> None:
    """No list, no timeline and no file keeps a forgotten call; its recording's address is dead."""
    async with meeting() as peer:
        call_id = await peer.call()
        kept = weakref.ref(peer.platform.calls[call_id])
        await peer.platform.advance(seconds=30)
        url = (await peer.record(call_id)).json["data"]["fileUrl"]
        assert (await peer.request("GET", url)).status == 200
        assert kept_files() == 1
        peer.platform.place(CALLER, "13900000001")
        await peer.platform.advance(seconds=30)
        peer.platform.forget()
        assert kept_files() == 0
        assert (await peer.request("GET", url)).status == 404
        assert peer.platform._engine.next_due is None  # pyright: ignore[reportPrivateUsage] - its memory
        gc.collect()
        assert kept() is None


@pytest.mark.parametrize("ended", [True, False])
async def test_forgetting_is_possible_before_a_start(ended: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """`forget` needs no running sandbox."""
    sandbox = Sandbox(clock=VirtualClock(), rules=[Rule(scenario=Scenario.endless())])
    sandbox.forget()
    async with sandbox:
        call = sandbox.place(CALLER, CALLEE)
        if ended:
            await sandbox.hang_up(call)
    sandbox.forget()
    assert len(sandbox.calls) == (not ended)
