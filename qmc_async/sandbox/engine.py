"""All calls and what is still to happen to them. It does no input or output and reads no clock.

Whoever drives it tells it the time: `Engine.place` a call, `Engine.run` it when `Engine.next_due`
has come, and send a notification for each call that `run` yields.
"""

from __future__ import annotations

import heapq
import itertools
import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from qmc_async.models import RecordingResult
from qmc_async.sandbox.calls import SimulatedCall
from qmc_async.sandbox.machine import Action, Progress, State, is_legal
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


class Engine:
    """The platform without its network.

    Attributes:
        calls: all calls by ``callidentifier``, in the order of placing.
        rules: in order; the first that matches a new call decides.
        assumed: what the document does not say.
    """

    def __init__(
        self,
        *,
        rules: Iterable[Rule] = (),
        assumed: Assumed,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self.calls: dict[str, SimulatedCall] = {}
        self.rules = list(rules)
        self.assumed = assumed
        self._new_id = new_id
        # What is due, the earliest first. The second member keeps the order of what is due at
        # once; an action of None is the notification.
        self._timeline: list[tuple[datetime, int, SimulatedCall, Action | None]] = []
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
        behaviour = behaviour_for(self.rules, caller=caller, callee=callee, out_call_id=out_call_id)
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
            due += timedelta(0) if behaviour.faults.early_notification else step.after
            self._schedule(due, call, step.action)
        return call

    def run(self, now: datetime) -> Iterator[SimulatedCall]:
        """Let everything happen that is due, each at its own time and in order.

        Yields:
            Each call whose notification is to be sent. The engine may be used between two of them.
        """
        while self._timeline and self._timeline[0][0] <= now:
            due, _, call, action = heapq.heappop(self._timeline)
            if action is None:
                self._unsettled -= 1
                yield call
            elif is_legal(call.state, action):  # or else a person was faster than the script
                self._move(due, call, action)

    def act(self, now: datetime, call_id: str, action: Action) -> None:
        """Let somebody act on a call. Run what is due first.

        Raises:
            KeyError: there is no such call.
            IllegalAction: it is not possible in the call's state.
        """
        self._move(now, self.calls[call_id], action)

    def end(self, now: datetime, call_id: str) -> None:
        """Delete a call (3.4). Run what is due first.

        Raises:
            Refused: there is no such call, or it has ended and that is not taken for a success.
        """
        call = self._find(call_id)
        if call.state is not State.ENDED:
            self._move(now, call, Action.END_CALL)
        elif self.assumed.code_call_ended != 200:  # noqa: PLR2004 - the document's success
            raise Refused(self.assumed.code_call_ended, "呼叫已结束")

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

    def _find(self, call_id: str) -> SimulatedCall:
        try:
            return self.calls[call_id]
        except KeyError:
            raise Refused(self.assumed.code_unknown_call, "呼叫不存在") from None

    def _move(self, at: datetime, call: SimulatedCall, action: Action) -> None:
        call.progress = call.progress.after(
            action, at, reason_of_deletion=self.assumed.reason_of_deletion
        )
        if call.state is not State.ENDED:
            return
        faults = call.behaviour.faults
        if faults.drop_notification:
            self._unsettled -= 1
        else:
            self._schedule(at + faults.delay_notification, call, None)

    def _schedule(self, due: datetime, call: SimulatedCall, action: Action | None) -> None:
        heapq.heappush(self._timeline, (due, next(self._order), call, action))
