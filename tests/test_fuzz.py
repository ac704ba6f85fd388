"""Whatever comes from outside, against readings of the document that share no code with ours.

For a long run: ``QMC_FUZZ_SECONDS=600 pytest tests/test_fuzz.py``, seconds for each test.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed_bodies import GROUPS, LONGEST, WHOLE

from qmc_async import Credentials, Disconnected, Refusal, Signer, UnknownNotification
from qmc_async.callback.guard import PROBE, Guard
from qmc_async.callback.receiver import Receiver
from qmc_async.codec import STATUS, encode, read_notification
from qmc_async.models import BEIJING
from qmc_async.signer import PlatformClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmc_async.callback.reply import Reply
    from qmc_async.store.records import Receipt

_SECONDS = float(os.environ.get("QMC_FUZZ_SECONDS", "0"))

pytestmark = pytest.mark.timeout(60 + 3 * _SECONDS)


def _fuzz(check: Callable[[], None], examples: int = 300) -> None:
    """Try some examples and, in a long run, others until the time is up."""
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run = settings(max_examples=examples, deadline=None, suppress_health_check=slow)(check)
    end = time.monotonic() + _SECONDS
    run()
    while time.monotonic() < end:
        run()


_ANY_TEXT = st.text(st.characters())

# --- the Authorization header (2) --------------------------------------------------------------

APP_ID: Final = 1696054309969104898
SECRET: Final = "secret"
MINUTES_5: Final = 300_000
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _unpacked(text: str) -> bytes | None:
    """RFC 4648, bit by bit: what an encoder has written, and nothing else."""
    digits = text.rstrip("=")
    if len(text) % 4 or len(text) - len(digits) > 2 or any(one not in _ALPHABET for one in digits):
        return None
    bits = "".join(f"{_ALPHABET.index(one):06b}" for one in digits)
    whole, rest = bits[: len(bits) // 8 * 8], bits[len(bits) // 8 * 8 :]
    if "1" in rest or len(rest) != 2 * (len(text) - len(digits)):
        return None
    return bytes(int(whole[at : at + 8], 2) for at in range(0, len(whole), 8))


def _is_signed(header: str | bytes, now: int) -> bool:
    """What the document (2) says of the header, at a time in milliseconds."""
    text = header if isinstance(header, str) else header.decode("latin-1")
    plain = _unpacked(text.strip(" \t\r\n\v\f"))
    parts = [] if plain is None else plain.split(b":")
    if len(parts) != 3 or not re.fullmatch(rb"[0-9]{1,19}", parts[1]):
        return False
    sign = hashlib.md5(b"%d:%b:%b" % (APP_ID, SECRET.encode(), parts[1])).hexdigest()  # noqa: S324 - the platform's
    is_fresh = int(parts[1]) < 2**63 and abs(int(parts[1]) - now) <= MINUTES_5
    return parts[0] == b"%d" % APP_ID and parts[2] == sign.encode() and is_fresh


_NOWS = st.integers(1_600_000_000, 1_800_000_000).map(lambda seconds: seconds * 1000)
_APART = st.sampled_from([0, 1, -1, MINUTES_5, -MINUTES_5, MINUTES_5 + 1, -MINUTES_5 - 1]) | (
    st.integers(-400_000, 400_000)
)


_WIDE = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}
_MISTAKES: dict[str, list[str]] = {
    "timestamp": ["0{}", "+{}", " {}", "{}.0", "{}\n", "-{}", "", "٣", "9" * 19, "0" * 20, "wide"],
    "app_id": [f"0{APP_ID}", f"{APP_ID} ", f" {APP_ID}", "1", ""],
    "named": [f"0{APP_ID}", f"{APP_ID} ", f"\n{APP_ID}", "1", ""],
    "secret": ["other", "", f"{SECRET} "],
    "sign": ["{}0", "0{}", " {}", "{} ", "", "é" * 32, "upper"],
    "between": ["::", "：", " : ", "", ";"],
    "behind": ["=", "==", "\n", " ", "A", "====", "\0", "\u00a0", "\t "],
    "put in": ["\n", "=", "-", "_", "A", "\ud800", "é", " ", "\0"],
    "put for": ["-", "_", "A", "B", "Q", "=", "\udcff"],
}


@st.composite
def _headers(draw: st.DrawFn, now: int) -> str | bytes:
    """A header that is right, or has a mistake or two."""
    wrong = {
        kind: draw(st.sampled_from(_MISTAKES[kind]))
        for kind in draw(st.sets(st.sampled_from(sorted(_MISTAKES)), max_size=2))
    }
    timestamp = str(now + draw(_APART))
    form = wrong.get("timestamp", "{}")
    timestamp = timestamp.translate(_WIDE) if form == "wide" else form.format(timestamp)
    app_id = wrong.get("app_id", str(APP_ID))
    plain = f"{app_id}:{wrong.get('secret', SECRET)}:{timestamp}"
    sign = hashlib.md5(plain.encode()).hexdigest()  # noqa: S324 - the platform's
    form = wrong.get("sign", "{}")
    sign = sign.upper() if form == "upper" else form.format(sign)
    parts = [wrong.get("named", app_id), timestamp, sign]  # it may be another than was signed
    packed = base64.b64encode(wrong.get("between", ":").join(parts).encode())
    text = packed.decode() + wrong.get("behind", "")
    # The last digit but the padding is the one that may hold bits of nothing.
    at = draw(st.integers(0, len(text)) | st.just(len(text.rstrip("=")) - 1))
    text = text[:at] + wrong.get("put in", "") + text[at:]
    if "put for" in wrong:
        text = text[:at] + wrong["put for"] + text[at + 1 :]
    return text.encode("utf-8", "surrogatepass") if draw(st.booleans()) else text


def test_verify() -> None:
    """No header raises, and those are accepted that the document's own words accept."""

    @given(st.data(), _NOWS, st.sampled_from([0, 0, 60_000, -3_600_000]))
    def check(data: st.DataObject, now: int, ahead: int) -> None:
        header = data.draw(_headers(now) | st.binary() | _ANY_TEXT)
        signer = Signer(Credentials(APP_ID, SECRET), clock=PlatformClock())
        signer.clock.offset = ahead / 1000
        answer = signer.verify(header, (now - ahead) / 1000)
        assert isinstance(answer, Credentials | Refusal)
        assert (answer == signer.credentials) is _is_signed(header, now)

    _fuzz(check, 1000)


