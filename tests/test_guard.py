"""Who may post, by the head of the request alone, and what a refusal says."""

from __future__ import annotations

import base64
import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import SIGNER, TOKEN

from qmc_async import ConfigError, Credentials, Signer
from qmc_async.callback.guard import LONGEST_BODY, Guard
from qmc_async.callback.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

PATH = f"/qmc/callback/{TOKEN}"
FORBIDDEN = Reply(403, b'{"code":"403","msg":"forbidden","data":""}')
NOT_FOUND = Reply(404, b'{"code":"404","msg":"not found","data":""}')
OTHER = Signer(Credentials(SIGNER.credentials.app_id, "another secret"))


def refusal(
    guard: Guard,
    method: str = "POST",
    path: str = PATH,
    length: int | None = 100,
    peer: str | None = "198.51.100.7",
    **headers: str | Sequence[str],
) -> Reply | None:
    """What a guard says of one request; a header's name has _ for -."""
    named = {
        name.replace("_", "-").lower(): [value] if isinstance(value, str) else list(value)
        for name, value in headers.items()
    }
    return guard.refuse(method, (path,), length, peer, lambda name: named.get(name.lower(), []))


def _refusal(method: str = "POST", path: str = PATH, length: int | None = 100) -> Reply | None:
    return refusal(Guard(PATH), method, path, length)


def test_a_notification_is_let_through() -> None:
    """The right method, path and length go on to the body; so does an undeclared length."""
    assert _refusal() is None
    assert _refusal(length=None) is None
    assert _refusal(length=0) is None
    assert _refusal(length=LONGEST_BODY) is None


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "*",
        "/qmc/callback",
        "/qmc/callback/",
        PATH + "/",
        PATH + "x",
        PATH[:-1],
        "/" + PATH,
        PATH.upper(),
        PATH.replace("q", "%71"),
        PATH.replace("b", "%62"),
        PATH.replace("/", "%2F"),
        PATH + "%00",
        PATH + ";a=1",
        PATH + "?",
        PATH + "\udcff",
        PATH.replace("q", "ｑ"),
        f"/qmc/../qmc/callback/{TOKEN}",
        "x" * 100_000,
    ],
)
def test_any_other_path_is_not_found(path: str) -> None:
    """Only the very bytes of the path are taken; whoever guesses learns nothing but 404."""
    expected = Reply(404, b'{"code":"404","msg":"not found","data":""}')
    assert _refusal(path=path) == expected
    assert _refusal(method="GET", path=path) == expected
    assert _refusal(path=path, length=LONGEST_BODY + 1) == expected


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "", "POSTS"]
)
def test_any_other_method_is_not_allowed(method: str) -> None:
    """The platform only posts."""
    expected = Reply(405, b'{"code":"405","msg":"method not allowed","data":""}')
    assert _refusal(method=method) == expected
    assert _refusal(method=method, length=LONGEST_BODY + 1) == expected


def test_a_declared_length_is_refused_before_the_body_is_read() -> None:
    """64 KiB is the most; one byte more is refused unread."""
    assert LONGEST_BODY == 65_536
    expected = Reply(413, b'{"code":"413","msg":"content too large","data":""}')
    assert _refusal(length=65_537) == expected


def test_any_part_of_an_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an application sees several paths, one of them must be ours, and each is compared."""
    compared: list[bytes] = []

    def compare(one: bytes, _: bytes) -> bool:
        compared.append(one)
        return one == PATH.encode()

    guard = Guard(PATH)
    paths = [PATH, "/mounted" + PATH]
    assert guard.refuse("POST", paths, 1, None, lambda _: []) is None
    assert guard.refuse("POST", reversed(paths), 1, None, lambda _: []) is None
    assert guard.refuse("POST", paths[1:], 1, None, lambda _: []) == NOT_FOUND
    monkeypatch.setattr("hmac.compare_digest", compare)
    assert guard.refuse("POST", paths, 1, None, lambda _: []) is None
    assert compared == [path.encode() for path in paths]


# --- senders ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "is_allowed"),
    [
        ("203.0.113.9", True),
        ("::ffff:203.0.113.9", True),
        ("2001:db8::5", True),
        ("203.0.114.9", False),
        ("::ffff:203.0.114.9", False),
        ("2001:db9::5", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("", False),
        (None, False),
        ("203.0.113.9, 203.0.113.9", False),
    ],
)
@pytest.mark.parametrize(
    "given", ["203.0.113.0/24, 2001:db8::/32", ["203.0.113.0/24", "2001:db8::/32"]]
)
def test_allowed_senders(peer: str | None, given: Any, *, is_allowed: bool) -> None:  # noqa: ANN401 - both forms
    """Who is not among them gets 403, whatever the request, and never learns which path is ours."""
    guard = Guard(PATH, SIGNER, allowed_senders=given)
    expected = None if is_allowed else FORBIDDEN
    assert refusal(guard, peer=peer) == expected
    if not is_allowed:
        for method, path, length in (
            ("POST", "/", 1),
            ("GET", PATH, 1),
            ("POST", PATH, LONGEST_BODY + 1),
        ):
            assert refusal(guard, method, path, length, peer) == FORBIDDEN
        assert refusal(guard, peer=peer, Qmc_Probe=SIGNER.probe(time.time())) == FORBIDDEN
        assert guard.refused == {"sender": 5}


def test_a_header_of_a_stranger_says_nothing() -> None:
    """Only a trusted proxy's word is taken for who has sent it."""
    guard = Guard(PATH, allowed_senders="203.0.113.0/24", trusted_proxies="10.0.0.1")
    assert refusal(guard, peer="10.0.0.1", X_Forwarded_For="203.0.113.9") is None
    assert refusal(guard, peer="10.0.0.2", X_Forwarded_For="203.0.113.9") == FORBIDDEN
    assert refusal(guard, peer="10.0.0.1", X_Forwarded_For="203.0.113.9, 8.8.8.8") == FORBIDDEN
    assert refusal(guard, peer="10.0.0.1") == FORBIDDEN


