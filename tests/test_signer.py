"""The ``Authorization`` header, against md5sum and openssl, and the platform's clock."""

from __future__ import annotations

import base64
import hashlib
import logging
import pickle
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qmc_async.errors import ArgumentError
from qmc_async.models import BEIJING
from qmc_async.signer import TOLERANCE, Credentials, PlatformClock, Refusal, Signer

if TYPE_CHECKING:
    from collections.abc import Iterator

_APP_ID = 1696054309969104898
_MILLISECONDS = 1693270226642
_NOW = 1693270226.642
_SECRET = "secret"
_LONG_MAX = 9223372036854775807

# The document's own header (2): its secret is not given.
_DOCUMENT_HEADER = (
    "MTY5NjA1NDMwOTk2OTEwNDg5ODoxNjkzMjcwMjI2NjQyOmFhNzI2MzlhODY4NDljM2MyZTJiZjljMmVjYzExOTdi"
)
_DOCUMENT_PLAIN = "1696054309969104898:1693270226642:aa72639a86849c3c2e2bf9c2ecc1197b"

# printf %s '1696054309969104898:secret:1693270226642' | md5sum
_VECTOR_SIGN = "afd0fc7d026834e1ac42e87875b0d9a8"
# printf %s '1696054309969104898:密:钥:1693270226642' | md5sum
_CHINESE_SIGN = "b1bd825ee0cf9b2ba54e5fe0112be486"
# openssl dgst -sha256 -mac HMAC -macopt key:secret of 'qmc-async callback path <app id>', URL-safe
_VECTOR_TOKEN = "smd2zbKbgt58Dk3JEvF0ar6_lxz4FFlEhS3qhbLgoGg"

_APP_IDS = st.integers(1, _LONG_MAX)
_SECRETS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(str.strip).filter(bool)
)
_ANY_TEXT = st.text(st.characters())  # lone surrogates and NUL included


def _signer(app_id: int = _APP_ID, secret: str = _SECRET) -> Signer:
    return Signer(Credentials(app_id, secret))


def _header(plain: str) -> str:
    return base64.b64encode(plain.encode(errors="surrogatepass")).decode()


def _forge(timestamp: str, app_id: object = _APP_ID, secret: str = _SECRET) -> str:
    """A header with a true sign over whatever stands for the timestamp."""
    sign = hashlib.md5(f"{app_id}:{secret}:{timestamp}".encode()).hexdigest()  # noqa: S324 - theirs
    return _header(f"{app_id}:{timestamp}:{sign}")


def _run(program: str, *arguments: str, stdin: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(  # noqa: S603 - a program of the system, and no shell
        [path, *arguments], input=stdin.encode(), capture_output=True, check=True, timeout=30
    )
    return done.stdout.decode()


# --- credentials --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_id", "app_id"),
    [
        (1, 1),
        (_APP_ID, _APP_ID),
        (_LONG_MAX, _LONG_MAX),
        ("1696054309969104898", _APP_ID),
        (" 1696054309969104898\n", _APP_ID),
        ("9223372036854775807", _LONG_MAX),
        ("007", 7),
        pytest.param("0" * 5000 + "7", 7, id="5000 zeros"),
    ],
)
def test_app_id(given_id: int | str, app_id: int) -> None:
    """An APPID is a Long of at least 1, as an int or as digits."""
    assert Credentials(given_id, _SECRET).app_id == app_id


@pytest.mark.parametrize(
    "given_id",
    [
        0,
        -1,
        _LONG_MAX + 1,
        pytest.param(10**5000, id="5000 digits"),
        pytest.param(-(10**5000), id="-5000 digits"),
        "0",
        "",
        " ",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "1_0",
        "abc",
        "1 2",
        "0x10",
        "9223372036854775808",
        pytest.param("9" * 5000, id="5000 nines"),
        "0" * 19 + "1" + "9" * 30,
        pytest.param("0" * 19 + "1" + "9" * 5000, id="5020 digits"),
        "²",
        "٣",
        "１",
        "\x001",
        "\ud800",
        True,
        False,
        None,
        1.0,
        float("nan"),
        b"1",
        [1],
    ],
)
def test_wrong_app_id(given_id: Any) -> None:  # noqa: ANN401 - callers err
    """Anything else, whatever Python thinks of it as a number, is an `ArgumentError` by name."""
    with pytest.raises(ArgumentError, match=r"^app_id must be ") as caught:
        Credentials(given_id, _SECRET)
    assert caught.value.argument == "app_id"


