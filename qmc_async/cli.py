"""`qmc`: the platform, or a sandbox of it, from a terminal.

Exit status: 0 it was done; 1 it failed, at the platform, on the way to it, or on this machine (a
taken port, a full disk); 2 the command or a setting is wrong, and nothing was sent; 3 nobody knows
whether the call was placed; 4 no notification came in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from qmc_async.callback import CallbackServer
from qmc_async.client import AsyncQmcClient
from qmc_async.errors import ArgumentError, CallOutcomeUnknown, ConfigError, QmcError
from qmc_async.numbers import mask
from qmc_async.sandbox import (
    DEFAULT_BEHAVIOUR,
    SCENARIOS_BY_DIGITS,
    RealClock,
    Sandbox,
    SimulatedCall,
    State,
)
from qmc_async.signer import Signer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qmc_async.models import Call, Disconnected

__all__ = ["cli", "narrate"]

P = ParamSpec("P")

FAILED, WRONG, UNKNOWN, NO_NOTIFICATION = 1, 2, 3, 4
_CALLBACK_PORT = 8080


def _run(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a coroutine function as a command: every error is one line and an exit status."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            asyncio.run(command(*args, **kwargs))
        except (QmcError, OSError) as error:
            click.echo(f"qmc: {error}", err=True)
            sys.exit(_status(error))
        except KeyboardInterrupt:
            sys.exit(130)

    return run


def _status(error: QmcError | OSError) -> int:
    match error:
        case CallOutcomeUnknown():
            return UNKNOWN
        case ConfigError() | ArgumentError():
            return WRONG
        case TimeoutError():
            return NO_NOTIFICATION
        case _:
            return FAILED


def _console() -> Console:
    console = Console(highlight=False)
    # A pipe has no width, and a table that breaks its lines for 80 columns cannot be searched.
    return console if console.is_terminal else Console(highlight=False, width=120)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from QMC_APP_ID, QMC_APP_SECRET, QMC_BASE_URL, QMC_RECORD_BASE_URL, ...",
)
@click.version_option(package_name="qmc-async")
def cli() -> None:
    """Quanmayun two-way callback: place calls, hear how they ended, keep their recordings."""


@cli.command()
@click.option(
    "-o",
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("qmc-demo-recordings"),
    show_default=True,
    help="Where the recordings go.",
)
@_run
async def demo(folder: Path) -> None:
    """Watch ten calls end in every way there is. Nobody's telephone rings.

    Everything runs on this machine, on free ports, with nothing set up. Exit status 0 means that
    every call ended as its scenario prescribes.
    """
    from qmc_async.demo import run_demo  # noqa: PLC0415 - the other commands need none of it

    if not await run_demo(_console(), folder):
        sys.exit(FAILED)


@cli.command()
@click.argument("caller")
@click.argument("callee")
@click.option("--out-call-id", help="Your own name for the call; the notification repeats it.")
@click.option("--wait", is_flag=True, help="Listen for the notification, and show how it ended.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="With --wait: seconds.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="With --wait: listen here.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_CALLBACK_PORT,
    show_default=True,
    help="With --wait: listen here.",
)
@click.option("--public-url", help="With --wait: scheme and host as the platform sees them.")
@_run
async def call(
    caller: str,
    callee: str,
    out_call_id: str | None,
    *,
    wait: bool,
    timeout: float,  # noqa: ASYNC109 - an option of the command line
    host: str,
    port: int,
    public_url: str | None,
) -> None:
    """Ring CALLER, then CALLEE, and connect them.

    With --wait the callback address must lead here; it is shown, to be entered on the platform's
    console. `qmc sandbox` sends to it as it is.

    Example: qmc call 13987654321 13912340005 --wait
    """
    async with AsyncQmcClient() as client:
        if not wait:
            _show_call(await client.call(caller, callee, out_call_id=out_call_id))
            return
        server = CallbackServer(signer=client.signer, host=host, port=port, public_url=public_url)
        async with server:
            with contextlib.suppress(RuntimeError):  # on every address, and no public one given
                click.echo(f"listening at {server.url}", err=True)
            placed = await client.call(caller, callee, out_call_id=out_call_id)
            _show_call(placed)
            _show_event(await server.wait_for(placed, timeout=timeout))


@cli.command()
@click.argument("call_id")
@_run
async def end(call_id: str) -> None:
    """End the call CALL_ID, whatever state it is in.

    Example: qmc end 128754716574532539
    """
    async with AsyncQmcClient() as client:
        await client.end_call(call_id)
    click.echo("ended")


@cli.command()
@click.argument("call_id")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The file, or a folder; by default CALL_ID.wav here.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Seconds to keep asking while there is none.",
)
@_run
async def recording(call_id: str, output: Path, wait: float) -> None:
    """Save the recording of the call CALL_ID. It is gone three days after the call.

    Example: qmc recording 128754716574532539 -o call.wav
    """
    console = Console(stderr=True, highlight=False)
    async with AsyncQmcClient() as client:
        found = await client.recording(call_id, wait=wait)
        with Progress(
            TextColumn(call_id), BarColumn(), DownloadColumn(), console=console, transient=True
        ) as progress:
            shown = progress.add_task(call_id, total=None)

            def on_progress(written: int, expected: int | None) -> None:
                progress.update(shown, completed=written, total=expected)

            path = await client.download(found, output, on_progress=on_progress)
    click.echo(path)


@cli.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9090,
    show_default=True,
    help="0 for a free one.",
)
@click.option(
    "--callback",
    metavar="URL",
    help="Where notifications go.  [default: where `qmc call --wait` listens]",
)
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Simulated seconds per second.",
)
@_run
async def sandbox(port: int, callback: str | None, speed: float) -> None:
    """Be the platform, on this machine, until Ctrl-C. Nobody's telephone rings.

    The callee's last four digits say how a call ends; the table is shown at the start.
    """
    console = _console()
    clock = RealClock(speed=speed)
    async with Sandbox(port=port, clock=clock) as platform:
        credentials = platform.credentials
        own = CallbackServer(signer=Signer(credentials), port=_CALLBACK_PORT).url
        platform.callback_url = callback or own
        console.print("The platform is on this machine. In another terminal:\n")
        for name, value in {
            "QMC_APP_ID": credentials.app_id,
            "QMC_APP_SECRET": credentials.app_secret,
            "QMC_BASE_URL": platform.base_url,
            "QMC_RECORD_BASE_URL": platform.base_url,
        }.items():
            click.echo(f"  export {name}={value}")
        click.echo("  qmc call 13987654321 13912340005 --wait\n")
        click.echo(f"Notifications go to {platform.callback_url}\n")
        console.print(_scenarios())
        await narrate(platform)


def _show_call(placed: Call) -> None:
    click.echo(f"call id      {placed.call_id}")
    click.echo(f"out call id  {placed.out_call_id}")


def _show_event(event: Disconnected) -> None:
    shown = {
        "reason": event.reason,
        "picked up": event.start_time and f"{event.start_time:%Y-%m-%d %H:%M:%S}",
        "connected": event.answer_time and f"{event.answer_time:%Y-%m-%d %H:%M:%S}",
        "ended": f"{event.end_time:%Y-%m-%d %H:%M:%S}",
        "talk": event.call_duration and f"{event.call_duration.total_seconds():.0f} s",
        "recording": event.recording_result,
    }
    for name, value in shown.items():
        if value:
            click.echo(f"{name:<12} {value}")


def _scenarios() -> Table:
    table = Table("callee ends in", "what happens")
    for digits, behaviour in SCENARIOS_BY_DIGITS.items():
        table.add_row(digits, behaviour.summary)
    table.add_row("anything else", DEFAULT_BEHAVIOUR.summary)
    return table


async def narrate(platform: Sandbox) -> None:
    """Print each change of each call, until cancelled."""
    told: dict[str, State] = {}
    while True:
        for simulated in list(platform.calls.values()):
            if told.get(simulated.call_id) is not simulated.state:
                told[simulated.call_id] = simulated.state
                click.echo(_line(simulated))
        await asyncio.sleep(0.1)


def _line(simulated: SimulatedCall) -> str:
    happened = simulated.end_time or simulated.answer_time or simulated.start_time
    when = f"{happened or simulated.placed_at:%H:%M:%S}"
    what = f"{simulated.state}: {simulated.reason}" if simulated.reason else str(simulated.state)
    return f"{when}  {simulated.call_id}  {mask(simulated.callee)}  {what}"