@pytest.mark.parametrize("apart", [0, MINUTES_5, -MINUTES_5, MINUTES_5 + 1, -MINUTES_5 - 1])
def test_the_oracle_knows_both_answers(apart: int) -> None:
    """What is asked of `verify` is not always the same."""
    now = 1_700_000_000_000
    header = Signer(Credentials(APP_ID, SECRET)).sign((now + apart) / 1000)
    assert _is_signed(header, now) is (abs(apart) <= MINUTES_5)
    assert not _is_signed(header + "=", now)


def _mark(label: str, question: str) -> str:
    message = f"qmc-async {label} {APP_ID} {question}".encode()
    return hmac.new(SECRET.encode(), message, hashlib.sha256).hexdigest()


def test_answer_probe() -> None:
    """No probe raises; whole ones of the last five minutes are answered, and nothing else is."""

    @given(st.data(), _NOWS)
    def check(data: st.DataObject, now: int) -> None:
        draw = data.draw
        question = (
            f"{now + draw(_APART)}:{draw(st.sampled_from(['0f' * 16] * 9 + ['0F' * 16, '']))}"
        )
        mark = _mark(draw(st.sampled_from(["probe"] * 9 + ["answer"])), question)
        whole = f"{question}:{draw(st.sampled_from([mark] * 9 + [mark.upper(), mark[1:]]))}"
        whole += draw(st.sampled_from([""] * 9 + ["\n", " ", ":"]))
        probe = draw(st.just(whole) | _ANY_TEXT)
        found = re.fullmatch(r"([0-9]+):([0-9a-f]{32}):([0-9a-f]{64})", probe)
        is_ours = (
            found is not None
            and found[3] == _mark("probe", f"{found[1]}:{found[2]}")
            and abs(int(found[1]) - now) <= MINUTES_5
        )
        answer = Signer(Credentials(APP_ID, SECRET)).answer_probe(probe, now / 1000)
        assert answer == (_mark("answer", probe.rpartition(":")[0]) if is_ours else None)

    _fuzz(check, 500)


