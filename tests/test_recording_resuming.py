"""A transfer that is cut goes on where it was, and never with the bytes of another file."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from typing import TYPE_CHECKING

import pytest
from faulty_platform import Connection, FaultyPlatform, always, connect, http, never_answer, once
from recording_host import (
    AUDIO,
    AUDIO_REPLY,
    LOOPBACK,
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

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmc_async.client import AsyncQmcClient
    from qmc_async.recordings import RecordingFile

LENGTH = len(AUDIO)
HALF = LENGTH // 2
TENTHS = [LENGTH * tenth // 10 for tenth in range(10)]
OTHER = wav(LENGTH, seed=1)
LONGER = wav(LENGTH + 4000, seed=2)
SHORTER = wav(HALF - 4000, seed=3)
DATE = "Last-Modified: Tue, 29 Aug 2023 00:50:26 GMT\r\n"
LATER = "Last-Modified: Tue, 29 Aug 2023 00:50:27 GMT\r\n"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between attempts are not what these tests are about."""
    monkeypatch.setattr("qmc_async.recording_transfer.back_off", no_wait)


@pytest.fixture
async def client() -> AsyncGenerator[AsyncQmcClient]:
    """A client that tries again, whose platform is not there."""
    async with connect(
        "http://127.0.0.1:9", timeout=0.5, max_retries=3, recording_networks=LOOPBACK
    ) as client:
        yield client


def check(saved: RecordingFile, content: bytes) -> None:
    """It is this file to the last byte, and is said to be."""
    assert saved.path.read_bytes() == content
    assert saved.sha256 == hashlib.sha256(content).hexdigest()
    assert saved.length == len(content)
    assert left_in(saved.path.parent) == [saved.path.name]


# --- Cut ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", ['ETag: "1"\r\n', DATE, 'ETag: W/"1"\r\n' + DATE])
async def test_cut_at_each_tenth(headers: str, client: AsyncQmcClient, tmp_path: Path) -> None:
    """Cut ten times, each time further on, it arrives whole; nothing is sent twice but the rest."""
    kept = Kept(AUDIO, headers, cuts=list(TENTHS), written=0)
    progress: list[tuple[int, int | None]] = []

    def note(written: int, expected: int | None) -> None:
        kept.note(written)
        progress.append((written, expected))

    async with FaultyPlatform(serves(kept)) as files:
        check(await client.download(at(files.url), tmp_path, on_progress=note), AUDIO)
    assert kept.starts == [0, *TENTHS]
    written = [bytes_written for bytes_written, _ in progress]
    assert written == sorted(set(written))
    assert progress[-1] == (LENGTH, LENGTH)


@pytest.mark.parametrize("lacks", ["ranges", "marks"])
async def test_cut_at_each_tenth_of_a_bare_host(lacks: str, tmp_path: Path) -> None:
    """One that knows no ranges, or marks no file, sends all of it each time until it is whole."""
    kept = Kept(AUDIO, cuts=list(TENTHS))
    if lacks == "ranges":
        kept.ranges = False
    else:
        kept.headers = ""
    async with (
        FaultyPlatform(serves(kept)) as files,
        connect("http://127.0.0.1:9", max_retries=3, recording_networks=LOOPBACK) as client,
    ):
        check(await client.download(at(files.url), tmp_path), AUDIO)
    assert kept.starts == [0] * 11


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("headers", ['ETag: "1"\r\n', DATE, ""])
async def test_marks(headers: str, client: AsyncQmcClient, tmp_path: Path, *, sized: bool) -> None:
    """The rest is asked for only if something marks this very file: a length does not."""
    kept = Kept(AUDIO, headers, sized=sized, cuts=[HALF])
    async with FaultyPlatform(serves(kept)) as files:
        check(await client.download(at(files.url), tmp_path), AUDIO)
    assert len(kept.starts) == 2
    assert (kept.starts[1] > 0) == bool(headers)


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ('ETag: "1"\r\n' + DATE, '"1"'),
        ('ETag: W/"1"\r\n' + DATE, "Tue, 29 Aug 2023 00:50:26 GMT"),
    ],
)
async def test_condition(
    headers: str, condition: str, client: AsyncQmcClient, tmp_path: Path
) -> None:
    """The rest is asked for on a condition, for which a weak tag is not good (RFC 9110, 13.1.5)."""
    async with FaultyPlatform(serves(Kept(AUDIO, headers, cuts=[HALF]))) as files:
        await client.download(at(files.url), tmp_path)
    first, second = files.seen
    assert not {"range", "if-range"} & set(first.headers)
    assert re.fullmatch(r"bytes=[1-9]\d*-", second.headers["range"])
    assert second.headers.get("if-range") == condition
    assert second.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("attempts", [0, 2])
