"""`qmc listen`: what it shows of what comes, and what it passes on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import click
import pytest
from callback_peer import body_of, hurry, until, url_in
from cli_support import SECRET_PATH, a_service, listening, qmc
from events_store import COLOURS
from rich.text import Text

from qmc_async import AsyncQmcClient, CallbackServer, Disconnected, Retry, Signer
from qmc_async.cli.running import CALLBACK_PORT
from qmc_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

NUMBER = "13912345678"
MODULE = sys.modules["qmc_async.cli.listen"]


@pytest.fixture(autouse=True)
def _set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMC_APP_ID", str(Sandbox.CREDENTIALS.app_id))
    monkeypatch.setenv("QMC_APP_SECRET", Sandbox.CREDENTIALS.app_secret)
    monkeypatch.setattr(MODULE, "_RETRY", Retry(first_delay=0.01, longest_delay=0.01))
    hurry(monkeypatch)


async def post(url: str, body: bytes) -> int:
    """Send a notification; the HTTP status."""
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as response:
        return response.status


async def test_a_line_for_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    """As it comes: ends, conflicts, other statuses, and what cannot be read; numbers are masked."""
    bodies = [
        body_of("1001", callDuration="75", recordingResult="success", outCallId="order-1"),
        body_of("1001", reason="Other"),
        body_of("1002", status=f"Ringing {NUMBER}"),
        b"?",
        body_of("x\x1b[2J" + "y" * 80),
        body_of("1003", reason="CallerBusy", startTime="soon"),
    ]
    async with listening(capsys) as listener:
        for count, body in enumerate(bodies, 1):
            assert await post(listener.url, body) == 200
            await listener.until("\n", times=count + 1)  # and the greeting
        lines = listener.lines
    assert lines[:3] == [
        "1001  HangUp  talk 1:15  recording success  out call id order-1",
        "1001  conflict: Other  differs in callDuration, outCallId, reason, recordingResult",
        "1002  unknown: Ringing 139****5678",
    ]
    assert lines[3].startswith("-  unknown: unreadable  problem: ")
    assert re.match(r"-  unknown: unreadable", lines[4])  # no id has control characters
    assert re.match(r"1003  CallerBusy  problem: .*startTime", lines[5])
    assert "\x1b" not in listener.out
    assert listener.err.endswith("\n6 came\n")


async def test_an_object_for_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    """With `--json` each line is one, with the fields that `qmc events list` has."""
    async with listening(capsys, as_json=True) as listener:
        await post(listener.url, body_of("1001", caller=NUMBER, callDuration="12"))
        await listener.until("}\n")
    [told] = [json.loads(line) for line in listener.out.splitlines()]
    assert (told["kind"], told["call_id"], told["call_duration"]) == ("disconnected", "1001", 12)
    assert told["end_time"] == "2023-08-29T08:52:10+08:00"
    assert "deliveries" not in told
    assert NUMBER not in listener.out


@pytest.mark.parametrize("to_terminal", [False, True])
async def test_forwarded_byte_for_byte(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, to_terminal: bool
) -> None:
    """The service gets what came, and how it answered is shown; of its address not the path."""
    if to_terminal:
        for name, value in COLOURS.items():
            monkeypatch.setenv(name, value)
    bodies = [b" " + body_of("1001") + b"\n", body_of("1001", reason="Other"), b"\xff?"]
    async with a_service() as service, listening(capsys, forward_to=service.url) as listener:
        for count, body in enumerate(bodies, 1):
            await post(listener.url, body)
            await listener.until("HTTP 200", times=count)
        lines = listener.lines
    assert service.bodies == bodies
    assert {one["content-type"] for one in service.headers} == {"application/json;charset=utf-8"}
    assert ("\x1b[32mforwarded:\x1b[0m" in listener.out) == to_terminal
    plain = [Text.from_ansi(line).plain for line in lines]
    told = [line for line in plain if "forwarded" in line]
    assert len(told) == 3
    for line in told:
        assert re.search(r"  forwarded:  HTTP 200, in \d+ ms$", line)
    assert f"\nforwarding to {service.place}\n" in listener.err
    assert SECRET_PATH not in listener.out + listener.err
    assert "3 came, 3 forwarded, 0 not\n" in listener.err
    assert "hint" not in listener.err


async def test_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    """What the service does not take with 2xx is sent again; the event is shown once."""
    async with a_service() as service, listening(capsys, forward_to=service.url) as listener:
        service.answers = [(500, b""), (302, b""), (204, b"")]
        await post(listener.url, body_of("1001"))
        await listener.until("HTTP 204")
        lines = [re.sub(r", in \d+ ms", "", line) for line in listener.lines]
    assert lines == [
        "1001  HangUp",
        "1001  not forwarded:  HTTP 500; tried again",
        "1001  not forwarded:  HTTP 302; tried again",
        "1001  forwarded:  HTTP 204",
    ]
    assert "Traceback" not in listener.err
    assert listener.err.endswith("1 came, 1 forwarded, 0 not\n")


async def test_given_up(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unused_tcp_port: int,
) -> None:
    """After the last attempt it says so, and at the end what is lost."""
    monkeypatch.setattr(MODULE, "_RETRY", Retry(attempts=2, first_delay=0.01))
    url = f"http://127.0.0.1:{unused_tcp_port}{SECRET_PATH}"
    async with listening(capsys, forward_to=url, as_json=True) as listener:
        await post(listener.url, body_of("1001"))
        await listener.until('"tried_again":false')
    _, *told = [json.loads(line) for line in listener.out.splitlines()]
    assert [(one["attempt"], one["forwarded"], one["tried_again"]) for one in told] == [
        (1, False, True),
        (2, False, False),
    ]
    assert {one["error"] for one in told} == {"ClientConnectorError"}
    assert {one["to"] for one in told} == {f"http://127.0.0.1:{unused_tcp_port}"}
    assert listener.err.endswith(
        "1 came, 0 forwarded, 1 not\nhint: what was not forwarded is gone: see --store\n"
    )
    assert SECRET_PATH not in listener.out + listener.err


async def test_given_up_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last attempt is told from the others."""
    monkeypatch.setattr(MODULE, "_RETRY", Retry(attempts=1))
    async with a_service() as service, listening(capsys, forward_to=service.url) as listener:
        service.answers = [(404, b"")]
        await post(listener.url, body_of("1001"))
        await listener.until("; given up")


