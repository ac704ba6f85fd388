"""The database's file is lost, and with it what stood in it: what the process still knows of it."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import SUCCESS, Seen, body_of, post_to, select_in, until, url_in
from sqlalchemy.exc import DatabaseError

from qmc_async import CallbackServer, Reject, Retry
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
async def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than it remembers, the oldest are forgotten."""
    monkeypatch.setattr(dispatcher, "_REMEMBERED", 1)
    async with _server(tmp_path, Seen()) as server:
        assert (await post_to(server, body_of("4710"))).body == SUCCESS
        assert (await post_to(server, body_of("4711"))).body == SUCCESS
        unsettled = "SELECT 1 FROM qmc_deliveries WHERE owner IS NOT NULL"
        await until(lambda: not select_in(tmp_path, unsettled))
        assert (await post_to(server, body_of("4712"))).body == SUCCESS
        old = "SELECT 1 FROM qmc_deliveries WHERE event_id <> '4712'"
        await until(lambda: len(select_in(tmp_path, old)) == 1)
