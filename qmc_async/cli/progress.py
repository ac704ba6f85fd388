"""How far a command is that takes a while."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

import click
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from qmc_async.cli.running import console_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

__all__ = ["followed", "progress_of", "say"]

T = TypeVar("T")


def _columns() -> Sequence[ProgressColumn]:
    described = TextColumn("{task.description}")
    return described, BarColumn(), TaskProgressColumn(), TimeRemainingColumn()


@contextmanager
def progress_of(*columns: ProgressColumn, shown: bool = True) -> Generator[Progress]:
    """A bar on the standard error, where that is a terminal; nothing of it stays.

    Args:
        columns: of the bar, if not the usual ones.
        shown: False where it would stand among what the command writes to the same terminal.
    """
    console = console_for(stderr=True)
    is_shown = shown and console.is_terminal
    progress = Progress(
        *(columns or _columns()),
        console=console,
        transient=True,
        disable=not is_shown,
    )
    # Some versions of rich end even one that is not shown with a line break.
    with progress if is_shown else nullcontext():
        yield progress


def say(line: str, progress: Progress) -> None:
    """Write a line to the standard output: above the bar, where both are on a terminal."""
    if progress.live.is_started and sys.stdout.isatty():
        progress.console.print(line, markup=False, soft_wrap=True)
    else:
        click.echo(line)


async def followed(
    pages: AsyncGenerator[tuple[Sequence[T], int]], progress: Progress, what: str
) -> AsyncGenerator[Sequence[T]]:
    """Go through pages as `qmc_async.cli.visit.pages` gives them, and tell how far that is."""
    task = progress.add_task("", total=None)
    count = top = 0
    async for found, position in pages:
        yield found
        count += len(found)
        top = top or position + len(found)
        progress.update(task, description=f"{count} {what}", total=top, completed=top - position)
