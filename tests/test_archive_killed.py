"""`RecordingArchive` where it is killed or stopped: never a JSON without its sound."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest
from archive_support import (
    NOT_READY,
    SOUND,
    Archiving,
    Keeper,
    archive_at,
    archiving,
    event_of,
    files_in,
    is_whole,
    recorded,
)
from callback_peer import deliveries_in, hurry, select_in, until
from faulty_platform import FaultyPlatform, http
from store_support import Process

if TYPE_CHECKING:
    from pathlib import Path

    from faulty_platform import Connection


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

def settle(*_):
    os.kill(os.getpid(), signal.SIGKILL)

Folder.put = put_or_die

async def main():
    async with archiving(pathlib.Path(sys.argv[1]), sys.argv[2]) as there:
        there.client.store.begin_to_settle = settle
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
