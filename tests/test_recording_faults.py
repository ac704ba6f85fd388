"""What must not become a file: errors, pages in place of sound, cut and endless ones."""

from __future__ import annotations

import asyncio
import gzip
import logging
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from faulty_platform import (
    Connection,
    FaultyPlatform,
    always,
    close_before_reading,
    connect,
    http,
    in_turn,
    never_answer,
    no_http,
    no_tls,
    once,
    unreachable,
)
from recording_host import (
    AUDIO,
    AUDIO_REPLY,
    LOOPBACK,
    PATH,
    Kept,
    at,
    in_chunks,
    left_in,
    no_wait,
    serves,
    until_closed,
    wav,
)

from qmc_async.errors import RecordingError
from qmc_async.models import Recording

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from faulty_platform import Behaviour

    from qmc_async.client import AsyncQmcClient

LENGTH = len(AUDIO)
HALF = LENGTH // 2
PAGE = b"<!DOCTYPE html><title>\xe5\x87\xba\xe9\x94\x99</title>" + b"<p>no</p>" * 200
AS_AUDIO = "Content-Type: audio/wav\r\n"
CHUNK = b"3e8\r\n" + AUDIO[:1000]


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


# --- Nothing usable -----------------------------------------------------------------------------


async def cut(connection: Connection) -> None:
    """End the connection properly in the middle of the file."""
    await connection.answer(AUDIO_REPLY[:-1000])


async def cut_in_a_chunk(connection: Connection) -> None:
    """The same, where no length was announced."""
    await connection.answer(in_chunks(AUDIO)[:-1000])


async def no_last_chunk(connection: Connection) -> None:
    """All of the file, but not the word that this was all."""
    await connection.answer(in_chunks(AUDIO)[:-5])


async def reset(connection: Connection) -> None:
    """Reset the connection in the middle of the file."""
    await connection.answer(AUDIO_REPLY[:-1000])
    connection.reset()


