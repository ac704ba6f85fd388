"""The platform's JSON: every way to leave a field out, every way to be wrong, and back again."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qmc_async import codec
from qmc_async.codec import (
    STATUS,
    decode_envelope,
    decode_notification,
    decode_result,
    encode,
    unknown_notification,
)
from qmc_async.errors import DecodeError
from qmc_async.models import (
    BEIJING,
    CallResult,
    Disconnected,
    Envelope,
    FileResult,
    Reason,
    RecordingResult,
    UnknownNotification,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

# Planted where a value stands: it must appear in no error.
_MARKER = "13912345678planted"

# A whole notification as the document (3.2) has it, and what each conditional field means.
_WHOLE: dict[str, Any] = {
    "callidentifier": "128754716574532539",
    "status": "Disconnected",
    "endTime": "2023-08-29 08:52:10",
    "startTime": "2023-08-29 08:50:30",
    "answerTime": "2023-08-29 08:50:41",
    "reason": "HangUp",
    "callDuration": "89",
    "recordingResult": "success",
    "outCallId": "order-42",
}
_LEAST = {key: _WHOLE[key] for key in ("callidentifier", "status", "endTime")}
_CONDITIONAL = {
    "startTime": "start_time",
    "answerTime": "answer_time",
    "reason": "reason",
    "callDuration": "call_duration",
    "recordingResult": "recording_result",
    "outCallId": "out_call_id",
}
_TIMES = {"endTime": "end_time", "startTime": "start_time", "answerTime": "answer_time"}


def _body(**fields: Any) -> bytes:  # noqa: ANN401 - JSON may be anything
    return json.dumps(_WHOLE | fields, ensure_ascii=False).encode()


def _decode(**fields: Any) -> Disconnected:  # noqa: ANN401 - JSON may be anything
    event = decode_notification(_body(**fields))
    assert isinstance(event, Disconnected)
    return event


def _refusal(body: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_notification(body)
    return caught.value


def _complaint(wire: str, value: object) -> str:
    """What is said of a field's value: it refuses the event, or leaves the field out of it."""
    if wire in ("callidentifier", "endTime"):
        error = _refusal(_body(**{wire: value}))
        assert error.path == f"$.{wire}"
        return str(error)
    event = decode_notification(_body(**{wire: value}))
    assert isinstance(event, Disconnected)
    assert getattr(event, _CONDITIONAL[wire]) is None
    [problem] = event.problems
    return problem


def _outcome(decode: Callable[[bytes], T], body: bytes) -> T | DecodeError:
    try:
        return decode(body)
    except DecodeError as error:
        return error


def _beijing(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=BEIJING)


# --- what is generated -------------------------------------------------------------------------

_SECONDS = st.datetimes(
    # Room on both sides, for a zone that is not Beijing's.
    datetime(1, 1, 3),  # noqa: DTZ001 - the zone is put on below
    datetime(9999, 12, 29),  # noqa: DTZ001 - the same
).map(lambda moment: moment.replace(microsecond=0))
_ZONES = st.sampled_from([BEIJING, UTC])
_MOMENTS = st.tuples(_SECONDS, _ZONES).map(lambda pair: pair[0].replace(tzinfo=pair[1]))
_PLAIN_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=70).map(str.strip)
_IDENTIFIER = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=70
).map(lambda text: text.strip() or "1")
_PRESENT_TEXT = _PLAIN_TEXT.filter(lambda text: text not in ("", "0"))
_EVENTS = st.builds(
    Disconnected,
    call_id=_IDENTIFIER,
    end_time=_MOMENTS,
    start_time=st.none() | _MOMENTS,
    answer_time=st.none() | _MOMENTS,
    reason=st.none() | st.sampled_from(Reason) | _PRESENT_TEXT,
    call_duration=st.none() | st.integers(0, 10**9 - 1).map(lambda s: timedelta(seconds=s)),
    recording_result=st.none() | st.sampled_from(RecordingResult) | _PRESENT_TEXT,
    out_call_id=st.none() | _PRESENT_TEXT,
)
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from([*_WHOLE.values(), "", " ", "0", 0, "1e5", "-1", "٣", "²", "\x00"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted(_WHOLE)) | st.text(max_size=3), inner, max_size=9)
    ),
    max_leaves=12,
)
_NOTIFICATIONS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"status": st.just("Disconnected") | _JSON},
    optional={key: st.just(_WHOLE[key]) | _JSON for key in _WHOLE if key != "status"},
)


