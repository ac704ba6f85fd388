"""Copying a broken file's events to the fresh one: everything that can be read, once."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, select_in, until
from sqlalchemy.exc import OperationalError
from store_support import (
    held_up,
    hurry_spool,
    in_thread,
    keep,
    locked,
    names_in,
    store_in,
    waiting,
)

from qmc_async import StoreError
from qmc_async.store import Kind, State, Store, salvage, sqlite_file
from qmc_async.store.records import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_spool(monkeypatch)


async def _copy(store: Store, path: Path, caplog: pytest.LogCaptureFixture) -> int:
    """Copy a file's events, as it is done once it was set aside; how many it says."""
    caplog.clear()
    private: Any = store
    await private._copy_over(path)
    [count] = re.findall(r"(\d+) events and calls were copied from", caplog.text)
    return int(count)


@pytest.fixture
async def broken(tmp_path: Path) -> Path:
    """A file to copy from, with ten events."""
    (tmp_path / "old").mkdir()
    async with store_in(tmp_path / "old") as store:
        for number in range(10):
            await keep(store, body_of(f"471{number}", reason="A"), {"handler": False})
    return tmp_path / "old" / "qmc.db"


async def test_what_is_there_already_is_not_copied(
    tmp_path: Path, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What came again meanwhile, or was copied once, stays as it is in the fresh file."""
    async with store_in(tmp_path) as store:
        await keep(store, body_of("4711", reason="B"), {"other": False})
        assert await _copy(store, broken, caplog) == 9
        assert await _copy(store, broken, caplog) == 0
    query = "SELECT handler FROM qmc_deliveries WHERE event_id = '4711'"
    assert ("other",) in select_in(tmp_path, query)
    query = "SELECT body FROM qmc_events WHERE event_id = '4711'"
    assert select_in(tmp_path, query) == [(body_of("4711", reason="B"),)]


async def test_deliveries_that_cannot_be_read(
    tmp_path: Path, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The event is kept and can be looked at, but nobody's handler runs on a guess."""
    with closing(sqlite3.connect(broken)) as file, file:
        file.execute("DROP TABLE qmc_deliveries")
    async with store_in(tmp_path) as store:
        assert await _copy(store, broken, caplog) == 10
    assert select_in(tmp_path, "SELECT DISTINCT routed FROM qmc_events") == [(1,)]
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_deliveries") == [(0,)]
    assert "which handlers the event 4711 is waiting for cannot be read" in caplog.text


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + bytes(84), b"\xa5" * 9000])
async def test_nothing_can_be_read(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Then nothing is copied, and that is all."""
    (tmp_path / "broken").write_bytes(content)
    async with store_in(tmp_path) as store:
        assert await _copy(store, tmp_path / "broken", caplog) == 0
        await keep(store, body_of())


def _change(path: Path, old: bytes, new: bytes) -> None:
    """Flip bits of a table's row, past SQLite, which has no checksums."""
    content = path.read_bytes()
    place = content.index(old)
    path.write_bytes(content[:place] + new + content[place + len(old) :])


async def test_two_rows_of_one_id(
    tmp_path: Path, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One flipped bit makes one id another's: one of the two is copied, and all others are."""
    _change(broken, b"4713disconnected", b"4712disconnected")
    async with store_in(tmp_path) as store:
        assert await _copy(store, broken, caplog) == 9
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(9,)]


async def test_a_row_that_the_fresh_file_refuses(
    tmp_path: Path, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out, and does not keep the others from being copied."""
    with closing(sqlite3.connect(broken)) as file, file:
        file.execute("UPDATE qmc_events SET body = 'text' WHERE event_id = '4715'")
        file.execute("UPDATE qmc_events SET received_at = 'text' WHERE event_id = '4714'")
        file.execute("UPDATE qmc_events SET receipt_id = x'ff' WHERE event_id = '4713'")
        file.execute("UPDATE qmc_deliveries SET fence = 'text' WHERE event_id = '4716'")
    async with store_in(tmp_path) as store:
        await _copy(store, broken, caplog)
    found = {one for (one,) in select_in(tmp_path, "SELECT event_id FROM qmc_events")}
    assert {f"471{n}" for n in (0, 1, 2, 7, 8, 9)} <= found


async def test_a_transaction_that_is_rolled_back(
    tmp_path: Path, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit that fails for another's fault costs the copy nothing."""

    def refused(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO qmc_schema (version) VALUES (NULL)")

    async with store_in(tmp_path) as store:
        async with held_up(store):
            copying = asyncio.ensure_future(_copy(store, broken, caplog))
            failing = asyncio.ensure_future(in_thread(store, refused))
            await until(lambda: waiting(store) >= 2)
        assert await copying == 10
        with pytest.raises(StoreError):
            await failing
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(10,)]


async def test_a_handler_that_is_running_while_the_file_breaks(
    tmp_path: Path, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it has done is written down in the fresh file; what its siblings have yet to do too."""
    async with store_in(tmp_path / "old") as store:
        kept = await keep(store, body_of("running"), {"handler": True, "other": False})
    async with store_in(tmp_path) as store:
        assert await store.settle(Outcome(kept.claims[0], State.DONE))
        await _copy(store, broken, caplog)
    query = "SELECT handler, state FROM qmc_deliveries WHERE event_id = 'running' ORDER BY handler"
    assert select_in(tmp_path, query) == [("handler", "done"), ("other", "pending")]


async def test_a_store_that_closes_while_it_copies(tmp_path: Path, broken: Path) -> None:
    """What is not copied yet stays in the broken file; nothing is copied by halves."""
    async with store_in(tmp_path) as store:
        async with held_up(store):
            private: Any = store
            private._start(private._copy_over(broken))
            await until(lambda: waiting(store))
            closing_ = asyncio.ensure_future(store.close())
            await asyncio.sleep(0.01)
        await closing_
    rows = select_in(
        tmp_path,
        "SELECT count(*), count(DISTINCT d.event_id) FROM qmc_events e"
        " LEFT JOIN qmc_deliveries d ON d.event_id = e.event_id",
    )
    assert rows[0][0] == rows[0][1]


async def test_a_database_that_is_down_while_it_copies(
    tmp_path: Path,
    broken: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes on once that is back."""
    monkeypatch.setattr(sqlite_file, "_BUSY", 0.02)
    async with store_in(tmp_path) as store:
        with locked(tmp_path):
            copying = asyncio.ensure_future(_copy(store, broken, caplog))
            await asyncio.wait((copying,), timeout=0.2)
        assert await copying == 10


async def test_a_repeated_notification_after_the_copy(
    tmp_path: Path, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was copied is known."""
    async with store_in(tmp_path) as store:
        await _copy(store, broken, caplog)
        assert (await keep(store, body_of("4711", reason="A"))).kind is None
        assert (await keep(store, body_of("4711", reason="B"))).kind is Kind.CONFLICT


async def test_a_fresh_file_that_fails_while_it_is_copied_to(
    tmp_path: Path,
    broken: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is not the event's fault: it is tried again, and nothing is passed over."""
    insert, failures = salvage._insert, [1]  # pyright: ignore[reportPrivateUsage] - the fault is put there

    def fail(*args: Any) -> None:  # noqa: ANN401 - as the original
        if failures:
            failures.pop()
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("disk is full"))
        insert(*args)

    monkeypatch.setattr(salvage, "_insert", fail)
    async with store_in(tmp_path) as store:
        assert await _copy(store, broken, caplog) == 10
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(10,)]


async def test_a_mistake_of_ours(
    tmp_path: Path,
    broken: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is given up, loudly, and tried again at the next start."""

    def mistaken(*_: object) -> None:
        raise KeyError

    aside = tmp_path / "qmc.db.corrupt-20260101T000000Z-000"
    shutil.move(broken, aside)
    with monkeypatch.context() as patch:
        patch.setattr(salvage, "_insert", mistaken)
        async with store_in(tmp_path):
            await until(lambda: "was given up" in caplog.text)
    async with store_in(tmp_path) as store:
        assert "set_aside" in store.problems
        await until(lambda: "10 events and calls were copied from" in caplog.text)
        await until(lambda: f"{aside.name}.copied" in names_in(tmp_path))
    caplog.clear()
    async with store_in(tmp_path) as store:
        assert store.problems == {}
    assert "were copied" not in caplog.text
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(10,)]


async def test_another_report_came_before_the_copy(
    tmp_path: Path, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A report that differs from what the fresh file has is a conflict, and is not lost."""
    async with store_in(tmp_path) as store:
        await keep(store, body_of("4711", reason="B"), {"handler": False})
        await _copy(store, broken, caplog)
    rows = select_in(
        tmp_path,
        "SELECT kind, body, routed FROM qmc_events WHERE event_id LIKE '4711%' ORDER BY kind",
    )
    assert rows == [
        ("conflict", body_of("4711", reason="A"), 0),
        ("disconnected", body_of("4711", reason="B"), 1),
    ]