# --- a notification (3.2) ----------------------------------------------------------------------


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(digits)
    return value


def _whole(digits: str) -> int | float:
    """Of more than 64 bits it is a float, as in JavaScript."""
    short = len(digits) < 25 and -(2**63) <= int(digits) < 2**64
    return int(digits) if short else _finite(digits)


def _none(constant: str) -> None:
    raise ValueError(constant)


def _object_in(body: bytes) -> dict[str, Any] | None:
    """What the standard library reads, where that is what RFC 8259 calls JSON."""
    try:
        text = body.removeprefix(b"\xef\xbb\xbf").decode()
        wire: Any = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_none)
        json.dumps(wire, ensure_ascii=False).encode()  # half a pair of surrogates is no character
    except (ValueError, RecursionError):
        return None
    return wire if isinstance(wire, dict) else None  # pyright: ignore[reportUnknownVariableType] - JSON's keys are texts


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: object) -> datetime | None:
    text = _text(value) or ""
    try:
        moment = datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=BEIJING)
    except ValueError:
        return None
    return moment if str(moment)[:19] == text else None  # `strptime` takes 2023-8-9, too


def _seconds(value: object) -> timedelta | None:
    text = _text(value) or ""
    return timedelta(seconds=int(text)) if re.fullmatch("[0-9]{1,9}", text) else None


def _name(value: object) -> str | None:
    text = _text(value)
    return None if not text or re.search("[\0-\x1f\x7f-\x9f\u2028\u2029]", text) else text


def _read(body: bytes) -> tuple[object, ...]:
    """What the document makes of a body, in the order of `_seen`."""
    wire = _object_in(body)
    if wire is None:
        return (UnknownNotification, None, None, True, {}, body)
    status, call_id, end = (
        wire.get("status"),
        _name(wire.get("callidentifier")),
        _time(wire.get("endTime")),
    )
    is_end = isinstance(status, str) and status.strip() == STATUS
    if not is_end or call_id is None or end is None:
        return (UnknownNotification, _name(status), call_id, is_end, wire, body)
    values: list[object] = []
    problems: list[str] = []
    for field, read in (
        ("startTime", _time),
        ("answerTime", _time),
        ("reason", _text),
        ("callDuration", _seconds),
        ("recordingResult", _text),
        ("outCallId", _text),
    ):
        value = wire.get(field)
        text = value.strip() if isinstance(value, str) else value
        absent = text is None or text == "" or (text in ("0", 0) and field != "callDuration")
        values.append(None if absent else read(value))
        if not absent and values[-1] is None:
            problems.append(f"$.{field}")
    return (Disconnected, call_id, end, *values, problems, wire)


def _seen(event: Disconnected | UnknownNotification) -> tuple[object, ...]:
    if isinstance(event, UnknownNotification):
        told = event.problem is not None
        return (type(event), event.status, event.call_id, told, event.raw, event.body)
    return (
        type(event),
        event.call_id,
        event.end_time,
        *(event.start_time, event.answer_time, event.reason, event.call_duration),
        *(event.recording_result, event.out_call_id),
        [problem.partition(": ")[0] for problem in event.problems],
        event.raw,
    )


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([*WHOLE.values(), "", " ", "0", 0, "\0", "1\n2", "2023-8-9 1:2:3", "-1", "٣"])
    | st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | _ANY_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_ANY_TEXT, inner, max_size=2),
    max_leaves=5,
)


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    """A notification with some fields, some of them wrong, and perhaps a few bytes changed."""
    wrong = draw(st.dictionaries(st.sampled_from([*WHOLE, "extra"]), _VALUES, max_size=3))
    lost = draw(st.sets(st.sampled_from(sorted(WHOLE)), max_size=2))
    wire = {name: value for name, value in (WHOLE | wrong).items() if name not in lost}
    text = json.dumps(wire, ensure_ascii=draw(st.booleans()))
    body = draw(st.sampled_from([b""] * 9 + [b"\xef\xbb\xbf"])) + text.encode(
        "utf-8", "surrogatepass"
    )
    if draw(st.integers(0, 3)):
        return body
    at = draw(st.integers(0, len(body)))
    return body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]