# --- a notification that is as the document says ------------------------------------------------


def test_whole_notification() -> None:
    """Every documented field is read, times are Beijing's, and `raw` is the message as it came."""
    event = _decode(extra={"nested": [1, None]})
    assert event == Disconnected(
        call_id="128754716574532539",
        end_time=datetime(2023, 8, 29, 0, 52, 10, tzinfo=UTC),
        start_time=datetime(2023, 8, 29, 0, 50, 30, tzinfo=UTC),
        answer_time=datetime(2023, 8, 29, 0, 50, 41, tzinfo=UTC),
        reason=Reason.HANG_UP,
        call_duration=timedelta(seconds=89),
        recording_result=RecordingResult.SUCCESS,
        out_call_id="order-42",
    )
    assert event.end_time.utcoffset() == timedelta(hours=8)
    assert isinstance(event.reason, Reason)
    assert isinstance(event.recording_result, RecordingResult)
    assert event.raw == {**_WHOLE, "extra": {"nested": [1, None]}}


def test_least_notification() -> None:
    """The three unconditional fields are enough; the rest is None."""
    event = decode_notification(json.dumps(_LEAST).encode())
    assert event == Disconnected(
        call_id="128754716574532539", end_time=_beijing("2023-08-29 08:52:10")
    )


@pytest.mark.parametrize("wire", list(_CONDITIONAL))
@pytest.mark.parametrize("absent", ["", "  ", None, "0", " 0 ", 0])
def test_absence(wire: str, absent: object) -> None:
    """A conditional field that is empty, null, "0" or 0 is None; only callDuration has a zero."""
    value = getattr(_decode(**{wire: absent}), _CONDITIONAL[wire])
    if wire == "callDuration" and absent in ("0", " 0 ", 0):
        assert value == timedelta(0)
    else:
        assert value is None


@pytest.mark.parametrize("wire", list(_CONDITIONAL))
def test_missing(wire: str) -> None:
    """A conditional field whose key is missing is None, and the others stay."""
    message = {key: value for key, value in _WHOLE.items() if key != wire}
    event = decode_notification(json.dumps(message).encode())
    present = {name for name in _CONDITIONAL.values() if getattr(event, name) is not None}
    assert present == set(_CONDITIONAL.values()) - {_CONDITIONAL[wire]}


@pytest.mark.parametrize("wire", [key for key in _WHOLE if key != "status"])
@pytest.mark.parametrize("around", [" {}", "{} ", "\t{}\r\n", "\u3000{}\u00a0"])
def test_stray_spaces(wire: str, around: str) -> None:
    """Spaces around any value, of which the document's examples are full, are not part of it."""
    event = _decode(**{wire: around.format(_WHOLE[wire])})
    assert event == _decode()
    assert event.raw[wire] == around.format(_WHOLE[wire])


@pytest.mark.parametrize("status", ["Disconnected", " Disconnected", "Disconnected\n"])
def test_stray_spaces_around_status(status: str) -> None:
    """The one documented status is known with spaces around it too."""
    assert _decode(status=status) == _decode()


@pytest.mark.parametrize("reason", list(Reason))
def test_reasons(reason: Reason) -> None:
    """Each documented reason is read as the `Reason`."""
    assert _decode(reason=reason.value).reason is reason


@pytest.mark.parametrize("text", ["Rejected", "hangup", "HangUp.", "其它", "拒接 忙", "\x00", "00"])
def test_unknown_values_are_kept(text: str) -> None:
    """A reason or recordingResult that the document lacks is kept as the platform's own str."""
    event = _decode(reason=text, recordingResult=text)
    assert event.reason == event.recording_result == text
    assert type(event.reason) is type(event.recording_result) is str


@pytest.mark.parametrize(
    ("sent", "seconds"), [("0", 0), (0, 0), ("7", 7), (7, 7), ("007", 7), ("999999999", 999999999)]
)
def test_duration(sent: object, seconds: int) -> None:
    """A callDuration is a whole number of seconds, with or without its quotation marks."""
    assert _decode(callDuration=sent).call_duration == timedelta(seconds=seconds)


