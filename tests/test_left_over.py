"""Deliveries for handlers that a server does not have: they wait, and are reported in the end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from callback_peer import alone, body_of, hurry, messages, request_bytes, select_in, until, url_in
from store_support import keep, store_in

from qmc_async import CallbackServer, Disconnected
from qmc_async.store import deliveries

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr("qmc_async.callback.dispatcher._CHECKED_EVERY", 0.01)


async def _leave(folder: Path, *handlers: str) -> None:
    async with store_in(folder) as store:
        await keep(store, body_of(), dict.fromkeys(handlers, False))


def _server(folder: Path, *handlers: str) -> CallbackServer:
    server = CallbackServer(port=0, store=url_in(folder))
    for name in handlers:

        @server.on_disconnected(name=name)
        async def handle(event: Disconnected) -> None:
            pass

    return server


async def test_they_wait_for_a_server_that_has_the_handler(tmp_path: Path) -> None:
    """As in a deployment: the old one's handlers and the new one's, side by side."""
    await _leave(tmp_path, "old", "new")
    open_ones = "SELECT handler FROM qmc_deliveries WHERE due_at IS NOT NULL ORDER BY handler"
    async with _server(tmp_path, "old") as server:
        await until(lambda: select_in(tmp_path, open_ones) == [("new",)])
        assert not server.problems
        async with _server(tmp_path, "new"):
            await until(lambda: not select_in(tmp_path, open_ones))


async def test_they_are_reported_when_nobody_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once each in the log, and among the problems until somebody takes them; it stays ready."""
    await _leave(tmp_path, "ours", "theirs", "lost")
    monkeypatch.setattr(deliveries, "_LONGEST_WAIT", 0.0)
    async with alone(store=url_in(tmp_path)) as there:
        await until(lambda: "handlers" in there.server.problems)
        assert "lost, ours, theirs" in there.server.problems["handlers"]
        reply = await there.send(request_bytes(b"", target="/readyz", method="GET"))
        assert reply.status == 200
        assert b'"problems":["handlers"]' in reply.body
        async with _server(tmp_path, "ours", "theirs"):
            await until(
                lambda: there.server.problems.get("handlers", "").endswith("the handlers lost")
            )
    reported = [one for one in messages(caplog, logging.ERROR) if "quarter of an hour" in one]
    assert len(reported) == 2, "by each of the two servers once"
    assert "lost, ours, theirs. Start" in reported[0]
    assert "have: lost. Start" in reported[1]


async def test_what_has_not_waited_for_long_is_not_reported(tmp_path: Path) -> None:
    """A deployment takes its time."""
    await _leave(tmp_path, "theirs")
    async with store_in(tmp_path) as store:
        assert await store.left_over([]) == []
        update = "UPDATE qmc_deliveries SET due_at = due_at - 16 * 60 * 1000 RETURNING 1"
        assert select_in(tmp_path, update)
        assert await store.left_over([]) == ["theirs"]
        assert await store.left_over(["theirs"]) == []
