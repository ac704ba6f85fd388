"""`qmc report`: what the calls of a period come to."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime, timedelta
from itertools import accumulate
from math import ceil
from typing import TYPE_CHECKING, Final

import click
from rich.cells import cell_len
from rich.text import Text

from qmc_async.cli.destination import destination
from qmc_async.cli.progress import followed, progress_of
from qmc_async.cli.running import console_for, running
from qmc_async.cli.shown import one_line
from qmc_async.cli.table import Column, show_rows
from qmc_async.cli.visit import PAGE, pages_of, store_option, visit
from qmc_async.models import BEIJING
from qmc_async.report import NO_REASON, OTHER_REASONS, STATES, Tally, as_duration, as_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from qmc_async.report import Count, Report
    from qmc_async.store import Store

__all__ = ["report"]

_LATENESS: Final = timedelta(days=1)
"""How far the clock of whoever received a report may be behind the platform's."""

_FIRST_YEAR: Final = 2000
_SHORTEST_BAR: Final = 10
_LONGEST_BAR: Final = 50
_BLOCKS: Final = ("█", "▒", "░")
_LETTERS: Final = ("#", "=", "-")
_STYLES: Final = ("blue", "yellow", "bright_black")
_MEANINGS: Final = ("connected", "callee not reached", "caller not reached")

