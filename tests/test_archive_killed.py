"""`RecordingArchive` where it is killed, stopped, or not alone: never a JSON without its sound."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import signal
from typing import TYPE_CHECKING

import pytest
from archive_support import (
    NOT_READY,
    SOUND,
    Archiving,
    Between,
    Keeper,
    archive_at,
    archiving,
    event_of,
    files_in,
    is_whole,
    recorded,
    replace_destination,
    sound_of,
)
from callback_peer import deliveries_in, hurry, select_in, until
from faulty_platform import FaultyPlatform, http
from obstore.store import MemoryStore
from store_support import Process

from qmc_async import RecordingArchive
from qmc_async.archive.destination import Destination, Stat, destination_at
from qmc_async.recordings import RecordingFile

if TYPE_CHECKING:
    from pathlib import Path

    from faulty_platform import Connection

    from qmc_async import AsyncQmcClient

DONE = ("done", 0, None)
# A server that kills itself once it has put so many files under their names.
DYING = """
import asyncio, os, pathlib, signal, sys
sys.path.insert(0, sys.argv[4])
from archive_support import archiving, recorded
from qmc_async.archive.destination import Folder

left = int(sys.argv[3])
put = Folder.put

async def put_or_die(self, key, file):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return await put(self, key, file)

async def settle(*_):
    os.kill(os.getpid(), signal.SIGKILL)

Folder.put = put_or_die

async def main():
    async with archiving(pathlib.Path(sys.argv[1]), sys.argv[2]) as there:
        there.client.store.settle = settle
        await there.post(recorded())
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


# --- killed and stopped ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "left", "fetched"),
    [(0, [], 2), (1, [".wav"], 2), (2, [".json", ".wav"], 1)],
    ids=["before the sound", "between sound and JSON", "before it is done"],
)
async def test_kill_9(files: int, left: list[str], fetched: int, tmp_path: Path) -> None:
    """Whoever comes next fetches what has no JSON yet, and nothing that has."""
    keeper = Keeper()
    here = os.path.dirname(__file__)  # noqa: PTH120 - a text, for the program
    async with FaultyPlatform(keeper) as platform:
        dying = Process(DYING, str(tmp_path), platform.url, str(files), here)
        status = await asyncio.to_thread(dying.process.wait, 30)
        dying.kill()
        assert status == -signal.SIGKILL
        kept = files_in(tmp_path / "kept")
        found = {name: data for name, data in kept.items() if not name.startswith(".")}
        assert sorted(name[-5:].lstrip("1") for name in found) == left
        assert is_whole(found)
        # The lease of the dead ends by itself, after a minute.
        select_in(tmp_path, "UPDATE qmc_deliveries SET due_at = 1")
        async with archiving(tmp_path, platform.url):
            await until(lambda: deliveries_in(tmp_path) == {"archive": DONE})
    assert keeper.fetched == fetched
    kept = files_in(tmp_path / "kept")
    assert is_whole(kept)
    assert SOUND in kept.values()


async def test_a_stop_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """A server that stops while it fetches leaves no file, and the next one begins again."""
    half = asyncio.Event()
    keeper = Keeper()

    async def stalls(connection: Connection) -> None:
        request = await connection.read_request()
        if request.startswith(b"POST"):
            keeper.asked.append("")
            data = (
                b'{"code": 200, "data": {"fileUrl": "%s/1.wav"}}' % connection.platform.url.encode()
            )
            connection.writer.write(http(data))
        else:
            connection.writer.write(http(SOUND, headers="Content-Type: audio/wav\r\n")[:20_000])
            half.set()
            await asyncio.sleep(3600)

    async with FaultyPlatform(stalls) as platform:
        async with archiving(tmp_path, platform.url) as there:
            await there.post(recorded())
            await half.wait()
            await until(
                lambda: any(len(data) > 1000 for data in files_in(tmp_path / "kept").values())
            )
        assert not list((tmp_path / "kept").iterdir())
        assert deliveries_in(tmp_path) == {"archive": ("pending", 0, None)}
    async with FaultyPlatform(keeper) as platform, archiving(tmp_path, platform.url):
        await until(lambda: deliveries_in(tmp_path) == {"archive": DONE})
    assert is_whole(files_in(tmp_path / "kept"))


