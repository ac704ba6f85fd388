"""The file that a recording becomes: its name, and that it is whole whatever happens to us."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from faulty_platform import Connection, FaultyPlatform, always, connect, http, never_answer
from recording_host import AUDIO, AUDIO_REPLY, LOOPBACK, at, left_in, wav

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from qmc_async.client import AsyncQmcClient

LENGTH = len(AUDIO)
HALF = LENGTH // 2
OTHER = wav(LENGTH + 70_000, seed=1)

# A process of its own: the limit would be every test's, and so would the kill be.
DOWNLOAD = """
import asyncio, errno, resource, sys
from qmc_async import AsyncQmcClient
from qmc_async.models import Recording

url, target, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))

async def main():
    async with AsyncQmcClient(1, "secret", recording_networks="127.0.0.0/8", timeout=50) as client:
        try:
            print(await client.download(Recording(call_id="c-1", file_url=url), target))
        except OSError as error:
            print(errno.errorcode[error.errno])

asyncio.run(main())
"""


@pytest.fixture
async def client() -> AsyncGenerator[AsyncQmcClient]:
    """A client whose platform is not there, with a short patience."""
    async with connect(
        "http://127.0.0.1:9", timeout=0.5, max_retries=0, recording_networks=LOOPBACK
    ) as client:
        yield client


async def stall(connection: Connection) -> None:
    """Send half, and then nothing."""
    await connection.answer(AUDIO_REPLY[: len(AUDIO_REPLY) // 2])
    await asyncio.sleep(3600)


# --- Who cancels --------------------------------------------------------------------------------


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
        assert (await client.download(at(files.url), tmp_path)).path.read_bytes() == AUDIO
    assert left_in(tmp_path) == ["c-1.wav"]


async def test_cancelled_half_way(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Cancelled with half of it on disk, it leaves nothing but the old file."""
    (tmp_path / "c-1.wav").write_bytes(b"old")
    half = asyncio.Event()
    async with FaultyPlatform(stall) as files:
        task = asyncio.ensure_future(
            client.download(
                at(files.url), tmp_path, on_progress=lambda _written, _expected: half.set()
            )
        )
        await half.wait()
        partial, old = left_in(tmp_path)
        assert re.fullmatch(r"\.[0-9a-f]{16}\.part", partial)
        assert old == "c-1.wav"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert left_in(tmp_path) == ["c-1.wav"]
    assert (tmp_path / "c-1.wav").read_bytes() == b"old"


async def test_cancelled_while_it_is_synced(
    client: AsyncQmcClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled once all has come and nothing is on disk for certain, it leaves nothing."""
    syncing, go_on = threading.Event(), threading.Event()

    def sync(_: int) -> None:
        syncing.set()
        go_on.wait(20)

    monkeypatch.setattr("os.fsync", sync)
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        task = asyncio.ensure_future(client.download(at(files.url), tmp_path))
        assert await asyncio.to_thread(syncing.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left_in(tmp_path) == []
        go_on.set()


# --- A disk that does not take it ---------------------------------------------------------------


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


async def test_folder_in_its_place(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Where a folder has the file's name, it is an `OSError`, and the folder stays."""
    (tmp_path / "c-1.wav").mkdir()
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        with pytest.raises(IsADirectoryError):
            await client.download(at(files.url), tmp_path)
    assert left_in(tmp_path) == ["c-1.wav"]
    assert left_in(tmp_path / "c-1.wav") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False)  # noqa: S603 - fixed words
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607 - the same


async def test_full_disk(small_disk: Path, client: AsyncQmcClient) -> None:
    """A disk that is full half-way is an `OSError`; the old file is whole, and no other is left."""
    old = AUDIO[:100_000]
    (small_disk / "c-1.wav").write_bytes(old)
    progress: list[int] = []
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        for destination in (small_disk, small_disk / "c-1.wav"):
            with pytest.raises(OSError, match="No space left") as caught:
                await client.download(
                    at(files.url),
                    destination,
                    on_progress=lambda written, _expected: progress.append(written),
                )
            assert caught.value.errno == errno.ENOSPC
            assert left_in(small_disk) == ["c-1.wav"]
            assert (small_disk / "c-1.wav").read_bytes() == old
        assert 0 < max(progress) < 512 * 1024
    # The disk is as empty as before: the next recording may be shorter.
    async with FaultyPlatform(always(http(wav(200_000)))) as files:
        await client.download(at(files.url, "c-2"), small_disk)
    assert left_in(small_disk) == ["c-1.wav", "c-2.wav"]