def test_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is passed, the variables count."""
    monkeypatch.setenv("QMC_ALLOWED_SENDERS", "203.0.113.0/24")
    monkeypatch.setenv("QMC_TRUSTED_PROXIES", "10.0.0.1,unix")
    guard = Guard(PATH)
    assert refusal(guard, peer=None, X_Forwarded_For="203.0.113.9") is None
    assert refusal(guard, peer="10.0.0.1", X_Forwarded_For="203.0.113.9") is None
    assert refusal(guard, peer="10.0.0.1", X_Forwarded_For="203.0.112.9") == FORBIDDEN
    assert refusal(Guard(PATH, allowed_senders="10.0.0.2"), peer="10.0.0.2") is None
    monkeypatch.setenv("QMC_TRUSTED_PROXIES", "10.0.0.1/8")
    with pytest.raises(ConfigError, match=r"QMC_TRUSTED_PROXIES: .*10\.0\.0\.1/8") as caught:
        Guard(PATH)
    assert caught.value.setting == "QMC_TRUSTED_PROXIES"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("allowed_senders", ""),
        ("allowed_senders", []),
        ("allowed_senders", "platform.example"),
        ("allowed_senders", "10.0.0.0/33"),
        ("allowed_senders", 5),
        ("trusted_proxies", "10.0.0.1/8"),
        ("trusted_proxies", ["nginx"]),
        ("authorization", "sometimes"),
        ("authorization", "required"),  # and there is no signer
        ("replay_window", 300),
        ("rate_limit", "5"),
        ("rate_limit", True),
        ("rate_limit", 1e-320),
        ("replay_window", timedelta()),
        ("replay_window", timedelta(seconds=-1)),
        ("rate_limit", 0),
        ("rate_limit", -1.0),
        ("rate_limit", float("nan")),
        ("rate_limit", float("inf")),
    ],
)
def test_bad_settings(setting: str, value: Any) -> None:  # noqa: ANN401 - callers err
    """What can be no setting is refused at once, and named."""
    with pytest.raises(ConfigError, match=rf"^{setting}: ") as caught:
        Guard(PATH, **{setting: value})
    assert caught.value.setting == setting


# --- Authorization ----------------------------------------------------------------------------


def _signed(signer: Signer = SIGNER, past: float = 0.0) -> str:
    return signer.sign(time.time() - past)


@pytest.mark.parametrize(
    ("headers", "checked", "required"),
    [
        ([], True, False),
        (["{good}"], True, True),
        ([" {good}\t"], True, True),
        (["{other}"], False, False),
        (["{late}"], False, False),
        (["{early}"], False, False),
        ([""], True, False),
        (["{wrapped}"], True, True),
        (["nonsense"], False, False),
        (["\udcff"], False, False),
        ([base64.b64encode(b"1:2:3").decode()], False, False),
        (["{good}x"], False, False),
        (["{good}", "{good}"], True, True),
        (["{good}", "{late}"], False, False),
        (["Basic dXNlcjpwYXNz"], True, False),
        (["Bearer abc.def"], True, False),
        (["Basic dXNlcjpwYXNz", "{good}"], True, True),
    ],
)
def test_authorization(headers: list[str], *, checked: bool, required: bool) -> None:
    """A wrong one is refused, none only where it is required; one of another scheme is not ours."""
    known = {
        "good": _signed(),
        "other": _signed(OTHER),
        "wrapped": f"{_signed()[:76]}\r\n {_signed()[76:]}",
        "late": _signed(past=330),
        "early": _signed(past=-330),
    }
    headers = [header.format(**known) for header in headers]
    for mode, is_taken in (("checked", checked), ("required", required), ("ignored", True)):
        guard = Guard(PATH, SIGNER, authorization=mode)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - each of them
        expected = None if is_taken else FORBIDDEN
        assert refusal(guard, Authorization=headers) == expected, mode
        assert guard.refused == ({} if is_taken else {"authorization": 1})
    assert refusal(Guard(PATH), Authorization=headers) is None  # nobody could tell


def test_replay_window() -> None:
    """How old a signature may be is a setting."""
    header = _signed(past=100)
    assert (
        refusal(Guard(PATH, SIGNER, replay_window=timedelta(seconds=110)), Authorization=header)
        is None
    )
    short = Guard(PATH, SIGNER, replay_window=timedelta(seconds=90))
    assert refusal(short, Authorization=header) == FORBIDDEN


def test_a_probe_needs_no_authorization() -> None:
    """It is signed itself."""
    guard = Guard(PATH, SIGNER, authorization="required")
    answer = refusal(guard, Qmc_Probe=SIGNER.probe(time.time()))
    assert answer is not None
    assert answer.status == 200
    assert guard.refused == {}


# --- rate -------------------------------------------------------------------------------------


def test_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many in a second, of each sender by itself; an IPv6 sender is a whole subscriber."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    guard = Guard(PATH, rate_limit=5)
    for peer, same in (("198.51.100.7", "::ffff:198.51.100.7"), ("2001:db8::1", "2001:db8::2")):
        assert [refusal(guard, peer=peer) for _ in range(5)] == [None] * 5
        refused = refusal(guard, peer=same)
        assert refused == Reply(429, b'{"code":"429","msg":"too many requests","data":""}')
    assert refusal(guard, peer="198.51.100.8") is None
    assert refusal(guard, peer="2001:db8:0:1::1") is None
    assert refusal(guard, peer=None) is None
    now += 0.21
    assert refusal(guard) is None
    refused = refusal(guard)
    assert refused is not None
    now += 10.0
    assert [refusal(guard) for _ in range(5)] == [None] * 5
    assert guard.refused == {"rate": 3}
    # Who does not know the path spends nothing of it.
    assert {refusal(guard, path="/", peer="198.51.100.9") for _ in range(20)} == {NOT_FOUND}
    assert refusal(guard, peer="198.51.100.9") is None


def test_a_rate_below_one() -> None:
    """One comes at a time, however seldom."""
    guard = Guard(PATH, rate_limit=0.001)
    assert refusal(guard) is None
    assert refusal(guard) is not None


def test_a_rate_needs_no_memory_for_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was seen last is remembered, and so many others."""
    monkeypatch.setattr("qmc_async.callback.guard._REMEMBERED", 3)
    guard = Guard(PATH, rate_limit=0.001)
    for last in (1, 2, 3, 4):
        assert refusal(guard, peer=f"198.51.100.{last}") is None
    assert refusal(guard, peer="198.51.100.4") is not None
    assert refusal(guard, peer="198.51.100.1") is None, "it was not forgotten"