@pytest.mark.parametrize("wire", ["callidentifier", "outCallId"])
def test_identifier_as_a_number(wire: str) -> None:
    """An identifier that lost its quotation marks keeps all its digits."""
    event = _decode(**{wire: 18446744073709551615})
    assert "18446744073709551615" in (event.call_id, event.out_call_id)


def test_byte_order_mark() -> None:
    """A mark that Windows puts before UTF-8 is no reason to lose a call's end."""
    assert decode_notification(b"\xef\xbb\xbf" + _body()) == decode_notification(_body())


def test_call_id_zero() -> None:
    """ "0" leaves out conditional fields only: as a callidentifier it is one."""  # noqa: D210
    assert _decode(callidentifier="0").call_id == "0"
    assert _decode(callidentifier=0).call_id == "0"


def test_unknown_field_cannot_pose() -> None:
    """Fields with the names of our own attributes change nothing, and stay in `raw`."""
    posing = {"raw": "x", "call_id": "x", "end_time": "x", "reason ": "x", "": "x"}
    event = _decode(**posing)
    assert event == _decode()
    assert event.raw == {**_WHOLE, **posing}


def test_duplicate_keys() -> None:
    """Of two keys of one name the last one counts, as in JavaScript and Java."""
    body = _body().replace(b"{", b'{"reason": "Other", "outCallId": {},', 1)
    assert decode_notification(body) == _decode()


# --- a notification that is not -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "read"),
    [
        ("Ringing", "Ringing"),
        (" Answered ", "Answered"),
        ("disconnected", "disconnected"),
        ("", None),
        (None, None),
        (0, "0"),
        (True, None),
        (["Disconnected"], None),
        ({"Disconnected": 1}, None),
    ],
)
def test_unknown_status(status: object, read: str | None) -> None:
    """Another status makes an `UnknownNotification` with body, raw and call_id; nothing is lost."""
    body = _body(status=status)
    event = decode_notification(body)
    assert event == UnknownNotification(status=read, call_id="128754716574532539", body=body)
    assert event.raw == _WHOLE | {"status": status}


def test_no_status() -> None:
    """A JSON object without a status is unknown too, not an error."""
    assert decode_notification(b"{}") == UnknownNotification(status=None, body=b"{}")


@pytest.mark.parametrize(
    ("body", "status", "call_id"),
    [
        (b"", None, None),
        (b"\xff\xfe\x00", None, None),
        (b"[1]", None, None),
        (b'{"status": "Disconnected", "callidentifier": 17}', "Disconnected", "17"),
        (b'{"status": [], "callidentifier": {}}', None, None),
        (b'{"callidentifier": 1e400}', None, None),
    ],
)
def test_unknown_notification_takes_any_body(
    body: bytes, status: str | None, call_id: str | None
) -> None:
    """A body that cannot be decoded is kept with its problem and with what can be read of it."""
    event = unknown_notification(body, problem="$: not JSON")
    assert event == UnknownNotification(
        status=status, call_id=call_id, body=body, problem="$: not JSON"
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" ", id="blank"),
        pytest.param(b"callidentifier=1&status=Disconnected", id="form"),
        pytest.param("{}".encode("utf-16"), id="UTF-16"),
        pytest.param('{"msg": "操作"}'.encode("gbk"), id="GBK"),
        pytest.param(b'{"a": "\xff"}', id="invalid UTF-8"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', id="surrogate in UTF-8"),
        pytest.param(rb'{"a": "\ud800"}', id="lone surrogate"),
        pytest.param(b'{"a": NaN}', id="NaN"),
        pytest.param(b'{"a": Infinity}', id="infinity"),
        pytest.param(b'{"a": 1e400}', id="huge float"),
        pytest.param(b'{"a": "\x00"}', id="raw NUL"),
        pytest.param(b"{'a': 1}", id="apostrophes"),
        pytest.param(b'{"a": 1,}', id="trailing comma"),
        pytest.param(b"{}{}", id="two messages"),
        pytest.param(b'{"a": 1', id="cut short"),
        pytest.param(b"[" * 65536, id="deep lists"),
        pytest.param(b'{"a":' * 10000 + b"1" + b"}" * 10000, id="deep objects"),
        pytest.param(b"[" * 20000 + b"]" * 20000, id="deep and whole"),
    ],
)
def test_not_json(body: bytes) -> None:
    """What is no JSON in UTF-8 is a `DecodeError` about the whole message."""
    error = _refusal(body)
    assert error.path == "$"
    assert str(error).startswith("$: not JSON, from character ")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"null", "null"),
        (b"true", "a boolean"),
        (b"1", "a number"),
        (b"1.5", "a number"),
        (b'"x"', "a string"),
        (b"[{}]", "a list"),
    ],
)
def test_not_an_object(body: bytes, what: str) -> None:
    """JSON that is no object is refused by what it is."""
    error = _refusal(body)
    assert (str(error), error.path) == (f"$: expected an object, not {what}", "$")


