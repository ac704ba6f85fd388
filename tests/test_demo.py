"""`qmc demo`: what it shows, and that it cannot be talked into a good result."""

from __future__ import annotations

import io
import wave
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from qmc_async import AsyncQmcClient, demo
from qmc_async.models import Reason
from qmc_async.sandbox import Faults, Rule, Sandbox, Scenario

if TYPE_CHECKING:
    from pathlib import Path

    from qmc_async.models import Recording
    from qmc_async.recordings import Progress, RecordingFile


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_SPEED", 25.0)
    monkeypatch.setattr(demo, "_PATIENCE", 3.0)


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    """A console, and what is shown on it."""
    screen = io.StringIO()
    return Console(file=screen, force_terminal=terminal, width=80, color_system=None), screen


@pytest.mark.parametrize("terminal", [True, False])
async def test_every_outcome_is_shown(tmp_path: Path, *, terminal: bool) -> None:
    """All nine reasons and both recordings are there, in 80 columns, with masked numbers."""
    screen, shown = console(terminal=terminal)
    assert await demo.run_demo(screen, tmp_path / "new" / "folder")
    text = shown.getvalue()
    for reason in Reason:
        assert reason in text
    assert "10 calls ended as prescribed" in text
    assert "139****0010" in text
    assert "13912340010" not in text
    assert "…" not in text
    files = {"0009.wav": 12, "0010.wav": 6}
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == set(files)
    for name, seconds in files.items():
        with wave.open(str(tmp_path / "new" / "folder" / name)) as audio:
            length = audio.getnframes() / audio.getframerate()
        # On a busy machine the second one is ended late.
        assert abs(length - seconds) <= 1 or (name == "0010.wav" and length > seconds)


async def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    """A log gets one line a notification, and no control characters."""
    screen, shown = console(terminal=False)
    await demo.run_demo(screen, tmp_path)
    assert "demo-0005: CalleeBusy\n" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (Rule(callee="*0001", scenario=Scenario.for_reason(Reason.OTHER)), "not CallerBusy"),
        (Rule(callee="*0009", faults=Faults(drop_notification=True)), "no notification"),
        (Rule(callee="*0009", faults=Faults(recording_fails=True)), "recordingResult"),
    ],
)
async def test_another_outcome_than_prescribed_is_a_failure(
    rule: Rule, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict comes from what was reported, not from what was planned."""

    class OtherPlatform(Sandbox):
        async def start(self) -> None:
            self.rules.append(rule)
            await super().start()

    monkeypatch.setattr(demo, "Sandbox", OtherPlatform)
    screen, shown = console(terminal=False)
    assert not await demo.run_demo(screen, tmp_path)
    assert complaint in " ".join(shown.getvalue().split())


async def test_a_recording_of_the_wrong_length_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is opened and measured."""
    write = AsyncQmcClient.download

    async def cut(
        self: AsyncQmcClient, recording: Recording, destination: Path, *, on_progress: Progress
    ) -> RecordingFile:
        saved = await write(self, recording, destination, on_progress=on_progress)
        with wave.open(str(saved), "wb") as audio:
            audio.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        return saved

    monkeypatch.setattr(AsyncQmcClient, "download", cut)
    screen, shown = console(terminal=False)
    assert not await demo.run_demo(screen, tmp_path)
    assert "the recording is 0:00:00 long" in " ".join(shown.getvalue().split())