async def test_gives_up(attempts: int, tmp_path: Path) -> None:
    """It is asked again as often as `max_retries` says, where that brings nothing new."""
    cut = Kept(AUDIO, cuts=[0] * 20)
    async with (
        FaultyPlatform(serves(cut)) as files,
        connect("http://127.0.0.1:9", max_retries=attempts, recording_networks=LOOPBACK) as client,
    ):
        with pytest.raises(RecordingError, match="broke") as caught:
            await client.download(at(files.url), tmp_path)
    assert caught.value.temporary
    assert len(cut.starts) == 1 + attempts
    assert left_in(tmp_path) == []


async def test_waits_that_grow(
    client: AsyncQmcClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waits grow while nothing comes, and start again once something does."""
    failures: list[int] = []

    def note(number: int, _: float | None) -> float:
        failures.append(number)
        return 0.0

    monkeypatch.setattr("qmc_async.recording_transfer.back_off", note)
    kept = Kept(AUDIO, cuts=[0, 0, HALF, HALF, HALF], written=0)
    async with FaultyPlatform(serves(kept)) as files:
        await client.download(at(files.url), tmp_path, on_progress=kept.note)
    assert failures == [1, 2, 1, 2, 3]


async def test_log(
    client: AsyncQmcClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each new attempt is logged, without the address: who has that can listen."""
    caplog.set_level(logging.DEBUG)
    async with FaultyPlatform(serves(Kept(AUDIO, cuts=[HALF]))) as files:
        await client.download(at(files.url), tmp_path)
    (record,) = [entry for entry in caplog.records if entry.name.startswith("qmc_async")]
    assert re.search(r"call c-1: .* broke .* after \d+ bytes", record.getMessage())
    assert "rec-token" not in caplog.text
    assert files.url not in caplog.text


async def test_stalled(tmp_path: Path) -> None:
    """A host that falls silent is asked again, for the rest."""
    kept = Kept(AUDIO)

    async def falls_silent(connection: Connection) -> None:
        await connection.answer(http(AUDIO, headers=kept.headers)[:HALF])
        await asyncio.sleep(3600)

    async with (
        FaultyPlatform(falls_silent, never_answer, serves(kept)) as files,
        connect(
            "http://127.0.0.1:9", timeout=0.1, max_retries=9, recording_networks=LOOPBACK
        ) as client,
    ):
        check(await client.download(at(files.url), tmp_path), AUDIO)
    assert kept.starts[0] > 0


# --- Another file -------------------------------------------------------------------------------


MARKS: list[tuple[str, str, bool]] = [
    ('ETag: "1"\r\n', 'ETag: "2"\r\n', True),
    ('ETag: "1"\r\n', 'ETag: "2"\r\n', False),
    (DATE, LATER, True),
    (DATE, LATER, False),
    ('ETag: W/"1"\r\n' + DATE, 'ETag: W/"1"\r\n' + LATER, True),
    ('ETag: W/"1"\r\n' + DATE, 'ETag: W/"1"\r\n' + LATER, False),
    ('ETag: W/"1"\r\n' + DATE, 'ETag: W/"2"\r\n' + DATE, False),
    ('ETag: "1"\r\n', "", True),
    ('ETag: "1"\r\n', "", False),
    ('ETag: "1"\r\n', LATER, False),
    (DATE, "", True),
    (DATE, "", False),
]
"""Before and after, and whether the host heeds If-Range: what it must do if all else is alike."""


@pytest.mark.parametrize("content", [OTHER, LONGER, SHORTER], ids=["same", "longer", "shorter"])
@pytest.mark.parametrize(("before", "after", "heeds"), MARKS)
async def test_another_file(
    content: bytes, before: str, after: str, client: AsyncQmcClient, tmp_path: Path, *, heeds: bool
) -> None:
    """Where the file is another one by now, all of it is fetched, and no byte of the first."""
    first = Kept(AUDIO, before, cuts=[HALF], written=0)
    second = Kept(content, after, heeds=heeds)
    async with FaultyPlatform(serves(first), serves(second)) as files:
        saved = await client.download(at(files.url), tmp_path, on_progress=first.note)
    check(saved, content)
    assert files.seen[1].headers["range"] == f"bytes={HALF}-"


@pytest.mark.parametrize("content", [OTHER, LONGER, SHORTER], ids=["same", "longer", "shorter"])
@pytest.mark.parametrize(
    "headers",
    [
        'ETag: W/"1"\r\n',
        "ETag: 1\r\n",
        "Last-Modified: yesterday\r\n",
        f"Last-Modified: Tue, 29 Aug {10**40} 00:50:26 GMT\r\n",
        DATE.replace("Last-Modified", "Date") + DATE,
    ],
    ids=["weak", "unquoted", "no date", "no year", "written within this second"],
)
async def test_marks_that_two_files_may_share(
    headers: str, content: bytes, client: AsyncQmcClient, tmp_path: Path
) -> None:
    """Nothing is asked for by a mark that promises no bytes (RFC 9110, 8.8.1 and 8.8.2.2)."""
    first, second = Kept(AUDIO, headers, cuts=[HALF]), Kept(content, headers)
    async with FaultyPlatform(serves(first), serves(second)) as files:
        check(await client.download(at(files.url), tmp_path), content)
    assert not any("range" in request.headers for request in files.seen)


@pytest.mark.parametrize("content", [LONGER, SHORTER], ids=["longer", "shorter"])
async def test_another_length(content: bytes, client: AsyncQmcClient, tmp_path: Path) -> None:
    """A file that nothing marks is another one where its length is another."""
    async with FaultyPlatform(serves(Kept(AUDIO, "", cuts=[HALF]), Kept(content, ""))) as files:
        check(await client.download(at(files.url), tmp_path), content)


async def test_changes_again_and_again(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Of four files under one address it is the last one, whole."""
    versions = [
        Kept(wav(LENGTH, seed=10 + number), f'ETag: "{number}"\r\n', cuts=[HALF])
        for number in range(3)
    ]
    async with FaultyPlatform(serves(*versions, Kept(OTHER, 'ETag: "9"\r\n'))) as files:
        check(await client.download(at(files.url), tmp_path), OTHER)


# --- A host that lies about the rest -----------------------------------------------------------


def rest(headers: str, body: bytes = AUDIO[HALF:], status: str = "206 Partial Content") -> bytes:
    """An answer to the question for the rest."""
    return http(body, status, 'Content-Type: audio/wav\r\nETag: "1"\r\n' + headers)


LIES: dict[str, bytes] = {
    "an earlier byte": rest(f"Content-Range: bytes 0-{LENGTH - 1}/{LENGTH}\r\n", AUDIO),
    "a later byte": rest(
        f"Content-Range: bytes {LENGTH - 9}-{LENGTH - 1}/{LENGTH}\r\n", AUDIO[-9:]
    ),
    "another length": rest(f"Content-Range: bytes {HALF}-{LENGTH}/{LENGTH + 1}\r\n"),
    "no length": rest(f"Content-Range: bytes {HALF}-{LENGTH - 1}/*\r\n"),
    "no range": rest(""),
    "no bytes": rest("Content-Range: items 1-2/3\r\n"),
    "no numbers": rest("Content-Range: bytes x-y/z\r\n"),
    "a number of no end": rest(f"Content-Range: bytes {'9' * 5000}-1/1\r\n"),
    "several parts": rest(
        "Content-Type: multipart/byteranges; boundary=x\r\n",
        b"--x\r\nContent-Range: bytes 0-1/2\r\n\r\nRI\r\n--x--\r\n",
    ),
    "a part that is said to be whole": rest(
        f"Content-Range: bytes {HALF}-{LENGTH - 1}/{LENGTH}\r\n", status="200 OK"
    ),
    "nothing to satisfy": rest(f"Content-Range: bytes */{LENGTH}\r\n", b"", "416 No"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_lies_about_the_rest(lie: str, client: AsyncQmcClient, tmp_path: Path) -> None:
    """A rest that is not known to be this one's is thrown away, and all of it fetched anew."""
    kept = Kept(AUDIO, cuts=[HALF], written=0)

    async def liar(connection: Connection) -> None:
        while True:
            request = await connection.read_request()
            reply = LIES[lie] if b"\r\nRange: " in request else AUDIO_REPLY
            connection.writer.write(reply)
            await connection.writer.drain()

    async with FaultyPlatform(serves(kept), liar) as files:
        check(await client.download(at(files.url), tmp_path, on_progress=kept.note), AUDIO)
    ranges = [request.headers.get("range") for request in files.seen]
    assert ranges == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize("end", [0, LENGTH * 2])
async def test_a_range_of_another_end(end: int, client: AsyncQmcClient, tmp_path: Path) -> None:
    """What counts is the byte that it starts from, and how many there are in the end."""
    kept = Kept(AUDIO, cuts=[HALF], written=0)
    reply = rest(f"Content-Range: bytes {HALF}-{end}/{LENGTH}\r\n")
    async with FaultyPlatform(serves(kept), once(reply)) as files:
        check(await client.download(at(files.url), tmp_path, on_progress=kept.note), AUDIO)
    assert len(files.requests) == 2


@pytest.mark.parametrize("size", [1, 100_000])
async def test_a_part_of_the_rest(size: int, client: AsyncQmcClient, tmp_path: Path) -> None:
    """A host may send less than was asked for: the rest of it is asked for again."""
    content = wav(HALF + 9 * size)
    kept = Kept(content, cuts=[HALF], written=0)

    async def piecemeal(connection: Connection) -> None:
        for start in range(HALF, len(content), size):
            says = f"Content-Range: bytes {start}-{start + size - 1}/{len(content)}\r\n"
            await connection.answer(rest(says, content[start : start + size]))

    async with FaultyPlatform(serves(kept), piecemeal) as files:
        check(await client.download(at(files.url), tmp_path, on_progress=kept.note), content)
    assert len(files.requests) == 1 + 9  # more than `max_retries`: each brought something new


async def test_more_than_the_rest(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A file that has become longer than it was said to be is thrown away."""
    kept = Kept(AUDIO, cuts=[HALF], written=0)
    says = f"Content-Range: bytes {HALF}-{LENGTH - 1}/{LENGTH}\r\n"
    generous = once(rest(says, AUDIO[HALF:] + b"more"))
    async with FaultyPlatform(serves(kept), generous, always(AUDIO_REPLY)) as files:
        check(await client.download(at(files.url), tmp_path, on_progress=kept.note), AUDIO)
    assert ["range" in request.headers for request in files.seen] == [False, True, False]


@pytest.mark.parametrize(
    "reply",
    [
        rest(f"Content-Range: bytes 0-{HALF - 1}/{LENGTH}\r\n", wav(HALF, 44), "200 OK"),
        rest(f"Content-Range: bytes {HALF}-{LENGTH - 1}/{LENGTH}\r\n", status="200 OK"),
        rest("Content-Range: nonsense\r\n", AUDIO, "200 OK"),
        rest(f"Content-Range: bytes 0-{LENGTH - 1}/{LENGTH}\r\n", AUDIO),
    ],
    ids=["the first half", "the second half", "nonsense", "206"],
)
async def test_a_part_that_nobody_asked_for(
    reply: bytes, client: AsyncQmcClient, tmp_path: Path
) -> None:
    """Who asks for all of it and gets a part, by the reply's own words, has no file."""
    async with FaultyPlatform(always(reply)) as files:
        with pytest.raises(RecordingError, match=r"a part of it|HTTP 206"):
            await client.download(at(files.url), tmp_path)
    assert left_in(tmp_path) == []


async def test_a_part_that_is_all_of_it(client: AsyncQmcClient, tmp_path: Path) -> None:
    """There are hosts that always say which part it is, also of all of it."""
    reply = rest(f"Content-Range: bytes 0-{LENGTH - 1}/{LENGTH}\r\n", AUDIO, "200 OK")
    async with FaultyPlatform(always(reply)) as files:
        check(await client.download(at(files.url), tmp_path), AUDIO)


async def test_the_rest_of_a_file_without_length(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Where no length was given, the range that the rest comes with tells it."""
    first = once(until_closed(AUDIO[:HALF], 'ETag: "1"\r\n'))
    async with FaultyPlatform(first, serves(Kept(AUDIO))) as files:
        check(await client.download(at(files.url), tmp_path), AUDIO)
    assert files.seen[1].headers["range"] == f"bytes={HALF}-"


async def test_the_rest_in_chunks(client: AsyncQmcClient, tmp_path: Path) -> None:
    """The rest may come in chunks, and is whole where it ends at the file's length."""
    kept = Kept(AUDIO, cuts=[HALF], written=0)
    says = f"Content-Range: bytes {HALF}-{LENGTH - 1}/{LENGTH}\r\nTransfer-Encoding: chunked\r\n"
    chunks = in_chunks(AUDIO[HALF:], 'ETag: "1"\r\n' + says).replace(
        b"200 OK", b"206 Partial Content", 1
    )
    async with FaultyPlatform(serves(kept), once(chunks)) as files:
        check(await client.download(at(files.url), tmp_path, on_progress=kept.note), AUDIO)
    assert len(files.requests) == 2


async def test_the_rest_is_compressed(client: AsyncQmcClient, tmp_path: Path) -> None:
    """What was not asked to be compressed is not put together with what was not."""
    says = f"Content-Range: bytes {HALF}-{LENGTH - 1}/{LENGTH}\r\nContent-Encoding: gzip\r\n"
    kept = Kept(AUDIO, cuts=[HALF], written=0)
    async with FaultyPlatform(serves(kept), always(rest(says))) as files:
        with pytest.raises(RecordingError, match="compressed"):
            await client.download(at(files.url), tmp_path, on_progress=kept.note)
    assert left_in(tmp_path) == []