@pytest.mark.parametrize("wire", ["callidentifier", "endTime"])
@pytest.mark.parametrize("absent", ["", "  ", None])
def test_required_is_empty(wire: str, absent: object) -> None:
    """An unconditional field that is empty is missing, and is named as the document names it."""
    error = _refusal(_body(**{wire: absent}))
    assert (str(error), error.path) == (f"$.{wire}: is missing", f"$.{wire}")


@pytest.mark.parametrize("wire", ["callidentifier", "endTime"])
def test_required_is_missing(wire: str) -> None:
    """The same where the key is not there."""
    body = json.dumps({key: value for key, value in _WHOLE.items() if key != wire}).encode()
    error = _refusal(body)
    assert (str(error), error.path) == (f"$.{wire}: is missing", f"$.{wire}")


@pytest.mark.parametrize("wire", list(_TIMES))
@pytest.mark.parametrize(
    "text",
    [
        "2023-08-29",
        "08:52:10",
        "2023-08-29 08:52",
        "2023-08-29T08:52:10",
        "2023-08-29\x0008:52:10",
        "2023-08-29  8:52:10",
        "2023-8-29 08:52:10",
        "2023/08/29 08:52:10",
        "2023-08-29 08:52:10.000",
        "2023-08-29 08:52:10+08:00",
        "2023-08-29 08:52:1Z",
        "20230829T085210.123",
        "2023-W35-2 08:52:10",
        "2023-02-29 08:52:10",
        "2023-13-01 08:52:10",
        "2023-00-01 08:52:10",
        "2023-08-32 08:52:10",
        "2023-08-29 25:00:00",
        "2023-08-29 08:60:10",
        "2023-08-29 08:52:60",
        "0000-00-00 00:00:00",
        "-023-08-29 08:52:10",
        "２０２３-08-29 08:52:10",
        "٢٠٢٣-08-29 08:52:10",
        "2023-08-29 08-52-10",
        "1693270226642",
        1693270226642,
        _MARKER,
        pytest.param("9" * 5000, id="5000 digits"),
    ],
)
def test_wrong_time(wire: str, text: object) -> None:
    """A time that is not yyyy-MM-dd HH:mm:ss, or is no moment, is refused without being shown."""
    expected = f"$.{wire}: expected a time as yyyy-MM-dd HH:mm:ss"
    assert _complaint(wire, text) == expected


@given(st.text("0123456789-:T WZ+.", min_size=17, max_size=21))
@example("2024-02-29 23:59:59")
@example("0001-01-01 00:00:00")
@example("9999-12-31 23:59:59")
def test_times_like_strptime(text: str) -> None:
    """A text is a time exactly where strptime says so and would write it the same."""
    try:
        moment = _beijing(text.strip())
        expected = moment if str(moment.replace(tzinfo=None)) == text.strip() else None
    except ValueError:
        expected = None
    if expected is None:
        with pytest.raises(DecodeError):
            _decode(endTime=text)
    else:
        assert _decode(endTime=text).end_time == expected


@pytest.mark.parametrize(
    "value", ["-1", "+1", "1.0", "1e3", "00:00:07", "7s", "٣", "²", "１", "1_0", "1000000000", -1]
)
def test_wrong_duration(value: object) -> None:
    """A callDuration that is no whole number of seconds, or of 31 years, is refused."""
    expected = "$.callDuration: expected a whole number of seconds"
    assert _complaint("callDuration", value) == expected


def test_duration_of_many_digits() -> None:
    """More digits than Python's `int` takes are refused as any others."""
    assert _complaint("callDuration", "9" * 5000).startswith("$.callDuration: ")


