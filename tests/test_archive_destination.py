"""Where an archive goes: what is under a key is whole, and errors tell nobody a password."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from archive_support import files_in
from store_support import Process

from qmc_async import ConfigError
from qmc_async.archive.destination import Folder, destination_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmc_async.archive.destination import Destination

KEY = "2026/01/31/%2Ea b.wav"
# Puts files until it is killed; each is 8 MiB of one byte.
PUTTING = """
import asyncio, itertools, pathlib, sys
from qmc_async.archive.destination import Folder

async def main():
    folder = Folder(pathlib.Path(sys.argv[1]))
    print("ready", flush=True)
    for number in itertools.count():
        with folder.scratch() as scratch:
            file = scratch / "sound"
            file.write_bytes(bytes([number % 256]) * (8 << 20))
            await folder.put(f"{number % 5}/sound.wav", file)

asyncio.run(main())
"""
# Puts one file, below two folders that are not there.
PUTTING_ONE = """
import asyncio, pathlib, sys
from qmc_async.archive.destination import Folder

folder = Folder(pathlib.Path(sys.argv[1]))
with folder.scratch() as scratch:
    (scratch / "sound").write_bytes(b"abc")
    asyncio.run(folder.put("2026/01/sound.wav", scratch / "sound"))
"""


async def put(destination: Destination, key: str, data: bytes) -> str | None:
    """Put bytes under a key."""
    with destination.scratch() as folder:
        (folder / "file").write_bytes(data)
        version = await destination.put(key, folder / "file")
    assert not folder.exists()
    return version


async def pieces_of(destination: Destination, key: str) -> list[bytes]:
    """What is under a key, as it comes."""
    return [piece async for piece in destination.pieces(key)]


# --- a folder ----------------------------------------------------------------------------------


async def test_a_folder_keeps_files(tmp_path: Path) -> None:
    """What was put is there under its key, until it is replaced or deleted."""
    folder = Folder(tmp_path)
    first = await put(folder, KEY, b"one")
    assert files_in(tmp_path) == {KEY: b"one"}
    assert await folder.read(KEY) == b"one"
    stat = await folder.stat(KEY)
    assert stat is not None
    assert (stat.length, stat.version) == (3, first)
    second = await put(folder, KEY, b"other")
    assert second != first
    assert files_in(tmp_path) == {KEY: b"other"}
    assert await folder.keys() == [KEY]
    await folder.delete(KEY)
    await folder.delete(KEY)
    assert files_in(tmp_path) == {}
    assert await folder.read(KEY) is None
    assert await folder.stat(KEY) is None
    assert await pieces_of(folder, KEY) == []


async def test_a_folder_reads_piece_by_piece(tmp_path: Path) -> None:
    """A long file is never in memory as a whole."""
    data = os.urandom((20 << 20) + 1)
    (tmp_path / "long").write_bytes(data)
    pieces = await pieces_of(Folder(tmp_path), "long")
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 8 << 20


async def test_what_is_hidden_is_no_key(tmp_path: Path) -> None:
    """Unfinished files and a file manager's own are not looked at; folders are no keys."""
    for name in (".DS_Store", "a/.hidden", ".git/config", "a/b.wav", "c.json", "empty/"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    folder = Folder(tmp_path)
    with folder.scratch() as scratch:
        (scratch / "sound.wav").touch()
        assert sorted(await folder.keys()) == ["a/b.wav", "c.json"]


async def test_a_folder_that_is_not_there_has_no_keys(tmp_path: Path) -> None:
    """A mistyped name is an error, not an archive in which all is well."""
    with pytest.raises(ConfigError, match="there is no folder"):
        await Folder(tmp_path / "a").keys()


async def test_a_part_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a folder cannot be read, whoever verifies must not be told that all is well."""
    (tmp_path / "2026").mkdir()
    scandir = os.scandir

    def fail(path: Any) -> Any:  # noqa: ANN401 - as `os.scandir`
        if str(path).endswith("2026"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(PermissionError):
        await Folder(tmp_path).keys()


def test_a_folder_is_made(tmp_path: Path) -> None:
    """If only itself is missing; a whole path that is missing is a mistake."""
    Folder(tmp_path / "a").prepare()
    assert (tmp_path / "a").is_dir()
    with pytest.raises(ConfigError, match=r"nothing can be written into .*No such file") as caught:
        Folder(tmp_path / "b" / "c").prepare()
    assert caught.value.setting == "destination"
    assert not list((tmp_path / "a").iterdir())
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("path", ["/proc", "{}/file"])
def test_a_folder_that_cannot_be_written_to(path: str, tmp_path: Path) -> None:
    """It is told when the program starts, not three days later."""
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="nothing can be written into"):
        Folder(Path(path.format(tmp_path))).prepare()
    assert files_in(tmp_path) == {"file": b"mine"}


def test_what_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    """After two hours, in which any attempt has ended; nothing else is touched."""
    folder = Folder(tmp_path)
    with folder.scratch() as scratch:
        prefix = scratch.name[: scratch.name.index("-") + 1]
        for name, hours in ((f"{prefix}old", 2.1), (f"{prefix}new", 1.9), (".mine", 9), ("a", 9)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "sound").touch()
            then = time.time() - hours * 3600
            os.utime(tmp_path / name, (then, then))
        folder.prepare()
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {scratch.name, f"{prefix}new", ".mine", "a"}
    assert not scratch.exists()


def test_others_clean_up_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scratch folder that goes away meanwhile, or that is another user's, stops no start."""
    folder = Folder(tmp_path)
    with folder.scratch() as scratch:
        prefix = scratch.name[: scratch.name.index("-") + 1]
    (tmp_path / f"{prefix}file").touch()
    os.utime(tmp_path / f"{prefix}file", (0, 0))
    glob = Path.glob

    def and_gone(self: Path, pattern: str) -> Iterator[Path]:
        yield self / f"{prefix}gone"
        yield from glob(self, pattern)

    monkeypatch.setattr(Path, "glob", and_gone)
    folder.prepare()


def test_the_disk_has_it_before_its_name(tmp_path: Path) -> None:
    """The file is synced, then renamed, then its folder is synced, and each new one above."""
    trace = tmp_path / "trace"
    kept = tmp_path / "kept"
    kept.mkdir()
    calls = "fsync,rename,renameat,renameat2,mkdir,mkdirat"
    command = ["strace", "-f", "-y", "-e", f"trace={calls}", "-o", str(trace)]
    traced = subprocess.run(  # noqa: S603 - our own program
        [*command, sys.executable, "-c", PUTTING_ONE, str(kept)], check=False, capture_output=True
    )
    if traced.returncode and not kept.joinpath("2026").exists():
        pytest.skip(f"no strace here: {traced.stderr.decode()}")
    assert files_in(kept) == {"2026/01/sound.wav": b"abc"}
    lines = trace.read_text().splitlines()
    steps = [
        next(i for i, line in enumerate(lines) if all(word in line for word in words))
        for words in (
            ("mkdir", f'{kept}/2026"'),
            ("fsync", f"<{kept}>"),
            ("mkdir", f'{kept}/2026/01"'),
            ("fsync", f"<{kept}/2026>"),
            ("rename", "sound.wav"),
            ("fsync", f"<{kept}/2026/01>"),
        )
    ]
    assert steps == sorted(steps)
    of_file = next(i for i, line in enumerate(lines) if "fsync" in line and "/sound>" in line)
    assert of_file < steps[4]


def test_kill_9_leaves_no_partial_file(tmp_path: Path) -> None:
    """Whenever it comes: under a final name there is all of a file."""
    seen = 0
    for _ in range(2):
        process = Process(PUTTING, str(tmp_path))
        assert process.line() == "ready"
        time.sleep(random.uniform(0.1, 0.4))  # noqa: S311 - any moment will do
        process.kill()
        for path in tmp_path.glob("[0-9]/*"):
            data = path.read_bytes()
            assert len(data) == 8 << 20
            assert len(set(data)) == 1
            seen += 1
    assert seen, "it was killed before it had put anything"


async def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    """It is an error of the disk, like any other, and stays as it is."""
    (tmp_path / "2026").write_bytes(b"mine")
    with pytest.raises(OSError, match="2026"):
        await put(Folder(tmp_path), KEY, b"one")
    assert files_in(tmp_path) == {"2026": b"mine"}


async def test_many_put_into_new_folders_at_once(tmp_path: Path) -> None:
    """Whoever makes a folder first, all files are in it."""
    folder = Folder(tmp_path)
    await asyncio.gather(*(put(folder, f"a/b/c/{number}", b"x") for number in range(30)))
    assert len(files_in(tmp_path)) == 30


async def test_where_folders_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another system than POSIX has no way to do that: the file is kept all the same."""
    monkeypatch.delattr(os, "O_DIRECTORY")
    await put(Folder(tmp_path), KEY, b"one")
    assert files_in(tmp_path) == {KEY: b"one"}


# --- what is meant -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "file://{}", "path"])
def test_folders(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, as a text or not, and a URL of a file are folders; obstore is not even imported."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    path = tmp_path / "a b"
    given: Any = path if form == "path" else form.format(path).replace("file:///", "file:///%2e/")
    destination = destination_at(given)
    assert isinstance(destination, Folder)
    assert Path(destination.place).resolve() == path


def test_a_relative_folder_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the program goes elsewhere later."""
    monkeypatch.chdir(tmp_path)
    destination = destination_at("kept")
    monkeypatch.chdir("/")
    assert destination.place == str(tmp_path / "kept")


def test_a_url_of_a_file_on_another_machine() -> None:
    """Two slashes too few name a machine, which nobody meant."""
    with pytest.raises(ConfigError, match="file://srv/rec needs three slashes"):
        destination_at("file://srv/rec")


@pytest.mark.parametrize("nothing", ["", "file://"])
def test_no_folder_at_all(nothing: str) -> None:
    """A setting that was left out does not mean the current folder."""
    with pytest.raises(ConfigError, match="it is empty: name a folder"):
        destination_at(nothing)
