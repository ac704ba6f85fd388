"""The life of one call, as a state machine without a clock or a socket.

The document (1) says that the platform rings the caller, then the callee, and bridges them; its
reasons (3.2) say how each stage can end. Hence the rules:

Rule 1: A call begins in CALLER_RINGING.
Rule 2: In CALLER_RINGING the caller may answer; that moves the call to CALLEE_RINGING and is its
        startTime.
Rule 3: In CALLER_RINGING the caller may be busy (or decline), not answer, or fail; each ends the
        call with the reason of that name.
Rule 4: In CALLEE_RINGING the callee may answer; that moves the call to CONNECTED and is its
        answerTime.
Rule 5: In CALLEE_RINGING the callee may be busy (or decline), not answer, or fail; each ends the
        call with the reason of that name.
Rule 6: In CALLEE_RINGING the caller may hang up; that ends the call with CallerAbandon.
Rule 7: In CONNECTED either party may hang up; that ends the call with HangUp.
Rule 8: In every state but ENDED the platform itself may fail; that ends the call with Other.
Rule 9: In every state but ENDED the call may be deleted with endCall. In CONNECTED the reason is
        HangUp, as documented ("including a call deleted after it was connected"); before that it
        is undocumented, and therefore the caller of this module says which.
Rule 10: Nothing else is legal. In ENDED nothing is, so a call ends at most once.
Rule 11: Time does not run backwards from one action to the next.
"""

from __future__ import annotations

import enum
from datetime import datetime

from attrs import evolve, frozen

from qmc_async.models import Reason

__all__ = [
    "Action",
    "IllegalAction",
    "Progress",
    "State",
    "actions_until",
    "is_legal",
    "legal_actions",
    "next_state",
]


class State(enum.StrEnum):
    """Where a call stands."""

    CALLER_RINGING = "caller ringing"
    CALLEE_RINGING = "callee ringing"
    """The caller has answered and hears the callee's telephone ring."""
    CONNECTED = "connected"
    ENDED = "ended"


class Action(enum.StrEnum):
    """What somebody does to a call."""

    CALLER_ANSWERS = "caller answers"
    CALLER_BUSY = "caller is busy"
    """Also a caller who declines."""
    CALLER_NO_ANSWER = "caller does not answer"
    CALLER_FAILURE = "caller cannot be reached"
    CALLER_HANGS_UP = "caller hangs up"
    CALLEE_ANSWERS = "callee answers"
    CALLEE_BUSY = "callee is busy"
    """Also a callee who declines."""
    CALLEE_NO_ANSWER = "callee does not answer"
    CALLEE_FAILURE = "callee cannot be reached"
    CALLEE_HANGS_UP = "callee hangs up"
    PLATFORM_FAILS = "platform fails"
    END_CALL = "endCall"
    """The application asks for the call's end (3.4)."""


class IllegalAction(RuntimeError):  # noqa: N818 - it names what was tried, as h11's errors do
    """An action, or an end, that the rules do not allow in the call's state.

    Attributes:
        state: where the call stands; it is unchanged.
        action: what was tried, or the reason that the call was to end with.
    """

    def __init__(self, state: State, action: Action | Reason) -> None:
        super().__init__(state, action)
        self.state = state
        self.action = action

    def __str__(self) -> str:
        return f"{self.action!s}: not possible while the call is {self.state!s}"


_MOVES: dict[tuple[State, Action], State] = {
    (State.CALLER_RINGING, Action.CALLER_ANSWERS): State.CALLEE_RINGING,
    (State.CALLEE_RINGING, Action.CALLEE_ANSWERS): State.CONNECTED,
}
# None stands for the undocumented reason of rule 9.
_ENDS: dict[tuple[State, Action], Reason | None] = {
    (State.CALLER_RINGING, Action.CALLER_BUSY): Reason.CALLER_BUSY,
    (State.CALLER_RINGING, Action.CALLER_NO_ANSWER): Reason.CALLER_NO_ANSWER,
    (State.CALLER_RINGING, Action.CALLER_FAILURE): Reason.CALLER_FAILURE,
    (State.CALLER_RINGING, Action.PLATFORM_FAILS): Reason.OTHER,
    (State.CALLER_RINGING, Action.END_CALL): None,
    (State.CALLEE_RINGING, Action.CALLER_HANGS_UP): Reason.CALLER_ABANDON,
    (State.CALLEE_RINGING, Action.CALLEE_BUSY): Reason.CALLEE_BUSY,
    (State.CALLEE_RINGING, Action.CALLEE_NO_ANSWER): Reason.CALLEE_NO_ANSWER,
    (State.CALLEE_RINGING, Action.CALLEE_FAILURE): Reason.CALLEE_FAILURE,
    (State.CALLEE_RINGING, Action.PLATFORM_FAILS): Reason.OTHER,
    (State.CALLEE_RINGING, Action.END_CALL): None,
    (State.CONNECTED, Action.CALLER_HANGS_UP): Reason.HANG_UP,
    (State.CONNECTED, Action.CALLEE_HANGS_UP): Reason.HANG_UP,
    (State.CONNECTED, Action.PLATFORM_FAILS): Reason.OTHER,
    (State.CONNECTED, Action.END_CALL): Reason.HANG_UP,
}

