"""`qmc trigger`: what it sends, and what it says of the answer."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

import pytest
from cli_support import RECEIVED, SECRET_PATH, a_service, qmc, rude_host
from click.testing import CliRunner
from doctor_support import server_in
from events_store import COLOURS
from rich.text import Text

from qmc_async import CallbackServer, Credentials, Reason, Signer
from qmc_async.cli import cli
from qmc_async.cli.running import CALLBACK_PORT

if TYPE_CHECKING:
    from pathlib import Path

CREDENTIALS = Credentials(1696054309969104898, "secret")
NUMBER = "13912345678"


def _set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMC_APP_ID", str(CREDENTIALS.app_id))
    monkeypatch.setenv("QMC_APP_SECRET", CREDENTIALS.app_secret)


@pytest.mark.parametrize("reason", list(Reason))
async def test_each_reason(reason: Reason) -> None:
    """Each of the document's, in whatever case, with the fields that such a call has; no secret."""
    async with a_service() as service:
        result = await qmc("trigger", reason.lower(), "--to", service.url, "--out-call-id", "o-1")
    assert (result.exit_code, result.stderr) == (0, "")
    [body], [headers] = service.bodies, service.headers
    sent = json.loads(body)
    assert sent["reason"] == reason.value
    assert sent["outCallId"] == "o-1"
    assert len(sent["callidentifier"]) == 18
    assert ("callDuration" in sent) == (reason is Reason.HANG_UP)
    assert headers["content-type"] == "application/json;charset=utf-8"
    assert "authorization" not in headers
    told = f"{reason} of call {sent['callidentifier']}: HTTP 200, code 200"
    assert result.stdout.startswith(f"✓ {told}, success, in ")
    assert SECRET_PATH not in result.output


async def test_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is as the options say, signed on demand, and all of it is in the JSON."""
    _set(monkeypatch)
    async with a_service() as service:
        result = await qmc(
            *("trigger", "HangUp", "--to", service.url, "--json", "--signed", "--call-id", "4711"),
            *("--talk", "75", "--recording", "fail", "--end", "2026-01-31 18:00:00"),
        )
    told = json.loads(result.stdout)
    assert told["sent"] == json.loads(service.bodies[0])
    assert told["sent"] == {
        "callidentifier": "4711",
        "status": "Disconnected",
        "answerTime": "2026-01-31 17:58:45",
        "endTime": "2026-01-31 18:00:00",
        "startTime": "2026-01-31 17:58:41",
        "reason": "HangUp",
        "callDuration": "75",
        "recordingResult": "fail",
    }
    signed = Signer(CREDENTIALS).verify(service.headers[0]["authorization"], time.time())
    assert isinstance(signed, Credentials)
    assert (told["ok"], told["http_status"], told["code"], told["msg"]) == (
        *(True, 200, "200", "success"),
    )
    assert (told["to"], told["error"], told["hint"]) == (service.place, None, None)
    assert 0 < told["milliseconds"] < 20_000
    assert SECRET_PATH not in result.output


@pytest.mark.parametrize(
    ("status", "body", "says", "hint"),
    [
        (
            404,
            b'{"code":"404","msg":"not found"}',
            "HTTP 404, code 404, not found",
            "whole address",
        ),
        (403, b"", "HTTP 403, in", "allowed_senders"),
        (401, b"", "HTTP 401, in", "--signed"),
        (302, b"", "HTTP 302, in", "redirects"),
        (418, b"[]", "HTTP 418, in", "document wants"),
        (200, b'{"code":200}', "HTTP 200, code 200, in", "document wants"),
        (200, b'{"code":null,"msg":1}', "HTTP 200, in", "document wants"),
        (500, f'{{"code":"{NUMBER}","msg":"{NUMBER}\\u001b[2J"}}'.encode(), "139****5678", "log"),
        (200, b"x" * 200_000, "HTTP 200, in", "document wants"),
    ],
)
async def test_another_answer(status: int, body: bytes, says: str, hint: str) -> None:
    """It is status 1: one line that says what came, and a hint; numbers are masked."""
    async with a_service() as service:
        service.answers = [(status, body)]
        result = await qmc("trigger", "Other", "--to", service.url)
        as_json = await qmc("trigger", "Other", "--to", service.url, "--json")
    assert (result.exit_code, as_json.exit_code) == (1, 1)
    line, advice = result.stderr.splitlines()
    assert line.startswith(f"qmc: {service.place}: HTTP {status}, ")
    assert says in line
    assert advice.startswith("hint: ")
    assert hint in advice
    told = json.loads(as_json.stdout)
    assert (told["ok"], told["http_status"]) == (False, status)
    assert hint in told["hint"]
    for secret in (SECRET_PATH, NUMBER, "\x1b"):
        assert secret not in result.output
    assert NUMBER not in as_json.output


async def test_no_answer(unused_tcp_port: int) -> None:
    """Who does not listen is told from who does not answer; neither shows the path."""
    place = f"http://127.0.0.1:{unused_tcp_port}"
    result = await qmc("trigger", "Other", "--to", place + SECRET_PATH)
    assert result.exit_code == 1
    assert f"{place}: no connection, in " in result.stderr
    assert "hint: nothing listens there" in result.stderr
    async with rude_host(b"?") as port:
        rude = await qmc("trigger", "Other", "--to", f"http://127.0.0.1:{port}{SECRET_PATH}")
    assert rude.exit_code == 1
    assert "no answer (" in rude.stderr
    async with a_service() as service:
        service.go_on.clear()
        late = await qmc("trigger", "Other", "--to", service.url, "--timeout", "0.2")
        service.go_on.set()
    assert late.exit_code == 1
    assert "no answer in time, in " in late.stderr
    assert "hint: it answered too late" in late.stderr
    assert SECRET_PATH not in result.output + late.output + rude.output


async def test_to_a_server_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its whole address works; with another token it is refused, and it is said what to do."""
    _set(monkeypatch)
    async with server_in(tmp_path, Signer(CREDENTIALS)) as server:
        sent = await qmc("trigger", "CalleeBusy", "--call-id", "4711", "--to", server.url)
        event = await server.wait_for("4711", timeout=20)
        refused = await qmc("trigger", "CalleeBusy", "--to", f"{server.url}x")
    assert (sent.exit_code, event.reason) == (0, Reason.CALLEE_BUSY)
    assert refused.exit_code == 1
    assert "another APPSECRET makes another address" in refused.stderr
    assert server.url.rpartition("/")[2] not in sent.output + refused.output


