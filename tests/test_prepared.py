"""Prepared statements: what they write is what SQLAlchemy would have written itself."""

from __future__ import annotations

import pytest
from sqlalchemy import (
    Connection,
    Update,
    bindparam,
    create_engine,
    create_mock_engine,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from qmc_async.store.prepared import PreparedForKeys, PreparedInsert, among_keys
from qmc_async.store.schema import deliveries, events, metadata

ROWS = [
    {
        "event_id": f"event-{n}",
        "kind": "disconnected",
        "out_call_id": None if n % 2 else f"order-{n}",
        "received_at": 1_700_000_000_000 + n,
        "receipt_id": f"{n:032}",
        "problem": "",
        "body": b"\x00\xff{}",
        "routed": n % 2 == 0,
    }
    for n in range(5)
]
COLUMNS = list(ROWS[0])


def change(size: int) -> Update:
    """An UPDATE with parameters, constants, and types that are converted."""
    return (
        update(events)
        .where(among_keys(events.c.event_id, size))
        .values(problem=bindparam("why"), out_call_id=None, routed=True)
    )


def connect() -> Connection:
    """An empty store."""
    connection = create_engine("sqlite://").connect()
    metadata.create_all(connection)
    return connection


@pytest.mark.parametrize("count", [1, 2, 3, 64, 129, 200])
def test_rows_are_the_same(count: int) -> None:
    """One row or many."""
    rows = [ROWS[n % len(ROWS)] | {"event_id": f"event-{n}"} for n in range(count)]
    with connect() as ours, connect() as theirs:
        PreparedInsert(events, COLUMNS).execute(ours, rows)
        theirs.execute(insert(events), rows)
        everything = select(events).order_by(events.c.seq)
        assert ours.execute(everything).all() == theirs.execute(everything).all()
        assert len(ours.execute(everything).all()) == count


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_changes_are_the_same(count: int) -> None:
    """Of as many rows as are meant, and of no other; a key that is not there changes none."""
    keys = [f"event-{n}" for n in range(count)]
    with connect() as ours, connect() as theirs:
        for one in (ours, theirs):
            one.execute(insert(events), ROWS)
        prepared = PreparedForKeys(change)
        assert prepared.execute(ours, [*keys, "none", keys[0]], why="a").rowcount == count
        names = {f"key_{number}": key for number, key in enumerate(keys)}
        theirs.execute(change(count), names | {"why": "a"})
        everything = select(events).order_by(events.c.seq)
        assert ours.execute(everything).all() == theirs.execute(everything).all()


def test_a_row_that_is_refused() -> None:
    """In a savepoint, what was inserted before it stays, and SQLAlchemy tells."""
    with connect() as connection:
        prepared = PreparedInsert(events, COLUMNS)
        prepared.execute(connection, [dict(row) for row in ROWS[:2]])
        with pytest.raises(IntegrityError), connection.begin_nested():
            prepared.execute(connection, [dict(row) for row in (ROWS[2], ROWS[0])])
        kept = connection.execute(select(events.c.event_id)).scalars().all()
        assert kept == ["event-0", "event-1"]


@pytest.mark.parametrize("url", ["sqlite://", "mysql+pymysql://", "postgresql+psycopg://"])
def test_every_database_has_its_own_words(url: str) -> None:
    """A row is a sequence or a mapping, as the driver takes it; MySQL wants ids as bytes."""
    dialect = create_mock_engine(url, print).dialect
    written = PreparedInsert(deliveries, deliveries.c.keys()).written_for(dialect)
    row = written.row(dict.fromkeys(deliveries.c.keys(), "x"))
    if written.names:
        row = dict(zip(written.names, row, strict=True))
    assert set(row) == set(deliveries.c.keys())
    assert row["event_id"] == (b"x" if dialect.name == "mysql" else "x")
    changed = PreparedForKeys(change).written_for(dialect, 2)
    assert ("OR FAIL" in written.sql) == (dialect.name == "sqlite")
    named = {"key_0": "x", "key_1": "y", "why": ""}
    row = changed.row(named)
    if changed.names:
        row = dict(zip(changed.names, row, strict=True))
    assert row["key_1"] == (b"y" if dialect.name == "mysql" else "y")
