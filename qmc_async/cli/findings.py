"""Findings as people read them: a mark, what was found, and below it what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qmc_async.cli.running import console_for
from qmc_async.cli.shown import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from qmc_async.doctor import Finding

__all__ = ["MARKS", "fit_for", "show_findings"]

MARKS: Final = {
    "failed": ("✗", "x", "bold red"),
    "warning": ("!", "!", "bold yellow"),
    "ok": ("✓", "+", "green"),
    "skipped": ("–", "-", "bright_black"),
}
"""By status, the worst first: the mark, the same in ASCII, and its style."""

_INDENT: Final = 2


def show_findings(findings: Sequence[Finding], summary: str) -> None:
    """Print them, coloured and wrapped on a terminal, a line for each elsewhere."""
    console = console_for()
    is_ascii = console.options.ascii_only
    rows = [
        (
            Text(MARKS[finding.status][is_ascii], MARKS[finding.status][2]),
            finding.name.replace("_", " "),
            fit_for(console, finding.found),
            fit_for(console, finding.advice),
        )
        for finding in findings
    ]
    if not console.is_terminal:
        width = max(len(name) for _, name, _, _ in rows)
        for mark, name, found, advice in rows:
            click.echo(f"{mark} {name:<{width}}  {found}")
            if advice:
                click.echo(f"{'':<{width + 4 + _INDENT}}{advice}")
        click.echo(f"\n{summary}")
        return
    table = Table.grid(padding=(0, 1))
    for no_wrap in (True, True, False):
        table.add_column(no_wrap=no_wrap, overflow="fold")
    for mark, name, found, advice in rows:
        below = [Padding(Text(advice, "italic"), (0, 0, 0, _INDENT))] if advice else []
        table.add_row(mark, name, Group(Text(found), *below))
    console.print(table)
    console.print(f"\n{summary}", markup=False)


def fit_for(console: Console, text: str) -> str:
    """One line that does nothing to a terminal, in ASCII where nothing else can be shown."""
    line = one_line(text)
    is_ascii = console.options.ascii_only
    return line.encode("ascii", "backslashreplace").decode() if is_ascii else line