@pytest.mark.parametrize("secret", ["s", "secret", "密钥", "a:b:c", "a b", "\x00", "\U0001f511"])
def test_secret(secret: str) -> None:
    """A secret is any text."""
    assert Credentials(1, secret).app_secret == secret


@pytest.mark.parametrize(
    "secret",
    [
        "",
        " ",
        "\n",
        " planted",
        "planted\n",
        "planted\r\n",
        "\u3000planted",
        "planted\udcff",
        None,
        b"planted",
        1,
        True,
    ],
)
def test_wrong_secret(secret: Any) -> None:  # noqa: ANN401 - callers err
    """A secret that is empty, padded, no text or no UTF-8 is refused at once, and not shown."""
    with pytest.raises(ArgumentError, match=r"^app_secret ") as caught:
        Credentials(1, secret)
    assert caught.value.argument == "app_secret"
    assert "planted" not in repr(caught.value)
    assert caught.value.__context__ is None


def test_credentials_are_discreet() -> None:
    """Neither the credentials nor who holds them show the secret in their repr."""
    signer = _signer(secret="planted")
    assert repr(signer.credentials) == "Credentials(app_id=1696054309969104898)"
    assert repr(signer) == "Signer(Credentials(app_id=1696054309969104898))"


def test_credentials_are_values() -> None:
    """Credentials are frozen, equal by both fields, hashable and picklable."""
    one, other = Credentials(1, "a"), Credentials("1", "a")
    assert one == other
    assert hash(one) == hash(other)
    assert one not in (Credentials(2, "a"), Credentials(1, "b"))
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own bytes
    with pytest.raises(AttributeError):
        one.app_secret = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


# --- sign ---------------------------------------------------------------------------------------


def test_document_header_has_the_structure() -> None:
    """Our header differs from the document's in nothing but the sign, whose secret is not given."""
    ours = base64.b64decode(_signer().sign(_NOW), validate=True).decode()
    theirs = base64.b64decode(_DOCUMENT_HEADER, validate=True).decode()
    assert theirs == _DOCUMENT_PLAIN
    assert ours.rpartition(":")[0] == theirs.rpartition(":")[0]
    assert re.fullmatch(r"[0-9]+:[0-9]{13}:[0-9a-f]{32}", ours)
    assert re.fullmatch(r"[0-9]+:[0-9]{13}:[0-9a-f]{32}", theirs)
    assert len(ours) == len(theirs)


def test_document_header_is_understood() -> None:
    """The document's header is read down to its sign, which our secret does not fit."""
    assert _signer().verify(_DOCUMENT_HEADER, _NOW) is Refusal.WRONG_SIGN
    assert _signer(app_id=1).verify(_DOCUMENT_HEADER, _NOW) is Refusal.UNKNOWN_APP_ID


@pytest.mark.parametrize(
    ("secret", "sign"), [(_SECRET, _VECTOR_SIGN), ("密:钥", _CHINESE_SIGN)], ids=["ASCII", "中文"]
)
def test_sign_vector(secret: str, sign: str) -> None:
    """The sign is what md5sum printed for APPID:APPSECRET:timestamp."""
    signed = base64.b64decode(_signer(secret=secret).sign(_NOW)).decode()
    assert signed == f"{_APP_ID}:{_MILLISECONDS}:{sign}"


@pytest.mark.parametrize(
    ("app_id", "secret", "now"),
    [
        (_APP_ID, _SECRET, _NOW),
        (1, "a:b:c", 0.0),
        (_LONG_MAX, "密钥 🔑", 1_700_000_000.0),
        (42, "$(id) `id` 'x' \"y\" \\n %s", 4_102_444_800.999),
    ],
)
def test_sign_against_md5sum(app_id: int, secret: str, now: float) -> None:
    """The header is what md5sum and base64, run beside us, make of the same."""
    timestamp = str(round(now * 1000))
    sign = _run("md5sum", stdin=f"{app_id}:{secret}:{timestamp}").split()[0]
    header = _run("base64", "-w0", stdin=f"{app_id}:{timestamp}:{sign}")
    assert _signer(app_id, secret).sign(now) == header


