"""Statements that run for each notification: written once, then handed to the driver as they are.

SQLAlchemy works each row's parameters out anew, which takes as long as SQLite takes to insert it.

To SQLite, many rows go in one statement: its driver lets go of the interpreter for each, and has to
wait until the event loop does so too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from attrs import frozen
from sqlalchemy import bindparam, insert

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import (
        Column,
        ColumnElement,
        Connection,
        CursorResult,
        Dialect,
        Insert,
        Select,
        Table,
        Update,
    )

__all__ = ["PreparedForKeys", "PreparedInsert", "among_keys", "sqlite_driver"]

_Convert: TypeAlias = Callable[[Any], Any]

# Powers of two, so that the driver knows their statements after a few notifications.
_SIZES: Final = (64, 32, 16, 8, 4, 2, 1)


def sqlite_driver(connection: Connection) -> sqlite3.Connection | None:
    """The connection of SQLite's driver; None where it is another database's."""
    if connection.dialect.name != "sqlite":
        return None
    return cast("sqlite3.Connection", connection.connection.driver_connection)


@frozen
class _Written:
    """A statement in the words of one kind of database.

    Attributes:
        sql: with the driver's marks for parameters.
        names: of the parameters, in the order of their marks; empty where the driver wants a
            mapping.
        constants: what the statement itself says, by name.
        converts: what the driver wants to have otherwise, by name.
    """

    sql: str
    names: Sequence[str]
    constants: Mapping[str, Any]
    converts: Mapping[str, _Convert]

    @classmethod
    def of(
        cls,
        statement: Insert | Update | Select[*tuple[Any, ...]],
        dialect: Dialect,
        columns: Sequence[str] | None = None,
    ) -> _Written:
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        converts: dict[str, _Convert] = {}
        for bind, name in compiled.bind_names.items():
            convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
            if convert is not None:
                converts[name] = convert
        constants = {
            name: bind.value for bind, name in compiled.bind_names.items() if not bind.required
        }
        return cls(str(compiled), compiled.positiontup or (), constants, converts)

    def row(self, values: dict[str, Any]) -> Any:  # noqa: ANN401 - as the driver takes it
        """One row's parameters; `values` is used up."""
        values.update(self.constants)
        for name, convert in self.converts.items():
            values[name] = convert(values[name])
        return tuple([values[name] for name in self.names]) if self.names else values


class PreparedInsert:
    """Inserts rows.

    Args:
        table: into which.
        columns: that each row has.
    """

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        # Several rows are several insertions, which SQLite would have to be able to undo without
        # the rest of the transaction, at the price of a copy of each page. Nobody wants that: one
        # that fails is followed by a rollback.
        self._statement = insert(table).prefix_with("OR FAIL", dialect="sqlite")
        self._columns = columns
        self._written: dict[str, _Written] = {}

    def execute(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Insert the rows, of which there must be one; they are used up."""
        written = self.written_for(connection.dialect)
        values = [written.row(row) for row in rows]
        driver = sqlite_driver(connection)
        # Who passes over what fails, by a savepoint, wants to be told by SQLAlchemy.
        if driver is None or connection.in_nested_transaction():
            connection.exec_driver_sql(written.sql, values)
            return
        marks = f", ({', '.join('?' * len(written.names))})"
        start = 0
        for size in _SIZES:
            while len(values) - start >= size:
                part = itertools.chain.from_iterable(values[start : start + size])
                driver.execute(written.sql + marks * (size - 1), tuple(part))
                start += size

    def written_for(self, dialect: Dialect) -> _Written:
        """The statement in the words of that database, for one row."""
        written = self._written.get(dialect.name)
        if written is None:
            written = _Written.of(self._statement, dialect, self._columns)
            self._written[dialect.name] = written
        return written


def among_keys(column: Column[str], size: int) -> ColumnElement[bool]:
    """Whether a column has one of so many keys, as `PreparedForKeys` names them."""
    # Of the column's own type, which a list of parameters would not have by itself.
    return column.in_([bindparam(f"key_{number}", type_=column.type) for number in range(size)])


class PreparedForKeys:
    """Changes or finds the rows of many keys.

    SQLite has them all at once. A server has one statement for each key: whichever way it finds the
    rows of many, it locks those that it has looked at.

    Args:
        statement: makes the statement for so many keys, by `among_keys`. A key may be there twice.
    """

    def __init__(self, statement: Callable[[int], Update | Select[*tuple[Any, ...]]]) -> None:
        self._statement = statement
        self._written: dict[tuple[str, int], _Written] = {}

    def execute(
        self, connection: Connection, keys: Sequence[str], **values: object
    ) -> CursorResult[Any] | sqlite3.Cursor:
        """Run it for the keys, of which there must be one.

        What is found is as the driver has it.
        """
        driver = sqlite_driver(connection)
        if driver is None:
            written = self.written_for(connection.dialect, 1)
            rows = [written.row({**values, "key_0": key}) for key in keys]
            return connection.exec_driver_sql(written.sql, rows)
        size = 1 << (len(keys) - 1).bit_length()
        padded = [*keys, *[keys[-1]] * (size - len(keys))]
        values.update((f"key_{number}", key) for number, key in enumerate(padded))
        written = self.written_for(connection.dialect, size)
        return driver.execute(written.sql, written.row(values))

    def written_for(self, dialect: Dialect, size: int) -> _Written:
        """The statement in the words of that database, for so many keys."""
        written = self._written.get((dialect.name, size))
        if written is None:
            written = _Written.of(self._statement(size), dialect)
            self._written[dialect.name, size] = written
        return written
