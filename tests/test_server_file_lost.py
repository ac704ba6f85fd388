"""The database's file is lost, and with it what stood in it: what the process still knows of it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import SUCCESS, Seen, body_of, post_to, select_in, until, url_in
from sqlalchemy.exc import DatabaseError
from store_support import locked

from qmc_async import CallbackServer, Disconnected, Reject, Retry
from qmc_async.callback import dispatcher
from qmc_async.store import Store, events

if TYPE_CHECKING:
    from pathlib import Path

_LONG = Retry(first_delay=3600, longest_delay=3600)
_ROWS = "SELECT handler, state, attempts, error FROM qmc_deliveries WHERE event_id = '4711'"


@pytest.fixture
def _nothing_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second notification finds the file broken, and nothing can be copied from it."""
    put = events.put
    failures = [1]

    def fail(connection: Any, puts: Any) -> Any:  # noqa: ANN401 - as `put`
        if failures and any(one.receipt.event_id == "4712" for one in puts):
            failures.pop()
            broken = sqlite3.DatabaseError("database disk image is malformed")
            broken.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise DatabaseError("INSERT", {}, broken)
        return put(connection, puts)

    async def copy_nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(events, "put", fail)
    monkeypatch.setattr(Store, "_copy_over", copy_nothing)


def _server(folder: Path, seen: Seen) -> CallbackServer:
    server = CallbackServer(port=0, store=url_in(folder))
    later = seen.handler("later", OSError("away"), OSError("away"))
    server.on_disconnected(name="later", retry=_LONG)(later)
    server.on_disconnected(name="never")(seen.handler("never", Reject("no"), Reject("no")))
    return server


@pytest.mark.usefixtures("_nothing_is_readable")
async def test_retries_and_dead_letters_are_written_down_again(tmp_path: Path) -> None:
    """What waits for a retry, and what was given up, stands in the fresh file as in the old one."""
    seen = Seen()
    async with _server(tmp_path, seen) as server:
        assert (await post_to(server, body_of("4711"))).body == SUCCESS
        expected = [("later", "pending", 1, "OSError: away"), ("never", "dead", 1, "Reject: no")]
        await until(lambda: sorted(select_in(tmp_path, _ROWS)) == expected)
        assert (await post_to(server, body_of("4712"))).body == SUCCESS
        assert "set_aside" in server.problems
        await until(lambda: sorted(select_in(tmp_path, _ROWS)) == expected)
        [letter] = [one for one in await server.dead_letters() if one.event_id == "4711"]
        assert letter.body == body_of("4711")
        assert await server.replay(letter) == ["never"]
        await until(lambda: seen.names.count("never") == 3)


@pytest.mark.usefixtures("_nothing_is_readable")
@pytest.mark.parametrize("way", ["database", "spool"])
@pytest.mark.parametrize("length", [0, 5000], ids=["as the platform's", "long"])
async def test_a_backlog_is_written_down_again(tmp_path: Path, way: str, length: int) -> None:
    """What waits for a busy handler, however it got there; a body of unlikely length is not."""
    free = asyncio.Event()
    begun: list[str] = []
    server = CallbackServer(
        port=0,
        store=Store(url_in(tmp_path), patience=0.4 if way == "database" else 0.1),
        max_concurrency=1,
    )

    @server.on_disconnected
    async def busy(event: Disconnected) -> None:
        begun.append(event.call_id)
        await free.wait()

    async with server:
        assert (await post_to(server, body_of("4710"))).body == SUCCESS
        await until(lambda: begun == ["4710"])
        kept = "SELECT 1 FROM qmc_events WHERE event_id = '4711'"
        with locked(tmp_path) if way == "spool" else nullcontext():
            long = body_of("4711", surplus="x" * length)
            assert (await post_to(server, long)).body == SUCCESS
            assert bool(select_in(tmp_path, kept)) == (way == "database")
        await until(lambda: select_in(tmp_path, kept) and "store" not in server.problems)
        assert (await post_to(server, body_of("4712"))).body == SUCCESS
        # The fresh file may be so fresh that it has no tables yet.
        tables = "SELECT 1 FROM sqlite_master WHERE name = 'qmc_events'"
        is_there = select_in(tmp_path, tables) and select_in(tmp_path, kept)
        assert not is_there, "the file was lost"
        free.set()
        await until(lambda: "4712" in begun)
        if not length:
            await until(lambda: "4711" in begun)
        states = "SELECT event_id FROM qmc_deliveries WHERE state = 'done' ORDER BY event_id"
        expected = ["4710", "4712"] if length else ["4710", "4711", "4712"]
        await until(lambda: [one for (one,) in select_in(tmp_path, states)] == expected)
    assert sorted(begun) == expected


@pytest.mark.usefixtures("_nothing_is_readable")
async def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than it remembers, the oldest are forgotten."""
    monkeypatch.setattr(dispatcher, "_REMEMBERED", 3)
    async with _server(tmp_path, Seen()) as server:
        assert (await post_to(server, body_of("4710"))).body == SUCCESS
        assert (await post_to(server, body_of("4711"))).body == SUCCESS
        unsettled = "SELECT 1 FROM qmc_deliveries WHERE owner IS NOT NULL"
        await until(lambda: not select_in(tmp_path, unsettled))
        assert (await post_to(server, body_of("4712"))).body == SUCCESS
        old = "SELECT 1 FROM qmc_deliveries WHERE event_id <> '4712'"
        await until(lambda: select_in(tmp_path, old))
    # Of four: one of them at least, because what became of the last event may push out two.
    assert len(select_in(tmp_path, old)) in (1, 2, 3)
