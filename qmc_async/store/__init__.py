"""Where notifications are kept: a database, and a spool beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmc_async.store.records import (
    DeadLetter,
    Kind,
    State,
    StoredDelivery,
    StoredEvent,
)

if TYPE_CHECKING:
    from qmc_async.store.store import Store

__all__ = ["DeadLetter", "Kind", "State", "Store", "StoredDelivery", "StoredEvent"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as a module's attributes are
    # SQLAlchemy is the larger part of this package's import, and a client alone needs no store.
    if name == "Store":
        from qmc_async.store.store import Store  # noqa: PLC0415

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