async def test_to_where_qmc_listens(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """Without `--to` it goes to the address that `qmc listen` has by itself."""
    _set(monkeypatch)
    context = cli.commands["listen"].make_context("listen", [])
    assert (context.params["host"], context.params["port"]) == ("127.0.0.1", CALLBACK_PORT)
    monkeypatch.setattr(sys.modules["qmc_async.cli.trigger"], "CALLBACK_PORT", unused_tcp_port)
    signer = Signer(CREDENTIALS)
    async with CallbackServer(signer=signer, store="sqlite://", port=unused_tcp_port) as server:
        result = await qmc("trigger", "CallerAbandon", "--call-id", "4711")
        assert (await server.wait_for("4711", timeout=20)).reason is Reason.CALLER_ABANDON
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("Bored",), "the document has HangUp, CallerBusy, "),
        (("Other", "--talk", "3"), "--talk: nobody talks in a call that ends with Other"),
        (("Other", "--recording", "fail"), "--recording: nobody talks"),
        (("HangUp", "--end", "2026-02-31"), "'2026-02-31' is neither"),
        (("HangUp", "--end", "1969-12-31"), "is neither"),
        (("HangUp", "--end", "999999999999999"), "is neither"),
        (("HangUp",), "QMC_APP_ID is not set"),
        (("HangUp", "--to", "http://127.0.0.1:1", "--signed"), "QMC_APP_ID is not set"),
        (("HangUp", "--to", "http://127.0.0.1:99999/x"), "'--to'"),
    ],
)
async def test_wrong_usage(words: tuple[str, ...], says: str) -> None:
    """It is status 2, and nothing is sent."""
    result = await qmc("trigger", *words)
    assert result.exit_code == 2
    assert says in result.stderr.replace("\n", "")


@pytest.mark.parametrize("charset", ["utf-8", "ascii"])
async def test_on_a_terminal(charset: str) -> None:
    """The mark is coloured, and is one that can be shown; with `NO_COLOR` it is not."""
    async with a_service() as service:
        service.answers = [(200, RECEIVED.replace(b"success", "成功".encode()))]

        def run(**environ: str) -> str:
            runner = CliRunner(env=COLOURS | environ, charset=charset)
            return runner.invoke(cli, ["trigger", "Other", "--to", service.url]).stdout

        coloured = await asyncio.to_thread(run)
        plain = await asyncio.to_thread(run, NO_COLOR="1")
    mark, msg = ("✓", "成功") if charset == "utf-8" else ("+", r"\u6210\u529f")
    assert coloured.startswith(f"\x1b[32m{mark} \x1b[0m")
    assert msg in Text.from_ansi(coloured).plain
    assert "\x1b[32m" not in plain
