"""How far it is: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rich.console import Console

__all__ = ["Shown"]


class Shown:
    """Speaks to a console, and only between rounds: nothing of it is measured."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def line(self, text: str) -> None:
        """Say something."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, title: str, steps: int) -> Generator[Callable[[], None]]:
        """Show how many of some steps are done; call what is given after each."""
        if not self.console.is_terminal:
            self.line(title)
            yield lambda: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        # A thread that redraws it would take its time from what is measured.
        with Progress(*columns, console=self.console, auto_refresh=False) as progress:
            task = progress.add_task(title, total=steps)
            progress.refresh()

            def step() -> None:
                progress.advance(task)
                progress.refresh()

            yield step
