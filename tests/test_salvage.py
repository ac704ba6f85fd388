"""A broken database file: set aside, a fresh one opened, and everything readable copied over."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from callback_peer import SUCCESS, alone, body_of, hurry, select_in, until, url_in
from store_support import (
    ask,
    database_of,
    hurry_spool,
    keep,
    put_of,
    store_in,
)

from qmc_async import ConfigError
from qmc_async.store import State, Store
from qmc_async.store.records import Outcome
from qmc_async.store.salvage import Salvage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


COUNT = 300  # more than one transaction of the salvage, and many pages


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_spool(monkeypatch)
    hurry(monkeypatch)


async def _fill(store: Store, count: int = COUNT) -> None:
    """Events with a delivery in each state."""
    for number in range(0, count, 50):
        await asyncio.gather(
            *(
                keep(store, body_of(f"{n:04}", x="x" * 200), {"handler": True, "other": False})
                for n in range(number, min(number + 50, count))
            )
        )
    for call_id, state in (("0001", State.DONE), ("0002", State.DEAD)):
        kept = await keep(store, body_of(f"settled-{call_id}"), {"handler": True})
        outcome = Outcome(kept.claims[0], state, failed=state is State.DEAD, error="why")
        assert await store.settle(outcome)
    await keep(store, body_of("unrouted"))
    await keep(store, body_of("unrouted", reason="Other"))


async def test_a_row_without_what_it_must_have(tmp_path: Path) -> None:
    """It is passed over, also where its call came again meanwhile; the others are copied."""
    old = tmp_path / "old"
    old.mkdir()
    async with store_in(old) as store:
        for number in range(5):
            await keep(store, body_of(f"{number:04}"))
    for statements in (
        (
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_schema SET sql = replace(sql, 'problem TEXT NOT NULL', 'problem TEXT')",
        ),
        ("UPDATE qmc_events SET problem = NULL WHERE event_id = '0003'",),
    ):
        with closing(sqlite3.connect(old / "qmc.db", isolation_level=None)) as file:
            for statement in statements:
                file.execute(statement)
    async with store_in(tmp_path) as store:
        await keep(store, body_of("0003", reason="Other"))
        salvage = Salvage(old / "qmc.db")
        assert await ask(store, salvage.copy_some, None) == (1, 4)
        assert salvage.unread == 1
    assert [row[0] for row in _rows(tmp_path / "qmc.db")] == [f"{n:04}" for n in range(5)]


def _rows(path: Path) -> list[tuple[object, ...]]:
    """Everything but the numbers, which may change."""
    with closing(sqlite3.connect(path)) as file:
        found = file.execute(
            "SELECT event_id, kind, out_call_id, received_at, receipt_id, body, routed"
            " FROM qmc_events ORDER BY event_id"
        ).fetchall()
        return (
            found
            + file.execute("SELECT * FROM qmc_deliveries ORDER BY event_id, handler").fetchall()
        )


def _aside(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.glob("qmc.db.corrupt-*") if not path.name.endswith(("-wal", "-shm"))
    )


def _checkpoint(folder: Path) -> None:
    """Bring everything from the log into the file, as SQLite does by and by."""
    with closing(sqlite3.connect(folder / "qmc.db")) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _break_page(path: Path, page: int, size: int = 4096) -> None:
    with path.open("r+b") as file:
        file.seek(page * size)
        file.write(b"\xa5" * size)


async def _salvaged(store: Store, caplog: pytest.LogCaptureFixture, times: int = 1) -> None:
    await until(lambda: caplog.text.count("events and calls were copied from") >= times)
    assert "set_aside" in store.problems


# --- at run time -------------------------------------------------------------------------------


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xa5" * path.stat().st_size)


def _break_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * 100)


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5000)


BREAKING: dict[str, Callable[[Path], None]] = {
    "overwritten": _overwrite,
    "head": _break_head,
    "truncated": _truncate,
}


@pytest.mark.parametrize("how", BREAKING)
async def test_a_file_that_breaks_under_a_running_store(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is set aside and reported; whatever comes next is kept in a fresh file."""
    async with store_in(tmp_path) as store:
        await _fill(store, 100)
        _checkpoint(tmp_path)
        # SQLite reads anew what another connection has changed.
        with closing(sqlite3.connect(tmp_path / "qmc.db")) as file, file:
            file.execute("UPDATE qmc_calls SET state = ''")
            file.execute("CREATE TABLE qmc_x (x)")
        _checkpoint(tmp_path)
        BREAKING[how](tmp_path / "qmc.db")
        await store.keep(put_of(body_of("after")), lambda _: None)
        await until(lambda: _aside(tmp_path))
        await _salvaged(store, caplog)
        await until(lambda: list(store.problems) == ["set_aside"])
        assert str(_aside(tmp_path)[0]) in store.problems["set_aside"]
        query = "SELECT count(*) FROM qmc_events WHERE event_id = 'after'"
        await until(lambda: select_in(tmp_path, query) == [(1,)])
    critical = [one.message for one in caplog.records if one.levelno == logging.CRITICAL]
    assert any("is broken" in message and "set aside as" in message for message in critical)


