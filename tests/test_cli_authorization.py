"""`qmc sign` and `qmc verify`: the header, made and explained."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import pytest
from cli_support import qmc
from click.testing import CliRunner
from events_store import COLOURS

from qmc_async import Credentials, Signer
from qmc_async.cli import cli

APP_ID, SECRET = "1696054309969104898", "secret"
# The document's own example, and the vector of which the secret is known.
EXAMPLE = "MTY5NjA1NDMwOTk2OTEwNDg5ODoxNjkzMjcwMjI2NjQyOmFhNzI2MzlhODY4NDljM2MyZTJiZjljMmVjYzExOTdi"
SIGN, MILLISECONDS = "afd0fc7d026834e1ac42e87875b0d9a8", "1693270226642"
VECTOR = base64.b64encode(f"{APP_ID}:{MILLISECONDS}:{SIGN}".encode()).decode()
OURS = {"QMC_APP_ID": APP_ID, "QMC_APP_SECRET": SECRET}
MADE = ("--at", MILLISECONDS)


def header(app_id: str = APP_ID, timestamp: str = MILLISECONDS, sign: str = SIGN) -> str:
    """What somebody may have sent."""
    return base64.b64encode(f"{app_id}:{timestamp}:{sign}".encode()).decode()


async def explained(value: str, *words: str, **environ: str) -> dict[str, tuple[str, str, str]]:
    """Status, what was found and what to do, of each part."""
    result = await qmc("verify", value, "--json", *(words or MADE), **(OURS | environ))
    told = json.loads(result.stdout)
    assert result.exit_code == (0 if told["accepted"] else 1)
    assert SIGN not in result.output
    return {one["name"]: (one["status"], one["found"], one["advice"]) for one in told["findings"]}


# --- qmc sign ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [MILLISECONDS, "2023-08-29 08:50:26", "2023-08-29T08:50:26"])
async def test_sign_at_a_time(at: str) -> None:
    """The value alone, as it can stand in a header."""
    result = await qmc("sign", "--at", at, **OURS)
    value = VECTOR if at == MILLISECONDS else Signer(Credentials(APP_ID, SECRET)).sign(1693270226)
    assert (result.exit_code, result.output) == (0, f"{value}\n")


async def test_sign_now() -> None:
    """It is accepted, for five minutes."""
    result = await qmc("sign", **OURS)
    signer = Signer(Credentials(APP_ID, SECRET))
    assert isinstance(signer.verify(result.stdout.strip(), time.time()), Credentials)


async def test_sign_as_json() -> None:
    """The parts, without the secret; other settings have no say."""
    result = await qmc("sign", *MADE, "--json", **OURS, QMC_TIMEOUT="nonsense")
    assert json.loads(result.stdout) == {
        "authorization": VECTOR,
        "app_id": APP_ID,
        "timestamp": MILLISECONDS,
        "time": "2023-08-29T08:50:26.642000+08:00",
        "sign": SIGN,
    }


async def test_sign_without_settings() -> None:
    """It is status 2, and a hint."""
    result = await qmc("sign")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "QMC_APP_ID is not set" in result.stderr


# --- qmc verify --------------------------------------------------------------------------------


async def test_a_good_one() -> None:
    """What was just signed would be accepted, and each part says why."""
    signed = (await qmc("sign", **OURS)).stdout
    result = await qmc("verify", signed, **OURS)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line[:2] for line in lines[:5]] == ["✓ "] * 5
    assert [line.split()[1] for line in lines[:5]] == [
        *("base64", "parts", "appid", "timestamp", "sign"),
    ]
    assert lines[-1] == "it would be accepted"


async def test_the_examples_of_the_document() -> None:
    """The vector is ours, and was good in its time; the printed example is another secret's."""
    parts = await explained(VECTOR)
    assert {status for status, _, _ in parts.values()} == {"ok"}
    assert "2023-08-29 08:50:26 in Beijing, 0 s ago" in parts["timestamp"][1]
    parts = await explained(EXAMPLE)
    assert parts["sign"] == (
        "failed",
        "it does not fit our secret",
        "another secret was used, or APPID or timestamp were changed afterwards",
    )
    assert parts["timestamp"][0] == "ok"
    late = await qmc("verify", EXAMPLE, **OURS)
    assert late.exit_code == 1
    assert "✗ timestamp" in late.stdout
    assert late.stdout.endswith("\n\nit would not be accepted\n")


@pytest.mark.parametrize(
    "pasted",
    [
        (f"Authorization: {VECTOR}",),
        (f"authorization:{VECTOR}\r\n",),
        ("Authorization:", VECTOR),
        (VECTOR[:40], VECTOR[40:]),
        (f"  {VECTOR[:40]}\n   {VECTOR[40:]}\n",),
        (f'"Authorization: {VECTOR}"',),
        (f"'{VECTOR}'",),
    ],
)
async def test_pasted(pasted: tuple[str, ...]) -> None:
    """It is read as it is copied: with its name, quotation marks, white space, line breaks."""
    assert (await qmc("verify", *pasted, *MADE, **OURS)).exit_code == 0
    given = " ".join(pasted)
    assert (await qmc("verify", "-", *MADE, given=given, **OURS)).exit_code == 0


