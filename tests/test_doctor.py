"""What `diagnose` finds of settings, clocks and platforms, good and bad."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson
import pytest
from callback_peer import body_of, post_to, select_in, until, url_in
from faulty_platform import (
    Connection,
    FaultyPlatform,
    always,
    close_after_reading,
    date,
    half_a_reply,
    http,
    unreachable,
)

from qmc_async import Signer
from qmc_async.doctor import Status
from qmc_async.sandbox import Assumed, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from faulty_platform import Behaviour

from doctor_support import (
    GUESS,
    NAMES,
    UNKNOWN_CALL,
    Setting,
    look,
    platform_that,
    reset,
    server_in,
    set_to,
    statuses,
)

# --- good set-ups -----------------------------------------------------------------------------


async def test_all_is_well(tmp_path: Path, monkeypatch: Setting) -> None:
    """Nothing is found, no call is placed or ended, and the server has seen nothing of it."""
    async with Sandbox() as platform, server_in(tmp_path, Signer(platform.credentials)) as server:
        set_to(monkeypatch, platform.base_url, platform.credentials)
        assert (await post_to(server, body_of())).status == 200
        query = "SELECT state FROM qmc_deliveries"
        await until(lambda: select_in(tmp_path, query) == [("done",), ("done",)])
        findings = await look(url_in(tmp_path), callback_url=server.url)
        assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(1,)]
        assert not platform.calls
        assert [one.endpoint for one in platform.received] == ["record"]
    assert statuses(findings, Status.OK) == set(NAMES)
    assert "says of a call that does not exist: HTTP 200, code 404" in findings["signature"].found
    assert str(tmp_path / "qmc.db") in findings["store"].found


async def test_by_its_public_address(tmp_path: Path, monkeypatch: Setting) -> None:
    """Path and token are added to scheme and host, as the server adds them."""
    async with Sandbox() as platform, server_in(tmp_path, Signer(platform.credentials)) as server:
        set_to(monkeypatch, platform.base_url, platform.credentials)
        public_url = server.url.removesuffix(
            f"/qmc/callback/{Signer(platform.credentials).callback_token}"
        )
        findings = await look(url_in(tmp_path), public_url=public_url)
    assert findings["callback"].status is Status.OK
    assert findings["callback"].found == f"{public_url}: a server that has this secret answers"


# --- settings ---------------------------------------------------------------------------------


async def test_settings_that_cannot_be(tmp_path: Path, monkeypatch: Setting) -> None:
    """The variable is named; what needs it is skipped, and the store is looked at all the same."""
    monkeypatch.setenv("QMC_APP_ID", "twelve")
    async with server_in(tmp_path):
        findings = await look(url_in(tmp_path))
    assert statuses(findings, Status.FAILED) == {"settings"}
    assert "QMC_APP_ID: app_id must be a whole number" in findings["settings"].found
    assert statuses(findings, Status.SKIPPED) == {*NAMES[1:7], "recordings"}
    assert findings["store"].status is Status.OK


async def test_a_wrong_secret(tmp_path: Path, monkeypatch: Setting) -> None:
    """The platform refuses it, which is told with the reasons; and it makes another address."""
    async with Sandbox() as platform, server_in(tmp_path, Signer(platform.credentials)) as server:
        set_to(monkeypatch, platform.base_url, platform.credentials, "wrong")
        findings = await look(url_in(tmp_path), callback_url=server.url)
        assert len(platform.received) == 1
    assert statuses(findings, Status.FAILED) == {"signature", "callback"}
    signature, callback = findings["signature"], findings["callback"]
    assert signature.found.startswith("it is refused: HTTP 200, code 401: 鉴权失败")
    assert signature.advice == (
        "likely, in this order: QMC_APP_ID and QMC_APP_SECRET are not what the platform's console "
        "shows; this machine's public address is not on the platform's white list"
    )
    assert "the address does not end with this secret's token" in callback.found
    assert "a new secret makes a new address" in callback.advice


# --- the clock --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "status", "found"),
    [
        (9, Status.FAILED, "this machine's clock is 9 min behind the platform's"),
        (-9, Status.FAILED, "this machine's clock is 9 min ahead of the platform's"),
        (3, Status.WARNING, "this machine's clock is 3 min behind the platform's"),
    ],
)
async def test_a_wrong_clock(
    minutes: float, status: Status, found: str, monkeypatch: Setting
) -> None:
    """How far and in which direction; the signature is accepted, with the platform's time."""
    async with Sandbox(assumed=Assumed(clock_skew=timedelta(minutes=minutes))) as platform:
        set_to(monkeypatch, platform.base_url, platform.credentials)
        findings = await look()
    assert (findings["clock"].status, findings["clock"].found) == (status, found)
    assert "NTP" in findings["clock"].advice
    assert findings["signature"].status is Status.OK


