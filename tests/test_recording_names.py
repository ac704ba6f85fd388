"""What a recording's file is called in a folder, whatever its address and its call's id say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faulty_platform import FaultyPlatform, always, connect, http
from recording_host import AUDIO, AUDIO_REPLY, LOOPBACK, at, left_in

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmc_async.client import AsyncQmcClient


@pytest.fixture
async def client() -> AsyncGenerator[AsyncQmcClient]:
    """A client whose platform is not there."""
    async with connect("http://127.0.0.1:9", max_retries=0, recording_networks=LOOPBACK) as client:
        yield client


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
    assert saved.path == tmp_path / f"c-1{suffix}"
    assert saved.path.read_bytes() == AUDIO


@pytest.mark.parametrize(
    ("content", "suffix", "audio_format"),
    [
        (b"ID3\x04" + bytes(600), ".mp3", "mp3"),
        (b"#!AMR\n" + bytes(600), ".amr", "amr"),
        (b"OggS\0" + bytes(600), ".ogg", "ogg"),
        (b"\x80\x01" + bytes(600), ".wav", "unknown"),
    ],
)
async def test_suffix_of_the_format(
    content: bytes, suffix: str, audio_format: str, client: AsyncQmcClient, tmp_path: Path
) -> None:
    """Where the address says nothing, it is the suffix of what the file is."""
    reply = http(content, headers="Content-Type: audio/x-any\r\n")
    async with FaultyPlatform(always(reply)) as files:
        saved = await client.download(at(files.url, path="/recording?id=1.php"), tmp_path)
    assert saved.path == tmp_path / f"c-1{suffix}"
    assert saved.format == audio_format


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
    assert saved.path.parent == folder
    assert saved.path.resolve().parent == folder.resolve()
    assert left_in(folder) == [saved.path.name]
    assert saved.path.read_bytes() == AUDIO
    assert left_in(tmp_path) == ["folder"]


async def test_long_ids_do_not_collide(client: AsyncQmcClient, tmp_path: Path) -> None:
    """Ids that differ only at their end have files of their own."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as files:
        for last in "ab":
            await client.download(at(files.url, "通话" * 31 + last), tmp_path)
    assert len(left_in(tmp_path)) == 2