# --- what is told -----------------------------------------------------------------------------


def test_refusals_are_told_at_a_bounded_rate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line a minute, with all counts and what to do; a stranger's bytes are in none."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    guard = Guard(PATH, SIGNER, allowed_senders="198.51.100.0/24", authorization="required")
    for _ in range(1000):
        assert refusal(guard, peer="203.0.113.9", path="/planted") == FORBIDDEN
    # Another reason does not wait.
    assert refusal(guard, Authorization="planted") == FORBIDDEN
    assert refusal(guard, path="/planted") == NOT_FOUND
    now += 61
    assert refusal(guard, path="/planted") == NOT_FOUND
    first, second, third, fourth = (record.getMessage() for record in caplog.records)
    assert first.startswith(
        "requests refused so far: 1 (sender 1), the last with HTTP 403: if 203.0.113.9 is"
    )
    assert "add it to allowed_senders or trusted_proxies" in first
    assert "1001 (sender 1000, authorization 1)" in second
    assert "its Authorization, it is not Base64: if it is the platform's" in second
    assert "1002 (sender 1000, authorization 1, path 1), the last with HTTP 404" in third
    assert "1003 (sender 1000, authorization 1, path 2), the last with HTTP 404" in fourth
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert not [secret for secret in ("planted", TOKEN, 'secret"') if secret in caplog.text]
    assert guard.refused == {"sender": 1000, "authorization": 1, "path": 2}
    with pytest.raises(TypeError):
        guard.refused["sender"] = 0  # type: ignore[index] # pyright: ignore[reportIndexIssue] - the mistake
