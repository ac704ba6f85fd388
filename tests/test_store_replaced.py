"""A database file that is removed or replaced under a running store."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, select_in, until
from store_support import hurry_spool, keep, let_go, names_in, put_of, store_in

from qmc_async.store import Kind, State
from qmc_async.store.records import Outcome

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_spool(monkeypatch)


def _ids(folder: Path) -> set[str]:
    return {one for (one,) in select_in(folder, "SELECT event_id FROM qmc_events")}


@pytest.mark.parametrize("what", ["file", "all", "replaced", "folder renamed"])
async def test_nothing_of_it_is_lost(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was in it is saved while it is open, and copied over with its deliveries."""
    folder = tmp_path / "place"
    folder.mkdir()
    other = tmp_path / "other"
    other.mkdir()
    async with store_in(other) as theirs:
        await keep(theirs, body_of("theirs"))
    async with store_in(folder) as store:
        kept = await keep(store, body_of("done"), {"handler": True})
        assert await store.settle(Outcome(kept.claims[0], State.DONE))
        await keep(store, body_of("pending"), {"handler": False})
        if what == "folder renamed":
            folder.rename(tmp_path / "renamed")
            folder.mkdir()
        else:
            names = ["qmc.db"] if what == "file" else ["qmc.db", "qmc.db-wal", "qmc.db-shm"]
            for name in names:
                (folder / name).unlink()
            if what == "replaced":
                shutil.copy(other / "qmc.db", folder / "qmc.db")
        assert await store.keep(put_of(body_of("after")), lambda _: None)
        await until(lambda: "2 events and calls were copied from" in caplog.text)
        assert "set_aside" in store.problems
        expected = {"done", "pending", "after"}
        if what == "replaced":
            expected.add("theirs")
        assert _ids(folder) == expected
        assert (await keep(store, body_of("done"))).kind is None
        assert (await keep(store, body_of("new"))).kind is Kind.DISCONNECTED
    states = select_in(folder, "SELECT event_id, state FROM qmc_deliveries ORDER BY event_id")
    assert states == [("done", "done"), ("pending", "pending")]
    critical = [one.message for one in caplog.records if one.levelno == logging.CRITICAL]
    assert any("was removed or replaced from outside" in message for message in critical)


async def test_it_cannot_be_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, say: that is critical, in SQLite's words, and receiving goes on."""
    async with store_in(tmp_path) as store:
        await keep(store, body_of("1"))
        connect = sqlite3.connect

        def refuse(database: object, *args: object, **options: object) -> sqlite3.Connection:
            if "corrupt-" in str(database):
                raise sqlite3.OperationalError("unable to open database file")
            return connect(database, *args, **options)  # type: ignore[no-any-return, call-overload]  # as it came

        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", refuse)
            (tmp_path / "qmc.db").unlink()
            assert await store.keep(put_of(body_of("2")), lambda _: None)
        assert "cannot be saved: " in caplog.text
        assert _ids(tmp_path) == {"2"}


async def test_a_file_that_is_restored_while_it_is_not_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the database is down somebody brings another file: it is taken, and that is logged."""
    (tmp_path / "other").mkdir()
    async with store_in(tmp_path / "other") as theirs:
        await keep(theirs, body_of("theirs"))
    async with store_in(tmp_path) as store:
        await keep(store, body_of("1"))
        await let_go(store)
        (tmp_path / "other" / "qmc.db").replace(tmp_path / "qmc.db")
        assert await store.keep(put_of(body_of("2")), lambda _: None)
        assert _ids(tmp_path) == {"theirs", "2"}
        assert "was removed or replaced from outside" in caplog.text
        assert store.problems == {}
    assert names_in(tmp_path) == ["other", "qmc.db", "qmc.db-spool"]
