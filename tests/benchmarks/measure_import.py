"""How long an import takes and how much is installed, ours and other SDKs'.

Each is installed in an environment of its own: they do not go together, and what one needs would
be there for the other.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import OURS
from machine import on_all_cores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench import Bench

__all__ = ["CLIENT", "DEPENDENCIES", "IMPORT", "SECTION", "measure"]

SECTION: Final = "import"
IMPORT: Final = "an import"
CLIENT: Final = f"{OURS}, the client"
DEPENDENCIES: Final = "httpx, aiohttp, attrs, cattrs"

_ROOT: Final = Path(__file__).parents[2]
_HERE: Final = {
    CLIENT: "from qmc_async import AsyncQmcClient",
    f"{OURS}, all": "from qmc_async import AsyncQmcClient, CallbackServer, RecordingArchive",
    DEPENDENCIES: "import httpx, aiohttp, attrs, cattrs",
}
_RIVALS: Final = {
    "aiogram": "from aiogram import Bot",
    "openai": "from openai import AsyncOpenAI",
    "stripe": "from stripe import StripeClient",
    "telnyx": "from telnyx import AsyncTelnyx",
    "twilio": "from twilio.rest import Client",
    "vonage": "from vonage import Vonage",
}
_PROGRAM: Final = (
    "import time; cpu, begin = time.process_time(), time.perf_counter()\n{}\n"
    "print(time.perf_counter() - begin, time.process_time() - cpu)"
)


def measure(bench: Bench) -> None:
    """Ours and, unless it is quick, the others'."""
    pythons = dict.fromkeys(_HERE, sys.executable)
    statements = dict(_HERE)
    uv = shutil.which("uv")
    if bench.is_quick or uv is None:
        why = "only ours is measured in a quick run" if bench.is_quick else "uv is not installed"
        bench.note(f"import: {', '.join(_RIVALS)} are left out: {why}")
    else:
        with bench.shown.task("import: installing each", len(_RIVALS) + 1) as step:
            ours = _install(bench, uv, OURS, str(_ROOT))
            pythons = dict.fromkeys(_HERE, ours or sys.executable)
            step()
            for name, statement in _RIVALS.items():
                if python := _install(bench, uv, name, name):
                    pythons[name], statements[name] = python, statement
                step()
    bench.compare(
        SECTION,
        IMPORT,
        {
            name: partial(_import, pythons[name], statement)
            for name, statement in statements.items()
        },
    )


def _install(bench: Bench, uv: str, name: str, requirement: str) -> str | None:
    """Install it in an environment of its own; the environment's interpreter."""
    folder = bench.folder / f"environment-{name}"
    python = str(folder / "bin" / "python")
    commands = (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, requirement],
    )
    for command in commands:
        with on_all_cores():
            done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own command
        if done.returncode:
            bench.note(f"import: {name} is left out: it cannot be installed")
            return None
    # Other environments share the files of this one, whose bytecode is not what is handed out.
    size = sum(
        path.stat().st_size
        for path in folder.rglob("lib/python*/site-packages/**/*")
        if path.is_file() and path.suffix != ".pyc"
    )
    bench.record(SECTION, "installed", name, {"size": size})
    return python


def _import(python: str, statement: str, _: float) -> Mapping[str, float]:
    command = [python, "-I", "-c", _PROGRAM.format(statement)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own command
    wall, cpu = map(float, done.stdout.split())
    return {"seconds": wall, "work": cpu}
