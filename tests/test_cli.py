"""`qmc`: what each command prints, does, and exits with."""

from __future__ import annotations

import asyncio
import builtins
import errno
import json
import os
import re
import signal
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import click
import pytest
from click.testing import CliRunner, Result

from qmc_async import AsyncQmcClient, CallbackServer, Signer
from qmc_async.__main__ import main
from qmc_async.cli import cli, narrate
from qmc_async.models import BEIJING
from qmc_async.sandbox import SCENARIOS_BY_DIGITS, Sandbox, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

CALLER = "13987654321"


def qmc(*words: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, words)


@pytest.fixture
def listening_port(platform: Sandbox, unused_tcp_port: int) -> int:
    """A free port, to which the sandbox sends its notifications."""
    server = CallbackServer(signer=Signer(platform.credentials), port=unused_tcp_port)
    platform.callback_url = server.url
    return unused_tcp_port


def test_call_prints_both_ids(platform: Sandbox) -> None:
    """`qmc call` places one call, and says how to find it again."""
    result = qmc("call", CALLER, "139-1234-5678", "--out-call-id", "o-1")
    assert result.exit_code == 0
    [call] = platform.calls.values()
    assert result.stdout == f"call id      {call.call_id}\nout call id  o-1\n"
    assert call.callee == "13912345678"


def test_call_to_programs(listening_port: int) -> None:
    """With `--json` the call is an object, and its end is another."""
    port = ("--port", str(listening_port))
    result = qmc("call", CALLER, "13912345678", "--wait", "--json", *port, "--out-call-id", "o-1")
    placed, ended = map(json.loads, result.stdout.splitlines())
    assert list(placed) == ["call_id", "out_call_id", "placed_at"]
    assert placed["out_call_id"] == "o-1"
    assert datetime.fromisoformat(placed["placed_at"]).tzinfo is not None
    assert ended["call_id"] == placed["call_id"]
    assert (ended["reason"], ended["call_duration"]) == ("HangUp", 12)
    assert ended["recording_result"] == "success"
    assert datetime.fromisoformat(ended["end_time"]) > datetime.fromisoformat(ended["start_time"])
    busy = qmc("call", CALLER, "13912340001", "--wait", "--json", *port)
    ended = json.loads(busy.stdout.splitlines()[1])
    assert (ended["reason"], ended["start_time"], ended["call_duration"]) == (
        *("CallerBusy", None, None),
    )


def test_call_can_wait_for_the_end(listening_port: int) -> None:
    """`qmc call --wait` shows how the call ended, and where it listened."""
    result = qmc("call", CALLER, "13912345678", "--wait", "--port", str(listening_port))
    assert result.exit_code == 0, result.output
    assert f"listening at http://127.0.0.1:{listening_port}/" in result.stderr
    for line in (r"reason +HangUp", r"picked up +\d{4}-\d\d-\d\d ", r"talk +12 s"):
        assert re.search(line, result.stdout)
    assert re.search(r"recording +success", result.stdout)


def test_call_shows_only_what_happened(listening_port: int) -> None:
    """A call that nobody answered has no times of an answer, and no talk."""
    result = qmc("call", CALLER, "13912340001", "--wait", "--port", str(listening_port))
    assert re.search(r"reason +CallerBusy", result.stdout)
    assert "picked up" not in result.stdout
    assert "talk" not in result.stdout


@pytest.mark.usefixtures("platform")
def test_call_shows_the_public_address(unused_tcp_port: int) -> None:
    """`--public-url` is what the platform's console is told; a public host alone tells nothing."""
    words = ("call", CALLER, "13912345678", "--wait", "--timeout", "0.1")
    port = ("--port", str(unused_tcp_port))
    public = qmc(*words, *port, "--public-url", "https://crm.example.com")
    assert "listening at https://crm.example.com/qmc/callback/" in public.stderr
    everywhere = qmc(*words, *port, "--host", "0.0.0.0")  # noqa: S104 - for a tenth of a second
    assert "listening" not in everywhere.stderr
    assert everywhere.exit_code == 4


@pytest.mark.usefixtures("platform")
def test_no_notification_in_time_is_status_4(unused_tcp_port: int) -> None:
    """The wait ends with one line, and a status of its own."""
    result = qmc(
        "call", CALLER, "13912345678", "--wait", "--timeout", "0.1", "--port", str(unused_tcp_port)
    )
    assert result.exit_code == 4
    assert "no notification for call_id" in result.stderr


