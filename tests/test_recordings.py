"""Look a recording up, and fetch it: whole under its final name, or not at all."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
from faulty_platform import (
    CALLEE,
    CALLER,
    DONE,
    TRANSPORTS,
    Connection,
    FaultyPlatform,
    always,
    close_after_reading,
    close_before_reading,
    connect,
    http,
    in_turn,
    never_answer,
    no_http,
    once,
    unreachable,
)

from qmc_async.errors import (
    ApiError,
    ArgumentError,
    AuthenticationError,
    RateLimited,
    RecordingError,
    TransportError,
)
from qmc_async.models import BEIJING, Disconnected, Recording

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from faulty_platform import Behaviour

    from qmc_async.client import AsyncQmcClient

AUDIO = b"RIFF" + bytes(range(256)) * 4096  # 1 MiB: several pieces
AUDIO_REPLY = http(AUDIO, headers="Content-Type: audio/wav\r\n")
NOT_READY = http(b'{"code": 40001, "msg": "not yet"}')
PATH = "/rec-token-9f8e7d/1.wav?sign=rec-sign-5a5a"

both_transports = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture
async def client() -> AsyncGenerator[AsyncQmcClient]:
    """A client whose platform is not there, with a short patience."""
    async with connect("http://127.0.0.1:9", timeout=0.3, max_retries=0) as client:
        yield client


def at(url: str, call_id: str = "c-1", path: str = PATH) -> Recording:
    """A recording that is kept at `url`."""
    return Recording(call_id=call_id, file_url=url + path)


def left_in(folder: Path) -> list[str]:
    """The names of everything in a folder."""
    return sorted(path.name for path in folder.iterdir())


# --- recording() --------------------------------------------------------------------------------


@both_transports
async def test_wait(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `wait=` it keeps asking, ever more slowly, until the platform has the recording."""
    monkeypatch.setattr("qmc_async.client._FIRST_POLL", 0.05)
    async with (
        FaultyPlatform(in_turn(NOT_READY, NOT_READY, NOT_READY, http(DONE))) as platform,
        connect(platform.url, transport) as client,
    ):
        found = await client.recording("c-1", wait=30)
    assert found.file_url == "http://files.invalid/c-1.wav"
    arrived = [request.arrived for request in platform.seen]
    pauses = [after - before for before, after in itertools.pairwise(arrived)]
    assert pauses == pytest.approx([0.05, 0.1, 0.2], abs=0.04)


async def test_wait_has_a_longest_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses grow to a bound, so that a recording is found soon after it is there."""
    monkeypatch.setattr("qmc_async.client._FIRST_POLL", 0.02)
    monkeypatch.setattr("qmc_async.client._LONGEST_POLL", 0.03)
    async with (
        FaultyPlatform(always(NOT_READY)) as platform,
        connect(platform.url) as client,
    ):
        with pytest.raises(ApiError):
            await client.recording("c-1", wait=0.3)
    assert 7 <= len(platform.requests) <= 12


async def test_wait_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is up it asks once more, and raises the platform's last word."""
    monkeypatch.setattr("qmc_async.client._FIRST_POLL", 10.0)
    async with FaultyPlatform(always(NOT_READY)) as platform, connect(platform.url) as client:
        started = time.monotonic()
        with pytest.raises(ApiError, match="not yet") as caught:
            await client.recording("c-1", wait=0.2)
        assert time.monotonic() - started == pytest.approx(0.2, abs=0.1)
    assert caught.value.code == 40001
    assert len(platform.requests) == 2


@pytest.mark.parametrize("wait", ["5", None, -1, -0.001, float("nan"), float("-inf")])
async def test_bad_wait(wait: Any) -> None:  # noqa: ANN401 - callers err
    """A wait that is no time is refused, before anything is sent."""
    async with FaultyPlatform(always(NOT_READY)) as platform, connect(platform.url) as client:
        with pytest.raises(ArgumentError) as caught:
            await client.recording("c-1", wait=wait)
    assert caught.value.argument == "wait"
    assert platform.connections == 0


async def test_no_wait() -> None:
    """Without `wait=` a "no" is raised at once."""
    async with FaultyPlatform(always(NOT_READY)) as platform, connect(platform.url) as client:
        with pytest.raises(ApiError):
            await client.recording("c-1")
    assert len(platform.requests) == 1


