"""Connections that are held by who sends nothing, or too slowly, and by too many at once."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pytest
import uvicorn
from callback_peer import (
    SUCCESS,
    Listening,
    Reply,
    Store,
    alone,
    body_of,
    request_bytes,
    taking_in,
    until,
)
from callback_shells import an_asgi_application, asgi_serving, mounted

from qmc_async import CallbackServer
from qmc_async.callback import uvicorn_edge
from qmc_async.callback.places import Places

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

DEADLINE = 0.3
WHOLE = request_bytes(body_of()).replace(b"Connection: close\r\n", b"")
HEAD = WHOLE.partition(b"\r\n\r\n")[0]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmc_async.callback.places.HEAD_DEADLINE", DEADLINE)
    monkeypatch.setattr("qmc_async.callback.places._TICK", 0.05)
    monkeypatch.setattr("qmc_async.callback.uvicorn_edge.MAX_CONNECTIONS", 1000)
    none: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
    monkeypatch.setattr("qmc_async.callback.uvicorn_edge._places", none)


class Peer:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send some bytes."""
        self.writer.write(data)

    async def answer(self) -> bytes:
        """The body of the next answer."""
        async with asyncio.timeout(20):
            head = Reply(await self.reader.readuntil(b"\r\n\r\n"))
            return await self.reader.readexactly(int(head.headers["Content-Length"]))

    async def is_closed(self, within: float = 20.0) -> bool:
        """Whether the server closes it, without an answer."""
        try:
            async with asyncio.timeout(within):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False


@asynccontextmanager
async def peers(there: Listening, count: int = 1) -> AsyncGenerator[list[Peer]]:
    """Connections, opened one after the other."""
    opened: list[Peer] = []
    try:
        for _ in range(count):
            opened.append(Peer(*await asyncio.open_connection("127.0.0.1", there.port)))
            await asyncio.sleep(0.01)
        yield opened
    finally:
        for peer in opened:
            peer.writer.close()


def by_itself(limit: int, **options: Any) -> AbstractAsyncContextManager[Listening]:  # noqa: ANN401 - any of the server's
    """On a port of our own."""
    return alone(max_connections=limit, **options)


def by_uvicorn(limit: int, **options: Any) -> AbstractAsyncContextManager[Listening]:  # noqa: ANN401 - any of the server's
    """Mounted in an application that uvicorn serves."""
    setattr(uvicorn_edge, "MAX_CONNECTIONS", limit)  # noqa: B010 - uvicorn has no setting for it
    return mounted(http=f"{uvicorn_edge.__name__}:EdgeProtocol", **options)


edges = pytest.mark.parametrize("edge", [by_itself, by_uvicorn], ids=["aiohttp", "uvicorn"])


def places_of(there: Listening) -> Places[Any]:
    """The places of the server."""
    runner = vars(there.server)["_runner"]
    if runner is not None:
        found: Places[Any] = runner.server.places
        return found
    [found] = uvicorn_edge._places.values()  # pyright: ignore[reportPrivateUsage] - the oracle
    return found


def waiting_at(there: Listening) -> int:
    """How many connections have a place."""
    places = vars(places_of(there))
    return len(places["_unknown"]) + len(places["_quiet"])


# --- deadlines --------------------------------------------------------------------------------


@edges
@pytest.mark.parametrize(
    "begun",
    [b"", b"P", HEAD[:30], HEAD, HEAD + b"\r\n"],
    ids=["nothing", "a byte", "a part", "no end", "half an end"],
)
async def test_a_head_that_does_not_come(edge: Any, begun: bytes) -> None:  # noqa: ANN401 - one of the two
    """A connection on which no whole head comes in time is closed."""
    async with edge(1000) as there, peers(there) as [peer]:
        peer.send(begun)
        assert not await peer.is_closed(DEADLINE / 2)
        assert await peer.is_closed()


