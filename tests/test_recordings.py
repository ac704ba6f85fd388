"""Fetch a recording, and have all of it. What must not become a file is in its neighbours."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
from faulty_platform import (
    SECRET,
    TRANSPORTS,
    Connection,
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
    PATH,
    at,
    in_chunks,
    left_in,
    until_closed,
    wav,
)

from qmc_async.errors import (
    ArgumentError,
    RecordingError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from qmc_async.client import AsyncQmcClient

both_transports = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture
async def client() -> AsyncGenerator[AsyncQmcClient]:
    """A client whose platform is not there, with a short patience."""
    async with connect(
        "http://127.0.0.1:9", timeout=0.3, max_retries=0, recording_networks=LOOPBACK
    ) as client:
        yield client


async def test_whole(client: AsyncQmcClient, tmp_path: Path) -> None:
    """The file's bytes are the reply's, and nothing else is left beside it."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        saved = await client.download(at(files.url), tmp_path / "call.wav")
    assert saved.path == tmp_path / "call.wav"
    assert saved.path.read_bytes() == AUDIO
    assert left_in(tmp_path) == ["call.wav"]


async def test_what_is_told_of_the_file(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Its length, digest and format are those of what was sent, and it is a path."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        saved = await client.download(at(files.url), tmp_path)
    assert saved.sha256 == hashlib.sha256(AUDIO).hexdigest()
    assert (saved.length, saved.format) == (len(AUDIO), "wav")
    assert os.fspath(saved) == str(saved) == str(tmp_path / "c-1.wav")
    assert await asyncio.to_thread(Path(saved).read_bytes) == AUDIO


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
            connect(platform.url, recording_networks=LOOPBACK) as client,
        ):
            saved = await client.download("c-1", tmp_path)
    assert saved.path.read_bytes() == AUDIO
    assert platform.seen[0].json == {"callidentifier": "c-1"}


@pytest.mark.parametrize("as_text", [False, True])
async def test_overwrites(client: AsyncQmcClient, tmp_path: Path, *, as_text: bool) -> None:
    """A file of that name is replaced; the path may be a str."""
    target = tmp_path / "call.wav"
    target.write_bytes(b"old")
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        saved = await client.download(at(files.url), str(target) if as_text else target)
    assert saved.path == target
    assert target.read_bytes() == AUDIO


@pytest.mark.parametrize("coding", ["chunked", "Chunked"])
async def test_chunked(coding: str, client: AsyncQmcClient, tmp_path: Path) -> None:
    """A reply of unknown length is fetched whole; progress says None for what is expected."""
    sound = b"ID3\x04" + AUDIO  # not a WAV file, which would say itself how long it is
    progress: list[tuple[int, int | None]] = []
    async with FaultyPlatform(
        always(in_chunks(sound, f"Transfer-Encoding: {coding}\r\n"))
    ) as files:
        saved = await client.download(
            at(files.url),
            tmp_path,
            on_progress=lambda written, expected: progress.append((written, expected)),
        )
    assert saved.path.read_bytes() == sound
    assert progress[-1] == (len(sound), None)
    assert {expected for _, expected in progress} == {None}


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
        assert len(files.requests) == 1  # nor is it taken for a fault of the network
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
async def test_redirect(status: str, client: AsyncQmcClient, tmp_path: Path) -> None:
    """A redirect is followed, to another host and within one: fetching twice harms nobody."""
    async with (
        FaultyPlatform(in_turn(http(b"", status, "Location: ../2.wav\r\n"), AUDIO_REPLY)) as files,
        FaultyPlatform(always(http(b"", status, f"Location: {files.url}/a/b/1.wav\r\n"))) as first,
    ):
        saved = await client.download(at(first.url), tmp_path)
    assert saved.path.read_bytes() == AUDIO
    assert [request.line for request in files.seen] == [
        "GET /a/b/1.wav HTTP/1.1",
        "GET /a/2.wav HTTP/1.1",
    ]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/a%28b%2Fc.wav?x=%2F+%20%7e&token=AK:s-_=:e30=", None),
        ("/%E5%AD/1.wav?sign=%e5", None),
        ("/录音 1.wav?x=%", "/%E5%BD%95%E9%9F%B3%201.wav?x=%25"),
        ("/1.wav#part", "/1.wav"),
    ],
)
async def test_address_is_sent_as_it_is(
    path: str, asked: str | None, client: AsyncQmcClient, tmp_path: Path
) -> None:
    """A signature may be of the address's very text: only what cannot be sent is quoted."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        await client.download(at(files.url, path=path), tmp_path)
    assert [request.line for request in files.seen] == [f"GET {asked or path} HTTP/1.1"]


async def test_whole_without_a_length(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Where the host gives no length, a WAV file that is as long as it says is whole."""
    for body in (wav(500_000), wav(500_001, 500_000)):  # or a byte longer, which is padding
        async with FaultyPlatform(once(until_closed(body))) as files:
            saved = await client.download(at(files.url), tmp_path)
        assert saved.path.read_bytes() == body


