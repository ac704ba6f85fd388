"""The ladder: database, spool, error; and the way back, with everything once and handled."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import SUCCESS, alone, body_of, hurry, select_in, until, url_in
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError
from store_support import (
    Process,
    database_of,
    hurry_spool,
    keep,
    locked,
    never_late,
    put_of,
    spool_files,
    store_in,
)

from qmc_async import StoreError
from qmc_async.store import Store, sqlite_file
from qmc_async.store.events import probe
from qmc_async.store.group_commit import Job
from qmc_async.store.records import Kind
from qmc_async.store.spool_file import Spool, append
from qmc_async.store.sqlite_database import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qmc_async.store.records import Kept, Put


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_spool(monkeypatch)
    hurry(monkeypatch)


def _ids(folder: Path) -> list[str]:
    return [
        one for (one,) in select_in(folder, "SELECT event_id FROM qmc_events ORDER BY event_id")
    ]


def _ignore(_: Kept) -> None:
    """A late commit is nobody's business here."""


class Failing:
    """A database that refuses its commits, as a full disk does."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._database = database_of(store)
        self._transact = self._database._transact
        self.asked = 0

    def fail(self) -> None:
        """From now on."""

        def fail(_: object) -> None:
            self.asked += 1
            error = sqlite3.OperationalError("disk I/O error")
            raise OperationalError("INSERT", {}, error)

        self._database._transact = fail

    def recover(self) -> None:
        """Be as before."""
        self._database._transact = self._transact


# --- slow --------------------------------------------------------------------------------------


async def test_a_slow_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After `patience` it is in the spool; once the lock is gone, all is stored, and once."""
    async with store_in(tmp_path, patience=0.05) as store:
        with locked(tmp_path):
            for number in range(20):
                assert await store.keep(put_of(body_of(f"{number:02}")), _ignore) is None
            await until(lambda: list(store.problems) == ["store"])
            [file] = spool_files(tmp_path)
            assert len(file.read_bytes().splitlines()) == 20
        await until(lambda: not store.problems)
        assert _ids(tmp_path) == [f"{number:02}" for number in range(20)]
        assert not file.stat().st_size
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "notifications go to the spool until the store is back: it did not answer in 0.05 s"
    ]
    assert "the store is back" in caplog.text


async def test_while_it_is_down_nobody_waits_for_it(tmp_path: Path) -> None:
    """Only the first waits: what comes after goes to the spool without asking."""
    async with store_in(tmp_path, patience=0.05) as store:
        with locked(tmp_path):
            assert await store.keep(put_of(body_of("1")), _ignore) is None
            store._ladder._patience = 3600  # type: ignore[union-attr]  # whoever waits, waits for ever
            async with asyncio.timeout(10):
                assert await store.keep(put_of(body_of("2")), _ignore) is None
        await until(lambda: not store.problems)
    assert _ids(tmp_path) == ["1", "2"]


async def test_a_commit_that_comes_late(tmp_path: Path) -> None:
    """It is told with its leases, as it would have been in time; the spool's copy is known."""
    late: list[Kept] = []
    async with store_in(tmp_path, patience=0.05) as store:
        with locked(tmp_path):
            put = put_of(body_of(), {"handler": True}, "us")
            assert await store.keep(put, late.append) is None
            assert not late
        await until(lambda: late and not store.problems)
        [kept] = late
        assert [claim.handler for claim in kept.claims] == ["handler"]
        rows = select_in(tmp_path, "SELECT owner, fence FROM qmc_deliveries")
        assert rows == [("us", 1)]
        assert _ids(tmp_path) == ["4711"]