@edges
async def test_a_head_that_drips(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """The deadline is for the whole head, however steadily it comes."""
    async with edge(1000) as there, peers(there) as [peer]:
        dripping = asyncio.ensure_future(peer.is_closed())
        for letter in HEAD:
            peer.send(bytes([letter]))
            await asyncio.sleep(DEADLINE / 10)
            if dripping.done():
                break
        assert dripping.done()
        assert await dripping


@edges
async def test_a_second_head_that_does_not_come(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """The head of a later request has the same time."""
    async with edge(1000) as there, peers(there) as [peer]:
        peer.send(WHOLE)
        assert await peer.answer() == SUCCESS
        peer.send(HEAD[:30])
        assert await peer.is_closed()


@edges
async def test_a_quiet_connection_stays(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """A proxy may keep it open, and send the next notification on it at any time."""
    async with edge(1000) as there, peers(there) as [peer]:
        for number in range(2):
            peer.send(WHOLE.replace(b"4711", b"471%d" % number))
            assert await peer.answer() == SUCCESS
            assert not await peer.is_closed(3 * DEADLINE)
        assert len(there.ended) == 2


@edges
async def test_a_body_has_a_deadline_of_its_own(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """What comes after the head is not cut off with it, nor is what is being answered."""
    store = Store()
    async with edge(1000, store=store) as there, peers(there) as [peer]:
        store.go_on.clear()
        head, _, body = WHOLE.partition(b"\r\n\r\n")
        peer.send(head + b"\r\n\r\n")
        for letter in body[:10]:
            await asyncio.sleep(DEADLINE / 5)
            peer.send(bytes([letter]))
        peer.send(body[10:])
        assert not await peer.is_closed(3 * DEADLINE)
        store.go_on.set()
        assert await peer.answer() == SUCCESS


# --- how many there are -----------------------------------------------------------------------


@edges
async def test_a_new_one_takes_the_oldest_unknown_ones_place(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """Who fills all places with nothing closes their own, and nobody else's."""
    async with edge(5) as there, peers(there, 5) as crowd:
        crowd[0].send(WHOLE)
        assert await crowd[0].answer() == SUCCESS
        async with peers(there, 2) as [one, two]:
            assert await crowd[1].is_closed(DEADLINE / 4)
            assert await crowd[2].is_closed(DEADLINE / 4)
            for peer in (one, two, crowd[0], crowd[3]):
                peer.send(WHOLE)
                assert await peer.answer() == SUCCESS
            assert waiting_at(there) <= 5


@edges
async def test_a_new_one_takes_the_place_of_who_was_quiet_for_longest(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """Where all have asked before, the one closes that has waited for longest."""
    async with edge(3) as there, peers(there, 3) as crowd:
        for peer in (crowd[1], crowd[0], crowd[2], crowd[1]):
            peer.send(WHOLE)
            assert await peer.answer() == SUCCESS
        async with peers(there) as [new]:
            assert await crowd[0].is_closed()
            for peer in (new, crowd[1], crowd[2]):
                peer.send(WHOLE)
                assert await peer.answer() == SUCCESS


@edges
async def test_who_is_being_answered_needs_no_place(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """However many are being answered, none is closed, and a new one is let in."""
    store = Store()
    async with edge(2, store=store) as there, peers(there, 6) as crowd:
        store.go_on.clear()
        for number, peer in enumerate(crowd[4:]):
            peer.send(WHOLE.replace(b"4711", b"471%d" % number))
        await until(lambda: len(taking_in(there.server)) == 2)
        async with peers(there, 4) as new:
            for number, peer in enumerate(new[2:], 2):
                peer.send(WHOLE.replace(b"4711", b"471%d" % number))
            await until(lambda: len(taking_in(there.server)) == 4)
            store.go_on.set()
            for peer in (*crowd[4:], *new[2:]):
                assert await peer.answer() == SUCCESS


@edges
async def test_a_quiet_crowd_keeps_nobody_out(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """Where all places are quiet ones' and others come all the time, each has time to ask."""
    async with edge(20) as there, peers(there, 20) as crowd:
        for peer in crowd:
            peer.send(WHOLE)
            assert await peer.answer() == SUCCESS
        async with peers(there, 5) as new:
            for number, peer in enumerate(new):
                peer.send(WHOLE.replace(b"4711", b"471%d" % number))
                assert await peer.answer() == SUCCESS


@edges
async def test_a_flood_does_not_keep_a_good_sender_out(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """While hundreds connect and say nothing, each notification is answered at once, and kept."""
    async with edge(20) as there:
        floods = [asyncio.ensure_future(_flood(there)) for _ in range(3)]
        try:
            for number in range(100):
                reply = await there.post(body_of(str(number)))
                assert reply.body == SUCCESS
                assert waiting_at(there) <= 20
        finally:
            for flood in floods:
                flood.cancel()
            await asyncio.gather(*floods, return_exceptions=True)
        assert len({event.call_id for event in there.ended}) == 100


async def _flood(there: Listening) -> None:
    writers: list[asyncio.StreamWriter] = []
    try:
        while True:
            writers.append((await asyncio.open_connection("127.0.0.1", there.port))[1])
            await asyncio.sleep(0.002)
    finally:
        for writer in writers:
            writer.close()


@edges
async def test_nothing_ticks_where_nobody_is(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """A server without connections has nothing to look at, and looks again once there is one."""
    async with edge(1000) as there:
        for _ in range(2):
            async with peers(there) as [peer]:
                peer.send(WHOLE)
                assert await peer.answer() == SUCCESS
                # The answer may be here before whoever has sent it goes on.
                await until(lambda: vars(places_of(there))["_tick"] is not None)
            await until(lambda: vars(places_of(there))["_tick"] is None)


async def test_a_sender_that_never_reads() -> None:
    """Nothing more is read of one that leaves its answers: they would fill the memory."""
    store = Store()
    async with by_itself(10, store=store) as there:
        loop = asyncio.get_running_loop()
        with socket.socket() as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sender.setblocking(False)  # noqa: FBT003 - its only argument
            await loop.sock_connect(sender, ("127.0.0.1", there.port))
            runner: Any = vars(there.server)["_runner"]
            await until(lambda: runner.server.connections)
            [connection] = runner.server.connections
            line = connection.transport.get_extra_info("socket")
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            with suppress(TimeoutError):
                for _ in range(100):
                    async with asyncio.timeout(1):
                        await loop.sock_sendall(sender, WHOLE * 100)
            taken: list[int] = [-1]
            while len(store.put_bodies) > taken[-1]:
                taken.append(len(store.put_bodies))
                await asyncio.sleep(0.5)
            buffered: int = connection.transport.get_write_buffer_size()
    assert 100 < taken[-1] < 10_000
    assert buffered < 2 * 64 * 1024


async def test_a_websocket_needs_no_place() -> None:
    """Another protocol takes it over, and it lives as long as it likes."""
    sockets: list[int] = []

    async def talk(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - as the specification has them
        if scope["type"] == "lifespan":
            return
        await receive()
        await send({"type": "websocket.accept"})
        sockets.append(1)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    upgrade = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    edge = f"{uvicorn_edge.__name__}:EdgeProtocol"
    async with asgi_serving(talk, http=edge, ws="wsproto", lifespan="off") as port:
        there = Listening(CallbackServer(), port)
        async with peers(there, 3) as crowd:
            for peer in crowd:
                peer.send(upgrade)
                await peer.reader.readuntil(b"\r\n\r\n")
            assert len(sockets) == 3
            [places] = uvicorn_edge._places.values()  # pyright: ignore[reportPrivateUsage] - the oracle
            assert not vars(places)["_unknown"]
            assert not await crowd[0].is_closed(2 * DEADLINE)


async def test_on_one_loop_after_another() -> None:
    """Places belong to an event loop: a server that is run again has new ones."""
    edge = f"{uvicorn_edge.__name__}:EdgeProtocol"
    async with mounted(http=edge) as there:
        assert (await there.post(body_of())).body == SUCCESS
        [(state, places)] = uvicorn_edge._places.items()  # pyright: ignore[reportPrivateUsage] - the oracle

    def again() -> bool:
        async def elsewhere() -> bool:
            config = uvicorn.Config(an_asgi_application(CallbackServer()))
            protocol = uvicorn_edge.EdgeProtocol(config, state, {})
            protocol.connection_made(StubTransport())
            return uvicorn_edge._places[state] is not places  # pyright: ignore[reportPrivateUsage] - the oracle

        return asyncio.run(elsewhere())

    assert await asyncio.to_thread(again)


class StubTransport(asyncio.Transport):
    """One that leads nowhere."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401, ARG002 - as asyncio has it
        """Nothing is known of it."""
        return default


@pytest.mark.parametrize(
    ("files", "limit", "told"),
    [(10_000, 1000, False), (1024, 768, True), (100, 1, True), (-1, 1000, False)],
)
async def test_what_the_process_may_open(
    files: int,
    limit: int,
    told: bool,  # noqa: FBT001 - of a table
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There are no more places than files to open, less those that are needed for else."""
    caplog.set_level("INFO")

    def limits(_: int) -> tuple[int, int]:
        return files, files

    monkeypatch.setattr("resource.getrlimit", limits)
    found: Places[Any] = Places(1000, print)
    assert vars(found)["_limit"] == limit
    assert ("(ulimit -n)" in caplog.text) is told
