"""Who may see and use the sandbox's console, and who finds none."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from console_support import bytes_answered, head_answered, routes_of
from test_sandbox_support import CALL, meeting

from qmc_async.errors import ConfigError
from qmc_async.sandbox import Sandbox, VirtualClock
from qmc_async.sandbox.console import gate

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = [
    "localhost",
    "LOCALHOST:9090",
    "LocalHost:80",
    "127.0.0.1",
    "127.0.0.1:9090",
    "[::1]",
    "[::1]:9090",
    "192.168.1.7:9090",
]
STRANGERS = [
    "",
    ":9090",
    "evil.example",
    "evil.example:9090",
    "localhost.evil.example",
    "evil.localhost",
    "127.0.0.1.nip.io",
    "127.0.0.1.nip.io:9090",
    "localhost.",
    "127.0.0.1.",
    "127.1",
    "0x7f.0.0.1",
    "2130706433",
    "[::1].evil.example",
    "[::1",
    "::1",
    "localhost:9090@evil.example",
    "localhost@evil.example",
    "me@localhost",
    "me:secret@127.0.0.1:9090",
    "evil.example/@127.0.0.1",
    "localhost:evil.example",
    "localhost:123456",
    "localhost, evil.example",
    "127.0.0.1?evil.example",
    "127.0.0.1#evil.example",
    "ｌocalhost",
    "١٢٧.0.0.1",
]
SECURITY = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Is filled, as a sandbox starts, with all that its application answers."""
    found: list[tuple[str, str]] = []
    setup = web.AppRunner.setup

    async def look(runner: web.AppRunner) -> None:
        found.extend(routes_of(runner.app))
        await setup(runner)

    monkeypatch.setattr(web.AppRunner, "setup", look)
    return found


@pytest.mark.parametrize("host", OURS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_names_of_this_machine_are_let_in(host: str, method: str) -> None:
    """Localhost, and addresses in numbers, with a port or without."""
    assert gate.refusal(method, {"Host": host}) is None
    assert gate.refusal(method, {"Host": host, "Origin": f"http://{host}"}) is None


@pytest.mark.parametrize("host", STRANGERS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_other_names_are_not(host: str, method: str) -> None:
    """A name can be rebound to this machine; what only looks like an address is a name too."""
    refused = gate.refusal(method, {"Host": host, "Origin": f"http://{host}"})
    assert refused is not None
    assert refused.startswith("Host: ")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://evil.example:9090"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:9090"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:9091"},
        {"Origin": "http://127.0.0.1:9090.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "anything"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:9090"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
    ],
)
def test_pages_of_strangers_change_nothing(method: str, headers: dict[str, str]) -> None:
    """They may send what a browser lets them; it is refused. To look alone harms nobody."""
    asked = {"Host": "127.0.0.1:9090", **headers}
    refused = gate.refusal(method, asked)
    assert refused is not None
    assert refused.startswith("Origin: ")
    assert gate.refusal("GET", asked) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:9090"},
    ],
)
def test_programs_and_the_console_may(headers: dict[str, str]) -> None:
    """A program sends neither header; the console's own page sends its own address."""
    assert gate.refusal("DELETE", {"Host": "127.0.0.1:9090", **headers}) is None


async def test_every_route_is_guarded(routes: list[tuple[str, str]]) -> None:
    """Whatever the console answers refuses a foreign Host, and changes nothing for strangers."""
    async with meeting(console=True) as peer:
        peer.platform.place("13987654321", "13900000010")
        before = peer.platform.changes
        assert len(routes) > 25
        for method, path in routes:
            reply = await peer.request(method, path, {"Host": "evil.example"})
            assert reply.status == 403, (method, path)
            _has_security_headers(reply.headers)
            if method not in ("GET", "HEAD"):
                for headers in (
                    {"Origin": "http://evil.example"},
                    {"Sec-Fetch-Site": "cross-site"},
                ):
                    reply = await peer.request(method, path, headers)
                    assert reply.status == 403, (method, path)
                    assert reply.json["error"].startswith("Origin: ")
        assert peer.platform.changes == before