_date = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--since", type=_date, required=True, metavar="DATE", help="From this day on.")
@click.option(
    "--until", type=_date, metavar="DATE", help="Until this day is over.  [default: today]"
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Also a page with plots, for a browser; - is the standard output, and nothing else there.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@store_option
@running
async def report(
    since: datetime, until: datetime | None, html: str | None, url: str, *, as_json: bool
) -> None:
    """Count the calls of some days: how many were answered, why they ended, how long was talked.

    Days are days in Beijing. A call belongs to the day and to the hour in which it ended; in the
    ledger, to the day on which it was placed. Connected means that both parties were. There are no
    telephone numbers in any of it.

    Example: qmc report --since 2026-01-01 --until 2026-01-31 --html january.html
    """
    now = datetime.now(BEIJING)
    last = min((until or now).date(), now.date())
    if since.year < _FIRST_YEAR:
        raise click.UsageError(f"--since is before {_FIRST_YEAR}, when there were no calls")
    if since.date() > last:
        raise click.UsageError("--since is after --until, or has not come yet")
    if as_json and html == "-":
        raise click.UsageError("--json and --html - would both go to the standard output")
    tally = Tally(since.date(), last)
    async with visit(url) as store:
        with nullcontext() if html is None else destination(html) as file:
            with progress_of() as progress:
                await _count(store, tally, since.replace(tzinfo=BEIJING), progress)
            counted = tally.report()
            if file is not None:
                from qmc_async.report_page import page_of  # noqa: PLC0415 - most need none

                file.write(page_of(counted, now).encode())
        place = store.place
    if as_json:
        click.echo(counted.to_json())
    elif html != "-":
        _show(counted, place)
    if html not in (None, "-"):
        click.echo(f"the page is {html}", err=True)


async def _count(store: Store, tally: Tally, since: datetime, progress: Progress) -> None:
    from qmc_async.store.events import Reading  # noqa: PLC0415 - see `visit`
    from qmc_async.store.ledger import CallListing  # noqa: PLC0415 - the same

    begin = _milliseconds(since - _LATENESS)
    task = progress.add_task("", total=_milliseconds(datetime.now(BEIJING)) - begin)
    count = 0
    reading: Reading | None = Reading(limit=PAGE, since=begin)
    while reading is not None:
        reports, reading = await store.read_reports(reading)
        tally.add(reports)
        count += len(reports)
        seen = None if reading is None else reading.since - begin
        progress.update(task, description=f"{count} calls", completed=seen)
    placed = CallListing(limit=PAGE, since=_milliseconds(since))
    async for entries in followed(pages_of(store.list_calls, placed), progress, "in the ledger"):
        tally.add_entries(entries)


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _show(counted: Report, place: str) -> None:
    period = f"from {counted.since} to {counted.until}"
    if counted.total.ended:
        click.echo(f"calls that ended {period}, Beijing time\n")
        _show_total(counted)
        click.echo()
        _show_counts(counted.part, [(row.label, row.count) for row in counted.rows()])
        click.echo()
        busy = [hour for hour, count in enumerate(counted.hours) if count.ended]
        hours = range(busy[0], busy[-1] + 1)
        _show_counts("hour", [(f"{hour:02}:00", counted.hours[hour]) for hour in hours])
        click.echo()
        _show_reasons(counted)
        click.echo("\n" * bool(counted.ledger), nl=False)
    else:
        click.echo(f"no call ended {period}, Beijing time, in {place}", err=True)
    if counted.ledger:
        show_rows(
            [Column("in the ledger", fixed=True), _number("calls"), Column("which means")],
            [[state, f"{calls:,}", STATES[state]] for state, calls in counted.ledger.items()],
        )


def _show_total(counted: Report) -> None:
    total, talk = counted.total, counted.talk
    lines = {
        "ended": f"{total.ended:,}",
        "caller picked up": f"{total.picked_up:,} ({as_percent(total.picked_up, total.ended)})",
        "connected": f"{total.connected:,} ({as_percent(total.connected, total.ended)})",
        "recorded": f"{counted.recorded:,}, and {counted.not_recorded:,} failed",
    }
    if total.picked_up:
        rung = as_percent(total.connected, total.picked_up)
        lines["connected"] += f", {rung} of those picked up"
    if talk is not None:
        lines["talk"] = f"{as_duration(talk.total)} in {talk.calls:,} calls"
        lines["talk of a call"] = (
            f"mean {as_duration(talk.mean)}, median {as_duration(talk.median)}, "
            f"longest {as_duration(talk.longest)}"
        )
    for name, value in lines.items():
        click.echo(f"{name:<16} {value}")


def _show_counts(name: str, counted: Sequence[tuple[str, Count]]) -> None:
    columns = [Column(name, fixed=True)]
    columns += map(_number, ("calls", "picked up", "connected", "rate", "talk"))
    rows: list[list[Text | str]] = []
    for label, count in counted:
        numbers = (f"{number:,}" for number in (count.ended, count.picked_up, count.connected))
        rate = as_percent(count.connected, count.ended)
        rows.append([label, *numbers, rate, as_duration(count.talk)])
    _show_with_bars(columns, rows, [count.reached for _, count in counted])


def _show_reasons(counted: Report) -> None:
    reasons = [(NO_REASON if one is None else one, calls) for one, calls in counted.reasons]
    if counted.other_reasons:
        reasons.append((OTHER_REASONS, counted.other_reasons))
    rows: list[list[Text | str]] = [
        [one_line(reason), f"{calls:,}", as_percent(calls, counted.total.ended)]
        for reason, calls in reasons
    ]
    columns = [Column("reason"), _number("calls"), _number("share")]
    _show_with_bars(columns, rows, [(calls,) for _, calls in reasons])


def _number(heading: str) -> Column:
    return Column(heading, fixed=True, right=True)


def _show_with_bars(
    columns: list[Column], rows: list[list[Text | str]], parts: Sequence[Sequence[int]]
) -> None:
    console = console_for()
    headings = [column.heading for column in columns]
    used = sum(
        max(map(cell_len, map(str, cells))) + 2 for cells in zip(headings, *rows, strict=True)
    )
    width = min(_LONGEST_BAR, console.width - used)
    if not console.is_terminal or width < _SHORTEST_BAR:
        show_rows(columns, rows)
        return
    signs = _LETTERS if console.options.ascii_only else _BLOCKS
    most = max(map(sum, parts))
    for row, part in zip(rows, parts, strict=True):
        row.append(_bar([ceil(one * width / most) for one in accumulate(part)], signs))
    show_rows([*columns, Column("", fixed=True)], rows)
    if len(parts[0]) > 1:
        key = Text("  ")
        for sign, style, meaning in zip(signs, _STYLES, _MEANINGS, strict=True):
            key.append(sign, style).append(f" {meaning}  ")
        console.print(key)


def _bar(ends: Sequence[int], signs: Sequence[str]) -> Text:
    """A part is seen where there is one, but in a bar that has no room for all of them."""
    bar = Text()
    for end, sign, style in zip(ends, signs, _STYLES, strict=False):
        bar.append(sign * (end - len(bar)), style)
    return bar
