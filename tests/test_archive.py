"""`RecordingArchive`: each recorded call becomes a sound and a JSON, whatever fails meanwhile."""

from __future__ import annotations

import hashlib
import json
import logging
import stat
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from archive_support import (
    MINUTE,
    NOT_READY,
    NUMBER,
    SOUND,
    Keeper,
    ago,
    archive_at,
    archiving,
    event_of,
    files_in,
    recorded,
)
from callback_peer import (
    deliveries_in,
    hurry,
    post_to,
    select_in,
    until,
    url_in,
)
from faulty_platform import FaultyPlatform
from ledger_support import place
from store_support import names_in
from watchdog_support import hurry_watchdog, make_overdue

from qmc_async import AsyncQmcClient, CallbackServer, RecordingArchive
from qmc_async.errors import ArgumentError, ConfigError
from qmc_async.sandbox import Assumed, RealClock, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

WAITS = ("pending", 0, None)
DONE = ("done", 0, None)
DEAD = ("dead", 1, None)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    hurry_watchdog(monkeypatch)
    hurry(monkeypatch)
    caplog.set_level(logging.INFO)


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged above INFO."""
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


def state_in(folder: Path) -> tuple[str, int, str | None] | None:
    """State, attempts and owner of the archive's delivery."""
    return deliveries_in(folder).get("archive")


# --- what is kept ------------------------------------------------------------------------------


async def test_a_recording_is_kept_as_the_platform_has_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not ready at once is kept all the same, and its JSON tells what it is."""
    monkeypatch.setattr("qmc_async.archive.handler._FIRST_DELAY", 0.02)
    late = Assumed(recording_delay=timedelta(seconds=75))  # of a clock 50 times faster than life
    async with Sandbox(clock=RealClock(speed=50), assumed=late) as platform:
        client = AsyncQmcClient(
            platform.credentials.app_id,
            platform.credentials.app_secret,
            base_url=platform.base_url,
            record_base_url=platform.base_url,
            store=url_in(tmp_path),
        )
        server = CallbackServer(client=client, port=0)
        RecordingArchive(tmp_path / "kept", client=client).attach(server)
        async with client, server:
            platform.callback_url = server.url
            call = await client.call("13987654321", NUMBER, out_call_id="order-1")
            await until(lambda: state_in(tmp_path) == DONE)
        asked = [one.body for one in platform.received if one.endpoint == "record"]
        # Past the sandbox's own way to hand it out.
        api: Any = vars(platform)["_api"]
        [original] = files_in(api._recordings._directory).values()
        simulated = platform.calls[call.call_id]
    assert len(asked) > 1, "it was ready at once, so that this test shows less than it says"
    assert problems(caplog) == []
    assert simulated.end_time is not None
    key = f"{simulated.end_time:%Y/%m/%d}/{call.call_id}"
    kept = files_in(tmp_path / "kept")
    assert set(kept) == {f"{key}.wav", f"{key}.json"}
    assert kept[f"{key}.wav"] == original
    told = json.loads(kept[f"{key}.json"])
    fetched_at = told.pop("fetched_at")
    assert f"{ago(MINUTE):%Y-%m-%dT%H:%M:%S+08:00}" < fetched_at
    event = told.pop("event")
    assert told == {
        "key": f"{key}.wav",
        "format": "wav",
        "length": len(original),
        "duration": 12.0,
        "sha256": hashlib.sha256(original).hexdigest(),
    }
    assert event["call_id"] == call.call_id
    assert event["out_call_id"] == "order-1"
    assert event["end_time"] == f"{simulated.end_time:%Y-%m-%dT%H:%M:%S}+08:00"
    assert (event["reason"], event["recording_result"]) == ("HangUp", "success")
    assert event["call_duration"] == 12


async def test_nobody_else_may_hear_it_and_nothing_private_is_beside_it(tmp_path: Path) -> None:
    """The files are for their owner alone; the JSON has no address, no secret and no number."""
    keeper = Keeper()
    async with FaultyPlatform(keeper) as platform, archiving(tmp_path, platform.url) as there:
        await there.post(recorded(reason=f"Busy {NUMBER}", caller=NUMBER, callDuration="soon"))
        await until(lambda: state_in(tmp_path) == DONE)
    for path in (tmp_path / "kept").rglob("*.*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [beside] = [data for name, data in files_in(tmp_path / "kept").items() if "json" in name]
    for private in (NUMBER, "rec-token", "rec-sign", "planted-secret", "127.0.0.1"):
        assert private.encode() not in beside
    assert json.loads(beside)["event"]["reason"] == "Busy 139****5678"


async def test_no_second_look_at_what_is_kept(tmp_path: Path) -> None:
    """Where the JSON and its sound are, nobody is asked; where either is not, it is fetched."""
    keeper = Keeper()
    event = event_of()
    async with (
        FaultyPlatform(keeper) as platform,
        archive_at(tmp_path, platform.url, key="{call_id}") as archive,
    ):
        assert [await archive.archive(event), await archive.archive(event)] == [True, False]
        whole = files_in(tmp_path)
        for name, damage in (
            ("4711.wav", b""),
            ("4711.wav", SOUND[:-1]),
            ("4711.json", b""),
            ("4711.json", b"{"),
            ("4711.json", b'{"key": "4711.wav", "length": 1}'),
        ):
            (tmp_path / name).write_bytes(damage)
            assert await archive.archive(event)
            assert files_in(tmp_path)["4711.wav"] == SOUND
        for name in whole:
            (tmp_path / name).unlink()
            assert await archive.archive(event)
        assert set(files_in(tmp_path)) == set(whole)
    assert keeper.fetched == len(keeper.asked) == 8


async def test_the_json_does_not_lead_to_another_file(tmp_path: Path) -> None:
    """Only the file under the call's own key is looked at, whatever a JSON says of its place."""
    (tmp_path / "other.wav").write_bytes(SOUND)
    told = {"key": "../other.wav", "sha256": "0", "length": len(SOUND)}
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "4711.json").write_bytes(orjson.dumps(told))
    async with (
        FaultyPlatform(Keeper()) as platform,
        archive_at(kept, platform.url, key="{call_id}") as archive,
    ):
        assert await archive.archive(event_of())
    assert files_in(kept)["4711.wav"] == SOUND


