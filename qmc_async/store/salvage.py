"""What can still be read of a broken SQLite file, for the fresh one that took its place.

First the events, then the ledger: each from its end, by the number that counts its rows.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, select
from sqlalchemy.exc import OperationalError, StatementError

from qmc_async.store.events import put
from qmc_async.store.records import Put, Receipt
from qmc_async.store.rows import bodies_of
from qmc_async.store.schema import calls, deliveries, events
from qmc_async.store.sqlite_file import is_corrupt

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Table

__all__ = ["Salvage"]

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 200  # events of one transaction: notifications come in between


class Salvage:
    """Copies a broken file's events, deliveries and calls, the newest first, some at a time.

    An event whose deliveries cannot be read is copied without: it is known, and can be looked at,
    but nobody's handler runs a second time on a guess.

    Args:
        path: of the broken file, which is left as it is but for its write-ahead log.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: sqlite3.Connection | None = None
        self.copied = 0
        self.unread = 0
        """How many numbers of the file's sequence could not be read, purged ones included."""

    def copy_some(
        self, connection: Connection, asked: Sequence[int | None]
    ) -> list[tuple[int, int]]:
        """Copy the next events below a number, None for the newest; or calls, below a negative one.

        Returns:
            The number to go on from, 0 at the end; and how many were copied. It is all in the
            arguments, so that what could not be committed is copied again.
        """
        return [self._copy_below(connection, below) for below in asked]

    def _copy_below(self, connection: Connection, below: int | None) -> tuple[int, int]:
        # Opened and closed each time: nobody else can close it while it is read, or forget to.
        with closing(sqlite3.connect(self._path)) as self._file:
            self._file.row_factory = sqlite3.Row
            if below is None:
                below = self._end(events) or -self._end(calls)
            if below > 0:
                lowest = self._lowest(events, below)
                copied = self._copy(connection, self._read(events, lowest, below))
                return lowest or -self._end(calls), copied
            if below < 0:
                lowest = self._lowest(calls, -below)
                return -lowest, self._copy_calls(connection, self._read(calls, lowest, -below))
            return 0, 0

    def _lowest(self, table: Table, below: int) -> int:
        # Not in steps of the number: a flipped bit makes it astronomical.
        try:
            found = self._rows(
                f"SELECT min(seq) AS lowest FROM (SELECT seq FROM {table.name} WHERE seq < ?"  # noqa: S608 - our own name
                " ORDER BY seq DESC LIMIT ?)",
                (below, _AT_ONCE),
            )
        except sqlite3.Error:
            return max(0, below - _AT_ONCE)
        return found[0]["lowest"] or 0

    def _end(self, table: Table) -> int:
        # Either tells how far the numbers go; the second survives where the first does not.
        end = 0
        for query in (
            f"SELECT max(seq) AS last FROM {table.name}",  # noqa: S608 - our own name
            f"SELECT seq AS last FROM sqlite_sequence WHERE name = '{table.name}'",  # noqa: S608 - the same
        ):
            with suppress(sqlite3.Error):
                for row in self._rows(query, ()):
                    end = max(end, 1 + (row["last"] or 0))
        return end

    def _read(self, table: Table, lowest: int, below: int) -> list[dict[str, Any]]:
        """The rows from `lowest` to `below`; what stands on a broken page is passed over."""
        # One is no range: to find its end SQLite would turn to the next page, which may be broken.
        how = "=" if below - lowest == 1 else ">="
        try:
            return self._rows(
                f"SELECT * FROM {table.name} WHERE seq {how} ? AND seq < ?",  # noqa: S608 - our own name
                (lowest, below),
            )
        except sqlite3.Error:
            if below - lowest == 1:
                self.unread += 1
                return []
            middle = (lowest + below) // 2
            return self._read(table, lowest, middle) + self._read(table, middle, below)

    def _rows(self, query: str, arguments: Sequence[object]) -> list[dict[str, Any]]:
        assert self._file is not None  # noqa: S101 - opened before
        return [dict(row) for row in self._file.execute(query, arguments)]

    def _copy(self, connection: Connection, rows: list[dict[str, Any]]) -> int:
        known = bodies_of(connection, [row["event_id"] for row in rows])
        copied = 0
        for row in rows:
            with self._passing_over(connection):
                there = known.get(row["event_id"])
                if there is not None and there != row["body"]:
                    self._put(connection, row)
                else:
                    self._copy_event(connection, row, is_known=there is not None)
                copied += there is None
        return copied

    def _copy_calls(self, connection: Connection, rows: list[dict[str, Any]]) -> int:
        copied = 0
        for row in rows:
            del row["seq"]
            with self._passing_over(connection):
                copied += _copy_call(connection, row)
        return copied

    @contextmanager
    def _passing_over(self, connection: Connection) -> Generator[None]:
        """Leave a row out that the fresh file does not take: what can be read may be broken too."""
        try:
            with connection.begin_nested():
                yield
        except StatementError as error:
            if isinstance(error, OperationalError) or is_corrupt(error):
                raise  # it is the fresh file that fails
            self.unread += 1

    def _put(self, connection: Connection, row: dict[str, Any]) -> None:
        # Another report of the call came meanwhile: to that one, this is a conflict, or the same.
        receipt = Receipt.read(
            row["body"],
            row["problem"],
            received_at=row["received_at"],
            receipt_id=row["receipt_id"],
        )
        put(connection, [Put(receipt, None, "")])

    def _copy_event(self, connection: Connection, row: dict[str, Any], *, is_known: bool) -> None:
        event_id = row["event_id"]
        del row["seq"]
        row["routed"] = bool(row["routed"])
        try:
            its_deliveries = self._rows(
                f"SELECT * FROM {deliveries.name} WHERE event_id = ?",  # noqa: S608 - our own name
                (event_id,),
            )
        except sqlite3.Error:
            its_deliveries = []
            row["routed"] = True
            logger.error(  # noqa: TRY400 - the traceback says no more
                "which handlers the event %s is waiting for cannot be read", event_id
            )
        if not is_known:
            _insert(connection, events, [row])
        # A handler that ended meanwhile has brought its event along, but not its siblings.
        here = set(
            connection.execute(
                select(deliveries.c.handler).where(deliveries.c.event_id == event_id)
            ).scalars()
        )
        _insert(
            connection, deliveries, [one for one in its_deliveries if one["handler"] not in here]
        )


def _copy_call(connection: Connection, row: dict[str, Any]) -> bool:
    found = connection.execute(
        select(calls.c.entry_id, calls.c.token).where(
            calls.c.entry_id.in_((row["entry_id"], f"{row['entry_id']}~{row['token']}"))
        )
    )
    there = {one.entry_id: one.token for one in found}
    if row["token"] in there.values():
        return False
    if there:  # the same `out_call_id` was used in the fresh file
        row["entry_id"] = f"{row['entry_id']}~{row['token']}"
    connection.execute(insert(calls), [row])
    return True


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)
