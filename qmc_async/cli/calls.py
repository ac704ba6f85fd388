"""`qmc call`, `qmc end` and `qmc recording`: what the client does."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, DownloadColumn, TextColumn

from qmc_async.callback import CallbackServer
from qmc_async.cli.progress import progress_of
from qmc_async.cli.quantity import Quantity
from qmc_async.cli.running import CALLBACK_PORT, running
from qmc_async.client import AsyncQmcClient

if TYPE_CHECKING:
    from qmc_async.models import Call, Disconnected

__all__ = ["call", "end", "recording"]


@click.command()
@click.argument("caller")
@click.argument("callee")
@click.option("--out-call-id", help="Your own name for the call; the notification repeats it.")
@click.option("--wait", is_flag=True, help="Listen for the notification, and show how it ended.")
@click.option(
    "--timeout",
    type=Quantity(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="With --wait: seconds.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="With --wait: listen here.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=CALLBACK_PORT,
    show_default=True,
    help="With --wait: listen here.",
)
@click.option("--public-url", help="With --wait: scheme and host as the platform sees them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --wait one more.")
@running
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
    as_json: bool,
) -> None:
    """Ring CALLER, then CALLEE, and connect them.

    With --wait the callback address must lead here; it is shown, to be entered on the platform's
    console. `qmc sandbox` sends to it as it is.

    Example: qmc call 13987654321 13912340005 --wait
    """
    async with AsyncQmcClient() as client:
        if not wait:
            _show_call(await client.call(caller, callee, out_call_id=out_call_id), as_json=as_json)
            return
        server = CallbackServer(
            signer=client.signer,
            store="sqlite://",  # it is shown at once, and no server's handlers are passed by
            host=host,
            port=port,
            public_url=public_url,
        )
        async with server:
            with contextlib.suppress(RuntimeError):  # on every address, and no public one given
                click.echo(f"listening at {server.url}", err=True)
            placed = await client.call(caller, callee, out_call_id=out_call_id)
            _show_call(placed, as_json=as_json)
            _show_event(await server.wait_for(placed, timeout=timeout), as_json=as_json)


@click.command()
@click.argument("call_id")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@running
async def end(call_id: str, *, as_json: bool) -> None:
    """End the call CALL_ID, whatever state it is in.

    Example: qmc end 128754716574532539
    """
    async with AsyncQmcClient() as client:
        await client.end_call(call_id)
    click.echo(json.dumps({"call_id": call_id, "ended": True}) if as_json else "ended")


@click.command()
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
    type=Quantity(min=0),
    default=0.0,
    show_default=True,
    help="Seconds to keep asking while there is none.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@running
async def recording(call_id: str, output: Path, wait: float, *, as_json: bool) -> None:
    """Save the recording of the call CALL_ID. It is gone three days after the call.

    Example: qmc recording 128754716574532539 -o call.wav
    """
    async with AsyncQmcClient() as client:
        with progress_of(TextColumn(call_id), BarColumn(), DownloadColumn()) as progress:
            shown = progress.add_task(call_id, total=None)

            def on_progress(written: int, expected: int | None) -> None:
                progress.update(shown, completed=written, total=expected)

            saved = await client.download(call_id, output, wait=wait, on_progress=on_progress)
    if as_json:
        told = {"call_id": call_id, "path": str(saved.path), "length": saved.length}
        click.echo(json.dumps(told | {"sha256": saved.sha256, "format": saved.format}))
    else:
        click.echo(saved)


def _show_call(placed: Call, *, as_json: bool) -> None:
    if as_json:
        ids = {"call_id": placed.call_id, "out_call_id": placed.out_call_id}
        click.echo(json.dumps(ids | {"placed_at": placed.placed_at.isoformat()}))
        return
    click.echo(f"call id      {placed.call_id}")
    click.echo(f"out call id  {placed.out_call_id}")


def _show_event(event: Disconnected, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_to_json(event)))
        return
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


def _to_json(event: Disconnected) -> dict[str, str | int | None]:
    times = {
        name: None if time is None else time.isoformat()
        for name, time in (
            ("start_time", event.start_time),
            ("answer_time", event.answer_time),
            ("end_time", event.end_time),
        )
    }
    talk = event.call_duration
    return {
        "call_id": event.call_id,
        "out_call_id": event.out_call_id,
        "reason": event.reason,
        **times,
        "call_duration": None if talk is None else int(talk.total_seconds()),
        "recording_result": event.recording_result,
    }
