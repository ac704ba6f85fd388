"""One run: its extent, what it has found so far, and how rounds are taken in turns."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, TypeAlias

from attrs import Factory, define
from samples import Sample, Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from shown import Shown

__all__ = ["OURS", "Bench", "Measure"]

OURS = "qmc-async"

Measure: TypeAlias = "Callable[[float], Mapping[str, float]]"
"""Measures one round of about so many seconds; its figures."""


@define
class Bench:
    """What every section is given.

    Attributes:
        folder: on the disk that is measured; it is removed afterwards.
        shown: tells how far it is.
        rounds: how many of each contestant.
        seconds: of one round.
        is_quick: only to see that everything works.
        is_full: also what takes long.
        samples: what was measured.
        notes: what a reader of the figures must know.
    """

    folder: Path
    shown: Shown
    rounds: int = 5
    seconds: float = 1.5
    is_quick: bool = False
    is_full: bool = False
    samples: Samples = Factory(Samples)
    notes: list[str] = Factory(list[str])

    def note(self, text: str) -> None:
        """Tell the reader something, once."""
        if text not in self.notes:
            self.notes.append(text)
            self.shown.line(text)

    def record(
        self,
        section: str,
        scenario: str,
        contestant: str,
        figures: Mapping[str, float],
        number: int = 0,
    ) -> None:
        """Keep the figures of one round."""
        self.samples.append(Sample(section, scenario, contestant, number, figures))

    def compare(self, section: str, scenario: str, contestants: Mapping[str, Measure]) -> None:
        """Let all have their rounds in turns, A B C B C A …, after one to warm up."""
        names = list(contestants)
        warming_up = [] if self.is_quick else names
        steps = len(warming_up) + len(names) * self.rounds
        with self.shown.task(f"{section}: {scenario}", steps) as step:
            for name in warming_up:
                contestants[name](self.seconds / 3)
                step()
            for number in range(self.rounds):
                turn = number % len(names)
                for name in names[turn:] + names[:turn]:
                    gc.collect()
                    figures = contestants[name](self.seconds)
                    self.record(section, scenario, name, figures, number)
                    step()