async def test_full_at_the_last_moment(
    client: AsyncQmcClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that turns out to be full when it is synced is one too."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        with pytest.raises(OSError, match="No space left"):
            await client.download(at(files.url), tmp_path)
    assert left_in(tmp_path) == []


async def in_a_process(url: str, target: Path, limit: int = 0) -> asyncio.subprocess.Process:
    """A process that downloads to `target`, and may write files of `limit` bytes."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", DOWNLOAD, at(url).file_url, str(target), str(limit),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def test_file_size_limit(tmp_path: Path) -> None:
    """A file that may grow no further is an `OSError`; the old one stays, and no other is left."""
    target = tmp_path / "call.wav"
    target.write_bytes(b"old")
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        process = await in_a_process(files.url, target, limit=HALF)
        output, _ = await process.communicate()
    assert output.decode().split() == ["EFBIG"]
    assert left_in(tmp_path) == ["call.wav"]
    assert target.read_bytes() == b"old"


# --- Who is killed ------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [0, HALF, LENGTH - 1])
async def test_killed(sent: int, tmp_path: Path) -> None:
    """Killed at any moment, nothing half is under the final name, and the old file is whole."""
    target = tmp_path / "call.wav"
    target.write_bytes(b"old")

    async def part(connection: Connection) -> None:
        await connection.answer(AUDIO_REPLY[: len(AUDIO_REPLY) - LENGTH + sent])
        await asyncio.sleep(3600)

    async with FaultyPlatform(part) as files:
        process = await in_a_process(files.url, target)
        await files.received(1)
        for _ in range(2000):
            partials = [tmp_path / name for name in left_in(tmp_path) if name.endswith(".part")]
            # The rest may still be in its memory.
            if [path for path in partials if path.stat().st_size >= sent - 70_000]:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("it wrote nothing")
        process.kill()
        assert await process.wait() == -signal.SIGKILL
        await process.communicate()
    partial, whole = left_in(tmp_path)
    assert partial.endswith(".part")
    assert whole == "call.wav"
    assert target.read_bytes() == b"old"


async def test_on_disk_before_it_has_its_name(
    client: AsyncQmcClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are synced to the disk before the rename, and the name after it (fsync(2))."""
    synced: list[tuple[int, int | None, list[str]]] = []
    real = os.fsync

    def sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        size = None if os.path.isdir(f"/proc/self/fd/{descriptor}") else status.st_size  # noqa: PTH112 - no path
        synced.append((status.st_ino, size, left_in(tmp_path)))
        real(descriptor)

    monkeypatch.setattr("os.fsync", sync)
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        saved = await client.download(at(files.url), tmp_path)
    (file, size, (partial,)), (folder, no_size, names) = synced
    assert (file, size) == (saved.path.stat().st_ino, LENGTH)
    assert partial.endswith(".part")
    assert (folder, no_size) == (tmp_path.stat().st_ino, None)  # noqa: ASYNC240 - one call, in a test
    assert names == ["c-1.wav"]


async def test_folders_that_cannot_be_synced(
    client: AsyncQmcClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system cannot open a folder, the file is saved all the same."""
    monkeypatch.delattr("os.O_DIRECTORY")
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        saved = await client.download(at(files.url), tmp_path)
    assert saved.path.read_bytes() == AUDIO


# --- Several at once ----------------------------------------------------------------------------


async def test_two_at_once(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Downloads of two recordings to one name: it is one of the two at any time, and whole."""
    target = tmp_path / "call.wav"
    seen: set[str] = set()

    def look(*_: object) -> None:
        if target.exists():
            seen.add(hashlib.sha256(target.read_bytes()).hexdigest())

    async with (
        FaultyPlatform(always(AUDIO_REPLY)) as one,
        FaultyPlatform(always(http(OTHER))) as two,
    ):
        urls = [one.url, two.url] * 3
        saved = await asyncio.gather(
            *(client.download(at(url), target, on_progress=look) for url in urls)
        )
    look()
    digests = [hashlib.sha256(content).hexdigest() for content in (AUDIO, OTHER)]
    assert [file.sha256 for file in saved] == digests * 3
    assert seen <= set(digests)
    assert seen
    assert left_in(tmp_path) == ["call.wav"]


async def test_link_in_its_place(client: AsyncQmcClient, tmp_path: Path) -> None:
    """A link of that name is replaced: what it led to is not written through it."""
    (tmp_path / "elsewhere").write_bytes(b"old")
    (tmp_path / "call.wav").symlink_to(tmp_path / "elsewhere")
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        saved = await client.download(at(files.url), tmp_path / "call.wav")
    assert not saved.path.is_symlink()
    assert saved.path.read_bytes() == AUDIO
    assert (tmp_path / "elsewhere").read_bytes() == b"old"


async def test_closed_meanwhile(tmp_path: Path) -> None:
    """A client that is closed in the middle leaves nothing, and says that it is closed."""
    async with (
        FaultyPlatform(never_answer) as files,
        connect("http://127.0.0.1:9", recording_networks=LOOPBACK) as client,
    ):
        task = asyncio.ensure_future(client.download(at(files.url), tmp_path))
        await files.received(1)
        await client.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await task
    assert left_in(tmp_path) == []
