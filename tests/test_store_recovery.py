"""Faults of the database that pass, or that concern one notification only: what becomes of each."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, select_in, until
from sqlalchemy.exc import DatabaseError, OperationalError
from store_support import (
    database_of,
    hurry_spool,
    keep,
    let_go,
    locked,
    names_in,
    never_late,
    put_of,
    spool_files,
    store_in,
)

from qmc_async import StoreError
from qmc_async.store import events, sqlite_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_spool(monkeypatch)


def _ids(folder: Path) -> list[str]:
    rows = select_in(folder, "SELECT event_id FROM qmc_events ORDER BY event_id")
    return [one for (one,) in rows]


async def test_one_that_the_database_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to the spool, and from there out of the way; the database is not taken for down."""
    put = events.put

    def refuse(connection: Any, puts: Any) -> Any:  # noqa: ANN401 - as `put`
        if any(one.receipt.event_id == "bad" for one in puts):
            connection.exec_driver_sql("INSERT INTO qmc_schema (version) VALUES (NULL)")
        return put(connection, puts)

    monkeypatch.setattr(events, "put", refuse)
    async with store_in(tmp_path) as store:
        assert await store.keep(put_of(body_of("bad")), never_late) is None
        assert store.problems == {}
        await keep(store, body_of("good"))
        folder = tmp_path / "qmc.db-spool"
        await until(lambda: any(name.endswith(".damaged") for name in names_in(folder)))
    assert _ids(tmp_path) == ["good"]


async def test_a_database_that_fails_while_it_is_forwarded_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the spool is cleared before it is stored."""
    put, failures = events.put, [1, 2, 3]

    def fail(connection: Any, puts: Any) -> Any:  # noqa: ANN401 - as `put`
        if failures:
            failures.pop()
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("disk I/O error"))
        return put(connection, puts)

    monkeypatch.setattr(events, "put", fail)
    async with store_in(tmp_path) as store:
        assert await store.keep(put_of(body_of("1")), never_late) is None
        await until(lambda: not store.problems)
        [file] = spool_files(tmp_path)
        assert not file.stat().st_size
    assert _ids(tmp_path) == ["1"]


async def test_a_broken_file_that_cannot_be_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be written, say: the spool takes what comes, until that is over."""
    async with store_in(tmp_path) as store:
        await keep(store, body_of("1"))
        database = database_of(store)

        def broken(_: object) -> None:
            error = sqlite3.DatabaseError("malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise DatabaseError("SELECT", {}, error)

        def fail() -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        with monkeypatch.context() as patch:
            patch.setattr(database, "_transact", broken)
            patch.setattr(database.file, "set_aside", fail)
            assert await store.keep(put_of(body_of("2")), never_late) is None
            await until(lambda: list(store.problems) == ["store"])
        await until(lambda: not store.problems)
    assert _ids(tmp_path) == ["1", "2"]


async def test_another_process_has_set_it_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second goes on with the fresh file, and copies nothing."""
    async with store_in(tmp_path) as store:
        await keep(store, body_of("1"))
        database, times = database_of(store), [1]
        transact = database._transact

        def broken(jobs: object) -> None:
            if times:
                times.pop()
                error = sqlite3.DatabaseError("malformed")
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise DatabaseError("SELECT", {}, error)
            transact(jobs)

        monkeypatch.setattr(database, "_transact", broken)
        monkeypatch.setattr(database.file, "set_aside", lambda: None)
        await keep(store, body_of("2"))
        assert store.problems == {}
    assert _ids(tmp_path) == ["1", "2"]


async def test_a_newer_version_upgrades_the_file_meanwhile(tmp_path: Path) -> None:
    """A process of the old version spools what comes, and forwards it should that be undone."""

    def version(number: int) -> None:
        with closing(sqlite3.connect(tmp_path / "qmc.db", timeout=30)) as file, file:
            file.execute("UPDATE qmc_schema SET version = ?", (number,))

    async with store_in(tmp_path) as store:
        version(99)
        await let_go(store)
        assert await store.keep(put_of(body_of("1")), never_late) is None
        await until(lambda: list(store.problems) == ["store"])
        version(1)
        await until(lambda: not store.problems)
    assert _ids(tmp_path) == ["1"]


async def test_a_commit_that_fails_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told of it: the notification is in the spool by then, and comes from there."""
    monkeypatch.setattr(sqlite_file, "_BUSY", 0.1)
    async with store_in(tmp_path, patience=0.001) as store:
        with locked(tmp_path):
            assert await store.keep(put_of(body_of()), never_late) is None
            with pytest.raises(StoreError):
                await store.changes()  # comes after it, and fails as it has
        await until(lambda: _ids(tmp_path) == ["4711"])
