"""A sender that puts any bytes on the wire, fast, and reads what is answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attrs import evolve, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from malformed_bodies import Named

_CONNECTIONS = 8
_PAUSE = 0.3  # seconds, within which most answers come
_PATIENCE = 20.0  # seconds, for one answer on a busy machine


@frozen
class Answer:
    """What came back.

    Attributes:
        status: 0 where the connection was closed without an answer.
        body: of the answer.
        is_last: whether the connection is not to be used again.
        rest: what else came before the connection was closed, more answers for one.
    """

    status: int = 0
    body: bytes = b""
    is_last: bool = True
    rest: bytes = b""


class Sender:
    """Sends to one path of a base URL."""

    def __init__(self, base: str, path: str) -> None:
        where = urlsplit(base)
        assert where.hostname
        assert where.port
        self._host, self._port, self._path = where.hostname, where.port, path

    async def post_all(self, bodies: Iterable[Named]) -> dict[str, Answer]:
        """Post bodies on a few connections that are kept open; the answers by the bodies' names."""
        waiting, answers = iter(bodies), dict[str, Answer]()
        async with asyncio.TaskGroup() as group:
            for _ in range(_CONNECTIONS):
                group.create_task(self._post_each(waiting, answers))
        return answers

    async def _post_each(self, waiting: Iterable[Named], answers: dict[str, Answer]) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for name, body in waiting:
            if connection is None:
                connection = await asyncio.open_connection(self._host, self._port)
            head = self.head("Content-Type: application/json", f"Content-Length: {len(body)}")
            answers[name] = await _exchange(*connection, head + body)
            if answers[name].is_last:
                await _close(connection[1])
                connection = None
        if connection is not None:
            await _close(connection[1])

    async def post(self, body: bytes) -> Answer:
        """Post one body."""
        return await self.send(self.head(f"Content-Length: {len(body)}") + body)

    async def send(self, request: bytes) -> Answer:
        """Send one request as it is, on a connection of its own."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            return await _exchange(reader, writer, request)
        finally:
            await _close(writer)

    async def send_and_end(self, request: bytes) -> Answer:
        """Send what may not be a whole request, and end the connection if no answer comes.

        With that end the answer may be lost: then none is returned.
        """
        reader, writer = await asyncio.open_connection(self._host, self._port)
        answer = Answer()
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                async with asyncio.timeout(_PATIENCE):
                    writer.write(request)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_PAUSE):
                            answer = await _read(reader)
                    writer.write_eof()
                    answer = evolve(answer, rest=await reader.read())
        finally:
            await _close(writer)
        return answer

    def head(self, *headers: str) -> bytes:
        """The head of a POST to the path."""
        lines = [f"POST {self._path} HTTP/1.1", "Host: platform", *headers, "", ""]
        return "\r\n".join(lines).encode()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> Answer:
    async def write() -> None:
        with suppress(OSError):  # a sender that is refused unread is cut off as it writes
            writer.write(request)
            await writer.drain()

    async with asyncio.timeout(_PATIENCE):
        writing = asyncio.create_task(write())
        try:
            return await _read(reader)
        except (asyncio.IncompleteReadError, OSError):
            return Answer()
        finally:
            writing.cancel()
            await asyncio.wait([writing])


async def _read(reader: asyncio.StreamReader) -> Answer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    length = headers.get("content-length")
    # Without one, the end of the connection is the end of the body.
    body = await (reader.read() if length is None else reader.readexactly(int(length)))
    is_last = length is None or headers.get("connection") == "close"
    return Answer(int(first.split()[1]), body, is_last)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
