"""The pure half of the sandbox: the state machine, scripts, rules and clocks."""

from __future__ import annotations

import pickle
from datetime import datetime, timedelta, timezone
from random import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmc_async.models import BEIJING, Reason
from qmc_async.sandbox import (
    DEFAULT_BEHAVIOUR,
    SCENARIOS_BY_DIGITS,
    Action,
    Assumed,
    Faults,
    IllegalAction,
    RealClock,
    Rule,
    Scenario,
    State,
    Step,
    VirtualClock,
)
from qmc_async.sandbox.engine import Engine
from qmc_async.sandbox.machine import Progress, is_legal, next_state
from qmc_async.sandbox.scenario import behaviour_for

START = datetime(2026, 8, 3, 9, 0, 0, tzinfo=BEIJING)
SECOND = timedelta(seconds=1)

# The numbered rules of the machine's docstring once more, as a person reads them.
RULES: dict[State, dict[Action, State | Reason]] = {
    State.CALLER_RINGING: {
        Action.CALLER_ANSWERS: State.CALLEE_RINGING,  # rule 2
        Action.CALLER_BUSY: Reason.CALLER_BUSY,  # rule 3
        Action.CALLER_NO_ANSWER: Reason.CALLER_NO_ANSWER,
        Action.CALLER_FAILURE: Reason.CALLER_FAILURE,
        Action.PLATFORM_FAILS: Reason.OTHER,  # rule 8
        Action.END_CALL: Reason.OTHER,  # rule 9
    },
    State.CALLEE_RINGING: {
        Action.CALLEE_ANSWERS: State.CONNECTED,  # rule 4
        Action.CALLEE_BUSY: Reason.CALLEE_BUSY,  # rule 5
        Action.CALLEE_NO_ANSWER: Reason.CALLEE_NO_ANSWER,
        Action.CALLEE_FAILURE: Reason.CALLEE_FAILURE,
        Action.CALLER_HANGS_UP: Reason.CALLER_ABANDON,  # rule 6
        Action.PLATFORM_FAILS: Reason.OTHER,
        Action.END_CALL: Reason.OTHER,
    },
    State.CONNECTED: {
        Action.CALLER_HANGS_UP: Reason.HANG_UP,  # rule 7
        Action.CALLEE_HANGS_UP: Reason.HANG_UP,
        Action.PLATFORM_FAILS: Reason.OTHER,
        Action.END_CALL: Reason.HANG_UP,
    },
    State.ENDED: {},  # rule 10
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("action", Action)
def test_every_pair_of_state_and_action_is_ruled(state: State, action: Action) -> None:
    """An action is legal in exactly the states that the rules name, and leads where they say."""
    outcome = RULES[state].get(action)
    assert is_legal(state, action) is (outcome is not None)
    if outcome is None:
        with pytest.raises(IllegalAction) as caught:
            next_state(state, action)
        assert (caught.value.state, caught.value.action) == (state, action)
        assert str(caught.value) == f"{action.value}: not possible while the call is {state.value}"
    else:
        expected = State.ENDED if isinstance(outcome, Reason) else outcome
        assert next_state(state, action) is expected


@given(
    actions=st.lists(
        st.tuples(st.sampled_from(Action), st.timedeltas(timedelta(0), timedelta(hours=1)))
    ),
    deleted=st.sampled_from([Reason.OTHER, Reason.CALLER_ABANDON]),
)
def test_any_sequence_of_actions_obeys_the_rules(
    actions: list[tuple[Action, timedelta]], deleted: Reason
) -> None:
    """Each action is legal or raises and changes nothing; at most one end; times do not go back."""
    progress = Progress(placed_at=START)
    now, ends = START, 0
    for action, later in actions:
        now += later
        outcome = RULES[progress.state].get(action)
        if outcome is None:
            with pytest.raises(IllegalAction):
                progress.after(action, now, reason_of_deletion=deleted)
            continue
        before = progress
        progress = progress.after(action, now, reason_of_deletion=deleted)
        if isinstance(outcome, Reason):
            ends += 1
            if action is Action.END_CALL and before.state is not State.CONNECTED:
                outcome = deleted
            assert (progress.state, progress.reason) == (State.ENDED, outcome)
            assert progress.end_time == now
        else:
            assert (progress.state, progress.reason) == (outcome, None)
    assert ends == (progress.state is State.ENDED)
    times = [progress.start_time, progress.answer_time, progress.end_time]
    happened = [START, *(time for time in times if time is not None)]
    assert happened == sorted(happened)
    assert progress.answer_time is None or progress.start_time is not None


def test_time_does_not_run_backwards() -> None:
    """An action earlier than the one before it is refused (rule 11)."""
    answered = Progress(placed_at=START).after(Action.CALLER_ANSWERS, START + 3 * SECOND)
    with pytest.raises(ValueError, match="callee answers: earlier"):
        answered.after(Action.CALLEE_ANSWERS, START + 2 * SECOND)


def test_illegal_actions_pickle() -> None:
    """IllegalAction survives pickling with its fields."""
    error = IllegalAction(State.ENDED, Action.END_CALL)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (copy.state, copy.action, str(copy)) == (error.state, error.action, str(error))


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_a_script_that_ends_with_it(reason: Reason) -> None:
    """`Scenario.for_reason` leads to the reason that it is named after."""
    progress, now = Progress(placed_at=START), START
    for step in Scenario.for_reason(reason).steps:
        now += step.after
        progress = progress.after(step.action, now)
    assert progress.reason is reason


def test_talk_is_as_long_as_asked() -> None:
    """`talk` sets the time between connection and hang-up; 12 seconds without it."""
    long = Scenario.for_reason(Reason.HANG_UP, talk=timedelta(seconds=9))
    assert long.steps[-1].after == timedelta(seconds=9)
    assert Scenario.for_reason(Reason.HANG_UP).steps[-1].after == timedelta(seconds=12)


def test_talk_is_refused_where_nobody_talks() -> None:
    """`talk` is no option that is silently ignored."""
    with pytest.raises(ValueError, match="nobody talks in a call that ends with CalleeBusy"):
        Scenario.for_reason(Reason.CALLEE_BUSY, talk=SECOND)


def test_scripts_are_checked_when_they_are_written() -> None:
    """A script that breaks the rules, or goes back in time, cannot be made."""
    with pytest.raises(IllegalAction):
        Scenario((Step(SECOND, Action.CALLEE_ANSWERS),))
    with pytest.raises(ValueError, match="cannot come before"):
        Scenario((Step(-SECOND, Action.CALLER_ANSWERS),))


@pytest.mark.parametrize(
    "faults",
    [
        {"drop_notification": True, "duplicate_notification": True},
        {"drop_notification": True, "malformed_notification": True},
        {"drop_notification": True, "early_notification": True},
        {"drop_notification": True, "delay_notification": SECOND},
        {"early_notification": True, "delay_notification": SECOND},
        {"delay_notification": -SECOND},
    ],
)
def test_faults_that_exclude_each_other_are_refused(faults: dict[str, Any]) -> None:
    """A fault is never silently overruled by another."""
    with pytest.raises(ValueError, match="_notification: "):
        Faults(**faults)


def test_the_table_has_the_documented_digits() -> None:
    """The table by last digits is complete, and everything in it can be printed."""
    digits = [f"{number:04}" for number in (*range(1, 12), *range(21, 26), 31)]
    assert list(SCENARIOS_BY_DIGITS) == digits
    assert all(behaviour.summary for behaviour in SCENARIOS_BY_DIGITS.values())


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (Rule(), True),
        (Rule(callee="13912345678"), True),
        (Rule(callee="13912345679"), False),
        (Rule(callee="*5678"), True),
        (Rule(callee="*0005"), False),
        (Rule(caller="*4321", callee="*5678"), True),
        (Rule(caller="13900000000"), False),
        (Rule(out_call_id="order-42"), True),
        (Rule(out_call_id="order-43"), False),
    ],
)
def test_rules_match_all_that_they_name(rule: Rule, matches: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A rule matches when everything that it names does; None matches anything."""
    call = {"caller": "13987654321", "callee": "13912345678", "out_call_id": "order-42"}
    assert rule.matches(**call) is matches


def test_the_first_rule_that_matches_decides() -> None:
    """Rules go before the table, the first one wins, and what it leaves out the table says."""
    busy = Scenario.for_reason(Reason.CALLEE_BUSY)
    rules = [
        Rule(callee="*9999"),
        Rule(callee="*0021", scenario=busy),
        Rule(callee="*0021", scenario=Scenario.endless()),
        Rule(callee="*0005", faults=Faults(lose_reply=True)),
    ]

    def chosen(callee: str) -> tuple[Scenario, Faults]:
        behaviour = behaviour_for(rules, random, caller="1", callee=callee, out_call_id=None)
        return behaviour.scenario, behaviour.faults

    assert chosen("13900000021") == (busy, Faults(drop_notification=True))
    assert chosen("13900000005") == (busy, Faults(lose_reply=True))
    assert chosen("13900001234") == (DEFAULT_BEHAVIOUR.scenario, Faults())


def test_rules_show_no_whole_number() -> None:
    """A rule's repr masks numbers, and leaves four last digits readable."""
    shown = repr(Rule(callee="13912345678", caller="*0005"))
    assert "13912345678" not in shown
    assert "callee='139****5678', caller='*0005'" in shown
    assert "12345678" not in repr(Rule(callee="*12345678"))


def test_the_engine_runs_in_order_across_calls() -> None:
    """Everything happens at its own time and in order, however late `run` is called."""
    engine = Engine(assumed=Assumed())
    second = engine.place(START + SECOND, "13987654321", "13900000001")
    first = engine.place(START, "13987654321", "13900000001")
    assert engine.next_due == START + 2 * SECOND
    settled = [engine.settled]
    assert list(engine.run(START + timedelta(hours=1))) == [first, second]
    assert (first.end_time, second.end_time) == (START + 2 * SECOND, START + 3 * SECOND)
    settled.append(engine.settled)
    assert settled == [False, True]
    assert engine.next_due is None


def test_the_script_goes_on_around_a_person() -> None:
    """A step that a person has made impossible is passed over; the rest happens."""
    engine = Engine(assumed=Assumed())
    call = engine.place(START, "13987654321", "13912345678")
    engine.act(START + SECOND, call.call_id, Action.CALLER_ANSWERS)
    assert list(engine.run(START + timedelta(minutes=1))) == [call]
    assert call.start_time == START + SECOND
    assert call.answer_time == START + 7 * SECOND
    assert call.reason is Reason.HANG_UP


def test_call_ids_are_like_the_documents_and_differ() -> None:
    """A callidentifier has 18 digits, and no two are the same."""
    engine = Engine(assumed=Assumed())
    ids = {engine.place(START, "13987654321", "13912345678").call_id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(call_id) == 18 and call_id.isdigit() for call_id in ids)


def test_virtual_time_stands_still_and_never_goes_back() -> None:
    """A virtual clock moves only forwards, by hand, and tells Beijing time."""
    clock = VirtualClock(START.astimezone(timezone.utc))  # noqa: UP017 - as users write it
    assert clock.now() == START
    assert clock.now().utcoffset() == timedelta(hours=8)
    clock.move_to(START + SECOND)
    clock.move_to(START)
    assert clock.now() == START + SECOND
    assert clock.seconds_until(START + timedelta(days=1)) is None
    assert abs(VirtualClock().now() - datetime.now(BEIJING)) < timedelta(seconds=5)


def test_virtual_time_needs_a_time_zone() -> None:
    """A naive start would be read differently on another machine, so it is refused."""
    with pytest.raises(ValueError, match="time zone"):
        VirtualClock(datetime(2026, 8, 3))  # noqa: DTZ001 - that is the mistake


def test_real_time_can_be_hurried() -> None:
    """At speed 1000, an hour is 3.6 real seconds away; what is past is 0.0 away."""
    clock = RealClock(speed=1000)
    due = clock.now() + timedelta(hours=1)
    seconds = clock.seconds_until(due)
    assert seconds is not None
    assert 3.0 < seconds <= 3.6
    assert clock.seconds_until(due - timedelta(days=1)) == 0.0
    assert clock.now().utcoffset() == timedelta(hours=8)


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_real_time_must_pass(speed: float) -> None:
    """A clock that stands still is a VirtualClock."""
    with pytest.raises(ValueError, match="speed"):
        RealClock(speed=speed)
