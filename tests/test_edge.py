"""Connections that are held by who sends nothing, or too slowly, and by too many at once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pytest
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
from callback_shells import mounted

from qmc_async.callback import uvicorn_edge

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from qmc_async.callback.places import Places

DEADLINE = 0.4
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
            assert vars(places_of(there))["_taken"] <= 5


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
async def test_who_is_being_answered_keeps_the_place(edge: Any) -> None:  # noqa: ANN401 - one of the two
    """Where all are being answered, the new one is closed."""
    store = Store()
    async with edge(2, store=store) as there, peers(there, 2) as crowd:
        store.go_on.clear()
        for number, peer in enumerate(crowd):
            peer.send(WHOLE.replace(b"4711", b"471%d" % number))
        await until(lambda: len(taking_in(there.server)) == 2)
        async with peers(there) as [new]:
            assert await new.is_closed()
        store.go_on.set()
        for peer in crowd:
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
                # Closed is what the loop has seen to be closed.
                assert vars(places_of(there))["_taken"] <= 2 * 20
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
                assert vars(places_of(there))["_tick"] is not None
            await until(lambda: vars(places_of(there))["_tick"] is None)