async def test_a_commit_that_comes_before_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though late, it is the answer; what the spool holds is known when it comes from there."""
    go_on = threading.Event()
    appended: list[object] = []

    def late(spool: Spool, puts: Sequence[Put]) -> Sequence[None]:
        go_on.wait(60)
        appended.append(puts)
        return append(spool, puts)

    monkeypatch.setattr("qmc_async.store.spool_file.append", late)
    async with store_in(tmp_path, patience=0.05) as store:
        with locked(tmp_path):
            keeping = asyncio.ensure_future(store.keep(put_of(body_of()), never_late))
            await until(lambda: "store" in store.problems)
        kept = await keeping
        assert kept is not None
        assert kept.kind is Kind.DISCONNECTED
        go_on.set()
        await until(lambda: appended and not store.problems)
        await until(lambda: not store._ladder.is_forwarding)  # type: ignore[union-attr]  # it is open
    assert _ids(tmp_path) == ["4711"]


async def test_a_mistake_in_who_hears_of_ends(tmp_path: Path) -> None:
    """Who waits for the answer gets it all the same."""

    class Mistaken:
        def wake(self, _: object) -> None:
            raise RuntimeError

    async with store_in(tmp_path) as store:
        vars(store)["_hearers"].add(Mistaken())
        async with asyncio.timeout(10):
            assert (await keep(store, body_of())).kind is Kind.DISCONNECTED


async def test_who_asks_can_be_cancelled(tmp_path: Path) -> None:
    """The database has it all the same, and tells it."""
    late: list[Kept] = []
    async with store_in(tmp_path, patience=30) as store:
        with locked(tmp_path):
            keeping = asyncio.ensure_future(store.keep(put_of(body_of()), late.append))
            await asyncio.sleep(0.01)
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping
        await until(lambda: late)
    assert _ids(tmp_path) == ["4711"]


async def test_who_asks_is_gone_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told, and nobody is kept from closing."""
    late: list[Kept] = []
    async with Store("sqlite://") as store:
        Failing(store, monkeypatch).fail()
        keeping = asyncio.ensure_future(store.keep(put_of(body_of()), late.append))
        await asyncio.sleep(0)
        keeping.cancel()
        with pytest.raises(StoreError):
            await store.changes()
    assert keeping.cancelled()
    assert not late


async def test_a_failure_that_comes_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the spool by then, and nobody hears of it."""
    monkeypatch.setattr(sqlite_file, "_BUSY", 0.1)
    late: list[Kept] = []
    async with store_in(tmp_path, patience=0.01) as store:
        with locked(tmp_path):
            assert await store.keep(put_of(body_of()), late.append) is None
            with pytest.raises(StoreError, match="database is locked"):
                await store.changes()
        await until(lambda: not store.problems)
    assert not late
    assert _ids(tmp_path) == ["4711"]


async def test_a_database_that_is_just_closing(tmp_path: Path) -> None:
    """The spool takes what comes in that moment, and the next start finds it there."""
    async with store_in(tmp_path) as store:
        vars(store)["_rows"].end()
        assert await store.keep(put_of(body_of()), never_late) is None
    async with store_in(tmp_path) as store:
        await until(lambda: not spool_files(tmp_path) or not store.problems)
        await until(lambda: _ids(tmp_path) == ["4711"])


async def test_a_store_that_is_just_closing(tmp_path: Path) -> None:
    """What comes in that moment can be kept by neither, and the error says so."""
    async with store_in(tmp_path) as store:
        ladder: Any = vars(store)["_ladder"]
        for thread in (ladder._rows, ladder._spool):
            thread.end()
        with pytest.raises(StoreError, match=r"the store is not open; the store is not open"):
            await store.keep(put_of(body_of()), never_late)


# --- failing -----------------------------------------------------------------------------------


async def test_a_failing_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, nothing is asked for while it is down, and it recovers by itself."""
    async with store_in(tmp_path) as store:
        database = Failing(store, monkeypatch)
        await keep(store, body_of("1"))
        database.fail()
        for call_id in "23":
            assert await store.keep(put_of(body_of(call_id)), _ignore) is None
        with pytest.raises(StoreError) as caught:
            await store.changes()
        assert caught.value.temporary
        await until(lambda: database.asked > 3)
        await until(lambda: list(store.problems) == ["store"])
        database.recover()
        await until(lambda: not store.problems)
        await keep(store, body_of("4"))
    assert _ids(tmp_path) == ["1", "2", "3", "4"]


