"""`Store`: its settings, and its life from `open` to `close`."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import threading
import time
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, select_in, until, url_in
from store_support import (
    database_of,
    hurry_spool,
    keep,
    locked,
    names_in,
    put_of,
    spool_files,
    store_in,
)

from qmc_async import CallbackServer, ConfigError, StoreError
from qmc_async.store import Kind, Store
from qmc_async.store.events import Listing

if TYPE_CHECKING:
    from pathlib import Path


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("qmc ")}


def _no_threads() -> bool:
    """Whether all have ended; they say so a moment before they are gone."""
    for thread in threading.enumerate():
        if thread.name.startswith("qmc "):
            thread.join(0.05)
    return not _threads()


# --- settings ----------------------------------------------------------------------------------


async def test_the_url_comes_first_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is passed wins over QMC_STORE, which wins over `qmc.db` in the current folder."""
    (tmp_path / "env").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("QMC_STORE", f" {url_in(tmp_path / 'env')} ")
    for store, folder in [
        (Store(url_in(tmp_path)), tmp_path),
        (Store(), tmp_path / "env"),
    ]:
        async with store:
            await keep(store, body_of())
        assert store.place == str(folder / "qmc.db")
        assert select_in(folder, "SELECT event_id FROM qmc_events") == [("4711",)]
    monkeypatch.setenv("QMC_STORE", " ")
    async with Store() as store:
        await keep(store, body_of())
    assert select_in(tmp_path / "here", "SELECT event_id FROM qmc_events") == [("4711",)]


async def test_the_absolute_path_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A relative URL and the folder that happens to be the current one are no riddle later."""
    caplog.set_level(logging.INFO, "qmc_async")
    monkeypatch.chdir(tmp_path)
    async with CallbackServer(store="sqlite:///qmc.db", port=0):
        assert f"notifications are kept in {tmp_path / 'qmc.db'}" in caplog.text
    async with Store("sqlite://") as store:
        assert store.place == "memory"
    assert "in memory: a restart forgets them" in caplog.text


async def test_the_path_is_fixed_when_the_store_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that changes its folder later, as daemons do, does not change its store."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = Store("sqlite:///qmc.db", spool="spool")
    monkeypatch.chdir(tmp_path / "elsewhere")
    async with store:
        await keep(store, body_of())
        assert (tmp_path / "spool").is_dir()
        monkeypatch.chdir(tmp_path)
    assert select_in(tmp_path, "SELECT event_id FROM qmc_events") == [("4711",)]
    assert not os.listdir(tmp_path / "elsewhere")  # noqa: PTH208 - only whether there is anything


@pytest.mark.parametrize("patience", [0, -1, math.nan, math.inf, 60.1])
def test_patience_out_of_range(patience: float) -> None:
    """It is a number of seconds that somebody could wait for an answer."""
    with pytest.raises(ConfigError, match="patience") as caught:
        Store("sqlite://", patience=patience)
    assert caught.value.setting == "patience"


async def test_patience_ends_the_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A notification waits for the database as long as `patience`, and no longer."""
    async with store_in(tmp_path, patience=0.123) as store:
        with locked(tmp_path):
            began = time.monotonic()
            assert await store.keep(put_of(body_of()), lambda _: None) is None
            assert 0.12 < time.monotonic() - began < 5  # the default of `store_in` is 30
    assert "it did not answer in 0.12 s" in caplog.text


@pytest.mark.parametrize("how", ["argument", "environment", "default"])
async def test_where_the_spool_is(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As passed, as in QMC_SPOOL, or beside the database: there is the file while it is needed."""
    hurry_spool(monkeypatch)
    folder = tmp_path / ("qmc.db-spool" if how == "default" else "chosen")
    if how == "environment":
        monkeypatch.setenv("QMC_SPOOL", f"{folder} ")
    elif how == "argument":
        monkeypatch.setenv("QMC_SPOOL", str(tmp_path / "not this"))
    spool = folder if how == "argument" else None
    async with store_in(tmp_path, patience=0.01, spool=spool) as store:
        with locked(tmp_path):
            assert await store.keep(put_of(body_of()), lambda _: None) is None
            [file] = folder.rglob("*.spool")
            assert file.stat().st_size
        await until(lambda: not store.problems)
    assert not [path for path in folder.rglob("*") if path.is_file()]


async def test_a_store_in_memory_has_no_spool_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a restart forgets needs no disk; QMC_SPOOL gives it one."""
    monkeypatch.chdir(tmp_path)
    async with Store("sqlite://") as store:
        assert _threads() == {"qmc store"}
        await keep(store, body_of())
        assert not names_in(tmp_path)
    async with Store("sqlite://", spool=tmp_path / "spool"):
        assert _threads() == {"qmc store", "qmc spool"}


async def test_a_spool_that_cannot_be_used(tmp_path: Path) -> None:
    """It is an error at start that names the setting, and leaves no thread behind."""
    (tmp_path / "file").touch()
    server = CallbackServer(port=0, store=Store(url_in(tmp_path), spool=tmp_path / "file" / "x"))
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "file" / "x"))) as caught:
        await server.start()
    assert caught.value.setting == "spool"
    await until(_no_threads)


