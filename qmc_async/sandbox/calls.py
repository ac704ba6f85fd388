"""One simulated call: who, how far it has come, and its recording."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from attrs import define, field

from qmc_async.models import RECORDING_LIFETIME, Reason, RecordingResult
from qmc_async.numbers import mask

if TYPE_CHECKING:
    from qmc_async.sandbox.history import Entry
    from qmc_async.sandbox.machine import Progress, State
    from qmc_async.sandbox.scenario import Behaviour

__all__ = ["SimulatedCall"]


def _masked(number: str) -> str:
    return repr(mask(number))


@define(kw_only=True, eq=False)
class SimulatedCall:
    """A call on the sandbox. All times are simulated, in UTC+8.

    Attributes:
        call_id: its ``callidentifier``.
        caller: the number as it is dialled; masked in the repr.
        callee: the same.
        out_call_id: as given to ``call``, None where it was not.
        behaviour: what is to happen to it, chosen when it was placed.
        progress: how far it has come.
        history: what happened to it, the earliest first.
    """

    call_id: str
    caller: str = field(repr=_masked)
    callee: str = field(repr=_masked)
    out_call_id: str | None
    behaviour: Behaviour = field(repr=False)
    progress: Progress
    history: list[Entry] = field(factory=list["Entry"], repr=False)

    @property
    def state(self) -> State:
        """Where it stands."""
        return self.progress.state

    @property
    def placed_at(self) -> datetime:
        """When it was placed."""
        return self.progress.placed_at

    @property
    def start_time(self) -> datetime | None:
        """When the caller picked up (3.2)."""
        return self.progress.start_time

    @property
    def answer_time(self) -> datetime | None:
        """When both parties were connected (3.2)."""
        return self.progress.answer_time

    @property
    def end_time(self) -> datetime | None:
        """Hang-up (3.2); None while the call is live."""
        return self.progress.end_time

    @property
    def reason(self) -> Reason | None:
        """Why it ended (3.2); None while the call is live."""
        return self.progress.reason

    @property
    def duration(self) -> timedelta | None:
        """The talk, in whole seconds (3.2); None where nobody has talked, or still does."""
        if self.answer_time is None or self.end_time is None:
            return None
        return timedelta(seconds=(self.end_time - self.answer_time) // timedelta(seconds=1))

    @property
    def recording(self) -> RecordingResult | None:
        """Whether it was recorded (3.2); None where there was no talk, or still is."""
        if self.duration is None:
            return None
        fails = self.behaviour.faults.recording_fails
        return RecordingResult.FAIL if fails else RecordingResult.SUCCESS

    @property
    def recording_expires_at(self) -> datetime | None:
        """When its recording is deleted (3.3); None while the call is live."""
        return None if self.end_time is None else self.end_time + RECORDING_LIFETIME
