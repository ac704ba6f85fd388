"""Calls that were made up: they are what the sandbox itself would report."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qmc_async.codec import read_notification
from qmc_async.models import BEIJING, Disconnected, Reason
from qmc_async.sandbox import Assumed, SimulatedCall, State
from qmc_async.sandbox.invented import invented_call
from qmc_async.sandbox.wire import notification

END = datetime(2026, 1, 31, 18, 0, 0, tzinfo=BEIJING)
PICKED_UP = {"HangUp", "CallerAbandon", "CalleeBusy", "CalleeNoAnswer", "CalleeFailure", "Other"}


def wire(call: SimulatedCall) -> dict[str, Any]:
    """The members of its notification."""
    members: dict[str, Any] = json.loads(notification(call, Assumed()))
    return members


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_its_fields(reason: Reason) -> None:
    """The table of what to expect per reason, and a body that our own decoder takes whole."""
    call = invented_call(reason.value, end_time=END, call_id="4711", out_call_id="order-1")
    assert call.state is State.ENDED
    sent = wire(call)
    connected = reason is Reason.HANG_UP
    assert sent["callidentifier"] == "4711"
    assert sent["outCallId"] == "order-1"
    assert sent["endTime"] == "2026-01-31 18:00:00"
    assert sent["reason"] == reason.value
    assert ("startTime" in sent) == (reason.value in PICKED_UP)
    for field in ("answerTime", "callDuration", "recordingResult"):
        assert (field in sent) == connected
    event = read_notification(notification(call, Assumed()))
    assert isinstance(event, Disconnected)
    assert (event.reason, event.end_time, event.problems) == (reason, END, ())


def test_talk_and_recording() -> None:
    """Both are as they were asked for, and the times fit the talk."""
    talk = timedelta(seconds=75.5)
    sent = wire(invented_call(Reason.HANG_UP, talk=talk, recording="fail", end_time=END))
    assert sent["callDuration"] == "75"
    assert sent["recordingResult"] == "fail"
    assert wire(invented_call("HangUp", recording="success"))["recordingResult"] == "success"
    assert wire(invented_call("HangUp", talk=timedelta(0)))["callDuration"] == "0"


def test_the_defaults() -> None:
    """Each has an id of its own, ends now, to the second, in Beijing time."""
    before = datetime.now(BEIJING).replace(microsecond=0)
    one, two = invented_call("Other"), invented_call("Other")
    assert one.call_id != two.call_id
    assert len(one.call_id) == 18
    assert one.end_time is not None
    assert before <= one.end_time <= datetime.now(BEIJING)
    assert one.end_time.microsecond == 0
    elsewhere = invented_call("Other", end_time=datetime(2026, 1, 31, 10, tzinfo=UTC))
    assert wire(elsewhere)["endTime"] == "2026-01-31 18:00:00"


@pytest.mark.parametrize(
    ("reason", "options", "says"),
    [
        ("Bored", {}, "reason: it must be one of HangUp, "),
        ("HangUp", {"talk": 12}, "talk: it must be a timedelta"),
        ("HangUp", {"recording": "perhaps"}, "perhaps"),
        ("CalleeBusy", {"recording": "success"}, "recording: nobody talks"),
        ("CalleeBusy", {"talk": timedelta(1)}, "talk: nobody talks"),
        ("HangUp", {"talk": timedelta(-1)}, "before"),
        ("HangUp", {"end_time": datetime(2026, 1, 31)}, "time zone"),  # noqa: DTZ001 - that is what is wrong
    ],
)
def test_what_cannot_be(reason: str, options: dict[str, Any], says: str) -> None:
    """A call that the platform cannot report is refused, and it is said why."""
    with pytest.raises(ValueError, match=says):
        invented_call(reason, **options)
