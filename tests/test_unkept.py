"""What could not be kept is delivered from memory; what was kept after all, not once more."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import (
    SOON,
    Seen,
    body_of,
    deliveries_in,
    hurry,
    post_to,
    running_in,
    until,
    url_in,
)
from store_support import database_of, held_up, hurry_spool

from qmc_async import CallbackServer, Disconnected, Retry
from qmc_async.models import ids_of
from qmc_async.store import Store, spool_file

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from qmc_async.store.records import Put


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    hurry_spool(monkeypatch)
    monkeypatch.setattr("qmc_async.store.ladder._SPOOL_PATIENCE", 0.0)


@pytest.fixture
async def server() -> AsyncGenerator[CallbackServer]:
    """A server whose store, which has no spool, is waited for only for a moment."""
    server = CallbackServer(
        port=0, store=Store("sqlite://", patience=0.05), max_concurrency=1, shutdown_timeout=0.2
    )
    yield server
    assert not running_in(server)


def _ids(seen: Seen) -> list[str | None]:
    return [ids_of(event)[0] for _, event in seen.all]


async def _post_while_held_up(server: CallbackServer) -> None:
    async with held_up(server.store):
        assert (await post_to(server, body_of())).status == 500


async def _all_done(server: CallbackServer) -> None:
    async with asyncio.timeout(20):
        while await server.store.count_pending():
            pass


async def test_a_commit_that_comes_late(server: CallbackServer) -> None:
    """The handler's run counts: it is written down as done."""
    seen = Seen()
    server.on_disconnected(name="a")(seen.handler("a"))
    async with server:
        await _post_while_held_up(server)
        await _all_done(server)
        await post_to(server, body_of("4712"))
        await until(lambda: len(seen.all) == 2)
    assert seen.attempts == [1, 1]
    assert _ids(seen) == ["4711", "4712"]


async def test_a_commit_that_comes_while_the_handler_runs(server: CallbackServer) -> None:
    """It is waited for."""
    go_on = asyncio.Event()
    runs: list[str] = []

    @server.on_disconnected(name="a")
    async def wait(event: Disconnected) -> None:
        runs.append(event.call_id)
        await go_on.wait()

    async with server:
        await _post_while_held_up(server)
        assert await server.store.count_pending() == 1
        go_on.set()
        await _all_done(server)
    assert runs == ["4711"]


async def test_a_handler_that_has_failed(server: CallbackServer) -> None:
    """That was its first attempt; the next one comes from the store."""
    seen = Seen()
    server.on_disconnected(name="a", retry=SOON)(seen.handler("a", ValueError()))
    async with server:
        await _post_while_held_up(server)
        await until(lambda: len(seen.all) == 2)
        await _all_done(server)
    assert seen.attempts == [1, 2]


async def test_a_handler_that_is_cancelled(server: CallbackServer) -> None:
    """That was no attempt: it gets the event again from the store."""
    attempts: list[int] = []

    @server.on_disconnected(name="a")
    async def wait(_: Disconnected, delivery: Any) -> None:  # noqa: ANN401 - a `Delivery`
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            await asyncio.Event().wait()

    async with server:
        await _post_while_held_up(server)
        assert await server.store.count_pending() == 1
        for task in running_in(server):
            assert isinstance(task, asyncio.Task)
            task.cancel()
        await _all_done(server)
    assert attempts == [1, 1]


async def test_a_handler_that_had_no_room(server: CallbackServer) -> None:
    """What it has done all the same is not done again when it has room."""
    go_on = asyncio.Event()
    runs: list[str] = []

    @server.on_disconnected(name="a")
    async def wait(event: Disconnected) -> None:
        runs.append(event.call_id)
        if event.call_id == "first":
            await go_on.wait()

    async with server:
        assert (await post_to(server, body_of("first"))).status == 200
        await until(lambda: runs)
        await _post_while_held_up(server)
        await until(lambda: len(runs) == 2)
        go_on.set()
        await _all_done(server)
    assert runs == ["first", "4711"]


async def test_a_dead_letter_that_is_replayed(server: CallbackServer) -> None:
    """The handler runs again, though it has done so before: another server had given it up."""
    store, runs = server.store, list[str]()
    other = CallbackServer(port=0, store=store, max_concurrency=1, shutdown_timeout=0.2)
    is_broken, go_on = True, asyncio.Event()

    def register(there: CallbackServer, name: str) -> None:
        @there.on_disconnected(name="a", retry=Retry(attempts=1))
        async def handle(event: Disconnected) -> None:
            runs.append(f"{name} {event.call_id}")
            if event.call_id == "first":
                await go_on.wait()
            if is_broken:
                raise ValueError

    register(server, "here")
    register(other, "there")
    async with server:
        async with other:
            await post_to(server, body_of("first"))
            await until(lambda: runs)
            await _post_while_held_up(server)
            await until(lambda: len(runs) == 3)
            await until(lambda: not running_in(other))
            async with asyncio.timeout(20):
                while not await store.dead_letters():
                    pass
        is_broken = False
        go_on.set()
        assert await server.replay("4711") == ["a"]
        await _all_done(server)
        assert await store.dead_letters() == []
    assert runs == ["here first", "here 4711", "there 4711", "here 4711"]


async def test_a_start_that_comes_before_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done before the stop is not done again: the spool had it all the same."""
    monkeypatch.setattr("qmc_async.store.ladder._SPOOL_PATIENCE", 0.02)
    append = spool_file.append
    go_on = threading.Event()

    def hang(*_: object) -> None:
        raise OSError

    def late(spool: spool_file.Spool, puts: Sequence[Put]) -> Sequence[None]:
        go_on.wait(60)
        return append(spool, puts)

    seen = Seen()
    server = CallbackServer(
        port=0, store=Store(url_in(tmp_path), patience=0.02), shutdown_timeout=0.2
    )
    server.on_disconnected(name="a")(seen.handler("a"))
    async with server:
        with monkeypatch.context() as patch:
            patch.setattr("qmc_async.store.spool_file.append", late)
            database_of(server.store)._transact = hang
            assert (await post_to(server, body_of())).status == 500
            await until(lambda: seen.all and not running_in(server))
            go_on.set()
    del database_of(server.store)._transact
    async with server:
        await until(lambda: deliveries_in(tmp_path) == {"a": ("done", 0, None)})
    assert seen.names == ["a"]


@pytest.mark.parametrize("limit", ["_REMEMBERED", "_LONGEST_REMEMBERED"])
async def test_little_is_remembered(
    limit: str, server: CallbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond that, a handler may get one again: what waits for nothing must not fill the memory."""
    bodies = [body_of("1", outCallId="x" * 40), body_of("2")]
    monkeypatch.setattr(
        f"qmc_async.callback.dispatcher.{limit}", 1 if limit == "_REMEMBERED" else len(bodies[1])
    )
    seen = Seen()
    server.on_disconnected(name="a")(seen.handler("a"))
    async with server:
        async with held_up(server.store):
            for body in bodies:
                assert (await post_to(server, body)).status == 500
        await until(lambda: len(seen.all) == 3)
        await _all_done(server)
    assert _ids(seen) == ["1", "2", "1"]
