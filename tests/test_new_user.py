"""A new user's path, as the README has it step by step: from nothing to a passing test."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = "\n## Testing your service\n"
FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`(\w+\.(?:py|toml))`")
# What leads to the tests' own environment, or measures it.
OURS = ("COVERAGE_", "PYTEST_", "PYTHON", "QMC_", "VIRTUAL_ENV")


def steps() -> list[str]:
    """The numbered steps of the section."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    path = text.split(SECTION)[1].split("\n| ")[0]
    return re.split(r"^\d+\. ", path, flags=re.MULTILINE)[1:]


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv makes the environment: pip install uv")
@pytest.mark.timeout(300)
def test_a_new_users_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each step is done as it stands, in a fresh environment; the last one passes the test."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environ |= {"VIRTUAL_ENV": str(tmp_path / "venv"), "UV_NO_PROGRESS": "1"}
    environ["PATH"] = f"{tmp_path}/venv/bin{os.pathsep}{environ['PATH']}"
    project = tmp_path / "project"
    project.mkdir()

    def run(*command: str, cwd: Path = project) -> str:
        done = subprocess.run(  # noqa: S603 - the README's own lines
            command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    # What the reader has already: a version that can be installed, and an environment.
    run("uv", "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), cwd=ROOT)
    run("uv", "venv", "--quiet", str(tmp_path / "venv"))
    [wheel] = tmp_path.glob("*.whl")

    said = ""
    told: list[str] = []
    for step in steps():
        [(kind, block)] = FENCE.findall(step)
        block = textwrap.dedent(block)
        began = time.monotonic()
        if kind != "console":
            [name] = FILE.findall(step)
            (project / name).write_text(block, encoding="utf-8")
            told.append(f"{name} written")
            continue
        for line in block.splitlines():
            command = line.removeprefix("$ ").replace("qmc-async[", f"{wheel}[")
            if command.startswith("pip "):
                command = f"uv {command}"  # the same, without pip in every environment
            said = run(*shlex.split(command))
            told.append(f"{line.removeprefix('$ ')}: {time.monotonic() - began:.1f} s")
    assert "1 passed" in said
    assert "warning" not in said.lower()
    assert not list(project.glob("qmc*"))
    with capsys.disabled():
        print(f"\na new user's path: {'; '.join(told)}")  # noqa: T201 - it is to be seen in CI