@pytest.mark.parametrize("wire", [key for key in _WHOLE if key != "status"])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        (True, "a boolean"),
        (1.5, "a number"),
        (10**30, "a number"),
        ([_MARKER], "a list"),
        ({_MARKER: _MARKER}, "an object"),
        ([], "a list"),
        ({}, "an object"),
    ],
)
def test_wrong_type(wire: str, value: object, what: str) -> None:
    """A field of the wrong JSON type is refused by its document's name and its type."""
    assert _complaint(wire, value) == f"$.{wire}: expected a string, not {what}"


def test_first_problem_is_told() -> None:
    """Of several mistakes the first one is told, in the order of the model's fields."""
    error = _refusal(_body(callDuration="x", startTime=[], endTime=_MARKER))
    assert error.path == "$.endTime"


def test_the_end_is_not_lost_over_a_detail() -> None:
    """Conditional fields that cannot be read are None, are named, and stand in raw."""
    body = _body(callDuration="x", startTime="0000-00-00 00:00:00", problems="posing")
    event = decode_notification(body)
    assert isinstance(event, Disconnected)
    assert event.end_time == _decode().end_time
    assert event.start_time is None
    assert event.call_duration is None
    assert event.answer_time is not None
    assert event.problems == (
        "$.startTime: expected a time as yyyy-MM-dd HH:mm:ss",
        "$.callDuration: expected a whole number of seconds",
    )
    assert event.raw["callDuration"] == "x"
    assert event.raw["problems"] == "posing"


@settings(deadline=None)
@given(
    st.binary()
    | _JSON.map(lambda wire: json.dumps(wire).encode())
    | _NOTIFICATIONS.map(lambda wire: json.dumps(wire).encode())
    | _NOTIFICATIONS.map(
        lambda wire: json.dumps(wire, ensure_ascii=False).encode(errors="surrogatepass")
    )
)
def test_any_body_is_decoded_or_refused(body: bytes) -> None:
    """Any bytes make a notification or a `DecodeError`, and can be kept; nothing else is raised."""
    event = _outcome(decode_notification, body)
    if isinstance(event, DecodeError):
        assert event.path.startswith("$")
        assert str(event).startswith(event.path + ": ")
        assert unknown_notification(body, problem=str(event)).body == body
    else:
        assert event.raw == json.loads(body, parse_int=_int_as_orjson)


def _int_as_orjson(digits: str) -> int | float:
    """An integer of more than 64 bits is read as a float, as JavaScript does."""
    return int(digits) if -(2**63) <= int(digits) < 2**64 else float(digits)


def _planted(value: Any) -> Any:  # noqa: ANN401 - JSON may be anything
    """The same JSON, with the marker in every text and in every key that is unknown."""
    if isinstance(value, str):
        return value + _MARKER
    if isinstance(value, list):
        return [_planted(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {_MARKER: [_planted(item) for item in cast("dict[str, Any]", value).values()]}
    return value


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from([key for key in _WHOLE if key != "status"]), _JSON),
    st.integers(0, 400),
)
@example({"endTime": "x"}, 0)
@example({"callDuration": {}}, 0)
def test_errors_do_not_show_values(wire: dict[str, object], cut: int) -> None:
    """No part of a `DecodeError`, its chain included, holds a value of the message."""
    planted = {key: _planted(value) for key, value in wire.items()} | {"status": STATUS}
    body = json.dumps(planted | {_MARKER: _MARKER}).encode()
    for attempt in (body, body[:cut], body.replace(b":", b"", 1), b"[" + body):
        error = _outcome(decode_notification, attempt)
        if isinstance(error, DecodeError):
            for shown in (str(error), repr(error), error.path, repr(vars(error))):
                assert _MARKER not in shown
            assert _MARKER.encode() not in pickle.dumps(error)
            assert error.__cause__ is None
            assert error.__context__ is None


@pytest.mark.parametrize("control", ["\n", "\r", "\x00", "\x1b[2J", "\x7f", "\x85", "\u2028"])
def test_call_id_with_control_characters(control: str) -> None:
    """An id that could forge a line of a log is no id; the notification is kept all the same."""
    body = json.dumps({**_LEAST, "callidentifier": f"1{control}2"}).encode()
    with pytest.raises(DecodeError, match="control characters") as caught:
        decode_notification(body)
    assert caught.value.path == "$.callidentifier"
    kept = unknown_notification(body, problem=str(caught.value))
    assert kept.call_id is None
    assert kept.body == body


# --- encode: the way back -----------------------------------------------------------------------


