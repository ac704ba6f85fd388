"""The event loops that are compared."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any

from machine import is_installed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["event_loops", "fastest_loop"]


def event_loops() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What makes one, by name: asyncio's own, and uvloop's where it is installed."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if is_installed("uvloop"):
        uvloop: Any = import_module("uvloop")
        loops["uvloop"] = uvloop.new_event_loop
    return loops


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop of who must not be the limit."""
    return list(event_loops().values())[-1]