async def test_another_program_that_holds_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite gives up waiting: that is temporary too, and the next commit goes through."""
    monkeypatch.setattr(sqlite_file, "_BUSY", 0.02)
    async with store_in(tmp_path) as store:
        with locked(tmp_path):
            assert await store.keep(put_of(body_of()), _ignore) is None
            with pytest.raises(StoreError, match="database is locked"):
                await store.changes()
        await until(lambda: not store.problems)
    assert _ids(tmp_path) == ["4711"]


async def test_a_database_in_memory_is_not_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed transaction must not cost what is nowhere else."""
    async with Store("sqlite://", patience=30) as store:
        await keep(store, body_of("1"))
        database = Failing(store, monkeypatch)
        database.fail()
        with pytest.raises(StoreError, match="there is no spool"):
            await store.keep(put_of(body_of("2")), _ignore)
        await until(lambda: set(store.problems) == {"store", "spool"})
        database.recover()
        await until(lambda: not store.problems)
        assert (await keep(store, body_of("1"))).kind is None


# --- the spool fails too -----------------------------------------------------------------------


@pytest.fixture
def broken_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A switch that lets no write of the spool through."""
    switch = [True]
    write = os.write

    def fail(file: int, data: Any) -> int:  # noqa: ANN401 - a buffer
        if switch[0] and bytes(data[8:9]) == b" ":
            raise OSError(28, "No space left on device", "a secret name")
        return write(file, data)

    monkeypatch.setattr(os, "write", fail)
    yield switch
    switch[0] = False


async def test_neither_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_disk: list[bool]
) -> None:
    """An error that names both; then the spool is back, then the database, and all is well."""
    async with store_in(tmp_path) as store:
        database = Failing(store, monkeypatch)
        database.fail()
        for _ in range(2):  # whatever is asked first
            with pytest.raises(StoreError) as caught:
                await store.keep(put_of(body_of("1")), _ignore)
            assert "OperationalError" in str(caught.value)
            assert "the spool failed: OSError" in str(caught.value)
            assert "secret" not in str(caught.value)
        await until(lambda: set(store.problems) == {"store", "spool"})
        broken_disk[0] = False
        assert await store.keep(put_of(body_of("2")), _ignore) is None
        await until(lambda: set(store.problems) == {"store"})
        database.recover()
        await until(lambda: not store.problems)
    assert _ids(tmp_path) == ["2"]


async def test_the_database_helps_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_disk: list[bool]
) -> None:
    """A spool that fails while the database seems down: the database is asked once more."""
    async with store_in(tmp_path) as store:
        monkeypatch.setattr("qmc_async.store.ladder._TRIED_EVERY", 3600)
        database = Failing(store, monkeypatch)
        database.fail()
        with pytest.raises(StoreError):
            await store.keep(put_of(body_of("1")), _ignore)
        database.recover()
        await keep(store, body_of("2"))
        assert broken_disk[0]
    assert _ids(tmp_path) == ["2"]


async def test_a_spool_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for a moment only."""
    monkeypatch.setattr("qmc_async.store.ladder._SPOOL_PATIENCE", 0.01)
    async with store_in(tmp_path, patience=0.01) as store:
        database = Failing(store, monkeypatch)
        database.fail()
        ladder: Any = vars(store)["_ladder"]

        def hang(*_: object) -> None:
            """Never tell."""

        monkeypatch.setattr(ladder._spool, "begin", hang)
        with pytest.raises(StoreError, match="the spool failed: TimeoutError"):
            await store.keep(put_of(body_of()), _ignore)


def _stand_still(*_: object) -> list[None]:
    time.sleep(0.2)
    return [None]


