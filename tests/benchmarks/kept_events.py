"""What stands in our database, read past our code: is all done?"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Query", "count_handled", "in_postgresql", "in_sqlite", "wait_until_handled"]

Query: TypeAlias = "Callable[[str], int]"
"""Runs a statement; its one number."""

_LEFT: Final = (
    "SELECT (EXISTS (SELECT 1 FROM qmc_events WHERE routed = {false}) OR"
    " EXISTS (SELECT 1 FROM qmc_deliveries WHERE due_at IS NOT NULL)){number}"
)
_DONE: Final = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
_PATIENCE: Final = 120.0


def in_sqlite(file: Path) -> Query:
    """Ask a file."""
    connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)

    def ask(statement: str) -> int:
        number: int = connection.execute(statement.format(false="0", number="")).fetchone()[0]
        return number

    return ask


def in_postgresql(url: str) -> Query:
    """Ask a server."""
    import psycopg  # noqa: PLC0415 - only where PostgreSQL is measured

    connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)

    def ask(statement: str) -> int:
        text = statement.format(false="false", number="::int")
        row = connection.execute(text.encode()).fetchone()
        assert row is not None
        number: int = row[0]
        return number

    return ask


def wait_until_handled(ask: Query) -> None:
    """Wait until each handler has run and is marked done.

    Raises:
        RuntimeError: it takes too long.
    """
    end = time.monotonic() + _PATIENCE
    while ask(_LEFT):
        if time.monotonic() > end:
            raise RuntimeError("handlers are not done")
        time.sleep(0.005)


def count_handled(ask: Query) -> int:
    """How many handlers have run and are marked done. It reads all of them."""
    return ask(_DONE)
