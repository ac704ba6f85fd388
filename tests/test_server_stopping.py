"""How the callback server stops: what is finished, what is given back, and who may ask for it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from callback_peer import (
    SUCCESS,
    Reply,
    Seen,
    SettlingStore,
    Store,
    body_of,
    deliveries_in,
    hurry,
    messages,
    port_of,
    post_to,
    running_in,
    select_in,
    taking_in,
    until,
    url_in,
)

from qmc_async import CallbackServer, Disconnected, Retry, StoreError
from qmc_async.listening import listen

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

    from qmc_async.store.records import Outcome


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


class Stuck:
    """A handler that ends when it is told to, or is cut short."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cut_short = False
        self.ended = False

    async def run(self, _: Disconnected) -> None:
        """Wait."""
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cut_short = True
            raise
        self.ended = True


async def _begun(folder: Path, *, shutdown_timeout: float) -> tuple[CallbackServer, Stuck]:
    """A server whose handler is at work."""
    stuck = Stuck()
    server = CallbackServer(port=0, store=url_in(folder), shutdown_timeout=shutdown_timeout)
    server.on_disconnected(name="a", retry=Retry(attempts=1))(stuck.run)
    await server.start()
    await post_to(server, body_of())
    await stuck.begun.wait()
    return server, stuck


async def test_while_it_stops(tmp_path: Path) -> None:
    """It is not ready, takes no connections, and lets the handler end, which is written down."""
    server, stuck = await _begun(tmp_path, shutdown_timeout=30)
    stopping = asyncio.ensure_future(server.stop())
    await until(lambda: server.problems)
    assert set(server.problems) == {"stopped"}

    async def refused() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        except ConnectionRefusedError:
            return True
        writer.close()
        return False

    async with asyncio.timeout(20):
        while not await refused():  # noqa: ASYNC110 - a port rings no bell
            await asyncio.sleep(0.002)
    assert not stopping.done()
    stuck.go_on.set()
    await stopping
    assert stuck.ended
    assert deliveries_in(tmp_path) == {"a": ("done", 0, None)}


async def _posting(server: CallbackServer, store: Store) -> asyncio.Future[Reply]:
    """A request that waits for the store."""
    store.go_on.clear()
    posting = asyncio.ensure_future(post_to(server, body_of()))
    await until(lambda: taking_in(server))
    return posting


async def test_a_commit_is_finished(tmp_path: Path) -> None:
    """What was sent before the stop is kept and answered, and left to the next start, or done."""
    seen = Seen()
    store = Store(url_in(tmp_path))
    server = CallbackServer(port=0, store=store, shutdown_timeout=30)
    server.on_disconnected(name="a")(seen.handler("a"))
    await server.start()
    posting = await _posting(server, store)
    stopping = asyncio.ensure_future(server.stop())
    await until(lambda: server.problems)
    store.go_on.set()
    assert (await posting).body == SUCCESS
    await stopping
    assert select_in(tmp_path, "SELECT event_id FROM qmc_events") == [("4711",)]
    expected = "done" if seen.all else "pending"
    assert deliveries_in(tmp_path) == {"a": (expected, 0, None)}


