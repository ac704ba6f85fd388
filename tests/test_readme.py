"""The README tells the truth: its programs run, and its commands exist."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from inspect import signature
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import aiohttp
import prometheus_client
import pytest
from callback_shells import asgi_serving
from click.testing import CliRunner
from object_server import object_server
from readme_support import README, blocks_of, section_of, sections_of
from sybil import Example, Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from qmc_async import AsyncQmcClient, CallbackServer, Signer
from qmc_async.cli import cli
from qmc_async.cli.running import EXIT_STATUSES
from qmc_async.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from wsgiref.simple_server import WSGIServer

    from qmc_async.sandbox import Sandbox

TEXT = README.read_text(encoding="utf-8")


def section(example: Example) -> str:
    """The heading that an example stands under."""
    code = str(example.parsed).split()  # in a list it is indented
    return next(
        one.heading
        for one in sections_of(README)
        if any(block.code.split() == code for block in blocks_of(one.text))
    )


STEPS = "Testing your service"  # no programs: tests/test_new_user.py does what stands there
EXAMPLES = list(Sybil(parsers=[PythonCodeBlockParser()]).parse(README))
PROGRAMS = [example for example in EXAMPLES if section(example) != STEPS]
EXPECTED = {
    "A whole program": "order-42 CalleeBusy",
    "In FastAPI": "order-42 CalleeBusy",
    "Call again when the callee was busy": "order-42-again CalleeBusy",
    "Recordings in an object store": "in the bucket: 2",
    "No notification is lost": "given up: bill Reject: nobody talked",
    "Every call is accounted for": "no need to wait any longer: inferred",
    "Nobody's telephone rings twice": "it was placed after all, and ended with HangUp",
    "Recordings": "saved as call.wav",
    "Traces and metrics": "qmc.handle bill, links: 1, {",
    "Metrics for Prometheus": 'qmc_result="placed"} 1.0',
    "An archive of recordings": "archived: 192044 bytes",
    "The sandbox": "they talked for 0:59:53",
}


@pytest.fixture
def console(platform: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what the reader does by hand: take a free port, and enter the address on the console."""
    start = CallbackServer.start

    async def start_and_enter(server: CallbackServer) -> None:
        monkeypatch.setattr(server, "_port", 0)
        await start(server)
        platform.callback_url = server.url

    monkeypatch.setattr(CallbackServer, "start", start_and_enter)


async def place_a_call(service: Mapping[str, Any], platform: Sandbox) -> None:
    """Run a service behind its public address, and use it once."""
    server: CallbackServer = service["server"]
    order = "/calls/order-42?agent=13987654321&customer=13912340005"
    async with asgi_serving(service["app"]) as port:
        inside = f"http://127.0.0.1:{port}"
        platform.callback_url = server.url.replace("https://crm.example.com", inside)
        async with aiohttp.ClientSession() as session, session.post(inside + order) as response:
            assert response.status == 200
        await server.wait_for(out_call_id="order-42", timeout=20)


@pytest.fixture
def prometheus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve metrics on a free port, and no longer than the program runs."""
    started: list[tuple[WSGIServer, Thread]] = []
    start = prometheus_client.start_http_server

    def start_on_a_free_port(_: int) -> None:
        started.append(start(0, addr="127.0.0.1"))

    monkeypatch.setattr(prometheus_client, "start_http_server", start_on_a_free_port)
    yield
    for server, thread in started:
        with urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as reply:
            assert b"qmc_notification_duration_seconds_bucket" in reply.read()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An object store where the README's variables lead, and what they cannot be known to say."""
    (exported, _) = blocks_of(section_of(README, "Recordings in an object store").text)
    variables = dict(re.findall(r"(AWS_\w+)=(\S+)", exported.code))
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    serving = object_server()
    server = asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(10)
    variables |= {"AWS_ENDPOINT": server.url, "AWS_ALLOW_HTTP": "true"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.usefixtures("bucket", "console", "unset_providers", "prometheus")
@pytest.mark.parametrize("program", PROGRAMS, ids=section)
def test_every_program_runs_and_says_what_it_should(
    program: Example,
    platform: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A program of the README runs as it stands, and ends as its scenario prescribes."""
    monkeypatch.chdir(tmp_path)
    program.evaluate()
    if section(program) == "In FastAPI":
        asyncio.run(place_a_call(program.namespace, platform))
    assert EXPECTED[section(program)] in capsys.readouterr().out


def test_no_program_is_missed() -> None:
    """Every Python block of the README is one of the programs above, or a step of a new user's."""
    assert TEXT.count("```python") == len(EXAMPLES)
    assert {section(example) for example in EXAMPLES} == {*EXPECTED, STEPS}
    assert len(PROGRAMS) == len(EXPECTED)


def test_every_command_works(platform: Sandbox, tmp_path: Path) -> None:
    """The commands under "Command line" do their work, in the order in which they stand."""
    block = re.search(r"## Command line\n\n```console\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    lines = [line.removeprefix("$ qmc ") for line in block[1].splitlines()]
    commands = [line.split()[0] for line in lines]
    assert commands == ["call", "end", "recording", "trigger", "verify"]
    invoke = partial(CliRunner().invoke, cli)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        placed = invoke(lines[0])
        assert placed.exit_code == 0, placed.output
        busy = next(iter(platform.calls))
        assert busy in placed.output
        # The one that was busy has no recording; one that connects has.
        call_id = invoke("call 13987654321 13912345678").output.split()[2]
        recorded = invoke(lines[2].replace("CALL_ID", call_id))
        assert recorded.exit_code == 0, recorded.output
        assert (tmp_path / "call.wav").read_bytes().startswith(b"RIFF")
        endless = invoke("call 13987654321 13912340010").output.split()[2]
        ended = invoke(lines[1].replace("CALL_ID", endless))
        assert ended.exit_code == 0, ended.output
        verified = invoke(lines[4].replace("$(qmc sign)", invoke("sign").output))
        assert verified.exit_code == 0, verified.output
    url = re.search(r"--to (\S+)", lines[3])
    assert url is not None
    asyncio.run(_trigger(lines[3], url[1], Signer(platform.credentials)))


async def _trigger(line: str, url: str, signer: Signer) -> None:
    async with CallbackServer(signer=signer, port=0) as server:
        line = line.replace(url, server.url)
        triggered = await asyncio.to_thread(CliRunner().invoke, cli, line)
    assert triggered.exit_code == 0, triggered.output


def test_the_table_of_commands_is_whole() -> None:
    """Each command stands in it, and no other."""
    table = TEXT.split("| command | what it does |")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert sorted(named) == sorted(cli.commands)


def test_the_table_of_exit_statuses_is_whole() -> None:
    """It has those that `qmc --help` has."""
    table = TEXT.split("| exit status | what it means |")[1].split("\n\n")[0]
    assert [int(one) for one in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == list(
        EXIT_STATUSES
    )


def test_the_settings_table_is_whole() -> None:
    """Each setting of the client stands in the README, with its variable."""
    table = TEXT.split("## Settings")[1].split("##")[0]
    for argument in set(signature(Settings.load).parameters) - {"environ"}:
        assert f"| `{argument}` | `QMC_{argument.upper()}` |" in table
    for argument in signature(AsyncQmcClient).parameters:
        assert f"| `{argument}` |" in table
    for argument in signature(CallbackServer).parameters:
        assert f"`{argument}`" in table.split("| argument of `CallbackServer` |")[1]
