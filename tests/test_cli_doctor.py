"""`qmc doctor`: what it prints, to people and to programs, and what it exits with."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, post_to, select_in, until, url_in
from click.testing import CliRunner, Result
from doctor_support import NAMES, Setting, platform_that, server_in, set_to
from events_store import COLOURS
from faulty_platform import SECRET, always, http, unreachable
from rich.text import Text

from qmc_async import Signer
from qmc_async.cli import cli
from qmc_async.sandbox import Assumed, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

WELL = """\
✓ settings          APPID 1696054309969104898; the secret has the right form
✓ base url          PLATFORM answers
✓ record base url   PLATFORM answers
✓ clock             this machine's and the platform's are N s apart
✓ signature         the platform accepts it, and says of a call that does not exist: \
HTTP 200, code 404: 呼叫不存在 (assumed)
✓ callback          SERVER: a server that has this secret answers
✓ callback address  the platform that is set is on this network as well
✓ store             FOLDER/qmc.db keeps what it has committed
✓ disk              N GiB are free in FOLDER
✓ overdue calls     none
✓ dead letters      none
– recordings        not checked: the store knows no archive: see --archive-handler

11 ok, 1 skipped
"""


async def qmc(
    folder: Path, *words: str, columns: int = 0, charset: str = "utf-8", **environ: str
) -> Result:
    """Run `qmc doctor` in a thread of its own; on a terminal of so many columns, if any."""
    terminal = {**COLOURS, "COLUMNS": str(columns)} if columns else {}
    runner = CliRunner(env={"QMC_STORE": url_in(folder), **terminal, **environ}, charset=charset)
    return await asyncio.to_thread(runner.invoke, cli, ["doctor", "--timeout", "30", *words])


async def test_all_is_well(platform: Sandbox, tmp_path: Path) -> None:
    """A line for each check, without a colour in a pipe, and status 0; nothing of it is secret."""
    async with server_in(tmp_path, Signer(platform.credentials)) as server:
        result = await qmc(tmp_path, QMC_CALLBACK_URL=server.url)
    told = result.stdout.replace(platform.base_url, "PLATFORM").replace(str(tmp_path), "FOLDER")
    told = told.replace(server.url.partition("/qmc")[0], "SERVER")
    told = re.sub(r"[0-9.]+( s apart| GiB)", r"N\1", told)
    assert told == WELL
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("words", [(), ("--json",)])
async def test_what_failed(words: tuple[str, ...], platform: Sandbox, tmp_path: Path) -> None:
    """What to do stands below it, and the status is 1."""
    async with unreachable() as nowhere:
        address = f"{nowhere}/{Signer(platform.credentials).callback_token}"
        result = await qmc(tmp_path, "--callback-url", address, *words)
    assert result.exit_code == 1
    assert nowhere in result.stdout
    assert Signer(platform.credentials).callback_token not in result.output
    if words:
        told = json.loads(result.stdout)
        assert list(told) == ["ok", "findings"]
        assert told["ok"] is False
        assert [one["name"] for one in told["findings"]] == list(NAMES)
        [failed] = [one for one in told["findings"] if one["status"] == "failed"]
        assert list(failed) == ["name", "status", "found", "advice"]
        assert failed["name"] == "callback"
    else:
        lines = result.stdout.splitlines()
        place = next(n for n, line in enumerate(lines) if line.startswith("✗ callback "))
        assert lines[place + 1] == f"{'':22}start the server, or the proxy in front of it"
        # Beside it, there is no store yet: that is a warning.
        assert lines[-1] == "1 failed, 1 warning, 7 ok, 3 skipped"


@pytest.mark.usefixtures("platform")
async def test_only_warnings(tmp_path: Path) -> None:
    """They are no failure: the status is 0."""
    result = await qmc(tmp_path, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["ok"] is True
    assert "warning" in {one["status"] for one in told["findings"]}


async def test_two_ways_to_say_the_same(platform: Sandbox, tmp_path: Path) -> None:
    """Both options are a mistake; an option comes before the variable."""
    both = ("--callback-url", "http://a.example", "--public-url", "http://b.example")
    refused = await qmc(tmp_path, *both)
    assert refused.exit_code == 2
    assert "--public-url" in refused.stderr
    async with server_in(tmp_path, Signer(platform.credentials)) as server:
        public_url = server.url.partition("/qmc")[0]
        one = await qmc(tmp_path, "--public-url", public_url, QMC_CALLBACK_URL="http://a.invalid/x")
    assert one.exit_code == 0
    assert f"✓ callback          {public_url}: " in one.stdout


@pytest.mark.parametrize("words", [("--timeout", "0"), ("--nonsense",), ("x",)])
async def test_wrong_usage(words: tuple[str, ...], tmp_path: Path) -> None:
    """It is status 2, as everywhere."""
    assert (await qmc(tmp_path, *words)).exit_code == 2


async def test_the_archive_may_have_another_name(platform: Sandbox, tmp_path: Path) -> None:
    """`--archive-handler` says whose deliveries count, and `--store` whose store."""
    async with server_in(tmp_path, Signer(platform.credentials)) as server:
        assert (await post_to(server, body_of())).status == 200
        await until(lambda: select_in(tmp_path, "SELECT count(*) FROM qmc_deliveries") == [(2,)])
        words = ("--store", url_in(tmp_path), "--archive-handler")
        known = await qmc(tmp_path / "no", *words, "crm")
        unknown = await qmc(tmp_path / "no", *words, "somebody")
    assert "✓ recordings        none is about to expire" in known.stdout
    assert "– recordings        not checked" in unknown.stdout


@pytest.mark.parametrize("charset", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [60, 80, 200])
async def test_on_a_terminal(
    width: int, charset: str, platform: Sandbox, tmp_path: Path, monkeypatch: Setting
) -> None:
    """It is coloured, fits, and leaves nothing out, also where only ASCII can be shown."""
    monkeypatch.setenv("QMC_APP_SECRET", "wrong")
    result = await qmc(tmp_path, columns=width, charset=charset)
    assert result.exit_code == 1
    assert "\x1b[1;31m" in result.stdout
    plain = Text.from_ansi(result.stdout).plain
    lines = plain.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    shown = re.findall(r"^(\S) [a-z]", "\n".join(lines[:-1]), re.MULTILINE)
    assert set(shown) == set("✓!✗–" if charset == "utf-8" else "+!x-")
    assert len(shown) == len(NAMES)
    whole = re.sub(r"\s+", "", plain)
    assert platform.base_url in whole
    assert "thismachine'spublicaddressisnotontheplatform'swhitelist" in whole
    assert ("鉴权失败" if charset == "utf-8" else r"\u9274\u6743\u5931\u8d25") in whole


@pytest.mark.parametrize("words", [(), ("--json",)])
async def test_nothing_private(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: Setting
) -> None:
    """Not even where the platform quotes the header, a number and an escape sequence."""
    quoted = f"{SECRET} 139-8765-4321 \x1b[2J"
    reply = json.dumps({"code": 401, "msg": quoted}).encode()
    async with platform_that(monkeypatch, always(http(reply))) as platform:
        signed = await qmc(tmp_path, *words)
        header = next(one.headers["authorization"] for one in platform.seen if one.body)
    assert signed.exit_code == 1
    for secret in (SECRET, "8765", header, "\x1b"):
        assert secret not in signed.output
    assert "****" in signed.stdout


async def test_as_a_program(tmp_path: Path, monkeypatch: Setting) -> None:
    """The clock is nine minutes off: told once, in one place, whatever the locale."""
    async with (
        Sandbox(assumed=Assumed(clock_skew=timedelta(minutes=9))) as platform,
        server_in(tmp_path, Signer(platform.credentials)) as server,
    ):
        set_to(monkeypatch, platform.base_url, platform.credentials)
        monkeypatch.setenv("QMC_STORE", url_in(tmp_path))
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "qmc_async", "doctor", "--callback-url", server.url],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")
    [failed] = re.findall(r"^x (.*)$", done.stdout, re.MULTILINE)
    assert failed == "clock             this machine's clock is 9 min behind the platform's"
    assert done.stdout.endswith("\n\n1 failed, 10 ok, 1 skipped\n")