async def test_two_stops_at_once(tmp_path: Path) -> None:
    """The second waits for what the first waits for: a request that is under way is kept."""
    store = Store(url_in(tmp_path))
    server = CallbackServer(port=0, store=store, shutdown_timeout=30)
    await server.start()
    posting = await _posting(server, store)
    stops = [asyncio.ensure_future(server.stop()) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(stop.done() for stop in stops)
    store.go_on.set()
    assert (await posting).body == SUCCESS
    await asyncio.gather(*stops)
    assert select_in(tmp_path, "SELECT event_id FROM qmc_events") == [("4711",)]
    async with server:
        assert (await post_to(server, body_of("4712"))).body == SUCCESS


async def test_a_handler_that_stops_the_server(tmp_path: Path) -> None:
    """It does not wait for itself; it may get the event again, because the store is closed."""
    stopped: list[Disconnected] = []
    server = CallbackServer(port=0, store=url_in(tmp_path), shutdown_timeout=30)

    @server.on_disconnected(name="a")
    async def stop(event: Disconnected) -> None:
        await server.stop()
        stopped.append(event)

    await server.start()
    await post_to(server, body_of())
    await until(lambda: stopped)
    assert set(server.problems) == {"stopped"}
    await until(lambda: not running_in(server))
    assert deliveries_in(tmp_path)["a"][0] in {"done", "pending"}


async def test_a_handler_that_stops_a_server_that_stops(tmp_path: Path) -> None:
    """Whoever else waits for the handlers, it does not wait for itself."""
    stopped: list[Disconnected] = []
    begun, go_on = asyncio.Event(), asyncio.Event()
    server = CallbackServer(port=0, store=url_in(tmp_path), shutdown_timeout=30)

    @server.on_disconnected(name="a")
    async def stop(event: Disconnected) -> None:
        begun.set()
        await go_on.wait()
        await server.stop()
        stopped.append(event)

    async with asyncio.timeout(20):
        async with server:
            await post_to(server, body_of())
            await begun.wait()
            asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert stopped
    assert deliveries_in(tmp_path) == {"a": ("done", 0, None)}


@pytest.mark.parametrize("steps", range(1, 8))
async def test_a_stop_that_is_cancelled(steps: int, tmp_path: Path) -> None:
    """What still runs is cancelled too, at whatever point; nothing of the server goes on."""
    server, stuck = await _begun(tmp_path, shutdown_timeout=30)
    waiting = asyncio.ensure_future(server.wait_for("1", timeout=30))
    await asyncio.sleep(0.01)
    stopping = asyncio.ensure_future(server.stop())
    for _ in range(steps):
        await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    async with asyncio.timeout(20):
        with pytest.raises(RuntimeError, match="stopped before"):
            await waiting
    await until(lambda: stuck.cut_short)
    await until(lambda: not [one for one in asyncio.all_tasks() if one.get_name() in LOOPS])
    pending = "SELECT DISTINCT state, attempts FROM qmc_deliveries"
    assert select_in(tmp_path, pending) == [("pending", 0)]
    stuck.go_on.set()
    async with server:
        assert (await post_to(server, body_of("4712"))).body == SUCCESS
        await until(lambda: select_in(tmp_path, pending) == [("done", 0)])


LOOPS = {"qmc poll", "qmc leases", "qmc waiting"}


class SlowlyOpened(Store):
    """A store that takes its time to open."""

    def __init__(self) -> None:
        super().__init__()
        self.opening = asyncio.Event()
        self.go_on_opening = asyncio.Event()

    async def open(self) -> None:
        """Open it, when told to."""
        self.opening.set()
        await self.go_on_opening.wait()
        await super().open()


async def test_stop_while_it_starts() -> None:
    """Whoever starts it is told that it was stopped; nothing of it goes on, and it can start."""
    store = SlowlyOpened()
    server = CallbackServer(port=0, store=store)
    starting = asyncio.ensure_future(server.start())
    await store.opening.wait()
    await server.stop()
    store.go_on_opening.set()
    with pytest.raises(RuntimeError, match="stopped as it started"):
        await starting
    assert set(server.problems) == {"stopped"}
    assert not [one for one in asyncio.all_tasks() if one.get_name() in LOOPS]
    async with server:
        assert (await post_to(server, body_of())).body == SUCCESS


async def test_stop_while_the_port_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port is closed again, and whoever starts the server is told."""
    opened, go_on = asyncio.Event(), asyncio.Event()
    ports: list[int] = []

    async def slowly(runner: web.ServerRunner, host: str, port: int) -> int:
        ports.append(await listen(runner, host, port))
        opened.set()
        await go_on.wait()
        return ports[0]

    monkeypatch.setattr("qmc_async.callback.server.listen", slowly)
    server = CallbackServer(port=0)
    starting = asyncio.ensure_future(server.start())
    await opened.wait()
    await server.stop()
    go_on.set()
    with pytest.raises(RuntimeError, match="stopped as it started"):
        await starting
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", ports[0])


async def test_start_while_it_stops(tmp_path: Path) -> None:
    """A server that is still stopping is not started; once it has stopped it is."""
    server, stuck = await _begun(tmp_path, shutdown_timeout=30)
    stopping = asyncio.ensure_future(server.stop())
    seen: set[str] = set()
    for _ in range(30):
        await asyncio.sleep(0.002)
        with pytest.raises(RuntimeError, match=r"running already|still stopping") as caught:
            await server.start()
        seen.add(str(caught.value))
    assert any("still stopping" in text for text in seen)
    stuck.go_on.set()
    await stopping
    async with server:
        assert (await post_to(server, body_of("4712"))).body == SUCCESS


async def test_one_that_will_not_be_cancelled_keeps_its_lease(tmp_path: Path) -> None:
    """A handler that is left behind by a stop is not run a second time by the next start."""
    release, begun = asyncio.Event(), asyncio.Event()
    runs: list[str] = []
    server = CallbackServer(port=0, store=url_in(tmp_path), shutdown_timeout=0)

    @server.on_disconnected(name="a")
    async def stubborn(event: Disconnected) -> None:
        runs.append(event.call_id)
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with server:
        await post_to(server, body_of())
        await begun.wait()
    async with server:
        await post_to(server, body_of("4712"))
        await until(lambda: len(runs) == 2)
        release.set()
        done = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
        await until(lambda: select_in(tmp_path, done) == [(2,)])
    assert runs == ["4711", "4712"]


async def test_a_handler_that_outlives_the_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has made of the event cannot be written down: that is told, and it gets it again."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._UNWINDING", 0.05)
    release = asyncio.Event()
    begun: list[str] = []
    server = CallbackServer(port=0, store=url_in(tmp_path), shutdown_timeout=0)

    @server.on_disconnected(name="a")
    async def stubborn(event: Disconnected) -> None:
        begun.append(event.call_id)
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    async with server:
        await post_to(server, body_of())
        await until(lambda: begun)
    release.set()
    await until(lambda: not running_in(server))
    assert "could not be written down (the store is not open)" in caplog.text
    assert deliveries_in(tmp_path)["a"][:2] == ("pending", 0)


class Away(SettlingStore):
    """A store that writes nothing down."""

    async def settle(self, outcome: Outcome) -> bool:
        """Fail."""
        raise StoreError(f"away at {outcome.state}")


@pytest.mark.parametrize("ends", [True, False])
async def test_a_store_that_is_away_as_it_stops(
    ends: bool,  # noqa: FBT001 - both kinds
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It does not keep the server from stopping; the event is handled by the next start."""
    stuck = Stuck()
    server = CallbackServer(port=0, store=Away(url_in(tmp_path)), shutdown_timeout=0.2)
    server.on_disconnected(name="a")(stuck.run)
    async with asyncio.timeout(20):
        async with server:
            await post_to(server, body_of())
            await stuck.begun.wait()
            if ends:
                asyncio.get_running_loop().call_later(0.05, stuck.go_on.set)
    assert deliveries_in(tmp_path)["a"][:2] == ("pending", 0)
    assert (
        bool([text for text in messages(caplog, logging.ERROR) if "written down" in text]) is ends
    )
    assert stuck.ended is ends
