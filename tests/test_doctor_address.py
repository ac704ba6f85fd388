"""Where the callback address leads, as `qmc doctor` finds it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson
import pytest
from callback_peer import NOT_FOUND, SIGNER, TOKEN, select_in
from faulty_platform import (
    FaultyPlatform,
    always,
    close_after_reading,
    date,
    http,
    unreachable,
)

from qmc_async import Credentials, Signer
from qmc_async.doctor import Finding, Status
from qmc_async.doctor.address import Address, examine_address
from qmc_async.doctor.asking import NoAnswer, Why
from qmc_async.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


from doctor_support import PATIENCE, UNKNOWN_CALL, Setting, look, platform_that, server_in, set_to


async def callback_at(url: str, monkeypatch: Setting) -> Finding:
    """What is found of an address, with SIGNER's secret."""
    async with FaultyPlatform(always(http(UNKNOWN_CALL))) as platform:
        set_to(monkeypatch, platform.url, SIGNER.credentials)
        finding = (await look(callback_url=url))["callback"]
    assert TOKEN not in finding.found + finding.advice
    return finding


OURS = f"/qmc/callback/{TOKEN}"


@pytest.mark.parametrize(
    ("reply", "status", "found"),
    [
        (http(b"ok"), Status.FAILED, "another server answers, and takes anything"),
        (http(b'{"code":"200","msg":"success","data":""}'), Status.FAILED, "another server"),
        (http(orjson.dumps({"data": "0" * 64})), Status.FAILED, "another server answers"),
        (http(b'{"data":1}'), Status.FAILED, "another server answers, and takes anything"),
        (http(b"[]"), Status.FAILED, "another server answers, and takes anything"),
        (http(b"null"), Status.FAILED, "another server answers, and takes anything"),
        (http(b"", "204 No Content"), Status.FAILED, "it leads elsewhere (HTTP 204)"),
        (http(b"", "301 Moved", "Location: /\r\n"), Status.FAILED, "it leads elsewhere (HTTP 301)"),
        (http(b"", "401 No"), Status.WARNING, "turns this machine away (HTTP 401)"),
        (http(b"", "403 No"), Status.WARNING, "turns this machine away (HTTP 403)"),
        (http(b"", "405 No"), Status.FAILED, "another server answers (HTTP 405)"),
        (http(b"", "500 No"), Status.FAILED, "another server answers (HTTP 500)"),
        (http(b"", "502 No"), Status.FAILED, "a proxy answers HTTP 502"),
        (http(NOT_FOUND, "404 No"), Status.FAILED, "no server of this secret at that path"),
    ],
)
async def test_another_server(
    reply: bytes, status: Status, found: str, monkeypatch: Setting
) -> None:
    """Whoever else answers is told apart from ours, also where it takes whatever comes."""
    async with FaultyPlatform(always(reply)) as other:
        finding = await callback_at(other.url + OURS, monkeypatch)
    assert finding.status is status
    assert found in finding.found, finding


async def test_a_server_with_a_wrong_clock(monkeypatch: Setting) -> None:
    """It may be ours, and cannot tell that the probe is: then the clock is what is wrong."""
    async with FaultyPlatform(always(http(NOT_FOUND, "404 No", date(-600)))) as other:
        finding = await callback_at(other.url + OURS, monkeypatch)
    assert finding.status is Status.FAILED
    assert "its clock is 10 min off" in finding.found


async def test_what_the_probe_is(monkeypatch: Setting) -> None:
    """It is posted once to the very path, and holds nothing of the secret."""
    async with FaultyPlatform(always(http(b"ok"))) as other:
        await callback_at(other.url + OURS, monkeypatch)
        [request] = other.seen
    assert request.line == f"POST {OURS} HTTP/1.1"
    assert request.body == b"{}"
    assert len(request.headers["qmc-probe"].split(":")) == 3
    assert "authorization" not in request.headers
    assert SIGNER.credentials.app_secret.encode() not in request.raw.lower()


async def test_a_server_with_another_secret(tmp_path: Path, monkeypatch: Setting) -> None:
    """At its own address, and at ours, it is not the one; it keeps nothing of that."""
    other = Signer(Credentials(SIGNER.credentials.app_id, "other"))
    async with server_in(tmp_path, other) as server:
        own = await callback_at(server.url, monkeypatch)
        ours = await callback_at(server.url.removesuffix(other.callback_token) + TOKEN, monkeypatch)
        assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(0,)]
    assert own.status is ours.status is Status.FAILED
    assert "does not end with this secret's token" in own.found
    assert ours.found.endswith("there is no server of this secret at that path (HTTP 404)")
    assert "does it run with another secret?" in ours.advice
    assert other.callback_token not in own.found + own.advice


@pytest.mark.parametrize("listens", [True, False])
async def test_nobody_answers(monkeypatch: Setting, *, listens: bool) -> None:
    """Nothing that listens, and something that says nothing."""
    async with FaultyPlatform(close_after_reading) as there, unreachable() as nowhere:
        finding = await callback_at((there.url if listens else nowhere) + OURS, monkeypatch)
    assert finding.status is Status.FAILED
    found = "the connection is closed without an answer" if listens else "nothing listens there"
    assert found in finding.found


@pytest.mark.parametrize("option", ["callback_url", "public_url"])
async def test_an_address_that_is_none(option: str, monkeypatch: Setting) -> None:
    """It is said what is wrong with it, and it is not repeated."""
    async with platform_that(monkeypatch, always(http(UNKNOWN_CALL))):
        findings = await look(**{option: "crm.example.com/s3cret"})
    assert findings["callback"].status is Status.FAILED
    assert "it must be a whole address" in findings["callback"].found
    assert "s3cret" not in repr(findings)
    assert findings["callback_address"].status is Status.SKIPPED


async def test_no_address(monkeypatch: Setting) -> None:
    """It is said how to give one."""
    async with platform_that(monkeypatch, always(http(UNKNOWN_CALL))):
        findings = await look()
    assert findings["callback"].status is Status.SKIPPED
    assert "--callback-url" in findings["callback"].advice


@pytest.mark.parametrize(
    ("url", "resolved", "status", "found"),
    [
        ("https://crm.example.com", ["93.184.215.14"], Status.OK, "public, and https"),
        ("https://crm.example.com", ["10.0.0.1", "93.184.215.14"], Status.OK, "public, and https"),
        ("http://crm.example.com", ["93.184.215.14"], Status.WARNING, "plain http"),
        ("https://crm.example.com", ["10.0.0.1", "fe80::1%eth0"], Status.WARNING, "private"),
        ("http://127.0.0.1:1", ["127.0.0.1"], Status.WARNING, "loopback or private"),
        ("https://crm.example.com", [], Status.SKIPPED, "the name of its host is not known"),
    ],
)
async def test_an_address_that_the_platform_cannot_reach(
    url: str, resolved: Iterable[str], status: Status, found: str, monkeypatch: Setting
) -> None:
    """Where the platform is outside, so must the address be, and nobody on the way may read it."""

    async def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        addresses: list[tuple[object, ...]] = [(0, 0, 0, "", (one, 0)) for one in resolved]
        if not addresses:
            raise OSError
        return addresses

    async def unasked(*_: object, **__: object) -> NoAnswer:
        return NoAnswer(Why.REFUSED, "not asked")

    set_to(monkeypatch, "http://api.example.com", SIGNER.credentials)
    monkeypatch.setattr("qmc_async.doctor.address.ask", unasked)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    _, finding = await examine_address(Settings.load(), Address(url + OURS, None), PATIENCE)
    assert finding.status is status
    assert found in finding.found
