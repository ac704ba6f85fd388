"""`qmc recordings verify`: it finds what is not as it was fetched, and nothing else."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
from archive_support import (
    DAY,
    SOUND,
    Keeper,
    archive_at,
    event_of,
    files_in,
    recorded,
    sound_of,
)
from click.testing import CliRunner, Result
from faulty_platform import FaultyPlatform

from qmc_async.cli import cli

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

ALREADY = recorded("there")


def verify(*words: str) -> Result:
    """Run `qmc recordings verify`."""
    return CliRunner().invoke(cli, ["recordings", "verify", *words])


@pytest.fixture
async def kept(tmp_path: Path) -> Path:
    """An archive of three calls, in two folders."""
    folder = tmp_path / "kept"
    async with FaultyPlatform(Keeper()) as platform, archive_at(folder, platform.url) as archive:
        await archive.archive(event_of("1"))
        await archive.archive(event_of("2"))
        await archive.archive(event_of("3", 3 * DAY))
    return folder


def key_of(kept: Path, call_id: str, suffix: str = ".wav") -> str:
    """Where one of its files is."""
    [path] = kept.rglob(f"{call_id}{suffix}")
    return path.relative_to(kept).as_posix()


def test_verify_of_a_whole_archive(kept: Path) -> None:
    """Nothing is listed, and nothing is changed."""
    before = files_in(kept)
    result = verify(str(kept))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "3 as they were fetched, 0 wrong\n"
    assert files_in(kept) == before


def flip(data: bytes) -> bytes:
    """The same with one bit changed."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("suffix", "damage", "problem"),
    [
        (".wav", flip(SOUND), "its bytes have changed"),
        (".wav", SOUND[:-1], f"it has {len(SOUND) - 1} bytes, not {len(SOUND)}"),
        (".wav", SOUND + b"\0", f"it has {len(SOUND) + 1} bytes, not {len(SOUND)}"),
        (".wav", b"", "it is not there, or empty"),
        (".wav", None, "it is not there, or empty"),
        (".json", None, "it was never finished: there is no JSON beside it"),
        (".json", b"", "Input is a zero-length, empty document: line 1 column 1 (char 0)"),
        (".json", b"[]", "it is no JSON of this archive"),
        (
            ".json",
            b'{"key": "a.\\u0000", "sha256": "", "length": 1}',
            "it is no JSON of this archive",
        ),
    ],
)
def test_verify_finds(kept: Path, suffix: str, damage: bytes | None, problem: str) -> None:
    """One bit, one byte, a file that is missing: it is listed with its key, and status 1."""
    key = key_of(kept, "2", suffix)
    told = key_of(kept, "2", ".wav" if suffix == ".wav" or damage is None else ".json")
    if damage is None:
        (kept / key).unlink()
    else:
        (kept / key).write_bytes(damage)
    result = verify(str(kept))
    assert (result.exit_code, result.stdout) == (1, f"{told}  {problem}\n")
    assert result.stderr == "2 as they were fetched, 1 wrong\n"


def test_verify_finds_a_recording_in_anothers_place(kept: Path) -> None:
    """Two sounds of the same length that have been exchanged are both wrong."""
    other = sound_of(2, 7)
    assert len(other) == len(SOUND)
    (kept / key_of(kept, "1")).write_bytes(other)
    assert verify(str(kept)).stdout == f"{key_of(kept, '1')}  its bytes have changed\n"


def test_verify_does_not_look_at_others_files(kept: Path) -> None:
    """Notes beside an archive are nobody's recording; a strange JSON is told as such."""
    (kept / "README.txt").write_text("mine")
    (kept / ".hidden.json").write_text("{}")
    (kept / "package.json").write_text('{"name": "\x1b[2J"}')
    result = verify(str(kept))
    assert result.stdout.startswith("package.json  ")
    assert result.stdout.count("\n") == 1
    assert result.stderr == "3 as they were fetched, 1 wrong\n"


def test_names_do_nothing_to_a_terminal(kept: Path) -> None:
    """A file's name is shown, not obeyed, also where it is no text."""
    (kept / "a\x1b[2J.wav").write_bytes(SOUND)
    (kept / os.fsdecode(b"b\xff.json")).write_bytes(b"{}")
    result = verify(str(kept))
    assert "a\\x1b[2J.wav  it was never finished" in result.stdout
    assert "b\\udcff.json  it is no JSON of this archive" in result.stdout
    assert "\x1b" not in result.output