async def test_with_a_store_the_next_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was not forwarded is kept; one without `--forward` in between leaves it alone."""
    store = url_in(tmp_path)
    async with a_service() as service:
        service.answers = [(503, b"")]
        options: dict[str, Any] = {"forward_to": service.url, "store_url": store}
        async with listening(capsys, **options) as listener:
            await post(listener.url, body_of("1001"))
            await listener.until("not forwarded")
        assert "hint: the next qmc listen with this --store and --forward" in listener.err
        async with listening(capsys, store_url=store) as listener:
            await post(listener.url, body_of("1002"))
            await listener.until("1002")
        assert "1001" not in listener.out
        service.answers = [(200, b"")]
        async with listening(capsys, **options) as listener:
            await listener.until("  forwarded:")
        assert listener.err.endswith("0 came, 1 forwarded, 0 not\n")
    assert set(service.bodies) == {body_of("1001")}


async def test_forwarded_to_a_server_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """It just works, with its whole address."""
    server = CallbackServer(signer=Signer(Sandbox.CREDENTIALS), store="sqlite://", port=0)
    ended: list[Disconnected] = []

    @server.on_disconnected
    async def note(event: Disconnected) -> None:
        ended.append(event)

    async with server, listening(capsys, forward_to=server.url) as listener:
        await post(listener.url, body_of("1001"))
        await listener.until("  forwarded:")
        await server.wait_for("1001", timeout=20)
    assert [event.call_id for event in ended] == ["1001"]
    assert Signer(Sandbox.CREDENTIALS).callback_token not in listener.out


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_not_to_itself(host: str) -> None:
    """It would go round for ever."""
    url = CallbackServer(signer=Signer(Sandbox.CREDENTIALS), port=CALLBACK_PORT).url
    refused = await qmc("listen", "--forward", url.replace("127.0.0.1", host))
    assert refused.exit_code == 2
    assert "leads back" in refused.stderr


@pytest.mark.parametrize(
    "url", ["crm.example.com/x", "http://a/x#y", "http://u:p@a/", "http://a?\x01"]
)
async def test_no_address(url: str) -> None:
    """What is no address is refused, and is not quoted."""
    refused = await qmc("listen", "--forward", url)
    assert refused.exit_code == 2
    assert "'--forward'" in refused.stderr
    assert url not in refused.stderr


async def test_who_is_refused_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong path is a line on the standard error, with what to do; other warnings are not."""
    async with listening(capsys) as listener:
        await post(f"{listener.url}x", body_of("1001"))
        await post(listener.url, b"?")
        await listener.until("requests refused so far: 1 (path 1)")
        await listener.until("unreadable")
    assert listener.err.count("qmc: ") == 1


