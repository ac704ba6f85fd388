"""Prepared statements: what they write is what SQLAlchemy would have written itself."""

from __future__ import annotations

import pytest
from sqlalchemy import (
    Connection,
    bindparam,
    create_engine,
    create_mock_engine,
    insert,
    select,
    update,
)

from qmc_async.store.prepared import Prepared
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
CHANGE = (
    update(events)
    .where(events.c.event_id == bindparam("an_id"))
    .values(problem=bindparam("why"), out_call_id=None, routed=True)
)


def connect() -> Connection:
    """An empty store."""
    connection = create_engine("sqlite://").connect()
    metadata.create_all(connection)
    return connection


def test_rows_are_the_same() -> None:
    """One row or many, inserted or changed, with constants and types that are converted."""
    with connect() as ours, connect() as theirs:
        prepared = Prepared(insert(events), list(ROWS[0]))
        assert prepared.execute(ours, ROWS[:1]) == 1
        assert prepared.execute(ours, ROWS[1:]) == len(ROWS) - 1
        theirs.execute(insert(events), ROWS)
        changes = [{"an_id": "event-0", "why": "a"}, {"an_id": "event-1", "why": "b"}]
        assert Prepared(CHANGE).execute(ours, [*changes, {"an_id": "none", "why": ""}]) == 2
        theirs.execute(CHANGE, changes)
        everything = select(events).order_by(events.c.seq)
        assert ours.execute(everything).all() == theirs.execute(everything).all()


@pytest.mark.parametrize("url", ["sqlite://", "mysql+pymysql://", "postgresql+psycopg://"])
def test_every_database_has_its_own_words(url: str) -> None:
    """A row is a sequence or a mapping, as the driver takes it; MySQL wants ids as bytes."""
    dialect = create_mock_engine(url, print).dialect
    written = Prepared(insert(deliveries), deliveries.c.keys()).written_for(dialect)
    row = written.row(dict.fromkeys(deliveries.c.keys(), "x"))
    if written.is_positional:
        row = dict(zip(written.names, row, strict=True))
    assert set(row) == set(deliveries.c.keys())
    assert row["event_id"] == (b"x" if dialect.name == "mysql" else "x")