def test_an_unknown_outcome_is_status_3(platform: Sandbox) -> None:
    """A lost reply is neither success nor failure, and the call was placed once."""
    result = qmc("call", CALLER, "13912340031", "--out-call-id", "o-2")
    assert result.exit_code == 3
    assert "o-2" in result.stderr
    assert len(platform.calls) == 1


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("call", CALLER, "no number"), 2, "callee cannot be dialled"),
        (("call", CALLER, "13912345678", "--out-call-id", "x" * 65), 2, "out_call_id"),
        (("end", "unknown"), 1, "endCall: the platform answered"),
        (("recording", "unknown"), 1, "record: the platform answered"),
    ],
)
@pytest.mark.usefixtures("platform")
def test_an_error_is_one_line_and_a_status(words: tuple[str, ...], status: int, says: str) -> None:
    """No traceback, and a status that a script can tell apart."""
    result = qmc(*words)
    assert result.exit_code == status
    assert result.stderr.startswith("qmc: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_setting_is_named() -> None:
    """What is not set is said, with status 2."""
    result = qmc("end", "1")
    assert result.exit_code == 2
    assert "QMC_APP_ID is not set" in result.stderr


def test_a_taken_port_is_one_line(platform: Sandbox) -> None:
    """The operating system's refusals are no tracebacks either, and nobody was rung."""
    port = platform.base_url.rsplit(":", 1)[1]
    result = qmc("call", CALLER, "13912345678", "--wait", "--port", port)
    assert result.exit_code == 1
    assert "in use" in result.stderr
    assert not platform.calls


def test_end_ends_the_call(platform: Sandbox) -> None:
    """`qmc end` reaches the platform."""
    call_id = qmc("call", CALLER, "13912340010").stdout.split()[2]
    assert qmc("end", call_id).stdout == "ended\n"
    told = json.loads(qmc("end", call_id, "--json").stdout or "{}")
    assert told in ({}, {"call_id": call_id, "ended": True})
    assert platform.calls[call_id].end_time is not None


@pytest.mark.usefixtures("platform")
def test_recording_goes_into_a_file_or_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`qmc recording` prints the path of a whole file."""
    call_id = qmc("call", CALLER, "13912345678").stdout.split()[2]
    monkeypatch.chdir(tmp_path)
    named = qmc("recording", call_id, "-o", "x.wav", "--wait", "20")
    assert named.stdout == "x.wav\n"
    default = qmc("recording", call_id)
    assert default.stdout == f"{call_id}.wav\n"
    told = json.loads(qmc("recording", call_id, "-o", "y.wav", "--json").stdout)
    length = (tmp_path / "x.wav").stat().st_size
    assert (told["call_id"], told["path"], told["length"]) == (call_id, "y.wav", length)
    assert (len(told["sha256"]), told["format"]) == (64, "wav")
    assert (tmp_path / "x.wav").read_bytes() == (tmp_path / f"{call_id}.wav").read_bytes()


async def _read_until(stream: asyncio.StreamReader, what: str) -> str:
    text = ""
    async with asyncio.timeout(20):
        while what not in text:
            line = await stream.readline()
            assert line, text
            text += line.decode()
    return text


async def test_sandbox_is_the_platform_until_interrupted(unused_tcp_port: int) -> None:
    """`qmc sandbox` says how to reach it, narrates calls, numbers masked, and ends on Ctrl-C."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmc_async", "sandbox"),
        *("--port", str(unused_tcp_port), "--speed", "50"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        greeting = await _read_until(process.stdout, "anything else")
        for digits in SCENARIOS_BY_DIGITS:
            assert digits in greeting
        exported = dict(re.findall(r"export (\w+)=(\S+)", greeting))
        assert exported["QMC_BASE_URL"] == f"http://127.0.0.1:{unused_tcp_port}"
        own = Sandbox.CREDENTIALS
        assert Signer(own).callback_token in greeting
        call = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qmc_async", "call", CALLER, "13912340005"),
            env={**os.environ, **exported},
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await call.wait() == 0
        story = await _read_until(process.stdout, "ended: CalleeBusy")
        assert "139****0005" in story
        assert "13912340005" not in story
    finally:
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert await process.stderr.read() == b""


async def test_sandbox_reports_to_the_callback_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`--callback` is where the platform will post; the console is at the platform's address."""
    stories: list[Sandbox] = []

    async def look(platform: Sandbox) -> None:
        stories.append(platform)
        async with aiohttp.ClientSession() as session, session.get(platform.base_url) as response:
            assert "<title>qmc Sandbox</title>" in await response.text()

    monkeypatch.setattr("qmc_async.cli.simulation.narrate", look)
    url = "http://127.0.0.1:1/here"
    result = await asyncio.to_thread(qmc, "sandbox", "--port", "0", "--callback", url)
    assert result.exit_code == 0, result.output
    assert [platform.callback_url for platform in stories] == [url]


async def test_the_story_of_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    """Each change of each call is told once, with the number masked."""
    async with Sandbox(clock=VirtualClock(datetime(2026, 1, 1, tzinfo=BEIJING))) as platform:
        telling = asyncio.create_task(narrate(platform))
        credentials = platform.credentials
        async with AsyncQmcClient(
            credentials.app_id, credentials.app_secret, base_url=platform.base_url
        ) as client:
            call = await client.call(CALLER, "13912340005")
        for _ in range(2):
            await asyncio.sleep(0.25)
            await platform.advance(minutes=1)
        await asyncio.sleep(0.25)
        telling.cancel()
    assert capsys.readouterr().out.splitlines() == [
        f"00:00:00  {call.call_id}  139****0005  caller ringing",
        f"00:00:05  {call.call_id}  139****0005  ended: CalleeBusy",
    ]


def test_an_interrupt_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command without a word, with the status that a shell expects."""

    def interrupt(work: Coroutine[Any, Any, None]) -> None:
        work.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupt)
    result = qmc("end", "1")
    assert result.exit_code == 130
    assert not result.output


def test_a_reader_may_have_enough(platform: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed pipe at the other end of the output ends a command without a word."""

    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(click, "echo", closed)
    result = qmc("call", CALLER, "13912345678")
    assert (result.exit_code, result.output) == (1, "")
    assert len(platform.calls) == 1


def test_demo_fails_where_a_call_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`qmc demo` hands its folder on, and its verdict to the shell."""
    seen: list[Any] = []

    async def run_demo(_: object, folder: Path) -> bool:
        seen.append(folder)
        return len(seen) == 1

    monkeypatch.setattr("qmc_async.demo.run_demo", run_demo)
    assert qmc("demo", "--folder", str(tmp_path)).exit_code == 0
    assert qmc("demo", "--folder", str(tmp_path)).exit_code == 1
    assert seen == [tmp_path, tmp_path]


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help(command: str) -> None:
    """`--help` says what the command does, and what each option means."""
    result = qmc(command, "--help")
    assert result.exit_code == 0
    assert cli.commands[command].help
    assert all(
        getattr(param, "help", "")
        for param in cli.commands[command].params
        if param.opts[0][0] == "-"
    )


async def test_the_module_is_the_command() -> None:
    """``python -m qmc_async`` is `qmc`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmc_async", "--version"), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert (process.returncode, told[:4]) == (0, b"qmc,")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library alone brings no command line; the command says how to get it."""
    real_import = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as __import__
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(name=missing)
        return real_import(name, *args, **kwargs)

    for module in [name for name in sys.modules if name.startswith("qmc_async.cli")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SystemExit) as stop:
        main()
    assert "qmc-async[cli]" in str(stop.value.code)


def test_any_other_missing_module_is_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation shows what is broken."""
    monkeypatch.setitem(sys.modules, "qmc_async.cli", None)
    with pytest.raises(ModuleNotFoundError):
        main()


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "soon"])
@pytest.mark.parametrize(
    "words",
    [
        ["call", "13987654321", "13912345678", "--timeout"],
        ["recording", "c-1", "--wait"],
        ["doctor", "--timeout"],
        ["events", "purge", "--older-than"],
        ["sandbox", "--speed"],
    ],
)
def test_no_quantity(words: list[str], number: str) -> None:
    """What is no quantity is refused, and the option is named."""
    result = CliRunner().invoke(cli, [*words, number])
    assert result.exit_code == 2
    assert f"'{words[-1]}'" in result.stderr
