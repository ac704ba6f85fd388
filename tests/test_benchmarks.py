"""The benchmarks work. How fast anything is, no test says: it depends on who else is at work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).with_name("benchmarks")
MEASURED = {
    ("client", "50 in flight, asyncio"): {
        "qmc-async",
        "qmc-async, ledger",
        "aiohttp",
        "httpx, its own pool",
    },
    ("receiver", "64 connections"): {
        "qmc-async",
        "qmc-async in FastAPI",
        "aiohttp, bare",
        "aiohttp + json",
        "FastAPI + pydantic",
        "FastAPI + pydantic + a commit",
        "FastAPI + pydantic + a session",
    },
    ("decode", "one notification"): {"qmc-async", "pydantic", "hand-written"},
    ("import", "an import"): {
        "qmc-async, the client",
        "qmc-async, all",
        "httpx, aiohttp, attrs, cattrs",
    },
    ("end-to-end", "one call at a time"): {
        "to the handler's first line",
        "to wait_for returning",
    },
    ("scale", "a start"): {"0 waiting", "2,000 waiting"},
    ("scale", "rows in the store, 64 connections"): {"0 kept", "2,000 kept"},
    ("scale", "waiters, 64 connections"): {"0 waiters", "100 waiters"},
}
TARGETS = 12


@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.platform != "linux", reason="processes are kept on cores on Linux only")
def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    """Everybody who is installed has a figure, every target has a row, and nothing tells a path."""
    result, tables = tmp_path / "result.json", tmp_path / "tables.md"
    done = subprocess.run(  # noqa: S603 - our own program
        [
            sys.executable,
            str(BENCHMARKS),
            "--quick",
            f"--json={result}",
            f"--markdown={tables}",
            f"--folder={tmp_path}",
        ],
        check=False,
        capture_output=True,
        text=True,
        # Its processes would be measured for coverage, too, and take twice as long.
        env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text(encoding="utf-8"))
    measured: dict[tuple[str, str], set[str]] = {}
    for sample in found["samples"]:
        where = sample["section"], sample["scenario"]
        measured.setdefault(where, set()).add(sample["contestant"])
        assert all(number > 0 for number in sample["figures"].values()), sample
    for where, contestants in MEASURED.items():
        assert contestants <= measured[where]
    assert {"cpu", "cores", "python", "versions"} <= set(found["machine"])
    assert str(tmp_path) not in result.read_text(encoding="utf-8")
    table = tables.read_text(encoding="utf-8")
    assert len(found["targets"]) == TARGETS
    for target in found["targets"]:
        assert f"| {target['what']} | {target['against']} | {target['sense']} " in table
    # A quick run has no 200,000 events.
    assert sum(target["met"] is None for target in found["targets"]) == 2
    assert set(tmp_path.iterdir()) == {result, tables}  # nothing else is left behind
