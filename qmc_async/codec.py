"""The platform's JSON to models and back: one cattrs converter.

The document (3.2) calls six fields of the notification "conditional" and does not say how it
leaves one out; all the ways that comparable platforms use are read as None. Its own examples
have spaces around values, so values are stripped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar, cast

import orjson
from cattrs import ClassValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.orjson import make_converter

from qmc_async.errors import DecodeError
from qmc_async.models import (
    BEIJING,
    CallResult,
    Disconnected,
    Envelope,
    FileResult,
    Notification,
    Reason,
    RecordingResult,
    UnknownNotification,
)

__all__ = [
    "STATUS",
    "decode_envelope",
    "decode_notification",
    "decode_result",
    "encode",
    "read_notification",
    "unknown_notification",
]

T = TypeVar("T")
Wire: TypeAlias = Mapping[str, Any]

STATUS = "Disconnected"
"""The one value of ``status`` that the document (3.2) has."""

# `fromisoformat` alone takes weeks, fractions and any separator as well.
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
_TIME_LENGTH = len("yyyy-MM-dd HH:mm:ss")
_REASONS = {reason.value: reason for reason in Reason}
_RECORDING_RESULTS = {result.value: result for result in RecordingResult}
_JSON_TYPES: dict[type[object], str] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    str: "a string",
}
_WIRE = {
    "call_id": "callidentifier",
    "end_time": "endTime",
    "start_time": "startTime",
    "answer_time": "answerTime",
    "call_duration": "callDuration",
    "recording_result": "recordingResult",
    "out_call_id": "outCallId",
    "file_url": "fileUrl",
}
# To these fields "0" is a value; the others are left out by it on some comparable platforms.
_ZERO_IS_A_VALUE = frozenset({"callidentifier", "endTime", "callDuration"})


def _text(value: object, _: object = None) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # an identifier that lost its quotation marks is the same identifier
    raise TypeError(f"expected a string, not {_json_type(value)}")


def _name(value: object, _: object = None) -> str:
    text = _text(value)
    if not text:
        raise ValueError("is empty")
    if _CONTROL.search(text):  # it is logged, and must not begin a line of its own
        raise ValueError("has control characters")
    return text


def _message(value: object, _: object = None) -> str:
    return "" if value is None else _text(value)


def _time(value: object, _: object = None) -> datetime:
    # `fromisoformat` with the offset appended takes a fifth of the time of `strptime`.
    text = _text(value)
    if _TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text + "+08:00")
        except ValueError:
            pass  # its message quotes the value; the one below does not
    raise ValueError("expected a time as yyyy-MM-dd HH:mm:ss")


def _seconds(value: object, _: object = None) -> timedelta:
    text = _text(value)
    if not (text.isascii() and text.isdigit() and len(text) < 10):  # noqa: PLR2004 - 31 years
        raise ValueError("expected a whole number of seconds")
    return timedelta(seconds=int(text))


def _code(value: object, _: object = None) -> int:
    text = _text(value)
    if not (text.removeprefix("-").isdigit() and text.isascii() and len(text) < 20):  # noqa: PLR2004 - a Long
        raise ValueError("expected a whole number")
    return int(text)


def _reason(value: object, _: object = None) -> Reason | str:
    text = _text(value)
    return _REASONS.get(text, text)


def _recording_result(value: object, _: object = None) -> RecordingResult | str:
    text = _text(value)
    return _RECORDING_RESULTS.get(text, text)


def _as_it_is(value: Any, _: object = None) -> Any:  # noqa: ANN401 - JSON may be anything
    return value


def _json_type(value: object) -> str:
    return _JSON_TYPES.get(type(value), "an object")


def _write_time(value: datetime | None) -> str | None:
    # Not `strftime`: its %Y writes the year 987 with three digits on Linux.
    return None if value is None else value.astimezone(BEIJING).isoformat(" ")[:_TIME_LENGTH]


def _write_seconds(value: timedelta | None) -> str | None:
    return None if value is None else str(int(value.total_seconds()))


_ALWAYS_PRESENT = frozenset({"callidentifier", "endTime"})
_BOM = b"\xef\xbb\xbf"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_converter = make_converter()
_structure_disconnected = make_dict_structure_fn(
    Disconnected,
    _converter,
    call_id=override(rename=_WIRE["call_id"], struct_hook=_name),
    end_time=override(rename=_WIRE["end_time"], struct_hook=_time),
    start_time=override(rename=_WIRE["start_time"], struct_hook=_time),
    answer_time=override(rename=_WIRE["answer_time"], struct_hook=_time),
    reason=override(struct_hook=_reason),
    call_duration=override(rename=_WIRE["call_duration"], struct_hook=_seconds),
    recording_result=override(rename=_WIRE["recording_result"], struct_hook=_recording_result),
    out_call_id=override(rename=_WIRE["out_call_id"], struct_hook=_text),
    problems=override(struct_hook=_as_it_is),
    raw=override(struct_hook=_as_it_is),
)


@_converter.register_structure_hook
def _structure_present(wire: Wire, _: type) -> Disconnected:
    """Structure what is there: an empty value is a missing one."""
    present: dict[str, Any] = {}
    for key, value in wire.items():
        if isinstance(value, str):
            text: Any = value.strip()
            is_left_out = not text or (text == "0" and key not in _ZERO_IS_A_VALUE)
        else:
            text = value
            is_left_out = text is None or (text == 0 and key not in _ZERO_IS_A_VALUE)
        if not is_left_out:
            present[key] = text
    present["problems"] = ()
    present["raw"] = wire
    try:
        return _structure_disconnected(present, Disconnected)
    except ClassValidationError as error:
        problems = _problems(error)
        if not _ALWAYS_PRESENT.isdisjoint(problems):
            raise
    for name in problems:
        del present[name]
    present["problems"] = tuple(f"$.{name}: {what}" for name, what in problems.items())
    return _structure_disconnected(present, Disconnected)


_converter.register_structure_hook(
    Envelope,
    make_dict_structure_fn(
        Envelope,
        _converter,
        code=override(struct_hook=_code),
        msg=override(struct_hook=_message),
        data=override(struct_hook=_as_it_is),
    ),
)
_converter.register_structure_hook(
    CallResult,
    make_dict_structure_fn(
        CallResult, _converter, call_id=override(rename=_WIRE["call_id"], struct_hook=_name)
    ),
)
_converter.register_structure_hook(
    FileResult,
    make_dict_structure_fn(
        FileResult, _converter, file_url=override(rename=_WIRE["file_url"], struct_hook=_name)
    ),
)
_converter.register_unstructure_hook(
    Disconnected,
    make_dict_unstructure_fn(
        Disconnected,
        _converter,
        _cattrs_omit_if_default=True,
        call_id=override(rename=_WIRE["call_id"]),
        end_time=override(rename=_WIRE["end_time"], unstruct_hook=_write_time),
        start_time=override(rename=_WIRE["start_time"], unstruct_hook=_write_time),
        answer_time=override(rename=_WIRE["answer_time"], unstruct_hook=_write_time),
        reason=override(unstruct_hook=str),
        call_duration=override(rename=_WIRE["call_duration"], unstruct_hook=_write_seconds),
        recording_result=override(rename=_WIRE["recording_result"], unstruct_hook=str),
        out_call_id=override(rename=_WIRE["out_call_id"]),
        problems=override(omit=True),
        raw=override(omit=True),
    ),
)


def decode_notification(body: bytes) -> Notification:
    """Read the body of a notification (3.2).

    Args:
        body: JSON in UTF-8. Values may have spaces around them.

    Returns:
        A `Disconnected`, or an `UnknownNotification` where ``status`` is another one.

    Raises:
        DecodeError: no JSON object, or one without what every `Disconnected` has.
    """
    wire = _load_object(body)
    status = wire.get("status")
    if isinstance(status, str) and status.strip() == STATUS:
        return decode_result(wire, Disconnected)
    return unknown_notification(body, wire)


def read_notification(body: bytes, problem: str = "") -> Notification:
    """Read the body of a notification, whatever is in it.

    Args:
        body: any bytes.
        problem: why they may not be all that was sent. What can be decoded is taken all the same.

    Returns:
        As `decode_notification`; what cannot be decoded is an `UnknownNotification` that says why.
    """
    try:
        return decode_notification(body)
    except DecodeError as error:
        why = str(error)
    except Exception as error:  # noqa: BLE001 - a fault of ours must not cost the platform's only copy
        why = f"the decoder failed ({type(error).__name__})"
    return unknown_notification(body, problem=f"{problem}: {why}" if problem else why)


def unknown_notification(
    body: bytes, wire: Wire | None = None, *, problem: str | None = None
) -> UnknownNotification:
    """Keep a notification that is no `Disconnected`, with as much as can be read of it.

    Args:
        body: the bytes as they came; anything is accepted.
        wire: the JSON object in them, where the caller has it already.
        problem: what kept it from being decoded.
    """
    if wire is None:
        try:
            wire = _load_object(body)
        except DecodeError:
            wire = {}
    return UnknownNotification(
        status=_readable(wire, "status"),
        call_id=_readable(wire, "callidentifier"),
        problem=problem,
        body=body,
        raw=wire,
    )


def decode_envelope(body: bytes) -> Envelope:
    """Read a reply's envelope (3.1); its ``code`` may be 200 or ``"200"``.

    Raises:
        DecodeError: no JSON object, or one without a numeric ``code``.
    """
    return decode_result(_load_object(body), Envelope)


def decode_result(wire: object, cls: type[T], *, path: str = "$") -> T:
    """Read one JSON object as the model `cls`.

    Args:
        wire: what the JSON parser made.
        cls: `Disconnected`, `Envelope`, `CallResult` or `FileResult`.
        path: where the object stands in the message, for the error.

    Raises:
        DecodeError: with the place of the first thing that is wrong, and without its value.
    """
    if not isinstance(wire, Mapping):
        raise DecodeError(f"{path}: expected an object, not {_json_type(wire)}", path=path)
    try:
        return _converter.structure(wire, cls)
    except ClassValidationError as error:
        name, what = next(iter(_problems(error).items()))
    raise DecodeError(f"{path}.{name}: {what}", path=f"{path}.{name}")


def encode(event: Disconnected) -> bytes:
    """Write a notification as the platform does (3.2): what is None is left out.

    The inverse of `decode_notification`, but for `raw`, and for fractions of a second.
    """
    return orjson.dumps({"status": STATUS, **_converter.unstructure(event)})


def _load_object(body: bytes) -> Wire:
    try:
        wire: Wire | object = orjson.loads(body.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        where = error.pos
    else:
        if isinstance(wire, Mapping):
            return cast("Wire", wire)
        raise DecodeError(f"$: expected an object, not {_json_type(wire)}")
    raise DecodeError(f"$: not JSON, from character {where} on")


def _readable(wire: Wire, key: str) -> str | None:
    try:
        return _name(wire.get(key))
    except (TypeError, ValueError):
        return None


def _problems(error: ClassValidationError) -> dict[str, str]:
    """What is wrong, by the fields' wire names, in the order of the model."""
    return {
        _WIRE.get(note.name, note.name): (
            "is missing" if isinstance(problem, KeyError) else str(problem)
        )
        for problem, note in error.group_exceptions()[0]
    }
