"""Probabilities: rules that decide sometimes, and faults that may befall any call."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sandbox_support import meeting

from qmc_async.models import BEIJING, Reason
from qmc_async.sandbox import (
    FAULT_NAMES,
    Assumed,
    FaultRates,
    Faults,
    Rule,
    Scenario,
    SimulatedCall,
    Withheld,
)
from qmc_async.sandbox.chances import ONCE_BEFALLEN
from qmc_async.sandbox.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable

START = datetime(2026, 8, 3, 9, 0, 0, tzinfo=BEIJING)
BUSY = Scenario.for_reason(Reason.CALLEE_BUSY)
NO_NUMBER = [-0.1, 1.1, float("nan"), float("inf"), -float("inf")]

_ONE = {name: Faults(**{name: value}) for name, value in ONCE_BEFALLEN.items()}
_INITIAL = [
    Faults(),
    *_ONE.values(),
    Faults(duplicate_notification=True, malformed_notification=True, early_notification=True),
    Faults(delay_notification=timedelta(seconds=7), lose_reply=True),
    Faults(drop_notification=True, recording_fails=True, lose_reply=True),
]


def drawn(*numbers: float) -> Callable[[], float]:
    """A chance that draws these numbers, and no more."""
    return iter(numbers).__next__


def placed(chance: Callable[[], float], rules: list[Rule], calls: int) -> list[SimulatedCall]:
    """Calls of an engine with that chance."""
    engine = Engine(rules=rules, assumed=Assumed(), chance=chance)
    return [engine.place(START, "13987654321", "13912345678") for _ in range(calls)]


def test_a_rule_may_decide_sometimes() -> None:
    """A probability of 0.5 decides where a number below it is drawn; then the next rule may."""
    rules = [
        Rule(probability=0.5, scenario=BUSY),
        Rule(probability=0.25, scenario=Scenario.endless()),
    ]
    calls = placed(drawn(0.49, 0.5, 0.24, 0.5, 0.25), rules, 3)
    default = Scenario.for_reason(Reason.HANG_UP)
    assert [call.behaviour.scenario for call in calls] == [BUSY, Scenario.endless(), default]


def test_what_is_certain_is_not_drawn() -> None:
    """1 always decides and 0 never, without a number; nor does a rule that is not enabled."""
    rules = [
        Rule(probability=0, scenario=Scenario.endless()),
        Rule(enabled=False, scenario=Scenario.endless()),
        Rule(callee="*0000", probability=0.5, scenario=Scenario.endless()),
        Rule(scenario=BUSY),
    ]
    (call,) = placed(drawn(), rules, 1)
    assert call.behaviour.scenario == BUSY


@pytest.mark.parametrize("probability", NO_NUMBER)
def test_what_is_no_probability_is_refused(probability: float) -> None:
    """Neither a rule nor a rate takes it, and a rate stays what it was."""
    with pytest.raises(ValueError, match="probability: a probability is a number"):
        Rule(probability=probability)
    rates = FaultRates()
    rates.set("lose_reply", 0.5)
    with pytest.raises(ValueError, match="lose_reply: a probability is a number"):
        rates.set("lose_reply", probability)
    assert rates.rates["lose_reply"] == 0.5


def test_a_rule_has_a_name() -> None:
    """Each has another one, and is the same rule under any."""
    first, second = Rule(), Rule()
    assert first.name != second.name
    assert first == second
    assert Rule(name="busy").name == "busy"


def test_the_rates_can_be_read() -> None:
    """By each fault's name, 0 at first; they cannot be written past `set`."""
    rates = FaultRates()
    assert dict(rates.rates) == dict.fromkeys(FAULT_NAMES, 0.0)
    with pytest.raises(TypeError):
        rates.rates["lose_reply"] = 1.0  # type: ignore[index]  # pyright: ignore[reportIndexIssue] - that is the mistake
    with pytest.raises(KeyError, match="lose_replies"):
        rates.set("lose_replies", 1)
    assert set(FAULT_NAMES) == {name for name in dir(Faults) if not name.startswith("_")}


def test_a_fault_befalls_by_chance() -> None:
    """At 0.5 it befalls where a number below is drawn; at 0 again, nothing is drawn."""
    rates = FaultRates()
    rates.set("lose_reply", 0.5)
    chance = drawn(0.49, 0.5)
    assert [rates.befall(Faults(), chance).lose_reply for _ in range(2)] == [True, False]
    rates.set("lose_reply", 0)
    given_faults = Faults(recording_fails=True)
    assert rates.befall(given_faults, drawn()) is given_faults


@given(
    rates=st.dictionaries(st.sampled_from(FAULT_NAMES), st.floats(0, 1)),
    initial=st.sampled_from(_INITIAL),
    data=st.data(),
)
def test_no_combination_raises(
    rates: dict[str, float], initial: Faults, data: st.DataObject
) -> None:
    """Whatever befalls whatever call, faults stay possible together, and none is lost for less."""
    chances = FaultRates()
    for name, probability in rates.items():
        chances.set(name, probability)

    def chance() -> float:
        return data.draw(st.floats(0, 1, exclude_max=True))

    faults = chances.befall(initial, chance)
    certain = {name for name, probability in rates.items() if probability == 1}
    if initial.drop_notification or "drop_notification" in certain:
        assert faults.drop_notification
    elif "early_notification" in certain:
        assert faults.early_notification or faults.drop_notification
    assert faults.lose_reply or not (initial.lose_reply or "lose_reply" in certain)
    assert faults.recording_fails or not (initial.recording_fails or "recording_fails" in certain)
    if not any(rates.values()):
        assert faults is initial


@pytest.mark.parametrize("probability", [0, 1])
@pytest.mark.parametrize("fault", FAULT_NAMES)
async def test_each_fault_happens_on_the_wire(fault: str, probability: float) -> None:
    """At 1 the application meets it in every call; at 0 in none."""
    async with meeting() as peer:
        peer.platform.fault_rates.set(fault, probability)
        lost = early = False
        try:
            await peer.try_call()
        except aiohttp.ServerDisconnectedError:
            lost = True
        early = bool(peer.posted)
        (call,) = peer.platform.calls.values()
        await peer.platform.advance(seconds=30)
        in_time = len(peer.posted)
        await peer.platform.advance(minutes=1)
        withheld = any(isinstance(entry, Withheld) for entry in call.history)
        recorded = (await peer.record(call.call_id)).code == 200
    bodies = [body for _, body in peer.posted]
    seen = {
        "drop_notification": withheld and not bodies,
        "delay_notification": in_time == 0 and len(bodies) == 1,
        "duplicate_notification": len(bodies) == 2 and bodies[0] == bodies[1],
        "malformed_notification": bool(bodies) and not _is_json(bodies[0]),
        "early_notification": early,
        "lose_reply": lost,
        "recording_fails": not recorded,
    }
    assert seen == {name: bool(probability) and name == fault for name in FAULT_NAMES}
    assert call.behaviour.summary.startswith("HangUp")


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


async def test_a_rate_adds_to_what_a_rule_says() -> None:
    """A rule's fault and one by chance befall one call; of what excludes each other, the worse."""
    async with meeting(rules=[Rule(faults=Faults(duplicate_notification=True))]) as peer:
        rates = peer.platform.fault_rates
        rates.set("recording_fails", 1)
        call = peer.platform.place("13987654321", "13912345678")
        assert call.behaviour.faults == Faults(duplicate_notification=True, recording_fails=True)
        rates.set("drop_notification", 1)
        call = peer.platform.place("13987654321", "13912345678")
        assert call.behaviour.faults == Faults(drop_notification=True, recording_fails=True)
