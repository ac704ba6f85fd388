"""`qmc recordings backfill`: what an archive lacks, and the platform still has."""

from __future__ import annotations

import asyncio
import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest
from archive_support import (
    DAY,
    HOUR,
    MINUTE,
    NO_ACCESS,
    NOT_READY,
    NUMBER,
    READY,
    SOUND,
    Keeper,
    archive_at,
    event_of,
    files_in,
    is_whole,
    recorded,
)
from callback_peer import body_of, until, url_in
from click.testing import CliRunner, Result
from faulty_platform import APP_ID, SECRET, FaultyPlatform, http, unreachable
from ledger_support import place
from object_server import BUCKET, KEY, KEY_ID, object_server
from store_support import never_late, put_of, store_in
from watchdog_support import hurry_watchdog, make_overdue, watched

from qmc_async.cli import cli
from qmc_async.cli.recordings import recordings
from qmc_async.models import RECORDING_LIFETIME

if TYPE_CHECKING:
    from pathlib import Path

ALREADY = recorded("there")


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (
        ("APP_ID", str(APP_ID)),
        ("APP_SECRET", SECRET),
        ("MAX_RETRIES", "0"),
        ("STORE", url_in(tmp_path)),
    ):
        monkeypatch.setenv(f"QMC_{name}", value)


async def fill(folder: Path, *bodies: bytes) -> None:
    """Make a store with these notifications in it."""
    async with store_in(folder) as store:
        for body in bodies:
            await store.keep(put_of(body, {}), never_late)


async def qmc(url: str, *words: str, env: dict[str, str] | None = None) -> Result:
    """Run `qmc recordings` beside the platform at `url`."""
    with_platform = {"QMC_BASE_URL": url, "QMC_RECORD_BASE_URL": url} | (env or {})
    runner = CliRunner(env=with_platform)
    return await asyncio.to_thread(runner.invoke, cli, ["recordings", *words])


async def test_backfill_fetches_what_is_still_there(tmp_path: Path) -> None:
    """Each recorded call of three days that is not archived, and no other."""
    kept = str(tmp_path / "kept")
    keeper = Keeper()
    await fill(
        tmp_path,
        recorded("old", RECORDING_LIFETIME + MINUTE),
        recorded("oldest", RECORDING_LIFETIME - 10 * MINUTE),
        recorded("busy", recordingResult="fail"),
        body_of("none"),
        b"?",
        recorded("new"),
        recorded("new", reason="Other"),  # a conflict, which is no second call
        recorded("there"),
    )
    async with FaultyPlatform(keeper) as platform:
        async with archive_at(kept, platform.url) as archive:
            assert await archive.archive(event_of("there"))
        keeper.asked.clear()
        result = await qmc(platform.url, "backfill", kept)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == "2 fetched, 1 were there, 0 failed\n"
        assert sorted(keeper.asked) == ["new", "oldest"]
        again = await qmc(platform.url, "backfill", kept)
        assert (again.exit_code, again.stdout) == (0, "0 fetched, 3 were there, 0 failed\n")
        assert len(keeper.asked) == 2
    files = files_in(tmp_path / "kept")
    assert len(files) == 6
    assert is_whole(files)