async def test_on_a_second_event_loop(tmp_path: Path) -> None:
    """The client belongs to one loop: on another one nothing is fetched, and nothing is left."""
    async with (
        FaultyPlatform(Keeper()) as platform,
        archive_at(tmp_path, platform.url) as archive,
    ):
        await archive.archive(event_of("1"))
        before = files_in(tmp_path)

        def elsewhere() -> None:
            with pytest.raises(RuntimeError):
                asyncio.run(archive.archive(event_of("2")))

        await asyncio.to_thread(elsewhere)
    assert files_in(tmp_path) == before


# --- not alone ---------------------------------------------------------------------------------


async def test_a_hundred_calls_at_once(tmp_path: Path) -> None:
    """Each has its own two files, and each was fetched once."""
    keeper = Keeper()
    async with FaultyPlatform(keeper) as platform, archiving(tmp_path, platform.url) as there:
        await asyncio.gather(*(there.post(recorded(str(number))) for number in range(100)))
        done = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
        await until(lambda: select_in(tmp_path, done) == [(100,)])
    kept = files_in(tmp_path / "kept")
    assert len(kept) == 200
    assert is_whole(kept)
    assert sorted(keeper.asked, key=int) == [str(number) for number in range(100)]


class Steps:
    """Lets two archives change a destination by turns, in a given order, then as they like."""

    def __init__(self, order: str) -> None:
        self._order = list(order)
        self._moved = asyncio.Condition()

    async def begin(self, who: str) -> None:
        """Wait for a turn."""
        async with self._moved:
            await self._moved.wait_for(lambda: not self._order or self._order[0] == who)

    async def end(self) -> None:
        """Let the next one have its turn."""
        async with self._moved:
            del self._order[:1]
            self._moved.notify_all()


class ByTurns(Between):
    """A destination of one of two archives."""

    def __init__(self, real: Destination, who: str, steps: Steps, both: asyncio.Barrier) -> None:
        super().__init__(real)
        self._who = who
        self._steps = steps
        self._both = both
        self._looks = 0

    async def read(self, key: str) -> bytes | None:
        """Both have looked a second time, and found nothing, before either changes anything."""
        found = await super().read(key)
        self._looks += 1
        if self._looks == 2:
            await self._both.wait()
        return found

    async def put(self, key: str, file: Path) -> str | None:
        """In its turn."""
        await self._steps.begin(self._who)
        try:
            return await super().put(key, file)
        finally:
            await self._steps.end()

    async def stat(self, key: str) -> Stat | None:
        """In its turn."""
        await self._steps.begin(self._who)
        try:
            return await super().stat(key)
        finally:
            await self._steps.end()

    async def delete(self, key: str) -> None:
        """In its turn."""
        await self._steps.begin(self._who)
        try:
            await super().delete(key)
        finally:
            await self._steps.end()


# Each looks for the JSON, puts the sound, puts the JSON, and looks at the sound. Which of the two
# is first does not matter.
ORDERS = [
    "".join("a" if at in chosen else "b" for at in range(8))
    for chosen in itertools.combinations(range(8), 4)
    if 0 in chosen
]


class Given:
    """In place of a client: it has fetched the recording already.

    Args:
        sound: what it was.
        client: a real one, whose clock it is.
    """

    def __init__(self, sound: bytes, client: AsyncQmcClient) -> None:
        self.signer = client.signer
        self._sound = sound

    async def download(self, _: object, folder: Path, **__: object) -> RecordingFile:
        """Write the file."""
        path = folder / "fetched.wav"
        path.write_bytes(self._sound)
        return RecordingFile(path, hashlib.sha256(self._sound).hexdigest(), len(self._sound), "wav")


async def kept_at(destination: Destination) -> dict[str, bytes]:
    """What is there, read past the archive."""
    found: dict[str, bytes] = {}
    for key in await destination.keys():
        data = await destination.read(key)
        assert data is not None
        found[key] = data
    return found


