"""Transactions that fail in passing are done again, and nobody is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, until
from conformance import (
    ON_MARIADB,
    ON_POSTGRESQL,
    deliveries_in,
    ids_in,
    in_one_go,
    on_servers,
    replica,
)
from sqlalchemy import text
from store_support import ask, engine_of, hurry_spool, in_thread, keep, never_late, put_of

from qmc_async import StoreError
from qmc_async.store import Kind, State, Store, deliveries
from qmc_async.store.events import put
from qmc_async.store.records import Outcome, Poll, Put, Receipt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

IN_THE_WAY = [
    *((kind, state) for kind in ON_POSTGRESQL for state in ("40001", "40P01", "23505")),
    *((kind, number) for kind in ON_MARIADB for number in (1213, 1062, 9007)),
]
"""What each server says where another transaction was in the way; 9007 is TiDB's."""


@pytest.fixture
async def store(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store."""
    async with replica(database, tmp_path) as store:
        yield store


class Obstacle:
    """Has the server itself fail transactions, so and so often."""

    def __init__(self, code: str | int, times: int) -> None:
        self._code = code
        self._left = times
        self.met = 0

    def meet(self, connection: Connection) -> None:
        """Fail, unless it has been often enough."""
        self.met += 1
        if self._left:
            self._left -= 1
            connection.execute(
                text(
                    f"DO $$BEGIN RAISE SQLSTATE '{self._code}' USING MESSAGE = 'secret'; END$$"
                    if isinstance(self._code, str)
                    else f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {self._code},"
                    " MESSAGE_TEXT = 'secret'"
                )
            )


@pytest.mark.parametrize(("database", "code"), IN_THE_WAY, indirect=["database"])
async def test_what_passes(store: Store, database: TestDatabase, code: str | int) -> None:
    """A dead-lock, a serialization failure, a row that another has inserted: done again."""
    obstacle = Obstacle(code, 5)

    def work(connection: Connection) -> Kind | None:
        [kept] = put(connection, [put_of(body_of("1"), {"handler": True})])
        obstacle.meet(connection)
        return kept.kind

    assert await in_thread(store, work) is Kind.DISCONNECTED
    assert obstacle.met == 6
    assert len(deliveries_in(database)) == 1


@pytest.mark.parametrize(("database", "code"), IN_THE_WAY, indirect=["database"])
async def test_what_does_not_pass(store: Store, database: TestDatabase, code: str | int) -> None:
    """After some tries it is left alone, as a failure that may pass yet; the next one succeeds."""
    obstacle = Obstacle(code, 1000)
    with pytest.raises(StoreError, match="the store failed") as caught:
        await in_thread(store, obstacle.meet)
    assert "secret" not in str(caught.value)
    assert str(code) in str(caught.value)
    assert 1 < obstacle.met < 20
    assert (await keep(store, body_of("1"))).kind is Kind.DISCONNECTED
    assert ids_in(database, "SELECT event_id FROM qmc_events") == ["1"]


@on_servers
async def test_what_fails_for_another_reason(
    store: Store, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables that are not there, for now, are no fault of the job's: it may succeed later."""
    hurry_spool(monkeypatch)
    late: list[object] = []
    database.execute("ALTER TABLE qmc_deliveries RENAME TO elsewhere")
    assert await store.keep(put_of(body_of("1"), {"handler": True}), late.append) is None
    with pytest.raises(StoreError) as caught:
        await store.count_pending()
    assert caught.value.temporary
    database.execute("ALTER TABLE elsewhere RENAME TO qmc_deliveries")
    await until(lambda: ids_in(database, "SELECT event_id FROM qmc_events"))
    assert await store.count_pending() == 1
    assert deliveries_in(database) == [("1", "handler", "pending", 0, 0, None, "")]
    assert late == []


# --- a commit whose answer is lost -------------------------------------------------------------


@pytest.fixture
def lose_answers(database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 - a function
    """Have the next commit of a store succeed, and its session end before it is answered."""
    asking, ending = (
        ("SELECT CONNECTION_ID()", "KILL {}")
        if database.kind == "mariadb"
        else ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({}, 30000)")
    )

    def lose(store: Store) -> list[int]:
        dialect = engine_of(store).dialect
        lost: list[int] = []

        def commit(session: Any) -> None:  # noqa: ANN401 - of either driver
            session.commit()
            if not lost:
                cursor = session.cursor()
                cursor.execute(asking)
                [(number,)] = cursor.fetchall()
                lost.append(number)
                database.select(ending.format(number))
                cursor.execute(asking)  # fails, with what the driver says in such a case

        monkeypatch.setattr(dialect, "do_commit", commit)
        return lost

    return lose


@on_servers
async def test_a_notification_whose_commit_is_not_answered(
    store: Store,
    database: TestDatabase,
    lose_answers: Any,  # noqa: ANN401 - a function
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is stored once, and handed out: it is not taken for one that came again."""
    lost = lose_answers(store)
    kept = await keep(store, body_of("1"), {"at once": True, "later": False})
    assert lost
    assert kept.kind is Kind.DISCONNECTED
    [claim] = kept.claims
    assert await store.settle(Outcome(claim, State.DONE))
    assert [row[:3] for row in deliveries_in(database)] == [
        ("1", "at once", "done"),
        ("1", "later", "pending"),
    ]
    assert not store.problems
    assert not [one for one in caplog.records if one.levelname in {"ERROR", "CRITICAL"}]


@on_servers
async def test_a_conflict_whose_commit_is_not_answered(
    store: Store,
    database: TestDatabase,
    lose_answers: Any,  # noqa: ANN401 - a function
) -> None:
    """It is a conflict still."""
    await keep(store, body_of("1"), {})
    assert lose_answers(store) == []
    conflict = Put(Receipt.read(body_of("1", reason="Other")), {}, "us", ["conflicts"])
    kept = await store.keep(conflict, never_late)
    assert kept is not None
    assert kept.kind is Kind.CONFLICT
    assert database.select("SELECT count(*) FROM qmc_events") == [(2,)]
    assert [row[1] for row in deliveries_in(database)] == ["conflicts"]


@on_servers
async def test_a_whole_batch_whose_commit_is_not_answered(
    store: Store,
    database: TestDatabase,
    lose_answers: Any,  # noqa: ANN401 - a function
) -> None:
    """Of what came again, and of an outcome, the same is said as if nothing had happened."""
    held = (await keep(store, body_of("held"), {"handler": True})).claims[0]
    await keep(store, body_of("known"), {"handler": False})
    lost = lose_answers(store)
    kept = await in_one_go(
        {
            store: [
                lambda: keep(store, body_of("new"), {"handler": True}),
                lambda: keep(store, body_of("new"), {"handler": True}),
                lambda: keep(store, body_of("known"), {"handler": True}),
                lambda: store.settle(Outcome(held, State.DONE)),
                lambda: store.route({"known": ["other"]}),
            ]
        }
    )
    assert lost
    assert [one.kind for one in kept[:3]] == [Kind.DISCONNECTED, None, None]
    assert [len(one.claims) for one in kept[:3]] == [1, 0, 0]
    assert kept[3] is True
    assert [row[:3] for row in deliveries_in(database)] == [
        ("held", "handler", "done"),
        ("known", "handler", "pending"),
        ("new", "handler", "pending"),
    ]


@on_servers
async def test_a_lease_whose_commit_is_not_answered(
    store: Store,
    database: TestDatabase,
    lose_answers: Any,  # noqa: ANN401 - a function
) -> None:
    """It runs out by itself, as a dead process's does, or is given back with the rest."""
    await keep(store, body_of("1"), {"handler": False})
    lost = lose_answers(store)
    assert not (await store.poll(Poll("us", {"handler": 1}))).claims
    assert lost
    [row] = deliveries_in(database)
    assert row[2:6] == ("pending", 0, 1, "us")
    assert await ask(store, deliveries.release, "us") == 1
    [claim] = (await store.poll(Poll("us", {"handler": 1}))).claims
    assert claim.fence == 2
