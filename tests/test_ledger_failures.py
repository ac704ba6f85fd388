"""The ledger where its store fails: nothing is sent, or what is late is written down later."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import select_in, until
from faulty_platform import (
    FaultyPlatform,
    always,
    http,
)
from ledger_support import (
    NUMBERS,
    call,
    calling,
    fail,
    fail_for_ever,
    hurry_ledger,
    opening,
    place,
    states_in,
    store_of,
    unwritten_in,
)
from store_support import hurry_spool, locked, store_in

from qmc_async import DuplicateCall, StoreError
from qmc_async.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from faulty_platform import Connection

    from qmc_async.store.salvage import Salvage


@pytest.fixture
async def platform() -> AsyncIterator[FaultyPlatform]:
    """A platform that places every call."""
    async with FaultyPlatform(always(http())) as platform:
        yield platform


# --- it cannot be written down -----------------------------------------------------------------


async def test_a_disk_that_fails(platform: FaultyPlatform, tmp_path: Path) -> None:
    """The call is not placed, the error says so and why, and the next one can be."""
    async with calling(platform, tmp_path) as client:
        fail(client, 1)
        with pytest.raises(
            StoreError, match=r"order-1 was not placed.*cannot be written"
        ) as caught:
            await call(client)
        assert caught.value.temporary
        assert platform.requests == []
        assert states_in(tmp_path) == {}
        await call(client)
    assert states_in(tmp_path) == {"order-1": "placed"}


async def test_a_database_that_refuses_the_row(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Trying again does not help: the error says so."""
    async with calling(platform, tmp_path) as client:
        select_in(
            tmp_path,
            "CREATE TRIGGER no BEFORE INSERT ON qmc_calls BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        with pytest.raises(StoreError) as caught:
            await call(client)
        assert not caught.value.temporary
        assert not any(number in str(caught.value) for number in NUMBERS)
    assert platform.requests == []


async def test_a_database_that_is_locked_for_long(
    platform: FaultyPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is given up, and what is written down all the same is struck out."""
    monkeypatch.setattr("qmc_async.ledger._PATIENCE", 0.05)
    async with calling(platform, tmp_path) as client:
        with locked(tmp_path):
            with pytest.raises(StoreError, match=r"did not answer in 0\.05 s") as caught:
                await call(client)
            assert caught.value.temporary
        await until(lambda: not unwritten_in(client))
        assert states_in(tmp_path) == {}
        monkeypatch.setattr("qmc_async.ledger._PATIENCE", 20.0)
        await call(client)
    assert len(platform.requests) == 1


async def test_a_store_that_somebody_has_closed(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Nothing is sent."""
    async with calling(platform, tmp_path) as client:
        await store_of(client).close()
        with pytest.raises(StoreError, match="the store is not open"):
            await call(client)
    assert platform.requests == []


# --- what became of a call is written down late ------------------------------------------------


async def test_a_database_that_is_locked_while_the_platform_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is returned without waiting for it, and is written down as soon as it is free."""
    hurry_ledger(monkeypatch)
    sent, told = asyncio.Event(), asyncio.Event()

    async def answer(connection: Connection) -> None:
        await connection.read_request()
        sent.set()
        await told.wait()
        connection.writer.write(http())

    async with FaultyPlatform(answer) as platform, calling(platform, tmp_path) as client:
        placing = asyncio.ensure_future(call(client))
        await sent.wait()
        with locked(tmp_path):
            told.set()
            assert (await placing).call_id == "c-1"
            assert states_in(tmp_path) == {"order-1": "placing"}
        await until(lambda: states_in(tmp_path) == {"order-1": "placed"})


async def test_a_disk_that_fails_while_the_platform_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried until it works; that it is late is said once."""
    hurry_ledger(monkeypatch)

    async def answer(connection: Connection) -> None:
        await connection.read_request()
        fail(client, 5)
        connection.writer.write(http())

    async with FaultyPlatform(answer) as platform:
        async with calling(platform, tmp_path) as client:
            await call(client)
        assert states_in(tmp_path) == {"order-1": "placed"}
    assert caplog.text.count("the call order-1 is placed is yet to be written down") == 1
    assert not any(number in caplog.text for number in NUMBERS)


async def test_a_disk_that_fails_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing does not wait for ever, and says what is not in the ledger; the id stays used."""
    hurry_ledger(monkeypatch)
    monkeypatch.setattr("qmc_async.ledger._LAST", 0.05)

    async def answer(connection: Connection) -> None:
        await connection.read_request()
        fail_for_ever(client)
        connection.writer.write(http())

    async with FaultyPlatform(answer) as platform:
        async with calling(platform, tmp_path) as client:
            assert (await call(client)).call_id == "c-1"
        assert "that the call order-1 is placed was not written down" in caplog.text
        async with calling(platform, tmp_path) as client:
            with pytest.raises(DuplicateCall) as caught:
                await call(client)
    assert caught.value.state == "placing"
    assert len(platform.requests) == 1


async def test_a_database_that_refuses_what_became_of_a_call(
    platform: FaultyPlatform, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The call is returned, and that it stays as it is in the ledger is logged, once."""
    async with calling(platform, tmp_path) as client:
        select_in(
            tmp_path,
            "CREATE TRIGGER no BEFORE UPDATE ON qmc_calls BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        assert (await call(client)).call_id == "c-1"
    assert states_in(tmp_path) == {"order-1": "placing"}
    assert caplog.text.count("that the call order-1 is placed cannot be written down") == 1


# --- a file that is lost -----------------------------------------------------------------------


async def test_a_file_that_is_removed(
    platform: FaultyPlatform,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the ledger had is copied into the fresh one: ids stay used, states stay known.

    Nothing is placed until then, because its id may be among what is yet to be copied.
    """
    hurry_spool(monkeypatch)
    copy_some, go_on = vars(Store)["_copy_some"], asyncio.Event()

    async def wait(store: Store, salvage: Salvage, below: int | None) -> int | None:
        await go_on.wait()
        position: int | None = await copy_some(store, salvage, below)
        return position

    monkeypatch.setattr(Store, "_copy_some", wait)
    async with calling(platform, tmp_path) as client:
        await call(client)
        await call(client, again=True)
        rows = select_in(tmp_path, "SELECT * FROM qmc_calls ORDER BY entry_id")
        for name in ("qmc.db", "qmc.db-wal", "qmc.db-shm"):
            (tmp_path / name).unlink()
        for name in ("order-2", "order-1"):
            with pytest.raises(StoreError, match="still being copied"):
                await call(client, name)
        assert len(platform.requests) == 2
        go_on.set()
        await until(lambda: "2 events and calls were copied from" in caplog.text)
        copied = select_in(
            tmp_path, "SELECT * FROM qmc_calls WHERE out_call_id = 'order-1' ORDER BY entry_id"
        )
        assert [row[1:] for row in copied] == [row[1:] for row in rows]
        await call(client, "order-2")
        for name in ("order-1", "order-2"):
            with pytest.raises(DuplicateCall):
                await call(client, name)
    assert len(platform.requests) == 3


async def test_a_file_that_is_removed_while_a_call_is_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in the fresh one, once, as what became of it."""
    hurry_spool(monkeypatch)

    async def answer(connection: Connection) -> None:
        await connection.read_request()
        for name in ("qmc.db", "qmc.db-wal", "qmc.db-shm"):
            (tmp_path / name).unlink()
        connection.writer.write(http())

    async with FaultyPlatform(answer) as platform, calling(platform, tmp_path) as client:
        await call(client)
        await until(lambda: "events and calls were copied from" in caplog.text)
        assert states_in(tmp_path) == {"order-1": "placed"}


async def test_an_id_that_both_files_have(tmp_path: Path) -> None:
    """The fresh one's call keeps it, and the other is there as well; what it has is not copied."""
    (tmp_path / "old").mkdir()
    async with store_in(tmp_path / "old") as old:
        await place(old, "1", "order-1")
        await place(old, "2", "order-2")
        await place(old, "3", "order-3")
    async with store_in(tmp_path) as store:
        await place(store, "2", "order-2")  # of which the fresh file has the same attempt
        await place(store, "4", "order-1")
        private: Any = store
        for _ in range(2):
            await private._copy_over(tmp_path / "old" / "qmc.db")
        assert await store.open_entry(opening("order-3", "5")) is not None
    token = "1".rjust(32, "0")
    assert states_in(tmp_path) == dict.fromkeys(
        ("order-2", "order-1", "order-3", f"order-1~{token}"), "placed"
    )


async def test_a_call_that_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted as one that cannot be read, and the others are copied."""
    (tmp_path / "old").mkdir()
    async with store_in(tmp_path / "old") as old:
        for number in "123":
            await place(old, number, f"order-{number}")
    with closing(sqlite3.connect(tmp_path / "old" / "qmc.db")) as file, file:
        file.execute("PRAGMA writable_schema = ON")
        file.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'state VARCHAR(16) NOT NULL', 'state')"
            " WHERE name = 'qmc_calls'"
        )
    select_in(tmp_path / "old", "UPDATE qmc_calls SET state = NULL WHERE call_id = '2'")
    async with store_in(tmp_path) as store:
        private: Any = store
        await private._copy_over(tmp_path / "old" / "qmc.db")
    assert states_in(tmp_path) == {"order-3": "placed", "order-1": "placed"}
    assert "2 events and calls were copied from" in caplog.text
    assert "; 1 could not be read" in caplog.text
