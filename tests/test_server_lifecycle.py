"""The callback server starts, stops, and starts again."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import aiohttp
import pytest
from callback_peer import (
    SUCCESS,
    Listening,
    Store,
    alone,
    body_of,
    exchange,
    port_of,
    post_to,
    request_bytes,
    until,
    url_in,
)

from qmc_async import (
    CallbackServer,
    Disconnected,
)

if TYPE_CHECKING:
    from pathlib import Path


def _refuses(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_async_with() -> None:
    """`async with` gives the server itself, listening; after it the port is closed."""
    server = CallbackServer(port=0)
    async with server as entered:
        assert entered is server
        port = port_of(server)
        assert not _refuses(port)
    assert _refuses(port)


async def test_an_error_inside_async_with_stops_the_server() -> None:
    """The port is closed whatever ends the block, and the error is not swallowed."""
    server = CallbackServer(port=0)
    with pytest.raises(KeyError):
        async with server:
            raise KeyError
    assert _refuses(port_of(server))


async def test_the_given_port_is_used() -> None:
    """A port that was given is the one that is listened on."""
    port = _free_port()
    async with CallbackServer(port=port) as server:
        assert server.url == f"http://127.0.0.1:{port}/qmc/callback"
        assert (await exchange(port, request_bytes(body_of()))).status == 200


async def test_the_default_address() -> None:
    """By default it is port 8080 of this machine alone, and the path that the README tells."""
    assert CallbackServer().url == "http://127.0.0.1:8080/qmc/callback"


async def test_start_twice() -> None:
    """A server that runs is not started again; it goes on as if nothing had been."""
    async with alone() as there:
        with pytest.raises(RuntimeError, match="running already"):
            await there.server.start()
        assert (await there.post(body_of())).body == SUCCESS


async def test_start_twice_at_once() -> None:
    """Of two starts at the same time one is refused, and one port is opened."""
    server = CallbackServer(port=0)
    results = await asyncio.gather(server.start(), server.start(), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), RuntimeError]
    assert (await post_to(server, body_of())).body == SUCCESS
    await server.stop()
    assert _refuses(port_of(server))


async def test_restart(tmp_path: Path) -> None:
    """After a stop the server can be started again, at the same address, with its handlers."""
    there = Listening(CallbackServer(port=0, store=url_in(tmp_path)), 0)
    there.server.on_disconnected(there.on_end)
    urls: list[str] = []
    for number in range(3):
        async with there.server:
            urls.append(there.server.url)
            await post_to(there.server, body_of(str(number)))
            await post_to(there.server, body_of("0"))
            await until(lambda: len(there.ended) > number)  # noqa: B023 - awaited here
    assert len(set(urls)) == 1
    assert [event.call_id for event in there.ended] == ["0", "1", "2"]


async def test_stop_twice_and_stop_before_the_start() -> None:
    """Stopping what does not run does nothing."""
    server = CallbackServer(port=0)
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()


async def test_port_in_use() -> None:
    """A taken port is an `OSError`; once it is free, the same server can be started."""
    with closing(socket.socket()) as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        server = CallbackServer(port=squatter.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            await server.start()
        with pytest.raises(RuntimeError, match="to be running"):
            await server.wait_for("1", timeout=0)
    async with server:
        assert (await post_to(server, body_of())).body == SUCCESS


async def test_an_address_of_another_machine() -> None:
    """An address that is not this machine's is an `OSError`."""
    with pytest.raises(OSError, match=r"assign|could not bind"):
        await CallbackServer(host="192.0.2.1", port=0).start()


@pytest.mark.parametrize("steps", range(10))
async def test_start_cancelled(steps: int) -> None:
    """A start that is cancelled leaves no port open, at whatever point; the next one works."""
    server = CallbackServer(port=_free_port())
    starting = asyncio.ensure_future(server.start())
    for _ in range(steps):
        await asyncio.sleep(0)
    if starting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await starting
    else:
        await server.stop()
    assert _refuses(port_of(server))
    async with server:
        assert (await post_to(server, body_of())).body == SUCCESS


async def test_stop_waits_for_the_handlers() -> None:
    """A handler that ends within `shutdown_timeout` is let end."""
    ended: list[Disconnected] = []
    begun = asyncio.Event()
    server = CallbackServer(port=0, shutdown_timeout=5)

    @server.on_disconnected
    async def slow(event: Disconnected) -> None:
        begun.set()
        await asyncio.sleep(0.1)
        ended.append(event)

    async with server:
        await post_to(server, body_of())
        await begun.wait()
    assert len(ended) == 1


async def test_stop_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that takes longer than `shutdown_timeout` is cancelled, and logged."""
    server = CallbackServer(port=0, shutdown_timeout=0.1)
    cancelled: list[Disconnected] = []
    begun = asyncio.Event()

    @server.on_disconnected(name="stuck")
    async def stuck(event: Disconnected) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(event)
            raise

    async with server:
        await post_to(server, body_of())
        await begun.wait()
        began = time.monotonic()
    assert time.monotonic() - began >= 0.1
    assert len(cancelled) == 1
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "stuck" in record.getMessage()
    assert "4711" in record.getMessage()


async def test_stop_does_not_hang_on_a_stubborn_handler() -> None:
    """A handler that swallows its cancellation is left behind."""
    release = asyncio.Event()
    server = CallbackServer(port=0, shutdown_timeout=0.05)
    ended: list[Disconnected] = []
    begun = asyncio.Event()

    @server.on_disconnected
    async def stubborn(event: Disconnected) -> None:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        ended.append(event)

    async with asyncio.timeout(5):
        async with server:
            await post_to(server, body_of())
            await begun.wait()
    assert not ended
    release.set()
    await until(lambda: ended)


async def test_stop_does_not_wait_for_an_idle_connection() -> None:
    """A connection that the platform keeps open delays nothing."""
    async with alone(shutdown_timeout=30) as there, aiohttp.ClientSession() as session:
        async with session.post(there.server.url, data=body_of()) as reply:
            assert reply.status == 200
        silent, writer = await asyncio.open_connection("127.0.0.1", there.port)
        async with asyncio.timeout(15):
            await there.server.stop()
        assert await silent.read() == b""
        writer.close()


async def test_stop_cancelled() -> None:
    """A stop that is cancelled has stopped all the same: nobody waits, and it can be restarted."""
    store = Store()
    store.go_on.clear()
    server = CallbackServer(port=0, store=store, shutdown_timeout=30)
    await server.start()
    waiting = asyncio.ensure_future(server.wait_for("1", timeout=30))
    posting = asyncio.ensure_future(post_to(server, body_of()))
    await asyncio.sleep(0.05)
    stopping = asyncio.ensure_future(server.stop())
    await asyncio.sleep(0.02)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    async with asyncio.timeout(2):
        with pytest.raises(RuntimeError, match="stopped before"):
            await waiting
    store.go_on.set()
    assert (await posting).status == 500  # the store was closed before it could be kept
    async with server:
        assert (await post_to(server, body_of("2"))).body == SUCCESS
