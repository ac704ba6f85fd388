"""The result as Markdown and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench import Bench
    from samples import Spread
    from targets import Target

__all__ = ["as_json", "details", "target_table"]

_UNITS = {
    "throughput": ("per second", 1),
    "cpu": ("CPU, us", 1e6),
    "p50": ("p50, ms", 1e3),
    "p99": ("p99, ms", 1e3),
    "p90": ("p90, ms", 1e3),
    "memory": ("memory, MiB", 1 / 2**20),
    "size": ("size, MiB", 1 / 2**20),
    "behind": ("handlers done after, ms", 1e3),
    "seconds": ("seconds", 1),
    "work": ("CPU, s", 1),
}
"""How a figure is headed, and what it is multiplied by. Others are parts of a core, in percent."""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(map(_row, (head, ["---"] * len(head), *rows)))


def target_table(bench: Bench) -> str:
    """One row for each target, whether it was measured or not."""
    head = ("what", "against", "target", "measured", "by CPU time", "")
    return _table(head, (_target_row(bench, target) for target in TARGETS))


def _target_row(bench: Bench, target: Target) -> Sequence[str]:
    measured = target.measured(bench.samples)
    by_cpu = target.by_cpu(bench.samples)
    verdict = "–" if measured is None else "✓" if target.is_met(measured.median) else "✗"
    return (
        target.what,
        target.against,
        f"{target.sense} {target.written(target.bound)}",
        "not measured" if measured is None else target.written(measured.median),
        "" if by_cpu is None else target.written(by_cpu.median),
        verdict,
    )


def details(bench: Bench) -> str:
    """Every section's figures, median and range, and the notes."""
    parts: list[str] = []
    for section in bench.samples.sections():
        names = bench.samples.figures(section)
        titles = [_UNITS.get(name, (f"{name}, %", 100))[0] for name in names]
        rows = [
            (
                scenario,
                contestant,
                *(
                    _written(bench.samples.spread(section, scenario, contestant, name), name)
                    for name in names
                ),
            )
            for scenario, contestant in bench.samples.kinds(section)
        ]
        parts.append(f"## {section}\n\n{_table(('scenario', 'contestant', *titles), rows)}")
    if bench.notes:
        parts.append("\n".join(f"- {note}" for note in bench.notes))
    return "\n\n".join(parts)


def _written(spread: Spread | None, figure: str) -> str:
    if spread is None:
        return ""
    _, factor = _UNITS.get(figure, ("", 100))
    middle, low, high = (
        _rounded(number * factor) for number in (spread.median, spread.lowest, spread.highest)
    )
    return middle if low == high else f"{middle} ({low}–{high})"


def _rounded(number: float) -> str:
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def as_json(bench: Bench, machine: dict[str, Any]) -> dict[str, Any]:
    """Everything, each round's figures included."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "rounds": bench.rounds,
        "seconds of a round": bench.seconds,
        "notes": bench.notes,
        "targets": [_target_json(bench, target) for target in TARGETS],
        "samples": bench.samples.as_json(),
    }


def _target_json(bench: Bench, target: Target) -> dict[str, Any]:
    measured = target.measured(bench.samples)
    return {
        "what": target.what,
        "against": target.against,
        "sense": target.sense,
        "bound": target.bound,
        "kind": target.kind,
        "measured": None
        if measured is None
        else [measured.median, measured.lowest, measured.highest],
        "met": None if measured is None else target.is_met(measured.median),
    }