async def test_without_a_spool_the_database_has_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer of 500 gains nothing while there is time left for one of 200."""
    async with Store("sqlite://", patience=0.01) as store:
        monkeypatch.setattr("qmc_async.store.ladder._TRIED_EVERY", 3600)
        rows: Any = vars(store)["_rows"]
        rows.submit(_stand_still, None)
        kept = await store.keep(put_of(body_of()), never_late)
        assert kept is not None
        monkeypatch.setattr("qmc_async.store.ladder._SPOOL_PATIENCE", 0.01)
        rows.submit(_stand_still, None)
        with pytest.raises(StoreError, match="too slow"):
            await store.keep(put_of(body_of("2")), _ignore)


async def test_a_slow_spool_has_the_time_that_the_database_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a database that is known to be down: all of it."""
    monkeypatch.setattr("qmc_async.store.ladder._SPOOL_PATIENCE", 0.01)
    async with store_in(tmp_path) as store:
        database = Failing(store, monkeypatch)
        database.fail()
        ladder: Any = vars(store)["_ladder"]
        append = ladder._spool.submit

        async def submit(*what: Any) -> Any:  # noqa: ANN401 - as `submit`
            await asyncio.sleep(0.1)
            return await append(*what)

        monkeypatch.setattr(ladder._spool, "submit", submit)
        for call_id in ("1", "2"):
            assert await store.keep(put_of(body_of(call_id)), never_late) is None
        database.recover()
        await until(lambda: _ids(tmp_path) == ["1", "2"])


# --- forwarding --------------------------------------------------------------------------------


def _leave_behind(folder: Path, *call_ids: str) -> Path:
    spool = Spool(folder / "qmc.db-spool", "dead")
    spool.open()
    append(spool, [put_of(body_of(call_id), None, "") for call_id in call_ids])
    spool.close()
    return folder / "qmc.db-spool"


async def test_what_an_earlier_process_left(tmp_path: Path) -> None:
    """It is forwarded at start, as it came; forwarded twice it is stored once."""
    for _ in range(2):
        _leave_behind(tmp_path, "1", "2")
        async with store_in(tmp_path):
            await until(lambda: not (tmp_path / "qmc.db-spool" / "dead.spool").exists())
        assert _ids(tmp_path) == ["1", "2"]
        assert list((tmp_path / "qmc.db-spool").iterdir()) == []
    assert select_in(tmp_path, "SELECT DISTINCT routed FROM qmc_events") == [(0,)]


DEAD = """
import asyncio, sys
from pathlib import Path
from qmc_async.store import Store
from qmc_async.store.records import Put, Receipt

async def main():
    store = Store(sys.argv[1], patience=30)
    await store.open()
    receipt = Receipt.read(sys.argv[2].encode())
    kept = await store.keep(Put(receipt, {"handler": True}, store.owner), print)
    print(kept.kind, flush=True)
    input()

asyncio.run(main())
"""


async def test_what_a_process_left_that_died(tmp_path: Path) -> None:
    """Its leases are given back at once, and not only when they run out."""
    process = Process(DEAD, url_in(tmp_path), body_of().decode())
    assert process.line() == "disconnected"
    try:
        async with store_in(tmp_path):
            rows = select_in(tmp_path, "SELECT owner FROM qmc_deliveries")
            assert rows[0][0] is not None
            process.kill()
            await until(
                lambda: select_in(tmp_path, "SELECT owner FROM qmc_deliveries") == [(None,)]
            )
    finally:
        process.kill()


