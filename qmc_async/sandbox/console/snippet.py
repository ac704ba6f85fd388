"""A call as a test: the same numbers, and the same people who do the same things."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import fields_dict

from qmc_async.sandbox.console.shown import faults_of
from qmc_async.sandbox.history import Actor, Move
from qmc_async.sandbox.scenario import Faults

if TYPE_CHECKING:
    from datetime import timedelta

    from qmc_async.models import Reason
    from qmc_async.sandbox.calls import SimulatedCall

__all__ = ["as_pytest"]


def as_pytest(call: SimulatedCall) -> str:
    """A test module that places the same call again, for the pytest plugin (extra ``testing``).

    What people did is a rule, at the second at which they did it; what the application did stands
    in the test. Nothing of it waits in real time. A reply that is lost is left out, as the test
    could not go on.

    Args:
        call: live or ended.
    """
    steps: list[str] = []
    ends: list[str] = []
    before = call.placed_at
    for move in call.history:
        if not isinstance(move, Move):
            continue
        if move.actor is Actor.APPLICATION:
            ends += [
                f"    await qmc_sandbox.advance(seconds={_seconds(move.at - call.placed_at)})\n",
                "    await qmc_client.end_call(call)\n",
            ]
        else:
            after = _seconds(move.at - before)
            steps.append(
                f"            Step(timedelta(seconds={after}), Action.{move.action.name}),\n"
            )
            before = move.at
    scenario = (
        f"Scenario(\n        (\n{''.join(steps)}        )\n    )" if steps else "Scenario(())"
    )
    faults = _faults(call)
    names = ["Faults", "Rule", "Scenario"]
    if steps:
        names = ["Action", *names, "Step"]
    out_call_id = "" if call.out_call_id is None else f", out_call_id={_quoted(call.out_call_id)}"
    reason = "" if call.reason is None else "from qmc_async import Reason\n"
    timing = "from datetime import timedelta\n\n" if steps or "timedelta" in faults else ""
    return (
        f"{timing}{reason}from qmc_async.sandbox import {', '.join(names)}\n\n\n"
        "async def test_the_call(qmc_sandbox, qmc_client, callback_server):\n"
        f"    scenario = {scenario}\n"
        f"    qmc_sandbox.rules.insert(0, Rule(scenario=scenario{faults}))\n"
        f"    call = await qmc_client.call({_quoted(call.caller)}, {_quoted(call.callee)}"
        f"{out_call_id})\n"
        f"{''.join(ends)}{_ending(call, before - call.placed_at)}"
    )


def _ending(call: SimulatedCall, last: timedelta) -> str:
    if call.reason is None or call.end_time is None:
        advance = f"    await qmc_sandbox.advance(seconds={_seconds(last)})\n" if last else ""
        state = _quoted(call.state)
        return f"{advance}    assert qmc_sandbox.calls[call.call_id].state == {state}\n"
    faults = call.behaviour.faults
    until = call.end_time - call.placed_at + faults.delay_notification
    text = f"    await qmc_sandbox.advance(seconds={_seconds(until)})\n"
    if faults.drop_notification or faults.malformed_notification:
        return (
            f"{text}    assert qmc_sandbox.calls[call.call_id].reason is {_reason(call.reason)}\n"
        )
    return (
        f"{text}"
        "    event = await callback_server.wait_for(call, timeout=5)\n"
        f"    assert event.reason is {_reason(call.reason)}\n"
    )


def _reason(reason: Reason) -> str:
    return f"Reason.{reason.name}"


def _faults(call: SimulatedCall) -> str:
    given = [
        f"{name}={_value(call.behaviour.faults, name)}"
        for name in faults_of(call.behaviour.faults)
        if name != "lose_reply"
    ]
    # Without any, the callee's last digits would bring their own.
    return f", faults=Faults({', '.join(given)})"


def _value(faults: Faults, name: str) -> str:
    if fields_dict(Faults)[name].type in (bool, "bool"):
        return "True"
    return f"timedelta(seconds={_seconds(faults.delay_notification)})"


def _seconds(time: timedelta) -> str:
    return f"{time.total_seconds():.6f}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    """As a string of Python, in the quotes that its formatters prefer."""
    quoted = repr(str(text))
    return quoted if '"' in quoted else f'"{quoted[1:-1]}"'
