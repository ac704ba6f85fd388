"""`RecordingArchive` where others archive the same call: never a JSON of another sound."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from typing import TYPE_CHECKING

import orjson
import pytest
from archive_support import (
    SOUND,
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
from callback_peer import hurry, select_in, until
from faulty_platform import FaultyPlatform
from obstore.store import MemoryStore

from qmc_async import RecordingArchive
from qmc_async.archive.destination import Destination, Stat, destination_at
from qmc_async.recordings import RecordingFile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from qmc_async import AsyncQmcClient, Disconnected


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


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

    async def leave(self, who: str) -> None:
        """Wait for no turn of this one any more."""
        async with self._moved:
            self._order = [one for one in self._order if one != who]
            self._moved.notify_all()


class ByTurns(Between):
    """A destination of one of two archives."""

    def __init__(self, real: Destination, who: str, steps: Steps, both: asyncio.Barrier) -> None:
        super().__init__(real)
        self._who = who
        self._steps = steps
        self._both = both
        self._has_looked = False

    async def read(self, key: str) -> bytes | None:
        """In its turn, after both have looked once, and found nothing."""
        if not self._has_looked:
            self._has_looked = True
            found = await super().read(key)
            await self._both.wait()
            return found
        await self._steps.begin(self._who)
        try:
            return await super().read(key)
        finally:
            await self._steps.end()

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


# Each reads the JSON, looks for it, puts the sound, puts the JSON, and looks at the sound. Which of
# the two is first does not matter, and who reads the JSON of one that has ended is told elsewhere.
ORDERS = [
    "".join("a" if at in chosen else "b" for at in range(10))
    for chosen in itertools.combinations(range(10), 5)
    if 0 in chosen and 1 not in chosen
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


async def in_turn(archive: RecordingArchive, who: str, steps: Steps, event: Disconnected) -> bool:
    """Archive, and keep nobody waiting afterwards."""
    try:
        return await archive.archive(event)
    finally:
        await steps.leave(who)


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
                *(in_turn(archive, who, steps, event) for who, archive in archives.items()),
                return_exceptions=True,
            )
            assert all(isinstance(one, bool | OSError) for one in results), results
            conflicts += OSError in map(type, results)
            kept = await kept_at(real)
            assert is_whole(kept), order
            # Who was not told that it is done comes again.
            for archive, result in zip(archives.values(), results, strict=True):
                if isinstance(result, OSError):
                    replace_destination(archive, real)
                    await archive.archive(event)
                elif not result:
                    assert f"{number}.json" in kept, order
        kept = await kept_at(real)
    assert 0 < conflicts < len(ORDERS) == 70
    assert is_whole(kept)
    assert len(kept) == 2 * len(ORDERS)


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


class Meddler(Between):
    """A destination in which something else happens right after the JSON was put.

    Args:
        real: where all else is done.
        meddle: what happens.
        versions: whether `put` and `stat` tell one.
    """

    def __init__(
        self, real: Destination, meddle: Callable[[str], Awaitable[None]], *, versions: bool = True
    ) -> None:
        super().__init__(real)
        self._meddle = meddle
        self._versions = versions

    async def put(self, key: str, file: Path) -> str | None:
        """Put it, and meddle."""
        version = await super().put(key, file)
        if key.endswith(".json"):
            await self._meddle(key)
        return version if self._versions else None

    async def stat(self, key: str) -> Stat | None:
        """As the real one, maybe without a version."""
        found = await super().stat(key)
        return found if found is None or self._versions else Stat(found.length, None)


async def test_without_versions(tmp_path: Path) -> None:
    """Where an object store tells no version, the bytes decide: another sound is noticed."""

    async def replace(key: str) -> None:
        (tmp_path / key.replace(".json", ".wav")).write_bytes(sound_of(3))

    async with FaultyPlatform(Keeper()) as platform, archive_at(tmp_path, platform.url) as archive:
        real = archive.destination
        replace_destination(archive, Meddler(real, replace, versions=False))
        with pytest.raises(OSError, match="replaced"):
            await archive.archive(event_of())
        assert not any(name.endswith(".json") for name in files_in(tmp_path))
        replace_destination(archive, real)
        assert await archive.archive(event_of())
    assert is_whole(files_in(tmp_path))


async def test_the_json_of_who_was_last_is_left(tmp_path: Path) -> None:
    """Whoever finds its sound replaced does not delete the other's JSON, which is right."""
    theirs = sound_of(3)

    async def replace(key: str) -> None:
        said = orjson.loads((tmp_path / key).read_bytes())
        said |= {"sha256": hashlib.sha256(theirs).hexdigest(), "length": len(theirs)}
        (tmp_path / key.replace(".json", ".wav")).write_bytes(theirs)
        (tmp_path / key).write_bytes(orjson.dumps(said))

    async with FaultyPlatform(Keeper()) as platform, archive_at(tmp_path, platform.url) as archive:
        real = archive.destination
        replace_destination(archive, Meddler(real, replace))
        with pytest.raises(OSError, match="replaced"):
            await archive.archive(event_of())
        replace_destination(archive, real)
        assert not await archive.archive(event_of())
    kept = files_in(tmp_path)
    assert is_whole(kept)
    assert theirs in kept.values()


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_cancelled_before_the_last_look(tmp_path: Path, *, is_replaced: bool) -> None:
    """A JSON that is there has been compared with its sound, however its run has ended."""
    put, go_on = asyncio.Event(), asyncio.Event()

    async def wait(key: str) -> None:
        if is_replaced:
            (tmp_path / key.replace(".json", ".wav")).write_bytes(sound_of(3))
        put.set()
        await go_on.wait()

    async with FaultyPlatform(Keeper()) as platform, archive_at(tmp_path, platform.url) as archive:
        replace_destination(archive, Meddler(archive.destination, wait))
        run = asyncio.create_task(archive.archive(event_of()))
        await put.wait()
        run.cancel()
        await asyncio.sleep(0.05)
        assert not run.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run
    kept = files_in(tmp_path)
    assert is_whole(kept)
    assert len(kept) == (1 if is_replaced else 2)