async def test_what_can_be_read_is_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every event whose page is whole comes over byte for byte, with its deliveries as they were.

    Their handlers go on where they were: what is done stays done, what is dead stays dead.
    """
    async with store_in(tmp_path) as store:
        await _fill(store)
        _checkpoint(tmp_path)
    before = _rows(tmp_path / "qmc.db")
    with closing(sqlite3.connect(tmp_path / "qmc.db")) as file:
        file.execute("PRAGMA writable_schema = ON")
        [(root,)] = file.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'qmc_deliveries_due'"
        )
    _break_page(tmp_path / "qmc.db", root - 1)  # an index only: every row can be read
    async with store_in(tmp_path) as store:
        await keep(store, body_of("after"), {"handler": True})
        await _salvaged(store, caplog)
        assert f"{COUNT + 4} events and calls were copied" in caplog.text
    after = [row for row in _rows(tmp_path / "qmc.db") if row[0] != "after"]
    assert after == before


async def test_a_page_of_events_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What stands on it is lost, and nothing else."""
    async with store_in(tmp_path) as store:
        await _fill(store)
        _checkpoint(tmp_path)
    path = tmp_path / "qmc.db"
    content = path.read_bytes()
    page = content.index(body_of("0150", x="x" * 200)) // 4096
    neighbours = content[page * 4096 : (page + 1) * 4096]
    lost = {f"{n:04}" for n in range(COUNT) if b"%04ddisconnected" % n in neighbours}
    assert 5 < len(lost) < COUNT / 2
    _break_page(path, page)
    async with store_in(tmp_path) as store:
        # A lookup of something on that page finds out that it is broken.
        await store.keep(put_of(body_of("0150")), lambda _: None)
        await _salvaged(store, caplog)
    found = {one for (one,) in select_in(tmp_path, "SELECT event_id FROM qmc_events")}
    expected = {f"{n:04}" for n in range(COUNT)} - lost
    assert expected <= found


async def test_the_log_is_set_aside_with_its_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was committed last stands in the log only, and is copied like the rest."""
    async with store_in(tmp_path) as store:
        await _fill(store, 10)
        assert b"unrouted" not in (tmp_path / "qmc.db").read_bytes()
        database = database_of(store)
        transact = database._transact
        first = [sqlite3.DatabaseError("malformed")]
        first[0].sqlite_errorcode = sqlite3.SQLITE_CORRUPT

        def once(jobs: object) -> None:
            if first:
                # Another process would hold the log; alone, closing brings it into the file.
                raise database_error(first.pop())
            transact(jobs)

        database._transact = once
        with closing(sqlite3.connect(tmp_path / "qmc.db")) as holding:
            holding.execute("SELECT count(*) FROM qmc_events").fetchone()
            assert await store.keep(put_of(body_of("after")), lambda _: None)
            assert (_aside(tmp_path)[0].parent / f"{_aside(tmp_path)[0].name}-wal").exists()
            await _salvaged(store, caplog)
    found = {one for (one,) in select_in(tmp_path, "SELECT event_id FROM qmc_events")}
    assert {"0000", "0009", "unrouted", "after"} <= found


def database_error(error: sqlite3.Error) -> Exception:
    """As SQLAlchemy raises it."""
    from sqlalchemy.exc import DatabaseError  # noqa: PLC0415 - only here

    return DatabaseError("SELECT", {}, error)


# --- at start ----------------------------------------------------------------------------------


async def test_a_file_that_is_broken_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server starts, is unready, keeps what comes, and copies what can be read."""
    async with store_in(tmp_path) as store:
        await _fill(store)
    with closing(sqlite3.connect(tmp_path / "qmc.db")) as file:
        [(root,)] = file.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'qmc_schema'"
        ).fetchall()
    before = _rows(tmp_path / "qmc.db")
    _break_page(tmp_path / "qmc.db", root - 1)
    async with alone(store=url_in(tmp_path)) as there:
        assert (await there.post(body_of("after"))).body == SUCCESS
        await until(lambda: "events and calls were copied from" in caplog.text)
        assert f"{COUNT + 4} events and calls were copied" in caplog.text
        assert "set_aside" in there.server.problems
        await until(lambda: "after" in {one.call_id for one in there.ended})
    ids = {row[0] for row in _rows(tmp_path / "qmc.db")}
    assert {row[0] for row in before} <= ids


async def test_a_wrong_head_at_start_is_not_touched(tmp_path: Path) -> None:
    """It could be anybody's file: refused, and not a byte is changed."""
    async with store_in(tmp_path) as store:
        await keep(store, body_of())
    _break_head(tmp_path / "qmc.db")
    before = (tmp_path / "qmc.db").read_bytes()
    with pytest.raises(ConfigError, match="is no database of qmc-async"):
        await Store(url_in(tmp_path)).open()
    assert (tmp_path / "qmc.db").read_bytes() == before
