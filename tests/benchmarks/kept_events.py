"""What stands in our database, read past our code: is all done?"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Query", "in_postgresql", "in_sqlite", "wait_until_handled"]

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


def wait_until_handled(ask: Query, before: int, answered: int) -> int:
    """Wait until each handler has run and is marked done.

    Args:
        ask: the database.
        before: how many were done before the round.
        answered: how many notifications of the round were answered with 200.

    Returns:
        How many are done now.

    Raises:
        RuntimeError: it takes too long, or some are missing.
    """
    end = time.monotonic() + _PATIENCE
    while ask(_LEFT):
        if time.monotonic() > end:
            raise RuntimeError("handlers are not done")
        time.sleep(0.005)
    done = ask(_DONE)
    if done != before + answered:
        raise RuntimeError(f"{answered} were answered, and {done - before} are done")
    return done