def test_verify_of_an_archive_that_was_moved(kept: Path, tmp_path: Path) -> None:
    """Under another folder, and a part of it alone, it is as whole as it was."""
    moved = tmp_path / "backup" / "of" / "it"
    shutil.copytree(kept, moved)
    shutil.rmtree(kept)
    assert verify(str(moved.parent.parent)).stderr == "3 as they were fetched, 0 wrong\n"
    part = (moved / key_of(moved, "3")).parent
    assert verify(str(part)).stderr == "1 as they were fetched, 0 wrong\n"
    assert verify(f"file://{part}").stderr == "1 as they were fetched, 0 wrong\n"


def test_a_disk_that_goes_bad(kept: Path) -> None:
    """A file that cannot be read is listed, and the others are verified all the same."""
    (kept / key_of(kept, "2")).unlink()
    (kept / f"{key_of(kept, '2', '.json').removesuffix('.json')}.wav").mkdir()
    result = verify(str(kept))
    assert result.exit_code == 1
    assert re.fullmatch(r"\S+/2\.wav  it cannot be read: Is a directory\n", result.stdout)
    assert result.stderr == "2 as they were fetched, 1 wrong\n"
    beside = kept / key_of(kept, "1", ".json")
    beside.unlink()
    beside.mkdir()
    (beside / "lost+found").touch()
    result = verify(str(kept))
    assert "/1.wav  it cannot be read: Is a directory\n" in result.stdout
    assert result.stderr == "1 as they were fetched, 2 wrong\n"


@pytest.mark.parametrize("damage", ["json goes", "sound is finished"])
def test_verify_beside_a_server(kept: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes between the listing and the look is seen as it is then."""
    beside = kept / key_of(kept, "2", ".json")
    data = beside.read_bytes()
    if damage == "sound is finished":
        beside.unlink()
    # The package has a command of the same name.
    command: Any = importlib.import_module("qmc_async.cli.recordings")
    listed: Callable[[Any], Awaitable[list[str]]] = command.list_archived

    async def then_change(destination: Any) -> list[str]:  # noqa: ANN401 - as it takes it
        keys = await listed(destination)
        if damage == "sound is finished":
            beside.write_bytes(data)
        else:
            beside.unlink()
        return keys

    monkeypatch.setattr(command, "list_archived", then_change)
    result = verify(str(kept))
    if damage == "sound is finished":
        assert (result.stdout, result.stderr) == ("", "3 as they were fetched, 0 wrong\n")
    else:
        assert result.stdout.endswith("2.json  it has gone meanwhile\n")


def test_verify_of_nothing(tmp_path: Path) -> None:
    """A folder that is not there is a mistake, and an empty one may be."""
    result = verify(str(tmp_path / "a"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"qmc: destination: there is no folder {tmp_path / 'a'}\n"
    result = verify(str(tmp_path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"there is no recording in {tmp_path}: is it another's?\n"


# --- on a terminal -----------------------------------------------------------------------------


def screens_of(written: str) -> list[str]:
    """Each line that a terminal has shown, before it was written over."""
    lines, row = [""], 0
    shown: list[str] = []
    for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            shown.append(lines[row])
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] += part
    return [*shown, "---", *lines]


def on_terminal(monkeypatch: pytest.MonkeyPatch, *words: str, stdout: bool = True) -> list[str]:
    """Run `qmc recordings` on a terminal, and tell what stood there, and what stays."""
    ours, theirs = os.openpty()
    written: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                written.append(data)
        except OSError:
            pass  # the other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", terminal)
        if stdout:
            patch.setattr("sys.stdout", terminal)
        with pytest.raises(SystemExit):
            cli(["recordings", *words])
    reader.join(20)
    os.close(ours)
    return screens_of(b"".join(written).decode())


def test_verify_on_a_terminal(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar tells how far it is, and goes; what is wrong has lines of its own, and stays."""
    wrong = key_of(kept, "2")
    (kept / wrong).write_bytes(b"RIFF")
    lines = on_terminal(monkeypatch, "verify", str(kept))
    end = lines.index("---")
    assert any("3 of 3 recordings" in line and "━" in line for line in lines[:end])
    problem = f"{wrong}  it has 4 bytes, not {len(SOUND)}"
    assert [line for line in lines[end + 1 :] if line] == [
        problem,
        "2 as they were fetched, 1 wrong",
    ]


def test_verify_into_a_file(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a bar on the terminal, what is wrong goes where the standard output goes."""
    wrong = key_of(kept, "2")
    (kept / wrong).write_bytes(b"RIFF")
    lines = on_terminal(monkeypatch, "verify", str(kept), stdout=False)
    assert capsys.readouterr().out == f"{wrong}  it has 4 bytes, not {len(SOUND)}\n"
    assert any("━" in line for line in lines)
    assert [line for line in lines[lines.index("---") + 1 :] if line] == [
        "2 as they were fetched, 1 wrong"
    ]
