"""What the sandbox says and accepts, as bytes: replies, notifications, and the checks of requests.

It is written from the document and shares no code with `qmc_async.codec`, so that each can show
the other's mistakes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import orjson
from attrs import frozen

from qmc_async.errors import ArgumentError
from qmc_async.numbers import normalise

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from qmc_async.sandbox.assumed import Assumed
    from qmc_async.sandbox.calls import SimulatedCall

__all__ = [
    "CallRequest",
    "Refused",
    "call_id_in",
    "call_request",
    "failure",
    "notification",
    "read_object",
    "success",
]

_OUT_CALL_ID_LENGTH = 64
_MOBILE = re.compile(r"1[3-9][0-9]{9}", re.ASCII)
_COUNTRY_CODE = re.compile(r"\s*(\+|00)86", re.ASCII)
_ABSENT = {"empty": "", "null": None, "zero": "0"}


class Refused(Exception):  # noqa: N818 - an answer of the platform, not a failure of the sandbox
    """A request is answered with an error code.

    Attributes:
        code: the envelope's ``code``.
        msg: the envelope's ``msg``; it quotes nothing from the request.
    """

    def __init__(self, code: int, msg: str) -> None:
        super().__init__(code, msg)
        self.code = code
        self.msg = msg


@frozen(kw_only=True, repr=False)
class CallRequest:
    """What a request to ``call`` asks for (3.1). The repr shows none of it.

    Attributes:
        caller: as it is dialled.
        callee: as it is dialled.
        out_call_id: None where it was not given, or is empty.
    """

    caller: str
    callee: str
    out_call_id: str | None


def success(data: Mapping[str, str] | None = None) -> bytes:
    """The envelope of a reply, member by member as in the document's examples (3.1, 3.3).

    Args:
        data: the result; None leaves ``data`` out, as the document does for endCall (3.4).
    """
    middle = {} if data is None else {"data": data}
    return orjson.dumps({"code": 200, "success": True, **middle, "msg": "操作成功"})


def failure(code: int, msg: str) -> bytes:
    """The envelope of an error. Only that its code is not 200 is documented; the msg says so."""
    return orjson.dumps({"code": code, "success": False, "data": None, "msg": f"{msg} (assumed)"})


def read_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a request's body, None where there is none."""
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def call_request(body: Mapping[str, Any], assumed: Assumed) -> CallRequest:
    """Check the parameters of ``call`` (3.1).

    Raises:
        Refused: with one of the assumed codes.
    """
    out_call_id = body.get("outCallId")
    if out_call_id is not None and (
        not isinstance(out_call_id, str) or len(out_call_id) > _OUT_CALL_ID_LENGTH
    ):
        raise Refused(assumed.code_bad_out_call_id, "outCallId最长64个字符")
    return CallRequest(
        caller=_number(body, "caller", assumed),
        callee=_number(body, "callee", assumed),
        out_call_id=out_call_id or None,
    )


def _number(body: Mapping[str, Any], name: str, assumed: Assumed) -> str:
    if name not in body:
        raise Refused(assumed.code_bad_request, f"缺少参数{name}")
    given: Any = body[name]
    try:
        number = normalise(given, assumed.numbers, argument=name)
    except ArgumentError:
        number = ""
    if (
        not number
        or (not assumed.landlines and not _MOBILE.fullmatch(number))
        or (not assumed.country_code and _COUNTRY_CODE.match(given))
    ):
        raise Refused(assumed.code_bad_number, f"{name}号码格式不正确")
    return number


def call_id_in(body: Mapping[str, Any], assumed: Assumed) -> str:
    """The one parameter of endCall (3.4) and record (3.3), as their examples give it: in the body.

    Raises:
        Refused: it is not there, or is no text.
    """
    call_id = body.get("callidentifier")
    if not isinstance(call_id, str):
        raise Refused(assumed.code_bad_request, "缺少参数callidentifier")
    return call_id.strip()


def notification(call: SimulatedCall, assumed: Assumed) -> bytes:
    """The body of the notification about a call that has ended (3.2), in the document's order."""
    duration = call.duration
    seconds = None if duration is None else str(int(duration.total_seconds()))
    if seconds is None and assumed.zero_duration:
        seconds = "0"
    members = {
        "callidentifier": call.call_id,
        "status": "Disconnected",
        "answerTime": _beijing(call.answer_time),
        "endTime": _beijing(call.end_time),
        "startTime": _beijing(call.start_time),
        "reason": call.reason,
        "callDuration": seconds,
        "recordingResult": call.recording,
        "outCallId": call.out_call_id,
    }
    if assumed.absent_fields == "missing":
        return orjson.dumps({name: value for name, value in members.items() if value is not None})
    absent = _ABSENT[assumed.absent_fields]
    return orjson.dumps(
        {name: absent if value is None else value for name, value in members.items()}
    )


def _beijing(time: datetime | None) -> str | None:
    """Write a time as ``yyyy-MM-dd HH:mm:ss``. The sandbox's clocks are in UTC+8 already."""
    return None if time is None else time.strftime("%Y-%m-%d %H:%M:%S")