@pytest.mark.parametrize(
    ("now", "timestamp"),
    [(1693270226.642, "1693270226642"), (1.0004, "1000"), (1.0006, "1001"), (0.0, "0")],
)
def test_timestamp_is_milliseconds(now: float, timestamp: str) -> None:
    """Seconds become milliseconds, rounded to the nearest and not cut."""
    assert base64.b64decode(_signer().sign(now)).decode().split(":")[1] == timestamp


@pytest.mark.parametrize("offset", [-86400.0, -0.5, 0.5, 3600.0])
def test_signs_with_the_platforms_time(offset: float) -> None:
    """The clock's offset goes into the timestamp; without one of its own a signer has none."""
    clock = PlatformClock()
    clock.offset = offset
    signer = Signer(Credentials(_APP_ID, _SECRET), clock=clock)
    assert signer.clock is clock
    assert signer.sign(1_700_000_000.0) == _signer().sign(1_700_000_000.0 + offset)
    assert _signer().clock.offset == 0.0


# --- verify -------------------------------------------------------------------------------------


@given(_APP_IDS, _SECRETS, st.floats(0, 1e11), st.floats(-1e9, 1e9), st.floats(-299, 299))
@example(_APP_ID, "密:钥", _NOW, 0.0, 0.0)
@example(_APP_ID, ":", 0.0, 0.0, 0.0)
def test_round_trip(app_id: int, secret: str, now: float, offset: float, later: float) -> None:
    """Who knows the secret accepts what was signed with it, a while before or after."""
    signer = _signer(app_id, secret)
    signer.clock.offset = offset
    assume(now + offset >= 0)
    header = signer.sign(now)
    assert signer.verify(header, now + later) is signer.credentials
    assert signer.verify(header.encode(), now + later) is signer.credentials
    platform = _signer(app_id, secret)
    assert platform.verify(header, now + offset + later) == signer.credentials


@given(_APP_IDS, _APP_IDS, _SECRETS, _SECRETS)
def test_other_credentials_are_refused(
    app_id: int, other_id: int, secret: str, other_secret: str
) -> None:
    """Another APPID is told as such; another secret makes another sign."""
    header = _signer(app_id, secret).sign(_NOW)
    if other_id != app_id:
        assert _signer(other_id, secret).verify(header, _NOW) is Refusal.UNKNOWN_APP_ID
    if other_secret != secret:
        assert _signer(app_id, other_secret).verify(header, _NOW) is Refusal.WRONG_SIGN


@pytest.mark.parametrize(
    "header",
    [
        "!",
        "a",
        "ab=c",
        "é",
        "密钥",
        "\ud800",
        "\x00",
        "Basic abcd",
        "YQ==\nYQ==",
        "YQ",
        "-_-_",
        _DOCUMENT_HEADER[:40] + "\n" + _DOCUMENT_HEADER[40:],
        "=",
        "YQ=",
        "YR==",
        _DOCUMENT_HEADER + "=",
        _DOCUMENT_HEADER + "==",
        b"\xff\xfe",
        b"YQ\x00=",
        base64.b64encode(b"\xff\xfe:1:2"),
        base64.b64encode("密:1:2".encode("gbk")),
    ],
)
def test_not_base64(header: str | bytes) -> None:
    """What is no Base64, or none of a text in UTF-8, is told as such."""
    assert _signer().verify(header, _NOW) is Refusal.NOT_BASE64


@pytest.mark.parametrize(
    "plain",
    [
        "",
        "1",
        f"{_APP_ID}:{_MILLISECONDS}",
        f"{_APP_ID}:{_MILLISECONDS}:{_VECTOR_SIGN}:",
        f"{_APP_ID}：{_MILLISECONDS}：{_VECTOR_SIGN}",  # full-width colons, which (2) warns of
        f"{_APP_ID}:{_SECRET}:{_MILLISECONDS}:{_VECTOR_SIGN}",
    ],
)
def test_not_three_parts(plain: str) -> None:
    """What has more parts than three, or fewer, is told as such."""
    assert _signer().verify(_header(plain), _NOW) is Refusal.NOT_THREE_PARTS
    assert _signer().verify("", _NOW) is Refusal.NOT_THREE_PARTS


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        " ",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x1",
        "now",
        "²",
        "٣",
        "１",
        "1_0",
        " 1693270226642",
        "9223372036854775808",
        "9" * 19,
        "9" * 20,
        pytest.param("9" * 400, id="400 digits"),
        pytest.param("9" * 5000, id="5000 digits"),
        pytest.param("0" * 20 + "9" * 5000, id="5020 digits"),
        "0" * 20 + str(_MILLISECONDS),
    ],
)
def test_wrong_timestamp(timestamp: str) -> None:
    """A timestamp that is no Long is refused even where its sign is true, and nothing is raised."""
    assert _signer().verify(_forge(timestamp), _NOW) is Refusal.NOT_THREE_PARTS


