"""Between the answer, the store and the handlers of the callback server."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import (
    SUCCESS,
    Seen,
    Store,
    alone,
    body_of,
    post_to,
    select_in,
    taking_in,
    until,
    url_in,
)
from callback_shells import shells

from qmc_async import (
    CallbackServer,
    Disconnected,
    Reason,
    StoreError,
)
from qmc_async.store import Store as BaseStore
from qmc_async.store.events import Listing

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_slow_handler_does_not_delay_the_answer() -> None:
    """The platform does not wait long: it is answered before the handlers have ended."""
    go_on = asyncio.Event()
    server = CallbackServer(port=0)

    @server.on_disconnected
    async def slow(_: Disconnected) -> None:
        await go_on.wait()

    async with server:
        async with asyncio.timeout(2):
            assert (await post_to(server, body_of())).body == SUCCESS
        go_on.set()


async def test_a_failing_handler_does_not_spoil_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The failure is ours alone: the platform has done its part, and so do the other handlers."""
    server = CallbackServer(port=0)
    seen: list[str] = []

    @server.on_disconnected(name="failing")
    async def fail(_: Disconnected) -> None:
        seen.append("failing")
        raise ValueError

    @server.on_disconnected(reason=Reason.HANG_UP)
    async def busy(_: Disconnected) -> None:
        seen.append("reason")

    @server.on_disconnected(reason=["CalleeBusy"])
    async def other(_: Disconnected) -> None:
        seen.append("other reason")

    @server.on_disconnected(where=lambda event: event.call_id == "4711")
    async def chosen(_: Disconnected) -> None:
        seen.append("where")

    async with server:
        assert (await post_to(server, body_of())).body == SUCCESS
        await until(lambda: len(seen) == 3)
    assert sorted(seen) == ["failing", "reason", "where"]
    [record] = [record for record in caplog.records if record.exc_info]
    assert "failing" in record.getMessage()
    assert "4711" in record.getMessage()


