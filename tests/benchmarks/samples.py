"""What was measured: one sample for each contestant and round, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Sample", "Samples", "Spread"]


@frozen
class Sample:
    """One round of one contestant.

    Attributes:
        section: which of the comparisons.
        scenario: what all its contestants did, such as ``64 connections``.
        contestant: who.
        round: from 0 on. Ratios are made within a round.
        figures: by name: ``throughput`` (operations a second), ``cpu`` (seconds of CPU time for one
            operation, of the process that is compared), ``p50`` and ``p99`` (seconds), …;
            `report` tells how each is shown.
    """

    section: str
    scenario: str
    contestant: str
    round: int
    figures: Mapping[str, float]


@frozen
class Spread:
    """The middle of some numbers, and how far they lie apart."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Of one number or more."""
        return cls(median(numbers), min(numbers), max(numbers))


class Samples(list[Sample]):
    """All that was measured, in its order."""

    def spread(self, section: str, scenario: str, contestant: str, figure: str) -> Spread | None:
        """A figure over all rounds; None where it was not measured."""
        numbers = self._by_round(section, scenario, contestant, figure)
        return Spread.of(list(numbers.values())) if numbers else None

    def ratio(
        self, section: str, scenario: str, ours: str, theirs: str, figure: str
    ) -> Spread | None:
        """One contestant's figure divided by another's, round by round."""
        pairs = self._pairs(section, scenario, ours, theirs, figure)
        ratios = [one / other for one, other in pairs if other]
        return Spread.of(ratios) if ratios else None

    def difference(
        self, section: str, scenario: str, ours: str, theirs: str, figure: str
    ) -> Spread | None:
        """One contestant's figure less another's, round by round."""
        pairs = self._pairs(section, scenario, ours, theirs, figure)
        return Spread.of([one - other for one, other in pairs]) if pairs else None

    def kinds(self, section: str) -> list[tuple[str, str]]:
        """The scenarios of a section with their contestants, each once, scenario by scenario."""
        pairs = dict.fromkeys((one.scenario, one.contestant) for one in self._of(section))
        scenarios = list(dict.fromkeys(scenario for scenario, _ in pairs))
        return sorted(pairs, key=lambda pair: scenarios.index(pair[0]))

    def figures(self, section: str) -> list[str]:
        """The names of the figures that a section has."""
        return list(dict.fromkeys(name for one in self._of(section) for name in one.figures))

    def sections(self) -> list[str]:
        """What was measured at all."""
        return list(dict.fromkeys(one.section for one in self))

    def as_json(self) -> list[dict[str, Any]]:
        """The raw figures of each round."""
        return [asdict(one) for one in self]

    def _of(self, section: str) -> Iterable[Sample]:
        return (one for one in self if one.section == section)

    def _by_round(
        self, section: str, scenario: str, contestant: str, figure: str
    ) -> dict[int, float]:
        return {
            one.round: one.figures[figure]
            for one in self._of(section)
            if (one.scenario, one.contestant) == (scenario, contestant) and figure in one.figures
        }

    def _pairs(
        self, section: str, scenario: str, ours: str, theirs: str, figure: str
    ) -> list[tuple[float, float]]:
        mine = self._by_round(section, scenario, ours, figure)
        other = self._by_round(section, scenario, theirs, figure)
        return [(mine[number], other[number]) for number in mine if number in other]