_ANSWERS = dict(_MOVES.keys())
_ENDING: dict[Reason, Action] = {
    Reason.HANG_UP: Action.CALLEE_HANGS_UP,
    Reason.CALLER_BUSY: Action.CALLER_BUSY,
    Reason.CALLER_NO_ANSWER: Action.CALLER_NO_ANSWER,
    Reason.CALLER_FAILURE: Action.CALLER_FAILURE,
    Reason.CALLER_ABANDON: Action.CALLER_HANGS_UP,
    Reason.CALLEE_BUSY: Action.CALLEE_BUSY,
    Reason.CALLEE_NO_ANSWER: Action.CALLEE_NO_ANSWER,
    Reason.CALLEE_FAILURE: Action.CALLEE_FAILURE,
    Reason.OTHER: Action.PLATFORM_FAILS,
}


def is_legal(state: State, action: Action) -> bool:
    """Tell whether the rules allow the action in that state."""
    return (state, action) in _MOVES or (state, action) in _ENDS


def legal_actions(state: State) -> tuple[Action, ...]:
    """What the rules allow in that state, in the order of `Action`."""
    return tuple(action for action in Action if is_legal(state, action))


def actions_until(state: State, reason: Reason) -> tuple[Action, ...]:
    """The shortest way for people, or the platform, to end a call with that reason.

    Of the two who can hang up, the callee does.

    Raises:
        IllegalAction: from that state no way leads there.
    """
    action = _ENDING[reason]
    way: list[Action] = []
    at = state
    while _ENDS.get((at, action)) is not reason:
        if at not in _ANSWERS:
            raise IllegalAction(state, reason)
        way.append(_ANSWERS[at])
        at = next_state(at, way[-1])
    return (*way, action)


def next_state(state: State, action: Action) -> State:
    """Where the action takes a call.

    Raises:
        IllegalAction: the rules do not allow it.
    """
    if not is_legal(state, action):
        raise IllegalAction(state, action)
    return _MOVES.get((state, action), State.ENDED)


@frozen(kw_only=True)
class Progress:
    """How far a call has come.

    Attributes:
        placed_at: when the platform took the call and began to ring the caller.
        state: where it stands.
        start_time: the caller picked up (3.2).
        answer_time: both parties were connected (3.2).
        end_time: hang-up (3.2); set exactly when `state` is ENDED.
        reason: why it ended (3.2); set with `end_time`.
    """

    placed_at: datetime
    state: State = State.CALLER_RINGING
    start_time: datetime | None = None
    answer_time: datetime | None = None
    end_time: datetime | None = None
    reason: Reason | None = None

    def after(
        self, action: Action, at: datetime, *, reason_of_deletion: Reason = Reason.OTHER
    ) -> Progress:
        """How far the call has come once the action is done.

        Args:
            action: what somebody does.
            at: when, as an aware datetime.
            reason_of_deletion: of a call that endCall ends before it is connected (rule 9).

        Raises:
            IllegalAction: the rules do not allow it in this state.
            ValueError: `at` is earlier than what happened before (rule 11).
        """
        state = next_state(self.state, action)
        if at < (self.answer_time or self.start_time or self.placed_at):
            raise ValueError(f"{action!s}: earlier than what happened before it")
        if state is State.CALLEE_RINGING:
            return evolve(self, state=state, start_time=at)
        if state is State.CONNECTED:
            return evolve(self, state=state, answer_time=at)
        reason = _ENDS[self.state, action] or reason_of_deletion
        return evolve(self, state=state, end_time=at, reason=reason)