async def stall(connection: Connection) -> None:
    """Send half, and then nothing."""
    await connection.answer(AUDIO_REPLY[: len(AUDIO_REPLY) // 2])
    await asyncio.sleep(3600)


def in_packets(*parts: bytes) -> Behaviour:
    """Begin a reply in chunks, and send what follows piece by piece; then stay connected."""

    async def behaviour(connection: Connection) -> None:
        await connection.answer(until_closed(b"", AS_AUDIO + "Transfer-Encoding: chunked\r\n"))
        for part in parts:
            await asyncio.sleep(0.05)
            connection.writer.write(part)
        await asyncio.sleep(3600)

    return behaviour


def says(*lines: str, body: bytes = AUDIO) -> Behaviour:
    """Send all of the file under a head of these lines, and close."""
    return once(until_closed(body, "".join(f"{line}\r\n" for line in lines)))


NOTHING_USABLE: dict[str, tuple[Behaviour, str]] = {
    "404": (always(http(AUDIO, "404 Not Found", AS_AUDIO)), "HTTP 404"),
    "expired, 403": (always(http(PAGE, "403 Expired", "Content-Type: text/html\r\n")), "HTTP 403"),
    "expired, 404": (always(http(PAGE, "404 Gone", "Content-Type: text/html\r\n")), "HTTP 404"),
    "expired, 410": (always(http(b"{}", "410 Gone", "Content-Type: application/json\r\n")), "410"),
    "500": (always(http(b"", "500 Oops")), "HTTP 500"),
    "206": (always(http(AUDIO, "206 Partial Content", AS_AUDIO)), "HTTP 206"),
    "204": (always(http(b"", "204 No Content")), "HTTP 204"),
    "304": (always(http(b"", "304 Not Modified")), "HTTP 304"),
    "300": (always(http(AUDIO, "300 Multiple Choices", AS_AUDIO)), "HTTP 300"),
    "HTML": (always(http(PAGE, headers="Content-Type: text/html; charset=utf-8\r\n")), "text/html"),
    "HTML, shouted": (always(http(PAGE, headers="Content-Type: Text/HTML\r\n")), "text/html"),
    "HTML as audio": (always(http(PAGE, headers=AS_AUDIO)), "not to audio"),
    "HTML as audio in chunks": (once(in_chunks(PAGE)), "not to audio"),
    "HTML as anything": (always(http(PAGE)), "not to audio"),
    "HTML in UTF-16 as audio": (
        always(http(PAGE.decode().encode("utf-16"), headers=AS_AUDIO)),
        "not to audio",
    ),
    "text": (always(http(b"no", headers="Content-Type: text/plain\r\n")), "text/plain"),
    "sound as text": (always(http(AUDIO, headers="Content-Type: text/plain\r\n")), "text/plain"),
    "JSON": (
        always(http(b'{"code": 404}', headers="Content-Type: application/json\r\n")),
        "json",
    ),
    "JSON as audio": (always(http(b'{"code": 404}', headers=AS_AUDIO)), "not to audio"),
    "problem": (
        always(http(b"{}", headers="Content-Type: application/problem+json\r\n")),
        "not to audio",
    ),
    "XML": (always(http(b"<Error>", headers="Content-Type: application/xml\r\n")), "xml"),
    "image": (always(http(b"GIF", headers="Content-Type: image/gif\r\n")), "image/gif"),
    "bytes of no type": (always(http(bytes(5000))), "not to audio"),
    "one letter": (always(http(b"R", headers=AS_AUDIO)), "not to audio"),
    "empty": (always(http(b"", headers=AS_AUDIO)), "empty"),
    "empty in chunks": (once(in_chunks(b"")), "empty"),
    "empty without a length": (once(until_closed(b"")), "empty"),
    "cut": (cut, "broke"),
    "cut in a chunk": (cut_in_a_chunk, "broke"),
    "no last chunk": (no_last_chunk, "broke"),
    "no chunk": (in_packets(b"zz\r\n"), "broke"),
    "no chunk after one": (in_packets(CHUNK + b"\r\n", b"zz\r\n"), "broke"),
    "no chunk behind one": (in_packets(CHUNK + b"\r\nzz\r\n"), "broke"),
    "a chunk that goes on": (in_packets(CHUNK, b"XX3e8\r\n"), "broke"),
    "a reply in a chunk's place": (in_packets(CHUNK + b"\r\n", http(b"", "502 Oops")), "broke"),
    "a trailer that is none": (in_packets(CHUNK + b"\r\n0\r\n", b"a\0\r\n\r\n"), "broke"),
    "reset": (reset, "broke"),
    "stalled": (stall, "broke"),
    "no answer": (never_answer, "broke"),
    "closed": (close_before_reading, "broke"),
    "not HTTP": (no_http, "broke"),
    "HTTP 0.9": (once(AUDIO), "broke"),
    "HTTP 1.0, cut": (once(b"HTTP/1.0 200 OK\r\n\r\n" + AUDIO[:HALF]), "nobody can tell"),
    "one byte too many": (says(f"Content-Length: {LENGTH + 1}"), "broke"),
    "twice as long": (says(f"Content-Length: {LENGTH * 2}"), "broke"),
    "nine bytes too few": (says(f"Content-Length: {LENGTH - 9}"), "shorter than it says"),
    "half as long": (says(f"Content-Length: {HALF}"), "shorter than it says"),
    "two lengths": (says(f"Content-Length: {LENGTH}", "Content-Length: 5"), "broke"),
    "nine bytes more": (once(http(wav(LENGTH, LENGTH + 9), headers=AS_AUDIO)), "shorter than it"),
    "no length at all": (says("Content-Length: all of it"), "broke"),
    "a negative length": (says("Content-Length: -1"), "broke"),
    "a length of no end": (says(f"Content-Length: {10**40}"), "broke"),
    "a length and chunks": (
        once(in_chunks(AUDIO, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        "broke",
    ),
    "compressed nonsense": (
        always(http(AUDIO, headers="Content-Encoding: gzip\r\n")),
        "compressed",
    ),
    "compressed": (
        always(http(gzip.compress(AUDIO), headers=AS_AUDIO + "Content-Encoding: gzip\r\n")),
        "compressed",
    ),
    "compressed, said second": (
        always(
            http(
                gzip.compress(AUDIO),
                headers=AS_AUDIO + "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n",
            )
        ),
        "compressed",
    ),
    "compressed by another name": (
        always(http(gzip.compress(AUDIO), headers=AS_AUDIO + "Content-Encoding: x-own\r\n")),
        "compressed",
    ),
    "redirect for ever": (always(http(b"", "302 Found", f"Location: {PATH}\r\n")), "redirects"),
    "redirect nowhere": (always(http(b"", "302 Found")), "does not say where to"),
    "redirect to a file": (
        always(http(b"", "302 Found", "Location: file:///etc/hostname\r\n")),
        "no address",
    ),
    "redirect to nonsense": (
        always(http(b"", "302 Found", "Location: http://[::1/1.wav\r\n")),
        "no address",
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
        assert len(files.requests) <= 6
    assert left_in(tmp_path) == ([] if old is None else ["call.wav"])
    assert old is None or target.read_bytes() == old
    assert "call c-1" in str(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.temporary
    # Who has the address can listen.
    assert "rec-token" not in str(caught.value) + caplog.text
    assert "rec-sign" not in str(caught.value) + caplog.text


@pytest.mark.parametrize("more", [1, 8])
async def test_a_head_that_counts_itself(more: int, client: AsyncQmcClient, tmp_path: Path) -> None:
    """A recorder that counts the head, or padding that it leaves out, is not a cut file."""
    sound = wav(5000, 5000 + more)
    async with FaultyPlatform(always(http(sound, headers=AS_AUDIO))) as files:
        saved = await client.download(at(files.url), tmp_path / "call.wav")
    assert saved.path.read_bytes() == sound


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
        "http://127.0.0.1:port/1.wav",
        "http://[::1/1.wav",
        "http://[::1]:80:80/1.wav",
        "http://rec-token.\u2100/1.wav",
        "http://nonexistent.invalid/1.wav",
        "http://127.0.0.1:1/\ud800.wav",
    ],
)
async def test_no_address(url: str, client: AsyncQmcClient, tmp_path: Path) -> None:
    """An address that leads nowhere is a `RecordingError` too, also for a folder."""
    for destination in (tmp_path, tmp_path / "call.wav"):
        with pytest.raises(RecordingError, match=r"no address of the web|broke") as caught:
            await client.download(Recording(call_id="c-1", file_url=url), destination)
        assert caught.value.__context__ is None
        assert "rec-token" not in str(caught.value)
    assert left_in(tmp_path) == []


async def test_refused(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A host that refuses is a `RecordingError`."""
    async with unreachable() as url:
        with pytest.raises(RecordingError, match="broke"):
            await client.download(at(url), tmp_path)
    assert left_in(tmp_path) == []


async def test_no_tls(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A host that does not speak TLS where it should is one too."""
    async with FaultyPlatform(no_tls) as files:
        with pytest.raises(RecordingError, match="broke"):
            await client.download(at(files.url.replace("http:", "https:")), tmp_path)
    assert left_in(tmp_path) == []


async def test_redirects_are_counted(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Five in a row are followed, and six are not."""
    further = [http(b"", "302 Found", f"Location: /{number}\r\n") for number in range(5)]
    async with FaultyPlatform(in_turn(*further, AUDIO_REPLY)) as files:
        assert (await client.download(at(files.url), tmp_path)).path.read_bytes() == AUDIO
    async with FaultyPlatform(in_turn(*further, further[0], AUDIO_REPLY)) as files:
        with pytest.raises(RecordingError, match="more than 5 times"):
            await client.download(at(files.url), tmp_path)
        assert len(files.requests) == 6


# --- Too long -----------------------------------------------------------------------------------


async def test_said_to_be_too_long(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Three gigabytes are more than the default allows: not waited for, and nothing is written."""
    progress: list[int] = []
    reply = http(AUDIO, headers=AS_AUDIO, length=3 << 30)
    async with FaultyPlatform(always(reply)) as files:
        with pytest.raises(RecordingError, match=f"longer than {1 << 30} bytes") as caught:
            await client.download(
                at(files.url),
                tmp_path,
                wait=30,
                on_progress=lambda written, _expected: progress.append(written),
            )
        assert len(files.requests) == 1
    assert not caught.value.temporary
    assert progress == []
    assert left_in(tmp_path) == []


async def test_without_end(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A stream without end is left at the limit; neither memory nor disk takes more than that."""
    limit = 48 << 20
    progress: list[int] = []
    sent = 0

    async def endless(connection: Connection) -> None:
        nonlocal sent
        await connection.answer(until_closed(b"", AS_AUDIO + "Transfer-Encoding: chunked\r\n"))
        piece = AUDIO[: 256 * 1024]
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
        while sent < 3 << 30:
            connection.writer.write(chunk)
            await connection.writer.drain()
            sent += len(piece)

    (tmp_path / "call.wav").write_bytes(b"old")
    tracemalloc.start()
    try:
        async with FaultyPlatform(endless) as files:
            with pytest.raises(RecordingError, match=f"longer than {limit} bytes") as caught:
                await client.download(
                    at(files.url),
                    tmp_path / "call.wav",
                    max_bytes=limit,
                    on_progress=lambda written, _expected: progress.append(written),
                )
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not caught.value.temporary
    assert limit - (1 << 20) < progress[-1] <= limit
    assert most < 16 << 20
    assert sent < limit + (32 << 20)  # what the sockets hold
    assert left_in(tmp_path) == ["call.wav"]
    assert (tmp_path / "call.wav").read_bytes() == b"old"


@pytest.mark.parametrize("reply", [AUDIO_REPLY, in_chunks(AUDIO)], ids=["sized", "chunked"])
async def test_limit(reply: bytes, client: AsyncQmcClient, tmp_path: Path) -> None:
    """A file of just the limit is fetched, and of one byte more is not."""
    async with FaultyPlatform(always(reply)) as files:
        with pytest.raises(RecordingError, match=f"longer than {LENGTH - 1} bytes"):
            await client.download(at(files.url), tmp_path, max_bytes=LENGTH - 1)
        assert left_in(tmp_path) == []
        saved = await client.download(at(files.url), tmp_path, max_bytes=LENGTH)
    assert saved.path.read_bytes() == AUDIO


async def test_the_rest_is_too_long(tmp_path: Path) -> None:
    """The limit is for the whole file, over all connections, also where no length was given."""
    kept = Kept(AUDIO, sized=False, cuts=[HALF], written=0)
    async with (
        FaultyPlatform(serves(kept)) as files,
        connect("http://127.0.0.1:9", max_retries=1, recording_networks=LOOPBACK) as client,
    ):
        with pytest.raises(RecordingError, match="longer than"):
            await client.download(
                at(files.url), tmp_path, max_bytes=LENGTH - 1, on_progress=kept.note
            )
    assert left_in(tmp_path) == []