async def test_backfill_of_calls_that_nobody_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that have a recording are fetched too; the others are not asked for."""
    hurry_watchdog(monkeypatch)
    keeper = Keeper()
    async with FaultyPlatform(keeper) as platform:
        async with watched(tmp_path, platform.url) as there:
            await there.overdue("inferred", "order-1")
            await until(lambda: ("missing", "inferred") in there.told)
            keeper.answers = [NOT_READY]
            assert there.client.store is not None
            await place(there.client.store, "missing", "order-2", missing_after=3_600_000)
            make_overdue(tmp_path, "order-2")
            await until(lambda: ("missing", "missing") in there.told)
        keeper.asked.clear()
        keeper.answers = [READY]
        with monkeypatch.context() as patch:
            patch.setattr("qmc_async.archive.backfill._PAGE", 1)
            result = await qmc(platform.url, "backfill", str(tmp_path / "kept"))
    assert result.stdout == "1 fetched, 0 were there, 0 failed\n"
    assert keeper.asked == ["inferred"]


async def test_backfill_goes_through_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever there is, some of it is in memory at a time, and all of it is fetched."""
    monkeypatch.setattr("qmc_async.archive.backfill._PAGE", 3)
    keeper = Keeper()
    await fill(tmp_path, *(recorded(str(number)) for number in range(10)))
    async with FaultyPlatform(keeper) as platform:
        result = await qmc(platform.url, "backfill", str(tmp_path / "kept"), "--key", "a/{call_id}")
    assert result.stdout == "10 fetched, 0 were there, 0 failed\n"
    assert sorted(keeper.asked) == [str(number) for number in range(10)]
    assert set(files_in(tmp_path / "kept")) == {
        f"a/{number}.{end}" for number in range(10) for end in ("wav", "json")
    }


async def test_backfill_tells_what_failed(tmp_path: Path) -> None:
    """A line for each, and status 1; ids do nothing to a terminal, and numbers are masked."""
    await fill(tmp_path, recorded("a\u202e", HOUR), recorded("[bold]2", 2 * HOUR))
    async with FaultyPlatform(Keeper(NOT_READY)) as platform:
        result = await qmc(platform.url, "backfill", str(tmp_path / "kept"))
    assert (result.exit_code, result.stdout) == (1, "0 fetched, 0 were there, 2 failed\n")
    why = "record: the platform answered HTTP 200, code 40902: not ready: 139****5678"
    assert sorted(result.stderr.splitlines()) == [f"[bold]2  {why}", f"a\\u202e  {why}"]
    assert NUMBER not in result.output


async def test_backfill_goes_on_after_a_failure(tmp_path: Path) -> None:
    """One that is too long does not keep the others from being fetched."""
    await fill(tmp_path, *(recorded(str(number)) for number in range(6)))
    keeper = Keeper(NOT_READY, READY)
    async with FaultyPlatform(keeper) as platform:
        result = await qmc(platform.url, "backfill", str(tmp_path / "kept"))
        assert (result.exit_code, result.stdout) == (1, "5 fetched, 0 were there, 1 failed\n")
        short = ("--max-bytes", str(len(SOUND) - 1))
        result = await qmc(platform.url, "backfill", str(tmp_path / "kept"), *short)
    assert result.stdout == "0 fetched, 5 were there, 1 failed\n"
    assert "longer than" in result.stderr


async def test_backfill_of_calls_at_the_ends_of_time(tmp_path: Path) -> None:
    """A wrong clock somewhere keeps no other call from being fetched."""
    ends = ("0001-01-01 00:00:00", "9999-12-31 23:59:59")
    bodies = (recorded(f"c{number}", endTime=end) for number, end in enumerate(ends))
    await fill(tmp_path, *bodies, recorded("now"))
    async with FaultyPlatform(Keeper()) as platform:
        result = await qmc(platform.url, "backfill", str(tmp_path / "kept"))
    assert (result.exit_code, result.stdout) == (0, "2 fetched, 0 were there, 0 failed\n")
    assert "9999/12/31/c1.wav" in files_in(tmp_path / "kept")


@pytest.mark.parametrize(
    ("answer", "why"), [(NO_ACCESS, "APPSECRET"), (http(b"", "429 Too Many Requests"), "429")]
)
async def test_backfill_stops_where_it_is_not_wanted(
    answer: bytes, why: str, tmp_path: Path
) -> None:
    """A platform that does not accept us is asked once, and not for each call."""
    await fill(tmp_path, *(recorded(str(number)) for number in range(20)))
    keeper, key = Keeper(READY, answer), "{call_id}"
    async with FaultyPlatform(keeper) as platform:
        # What is there already says nothing about the platform.
        async with archive_at(tmp_path / "kept", platform.url, key=key) as archive:
            await archive.archive(event_of("0"))
        keeper.asked.clear()
        result = await qmc(platform.url, "backfill", str(tmp_path / "kept"), "--key", key)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("qmc: record: ")
    assert why in result.stderr
    assert len(keeper.asked) == 1


