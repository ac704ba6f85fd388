"""Statements that run for each notification: written once, then handed to the driver as they are.

SQLAlchemy works each row's parameters out anew, which takes as long as SQLite takes to insert it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import frozen

if TYPE_CHECKING:
    from sqlalchemy import Connection, Dialect, Insert, Update

__all__ = ["Prepared", "Written"]

_Convert: TypeAlias = Callable[[Any], Any]


@frozen
class Written:
    """A statement in the words of one kind of database.

    Attributes:
        sql: with the driver's marks for parameters.
        names: of the parameters, in the order of their marks.
        constants: those that are the same for each row.
        converts: what the driver wants to have otherwise, by name.
        is_positional: whether the driver takes a row as a sequence.
    """

    sql: str
    names: Sequence[str]
    constants: Mapping[str, Any]
    converts: Mapping[str, _Convert]
    is_positional: bool

    def row(self, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as the driver takes it
        """One row's parameters."""
        values = {**self.constants, **values}
        for name, convert in self.converts.items():
            values[name] = convert(values[name])
        return tuple([values[name] for name in self.names]) if self.is_positional else values


class Prepared:
    """An INSERT or UPDATE of single rows.

    Args:
        statement: to be prepared.
        columns: of an INSERT, those that each row has.
    """

    def __init__(self, statement: Insert | Update, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._written: dict[str, Written] = {}

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it for each of the rows, of which there must be one; how many it has changed."""
        written = self.written_for(connection.dialect)
        return connection.exec_driver_sql(written.sql, [written.row(row) for row in rows]).rowcount

    def written_for(self, dialect: Dialect) -> Written:
        """The statement in the words of that database."""
        written = self._written.get(dialect.name)
        if written is None:
            written = self._written[dialect.name] = self._write(dialect)
        return written

    def _write(self, dialect: Dialect) -> Written:
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)
        converts: dict[str, _Convert] = {}
        for bind, name in compiled.bind_names.items():
            convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
            if convert is not None:
                converts[name] = convert
        return Written(
            sql=str(compiled),
            names=compiled.positiontup or (),
            constants=dict(compiled.params),
            converts=converts,
            is_positional=compiled.positiontup is not None,
        )