async def test_what_the_database_refuses_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that it will never take is set apart, and does not stand in the way of the others."""
    from qmc_async.store import events  # noqa: PLC0415 - the fault is put there

    put = events.put

    def refuse(connection: Any, puts: Any) -> Any:  # noqa: ANN401 - as `put`
        for one in puts:
            if one.receipt.event_id == "2":
                connection.exec_driver_sql("INSERT INTO qmc_schema (version) VALUES (NULL)")
            if one.receipt.event_id == "3":
                raise ValueError("a mistake of ours")
        return put(connection, puts)

    monkeypatch.setattr(events, "put", refuse)
    folder = _leave_behind(tmp_path, "1", "2", "3", "4")
    async with store_in(tmp_path) as store:
        await until(lambda: not (folder / "dead.spool").exists())
        await keep(store, body_of("5"))
    assert _ids(tmp_path) == ["1", "4", "5"]
    assert len((folder / "dead.damaged").read_bytes().splitlines()) == 2


def _mistaken(_: object) -> None:
    raise ZeroDivisionError


async def test_forwarding_goes_on_after_whatever_it_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of ours in it is logged, and tried again: else the spool would stay for ever."""
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "adopt", _mistaken)
        folder = _leave_behind(tmp_path, "1")
        async with store_in(tmp_path):
            await until(lambda: "forwarding the spool failed" in caplog.text)
            patch.undo()
            await until(lambda: not folder.exists() or not (folder / "dead.spool").exists())
    assert _ids(tmp_path) == ["1"]


async def test_the_database_goes_while_the_spool_is_forwarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stays until all that is in it is stored."""
    folder = _leave_behind(tmp_path, *"123456789")
    async with store_in(tmp_path) as store:
        database = Failing(store, monkeypatch)
        database.fail()
        await until(lambda: database.asked > 2)
        assert (folder / "dead.spool").exists()
        database.recover()
        await until(lambda: not (folder / "dead.spool").exists())
    assert _ids(tmp_path) == list("123456789")


# --- with a server -----------------------------------------------------------------------------


async def test_handlers_run_whatever_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the database, late, and through the spool: each is handled, and handled once."""
    store = Store(url_in(tmp_path), patience=0.1)
    async with alone(store=store, shutdown_timeout=5) as there:
        assert (await there.post(body_of("quick"))).body == SUCCESS
        with locked(tmp_path):
            assert (await there.post(body_of("late"))).body == SUCCESS
            assert (await there.post(body_of("spooled"))).body == SUCCESS
            assert list(there.server.problems) == ["store"]
        await until(lambda: len(there.ended) >= 3)
        await until(lambda: not there.server.problems)
        database = Failing(store, monkeypatch)
        database.fail()
        assert (await there.post(body_of("failed"))).body == SUCCESS
        database.recover()
        await until(lambda: len(there.ended) >= 4)
        query = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
        await until(lambda: select_in(tmp_path, query) == [(4,)])
    assert sorted(event.call_id for event in there.ended) == ["failed", "late", "quick", "spooled"]
    assert _ids(tmp_path) == ["failed", "late", "quick", "spooled"]


class Restless:
    """Has another notification come whenever one has gone from the spool to the database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.kept: list[asyncio.Task[object]] = []

    def wake(self, event: object) -> None:
        """Nobody waits."""

    def look_for(self, names: object) -> None:  # noqa: ARG002 - as it is called
        """Be told that something has been forwarded."""
        put = put_of(body_of(f"more-{len(self.kept)}"))
        self.kept.append(asyncio.ensure_future(self._store.keep(put, _ignore)))


async def test_a_load_that_never_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool comes to its end all the same, and the next notification goes to the database."""
    hurry_spool(monkeypatch)
    monkeypatch.setattr(sqlite_file, "_BUSY", 0.05)
    async with store_in(tmp_path) as store:
        restless = Restless(store)
        store.hear(restless)
        with locked(tmp_path):
            assert await store.keep(put_of(body_of()), _ignore) is None
        await until(lambda: not store.problems)
        store.unhear(restless)
        await asyncio.gather(*restless.kept)
        assert await store.keep(put_of(body_of("last")), _ignore)


def test_a_mistake_of_ours_in_company() -> None:
    """It fails by itself, and for good: what shares its transaction is done."""

    def mistaken(*_: object) -> list[None]:
        raise ZeroDivisionError

    database = SqliteDatabase(make_url("sqlite://"), print)
    database.open()
    jobs = [Job(operation, None, print) for operation in (mistaken, probe)]
    database.commit(jobs)
    database.close()
    assert isinstance(jobs[0].error, StoreError)
    assert not jobs[0].error.temporary
    assert jobs[1].error is None