async def test_every_answer_has_the_headers(routes: list[tuple[str, str]]) -> None:
    """Nothing is cached, framed, sniffed or loaded from elsewhere, whatever the status is."""
    statuses: set[int] = set()
    async with meeting(console=True) as peer:
        for method, path in routes:
            if path == "/stream":
                continue
            reply = await peer.request(method, path)
            statuses.add(reply.status)
            _has_security_headers(reply.headers)
        call = peer.platform.place("13987654321", "13912345678")
        await peer.platform.advance(minutes=1)
        for path in (f"/sandbox/calls/{call.call_id}/recording", "/static/console.js"):
            reply = await peer.request("GET", path)
            statuses.add(reply.status)
            _has_security_headers(reply.headers)
        stream = await head_answered(peer, "/stream")
    assert statuses == {200, 400, 404}
    for name, value in SECURITY.items():
        assert f"{name}: {value}\r\n".encode() in stream


def _has_security_headers(given: Mapping[str, str]) -> None:
    assert {name: given.get(name) for name in SECURITY} == SECURITY
    policy = given["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


async def test_a_request_has_one_host() -> None:
    """None, an empty one and two are refused, whichever comes first."""
    async with meeting(console=True) as peer:
        for version, hosts in (
            (b"1.0", []),
            (b"1.1", []),
            (b"1.1", [b""]),
            (b"1.1", [b"127.0.0.1", b"evil.example"]),
            (b"1.1", [b"evil.example", b"127.0.0.1"]),
        ):
            lines = b"".join(b"Host: %b\r\n" % host for host in hosts)
            answer = await bytes_answered(
                peer, b"GET / HTTP/%b\r\n%bConnection: close\r\n\r\n" % (version, lines)
            )
            assert answer.split(b" ", 2)[1] in (b"400", b"403")
            assert b"<html" not in answer


async def test_the_platform_is_open_to_all() -> None:
    """Its API and its recordings know no browser: any Host and any Origin is answered."""
    foreign = {"Host": "evil.example", "Origin": "http://evil.example"}
    async with meeting(console=True) as peer:
        call = await peer.call()
        await peer.platform.advance(minutes=1)
        url = (await peer.record(call)).json["data"]["fileUrl"]
        reply = await peer.request("POST", CALL, foreign)
        sound = await peer.request("GET", url, foreign)
    assert (reply.status, reply.code) == (200, 401)
    assert sound.status == 200


async def test_without_a_console_there_is_none(routes: list[tuple[str, str]]) -> None:
    """By default no route but the platform's own is there."""
    async with meeting() as peer:
        assert routes == []
        for path in ("/", "/rules", "/sandbox", "/sandbox/calls", "/stream", "/static/console.js"):
            assert (await peer.request("GET", path)).status == 404


def test_a_sandbox_alone_needs_no_jinja() -> None:
    """It can be imported and made where Jinja2 is not; the console says what it needs."""
    program = """
import sys
sys.modules["jinja2"] = None
from qmc_async.errors import ConfigError
from qmc_async.sandbox import Sandbox
Sandbox()
assert not [name for name in sys.modules if name.startswith("qmc_async.sandbox.console")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603 - this very Python


def test_a_missing_jinja_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the option and the extra; what else cannot be imported is no such matter."""
    for name in [name for name in sys.modules if name.startswith("qmc_async.sandbox.console")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError, match=r"console: it needs Jinja2: pip install .*\[cli\]"):
        Sandbox(console=True)
    monkeypatch.setitem(sys.modules, "qmc_async.sandbox.console", None)
    with pytest.raises(ModuleNotFoundError, match=r"qmc_async\.sandbox\.console"):
        Sandbox(console=True, clock=VirtualClock())
