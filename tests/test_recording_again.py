"""What was not there is asked for again: at once, and with `wait=` later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest
from faulty_platform import (
    FaultyPlatform,
    always,
    connect,
    http,
    in_turn,
    once,
)
from recording_host import (
    AUDIO,
    AUDIO_REPLY,
    LOOPBACK,
    Kept,
    at,
    left_in,
    no_wait,
    serves,
    wav,
)

from qmc_async.errors import ApiError, RecordingError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmc_async.client import AsyncQmcClient

LENGTH = len(AUDIO)
HALF = LENGTH // 2
PAGE = b"<!DOCTYPE html><title>\xe5\x87\xba\xe9\x94\x99</title>" + b"<p>no</p>" * 200
AS_AUDIO = "Content-Type: audio/wav\r\n"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between attempts are not what these tests are about."""
    monkeypatch.setattr("qmc_async.recording_transfer.back_off", no_wait)
    monkeypatch.setattr("qmc_async.client._FIRST_POLL", 0.01)


@pytest.fixture
async def client() -> AsyncGenerator[AsyncQmcClient]:
    """A client whose platform is not there, with a short patience."""
    async with connect(
        "http://127.0.0.1:9", timeout=0.3, max_retries=0, recording_networks=LOOPBACK
    ) as client:
        yield client


# --- At once ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["408", "425", "429", "500", "502", "503", "504"])
async def test_a_passing_error(status: str, tmp_path: Path) -> None:
    """What passes is tried again, and costs nothing of what is there."""
    kept = Kept(AUDIO, cuts=[HALF], written=0)
    busy = once(http(b"<html>", f"{status} Busy", "Content-Type: text/html\r\n"))
    async with (
        FaultyPlatform(busy, serves(kept), busy, serves(Kept(AUDIO))) as files,
        connect("http://127.0.0.1:9", max_retries=2, recording_networks=LOOPBACK) as client,
    ):
        saved = await client.download(at(files.url), tmp_path, on_progress=kept.note)
    assert saved.path.read_bytes() == AUDIO
    half = f"bytes={HALF}-"
    assert [request.headers.get("range") for request in files.seen] == [None, None, half, half]


@pytest.mark.parametrize(("header", "requests"), [("3600", 1), ("9", 1), ("8", 2), ("0", 2)])
async def test_retry_after(header: str, requests: int, tmp_path: Path) -> None:
    """A host that wants us to wait for long is not waited for: that is the caller's matter."""
    busy = http(b"", "503 Busy", f"Retry-After: {header}\r\n")
    async with (
        FaultyPlatform(always(busy)) as files,
        connect("http://127.0.0.1:9", max_retries=1, recording_networks=LOOPBACK) as client,
    ):
        with pytest.raises(RecordingError, match="HTTP 503") as caught:
            await client.download(at(files.url), tmp_path)
    assert caught.value.temporary
    assert len(files.requests) == requests


@pytest.mark.parametrize("status", ["400", "401", "403", "404", "405", "410", "501"])
async def test_a_lasting_error(status: str, client: AsyncQmcClient, tmp_path: Path) -> None:
    """What will not change at once is not asked for again at once."""
    async with FaultyPlatform(always(http(AUDIO, f"{status} No"))) as files:
        with pytest.raises(RecordingError, match=f"HTTP {status}") as caught:
            await client.download(at(files.url), tmp_path)
    assert caught.value.temporary
    assert len(files.requests) == 1
    assert left_in(tmp_path) == []


# --- Later --------------------------------------------------------------------------------------


async def test_ready_later(client: AsyncQmcClient, tmp_path: Path) -> None:
    """With `wait=` a file that is not there yet, or not all of it, is asked for until it is."""
    not_yet = [
        http(PAGE, "404 Not Found", "Content-Type: text/html\r\n"),
        http(PAGE, headers="Content-Type: text/html\r\n"),
        http(b"", headers=AS_AUDIO),
        http(wav(HALF, LENGTH), headers=AS_AUDIO),
        http(b"", "503 Busy", "Retry-After: 3600\r\n"),
    ]
    behaviours = [once(reply) for reply in not_yet]
    async with FaultyPlatform(*behaviours, once(AUDIO_REPLY[:-1000]), always(AUDIO_REPLY)) as files:
        saved = await client.download(at(files.url), tmp_path, wait=30)
        assert len(files.requests) == 7
    assert saved.path.read_bytes() == AUDIO
    assert left_in(tmp_path) == ["c-1.wav"]


async def test_looked_up_again(tmp_path: Path) -> None:
    """While it waits, it asks the platform every time: an address may expire before its file."""
    async with FaultyPlatform(once(http(PAGE, "403 Expired")), always(AUDIO_REPLY)) as files:
        found = [
            http(orjson.dumps({"code": 200, "data": {"fileUrl": f"{files.url}/{number}"}}))
            for number in range(2)
        ]
        not_ready = http(b'{"code": 40001, "msg": "not yet"}')
        async with (
            FaultyPlatform(in_turn(not_ready, *found)) as platform,
            connect(platform.url, recording_networks=LOOPBACK) as client,
        ):
            saved = await client.download("c-1", tmp_path, wait=30)
            assert len(platform.requests) == 3
    assert saved.path.read_bytes() == AUDIO
    assert [request.line for request in files.seen] == ["GET /0 HTTP/1.1", "GET /1 HTTP/1.1"]


async def test_wait_ends(
    client: AsyncQmcClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time is up it asks once more, and raises what it got."""
    monkeypatch.setattr("qmc_async.client._FIRST_POLL", 10.0)
    async with FaultyPlatform(always(http(PAGE, "404 No"))) as files:
        with pytest.raises(RecordingError, match="HTTP 404"):
            await client.download(at(files.url), tmp_path, wait=0.05)
        assert len(files.requests) == 2
    assert left_in(tmp_path) == []


async def test_no_wait(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Without `wait=` what is not ready is raised at once, also by the platform."""
    async with FaultyPlatform(always(http(PAGE, "404 No"))) as files:
        with pytest.raises(RecordingError):
            await client.download(at(files.url), tmp_path)
        assert len(files.requests) == 1
    not_ready = always(http(b'{"code": 40001, "msg": "not yet"}'))
    async with FaultyPlatform(not_ready) as platform, connect(platform.url) as other:
        with pytest.raises(ApiError, match="not yet"):
            await other.download("c-1", tmp_path)
        assert len(platform.requests) == 1
    assert left_in(tmp_path) == []
