"""A notification that is on its way from the spool to the database is not missing."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, messages, post_to, select_in, until
from faulty_platform import FaultyPlatform
from ledger_support import place, states_in
from store_support import put_of, spool_files, store_in
from watchdog_support import (
    KINDS,
    NOT_RECORDED,
    RECORDED,
    asked,
    hurry_watchdog,
    make_overdue,
    watched,
)

from qmc_async import StoreError
from qmc_async.store.ladder import Ladder

if TYPE_CHECKING:
    from pathlib import Path

    from faulty_platform import Connection

    from qmc_async.store import Store
    from qmc_async.store.records import Kept


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_watchdog(monkeypatch)


def _ladder_of(store: Store | None) -> Any:  # noqa: ANN401 - a fault is put into it
    return vars(store)["_ladder"]


def _late(_: Kept) -> None:
    """What becomes of it in the database is looked up there."""


async def test_what_an_earlier_process_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that starts on a full spool forwards it before it gives up any call."""
    forward_all = vars(Ladder)["_forward_all"]
    go_on = asyncio.Event()

    async def wait(ladder: Ladder) -> bool:
        await go_on.wait()
        done: bool = await forward_all(ladder)
        return done

    monkeypatch.setattr(Ladder, "_forward_all", wait)
    async with store_in(tmp_path) as store:
        await place(store)
        _ladder_of(store)._went_down("the database is away")
        assert await store.keep(put_of(body_of("4711")), _late) is None
    assert len(spool_files(tmp_path)) == 1
    make_overdue(tmp_path)
    async with FaultyPlatform(RECORDED) as platform, watched(tmp_path, platform.url) as there:
        await asyncio.sleep(0.2)  # twenty looks
        assert states_in(tmp_path) == {"order-1": "placed"}
        go_on.set()
        await until(lambda: states_in(tmp_path) == {"order-1": "ended"})
        await until(lambda: there.told)
    assert there.told == [("ended", "4711")]
    assert asked(platform) == []
    assert select_in(tmp_path, KINDS) == [("4711", "disconnected")]


async def test_what_others_have_in_their_spools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage nobody is given up until other machines have emptied theirs."""
    monkeypatch.setattr("qmc_async.callback.watchdog._FORWARDED_WITHIN", 3600.0)
    async with FaultyPlatform(RECORDED) as platform, watched(tmp_path, platform.url) as there:
        await there.place()
        store: Any = there.client.store
        failures = 0

        async def fail(_: int) -> None:
            nonlocal failures
            failures += 1
            raise StoreError("the store failed", temporary=True)

        with monkeypatch.context() as patch:
            patch.setattr(store, "look_for_overdue", fail)
            await until(lambda: failures)
        make_overdue(tmp_path)
        await asyncio.sleep(0.2)  # twenty looks
        assert (failures, states_in(tmp_path)) == (1, {"order-1": "placed"})
    assert asked(platform) == []


async def test_what_comes_while_the_platform_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that has gone to the spool meanwhile keeps the call from being given up."""
    answer = asyncio.Event()

    async def slow(connection: Connection) -> None:
        while True:
            await connection.read_request()
            await answer.wait()
            connection.writer.write(NOT_RECORDED)

    async def stay(_: Ladder) -> bool:
        return False

    async with FaultyPlatform(slow) as platform, watched(tmp_path, platform.url) as there:
        await there.overdue()
        await platform.received(1)
        assert there.client.store is not None
        forward_all = vars(Ladder)["_forward_all"]
        monkeypatch.setattr(Ladder, "_forward_all", stay)
        _ladder_of(there.client.store)._went_down("the database is away")
        reply = await post_to(there.server, body_of("4711", outCallId="order-1"))
        assert reply.status == 200
        answer.set()
        await asyncio.sleep(0.2)
        assert there.told == []
        monkeypatch.setattr(Ladder, "_forward_all", forward_all)
        await until(lambda: there.told)
    assert there.told == [("ended", "4711")]


async def test_a_spool_file_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, and keeps neither other files from the database nor calls from a look."""
    folder = tmp_path / "qmc.db-spool"
    async with store_in(tmp_path):
        (folder / f"{'0' * 32}.spool").mkdir()
    async with FaultyPlatform(RECORDED) as platform, watched(tmp_path, platform.url) as there:
        await there.overdue()
        await until(lambda: there.told)
        for _ in range(3):
            _ladder_of(there.client.store)._to_forward.set()
            await until(lambda: not _ladder_of(there.client.store).is_forwarding)
    assert there.told == [("missing", "4711")]
    told = [message for message in messages(caplog, logging.ERROR) if "cannot be read" in message]
    assert len(told) == 1
    assert "0.spool" in told[0]