def test_encode_whole() -> None:
    """`encode` writes exactly the document's fields, each a String."""
    assert json.loads(encode(_decode(extra="not repeated"))) == _WHOLE


def test_encode_least() -> None:
    """What is None is left out."""
    event = decode_notification(json.dumps(_LEAST).encode())
    assert isinstance(event, Disconnected)
    assert json.loads(encode(event)) == _LEAST


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        (datetime(2023, 8, 29, 8, 52, 10, tzinfo=BEIJING), "2023-08-29 08:52:10"),
        (datetime(2023, 8, 29, 0, 52, 10, tzinfo=UTC), "2023-08-29 08:52:10"),
        (datetime(2023, 12, 31, 16, 0, 0, tzinfo=UTC), "2024-01-01 00:00:00"),
        (datetime(2023, 8, 29, 8, 52, 10, 999999, tzinfo=BEIJING), "2023-08-29 08:52:10"),
        (datetime(987, 1, 2, 3, 4, 5, tzinfo=BEIJING), "0987-01-02 03:04:05"),
    ],
)
def test_encode_times(moment: datetime, written: str) -> None:
    """A moment of any zone is written in Beijing's, as yyyy-MM-dd HH:mm:ss, fractions dropped."""
    event = Disconnected(call_id="1", end_time=moment, start_time=moment, answer_time=moment)
    wire = json.loads(encode(event))
    assert wire["endTime"] == wire["startTime"] == wire["answerTime"] == written


def test_encode_zero_duration() -> None:
    """A duration of nothing is "0", not left out."""
    event = Disconnected(
        call_id="1", end_time=_beijing("2023-08-29 08:52:10"), call_duration=timedelta(0)
    )
    assert json.loads(encode(event))["callDuration"] == "0"


@settings(deadline=None)
@given(_EVENTS)
def test_round_trip(event: Disconnected) -> None:
    """What `encode` writes, `decode_notification` reads as the same event."""
    assert decode_notification(encode(event)) == event


# --- envelopes and results ----------------------------------------------------------------------


def test_documented_reply() -> None:
    """The document's own reply (3.1), stray space included, makes an envelope and its result."""
    body = (
        '{"code": 200, "success": true, "data": {"callidentifier": " 128754716574532539"},'
        ' "msg": "操作成功"}'
    )
    envelope = decode_envelope(body.encode())
    assert envelope == Envelope(
        code=200, msg="操作成功", data={"callidentifier": " 128754716574532539"}
    )
    assert decode_result(envelope.data, CallResult) == CallResult(call_id="128754716574532539")