async def test_a_wrong_clock_that_nobody_tells(monkeypatch: Setting) -> None:
    """Without a Date there is nothing to compare with; the clock is one of the reasons then."""
    assumed = Assumed(clock_skew=timedelta(minutes=9), date_header=False)
    async with Sandbox(assumed=assumed) as platform:
        set_to(monkeypatch, platform.base_url, platform.credentials)
        findings = await look()
    assert findings["clock"].status is Status.SKIPPED
    assert findings["signature"].status is Status.FAILED
    secret, clock, address = findings["signature"].advice.split("; ")
    assert "QMC_APP_SECRET" in secret
    assert clock == "this machine's clock is wrong, which could not be checked"
    assert "white list" in address


async def test_a_wrong_clock_beside_a_wrong_secret(monkeypatch: Setting) -> None:
    """A clock that was found wrong is among the reasons."""
    async with Sandbox(assumed=Assumed(clock_skew=timedelta(minutes=9))) as platform:
        set_to(monkeypatch, platform.base_url, platform.credentials, "wrong")
        findings = await look()
        assert len(platform.received) == 2
    assert findings["signature"].status is Status.FAILED
    assert "; this machine's clock is off; " in findings["signature"].advice


# --- what the platform answers ----------------------------------------------------------------


def said(code: object, msg: str, status: str = "200 OK") -> bytes:
    """An envelope."""
    return http(orjson.dumps({"code": code, "msg": msg, "data": None}), status)


@pytest.mark.parametrize(
    "reply",
    [
        http(b"<h1>Forbidden</h1>", "403 Forbidden"),
        said(403, "no", "403 Forbidden"),
        said(10012, "IP不在白名单"),
        said(500, "client ip 203.0.113.7 denied"),
        said(1, "来源地址 203.0.113.7 未授权"),
        said(401, "not in the whitelist"),
    ],
)
async def test_an_address_that_is_not_on_the_white_list(reply: bytes, monkeypatch: Setting) -> None:
    """What says so is told as a guess: the document has no code for it."""
    async with platform_that(monkeypatch, always(reply)):
        findings = await look()
    signature = findings["signature"]
    assert signature.status is Status.FAILED
    assert signature.found.startswith("this machine is turned away: HTTP ")
    assert signature.advice.startswith(GUESS)
    is_forbidden = b"403 Forbidden" in reply
    reached = Status.WARNING if is_forbidden else Status.OK
    assert findings["base_url"].status is findings["record_base_url"].status is reached
    assert findings["base_url"].advice.startswith(GUESS) is is_forbidden


async def test_a_page_that_is_no_envelope(monkeypatch: Setting) -> None:
    """Whatever stands before the platform may have made it."""
    async with platform_that(monkeypatch, always(http(b"<h1>Welcome</h1>", headers=date(-540)))):
        findings = await look()
    assert statuses(findings, Status.FAILED) == {"clock", "signature"}
    assert findings["signature"].found == "a page that is no answer of the platform's (HTTP 200)"
    assert "QMC_RECORD_PATH" in findings["signature"].advice
    assert GUESS in findings["signature"].advice


@pytest.mark.parametrize("behaviour", [reset, close_after_reading, half_a_reply])
async def test_a_connection_that_is_cut(behaviour: Behaviour, monkeypatch: Setting) -> None:
    """That is how firewalls treat strangers: a guess."""
    async with platform_that(monkeypatch, behaviour):
        findings = await look()
    for name in ("base_url", "record_base_url"):
        assert findings[name].status is Status.FAILED
        assert "closed without an answer" in findings[name].found
        assert findings[name].advice.startswith(GUESS)
    assert findings["clock"].status is findings["signature"].status is Status.SKIPPED


async def signed_only_is_cut(connection: Connection) -> None:
    """Answer who does not sign."""
    if b"authorization" not in (await connection.read_request()).lower():
        connection.writer.write(http(b"", "404 Not Found"))


async def test_only_signed_requests_are_cut(monkeypatch: Setting) -> None:
    """The host is there, but does not answer what matters."""
    async with platform_that(monkeypatch, signed_only_is_cut):
        findings = await look()
    assert findings["record_base_url"].status is Status.OK
    assert findings["signature"].status is Status.FAILED
    assert findings["signature"].found.startswith("a signed request is not answered: ")
    assert GUESS in findings["signature"].advice


async def test_a_signed_request_that_hangs(monkeypatch: Setting) -> None:
    """It ends with the timeout."""

    async def hang(connection: Connection) -> None:
        await signed_only_is_cut(connection)
        if b"authorization" in connection.platform.requests[-1].lower():
            await asyncio.sleep(3600)

    async with platform_that(monkeypatch, hang):
        findings = await look(timeout=0.5)
    assert findings["signature"].status is not Status.OK


