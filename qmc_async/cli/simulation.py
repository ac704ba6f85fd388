"""`qmc demo` and `qmc sandbox`: the platform on this machine."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from qmc_async.callback import CallbackServer
from qmc_async.cli.quantity import Quantity
from qmc_async.cli.running import CALLBACK_PORT, FAILED, console_for, running
from qmc_async.numbers import mask
from qmc_async.sandbox import DEFAULT_BEHAVIOUR, SCENARIOS_BY_DIGITS, RealClock, Sandbox
from qmc_async.signer import Signer

if TYPE_CHECKING:
    from qmc_async.sandbox import SimulatedCall, State

__all__ = ["demo", "narrate", "sandbox"]


@click.command()
@click.option(
    "-o",
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("qmc-demo-recordings"),
    show_default=True,
    help="Where the recordings go.",
)
@running
async def demo(folder: Path) -> None:
    """Watch ten calls end in every way there is. Nobody's telephone rings.

    Everything runs on this machine, on free ports, with nothing set up. Exit status 0 means that
    every call ended as its scenario prescribes.

    Example: qmc demo --folder recordings
    """
    from qmc_async.demo import run_demo  # noqa: PLC0415 - the other commands need none of it

    if not await run_demo(console_for(), folder):
        sys.exit(FAILED)


@click.command()
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
    type=Quantity(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Simulated seconds per second.",
)
@running
async def sandbox(port: int, callback: str | None, speed: float) -> None:
    """Be the platform, on this machine, until Ctrl-C. Nobody's telephone rings.

    The callee's last four digits say how a call ends; the table is shown at the start.

    Example: qmc sandbox --speed 10
    """
    console = console_for()
    clock = RealClock(speed=speed)
    async with Sandbox(port=port, clock=clock, console=True) as platform:
        credentials = platform.credentials
        own = CallbackServer(signer=Signer(credentials), store="sqlite://", port=CALLBACK_PORT).url
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
        click.echo(f"Notifications go to {platform.callback_url}")
        click.echo(f"Watch the calls, and act in them, at {platform.base_url}\n")
        console.print(_scenarios())
        await narrate(platform)


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