# --- open and close ----------------------------------------------------------------------------


async def test_as_often_opened_as_closed(tmp_path: Path) -> None:
    """Several may share a store: the last who closes it closes it, once more does no harm."""
    store = Store(url_in(tmp_path))
    await store.close()
    await asyncio.gather(*(store.open() for _ in range(10)))
    assert sorted(_threads()) == ["qmc spool", "qmc store"]
    for _ in range(9):
        await store.close()
        await keep(store, body_of())
    await store.close()
    await store.close()
    assert _no_threads()
    for asking in (
        store.changes,
        lambda: store.keep(put_of(body_of()), lambda _: None),
        lambda: store.find(["4711"]),
    ):
        with pytest.raises(StoreError, match="not open"):
            await asking()


def test_it_can_be_opened_again_on_another_loop(tmp_path: Path) -> None:
    """Once it is closed it belongs to nobody; who opens it next finds what was kept."""
    store = Store(url_in(tmp_path))

    async def use(call_id: str) -> int:
        await asyncio.gather(*(store.open() for _ in range(3)))
        kept = await keep(store, body_of(call_id))
        assert kept.kind is Kind.DISCONNECTED
        count = len((await store.list_events(Listing(limit=10)))[0])
        await asyncio.gather(*(store.close() for _ in range(3)))
        return count

    assert [asyncio.run(use(call_id)) for call_id in "abc"] == [1, 2, 3]
    assert _no_threads()


def test_two_loops_at_once(tmp_path: Path) -> None:
    """While it is open, another event loop gets a clear error, and does no harm."""
    store = Store(url_in(tmp_path))

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await store.open()
        with pytest.raises(StoreError, match="another event loop"):
            await store.changes()

    async def here() -> None:
        async with store:
            await asyncio.to_thread(asyncio.run, elsewhere())
            await keep(store, body_of())

    asyncio.run(here())


async def test_opening_can_be_cancelled_anywhere(tmp_path: Path) -> None:
    """However far it got: no thread stays, nothing is locked, and it can be opened again."""
    store = Store(url_in(tmp_path))
    for steps in range(60):
        opening = asyncio.ensure_future(store.open())
        for _ in range(steps):
            await asyncio.sleep(0.0002 if steps % 2 else 0)
        opening.cancel()
        try:
            await opening
        except asyncio.CancelledError:
            assert _no_threads()
            assert not spool_files(tmp_path)
        else:
            await store.close()
    async with store:
        await keep(store, body_of())


async def test_closing_can_be_cancelled_anywhere(tmp_path: Path) -> None:
    """However far it got: what waits is committed, the threads end, and it opens again."""
    store = Store(url_in(tmp_path), patience=30)
    for steps in range(20):
        await store.open()
        keeping = asyncio.ensure_future(keep(store, body_of(str(steps))))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.close())
        for _ in range(steps):
            await asyncio.sleep(0.0002 if steps % 2 else 0)
        is_closing = not closing.cancel() or steps > 1
        await asyncio.gather(closing, return_exceptions=True)
        await keeping
        if not is_closing or _threads():
            await asyncio.sleep(0.01)
        await store.close()
        await until(_no_threads)
    assert len(select_in(tmp_path, "SELECT 1 FROM qmc_events")) == 20
    assert not spool_files(tmp_path)


async def test_nothing_is_left_after_a_clean_close(tmp_path: Path) -> None:
    """Only the database stays, and the spool's empty folder: no log, no spool, no lock."""
    async with store_in(tmp_path) as store:
        await keep(store, body_of())
    assert names_in(tmp_path) == ["qmc.db", "qmc.db-spool"]
    assert names_in(tmp_path / "qmc.db-spool") == []


async def test_two_servers_share_a_store(tmp_path: Path) -> None:
    """The first to stop does not take it from the other."""
    store = Store(url_in(tmp_path))
    async with CallbackServer(port=0, store=store):
        async with CallbackServer(port=0, store=store):
            pass
        await keep(store, body_of())
    assert _no_threads()


def test_what_it_shows_of_itself(tmp_path: Path) -> None:
    """Its place, and nothing else."""
    assert repr(Store(url_in(tmp_path))) == f"<Store in {tmp_path / 'qmc.db'}>"
    assert repr(Store("sqlite://")) == "<Store in memory>"
    assert database_of(Store("sqlite://")).file is None


async def test_an_application_that_logs_warnings_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It sees no SQL."""
    async with store_in(tmp_path) as store:
        await keep(store, body_of())
    assert not [record for record in caplog.records if record.name.startswith("sqlalchemy")]