@pytest.mark.parametrize("app_id", ["", "1", f"0{_APP_ID}", f" {_APP_ID}", f"+{_APP_ID}", "密"])
def test_unknown_app_id(app_id: str) -> None:
    """An APPID that is not ours, digit by digit, is refused even where its sign is true."""
    header = _forge(str(_MILLISECONDS), app_id)
    assert _signer().verify(header, _NOW) is Refusal.UNKNOWN_APP_ID


@pytest.mark.parametrize(
    "sign",
    [
        "",
        "0" * 32,
        _VECTOR_SIGN.upper(),
        _VECTOR_SIGN[:-1],
        _VECTOR_SIGN + "0",
        " " + _VECTOR_SIGN,
        _VECTOR_SIGN.translate(str.maketrans("0123456789", "０１２３４５６７８９")),
        "\x00",
        "密",
    ],
)
def test_wrong_sign(sign: str) -> None:
    """A sign that differs in anything, letter case included, is refused."""
    header = _header(f"{_APP_ID}:{_MILLISECONDS}:{sign}")
    assert _signer().verify(header, _NOW) is Refusal.WRONG_SIGN


def test_signed_timestamp_cannot_be_moved() -> None:
    """A sign holds for its own timestamp only: an old header cannot be made young."""
    header = _header(f"{_APP_ID}:{_MILLISECONDS + 1}:{_VECTOR_SIGN}")
    assert _signer().verify(header, _NOW) is Refusal.WRONG_SIGN


def test_wrong_sign_before_expired() -> None:
    """Only who knows the secret is told of our clock: a forged old header has a wrong sign."""
    assert _signer().verify(_header(f"{_APP_ID}:0:{'0' * 32}"), _NOW) is Refusal.WRONG_SIGN
    assert _signer().verify(_forge("0"), _NOW) is Refusal.EXPIRED
    assert _signer().verify(_forge(str(_LONG_MAX)), _NOW) is Refusal.EXPIRED


@pytest.mark.parametrize("around", ["{}", " {}", "{}\r\n", "\t{} "])
def test_white_space_around_a_header(around: str) -> None:
    """White space around a header's value, which HTTP allows, does not count."""
    signer = _signer()
    header = around.format(signer.sign(_NOW))
    assert signer.verify(header, _NOW) is signer.credentials
    assert signer.verify(header.encode(), _NOW) is signer.credentials


@pytest.mark.parametrize(
    ("apart", "fresh"),
    [
        (0.0, True),
        (299.999, True),
        (300.0, True),
        (300.001, False),
        (301.0, False),
        (-299.999, True),
        (-300.0, True),
        (-300.001, False),
        (-301.0, False),
        (1e18, False),
        (-1e18, False),
    ],
)
def test_tolerance(apart: float, fresh: bool) -> None:  # noqa: FBT001 - a table
    """Five minutes are near enough on either side, and a millisecond more is not."""
    assert timedelta(seconds=300) == TOLERANCE
    signer = _signer()
    expected = signer.credentials if fresh else Refusal.EXPIRED
    assert signer.verify(signer.sign(1_700_000_000.0), 1_700_000_000.0 + apart) is expected


@pytest.mark.parametrize("tolerance", [timedelta(0), timedelta(seconds=1), timedelta(days=3650)])
def test_own_tolerance(tolerance: timedelta) -> None:
    """The tolerance is the caller's to choose, and as exact."""
    signer, span = _signer(), tolerance.total_seconds()
    header = signer.sign(1_700_000_000.0)
    for sign in (1, -1):
        assert signer.verify(header, 1_700_000_000.0 + sign * span, tolerance) is signer.credentials
        later = 1_700_000_000.0 + sign * (span + 0.001)
        assert signer.verify(header, later, tolerance) is Refusal.EXPIRED


