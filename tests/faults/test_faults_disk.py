"""The disk fails: it is full, it is read-only. The server goes on, and recovers by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from fault_scene import FULL, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

REASONS = ["CalleeBusy", "CalleeNoAnswer", "HangUp", "HangUp"]
SIZE = 24 << 20  # bytes; the write-ahead log alone takes four megabytes
IN_TROUBLE = 2000 if FULL else 300  # answers while the disk fails


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is soon full."""
    point = tmp_path / "disk"
    point.mkdir()
    mount = shutil.which("mount")
    umount = shutil.which("umount")
    if mount is None or umount is None or os.geteuid():
        pytest.skip("only root can mount the small disk that is to fill up")
    command = [mount, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run([umount, "-l", str(point)], check=True)  # noqa: S603 - ours


def _fill(disk: Path) -> Path:
    """Take all the space that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 9):
            while True:
                try:
                    if file.write(bytes(size)) < size:
                        break
                except OSError:
                    break
    return ballast


@pytest.mark.timeout(180)
async def test_full(small_disk: Path, scene: Scene, figure: Callable[[str], None]) -> None:
    """With the spool on another disk, everything is answered with success, and handled later."""
    scene.database = small_disk / "qmc.db"
    server = await scene.start()
    platform = scene.platform
    async with platform.posting(server.url, "full", REASONS):
        await platform.until_answered(100)
        ballast = _fill(small_disk)
        await platform.until_answered(IN_TROUBLE)
        assert await server.ready() == (200, ["store"])
        ballast.unlink()
        await platform.until_answered(100)
    await scene.all_handled()
    assert platform.statuses.keys() == {200}
    await scene.settled()
    assert not scene.not_in_store()
    assert await server.ready() == (200, [])
    await server.stop()
    figure(
        f"disk full, spool elsewhere: {len(platform.kept)} answered 200, none otherwise, 0 lost, "
        f"{scene.repeated()} handled more than once, slowest answer {platform.slowest:.2f} s, "
        "recovered without a restart"
    )


@pytest.mark.timeout(180)
async def test_full_with_the_spool(
    small_disk: Path, scene: Scene, figure: Callable[[str], None]
) -> None:
    """Where nothing can be kept the answer is 500; what was answered with success is not lost."""
    scene.database = small_disk / "qmc.db"
    scene.spool = small_disk / "spool"
    server = await scene.start()
    platform = scene.platform
    async with platform.posting(server.url, "full", REASONS):
        await platform.until_answered(100)
        ballast = _fill(small_disk)
        await until(lambda: platform.statuses[500] >= IN_TROUBLE, "the disk is full")
        assert await server.ready() == (503, ["store", "spool"])
        ballast.unlink()
        kept = len(platform.kept)
        await until(lambda: len(platform.kept) > kept + 100, "the server recovers")
    await scene.all_handled()
    assert platform.statuses.keys() == {200, 500}
    await scene.settled()
    assert not scene.not_in_store()
    assert await server.ready() == (200, [])
    await server.stop()
    figure(
        f"disk full, spool on it: {platform.statuses[200]} answered 200, "
        f"{platform.statuses[500]} answered 500, 0 of the former lost, {scene.repeated()} handled "
        f"more than once, slowest answer {platform.slowest:.2f} s, recovered without a restart"
    )


def _make_immutable(paths: list[Path], *, immutable: bool) -> None:
    chattr = shutil.which("chattr")
    if chattr is None or os.geteuid():
        pytest.skip("only root can make a file read-only that is open for writing")
    command = [chattr, "+i" if immutable else "-i", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        pytest.skip(f"no file can be made read-only here: {done.stderr.strip()}")


@pytest.mark.timeout(180)
async def test_read_only(scene: Scene, figure: Callable[[str], None]) -> None:
    """A folder, and the files in it, that are made read-only: the spool takes over meanwhile."""
    folder = scene.folder / "database"
    folder.mkdir()
    scene.database = folder / "qmc.db"
    server = await scene.start()
    platform = scene.platform
    async with platform.posting(server.url, "read-only", REASONS):
        await platform.until_answered(100)
        paths = [folder, *(one for one in folder.iterdir() if one.suffix != ".db-shm")]
        _make_immutable(paths, immutable=True)
        try:
            await platform.until_answered(IN_TROUBLE)
            assert await server.ready() == (200, ["store"])
        finally:
            _make_immutable(paths, immutable=False)
        await platform.until_answered(100)
    await scene.all_handled()
    assert platform.statuses.keys() == {200}
    await scene.settled()
    assert not scene.not_in_store()
    assert await server.ready() == (200, [])
    assert not scene.set_aside()
    await server.stop()
    figure(
        f"folder and files read-only: {len(platform.kept)} answered 200, none otherwise, 0 lost, "
        f"{scene.repeated()} handled more than once, slowest answer {platform.slowest:.2f} s, "
        "recovered without a restart"
    )
