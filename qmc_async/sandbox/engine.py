"""All calls and what is still to happen to them. It does no input or output and reads no clock.

Whoever drives it tells it the time: `Engine.place` a call, `Engine.run` it when `Engine.next_due`
has come, and send a notification for each call that `run` yields.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import random
import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from attrs import evolve

from qmc_async.models import RECORDING_LIFETIME, Reason, RecordingResult
from qmc_async.sandbox.calls import SimulatedCall
from qmc_async.sandbox.chances import FaultRates
from qmc_async.sandbox.history import Actor, Move, Withheld
from qmc_async.sandbox.machine import Action, Progress, State, actions_until, is_legal
from qmc_async.sandbox.scenario import Rule, behaviour_for
from qmc_async.sandbox.wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from qmc_async.sandbox.assumed import Assumed

__all__ = ["Engine", "new_call_id"]


def new_call_id() -> str:
    """A ``callidentifier`` like the document's: 18 digits.

    It is random, not counted, because whoever uses the sandbox may keep the ids of many runs.
    """
    return str(10**17 + secrets.randbelow(9 * 10**17))


class _Milestone(enum.Enum):
    """What falls due by itself once a call has ended."""

    NOTIFICATION = enum.auto()
    RECORDING = enum.auto()
    """It can be had from now on, or no longer. Nothing is to do, but who watches may look."""


class Engine:
    """The platform without its network.

    Attributes:
        calls: all calls by ``callidentifier``, in the order of placing.
        rules: in order; the first that matches a new call decides.
        fault_rates: what may befall any new call.
        withhold: how many of the next notifications are not sent.
        assumed: what the document does not say.

    Args:
        rules: see above.
        assumed: see above.
        new_id: makes a ``callidentifier``.
        chance: draws a number from 0 to 1, and never 1.
    """

    def __init__(
        self,
        *,
        rules: Iterable[Rule] = (),
        assumed: Assumed,
        new_id: Callable[[], str] = new_call_id,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.calls: dict[str, SimulatedCall] = {}
        self.rules = list(rules)
        self.fault_rates = FaultRates()
        self.withhold = 0
        self.assumed = assumed
        self._new_id = new_id
        self._chance = chance
        # What is due, the earliest first. The second member keeps the order of what is due at once.
        self._timeline: list[tuple[datetime, int, SimulatedCall, Action | _Milestone]] = []
        self._order = itertools.count()
        self._unsettled = 0

    @property
    def next_due(self) -> datetime | None:
        """When `run` has something to do; None where nothing is to come."""
        return self._timeline[0][0] if self._timeline else None

    @property
    def settled(self) -> bool:
        """Whether every call has ended and its notification was given out by `run`, or dropped."""
        return self._unsettled == 0

    def place(
        self, now: datetime, caller: str, callee: str, out_call_id: str | None = None
    ) -> SimulatedCall:
        """Place a call: the caller rings from now on (3.1)."""
        behaviour = behaviour_for(
            self.rules, self._chance, caller=caller, callee=callee, out_call_id=out_call_id
        )
        faults = self.fault_rates.befall(behaviour.faults, self._chance)
        if faults is not behaviour.faults:
            behaviour = evolve(behaviour, faults=faults)
        call = SimulatedCall(
            call_id=self._new_id(),
            caller=caller,
            callee=callee,
            out_call_id=out_call_id,
            behaviour=behaviour,
            progress=Progress(placed_at=now),
        )
        self.calls[call.call_id] = call
        self._unsettled += 1
        due = now
        for step in behaviour.scenario.steps:
            due += timedelta(0) if faults.early_notification else step.after
            self._schedule(due, call, step.action)
        return call

    def run(self, now: datetime) -> Iterator[SimulatedCall]:
        """Let everything happen that is due, each at its own time and in order.

        Yields:
            Each call whose notification is to be sent. The engine may be used between two of them.
        """
        while self._timeline and self._timeline[0][0] <= now:
            due, _, call, action = heapq.heappop(self._timeline)
            if isinstance(action, Action):
                if is_legal(call.state, action):  # or else a person was faster than the script
                    self._move(due, call, action, Actor.SCRIPT)
            elif action is _Milestone.NOTIFICATION:
                self._unsettled -= 1
                if self._is_withheld(call):
                    call.history.append(Withheld(at=due))
                else:
                    yield call

    def act(self, now: datetime, call_id: str, action: Action) -> None:
        """Let somebody act on a call. Run what is due first.

        Raises:
            KeyError: there is no such call.
            IllegalAction: it is not possible in the call's state.
        """
        self._move(now, self.calls[call_id], action, Actor.PERSON)

    def hang_up(self, now: datetime, call_id: str, reason: Reason) -> None:
        """Let people end a call with that reason, without delay. Run what is due first.

        Raises:
            KeyError: there is no such call.
            IllegalAction: in its state it can no longer end so.
        """
        call = self.calls[call_id]
        for action in actions_until(call.state, reason):
            self._move(now, call, action, Actor.PERSON)

    def forget(self, *, reporting: Iterable[str] = ()) -> list[str]:
        """Forget the calls that have ended and have nothing more to report.

        Args:
            reporting: the calls whose notifications are on their way.

        Returns:
            The ``callidentifier`` of each that was forgotten.
        """
        kept = set(reporting) | {
            call.call_id
            for _, _, call, action in self._timeline
            if action is _Milestone.NOTIFICATION
        }
        forgotten = [
            call_id
            for call_id, call in self.calls.items()
            if call.state is State.ENDED and call_id not in kept
        ]
        for call_id in forgotten:
            del self.calls[call_id]
        self._timeline = [entry for entry in self._timeline if entry[2].call_id in self.calls]
        heapq.heapify(self._timeline)
        return forgotten

    def end(self, now: datetime, call_id: str) -> SimulatedCall:
        """Delete a call (3.4), and return it. Run what is due first.

        Raises:
            Refused: there is no such call, or it has ended and that is not taken for a success.
        """
        call = self._find(call_id)
        if call.state is not State.ENDED:
            self._move(now, call, Action.END_CALL, Actor.APPLICATION)
        elif self.assumed.code_call_ended != 200:  # noqa: PLR2004 - the document's success
            raise Refused(self.assumed.code_call_ended, "呼叫已结束")
        return call

    def recorded(self, now: datetime, call_id: str) -> SimulatedCall:
        """The call, provided that its recording can be had now (3.3). Run what is due first.

        Raises:
            Refused: it cannot, for the reason that the code says.
        """
        call = self._find(call_id)
        if call.end_time is None or call.recording_expires_at is None:
            raise Refused(self.assumed.code_recording_not_ready, "通话未结束")
        if call.recording is not RecordingResult.SUCCESS:
            raise Refused(self.assumed.code_no_recording, "没有录音")
        if now < call.end_time + self.assumed.recording_delay:
            raise Refused(self.assumed.code_recording_not_ready, "录音未就绪")
        if now >= call.recording_expires_at:
            raise Refused(self.assumed.code_recording_expired, "录音已过期")
        return call

    def _is_withheld(self, call: SimulatedCall) -> bool:
        if call.behaviour.faults.drop_notification:
            return True
        if self.withhold:
            self.withhold -= 1
            return True
        return False

    def _find(self, call_id: str) -> SimulatedCall:
        try:
            return self.calls[call_id]
        except KeyError:
            raise Refused(self.assumed.code_unknown_call, "呼叫不存在") from None

    def _move(self, at: datetime, call: SimulatedCall, action: Action, actor: Actor) -> None:
        call.progress = call.progress.after(
            action, at, reason_of_deletion=self.assumed.reason_of_deletion
        )
        call.history.append(Move(at=at, action=action, actor=actor))
        if call.state is State.ENDED:
            delay = call.behaviour.faults.delay_notification
            self._schedule(at + delay, call, _Milestone.NOTIFICATION)
            if call.recording is RecordingResult.SUCCESS:
                self._schedule(at + self.assumed.recording_delay, call, _Milestone.RECORDING)
                self._schedule(at + RECORDING_LIFETIME, call, _Milestone.RECORDING)

    def _schedule(self, due: datetime, call: SimulatedCall, action: Action | _Milestone) -> None:
        heapq.heappush(self._timeline, (due, next(self._order), call, action))
