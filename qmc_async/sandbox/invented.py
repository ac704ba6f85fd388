"""A call that nobody placed and that has ended already, for who wants its notification only."""

from __future__ import annotations

from datetime import datetime, timedelta

from qmc_async.models import BEIJING, Reason, RecordingResult
from qmc_async.sandbox.calls import SimulatedCall
from qmc_async.sandbox.engine import new_call_id
from qmc_async.sandbox.machine import Progress
from qmc_async.sandbox.scenario import Behaviour, Faults, Scenario, reason_named

__all__ = ["invented_call"]


def invented_call(
    reason: Reason | str,
    *,
    call_id: str | None = None,
    out_call_id: str | None = None,
    caller: str = "13987654321",
    callee: str = "13912345678",
    talk: timedelta | None = None,
    end_time: datetime | None = None,
    recording: RecordingResult | str | None = None,
) -> SimulatedCall:
    """Make up a call that has ended for a reason, with the times that such a call has (3.2).

    `qmc_async.sandbox.wire.notification` makes of it the body that the platform would send. Nothing
    is sent, no clock runs, and no sandbox knows the call.

    >>> from datetime import datetime, timedelta
    >>> end = datetime(2026, 1, 31, 18, 0, 0, tzinfo=BEIJING)
    >>> call = invented_call("HangUp", talk=timedelta(minutes=1), end_time=end)
    >>> f"{call.start_time:%H:%M:%S}, {call.answer_time:%H:%M:%S}, {call.end_time:%H:%M:%S}"
    '17:58:56, 17:59:00, 18:00:00'
    >>> call.recording
    <RecordingResult.SUCCESS: 'success'>

    Args:
        reason: any of the document's nine.
        call_id: its ``callidentifier``; by default a new one of 18 digits.
        out_call_id: as it would have been given to ``call``; the notification repeats it.
        caller: a number; no notification has one.
        callee: the same.
        talk: how long the parties talked, 12 seconds by default; the notification has whole
            seconds. Only for `Reason.HANG_UP`.
        end_time: the hang-up, an aware datetime, taken to the second; by default now.
        recording: ``success``, the default, or ``fail``. Only for `Reason.HANG_UP`.

    Returns:
        The call, which is `State.ENDED`; its times are in UTC+8.

    Raises:
        ValueError: the document has no such reason or recordingResult, `talk` or `recording` was
            given for a call in which nobody talks, `talk` is negative, or `end_time` is naive.
    """
    reason = reason_named(reason)
    if not isinstance(talk, timedelta | None):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
        raise ValueError("talk: it must be a timedelta, such as timedelta(seconds=12)")  # noqa: TRY004 - as all that is said of arguments here
    fails = recording is not None and RecordingResult(recording) is RecordingResult.FAIL
    if recording is not None and reason is not Reason.HANG_UP:
        raise ValueError(f"recording: nobody talks in a call that ends with {reason.value}")
    if end_time is None:
        end_time = datetime.now(BEIJING)
    elif end_time.tzinfo is None:
        raise ValueError("end_time: it must be an aware datetime, with a time zone")
    scenario = Scenario.for_reason(reason, talk=talk)
    ended = end_time.astimezone(BEIJING).replace(microsecond=0)
    time = ended - sum((step.after for step in scenario.steps), timedelta())
    progress = Progress(placed_at=time)
    for step in scenario.steps:
        time += step.after
        progress = progress.after(step.action, time)
    return SimulatedCall(
        call_id=new_call_id() if call_id is None else call_id,
        caller=caller,
        callee=callee,
        out_call_id=out_call_id,
        behaviour=Behaviour(
            summary="invented", scenario=scenario, faults=Faults(recording_fails=fails)
        ),
        progress=progress,
    )
