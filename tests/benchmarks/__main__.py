"""How fast it is, side by side: ``uv run --group bench python tests/benchmarks``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Final

import click
import measure_client
import measure_decode
import measure_end_to_end
import measure_import
import measure_receiver
import measure_scale
from bench import Bench
from machine import LOAD_CORE, describe, pin
from report import as_json, details, target_table
from rich.console import Console
from shown import Shown

SECTIONS: Final = {
    "client": measure_client.measure,
    "receiver": measure_receiver.measure,
    "decode": measure_decode.measure,
    "import": measure_import.measure,
    "end-to-end": measure_end_to_end.measure,
    "scale": measure_scale.measure,
}


def _chosen(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
    names = value.split(",") if value else list(SECTIONS)
    if unknown := set(names) - set(SECTIONS):
        raise click.BadParameter(f"there is no {', '.join(sorted(unknown))}")
    return names


@click.command()
@click.option("--only", callback=_chosen, help=f"Some of {','.join(SECTIONS)}.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.01), default=1.5, help="Of a round.")
@click.option("--quick", is_flag=True, help="Only see that everything works.")
@click.option("--full", is_flag=True, help="Also what takes many minutes.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the tables.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="On the disk to measure; by default that of temporary files.",
)
def main(
    *,
    only: list[str],
    rounds: int,
    seconds: float,
    quick: bool,
    full: bool,
    json_file: Path | None,
    markdown: Path | None,
    folder: Path | None,
) -> None:
    """Measure, and show what came out."""
    shown = Shown(Console())
    if quick:
        rounds, seconds = 1, 0.15
    with tempfile.TemporaryDirectory(prefix="qmc-bench-", dir=folder) as name:
        machine = describe(Path(name))
        pin(LOAD_CORE)
        bench = Bench(Path(name), shown, rounds, seconds, is_quick=quick, is_full=full)
        for section in only:
            SECTIONS[section](bench)
    table, rest = target_table(bench), details(bench)
    shown.line(f"\n{rest}\n\n{table}")
    if markdown is not None:
        markdown.write_text(f"{table}\n\n{rest}\n", encoding="utf-8")
    if json_file is not None:
        result = json.dumps(as_json(bench, machine), indent=1, ensure_ascii=False)
        json_file.write_text(result + "\n", encoding="utf-8")


main()
