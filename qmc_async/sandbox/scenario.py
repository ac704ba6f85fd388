"""What will happen to a call: its script, its faults, and how both are chosen.

The callee's last four digits choose, unless a `Rule` does; `SCENARIOS_BY_DIGITS` is the table.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

from attrs import Attribute, field, frozen

from qmc_async.models import Reason
from qmc_async.numbers import mask
from qmc_async.sandbox.chances import check_probability, happens
from qmc_async.sandbox.machine import Action, State, next_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "DEFAULT_BEHAVIOUR",
    "SCENARIOS_BY_DIGITS",
    "Behaviour",
    "Faults",
    "Rule",
    "Scenario",
    "Step",
    "behaviour_for",
    "reason_named",
]

_CALLER_RINGS = timedelta(seconds=3)
_CALLEE_RINGS = timedelta(seconds=4)
_NOBODY_ANSWERS = timedelta(seconds=30)
_TALK = timedelta(seconds=12)
_DIGITS = 4


def reason_named(name: Reason | str) -> Reason:
    """The document's reason (3.2) of that name.

    Raises:
        ValueError: there is none; it says which there are.
    """
    try:
        return Reason(name)
    except ValueError:
        raise ValueError(f"reason: it must be one of {', '.join(Reason)}") from None


@frozen
class Step:
    """One line of a script.

    Attributes:
        after: the simulated time since the step before, or since the call was placed.
        action: what happens then.
    """

    after: timedelta
    action: Action


def _check_steps(_: object, __: Attribute[tuple[Step, ...]], steps: tuple[Step, ...]) -> None:
    state = State.CALLER_RINGING
    for step in steps:
        if step.after < timedelta(0):
            raise ValueError(f"{step.action!s}: a step cannot come before the one it follows")
        state = next_state(state, step.action)


@frozen
class Scenario:
    """A script for one call.

    A script that does not come to an end leaves the call as it is until endCall, or a person, ends
    it. When a person acts, the script goes on, without the steps that have become impossible.

    Attributes:
        steps: in order.

    Raises:
        IllegalAction: the steps break the rules of the state machine.
        ValueError: a step has a negative time.
    """

    steps: tuple[Step, ...] = field(validator=_check_steps)

    @classmethod
    def for_reason(cls, reason: Reason, *, talk: timedelta | None = None) -> Scenario:
        """A script that ends with the given reason (3.2).

        Args:
            reason: any of the nine.
            talk: how long the parties talk, 12 seconds if not given; for `Reason.HANG_UP` only.

        Raises:
            ValueError: `talk` was given for a call in which nobody talks, or is negative.
        """
        if reason is Reason.HANG_UP:
            return cls((*_CONNECTS, Step(_TALK if talk is None else talk, Action.CALLEE_HANGS_UP)))
        if talk is not None:
            raise ValueError(f"talk: nobody talks in a call that ends with {reason.value}")
        return cls(_SCRIPTS[reason])

    @classmethod
    def endless(cls) -> Scenario:
        """A script that connects the two and lets them talk until endCall (3.4)."""
        return cls(_CONNECTS)


_CALLER_ANSWERS = Step(_CALLER_RINGS, Action.CALLER_ANSWERS)
_CONNECTS = (_CALLER_ANSWERS, Step(_CALLEE_RINGS, Action.CALLEE_ANSWERS))
_SCRIPTS: dict[Reason, tuple[Step, ...]] = {
    Reason.CALLER_BUSY: (Step(timedelta(seconds=2), Action.CALLER_BUSY),),
    Reason.CALLER_NO_ANSWER: (Step(_NOBODY_ANSWERS, Action.CALLER_NO_ANSWER),),
    Reason.CALLER_FAILURE: (Step(timedelta(seconds=1), Action.CALLER_FAILURE),),
    Reason.CALLER_ABANDON: (_CALLER_ANSWERS, Step(_CALLEE_RINGS, Action.CALLER_HANGS_UP)),
    Reason.CALLEE_BUSY: (_CALLER_ANSWERS, Step(timedelta(seconds=2), Action.CALLEE_BUSY)),
    Reason.CALLEE_NO_ANSWER: (_CALLER_ANSWERS, Step(_NOBODY_ANSWERS, Action.CALLEE_NO_ANSWER)),
    Reason.CALLEE_FAILURE: (_CALLER_ANSWERS, Step(timedelta(seconds=1), Action.CALLEE_FAILURE)),
    Reason.OTHER: (_CALLER_ANSWERS, Step(_CALLEE_RINGS, Action.PLATFORM_FAILS)),
}


@frozen(kw_only=True)
class Faults:
    """What goes wrong with one call besides how it ends.

    Attributes:
        drop_notification: it is never sent.
        delay_notification: how long after the hang-up it is sent, in simulated time.
        duplicate_notification: the same body is sent a second time, after the first was answered.
        malformed_notification: only the first half of the body is sent.
        early_notification: the call runs through in no time, and its notification is sent, and
            answered or given up, before the reply to ``call``.
        lose_reply: the call is placed, but the connection closes without a reply to ``call``.
        recording_fails: ``recordingResult`` is ``fail``, and there is no recording.

    Raises:
        ValueError: two of them exclude each other.
    """

    drop_notification: bool = False
    delay_notification: timedelta = timedelta(0)
    duplicate_notification: bool = False
    malformed_notification: bool = False
    early_notification: bool = False
    lose_reply: bool = False
    recording_fails: bool = False

    def __attrs_post_init__(self) -> None:
        if self.delay_notification < timedelta(0):
            raise ValueError("delay_notification: use early_notification to have it sooner")
        if self.drop_notification and (
            self.delay_notification
            or self.duplicate_notification
            or self.malformed_notification
            or self.early_notification
        ):
            raise ValueError("drop_notification: nothing else can befall what is never sent")
        if self.early_notification and self.delay_notification:
            raise ValueError("early_notification: it cannot be delayed as well")


@frozen(kw_only=True)
class Behaviour:
    """What the sandbox does with a call.

    Attributes:
        summary: one line for people.
        scenario: the script.
        faults: what goes wrong.
    """

    summary: str
    scenario: Scenario
    faults: Faults = Faults()


_HANG_UP = Scenario.for_reason(Reason.HANG_UP)

DEFAULT_BEHAVIOUR = Behaviour(
    summary="HangUp: the caller answers after 3 s, the callee after 4 s more, they talk for 12 s",
    scenario=_HANG_UP,
)
"""For a callee whose last digits are not in the table."""

SCENARIOS_BY_DIGITS: Mapping[str, Behaviour] = MappingProxyType(
    {
        f"{number:04}": Behaviour(summary=reason.value, scenario=Scenario.for_reason(reason))
        for number, reason in enumerate(
            (
                Reason.CALLER_BUSY,
                Reason.CALLER_NO_ANSWER,
                Reason.CALLER_FAILURE,
                Reason.CALLER_ABANDON,
                Reason.CALLEE_BUSY,
                Reason.CALLEE_NO_ANSWER,
                Reason.CALLEE_FAILURE,
                Reason.OTHER,
                Reason.HANG_UP,
            ),
            start=1,
        )
    }
    | {
        "0010": Behaviour(
            summary="they talk until endCall, which makes it HangUp", scenario=Scenario.endless()
        ),
        "0011": Behaviour(
            summary="HangUp, but recordingResult is fail",
            scenario=_HANG_UP,
            faults=Faults(recording_fails=True),
        ),
        "0021": Behaviour(
            summary="HangUp, the notification is never sent",
            scenario=_HANG_UP,
            faults=Faults(drop_notification=True),
        ),
        "0022": Behaviour(
            summary="HangUp, the notification is a minute late",
            scenario=_HANG_UP,
            faults=Faults(delay_notification=timedelta(minutes=1)),
        ),
        "0023": Behaviour(
            summary="HangUp, the notification is sent twice",
            scenario=_HANG_UP,
            faults=Faults(duplicate_notification=True),
        ),
        "0024": Behaviour(
            summary="HangUp, half of the notification is sent",
            scenario=_HANG_UP,
            faults=Faults(malformed_notification=True),
        ),
        "0025": Behaviour(
            summary="HangUp at once, the notification is sent before the reply to call",
            scenario=_HANG_UP,
            faults=Faults(early_notification=True),
        ),
        "0031": Behaviour(
            summary="HangUp, the reply to call is lost",
            scenario=_HANG_UP,
            faults=Faults(lose_reply=True),
        ),
    }
)
"""What the callee's last four digits choose."""


