"""What pytest takes from this folder: a place for each test, and the figures at the end."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from fault_nursery import Nursery
from fault_scene import Scene

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

# Read when the tests are collected: no test sees a variable of ours from outside.
_FIGURES_FILE: Final = os.environ.get("QMC_FAULT_FIGURES", "")
_figures: list[str] = []


@pytest.fixture
def figure() -> Callable[[str], None]:
    """Report a figure: at the end of the run, and in the file of ``QMC_FAULT_FIGURES``."""

    def note(text: str) -> None:
        _figures.append(text)
        if _FIGURES_FILE:
            with Path(_FIGURES_FILE).open("a") as file:
                file.write(f"{text}\n")

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures."""
    if _figures:
        terminalreporter.section("figures of tests/faults")
        for text in _figures:
            terminalreporter.line(text)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where processes under test come from."""
    with closing(Nursery()) as nursery:
        yield nursery


@pytest.fixture
async def scene(tmp_path: Path, nursery: Nursery) -> AsyncIterator[Scene]:
    """A place for processes that share a store."""
    scene = Scene(tmp_path, nursery)
    try:
        yield scene
    finally:
        await scene.end()