@pytest.mark.parametrize(
    ("status", "error"), [("401 No", AuthenticationError), ("429 Slow", RateLimited)]
)
async def test_wait_is_not_for_these(status: str, error: type[ApiError]) -> None:
    """While it waits, a refusal of the credentials or of the pace is raised at once."""
    async with (
        FaultyPlatform(in_turn(http(b"", status))) as platform,
        connect(platform.url, max_retries=0) as client,
    ):
        with pytest.raises(error):
            await client.recording("c-1", wait=30)
    assert len(platform.requests) == 1


async def test_wait_is_not_for_a_broken_network() -> None:
    """While it waits, a platform that does not answer is raised once the retries are used up."""
    async with (
        FaultyPlatform(close_after_reading) as platform,
        connect(platform.url, max_retries=1) as client,
    ):
        with pytest.raises(TransportError):
            await client.recording("c-1", wait=30)
    assert len(platform.requests) == 2


async def test_expires() -> None:
    """The expiry is exact for a `Disconnected`, on the early side for a `Call`, else unknown."""
    end = datetime(2023, 8, 29, 8, 50, 26, tzinfo=BEIJING)
    three_days = timedelta(days=3)
    async with FaultyPlatform(always(http(DONE))) as platform, connect(platform.url) as client:
        call = await client.call(CALLER, CALLEE)
        by_call = await client.recording(call)
        by_event = await client.recording(Disconnected(call_id="c-1", end_time=end))
        by_id = await client.recording("c-1")
    assert by_event.expires_at == end + three_days
    assert by_call.expires_at == call.placed_at + three_days
    assert by_id.expires_at is None
    assert call.placed_at - datetime.now(UTC) < timedelta(seconds=5)
    assert call.placed_at.utcoffset() == timedelta(hours=8)
    assert {request.json["callidentifier"] for request in platform.seen[1:]} == {"c-1"}
    assert by_id.raw["fileUrl"] == by_id.file_url
    assert "files.invalid" not in repr(by_id)


# --- download(): whole --------------------------------------------------------------------------


async def test_whole(client: AsyncQmcClient, tmp_path: Path) -> None:
    """The file's bytes are the reply's, and nothing else is left beside it."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        path = await client.download(at(files.url), tmp_path / "call.wav")
    assert path == tmp_path / "call.wav"
    assert path.read_bytes() == AUDIO
    assert left_in(tmp_path) == ["call.wav"]


async def test_never_half_under_its_name(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Until the last byte is there the final name does not exist, or is still the old file."""
    target = tmp_path / "call.wav"
    target.write_bytes(b"old")
    seen: list[bytes] = []
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        await client.download(
            at(files.url),
            target,
            on_progress=lambda _written, _expected: seen.append(target.read_bytes()),
        )
    assert set(seen) == {b"old"}
    assert target.read_bytes() == AUDIO


async def test_looks_up(tmp_path: Path) -> None:
    """What is no `Recording` is looked up first."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        data = orjson.dumps({"code": 200, "data": {"fileUrl": files.url + PATH}})
        async with (
            FaultyPlatform(always(http(data))) as platform,
            connect(platform.url) as client,
        ):
            path = await client.download("c-1", tmp_path)
    assert path.read_bytes() == AUDIO
    assert platform.seen[0].json == {"callidentifier": "c-1"}


@pytest.mark.parametrize("as_text", [False, True])
async def test_overwrites(client: AsyncQmcClient, tmp_path: Path, *, as_text: bool) -> None:
    """A file of that name is replaced; the path may be a str."""
    target = tmp_path / "call.wav"
    target.write_bytes(b"old")
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        path = await client.download(at(files.url), str(target) if as_text else target)
    assert path == target
    assert target.read_bytes() == AUDIO


async def test_chunked(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A reply of unknown length is fetched whole; progress says None for what is expected."""
    chunks = b"".join(b"4\r\n" + AUDIO[n : n + 4] + b"\r\n" for n in (0, 4, 8)) + b"0\r\n\r\n"
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    progress: list[tuple[int, int | None]] = []
    async with FaultyPlatform(always(reply)) as files:
        path = await client.download(
            at(files.url),
            tmp_path,
            on_progress=lambda written, expected: progress.append((written, expected)),
        )
    assert path.read_bytes() == AUDIO[:12]
    assert progress[-1] == (12, None)