async def test_backfill_stops_where_it_is_not_wanted_any_more(tmp_path: Path) -> None:
    """The same in the middle: what is under way ends, and nothing new begins."""
    await fill(tmp_path, *(recorded(str(number)) for number in range(20)))
    keeper = Keeper(READY, READY, NO_ACCESS)
    async with FaultyPlatform(keeper) as platform:
        result = await qmc(platform.url, "backfill", str(tmp_path / "kept"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(keeper.asked) < 10
    assert is_whole(files_in(tmp_path / "kept"))


async def test_backfill_of_what_cannot_be(tmp_path: Path) -> None:
    """A wrong key, folder or store is one line and status 2, or 1; nobody is asked."""
    keeper = Keeper()
    async with FaultyPlatform(keeper) as platform:
        no_store = await qmc(platform.url, "backfill", str(tmp_path / "kept"))
        assert no_store.exit_code != 0
        await fill(tmp_path, recorded())
        for words, why in (
            ((str(tmp_path / "a" / "b"),), "nothing can be written into"),
            ((str(tmp_path / "kept"), "--key", "{end_time}"), "must have the whole {call_id}"),
            (("nope://planted-password@x",), "nope://x"),
        ):
            result = await qmc(platform.url, "backfill", *words)
            assert (result.exit_code, result.stdout) == (2, "")
            assert why in result.stderr
            assert result.stderr.count("\n") == 1
            assert "planted" not in result.stderr
        assert (
            await qmc(platform.url, "backfill", str(tmp_path), "--max-bytes", "0")
        ).exit_code == 2
    assert keeper.asked == []


async def test_backfill_into_a_bucket(tmp_path: Path) -> None:
    """With the environment's credentials; a bucket that is away is told without them."""
    await fill(tmp_path, recorded(), recorded("2", DAY))
    env = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": KEY, "AWS_ALLOW_HTTP": "true"}
    async with FaultyPlatform(Keeper()) as platform, object_server() as server:
        env |= {"AWS_ENDPOINT": server.url}
        result = await qmc(platform.url, "backfill", f"s3://{BUCKET}/rec", env=env)
        assert result.stdout == "2 fetched, 0 were there, 0 failed\n"
        result = await qmc(platform.url, "verify", f"s3://{BUCKET}/rec", env=env)
        assert (result.exit_code, result.stderr) == (0, "2 as they were fetched, 0 wrong\n")
        assert len(server.objects) == 4
        server.status = 403
        result = await qmc(platform.url, "verify", f"s3://{BUCKET}/rec", env=env)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"qmc: the archive in s3://{BUCKET}/rec: ")
    assert KEY not in result.output


async def test_without_a_platform(tmp_path: Path) -> None:
    """Each call is told as one that could not be fetched."""
    await fill(tmp_path, recorded())
    async with unreachable() as url:
        result = await qmc(url, "backfill", str(tmp_path / "kept"))
    assert (result.exit_code, result.stdout) == (1, "0 fetched, 0 were there, 1 failed\n")
    assert result.stderr.startswith("4711  record: ")


@pytest.mark.parametrize("name", sorted(recordings.commands))
def test_every_command_has_help_with_an_example(name: str) -> None:
    """The help says what each option means, and its example is one that the command takes."""
    result = CliRunner().invoke(cli, ["recordings", name, "--help"], terminal_width=200)
    assert result.exit_code == 0
    command = recordings.commands[name]
    assert all(one.help for one in command.params if isinstance(one, click.Option))
    example = re.search(rf"Example: qmc recordings {name} ?(.*)", result.stdout)
    assert example is not None
    command.make_context(name, shlex.split(example[1]))