@pytest.mark.parametrize(
    ("code", "read"),
    [
        ("200", 200),
        ('"200"', 200),
        ('" 200 "', 200),
        ("0", 0),
        ('"0"', 0),
        ("-1", -1),
        ('"-1"', -1),
        ('"00200"', 200),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_code(code: str, read: int) -> None:
    """The code may be a number or a String, and spaces around it do not count."""
    assert decode_envelope(f'{{"code": {code}}}'.encode()) == Envelope(code=read)


@pytest.mark.parametrize(
    "code",
    [
        '""',
        '" "',
        '"OK"',
        '"--1"',
        '"-"',
        '"2 00"',
        '"200.0"',
        '"²"',
        '"٢"',
        '"２００"',
        '"+1"',
        '"' + "9" * 20 + '"',
        pytest.param('"' + "9" * 5000 + '"', id="5000 digits"),
    ],
)
def test_wrong_code(code: str) -> None:
    """A code that is no whole number, or longer than a Long, is refused."""
    with pytest.raises(DecodeError, match=r"^\$\.code: expected a whole number$") as caught:
        decode_envelope(f'{{"code": {code}}}'.encode())
    assert caught.value.path == "$.code"


@pytest.mark.parametrize("code", ["null", "true", "200.0", "1e3", "9" * 25, "[200]", "{}"])
def test_code_of_wrong_type(code: str) -> None:
    """A code that is neither a whole number nor a String is refused: true is not 1."""
    with pytest.raises(DecodeError, match=r"^\$\.code: expected ") as caught:
        decode_envelope(f'{{"code": {code}}}'.encode())
    assert caught.value.path == "$.code"


def test_missing_code() -> None:
    """A reply without a code is no envelope."""
    with pytest.raises(DecodeError, match=r"^\$\.code: is missing$"):
        decode_envelope(b'{"success": true}')


@pytest.mark.parametrize("body", [b"", b"<html>502</html>", b"[]", b'"200"', b"200"])
def test_no_envelope(body: bytes) -> None:
    """A reply that is no JSON object, such as a proxy's page, is refused as a whole."""
    with pytest.raises(DecodeError, match=r"^\$: ") as caught:
        decode_envelope(body)
    assert caught.value.path == "$"


@pytest.mark.parametrize(
    ("rest", "msg", "data"),
    [
        ("", "", None),
        (', "msg": null, "data": null', "", None),
        (', "msg": " 操作成功 "', "操作成功", None),
        (', "msg": 5, "data": ""', "5", ""),
        (', "data": [1, {"x": 1.5}]', "", [1, {"x": 1.5}]),
    ],
)
def test_msg_and_data(rest: str, msg: str, data: object) -> None:
    """The msg may be null or missing; data is whatever it is."""
    envelope = decode_envelope(f'{{"code": 200{rest}}}'.encode())
    assert (envelope.msg, envelope.data) == (msg, data)


def test_msg_of_wrong_type() -> None:
    """A msg that is no text is refused by its name."""
    with pytest.raises(DecodeError, match=r"^\$\.msg: expected a string, not an object$"):
        decode_envelope(b'{"code": 200, "msg": {}}')


@settings(deadline=None)
@given(st.binary() | _JSON.map(lambda wire: json.dumps(wire).encode()))
def test_any_reply_is_read_or_refused(body: bytes) -> None:
    """Any bytes make an envelope or a `DecodeError`."""
    reply = _outcome(decode_envelope, body)
    if isinstance(reply, DecodeError):
        assert str(reply).startswith(reply.path + ": ")
    else:
        assert reply.code == int(json.loads(body)["code"])


@pytest.mark.parametrize(
    ("wire", "cls", "result"),
    [
        ({"callidentifier": " 1 "}, CallResult, CallResult(call_id="1")),
        ({"callidentifier": 17, "more": 1}, CallResult, CallResult(call_id="17")),
        ({"fileUrl": " http://x/1.wav"}, FileResult, FileResult(file_url="http://x/1.wav")),
    ],
)
def test_result(wire: Mapping[str, object], cls: type[object], result: object) -> None:
    """The data of a reply is read as its model, spaces and unknown fields aside."""
    assert decode_result(wire, cls) == result


@pytest.mark.parametrize(
    ("wire", "cls", "message"),
    [
        (None, CallResult, "$.data: expected an object, not null"),
        ("", CallResult, "$.data: expected an object, not a string"),
        ([1], FileResult, "$.data: expected an object, not a list"),
        ({}, CallResult, "$.data.callidentifier: is missing"),
        ({"callidentifier": " "}, CallResult, "$.data.callidentifier: is empty"),
        (
            {"callidentifier": None},
            CallResult,
            "$.data.callidentifier: expected a string, not null",
        ),
        ({"fileUrl": ""}, FileResult, "$.data.fileUrl: is empty"),
        ({"fileUrl": [_MARKER]}, FileResult, "$.data.fileUrl: expected a string, not a list"),
        ({"code": "x"}, Envelope, "$.data.code: expected a whole number"),
    ],
)
def test_wrong_result(wire: object, cls: type[object], message: str) -> None:
    """The path of a nested object leads the error's path, in the document's own names."""
    with pytest.raises(DecodeError) as caught:
        decode_result(wire, cls, path="$.data")
    assert str(caught.value) == message
    assert caught.value.path == message.partition(":")[0]


def test_integer_beyond_what_python_prints() -> None:
    """An int of more than 4300 digits, on which `str` raises ValueError, is refused as well."""
    with pytest.raises(DecodeError) as caught:
        decode_result({"callidentifier": 10**5000}, CallResult)
    assert caught.value.path == "$.callidentifier"


def test_a_decoder_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of the decoder's own loses nothing: the body is kept, and the mistake named."""

    def fail(_: bytes) -> None:
        raise ZeroDivisionError("13912345678")

    monkeypatch.setattr(codec, "decode_notification", fail)
    event = codec.read_notification(b'{"callidentifier": "1"}', "cut off")
    assert isinstance(event, UnknownNotification)
    assert event.body == b'{"callidentifier": "1"}'
    assert event.problem == "cut off: the decoder failed (ZeroDivisionError)"