@pytest.mark.parametrize(
    ("at", "status", "says", "advice"),
    [
        ("1693270526642", "ok", "5 min ago", ""),
        ("1693270526643", "failed", "5 min ago", "sign again"),
        ("1693269926642", "ok", "5 min from now", ""),
        ("1693269926641", "failed", "5 min from now", "set the clock right"),
        ("1693270286642", "ok", "60 s ago", ""),
        ("1693290226642", "failed", "6 h ago", "at most five minutes"),
        ("1793270226642", "failed", "1,157 days ago", "at most five minutes"),
    ],
)
async def test_how_far_from_now(at: str, status: str, says: str, advice: str) -> None:
    """Five minutes either way, to the millisecond."""
    found = (await explained(VECTOR, "--at", at))["timestamp"]
    assert found[0] == status
    assert found[1].endswith(says)
    assert advice in found[2]


BROKEN = {
    "": ("base64", "not Base64", "copied whole"),
    "%%%": ("base64", "not Base64", "copied whole"),
    "é": ("base64", "not Base64", "copied whole"),
    VECTOR + "=": ("base64", "not Base64", "copied whole"),
    f"{APP_ID}:{MILLISECONDS}:{SIGN}": ("base64", "not Base64", "encoded in Base64"),
    base64.b64encode(b"hello").decode(): ("parts", "1 part,", "three parts"),
    base64.b64encode(b"1:2:3:4").decode(): ("parts", "4 parts,", "three parts"),
    header(app_id="me"): ("appid", "not a whole number", "console"),
    header(app_id=str(2**63)): ("appid", "not a whole number", "console"),
    header(timestamp="now"): ("timestamp", "no time in milliseconds", "such as 1693270226642"),
    header(timestamp="9" * 18): ("timestamp", "no time that a clock", "such as 1693270226642"),
    header(timestamp="1693270226"): ("timestamp", "days ago", "seem to be seconds"),
    header(sign=SIGN.upper()): ("sign", "lower-case", "lower case"),
    header(sign="x"): ("sign", "32 digits", "MD5"),
    header(sign=SIGN[::-1]): ("sign", "does not fit", "another secret"),
}


@pytest.mark.parametrize("value", BROKEN)
async def test_what_is_wrong(value: str) -> None:
    """Each mistake is named, with what to do; what depends on it is not checked."""
    name, found, advice = BROKEN[value]
    parts = await explained(value)
    assert parts[name][0] == "failed"
    assert found in parts[name][1]
    assert advice in parts[name][2]
    if name in ("base64", "parts"):
        assert {parts[one][0] for one in ("appid", "timestamp", "sign")} == {"skipped"}
    elif name == "appid":
        assert parts["sign"] == (
            "skipped",
            "not checked: what it signs is no APPID and no timestamp",
            "",
        )


async def test_of_another_application() -> None:
    """Whose APPID it is, and whether it is our secret all the same, are two questions."""
    other = Signer(Credentials(17, SECRET)).sign(int(MILLISECONDS) / 1000)
    parts = await explained(other)
    assert parts["appid"][:2] == ("failed", f"17 is another's; ours is {APP_ID}")
    assert parts["sign"][0] == "ok"


@pytest.mark.parametrize("words", [(), ("--json",)])
async def test_nothing_private(words: tuple[str, ...]) -> None:
    """Neither the secret, nor the sign that it would have made, which anybody could use."""
    secret = "KZ7Q-planted"
    made = Signer(Credentials(APP_ID, secret)).sign(int(MILLISECONDS) / 1000)
    expected = base64.b64decode(made).decode().rpartition(":")[2]
    for value in (VECTOR, made):
        result = await qmc("verify", value, *MADE, *words, QMC_APP_ID=APP_ID, QMC_APP_SECRET=secret)
        for private in (secret, expected, made, VECTOR):
            assert private not in result.output


@pytest.mark.parametrize("unset", ["QMC_APP_ID", "QMC_APP_SECRET"])
async def test_without_a_setting(unset: str) -> None:
    """The other parts are checked; that it would be accepted is not claimed."""
    result = await qmc("verify", VECTOR, *MADE, **(OURS | {unset: " "}))
    assert result.exit_code == 1
    assert f"no {unset}" in result.stdout
    assert result.stdout.count("✓") == 4
    assert "its form is good" in result.stdout
    as_json = await qmc("verify", VECTOR, *MADE, "--json", **(OURS | {unset: ""}))
    assert json.loads(as_json.stdout)["accepted"] is None


@pytest.mark.parametrize("words", [(), (VECTOR, "--at", "soon"), (VECTOR, "--nonsense")])
async def test_wrong_usage(words: tuple[str, ...]) -> None:
    """It is status 2, as everywhere; so is a setting that is none."""
    assert (await qmc("verify", *words, **OURS)).exit_code == 2
    assert (await qmc("verify", VECTOR, QMC_APP_ID="x")).exit_code == 2


@pytest.mark.parametrize("charset", ["utf-8", "ascii"])
async def test_on_a_terminal(charset: str) -> None:
    """Coloured, within its width, with marks that it can show."""
    runner = CliRunner(env=COLOURS | OURS | {"COLUMNS": "60"}, charset=charset)
    result = await asyncio.to_thread(runner.invoke, cli, ["verify", EXAMPLE])
    assert "\x1b[1;31m" + ("✗" if charset == "utf-8" else "x") in result.stdout