@pytest.mark.parametrize("where", ["folder", "bucket"])
async def test_two_processes_archive_one_call(where: str, tmp_path: Path) -> None:
    """In whatever order they come, and though they got different bytes, no JSON is wrong."""
    conflicts = 0
    real = destination_at(tmp_path if where == "folder" else MemoryStore())
    async with archive_at(tmp_path, "http://127.0.0.1:9", key="{call_id}") as first:
        client = vars(first)["_client"]
        second = RecordingArchive(tmp_path, client=client, key="{call_id}")
        archives = {"a": first, "b": second}
        for value, archive in enumerate(archives.values()):
            vars(archive)["_client"] = Given(sound_of(1, value), client)
        for number, order in enumerate(ORDERS):
            event = event_of(str(number))
            steps, both = Steps(order), asyncio.Barrier(2)
            for who, archive in archives.items():
                replace_destination(archive, ByTurns(real, who, steps, both))
            results = await asyncio.gather(
                *(archive.archive(event) for archive in archives.values()), return_exceptions=True
            )
            assert all(one is True or isinstance(one, OSError) for one in results), results
            conflicts += OSError in map(type, results)
            assert is_whole(await kept_at(real)), order
            # Who was not told that it is done comes again.
            for archive, result in zip(archives.values(), results, strict=True):
                if result is not True:
                    replace_destination(archive, real)
                    await archive.archive(event)
        kept = await kept_at(real)
    assert 0 < conflicts < len(ORDERS) == 35
    assert is_whole(kept)
    assert len(kept) == 70


class Unsteady(Between):
    """A file server that tells another time of the last change once a file is closed."""

    async def stat(self, key: str) -> Stat | None:
        """Never the same version as before."""
        found = await super().stat(key)
        return None if found is None else Stat(found.length, f"{found.version}+")


async def test_versions_that_nobody_can_rely_on(tmp_path: Path) -> None:
    """Where the version is another one, the bytes decide: the same ones are archived."""
    async with FaultyPlatform(Keeper()) as platform, archive_at(tmp_path, platform.url) as archive:
        replace_destination(archive, Unsteady(archive.destination))
        assert await archive.archive(event_of())
        assert not await archive.archive(event_of())
    assert len(files_in(tmp_path)) == 2
    assert is_whole(files_in(tmp_path))


class Slow(Between):
    """A destination that lets another process finish after the first look."""

    def __init__(self, real: Destination, other: RecordingArchive) -> None:
        super().__init__(real)
        self._other = other

    async def read(self, key: str) -> bytes | None:
        """What was there before the other one came."""
        found = await super().read(key)
        await self._other.archive(event_of())
        return found


async def test_what_another_process_has_archived_meanwhile_is_left(tmp_path: Path) -> None:
    """Whoever is late leaves the files alone: to put them there again could only break them."""
    async with (
        FaultyPlatform(Keeper()) as quick,
        FaultyPlatform(Keeper(sound=sound_of(3))) as slow,
        archive_at(tmp_path, quick.url) as first,
        archive_at(tmp_path, slow.url) as second,
    ):
        replace_destination(second, Slow(second.destination, first))
        assert not await second.archive(event_of())
        assert len(slow.seen) == 2, "it was not late"
    kept = files_in(tmp_path)
    assert is_whole(kept)
    assert {hashlib.sha256(data).digest() for name, data in kept.items() if "wav" in name} == {
        hashlib.sha256(SOUND).digest()
    }


async def test_the_same_event_twice_at_once(tmp_path: Path) -> None:
    """Two runs in one process, as after a lease was lost: the files are whole, by either."""
    async with FaultyPlatform(Keeper()) as platform, archive_at(tmp_path, platform.url) as archive:
        for number in range(10):
            event = event_of(str(number))
            results = await asyncio.gather(
                archive.archive(event), archive.archive(event), return_exceptions=True
            )
            assert is_whole(files_in(tmp_path))
            assert all(isinstance(one, bool | OSError) for one in results), results
            await archive.archive(event)
    kept = files_in(tmp_path)
    assert len(kept) == 20
    assert is_whole(kept)


async def test_a_stop_does_not_wait_for_the_platform(tmp_path: Path) -> None:
    """What waits for its recording does not keep the server from stopping, or from starting."""
    keeper = Keeper(NOT_READY)
    async with FaultyPlatform(keeper) as platform:
        for _ in range(2):
            async with archiving(tmp_path, platform.url) as there:
                assert isinstance(there, Archiving)
                await there.post(recorded())
                await until(there.has_tried)
    assert keeper.asked == ["4711"]