@pytest.mark.parametrize(
    ("reply", "status", "found"),
    [
        (said(200, "ok"), Status.OK, "the platform accepts it"),
        (
            http(orjson.dumps({"code": 200, "data": {"fileUrl": "http://x.invalid/"}})),
            Status.OK,
            "the",
        ),
        (said(40401, "没有录音"), Status.OK, "HTTP 200, code 40401: 没有录音"),
        (said(40401, "call not found"), Status.OK, "HTTP 200, code 40401: call not found"),
        (said(4, "x" * 1000), Status.WARNING, f"code 4: {'x' * 100}"),
        (said(4, ""), Status.WARNING, "nobody can tell whether it is accepted: HTTP 200, code 4"),
        (said(500, "系统异常"), Status.WARNING, "nobody can tell"),
        (said(404, "录音不存在", "404 Not Found"), Status.WARNING, "nobody can tell"),
        (
            http(orjson.dumps({"code": 200, "success": False, "msg": "处理失败"})),
            Status.WARNING,
            "nobody can tell",
        ),
        (
            http(orjson.dumps({"code": 200, "success": False, "msg": "验签失败"})),
            Status.FAILED,
            "it seems to be refused: HTTP 200, code 200",
        ),
        (said(7, "签名错误"), Status.FAILED, "it seems to be refused: HTTP 200, code 7: 签名错误"),
        (said(7, "Invalid timestamp"), Status.FAILED, "it seems to be refused"),
        (said(401, "no"), Status.FAILED, "it is refused: HTTP 200, code 401: no"),
        (http(b"", "401 Unauthorized"), Status.FAILED, "it is refused: HTTP 401"),
        (said(429, "slow down"), Status.WARNING, "not checked: HTTP 200, code 429: slow down"),
        (http(b"", "429 Too Many Requests"), Status.WARNING, "not checked: HTTP 429"),
        (http(b"", "404 Not Found"), Status.FAILED, "a page that is no answer of the platform's"),
        (http(b"", "302 Found", "Location: /\r\n"), Status.FAILED, "a page that is no answer"),
        (said(500, "oops", "500 Oops"), Status.FAILED, "the platform fails: HTTP 500, code 500"),
    ],
)
async def test_every_other_answer(
    reply: bytes, status: Status, found: str, monkeypatch: Setting
) -> None:
    """Only what is about the credentials is held against them."""
    async with platform_that(monkeypatch, always(reply)):
        signature = (await look())["signature"]
    assert (signature.status, found in signature.found) == (status, True), signature
    assert len(signature.found) < 200


@pytest.mark.parametrize(
    "words",
    [
        *("验签失败", "校验失败", "权限不足", "无权限查看录音", "应用不存在", "账号已停用"),
        *("请先登录", "Invalid token", "Unknown application", "access denied", "No permission"),
    ],
)
async def test_a_refusal_in_words_alone(words: str, monkeypatch: Setting) -> None:
    """The document has no codes: a platform may call a refusal 500 under HTTP 200."""
    async with platform_that(monkeypatch, always(said(500, words))):
        signature = (await look())["signature"]
    assert signature.status is Status.FAILED
    assert signature.found == f"it seems to be refused: HTTP 200, code 500: {words}"


@pytest.mark.parametrize(
    ("status", "found"),
    [
        ("200 OK", Status.OK),
        ("302 Found", Status.WARNING),
        ("401 Unauthorized", Status.OK),
        ("404 Not Found", Status.OK),
        ("405 Method Not Allowed", Status.OK),
        ("407 Proxy Authentication Required", Status.FAILED),
        ("500 Oops", Status.FAILED),
        ("502 Bad Gateway", Status.FAILED),
        ("504 Gateway Timeout", Status.FAILED),
    ],
)
async def test_a_base_url_that_answers(status: str, found: Status, monkeypatch: Setting) -> None:
    """There need be no page at a base URL, but something must be there that could have one."""
    async with platform_that(monkeypatch, always(http(b"", status))):
        findings = await look()
    assert findings["base_url"].status is findings["record_base_url"].status is found
    assert status[:3] in findings["base_url"].found or found is Status.OK


async def test_two_hosts(monkeypatch: Setting) -> None:
    """Each base URL is looked at by itself, and of two clocks the worse one is told."""
    at_noon, late = always(http(UNKNOWN_CALL, headers=date())), http(UNKNOWN_CALL, headers=date(90))
    async with platform_that(monkeypatch, at_noon), FaultyPlatform(always(late)) as other:
        monkeypatch.setenv("QMC_RECORD_BASE_URL", other.url)
        both = await look()
        async with unreachable() as nowhere:
            monkeypatch.setenv("QMC_BASE_URL", nowhere)
            one = await look()
    assert both["clock"].status is Status.WARNING
    assert "s behind the platform's" in both["clock"].found
    assert statuses(one, Status.FAILED) == {"base_url"}
    assert "correct QMC_BASE_URL" in one["base_url"].advice