@shells
async def test_the_same_notification_again(
    listen: Any,  # noqa: ANN401 - one of the shells
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is answered with success again, and handled once; the log says so."""
    caplog.set_level(logging.INFO)
    async with listen() as there:
        assert (await there.post(body_of())).body == SUCCESS
        assert (await there.post(body_of())).body == SUCCESS
        assert (await there.post(body_of("4712"))).body == SUCCESS
        await until(lambda: len(there.ended) >= 2)
    assert [event.call_id for event in there.ended] == ["4711", "4712"]
    assert "the notification of call 4711 came again" in caplog.text


async def test_the_same_notification_many_times_at_once() -> None:
    """Two hundred copies at the same time are all answered, and handled once."""
    async with alone() as there:
        replies = await asyncio.gather(*(there.post(body_of()) for _ in range(200)))
        assert {reply.whole.split(b"\r\n")[0] for reply in replies} == {b"HTTP/1.1 200 OK"}
        await until(lambda: there.ended)
    assert len(there.ended) == 1


async def test_an_unknown_notification_before_the_report() -> None:
    """Something undecodable about a call does not swallow the report of its end."""
    async with alone() as there:
        assert (await there.post(b'{"callidentifier":"4711"}')).body == SUCCESS
        assert (await there.post(body_of())).body == SUCCESS
        event = await there.server.wait_for("4711", timeout=5)
        await until(lambda: there.ended and there.unknown)
    assert there.ended == [event]
    assert len(there.unknown) == 1


@shells
async def test_the_store_gets_the_bytes(listen: Any) -> None:  # noqa: ANN401 - one of the shells
    """The store that was given keeps every body as it came, even if it is empty and so false."""
    store = Store()
    async with listen(store=store) as there:
        await there.post(body_of())
        await there.post(b"\xff")
        kept, _ = await store.list_events(Listing(limit=10))
    assert [event.body for event in kept] == [b"\xff", body_of()]


@pytest.mark.parametrize("failure", [StoreError("disk full"), OSError("disk full")])
async def test_what_cannot_be_kept(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """It is answered with 500, and critical; handlers and waiters have it once all the same."""
    store = Store()
    async with alone(store=store) as there:
        waiting = asyncio.ensure_future(there.server.wait_for("4711", timeout=5))
        store.failure = failure
        reply = await there.post(body_of())
        assert reply.status == 500
        assert json.loads(reply.body)["code"] == "500"
        assert reply.headers["Content-Type"] == "application/json;charset=utf-8"
        [record] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
        assert "4711" in record.getMessage()
        assert "disk full" not in record.getMessage()
        assert (await waiting).call_id == "4711"
        await until(lambda: there.ended)
        store.failure = None
        assert (await there.post(body_of("4712"))).body == SUCCESS
        await until(lambda: len(there.ended) == 2)
        assert await store.count_pending() == 0


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_loop_that_is_blocked(kind: str, tmp_path: Path) -> None:
    """Longer than all patience, in the very round: the store has it meanwhile, and it runs once."""
    store = BaseStore("sqlite://" if kind == "memory" else url_in(tmp_path), patience=0.05)
    seen = Seen()
    server = CallbackServer(port=0, store=store)
    server.on_disconnected(name="a")(seen.handler("a"))
    async with server:
        receiver = vars(server)["_receiver"]
        await receiver.take(body_of("warm"))
        taking = asyncio.create_task(receiver.take(body_of()))
        asyncio.get_running_loop().call_soon(time.sleep, 0.6)  # after it, in the same round
        assert (await taking).status == 200
        await until(lambda: len(seen.all) == 2)
        await asyncio.sleep(0.1)
        assert seen.names == ["a", "a"]
        assert server.problems == {}


async def test_before_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """What comes before there is a store is not answered with success."""
    receiver = vars(CallbackServer(port=0))["_receiver"]
    assert (await receiver.take(body_of())).status == 500
    assert "could not be kept (StoreError)" in caplog.text


async def test_the_answer_waits_for_the_store() -> None:
    """Success means kept: a slow store holds the answer and the handlers back."""
    store = Store()
    store.go_on.clear()
    async with alone(store=store) as there:
        posting = asyncio.ensure_future(there.post(body_of()))
        await asyncio.sleep(0.05)
        assert not posting.done()
        assert not there.ended
        store.go_on.set()
        assert (await posting).body == SUCCESS
        await until(lambda: there.ended)


async def test_stop_lets_a_notification_be_kept(tmp_path: Path) -> None:
    """What is being kept when the server stops is kept and answered, and handled, now or later."""
    store = Store(url_in(tmp_path))
    store.go_on.clear()
    async with alone(store=store, shutdown_timeout=5) as there:
        posting = asyncio.ensure_future(there.post(body_of()))
        await until(lambda: taking_in(there.server))
        asyncio.get_running_loop().call_later(0.05, store.go_on.set)
    assert (await posting).body == SUCCESS
    assert select_in(tmp_path, "SELECT body FROM qmc_events") == [(body_of(),)]
    async with alone(store=url_in(tmp_path)) as later:
        await until(lambda: there.ended + later.ended)
    assert len(there.ended + later.ended) == 1


@pytest.mark.parametrize("shutdown_timeout", [0, 0.05])
async def test_stop_does_not_wait_for_ever_for_the_store(shutdown_timeout: float) -> None:
    """A store that hangs keeps the server from stopping no longer than `shutdown_timeout`."""
    store = Store()
    store.go_on.clear()
    async with asyncio.timeout(5):
        async with alone(store=store, shutdown_timeout=shutdown_timeout) as there:
            posting = asyncio.ensure_future(there.post(body_of()))
            await asyncio.sleep(0.05)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await posting
    assert not there.ended


async def test_two_servers_by_default_share_nothing() -> None:
    """Each server has a store of its own if it is given none."""
    async with alone() as one, alone() as other:
        await one.post(body_of())
        await other.post(body_of())
        await until(lambda: one.ended and other.ended)


async def test_what_is_neither_kept_nor_decoded() -> None:
    """Its handlers have it all the same: it will not come again."""
    store = Store()
    async with alone(store=store) as there:
        store.failure = StoreError("away")
        assert (await there.post(b"?")).status == 500
        await until(lambda: there.unknown)