def _shown(pattern: str | None) -> str:
    if pattern is not None and not (pattern.startswith("*") and len(pattern) <= 1 + _DIGITS):
        pattern = mask(pattern)
    return repr(pattern)


def _new_name() -> str:
    return secrets.token_hex(4)


def _check_rule(_: object, __: Attribute[float], probability: float) -> None:
    check_probability("probability", probability)


@frozen(kw_only=True)
class Rule:
    """What is to happen to the calls that it matches. None matches anything.

    Attributes:
        callee: the whole number as the platform dials it, or ``*`` and its last digits.
        caller: the same for the caller.
        out_call_id: exactly.
        scenario: the script; None leaves it to the callee's last digits.
        faults: what goes wrong; None leaves it to the callee's last digits.
        probability: how likely it is, from 0 to 1, that the rule decides about a call that it
            matches; if it does not, the next one may.
        enabled: whether it is looked at.
        name: by which the console, and its JSON API, know it.

    Raises:
        ValueError: `probability` is not from 0 to 1.
    """

    callee: str | None = field(default=None, repr=_shown)
    caller: str | None = field(default=None, repr=_shown)
    out_call_id: str | None = None
    scenario: Scenario | None = None
    faults: Faults | None = None
    probability: float = field(default=1.0, validator=_check_rule)
    enabled: bool = True
    name: str = field(factory=_new_name, eq=False)

    def matches(self, *, caller: str, callee: str, out_call_id: str | None) -> bool:
        """Tell whether the rule is about this call."""
        return (
            _fits(self.callee, callee)
            and _fits(self.caller, caller)
            and self.out_call_id in (None, out_call_id)
        )


def _fits(pattern: str | None, number: str) -> bool:
    if pattern is None:
        return True
    if pattern.startswith("*"):
        return number.endswith(pattern[1:])
    return number == pattern


def behaviour_for(
    rules: Iterable[Rule],
    chance: Callable[[], float],
    *,
    caller: str,
    callee: str,
    out_call_id: str | None,
) -> Behaviour:
    """Choose what happens to a call: the first rule that matches, then the callee's last digits.

    Args:
        rules: in order.
        chance: draws a number from 0 to 1, and never 1.
        caller: who is rung first.
        callee: who is rung then.
        out_call_id: as given to ``call``.
    """
    behaviour = SCENARIOS_BY_DIGITS.get(callee[-_DIGITS:], DEFAULT_BEHAVIOUR)
    for rule in rules:
        if (
            rule.enabled
            and rule.matches(caller=caller, callee=callee, out_call_id=out_call_id)
            and happens(rule.probability, chance)
        ):
            return Behaviour(
                summary="as a rule says",
                scenario=rule.scenario or behaviour.scenario,
                faults=rule.faults or behaviour.faults,
            )
    return behaviour
