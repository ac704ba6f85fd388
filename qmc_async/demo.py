"""`qmc demo`: every way in which a call can end, on loopback, with nothing set up."""

from __future__ import annotations

import asyncio
import wave
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

from attrs import define, field
from rich import box
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from qmc_async.callback import CallbackServer
from qmc_async.client import AsyncQmcClient
from qmc_async.errors import QmcError
from qmc_async.models import Disconnected, Reason, RecordingResult
from qmc_async.numbers import mask
from qmc_async.sandbox import RealClock, Sandbox, State

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from rich.console import Console
    from rich.progress import TaskID

    from qmc_async.models import Call

__all__ = ["run_demo"]

_CALLER = "13987654321"
# The sandbox reads the outcome off the callee's last four digits; 0010 talks until endCall.
_OUTCOMES: dict[str, Reason] = {
    "13912340001": Reason.CALLER_BUSY,
    "13912340002": Reason.CALLER_NO_ANSWER,
    "13912340003": Reason.CALLER_FAILURE,
    "13912340004": Reason.CALLER_ABANDON,
    "13912340005": Reason.CALLEE_BUSY,
    "13912340006": Reason.CALLEE_NO_ANSWER,
    "13912340007": Reason.CALLEE_FAILURE,
    "13912340008": Reason.OTHER,
    "13912340009": Reason.HANG_UP,
    "13912340010": Reason.HANG_UP,
}
_ENDED_BY_US = "13912340010"
_TALK_UNTIL_END_CALL = timedelta(seconds=6)
_CALLER_PICKED_UP = {
    Reason.HANG_UP,
    Reason.CALLER_ABANDON,
    Reason.CALLEE_BUSY,
    Reason.CALLEE_NO_ANSWER,
    Reason.CALLEE_FAILURE,
    Reason.OTHER,
}
_SPEED = 6.0
_PATIENCE = 20.0
_STYLES = {
    State.CALLER_RINGING: "yellow",
    State.CALLEE_RINGING: "yellow",
    State.CONNECTED: "green",
    State.ENDED: "dim",
}


@define
class _Row:
    """One call of the demo, from the number to the file."""

    callee: str
    expected: Reason
    call: Call | None = None
    event: Disconnected | None = None
    file: Path | None = None
    problems: list[str] = field(factory=list[str])


