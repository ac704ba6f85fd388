"""The JSON beside a recording, and how long a WAV file plays."""

from __future__ import annotations

import json
import struct
import wave
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from archive_support import NUMBER, sound_of

from qmc_async.archive.sidecar import Sidecar, seconds_of_wav, sidecar_of
from qmc_async.models import BEIJING, CallState, Disconnected, Overdue, Reason, RecordingResult
from qmc_async.recordings import RecordingFile

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 1, 31, 23, 59, 59, 999_999, tzinfo=BEIJING)
EVENT = Disconnected(
    call_id=f"c-{NUMBER}",
    end_time=datetime(2026, 1, 31, 12, 0, 0, tzinfo=BEIJING),
    start_time=datetime(2026, 1, 31, 11, 58, 0, tzinfo=BEIJING),
    reason=Reason.HANG_UP,
    call_duration=timedelta(seconds=61),
    recording_result=RecordingResult.SUCCESS,
    out_call_id=f"o-{NUMBER}",
    problems=(f"$.answerTime: {NUMBER}",),
    raw={"caller": NUMBER, "fileUrl": "http://files.invalid/secret"},
)


def told(event: Disconnected | Overdue, path: Path, audio_format: str = "wav") -> dict[str, Any]:
    """What the JSON says, by another reader."""
    file = RecordingFile(path, "00" * 32, path.stat().st_size, audio_format)
    data = sidecar_of(event, file, "2026/01/31/c.wav", NOW)
    assert Sidecar.read(data) == Sidecar("2026/01/31/c.wav", "00" * 32, path.stat().st_size)
    assert data.endswith(b"}\n")
    assert NUMBER.encode() not in data.replace(f"c-{NUMBER}".encode(), b"").replace(
        f"o-{NUMBER}".encode(), b""
    )
    found: dict[str, Any] = json.loads(data)
    return found


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A recording of three seconds."""
    path = tmp_path / "c.wav"
    path.write_bytes(sound_of(3))
    return path


def test_all_of_a_call_that_ended(sound: Path) -> None:
    """Every field but what may hold numbers; times have their zone, durations are seconds."""
    assert told(EVENT, sound) == {
        "key": "2026/01/31/c.wav",
        "format": "wav",
        "length": 48_044,
        "duration": 3.0,
        "sha256": "00" * 32,
        "fetched_at": "2026-01-31T23:59:59+08:00",
        "event": {
            "call_id": f"c-{NUMBER}",
            "end_time": "2026-01-31T12:00:00+08:00",
            "start_time": "2026-01-31T11:58:00+08:00",
            "answer_time": None,
            "reason": "HangUp",
            "call_duration": 61,
            "recording_result": "success",
            "out_call_id": f"o-{NUMBER}",
        },
    }


def test_all_of_a_call_that_nobody_reported(sound: Path) -> None:
    """What the watchdog knows of it."""
    event = Overdue(
        out_call_id="o-1", call_id="c-1", placed_at=EVENT.end_time, outcome=CallState.INFERRED
    )
    assert told(event, sound)["event"] == {
        "out_call_id": "o-1",
        "call_id": "c-1",
        "placed_at": "2026-01-31T12:00:00+08:00",
        "outcome": "inferred",
    }


def test_text_from_outside(sound: Path) -> None:
    """Numbers in it are masked, and what no JSON can hold is written out."""
    event = Disconnected(
        call_id="\ud800", end_time=EVENT.end_time, reason=f"Busy {NUMBER}\udfff", out_call_id="\0"
    )
    found = told(event, sound)["event"]
    assert found["call_id"] == "\\ud800"
    assert found["reason"] == "Busy 139****5678\\udfff"
    assert found["out_call_id"] == "\0"


def test_only_a_wav_file_has_a_duration(sound: Path) -> None:
    """Of another format nobody knows, also where the bytes would say so."""
    assert told(EVENT, sound, "mp3")["duration"] is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b'{"key": "a.wav", "sha256": "0"}',
        b'{"key": "a.wav", "sha256": "0", "length": "1"}',
        b'{"key": null, "sha256": "0", "length": 1}',
        b'{"name": "package", "version": "1.0.0"}',
        # Its sound would be a folder, the JSON itself, or no file's name at all.
        b'{"key": "a", "sha256": "0", "length": 1}',
        b'{"key": "a.json", "sha256": "0", "length": 1}',
        b'{"key": "a.\\u0000", "sha256": "0", "length": 1}',
        b"[" * 5000 + b"]" * 5000,
    ],
)
def test_a_json_that_is_none_of_ours(data: bytes) -> None:
    """It is told from ours, whatever it is."""
    with pytest.raises(ValueError, match=r"^\S"):
        Sidecar.read(data)


# --- how long a WAV file plays -----------------------------------------------------------------


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    """A chunk, with the size that it claims to have, padded as RIFF wants it."""
    claimed = len(data) if size is None else size
    return name + struct.pack("<I", claimed) + data + b"\0" * (len(data) % 2)


def form(code: int, rate: int, width: int, extra: bytes = b"") -> bytes:
    """The chunk that tells the format: one channel."""
    data = struct.pack("<HHIIHH", code, 1, rate, rate * width, width, 8 * width)
    return chunk(b"fmt ", data + extra)


def riff(*chunks: bytes, name: bytes = b"RIFF") -> bytes:
    """A file of chunks."""
    data = b"WAVE" + b"".join(chunks)
    return name + struct.pack("<I", len(data)) + data


PCM = form(1, 8000, 2)
A_LAW = form(6, 8000, 1, b"\0\0")
SECOND = bytes(8000)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (riff(PCM, chunk(b"data", SECOND * 2)), 1.0),
        (riff(A_LAW, chunk(b"fact", bytes(4)), chunk(b"data", SECOND)), 1.0),
        (riff(form(7, 8000, 1), chunk(b"data", SECOND * 3)), 3.0),
        (riff(chunk(b"JUNK", bytes(27)), PCM, chunk(b"LIST", b"odd"), chunk(b"data", SECOND)), 0.5),
        (riff(PCM, chunk(b"data", SECOND), chunk(b"LIST", bytes(400))), 0.5),
        # Written to a pipe: nobody knew how long it would be.
        (riff(PCM, chunk(b"data", SECOND, 0)), 0.5),
        (riff(PCM, chunk(b"data", SECOND, 0xFFFFFFFF)), 0.5),
        (riff(PCM, chunk(b"data", SECOND, 0x7FFFF000)), 0.5),
        # Cut, or without any sound.
        (riff(PCM, chunk(b"data", SECOND, 16_000)), 0.5),
        (riff(PCM, chunk(b"data", b"")), 0.0),
        # Nothing tells it.
        (riff(PCM), None),
        (riff(chunk(b"data", SECOND)), None),
        (riff(chunk(b"data", SECOND), PCM), None),
        (riff(form(1, 0, 2), chunk(b"data", SECOND)), None),
        (riff(chunk(b"fmt ", b"\1\0"), chunk(b"data", b"")), None),
        (riff(PCM, b"dat"), None),
        (riff(*[chunk(b"JUNK", b"")] * 200, PCM, chunk(b"data", SECOND)), None),
        (riff(chunk(b"JUNK", b"", 0xFFFFFFFF), PCM, chunk(b"data", SECOND)), None),
        (riff(PCM, chunk(b"data", SECOND), name=b"RIFX"), None),
        (b"RIFF", None),
        (b"", None),
        (b"ID3\4" + bytes(1000), None),
    ],
)
def test_seconds(data: bytes, seconds: float | None, tmp_path: Path) -> None:
    """By its own rate and its own length; None where it does not tell."""
    path = tmp_path / "sound.wav"
    path.write_bytes(data)
    assert seconds_of_wav(path) == seconds


def test_seconds_as_the_standard_library_reads_them(sound: Path) -> None:
    """Of PCM, the two agree."""
    with wave.open(str(sound), "rb") as file:
        assert seconds_of_wav(sound) == file.getnframes() / file.getframerate()
