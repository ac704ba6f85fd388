"""What the console's JSON API says no to: one sentence, which names what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from console_support import FORM, JSON, ask, bytes_answered, send
from test_sandbox_support import CALLER, meeting

from qmc_async.models import Reason
from qmc_async.sandbox import FAULT_NAMES, Action, Rule

CALLEE = "13900000010"  # endless
MULTIPART = "multipart/form-data; boundary=x"
HUGE = 10**30

NUMBERS: list[object] = [
    -1,
    -0.001,
    "nan",
    "inf",
    "-inf",
    1e308,
    HUGE,
    "",
    "one",
    None,
    True,
    [],
    {},
]
NO_TEXT: list[object] = [7, True, [], {"a": 1}]


async def refused(method: str, path: str, body: object, *, says: str, status: int = 400) -> None:
    """Ask, and see that it is refused so, and that nothing is changed."""
    async with meeting(console=True) as peer:
        platform = peer.platform
        call = platform.place(CALLER, CALLEE)
        platform.rules.append(Rule(name="rule"))
        before = (platform.callback_url, list(platform.rules), dict(platform.fault_rates.rates))
        now = platform.clock.now()
        answered, shown = await ask(peer, method, path.replace("CALL", call.call_id), body)
        assert (answered, list(shown)) == (status, ["error"]), shown
        assert says in shown["error"]
        assert "\n" not in shown["error"]
        after = (platform.callback_url, list(platform.rules), dict(platform.fault_rates.rates))
        assert (after, platform.clock.now()) == (before, now)
        assert list(platform.calls.values()) == [call]
        assert call.history == []


@pytest.mark.parametrize("seconds", [*NUMBERS, 10**9 + 1])
async def test_seconds_are_a_number(seconds: object) -> None:
    """What is no number, or too much, moves no clock."""
    says = "seconds: it must be a number from 0 to 1e+09"
    await refused("POST", "/advance", {"seconds": seconds}, says=says)
    if seconds is None:
        await refused("POST", "/advance", {}, says="seconds: ")


@pytest.mark.parametrize("probability", [*NUMBERS, 1.001])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/rules"), ("PATCH", "/rules/rule"), ("PUT", "/faults/lose_reply")],
)
async def test_probabilities_are_numbers(method: str, path: str, probability: object) -> None:
    """From 0 to 1, for rules and for faults."""
    says = "probability: it must be a number from 0 to 1"
    await refused(method, path, {"probability": probability}, says=says)


@pytest.mark.parametrize("query", ["-1", "nan", "inf", "", "x", str(HUGE), "1" * 5000, "0x1"])
@pytest.mark.parametrize("name", ["skip", "limit"])
async def test_pieces_of_a_list_are_numbers(name: str, query: str) -> None:
    """Skip from 0 on; limit from 1 to 1000."""
    await refused("GET", f"/calls?{name}={query}", None, says=f"{name}: it must be a number from")
    if name == "limit":
        await refused("GET", "/calls?limit=0", None, says="limit: ")
        await refused("GET", "/calls?limit=1001", None, says="limit: ")


@pytest.mark.parametrize("action", ["", "endcall", "caller", 7, None, ["endCall"], {"a": 1}])
async def test_actions_are_known(action: object) -> None:
    """The sentence lists them."""
    says = f"action: it must be one of {', '.join(Action)}"
    await refused("POST", "/calls/CALL/actions", {"action": action}, says=says)
    await refused("POST", "/calls/CALL/actions", {}, says=says)


@pytest.mark.parametrize("reason", ["", "hangup", "HANG_UP", 7, None, ["HangUp"]])
async def test_reasons_are_known(reason: object) -> None:
    """The sentence lists them, for a call's end and for a rule's."""
    says = f"it must be one of {', '.join(Reason)}"
    await refused("POST", "/calls/CALL/hang-up", {"reason": reason}, says=f"reason: {says}")
    if isinstance(reason, str) and reason:
        await refused("POST", "/rules", {"ends": reason}, says=f"ends: {says}")


@pytest.mark.parametrize("action", ["callee answers", "callee hangs up", "callee is busy"])
async def test_what_is_not_possible_now(action: str) -> None:
    """409: it is known, and may be possible later."""
    says = f"{action}: not possible while the call is caller ringing"
    await refused("POST", "/calls/CALL/actions", {"action": action}, says=says, status=409)


@pytest.mark.parametrize(
    "faults",
    ["lose_reply", 7, None, {"lose_reply": True}, ["lose_replies"], [7], [None], [["lose_reply"]]],
)
async def test_faults_are_a_list_of_names(faults: object) -> None:
    """The sentence lists them."""
    says = f"faults: it must be a list of some of {', '.join(FAULT_NAMES)}"
    await refused("POST", "/rules", {"faults": faults}, says=says)


@pytest.mark.parametrize("other", ["delay_notification", "malformed_notification"])
async def test_faults_that_exclude_each_other(other: str) -> None:
    """The sentence names one of them."""
    faults = ["drop_notification", other]
    await refused("POST", "/rules", {"faults": faults}, says="drop_notification: nothing else")


@pytest.mark.parametrize("value", NO_TEXT)
@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/calls", "caller"),
        ("POST", "/calls", "callee"),
        ("POST", "/calls", "out_call_id"),
        ("POST", "/rules", "caller"),
        ("POST", "/rules", "callee"),
        ("POST", "/rules", "out_call_id"),
        ("POST", "/rules", "ends"),
        ("PUT", "/callback", "url"),
    ],
)
async def test_texts_are_texts(method: str, path: str, name: str, value: object) -> None:
    """A number is no telephone number."""
    body = {"caller": CALLER, "callee": CALLEE, name: value}
    await refused(method, path, body, says=f"{name}: it must be text")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "caller"),
        ({"caller": CALLER}, "callee"),
        ({"caller": CALLER, "callee": "1"}, "callee"),
        ({"caller": CALLER, "callee": "<script>"}, "callee"),
        ({"caller": CALLER, "callee": CALLEE, "out_call_id": "x" * 65}, "64"),
    ],
)
async def test_calls_are_checked_as_the_platform_does(body: dict[str, Any], says: str) -> None:
    """400, and nobody is rung."""
    await refused("POST", "/calls", body, says=says)


@pytest.mark.parametrize("enabled", ["", "yes", "True", 1, 0, None, [], ["true"]])
async def test_switches_are_on_or_off(enabled: object) -> None:
    """True or false, as JSON or as text."""
    says = "enabled: it must be true or false"
    await refused("PATCH", "/rules/rule", {"enabled": enabled}, says=says)


@pytest.mark.parametrize(
    "url",
    ["example.org", "ftp://example.org/", "javascript:alert(1)", "http:", "http://", "http://[/"],
)
async def test_the_callback_is_an_address(url: str) -> None:
    """Another scheme, no host, or a broken one; the address stays what it was."""
    await refused("PUT", "/callback", {"url": url}, says="url: it must be an address")


async def test_the_callback_is_not_taken_away_by_mistake() -> None:
    """A body without the member is no wish to have none."""
    await refused("PUT", "/callback", {}, says="url: it must be given")
    await refused("PUT", "/callback", {"URL": "http://127.0.0.1/"}, says="url: it must be given")


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("POST", "/calls/1/actions", "there is no such call"),
        ("POST", "/calls/1/hang-up", "there is no such call"),
        ("POST", "/calls/1/resend", "there is no such call"),
        ("PATCH", "/rules/none", "there is no such rule"),
        ("DELETE", "/rules/none", "there is no such rule"),
        ("PUT", "/faults/none", "there is no such fault; there are drop_notification"),
    ],
)
async def test_what_is_not_there(method: str, path: str, says: str) -> None:
    """404, whatever the body holds."""
    await refused(method, path, {"action": "endCall", "probability": 1}, says=says, status=404)


@pytest.mark.parametrize("body", [[], ["seconds"], "seconds", 7, True, [{"seconds": 1}]])
async def test_a_body_is_an_object(body: object) -> None:
    """Other JSON is refused before anything is done."""
    for path in ("/advance", "/rules", "/calls", "/calls/CALL/hang-up"):
        await refused("POST", path, body, says="the body must be a JSON object")
    await refused("DELETE", "/rules/rule", body, says="the body must be a JSON object")


def part(*lines: str) -> bytes:
    """A multipart form with these lines as its one part."""
    return "\r\n".join(("--x", *lines, "--x--", "")).encode()


NAMED = 'Content-Disposition: form-data; name="seconds"'


@pytest.mark.parametrize(
    ("data", "content_type", "says"),
    [
        (b"{", JSON, "the body is no JSON"),
        (b"\xff", JSON, "the body is no JSON"),
        (b"[" * 100_000, JSON, "the body is no JSON"),
        (b'{"seconds": NaN}', JSON, "the body is no JSON"),
        (b'{"seconds": "\\ud800"}', JSON, "the body is no JSON"),
        (b"seconds=%ff", FORM, "seconds: "),
        (b"seconds=%", FORM, "seconds: "),
        (b"seconds=%zz&%=%00", FORM, "seconds: "),
        (b"seconds=\xff", FORM, "the body is no form"),
        (b"seconds=1", f"{FORM}; charset=none", "the body is no form"),
        (b"seconds=1", "multipart/form-data", "the body is no form"),
        (b"seconds=1", MULTIPART, "the body is no form"),
        (part('Content-Disposition: form-data; name="x"', "", "1"), MULTIPART, "seconds: "),
        (part(f'{NAMED}; filename="a"', "", "1"), MULTIPART, "seconds: "),
        (part("Content-Disposition: form-data", "", "1"), MULTIPART, "the body is no form"),
        (part("Content-Type: multipart/mixed; boundary=y", "", "1"), MULTIPART, "the body is no"),
        (part(NAMED, "Content-Transfer-Encoding: no", "", "1"), MULTIPART, "the body is no form"),
        (part(NAMED, "Content-Type: text/plain; charset=no", "", "1"), MULTIPART, "the body is no"),
        (b"seconds=1", "text/plain", "Content-Type: "),
        (b'{"seconds": 1}', "", "Content-Type: "),
    ],
)
async def test_a_body_can_be_read(data: bytes, content_type: str, says: str) -> None:
    """Broken JSON, UTF-8, percents, parts and charsets are the sender's mistake."""
    async with meeting(console=True) as peer:
        now = peer.platform.clock.now()
        status, shown = await send(peer, "POST", "/advance", data, content_type)
        assert peer.platform.clock.now() == now
    assert (status, list(shown)) == (400, ["error"])
    assert shown["error"].startswith(says)


@pytest.mark.parametrize("content_type", [JSON, FORM, MULTIPART])
async def test_a_body_has_a_limit(content_type: str) -> None:
    """A megabyte is refused as too large, and the next request is answered."""
    data = b"--x\r\n" + NAMED.encode() + b"\r\n\r\n" + b"x" * 1_100_000
    head = (
        "POST /sandbox/advance HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    async with meeting(console=True) as peer:
        answer = await bytes_answered(peer, head.encode() + data)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'{"error":"Maximum request body size' in answer
        assert (await ask(peer, "GET", ""))[0] == 200


async def test_a_rule_with_a_slip_of_the_pen() -> None:
    """A member that no rule has is named: left out, the rule would be about every call."""
    says = "probabilty: a rule has only callee, "
    await refused("POST", "/rules", {"callee": "*1", "probabilty": 0.1}, says=says)
