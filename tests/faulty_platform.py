"""A platform that misbehaves on the socket, as the sandbox, a decent HTTP server, cannot."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypedDict, Unpack

import httpx
import orjson

from qmc_async.client import AsyncQmcClient
from qmc_async.transport import DEFAULT_LIMITS

if TYPE_CHECKING:
    from qmc_async.numbers import NumberMode

Behaviour: TypeAlias = Callable[["Connection"], Awaitable[None]]

APP_ID = 1696054309969104898
SECRET = "planted-secret-Zq8w"  # the one that the tests of privacy look for
CALLER = "13987654321"
CALLEE = "075512343388"

PLACED = orjson.dumps(
    {"code": 200, "success": True, "data": {"callidentifier": "c-1"}, "msg": "ok"}
)


DONE = orjson.dumps(
    {
        "code": 200,
        "success": True,
        "data": {"callidentifier": "c-1", "fileUrl": "http://files.invalid/c-1.wav"},
        "msg": "ok",
    }
)
"""A reply that suits every operation."""


@dataclass(frozen=True)
class Request:
    """One request as it came, and when."""

    raw: bytes
    arrived: float

    @property
    def line(self) -> str:
        """Method, path and version."""
        return self.raw.split(b"\r\n", 1)[0].decode()

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case name."""
        lines = self.raw.split(b"\r\n\r\n", 1)[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    @property
    def body(self) -> bytes:
        """What follows the headers."""
        return self.raw.split(b"\r\n\r\n", 1)[1]

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON may be anything
        """The body, parsed."""
        return orjson.loads(self.body)

    @property
    def signed(self) -> tuple[str, str, str]:
        """APPID, timestamp and sign."""
        app_id, timestamp, sign = (
            base64.b64decode(self.headers["authorization"]).decode().split(":")
        )
        return app_id, timestamp, sign

    @property
    def timestamp(self) -> float:
        """The moment that was signed, in seconds."""
        return int(self.signed[1]) / 1000


def http(
    body: bytes = PLACED,
    status: str = "200 OK",
    headers: str = "",
    *,
    length: int | None = None,
) -> bytes:
    """A reply as bytes; `length` is what it claims to have."""
    declared = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {declared}\r\n{headers}\r\n".encode() + body


class Connection:
    """One accepted connection."""

    def __init__(
        self, platform: FaultyPlatform, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.platform = platform
        self.reader = reader
        self.writer = writer

    async def read_request(self) -> bytes:
        """Read one whole request and count it."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        body = await self.reader.readexactly(int(length[1]) if length else 0)
        self.platform.requests.append(head + body)
        self.platform.seen.append(Request(head + body, time.time()))
        return head + body

    async def answer(self, data: bytes) -> None:
        """Read a request and answer it."""
        await self.read_request()
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close so that the peer sees ECONNRESET."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()


class FaultyPlatform:
    """Plays one behaviour after the other, one a connection; the last one goes on for ever."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)
        self.requests: list[bytes] = []
        self.seen: list[Request] = []
        self.connections = 0
        self.most_open = 0
        self.current: list[Connection] = []
        self.url = ""
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = min(self.connections, len(self.behaviours) - 1)
        self.connections += 1
        connection = Connection(self, reader, writer)
        self.current.append(connection)
        self.most_open = max(self.most_open, len(self.current))

        async def play() -> None:
            # A client that goes away in the middle is what some of the tests are about.
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await self.behaviours[number](connection)
            finally:
                self.current.remove(connection)
                writer.close()

        task = asyncio.ensure_future(play())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def on(self, port: int) -> Self:
        """Listen on this port, once entered."""
        self._port = port
        return self

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, backlog=2048
        )
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def received(self, count: int) -> None:
        """Wait until so many requests have come."""
        while len(self.requests) < count:  # noqa: ASYNC110 - an Event could not count
            await asyncio.sleep(0.005)

    def stop_listening(self) -> None:
        """Refuse whoever comes from now on."""
        self._server.close()

    async def __aexit__(self, *_: object) -> None:
        # Whoever is just being accepted gets a task, and so is closed.
        for _round in range(5):
            await asyncio.sleep(0)
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # a closed transport lets go of its socket in the next round


# The behaviours that the tests share.


async def close_before_reading(connection: Connection) -> None:
    """Accept, and close at once."""
    connection.writer.close()


async def close_after_reading(connection: Connection) -> None:
    """Read the whole request, and close without a word."""
    await connection.read_request()


async def reset_after_reading(connection: Connection) -> None:
    """Read the whole request, and reset the connection."""
    await connection.read_request()
    connection.reset()


async def reset_in_the_reply(connection: Connection) -> None:
    """Reset the connection in the middle of the reply."""
    await connection.answer(http()[:-10])
    await asyncio.sleep(0.02)
    connection.reset()


async def half_a_reply(connection: Connection) -> None:
    """End the connection properly in the middle of the reply."""
    await connection.answer(http()[:-10])


async def never_answer(connection: Connection) -> None:
    """Read the request, and leave the client waiting."""
    await connection.read_request()
    await asyncio.sleep(3600)


async def trickle(connection: Connection) -> None:
    """Send the reply so slowly that no single wait is long, but all of them are."""
    await connection.read_request()
    for byte in http():
        connection.writer.write(bytes([byte]))
        await connection.writer.drain()
        await asyncio.sleep(0.05)


async def no_http(connection: Connection) -> None:
    """Answer with something that is not HTTP, and quotes the request."""
    request = await connection.read_request()
    connection.writer.write(b"\x00" + request + b"\r\n\r\n")


def always(data: bytes) -> Behaviour:
    """Answer every request of the connection with the same bytes."""

    async def behaviour(connection: Connection) -> None:
        while True:
            await connection.answer(data)

    return behaviour


def once(data: bytes) -> Behaviour:
    """Answer one request, and close."""

    async def behaviour(connection: Connection) -> None:
        await connection.answer(data)

    return behaviour


@contextlib.asynccontextmanager
async def unreachable() -> AsyncGenerator[str]:
    """An address that refuses connections: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextlib.asynccontextmanager
async def unconnectable() -> AsyncGenerator[str]:
    """An address that neither accepts nor refuses: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        is_full = False
        while not is_full:  # on a busy machine it takes a while
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(listener.getsockname())
            await asyncio.sleep(0.1)
            is_full = not select.select([], [filler], [], 0)[1]
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def half_a_chunk(connection: Connection) -> None:
    """End the connection properly in the middle of a reply in chunks."""
    await connection.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{")


async def endless_reply(connection: Connection) -> None:
    """Never stop talking."""
    await connection.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.writer.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
        await connection.writer.drain()


async def no_tls(connection: Connection) -> None:
    """Answer a TLS handshake in plain text."""
    connection.writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await connection.writer.drain()


async def silent(connection: Connection) -> None:
    """Accept the connection, and neither read nor write."""
    del connection
    await asyncio.sleep(3600)


def late(data: bytes, delay: float) -> Behaviour:
    """Answer every request of the connection with the same bytes, after a while."""

    async def behaviour(connection: Connection) -> None:
        while True:
            await connection.read_request()
            await asyncio.sleep(delay)
            connection.writer.write(data)
            await connection.writer.drain()

    return behaviour


def in_turn(*replies: bytes) -> Behaviour:
    """Answer the connection's requests one after the other, and then close."""

    async def behaviour(connection: Connection) -> None:
        for reply in replies:
            await connection.answer(reply)

    return behaviour


def date(offset: float = 0.0) -> str:
    """A ``Date`` header line of a platform whose clock is `offset` seconds ahead."""
    return f"Date: {formatdate(time.time() + offset, usegmt=True)}\r\n"


def keeps_time(offset: float, refusal: bytes = b"", *, tells: bool = True) -> Behaviour:
    """Refuse what is signed more than five minutes off the platform's clock, as the document says.

    Args:
        offset: how many seconds the platform's clock is ahead of this machine's.
        refusal: the body of the refusal; empty means HTTP 401.
        tells: whether the replies carry a ``Date``.
    """

    async def behaviour(connection: Connection) -> None:
        while True:
            await connection.read_request()
            headers = date(offset) if tells else ""
            off = connection.platform.seen[-1].timestamp - (time.time() + offset)
            if abs(off) <= 300:
                reply = http(DONE, headers=headers)
            elif refusal:
                reply = http(refusal, headers=headers)
            else:
                reply = http(b"", "401 Unauthorized", headers)
            connection.writer.write(reply)

    return behaviour


# The two transports that every promise holds for.

TRANSPORTS = ("ours", "plain")
TLS = ssl.create_default_context()  # once: it takes 30 ms


class Options(TypedDict, total=False):
    """What a test may set a client to."""

    base_url: str
    record_base_url: str
    record_path: str
    timeout: float
    deadline: float
    max_retries: int
    numbers: NumberMode
    limits: httpx.Limits
    recording_networks: list[str]


@contextlib.asynccontextmanager
async def connect(
    url: str, transport: str = "ours", **options: Unpack[Options]
) -> AsyncGenerator[AsyncQmcClient]:
    """A client of the platform at `url`, on our transport or on a plain `httpx.AsyncClient`."""
    options = {"base_url": url, "record_base_url": url, **options}
    if transport == "ours":
        async with AsyncQmcClient(APP_ID, SECRET, **options) as client:
            yield client
        return
    limits = options.pop("limits", DEFAULT_LIMITS)
    async with (
        httpx.AsyncClient(limits=limits, trust_env=False, verify=TLS) as plain,
        AsyncQmcClient(APP_ID, SECRET, http_client=plain, **options) as client,
    ):
        yield client
