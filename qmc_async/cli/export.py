"""`qmc events export`: everything that a server has kept, for other programs."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from qmc_async.cli.destination import destination
from qmc_async.cli.progress import followed, progress_of
from qmc_async.cli.running import console_for, running
from qmc_async.cli.shown import Shown, as_time, body_of
from qmc_async.cli.visit import PAGE, pages, store_option, visit
from qmc_async.models import BEIJING
from qmc_async.store.records import Kind, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    is_among_events = output == "-" and console_for().is_terminal
    async with visit(url) as store:
        with destination(output) as file, progress_of(shown=not is_among_events) as progress:
            if form == "csv":
                file.write(_BOM * bom + _csv([_COLUMNS]))
            async for found in followed(pages(store, listing), progress, "events"):
                file.write(_csv(map(_row, found)) if form == "csv" else _jsonl(found))
                count += len(found)
    if output != "-":
        click.echo(f"{count} event{'' if count == 1 else 's'} in {output}")


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