async def test_what_a_handler_could_not_do_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake of ours is a line, not nothing."""

    async def fail(*_: object, **__: object) -> None:
        raise KeyError(NUMBER)

    monkeypatch.setattr(MODULE, "_RETRY", Retry(attempts=1))
    monkeypatch.setattr(MODULE, "post", fail)
    async with listening(capsys, forward_to="http://127.0.0.1:1") as listener:
        await post(listener.url, body_of("1001"))
        await listener.until("qmc: the handler forward-disconnected gave up event 1001")
    assert NUMBER not in listener.err


async def test_the_address_may_not_be_known(capsys: pytest.CaptureFixture[str]) -> None:
    """On every address it is not shown, unless it is told."""
    options = {"host": "0.0.0.0"}  # noqa: S104 - as briefly as possible
    async with listening(capsys, **options) as listener:
        assert "listening on every address: --public-url" in listener.err
    async with listening(capsys, **options, public_url="https://crm.example.com") as listener:
        assert listener.url.startswith("https://crm.example.com/qmc/callback/")


async def test_what_the_sandbox_sends(
    platform: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes notifications with the settings of the user."""
    async with listening(capsys) as listener, AsyncQmcClient() as client:
        platform.callback_url = listener.url
        placed = await client.call("13987654321", "13912340001")
        await listener.until(f"{placed.call_id}  CallerBusy")


async def test_a_signal_stops_it(capfd: pytest.CaptureFixture[str]) -> None:
    """SIGTERM ends it well, with what it came to; here its output is a file."""
    async with listening(capfd) as listener:
        os.kill(os.getpid(), signal.SIGTERM)
        await listener.task
        await listener.until("0 came\n")


async def test_without_an_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the standard output is closed from the beginning, it forwards all the same."""
    monkeypatch.setattr(sys, "stdout", None)
    async with a_service() as service, listening(capsys, forward_to=service.url) as listener:
        await post(listener.url, body_of("1001"))
        await until(lambda: service.bodies)
    assert listener.err.endswith("1 came, 1 forwarded, 0 not\n")


async def test_nobody_can_read_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be printed ends it, with the error."""
    echo = click.echo

    def full(message: object = None, *, err: bool = False) -> None:
        if not err:
            raise OSError(errno.ENOSPC, "No space left on device")
        echo(message, err=err)

    monkeypatch.setattr(click, "echo", full)
    async with listening(capsys) as listener:
        await post(listener.url, body_of("1001"))
        with pytest.raises(OSError, match="No space"):
            await listener.task


async def test_a_taken_port(platform: Sandbox) -> None:
    """It is one line and a hint, and nothing is summed up."""
    port = platform.base_url.rsplit(":", 1)[1]
    result = await qmc("listen", "--port", port)
    assert result.exit_code == 1
    [line, hint] = result.stderr.splitlines()
    assert line.startswith("qmc: ")
    assert "in use" in line
    assert "--port" in hint


async def test_without_settings() -> None:
    """Nothing can be listened to without a secret; the hint says how to do without an account."""
    result = await qmc("listen", QMC_APP_ID=None, QMC_APP_SECRET=None)
    assert result.exit_code == 2
    assert "QMC_APP_ID is not set" in result.stderr
    assert "hint: to try it without an account, run qmc sandbox" in result.stderr


async def test_a_bad_setting() -> None:
    """One that is set has no such hint."""
    result = await qmc("listen", QMC_APP_ID="x")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


# --- as a process ------------------------------------------------------------------------------


async def _start(*words: str, stdout: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmc_async", "listen", "--port", "0", *words),
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )


async def _greeting(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(30):
        return (await process.stderr.readline()).decode().split()[-1]


async def test_a_pipe_is_told_at_once_and_ctrl_c_ends_it() -> None:
    """A reader sees each line as it comes; the status is that of a shell, the end one line."""
    process = await _start("--json", stdout=asyncio.subprocess.PIPE)
    url = await _greeting(process)
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(30):
        await post(url, body_of("1001"))
        assert json.loads(await process.stdout.readline())["call_id"] == "1001"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert await process.stderr.read() == b"1 came\n"


@pytest.fixture
async def pipe() -> AsyncGenerator[tuple[int, int]]:
    """Both ends, which the test closes."""
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(end)


async def test_a_reader_may_have_enough(pipe: tuple[int, int]) -> None:
    """Once the other end of the pipe is closed, it ends at once, without a complaint."""
    reading, writing = pipe
    process = await _start(stdout=writing)
    os.close(writing)
    url = await _greeting(process)
    assert process.stderr is not None
    await post(url, body_of("1001"))
    async with asyncio.timeout(30):
        assert b"HangUp" in await asyncio.to_thread(os.read, reading, 1000)
        os.close(reading)
        assert await process.wait() == 1
        assert await process.stderr.read() == b"1 came\n"
