"""Where notifications are kept."""

from __future__ import annotations

from qmc_async.store.memory import EventStore, MemoryStore

__all__ = ["EventStore", "MemoryStore"]