def test_verify_uses_the_platforms_time() -> None:
    """A header that is fresh by the platform's clock is fresh, however wrong this machine's is."""
    signer = _signer()
    header = signer.sign(1_700_000_000.0)
    signer.clock.offset = 3600.0
    assert signer.verify(header, 1_700_000_000.0 - 3600) is signer.credentials
    assert signer.verify(header, 1_700_000_000.0) is Refusal.EXPIRED


_PARTS = st.sampled_from([str(_APP_ID), str(_MILLISECONDS), _VECTOR_SIGN, "", "0"]) | _ANY_TEXT
_NEARLY = st.one_of(
    st.lists(_PARTS, max_size=4).map(":".join).map(_header),
    st.tuples(st.just(str(_APP_ID)), _PARTS, _PARTS).map(":".join).map(_header),
    st.text("0123456789", max_size=30).map(_forge),
    st.binary().map(base64.b64encode),
    st.sampled_from([_DOCUMENT_HEADER, _forge(str(_MILLISECONDS))]),
)


@settings(max_examples=300)
@given(st.binary() | _ANY_TEXT | _NEARLY, st.floats(-1e12, 1e12))
@example(_forge(str(_MILLISECONDS)), _NOW)
@example(_forge("0" * 20 + "9" * 5000), _NOW)
@example("9" * 65536, _NOW)
def test_verify_never_raises(header: str | bytes, now: float) -> None:
    """Any header gets an answer, and only one that was signed in time gets the credentials."""
    signer = _signer()
    answer = signer.verify(header, now)
    assert answer is signer.credentials or isinstance(answer, Refusal)
    if isinstance(answer, Credentials):
        text = header if isinstance(header, str) else header.decode()
        timestamp = base64.b64decode(text).decode().split(":")[1]
        assert text.strip() == _forge(timestamp)
        assert abs(int(timestamp) / 1000 - now) <= 300


def test_every_refusal_is_reachable() -> None:
    """There is a header for each way to refuse, and each tells its reason in words of its own."""
    signer = _signer()
    headers = ["!", "", _forge("1", 1), _forge("1"), _DOCUMENT_HEADER]
    assert {signer.verify(header, _NOW) for header in headers} == set(Refusal)
    assert len({refusal.value for refusal in Refusal}) == 5


# --- the secret path ----------------------------------------------------------------------------


def test_callback_token_vector() -> None:
    """The token is openssl's HMAC-SHA-256 of the purpose: it must never change, or URLs break."""
    assert _signer().callback_token == _VECTOR_TOKEN


@pytest.mark.parametrize(
    ("app_id", "secret"), [(_APP_ID, _SECRET), (1, "密:钥"), (_LONG_MAX, "x" * 200)]
)
def test_callback_token_against_openssl(app_id: int, secret: str) -> None:
    """The token is what openssl, run beside us, makes of the same, in URL-safe Base64."""
    key = secret.encode().hex()
    printed = _run(
        "openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key}", "-r",
        stdin=f"qmc-async callback path {app_id}",
    )  # fmt: skip
    token = base64.urlsafe_b64encode(bytes.fromhex(printed.split()[0])).decode().rstrip("=")
    assert _signer(app_id, secret).callback_token == token


@given(_APP_IDS, _APP_IDS, _SECRETS, _SECRETS)
def test_callback_token(app_id: int, other_id: int, secret: str, other_secret: str) -> None:
    """A token is 43 URL-safe characters, the same each time, and other for another id or secret."""
    token = _signer(app_id, secret).callback_token
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert _signer(app_id, secret).callback_token == token
    # HMAC fills a short key up with NULs, so that a NUL at its end is no difference.
    if other_id != app_id or other_secret.rstrip("\x00") != secret.rstrip("\x00"):
        assert _signer(other_id, other_secret).callback_token != token


# --- the platform's clock -----------------------------------------------------------------------

_T = 1_700_000_000.0


