"""The event loops that a service may run on."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

__all__ = ["LOOPS", "on"]

LOOPS: Final = ("asyncio", "uvloop")


def on(name: str) -> asyncio.Runner:
    """Runs coroutines on one of `LOOPS`; skips the test where there is no such one."""
    if name == "asyncio":
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=pytest.importorskip("uvloop").new_event_loop)