@pytest.mark.parametrize("result", ["fail", "", None, "later"])
async def test_a_call_without_a_recording(result: str | None, tmp_path: Path) -> None:
    """Nobody is asked for what the platform says is not there."""
    keeper = Keeper()
    async with FaultyPlatform(keeper) as platform, archiving(tmp_path, platform.url) as there:
        await there.post(recorded(recordingResult=result))
        await until(lambda: state_in(tmp_path) == DONE)
    assert keeper.asked == []
    assert files_in(tmp_path / "kept") == {}


# --- which handler it is -----------------------------------------------------------------------


async def test_a_call_that_nobody_reported(tmp_path: Path) -> None:
    """It is archived if it has a recording, and not asked for again if it has none."""
    keeper = Keeper()
    async with FaultyPlatform(keeper) as platform, archiving(tmp_path, platform.url) as there:
        assert there.client.store is not None
        await place(there.client.store, "4711", "order-1", missing_after=3_600_000)
        make_overdue(tmp_path)
        await until(lambda: deliveries_in(tmp_path).get("archive of missing") == DONE)
        keeper.answers = [NOT_READY]
        await place(there.client.store, "4712", "order-2", missing_after=3_600_000)
        make_overdue(tmp_path, "order-2")
        done = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
        await until(lambda: select_in(tmp_path, done) == [(2,)])
    # Once by the watchdog; once more by the archive, where there was something.
    assert sorted(keeper.asked) == ["4711", "4711", "4712"]
    kept = files_in(tmp_path / "kept")
    assert sorted(name[-9:] for name in kept) == ["4711.json", "/4711.wav"][::-1]
    [beside] = [json.loads(data) for name, data in kept.items() if "json" in name]
    assert beside["event"]["outcome"] == "inferred"
    assert beside["event"]["out_call_id"] == "order-1"


async def test_without_the_servers_client_it_is_one_handler(tmp_path: Path) -> None:
    """Such a server looks for nobody's missing calls; what is reported is archived."""
    async with (
        FaultyPlatform(Keeper()) as platform,
        archive_at(tmp_path / "kept", platform.url) as archive,
    ):
        server = CallbackServer(port=0, store=url_in(tmp_path))
        archive.attach(server, name="mine")
        async with server:
            await post_to(server, recorded())
            await until(lambda: deliveries_in(tmp_path) == {"mine": DONE})


async def test_it_is_a_handler_like_any_other(tmp_path: Path) -> None:
    """It can be registered by the decorators, for some calls only."""
    keeper = Keeper()
    async with (
        FaultyPlatform(keeper) as platform,
        archive_at(tmp_path / "kept", platform.url) as archive,
    ):
        server = CallbackServer(port=0, store=url_in(tmp_path))
        server.on_disconnected(name="x", where=lambda event: event.call_id == "1")(archive)
        async with server:
            for call_id in ("1", "2"):
                await post_to(server, recorded(call_id))
            done = "SELECT event_id, state FROM qmc_deliveries ORDER BY event_id"
            await until(lambda: select_in(tmp_path, done) == [("1", "done"), ("2", "done")])
    assert keeper.asked == ["1"]


async def test_a_name_is_used_once(tmp_path: Path) -> None:
    """Two archives of one server need two names, and then both keep every call."""
    async with FaultyPlatform(Keeper()) as platform, archiving(tmp_path, platform.url) as there:
        server = CallbackServer(client=there.client, port=0)
        there.archive.attach(server)
        with pytest.raises(ValueError, match="'archive' is registered already"):
            there.archive.attach(server)
        there.archive.attach(server, name="second")
        with pytest.raises(RuntimeError, match="came too late"):
            there.archive.attach(there.server, name="second")


async def test_what_is_no_archive(tmp_path: Path) -> None:
    """Wrong arguments are told at once, by name; nothing is made for them."""
    async with FaultyPlatform(Keeper()) as platform, archive_at(tmp_path, platform.url) as archive:
        client: AsyncQmcClient = vars(archive)["_client"]
        with pytest.raises(ConfigError) as of_key:
            RecordingArchive(tmp_path / "a", client=client, key="{end_time}")
        with pytest.raises(ArgumentError, match="max_bytes") as of_length:
            RecordingArchive(tmp_path / "b", client=client, max_bytes=0)
        assert (of_key.value.setting, of_length.value.argument) == ("key", "max_bytes")
        assert repr(archive) == f"RecordingArchive({str(tmp_path)!r})"
    assert names_in(tmp_path) == []
