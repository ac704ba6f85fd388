"""A notification as others would decode it: the same fields, of the same types."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Notification", "hand_written", "msgspec_decoder"]

BEIJING: Final = timezone(timedelta(hours=8))


class Reason(StrEnum):
    """How a call ended (3.2)."""

    HANG_UP = "HangUp"
    CALLER_BUSY = "CallerBusy"
    CALLER_NO_ANSWER = "CallerNoAnswer"
    CALLER_FAILURE = "CallerFailure"
    CALLER_ABANDON = "CallerAbandon"
    CALLEE_BUSY = "CalleeBusy"
    CALLEE_NO_ANSWER = "CalleeNoAnswer"
    CALLEE_FAILURE = "CalleeFailure"
    OTHER = "Other"


class RecordingResult(StrEnum):
    """Whether there is a recording (3.2)."""

    SUCCESS = "success"
    FAIL = "fail"


def _in_beijing(naive: datetime) -> datetime:
    return naive.replace(tzinfo=BEIJING)


def _seconds(text: Any) -> Any:  # noqa: ANN401 - pydantic validates what comes of it
    return timedelta(seconds=int(text)) if isinstance(text, str) else text


Time = Annotated[datetime, AfterValidator(_in_beijing)]


class Notification(BaseModel):
    """With pydantic, for the decoding and for FastAPI."""

    model_config = ConfigDict(extra="allow", frozen=True)

    call_id: str = Field(alias="callidentifier")
    status: str
    end_time: Time = Field(alias="endTime")
    start_time: Time | None = Field(None, alias="startTime")
    answer_time: Time | None = Field(None, alias="answerTime")
    reason: Reason | None = None
    call_duration: Annotated[timedelta, BeforeValidator(_seconds)] | None = Field(
        None, alias="callDuration"
    )
    recording_result: RecordingResult | None = Field(None, alias="recordingResult")
    out_call_id: str | None = Field(None, alias="outCallId")


def hand_written(body: bytes) -> dict[str, Any]:
    """With the standard library, into a dictionary, without a check but for what raises."""
    wire = json.loads(body)
    reason, duration, result = map(wire.get, ("reason", "callDuration", "recordingResult"))
    return {
        "call_id": wire["callidentifier"],
        "end_time": _time(wire["endTime"]),
        "start_time": _time(wire.get("startTime")),
        "answer_time": _time(wire.get("answerTime")),
        "reason": Reason(reason) if reason else None,
        "call_duration": timedelta(seconds=int(duration)) if duration else None,
        "recording_result": RecordingResult(result) if result else None,
        "out_call_id": wire.get("outCallId"),
    }


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=BEIJING) if text else None


def msgspec_decoder() -> Callable[[bytes], Any]:
    """With msgspec, which must be installed."""
    msgspec: Any = import_module("msgspec")

    def localize(self: Any) -> None:  # noqa: ANN401 - its class is made below
        self.end_time = self.end_time.replace(tzinfo=BEIJING)
        self.start_time = self.start_time and self.start_time.replace(tzinfo=BEIJING)
        self.answer_time = self.answer_time and self.answer_time.replace(tzinfo=BEIJING)
        if self.call_duration is not None:
            self.call_duration = timedelta(seconds=int(self.call_duration))

    struct = msgspec.defstruct(
        "Notification",
        [
            ("call_id", str, msgspec.field(name="callidentifier")),
            ("end_time", datetime, msgspec.field(name="endTime")),
            ("start_time", datetime | None, msgspec.field(name="startTime", default=None)),
            ("answer_time", datetime | None, msgspec.field(name="answerTime", default=None)),
            ("reason", Reason | None, None),
            ("call_duration", str | None, msgspec.field(name="callDuration", default=None)),
            (
                "recording_result",
                RecordingResult | None,
                msgspec.field(name="recordingResult", default=None),
            ),
            ("out_call_id", str | None, msgspec.field(name="outCallId", default=None)),
        ],
        namespace={"__post_init__": localize},
    )
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(struct).decode
    return decode