async def run_demo(console: Console, folder: Path) -> bool:
    """Place ten calls at a sandbox, watch them, and keep their recordings.

    Args:
        console: to show them on: live on a terminal, line by line elsewhere.
        folder: for the recordings; it is made if need be.

    Returns:
        Whether every call ended as its scenario prescribes.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - before anything else runs
    rows = [_Row(callee, reason) for callee, reason in _OUTCOMES.items()]
    async with Sandbox(clock=RealClock(speed=_SPEED)) as platform:
        credentials = platform.credentials
        client = AsyncQmcClient(
            credentials.app_id,
            credentials.app_secret,
            base_url=platform.base_url,
            record_base_url=platform.base_url,
        )
        server = CallbackServer(signer=client.signer, store="sqlite://", port=0)
        demo = _Demo(console, folder, platform, client, server, rows)
        server.on_disconnected(demo.show_event)
        async with client, server:
            platform.callback_url = server.url
            await demo.run()
    console.print(_final_table(rows))
    good = not any(row.problems for row in rows)
    for row in rows:
        for problem in row.problems:
            console.print(f"[red]✗[/] {mask(row.callee)}: {problem}", highlight=False)
    if good:
        console.print(
            f"[green]✓[/] {len(rows)} calls ended as prescribed; recordings: {folder}",
            highlight=False,
            soft_wrap=True,
        )
    return good


@define
class _Demo:
    console: Console
    folder: Path
    platform: Sandbox
    client: AsyncQmcClient
    server: CallbackServer
    rows: list[_Row]
    downloads: Progress = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.downloads = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    async def run(self) -> None:
        showing: AbstractContextManager[object]
        if self.console.is_terminal:
            showing = Live(
                console=self.console,
                get_renderable=self._live_table,
                refresh_per_second=8,
                transient=True,
            )
        else:
            self.console.print(f"{len(self.rows)} calls, {_SPEED:g} times faster than life")
            showing = nullcontext()
        with showing:
            await asyncio.gather(*(self._follow(row) for row in self.rows))

    async def show_event(self, event: Disconnected) -> None:
        """The handler: on a terminal the live table shows the event already."""
        if not self.console.is_terminal:
            self.console.print(f"{event.out_call_id}: {event.reason}", highlight=False)

    async def _follow(self, row: _Row) -> None:
        try:
            row.call = await self.client.call(
                _CALLER, row.callee, out_call_id=f"demo-{row.callee[-4:]}"
            )
            if row.callee == _ENDED_BY_US:
                await self._let_them_talk(row.call)
                await self.client.end_call(row.call)
            row.event = await self.server.wait_for(row.call, timeout=_PATIENCE)
            row.problems += _differences(row.event, row.expected)
            if row.event.recording_result is RecordingResult.SUCCESS:
                row.file = await self._download(row, row.event)
                row.problems += await asyncio.to_thread(_wrong_length, row.file, row.event)
        except (QmcError, TimeoutError) as error:
            row.problems.append(str(error))

    async def _let_them_talk(self, call: Call) -> None:
        simulated = self.platform.calls[call.call_id]
        while simulated.state is not State.CONNECTED:  # noqa: ASYNC110 - the sandbox is watched, not asked to tell
            await asyncio.sleep(0.05)
        await asyncio.sleep(_TALK_UNTIL_END_CALL.total_seconds() / _SPEED)

    async def _download(self, row: _Row, event: Disconnected) -> Path:
        recording = await self.client.recording(event, wait=_PATIENCE)
        name = f"{row.callee[-4:]}.wav"
        shown = self.downloads.add_task(name, total=None)

        def on_progress(written: int, expected: int | None) -> None:
            self._advance(shown, written, expected)

        saved = await self.client.download(recording, self.folder / name, on_progress=on_progress)
        if not self.console.is_terminal:
            self.console.print(f"{event.out_call_id}: recording saved, {saved.length} bytes")
        return saved.path

    def _advance(self, shown: TaskID, written: int, expected: int | None) -> None:
        self.downloads.update(shown, completed=written, total=expected)

    def _live_table(self) -> Group:
        table = _empty_table("Quanmayun sandbox", f"{_SPEED:g} times faster than life")
        now = self.platform.clock.now()
        for row in self.rows:
            state = Text("placing", style="dim")
            times: tuple[datetime | None, ...] = (None, None, None)
            talk: timedelta | None = None
            if row.call is not None:
                simulated = self.platform.calls[row.call.call_id]
                state = Text(simulated.reason or simulated.state, style=_STYLES[simulated.state])
                times = (simulated.start_time, simulated.answer_time, simulated.end_time)
                if simulated.answer_time is not None:
                    talk = (simulated.end_time or now) - simulated.answer_time
            table.add_row(mask(row.callee), state, *map(_clock, times), _talk(talk), _file(row))
        return Group(table, self.downloads)


def _differences(event: Disconnected, expected: Reason) -> list[str]:
    """What the table "what to expect per reason" says, against what came."""
    connected = expected is Reason.HANG_UP
    checks = {
        f"reason {event.reason}, not {expected}": event.reason == expected,
        "startTime is wrong": (event.start_time is not None) == (expected in _CALLER_PICKED_UP),
        "answerTime is wrong": (event.answer_time is not None) == connected,
        "callDuration is wrong": bool(event.call_duration) == connected,
        "recordingResult is wrong": event.recording_result
        == (RecordingResult.SUCCESS if connected else None),
    }
    return [problem for problem, good in checks.items() if not good]


def _wrong_length(path: Path, event: Disconnected) -> list[str]:
    with wave.open(str(path)) as audio:
        length = timedelta(seconds=audio.getnframes() / audio.getframerate())
    if length == event.call_duration:
        return []
    return [f"the recording is {length} long, the talk was {event.call_duration}"]


def _empty_table(title: str, caption: str) -> Table:
    table = Table(
        title=title,
        caption=caption,
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # it fits into 80 columns
    )
    for heading, width in {"callee": 11, "reason": 15, "start": 8, "answer": 8, "end": 8}.items():
        table.add_column(heading, no_wrap=True, min_width=width)
    table.add_column("talk", no_wrap=True, justify="right", min_width=4)
    table.add_column("recording", no_wrap=True, min_width=9)
    return table


def _final_table(rows: list[_Row]) -> Table:
    table = _empty_table("What was reported", "times are Beijing time, as the platform sends them")
    for row in rows:
        event = row.event
        if event is None:
            table.add_row(mask(row.callee), Text("not reported", style="red"))
            continue
        good = not row.problems
        times = (event.start_time, event.answer_time, event.end_time)
        table.add_row(
            mask(row.callee),
            Text(_reason(row, event), style="green" if good else "red"),
            *map(_clock, times),
            _talk(event.call_duration),
            _file(row),
        )
    return table


def _reason(row: _Row, event: Disconnected) -> str:
    by_us = ", endCall" if row.callee == _ENDED_BY_US else ""
    return f"{event.reason}{by_us}"


def _clock(time: datetime | None) -> str:
    return "" if time is None else f"{time:%H:%M:%S}"


def _talk(duration: timedelta | None) -> str:
    return f"{duration.total_seconds():.0f} s" if duration else ""


def _file(row: _Row) -> str:
    return "" if row.file is None else row.file.name