def test_read_notification() -> None:
    """No body raises, and each is read as the document and the standard library read it."""

    @given(_bodies() | st.binary())
    def check(body: bytes) -> None:
        event = read_notification(body)
        assert _seen(event) == _read(body)
        assert not re.search("[\0-\x1f\x7f-\x9f]", repr(event))
        if isinstance(event, Disconnected):
            again = read_notification(encode(event))
            assert again == event
            assert isinstance(again, Disconnected)
            assert not again.problems

    _fuzz(check, 500)


@pytest.mark.parametrize("group", GROUPS)
def test_hostile_bodies_are_read_alike(group: str) -> None:
    """All that is sent to a whole server, too, but for what is nested too deep for one of them."""
    for name, body in GROUPS[group]():
        if len(body) <= LONGEST and body.count(b"[") + body.count(b"{") < 900:
            assert _seen(read_notification(body)) == _read(body), name


# --- a request ---------------------------------------------------------------------------------

PATH: Final = "/qmc/callback/s3cret-token_"


def test_receive_and_refuse() -> None:
    """No request raises: it is refused with a status of HTTP, or kept once and answered for."""
    signer = Signer(Credentials(APP_ID, SECRET))
    kept: list[bytes] = []

    def accept(receipt: Receipt, then: Callable[[BaseException | None], None]) -> None:
        kept.append(receipt.body)
        then(None)

    guard = Guard(PATH, signer)
    receiver = Receiver(guard, accept)

    @given(
        st.sampled_from(["POST"] * 5 + ["GET", "post", ""]) | _ANY_TEXT,
        st.sampled_from([PATH] * 5 + [PATH + "/", PATH[:-1], ""]) | _ANY_TEXT,
        st.none() | st.integers() | st.sampled_from([LONGEST, LONGEST + 1]),
        st.none() | st.sampled_from([None, ""]) | _ANY_TEXT | st.just(signer.probe(time.time())),
        _bodies() | st.binary() | st.sampled_from([b" " * LONGEST, b" " * (LONGEST + 1)]),
        st.sampled_from(["", "it was cut off"]),
    )
    def check(  # noqa: PLR0917 - what a request is made of
        method: str, path: str, length: int | None, probe: str | None, body: bytes, problem: str
    ) -> None:
        kept.clear()
        probes = [] if probe is None else [probe]
        refusal = guard.refuse(
            method, (path,), length, "127.0.0.1", lambda name: probes if name == PROBE else []
        )
        assert (refusal is None) is (
            path == PATH
            and method == "POST"
            and (length is None or length <= LONGEST)
            and probe is None
        )
        if refusal is None:
            reply = runner.run(receiver.take(body, problem))
            assert reply.status == (200 if len(body) <= LONGEST else 413)
        else:
            reply = refusal
            assert reply.status in {404, 405, 413} or (reply.status == 200 and probe)
        assert kept == ([body] if refusal is None and reply.status == 200 else [])
        _assert_small(reply)

    with asyncio.Runner() as runner:
        _fuzz(check)


def _assert_small(reply: Reply) -> None:
    answer = json.loads(reply.body)
    assert list(answer) == ["code", "msg", "data"]
    assert answer["code"] == str(reply.status)
    assert len(reply.body) < 200
