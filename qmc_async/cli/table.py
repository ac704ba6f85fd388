"""Rows: a table that fits the terminal, and plain columns elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
from attrs import frozen
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from qmc_async.cli.running import console_for

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Column", "is_wide", "show_rows"]

_WIDE: Final = 110  # columns of a terminal in which nothing needs to be left out
_PADDED: Final = 64  # the longest id (3.1): one that a stranger made longer widens no other row


@frozen
class Column:
    """How a column stands on a terminal.

    Attributes:
        heading: its name.
        fixed: whether its cells are never broken.
        longest: how wide it gets at most, None for as wide as the others leave room for.
        whole: how wide it stays where the others need room, None where it makes room.
        right: whether its cells are numbers, which end below each other.
    """

    heading: str
    fixed: bool = False
    longest: int | None = None
    whole: int | None = None
    right: bool = False


def is_wide() -> bool:
    """Whether there is room for everything."""
    console = console_for()
    return not console.is_terminal or console.width >= _WIDE


def show_rows(columns: Sequence[Column], rows: Sequence[Sequence[Text | str]]) -> None:
    """Print rows; in a pipe a row is a line, with two spaces between cells and "-" for nothing."""
    console = console_for()
    if not console.is_terminal:
        _show_plainly(columns, rows)
        return
    gap = 2 if is_wide() else 1
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold underline")
    for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
        widest = max(cell_len(str(cell)) for cell in cells)
        table.add_column(
            column.heading,
            overflow="fold",
            no_wrap=column.fixed,
            justify="right" if column.right else "left",
            max_width=column.longest,
            width=None if column.whole is None or is_wide() else min(widest, column.whole),
        )
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console.print(table)


def _show_plainly(columns: Sequence[Column], rows: Sequence[Sequence[Text | str]]) -> None:
    headings = [column.heading for column in columns]
    lines = [[str(cell) or "-" for cell in row] for row in (headings, *rows)]
    widths = [min(max(map(cell_len, cells)), _PADDED) for cells in zip(*lines, strict=True)]
    for line in lines:
        padded: list[str] = []
        for column, cell, width in zip(columns, line, widths, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if column.right else cell + space)
        click.echo("  ".join(padded).rstrip())