@pytest.mark.parametrize(
    "body",
    [
        wav(499_999, 500_000),
        wav(500_000, 44),  # the head of a file that was still being written
        wav(500_000, 0xFFFFFFFF),
        b"ID3\x04" + bytes(9000),
    ],
    ids=["cut", "no length yet", "no length ever", "no WAV"],
)
async def test_nobody_can_tell(body: bytes, client: AsyncQmcClient, tmp_path: Path) -> None:
    """Where neither the host nor the file gives a length, it may have been cut."""
    async with FaultyPlatform(once(until_closed(body))) as files:
        with pytest.raises(RecordingError, match="nobody can tell whether it is whole"):
            await client.download(at(files.url), tmp_path)
    assert left_in(tmp_path) == []


async def test_readable_by_us_alone(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A recording is nobody else's business on this machine either, nor is a part of it."""
    modes: list[int] = []

    def look(*_: object) -> None:
        modes.extend(path.stat().st_mode & 0o777 for path in tmp_path.iterdir())

    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        saved = await client.download(at(files.url), tmp_path, on_progress=look)
    assert saved.path.stat().st_mode & 0o777 == 0o600
    assert set(modes) == {0o600}


@both_transports
async def test_tells_the_file_host_nothing(transport: str, tmp_path: Path) -> None:
    """The file's host gets neither our signature nor a cookie, nor does one that it leads to."""
    async with FaultyPlatform(
        in_turn(
            http(AUDIO, headers="Set-Cookie: a=b\r\n"),
            http(b"", "302 Found", "Location: /2.wav\r\nSet-Cookie: c=d\r\n"),
            AUDIO_REPLY,
        )
    ) as files:
        found = orjson.dumps({"code": 200, "data": {"fileUrl": files.url + PATH}})
        async with (
            FaultyPlatform(
                always(http(found, headers="Set-Cookie: session=1; Domain=127.0.0.1\r\n"))
            ) as platform,
            connect(platform.url, transport, recording_networks=LOOPBACK) as client,
        ):
            for _ in range(2):
                await client.download("c-1", tmp_path)
    lines = [f"GET {PATH} HTTP/1.1", f"GET {PATH} HTTP/1.1", "GET /2.wav HTTP/1.1"]
    assert [request.line for request in files.seen] == lines
    signatures = [request.headers["authorization"].encode() for request in platform.seen]
    assert len(signatures) == 2
    for request in files.seen:
        assert not {"authorization", "cookie", "referer"} & set(request.headers)
        assert request.headers["accept-encoding"] == "identity"
        assert request.body == b""
        assert not [word for word in (*signatures, SECRET.encode()) if word in request.raw]


async def test_timeout_is_for_each_piece(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A file that comes slowly but steadily is fetched, however long the whole takes."""
    sound = wav(46)

    async def steady(connection: Connection) -> None:
        await connection.read_request()
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\n")
        for start in range(0, 46, 8):
            await asyncio.sleep(0.1)
            connection.writer.write(sound[start : start + 8])

    async with FaultyPlatform(steady) as files:
        started = time.monotonic()
        saved = await client.download(at(files.url), tmp_path)
    assert saved.path.read_bytes() == sound
    assert time.monotonic() - started > 0.3  # the client's timeout


@pytest.mark.parametrize("wait", ["5", None, -1, float("nan")])
async def test_bad_wait_for_the_file(wait: Any, client: AsyncQmcClient, tmp_path: Path) -> None:  # noqa: ANN401 - callers err
    """A wait that is no time is refused, before anything is asked for."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        with pytest.raises(ArgumentError) as caught:
            await client.download(at(files.url), tmp_path, wait=wait)
        assert files.connections == 0
    assert caught.value.argument == "wait"


@pytest.mark.parametrize("length", [0, -1, True, 1.0, None, "5"])
async def test_bad_max_bytes(length: Any, client: AsyncQmcClient, tmp_path: Path) -> None:  # noqa: ANN401 - callers err
    """A limit that is no length is refused, before anything is asked for."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        with pytest.raises(ArgumentError) as caught:
            await client.download(at(files.url), tmp_path, max_bytes=length)
        assert files.connections == 0
    assert caught.value.argument == "max_bytes"


async def test_bad_argument(client: AsyncQmcClient, tmp_path: Path) -> None:
    """What is neither a recording nor a call is refused, and names the argument."""
    with pytest.raises(ArgumentError) as caught:
        await client.download(5, tmp_path)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the mistake
    assert caught.value.argument == "call"
