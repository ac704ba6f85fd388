"""`qmc events export`: everything that a server has kept, for other programs."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
import tempfile
import unicodedata
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from qmc_async.cli.running import console_for, running
from qmc_async.cli.shown import Shown, as_time, body_of
from qmc_async.cli.visit import PAGE, pages, store_option, visit
from qmc_async.errors import ConfigError
from qmc_async.models import BEIJING
from qmc_async.store.records import Kind, State

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from qmc_async.store import StoredEvent

__all__ = ["export"]

_BOM: Final = b"\xef\xbb\xbf"
_COLUMNS: Final = (
    *("event_id", "kind", "received_at", "call_id", "out_call_id", "status", "reason"),
    *("start_time", "answer_time", "end_time", "call_duration", "recording_result"),
    *("problems", "done", "pending", "dead", "errors"),
)
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?", re.ASCII)


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl"]),
    required=True,
    help="csv for a spreadsheet; jsonl for a program, with the bodies as they came.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="-",
    help="The file.  [default: the standard output]",
)
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"]),
    metavar="DATE",
    help="Only what came on this day or later, such as 2026-01-31, or '2026-01-31 18:00:00'.",
)
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Only this kind.")
@click.option("--bom", is_flag=True, help="Begin csv with a mark by which Excel knows UTF-8.")
@store_option
@running
async def export(
    form: str, output: str, since: datetime | None, kind: str | None, url: str, *, bom: bool
) -> None:
    """Write all events, the newest first.

    csv has a line for each event, and neither bodies nor telephone numbers. Where a text would be
    a formula to a spreadsheet, an apostrophe stands before it. Excel rounds long identifiers,
    unless it is told while importing that these columns are text.

    jsonl has an object for each event, with the whole body: under "body", or, where that is no
    text in UTF-8, under "body_base64". TELEPHONE NUMBERS IN BODIES ARE WHOLE.

    Example: qmc events export --format csv --bom -o events.csv
    """
    from qmc_async.store.events import Listing  # noqa: PLC0415 - see `visit`

    if bom and form != "csv":
        raise click.UsageError("--bom is for csv")
    listing = Listing(
        limit=PAGE,
        kind=None if kind is None else Kind(kind),
        since=None if since is None else round(since.replace(tzinfo=BEIJING).timestamp() * 1000),
    )
    count = 0
    async with visit(url) as store:
        with _destination(output) as file, _progress(output) as progress:
            if form == "csv":
                file.write(_BOM * bom + _csv([_COLUMNS]))
            task = progress.add_task("", total=None)
            top = 0
            async for found, position in pages(store, listing):
                file.write(_csv(map(_row, found)) if form == "csv" else _jsonl(found))
                count += len(found)
                top = top or position + len(found)
                progress.update(
                    task, description=f"{count} events", total=top, completed=top - position
                )
    if output != "-":
        click.echo(f"{count} event{'' if count == 1 else 's'} in {output}")


@contextmanager
def _destination(output: str) -> Generator[BinaryIO]:
    """Where to write: a file has its name once it is whole."""
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output).resolve()
    if path.exists() and not path.is_file():  # a pipe, for one, which must stay one
        with path.open("wb") as file:
            yield file
        return
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}: make it, or choose another")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    unfinished = Path(name)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a handle has no path
            yield file
            file.flush()
            os.fsync(handle)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink()
        raise


@contextmanager
def _progress(output: str) -> Generator[Progress]:
    """How far it is: on a terminal, unless the events themselves are written there."""
    console = console_for(stderr=True)
    is_shown = console.is_terminal and not (output == "-" and console_for().is_terminal)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not is_shown,
    )
    # Some versions of rich end even one that is not shown with a line break.
    with progress if is_shown else nullcontext():
        yield progress


def _jsonl(found: Iterable[StoredEvent]) -> bytes:
    return b"".join(f"{Shown.of(one).to_json(body_of(one))}\n".encode() for one in found)


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _row(stored: StoredEvent) -> list[object]:
    event = Shown.of(stored)
    states = [delivery.state for delivery in event.deliveries]
    values: list[object] = []
    cells: dict[str, object] = {
        "problems": "; ".join(event.problems),
        "done": states.count(State.DONE),
        "pending": states.count(State.PENDING),
        "dead": states.count(State.DEAD),
        "errors": "; ".join(
            f"{delivery.handler}: {delivery.error}"
            for delivery in event.deliveries
            if delivery.error
        ),
    }
    for name in _COLUMNS:
        value = cells[name] if name in cells else getattr(event, name)
        if isinstance(value, datetime):
            value = as_time(value)
        values.append(_harmless(value) if isinstance(value, str) else value)
    return values


def _harmless(text: str) -> str:
    """What no spreadsheet takes for a formula, in whatever width its first sign is written."""
    first = unicodedata.normalize("NFKC", text[:1])
    is_formula = first in ("=", "+", "-", "@", "\t", "\r", "\n") and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text