def observe(clock: PlatformClock, date: str, sent: float, received: float) -> bool:
    """Let the clock learn, and tell whether it now says something else."""
    before = clock.offset
    clock.observe(date, sent, received)
    return abs(clock.offset - before) > clock.threshold


def _date(moment: float) -> str:
    return formatdate(moment, usegmt=True)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "qmc_async.signer" and record.levelno >= logging.WARNING
    ]


@pytest.fixture(params=["UTC", "Asia/Shanghai", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """This machine's own time zone, set to several."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


# A Date header is cut to the second: the platform's clock is taken to be half a second later.
@pytest.mark.parametrize(
    ("apart", "offset"),
    [
        (0, 0.0),
        (29, 0.0),
        (30, 0.0),
        (31, 31.0),
        (3600, 3600.0),
        (-29, 0.0),
        (-30, 0.0),
        (-31, -31.0),
        (-3600, -3600.0),
    ],
)
def test_threshold(apart: int, offset: float) -> None:
    """Clocks that are up to the threshold apart agree; further apart, the whole offset counts."""
    clock = PlatformClock()
    changed = observe(clock, _date(_T + apart), _T + 0.5, _T + 0.5)
    assert clock.offset == offset
    assert changed is (offset != 0)
    assert clock.time(_T) == _T + offset
    assert clock.datetime(_T) == datetime.fromtimestamp(_T + offset, UTC)
    assert clock.datetime(_T).tzinfo is BEIJING


def test_own_threshold() -> None:
    """The threshold is the caller's to choose."""
    clock = PlatformClock(threshold=2.0)
    assert clock.threshold == 2.0
    assert not observe(clock, _date(_T + 2), _T + 0.5, _T + 0.5)
    assert clock.offset == 0.0
    assert observe(clock, _date(_T + 3), _T + 0.5, _T + 0.5)
    assert clock.offset == 3.0


@pytest.mark.parametrize(("sent", "received"), [(0.0, 0.0), (-10.0, 10.0), (-10.0, 0.0), (0, 30.0)])
def test_midpoint(sent: float, received: float) -> None:
    """The platform read its clock half way between sending and receiving."""
    clock = PlatformClock()
    clock.observe(_date(_T + 100), _T + sent, _T + received)
    assert clock.offset == 100.5 - (sent + received) / 2


@pytest.mark.parametrize("round_trip", [30.001, 3600.0, -0.001, float("nan")])
def test_useless_round_trip_is_ignored(round_trip: float) -> None:
    """A reply that took longer than the threshold, or less than no time, says nothing."""
    clock = PlatformClock()
    assert not observe(clock, _date(_T + 3600), _T, _T + round_trip)
    assert clock.offset == 0.0
    assert observe(clock, _date(_T + 3600), _T, _T + 30.0)


@pytest.mark.parametrize(
    "date",
    [
        "",
        " ",
        "now",
        "0",
        "Mon",
        "\x00",
        "\ud800",
        "-",
        ",",
        "2023-08-28T11:22:33Z",
        pytest.param("9" * 5000, id="5000 digits"),
        "Mon, 32 Aug 2023 11:22:33 GMT",
        "Mon, 28 Aug 2023 25:22:33 GMT",
        "28 Foo 2023 1:1:1 GMT",
        f"Mon, 28 Aug {'9' * 30} 11:22:33 GMT",
        pytest.param(f"Mon, 28 Aug {'9' * 5000} 11:22:33 GMT", id="5000-digit year"),
        "Mon, 28 Aug 2023 11:22:33 +999999",
        f"Mon, 28 Aug 2023 11:22:33 +{'9' * 30}",
        "Mon, 28 Aug ² 11:22:33 GMT",
        "Mon, 28 Aug 2023 ::: GMT",
    ],
)
def test_unreadable_date_is_ignored(date: str, caplog: pytest.LogCaptureFixture) -> None:
    """A Date that cannot be read leaves the offset as it was, and says nothing."""
    clock = PlatformClock()
    clock.offset = 77.0
    assert observe(clock, date, _T, _T) is False
    assert clock.offset == 77.0
    assert _warnings(caplog) == []


_DATES = st.lists(
    st.sampled_from(
        [
            "Mon",
            ",",
            "28",
            "Aug",
            "2023",
            "11:22:33",
            "GMT",
            "-0000",
            "+0800",
            " ",
            "-",
            ":",
            "+",
            "²",
            "٣",
            "\x00",
            "(",
            ")",
            "\n",
            "0",
            ".",
            "9999",
            "0001",
            "9" * 20,
            "PST",
            "Z",
        ]
    )
).map("".join)


@given(_ANY_TEXT | _DATES | st.datetimes().map(str))
@example("1 Jan 0001 00:00:00 +2359")
@example("31 Dec 9999 23:59:59 -2359")
def test_any_date_is_read_or_ignored(date: str) -> None:
    """No Date header raises, and none makes an offset that is no number."""
    clock = PlatformClock()
    clock.observe(date, _T, _T)
    assert abs(clock.offset) < 1e12


@pytest.mark.parametrize(
    "date",
    [
        "Tue, 14 Nov 2023 23:13:20 GMT",
        "Tuesday, 14-Nov-23 23:13:20 GMT",
        "Tue Nov 14 23:13:20 2023",
        "Tue, 14 Nov 2023 23:13:20 -0000",
        "Tue, 14 Nov 2023 23:13:20 +0000",
        "Wed, 15 Nov 2023 07:13:20 +0800",
    ],
)
@pytest.mark.usefixtures("zone")
def test_forms_of_a_date(date: str) -> None:
    """All forms that HTTP has mean the same second, wherever this machine stands."""
    clock = PlatformClock()
    assert observe(clock, date, _T + 0.5, _T + 0.5)
    assert clock.offset == 3600.0


def test_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong clock is reported once, not with every reply, and with no secret to show."""
    clock = PlatformClock()
    for second in range(5):
        clock.observe(_date(_T + second + 90), _T + second + 0.5, _T + second + 0.5)
    clock.observe(_date(_T + 10), _T + 10.5, _T + 10.5)
    clock.observe(_date(_T + 11 + 90), _T + 11.5, _T + 11.5)
    (warning,) = _warnings(caplog)
    assert "clock is 90 s behind the platform's" in warning


def test_warns_of_a_fast_clock(caplog: pytest.LogCaptureFixture) -> None:
    """The warning tells which of the two clocks is ahead."""
    PlatformClock().observe(_date(_T - 90), _T + 0.5, _T + 0.5)
    (warning,) = _warnings(caplog)
    assert "clock is 90 s ahead of the platform's" in warning


def test_agreeing_clocks_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Within the threshold nothing is logged."""
    PlatformClock().observe(_date(_T + 30), _T + 0.5, _T + 0.5)
    assert _warnings(caplog) == []


def test_clock_put_right() -> None:
    """Once this machine's clock is right again the offset is nothing, and that is a change too."""
    clock = PlatformClock()
    assert observe(clock, _date(_T + 90), _T + 0.5, _T + 0.5) is True
    assert observe(clock, _date(_T + 91), _T + 91.5, _T + 91.5) is True
    assert clock.offset == 0.0
    assert observe(clock, _date(_T + 92), _T + 92.5, _T + 92.5) is False


def test_small_change_of_a_large_offset() -> None:
    """An offset follows the platform's clock, but only a change over the threshold is told."""
    clock = PlatformClock()
    assert observe(clock, _date(_T + 90), _T + 0.5, _T + 0.5) is True
    assert observe(clock, _date(_T + 101), _T + 1.5, _T + 1.5) is False
    assert clock.offset == 100.0
    assert observe(clock, _date(_T + 202), _T + 2.5, _T + 2.5) is True
    assert clock.offset == 200.0
    assert observe(clock, _date(_T - 37), _T + 3.5, _T + 3.5) is True
    assert clock.offset == -40.0


def test_one_header_a_second_is_enough() -> None:
    """The same Date again, as in the replies of one second, is not looked at a second time."""
    clock = PlatformClock()
    assert observe(clock, _date(_T + 90), _T + 0.5, _T + 0.5) is True
    assert observe(clock, _date(_T + 90), _T + 0.9, _T + 0.9) is False
    assert clock.offset == 90.0


def test_a_time_that_is_none() -> None:
    """Whoever cannot say what time it is accepts nothing."""
    nan = float("nan")
    assert _signer().verify(_signer().sign(_NOW), nan) is Refusal.EXPIRED
    assert _signer().answer_probe(_signer().probe(_NOW), nan) is None