async def test_progress(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Progress only ever grows, and ends with all of it."""
    progress: list[tuple[int, int | None]] = []
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        await client.download(
            at(files.url),
            tmp_path,
            on_progress=lambda written, expected: progress.append((written, expected)),
        )
    written = [bytes_written for bytes_written, _ in progress]
    assert written == sorted(set(written))
    assert len(written) > 1
    assert progress[-1] == (len(AUDIO), len(AUDIO))
    assert {expected for _, expected in progress} == {len(AUDIO)}


@pytest.mark.parametrize("error", [KeyError, ValueError, TimeoutError, aiohttp.ClientError])
async def test_progress_that_raises(
    error: type[Exception], client: AsyncQmcClient, tmp_path: Path
) -> None:
    """What the user's function raises is the user's, and no partial file stays."""

    def stop(*_: object) -> None:
        raise error("enough")

    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        with pytest.raises(error, match="enough"):
            await client.download(at(files.url), tmp_path, on_progress=stop)
    assert left_in(tmp_path) == []


async def test_redirect(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A redirect is followed: fetching twice harms nobody."""
    async with (
        FaultyPlatform(always(AUDIO_REPLY)) as files,
        FaultyPlatform(always(http(b"", "302 Found", f"Location: {files.url}/2.wav\r\n"))) as first,
    ):
        path = await client.download(at(first.url), tmp_path)
    assert path.read_bytes() == AUDIO


def until_closed(body: bytes) -> bytes:
    """A reply that gives no length: the connection's end is the file's."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\n\r\n" + body


def wav(length: int, claimed: int) -> bytes:
    """A WAV file of so many bytes, that says it has so many."""
    return (b"RIFF" + (claimed - 8).to_bytes(4, "little") + b"WAVE").ljust(length, b".")


async def test_whole_without_a_length(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Where the host gives no length, a WAV file that is as long as it says is whole."""
    async with FaultyPlatform(once(until_closed(wav(500_000, 500_000)))) as files:
        path = await client.download(at(files.url), tmp_path)
    assert path.read_bytes() == wav(500_000, 500_000)


@pytest.mark.parametrize("body", [wav(499_999, 500_000), b"ID3" + bytes(9000), b"RI", b"RIFF"])
async def test_nobody_can_tell(body: bytes, client: AsyncQmcClient, tmp_path: Path) -> None:
    """Where neither the host nor the file gives a length, it may have been cut."""
    async with FaultyPlatform(once(until_closed(body))) as files:
        with pytest.raises(RecordingError, match="nobody can tell whether it is whole"):
            await client.download(at(files.url), tmp_path)
    assert left_in(tmp_path) == []


async def test_readable_by_us_alone(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A recording is nobody else's business on this machine either."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        path = await client.download(at(files.url), tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600


@both_transports
async def test_tells_the_file_host_nothing(transport: str, tmp_path: Path) -> None:
    """The file's host gets neither our signature nor a cookie."""
    reply = http(AUDIO, headers="Set-Cookie: a=b\r\n")
    async with FaultyPlatform(always(reply)) as files:
        found = orjson.dumps({"code": 200, "data": {"fileUrl": files.url + PATH}})
        async with (
            FaultyPlatform(
                always(http(found, headers="Set-Cookie: session=1; Domain=127.0.0.1\r\n"))
            ) as platform,
            connect(platform.url, transport) as client,
        ):
            for _ in range(2):
                await client.download("c-1", tmp_path)
    assert len(files.seen) == 2
    for request in files.seen:
        assert request.line == f"GET {PATH} HTTP/1.1"
        assert not {"authorization", "cookie", "referer"} & set(request.headers)
        assert request.headers["accept-encoding"] == "identity"
        assert request.body == b""


# --- download(): or not at all ------------------------------------------------------------------


async def cut(connection: Connection) -> None:
    """End the connection properly in the middle of the file."""
    await connection.answer(AUDIO_REPLY[:-1000])


async def cut_in_a_chunk(connection: Connection) -> None:
    """The same, where no length was announced."""
    await connection.answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nRIFF\r\n400\r\nxx"
    )


async def stall(connection: Connection) -> None:
    """Send half, and then nothing."""
    await connection.answer(AUDIO_REPLY[: len(AUDIO_REPLY) // 2])
    await asyncio.sleep(3600)


async def around(connection: Connection) -> None:
    """Redirect for ever."""
    while True:
        await connection.answer(http(b"", "302 Found", f"Location: {PATH}\r\n"))


NOTHING_USABLE: dict[str, tuple[Behaviour, str]] = {
    "404": (always(http(AUDIO, "404 Not Found")), "HTTP 404"),
    "500": (always(http(b"", "500 Oops")), "HTTP 500"),
    "206": (always(http(AUDIO, "206 Partial Content")), "HTTP 206"),
    "204": (always(http(b"", "204 No Content")), "HTTP 204"),
    "HTML": (
        always(http(b"<html>", headers="Content-Type: text/html; charset=utf-8\r\n")),
        "text/html",
    ),
    "text": (always(http(b"no", headers="Content-Type: text/plain\r\n")), "text/plain"),
    "JSON": (always(http(b"{}", headers="Content-Type: application/json\r\n")), "json"),
    "XML": (always(http(b"<Error>", headers="Content-Type: application/xml\r\n")), "xml"),
    "image": (always(http(b"GIF", headers="Content-Type: image/gif\r\n")), "image/gif"),
    "empty": (always(http(b"", headers="Content-Type: audio/wav\r\n")), "empty"),
    "cut": (cut, "broke"),
    "cut in a chunk": (cut_in_a_chunk, "broke"),
    "stalled": (stall, "broke"),
    "no answer": (never_answer, "broke"),
    "closed": (close_before_reading, "broke"),
    "not HTTP": (no_http, "broke"),
    "redirect for ever": (around, "broke"),
    "compressed nonsense": (
        always(http(AUDIO, headers="Content-Encoding: gzip\r\n")),
        "broke",
    ),
}


@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "over an old file"])
@pytest.mark.parametrize("fault", NOTHING_USABLE)
async def test_nothing_usable(
    fault: str,
    old: bytes | None,
    client: AsyncQmcClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Anything but a whole file is a `RecordingError`; nothing is left, an old file stays."""
    caplog.set_level(logging.DEBUG)
    behaviour, says = NOTHING_USABLE[fault]
    target = tmp_path / "call.wav"
    if old is not None:
        target.write_bytes(old)
    async with FaultyPlatform(behaviour) as files:
        with pytest.raises(RecordingError, match=says) as caught:
            await client.download(at(files.url), target)
    assert left_in(tmp_path) == ([] if old is None else ["call.wav"])
    assert old is None or target.read_bytes() == old
    assert "call c-1" in str(caught.value)
    assert caught.value.__context__ is None
    # Who has the address can listen.
    assert "rec-token" not in str(caught.value) + caplog.text
    assert "rec-sign" not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/only/a/path.wav",
        "files.example/1.wav",
        "ftp://127.0.0.1/1.wav",
        "file:///etc/hostname",
        "http://",
        "http://127.0.0.1:99999/1.wav",
        "http://[::1/1.wav",
        "http://rec-token.\u2100/1.wav",
        "http://nonexistent.invalid/1.wav",
        "http://127.0.0.1:1/\ud800.wav",
    ],
)
async def test_no_address(url: str, client: AsyncQmcClient, tmp_path: Path) -> None:
    """An address that leads nowhere is a `RecordingError` too, also for a folder."""
    for destination in (tmp_path, tmp_path / "call.wav"):
        with pytest.raises(RecordingError, match="broke"):
            await client.download(Recording(call_id="c-1", file_url=url), destination)
    assert left_in(tmp_path) == []


async def test_refused(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A host that refuses is a `RecordingError`."""
    async with unreachable() as url:
        with pytest.raises(RecordingError, match="broke"):
            await client.download(at(url), tmp_path)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("moment", [0, 1, 3, 10, 30])
async def test_cancelled(moment: int, client: AsyncQmcClient, tmp_path: Path) -> None:
    """Cancelled at any moment, it leaves nothing, and the client stays usable."""
    async with FaultyPlatform(stall, always(AUDIO_REPLY)) as files:
        task = asyncio.ensure_future(client.download(at(files.url), tmp_path))
        for _ in range(moment):
            await asyncio.sleep(0.003)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left_in(tmp_path) == []
        files.behaviours = [always(AUDIO_REPLY)]
        assert (await client.download(at(files.url), tmp_path)).read_bytes() == AUDIO
    assert left_in(tmp_path) == ["c-1.wav"]


async def test_cancelled_half_way(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Cancelled with half of it on disk, it leaves nothing."""
    half = asyncio.Event()
    async with FaultyPlatform(stall) as files:
        task = asyncio.ensure_future(
            client.download(
                at(files.url), tmp_path, on_progress=lambda _written, _expected: half.set()
            )
        )
        await half.wait()
        (partial,) = left_in(tmp_path)
        assert re.fullmatch(r"\.[0-9a-f]{16}\.part", partial)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert left_in(tmp_path) == []


async def test_timeout_is_for_each_piece(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A file that comes slowly but steadily is fetched, however long the whole takes."""

    async def steady(connection: Connection) -> None:
        await connection.read_request()
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for byte in b"RIFF..":
            await asyncio.sleep(0.1)
            connection.writer.write(bytes([byte]))

    async with FaultyPlatform(steady) as files:
        started = time.monotonic()
        path = await client.download(at(files.url), tmp_path)
    assert path.read_bytes() == b"RIFF.."
    assert time.monotonic() - started > 0.3  # the client's timeout


async def test_missing_folder(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A file that cannot be written is an `OSError`, before anything is fetched."""
    (tmp_path / "file").touch()
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        for destination in (tmp_path / "missing" / "call.wav", tmp_path / "file" / "call.wav"):
            with pytest.raises(OSError, match=r"\.part'"):
                await client.download(at(files.url), destination)
        assert files.requests == []
    assert left_in(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_unwritable_folder(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A folder that may not be written to is a `PermissionError`."""
    tmp_path.chmod(0o500)  # noqa: ASYNC240 - one call, in a test
    with pytest.raises(PermissionError):
        await client.download(at("http://127.0.0.1:9"), tmp_path)


async def test_full_disk(
    client: AsyncQmcClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up at the end is an `OSError`, and leaves nothing."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        with pytest.raises(OSError, match="No space left"):
            await client.download(at(files.url), tmp_path)
    assert left_in(tmp_path) == []


async def test_on_disk_before_it_has_its_name(
    client: AsyncQmcClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are synced to the disk before the rename, so that a crash leaves all or nothing."""
    seen: list[tuple[int, list[str]]] = []
    real = os.fsync

    def sync(descriptor: int) -> None:
        seen.append((os.fstat(descriptor).st_size, left_in(tmp_path)))
        real(descriptor)

    monkeypatch.setattr("os.fsync", sync)
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        await client.download(at(files.url), tmp_path)
    ((size, names),) = seen
    assert size == len(AUDIO)
    assert all(name.endswith(".part") for name in names)


async def test_two_at_once(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Two downloads of one recording do not disturb each other."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        await asyncio.gather(*(client.download(at(files.url), tmp_path) for _ in range(5)))
    assert left_in(tmp_path) == ["c-1.wav"]
    assert (tmp_path / "c-1.wav").read_bytes() == AUDIO


# --- download(): the name -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "suffix"),
    [
        ("/1.wav", ".wav"),
        ("/1.mp3", ".mp3"),
        ("/1.MP3", ".mp3"),
        ("/1.amr?x=y.ogg", ".amr"),
        ("/1.ogg#part", ".ogg"),
        ("/1.m4a", ".m4a"),
        ("/1", ".wav"),
        ("/", ".wav"),
        ("/1.php", ".wav"),
        ("/1.wav.exe", ".wav"),
        ("/x.mp3/1", ".wav"),
        ("/1.mp3%2F..%2Fx", ".wav"),
    ],
)
async def test_suffix(path: str, suffix: str, client: AsyncQmcClient, tmp_path: Path) -> None:
    """In a folder the file has the call's id and the address's suffix, where it is a sound's."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        saved = await client.download(at(files.url, path=path), tmp_path)
    assert saved == tmp_path / f"c-1{suffix}"
    assert saved.read_bytes() == AUDIO


@pytest.mark.parametrize(
    "call_id",
    [
        "../../x",
        "/etc/x",
        "..",
        ".",
        "",
        "a/b\\c",
        "..\\..\\x",
        "C:\\x",
        "nul\0byte",
        "line\nbreak",
        "通话" * 32,
        "a" * 1000,
        "../" * 400,
        "~",
        "\ud800",
        "%2e%2e%2f",
    ],
)
async def test_hostile_call_id(call_id: str, client: AsyncQmcClient, tmp_path: Path) -> None:
    """Whatever the id, the file is directly in the folder, and whole."""
    folder = tmp_path / "folder"
    folder.mkdir()
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        saved = await client.download(at(files.url, call_id), folder)
    assert saved.parent == folder
    assert saved.resolve().parent == folder.resolve()
    assert left_in(folder) == [saved.name]
    assert saved.read_bytes() == AUDIO
    assert left_in(tmp_path) == ["folder"]


async def test_long_ids_do_not_collide(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Ids that differ only at their end have files of their own."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        for last in "ab":
            await client.download(at(files.url, "通话" * 31 + last), tmp_path)
    assert len(left_in(tmp_path)) == 2


async def test_bad_argument(client: AsyncQmcClient, tmp_path: Path) -> None:
    """What is neither a recording nor a call is refused, and names the argument."""
    with pytest.raises(ArgumentError) as caught:
        await client.download(5, tmp_path)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert caught.value.argument == "call"
