"""What the figures are held against: ratios within one run."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final, Literal

import measure_client as client
import measure_decode as decode
import measure_import as importing
import measure_receiver as receiver
import measure_scale as scale
from attrs import frozen
from bench import OURS

if TYPE_CHECKING:
    from samples import Samples, Spread

__all__ = ["TARGETS", "Target"]


@frozen
class Target:
    """One row of the table.

    Attributes:
        what: which figure of ours, as a reader understands it.
        against: the contestant that it is compared with.
        figure: as in a sample.
        sense: whether the figure must be high or low.
        bound: how high or low.
        kind: a ratio to the other's figure, or what it is more, in seconds, or our figure itself.
    """

    what: str
    section: str
    scenario: str
    against: str
    figure: str
    sense: Literal["at least", "at most"]
    bound: float
    kind: Literal["ratio", "difference", "seconds"] = "ratio"
    ours: str = OURS

    def measured(self, samples: Samples) -> Spread | None:
        """What it is; None where that was not measured."""
        where = (self.section, self.scenario, self.ours)
        match self.kind:
            case "ratio":
                return samples.ratio(*where, self.against, self.figure)
            case "difference":
                return samples.difference(*where, self.against, self.figure)
            case "seconds":
                return samples.spread(*where, self.figure)

    def by_cpu(self, samples: Samples) -> Spread | None:
        """The same ratio of throughputs, as CPU time has it; None where it says nothing."""
        if self.figure != "throughput":
            return None
        return samples.ratio(self.section, self.scenario, self.against, self.ours, "cpu")

    def is_met(self, measured: float) -> bool:
        """Whether it is good enough."""
        holds = operator.ge if self.sense == "at least" else operator.le
        return bool(holds(measured, self.bound))

    def written(self, number: float) -> str:
        """A bound, or what was measured, as the table has it."""
        match self.kind:
            case "ratio":
                return f"{number:.2f}x"
            case "difference":
                return f"{number * 1000:.2f} ms"
            case "seconds":
                return f"{number:.2f} s"


TARGETS: Final = (
    Target(
        "calls a second, 50 in flight",
        client.SECTION,
        client.scenario(50),
        client.HTTPX,
        "throughput",
        "at least",
        8,
    ),
    Target(
        "calls a second, 50 in flight",
        client.SECTION,
        client.scenario(50),
        client.AIOHTTP,
        "throughput",
        "at least",
        0.45,
    ),
    *(
        Target(
            "notifications a second, 64 connections",
            receiver.SECTION,
            receiver.scenario(64),
            against,
            "throughput",
            "at least",
            bound,
        )
        for against, bound in (
            (receiver.BARE, 0.60),
            (receiver.STORING_NOTHING, 2.5),
            (receiver.COMMITTING, 10),
            (receiver.SESSION, 10),
        )
    ),
    Target(
        "the answer's p99, 64 connections",
        receiver.SECTION,
        receiver.scenario(64),
        receiver.BARE,
        "p99",
        "at most",
        2,
    ),
    Target(
        "one notification on an idle server, p50",
        receiver.SECTION,
        receiver.scenario(1),
        receiver.BARE,
        "p50",
        "at most",
        0.0005,
        "difference",
    ),
    Target(
        "decoding one notification",
        decode.SECTION,
        decode.SCENARIO,
        decode.PYDANTIC,
        "cpu",
        "at most",
        2,
    ),
    Target(
        "seconds until it is ready, 200,000 events waiting",
        scale.SECTION,
        scale.START,
        "",
        "seconds",
        "at most",
        2,
        "seconds",
        scale.waiting(200_000),
    ),
    Target(
        "memory with 200,000 events waiting",
        scale.SECTION,
        scale.START,
        scale.waiting(0),
        "memory",
        "at most",
        1.3,
        ours=scale.waiting(200_000),
    ),
    Target(
        "importing the client",
        importing.SECTION,
        importing.IMPORT,
        importing.DEPENDENCIES,
        "work",
        "at most",
        1.15,
        ours=importing.CLIENT,
    ),
)
