"""The sender of the receivers' benchmark: it does little, so as not to be the limit."""

from __future__ import annotations

import asyncio
import time
from array import array
from typing import TYPE_CHECKING, cast

from attrs import define
from server_child import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Load", "quantile"]


def quantile(times: array[float], part: float) -> float:
    """The time that such a part of some times is not above."""
    return sorted(times)[min(int(len(times) * part), len(times) - 1)]


@define(eq=False)
class Load:
    """Keeps each of some connections busy with one request at a time.

    Attributes:
        port: whom to ask.
        requests: what to ask, each once.
        answers: how long each answer of 200 took, in seconds.
        seconds: from the first request to the last answer.
        generator: the part of a core that this side has taken meanwhile.
    """

    port: int
    requests: Iterator[bytes]
    answers: array[float]
    until: float = 0.0
    seconds: float = 0.0
    generator: float = 0.0
    _busy: int = 0
    _ended: asyncio.Future[None] | None = None

    @classmethod
    def on(cls, port: int, requests: Iterator[bytes]) -> Load:
        """A load that has not begun."""
        return cls(port, requests, array("d"))

    async def run(self, connections: int, seconds: float) -> None:
        """Ask for so long; then wait for what is still to be answered.

        Raises:
            ConnectionError: an answer was not 200, or a connection was closed.
        """
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        asking = [
            (await loop.create_connection(lambda: _Connection(self), HOST, self.port))[1]
            for _ in range(connections)
        ]
        self._busy = connections
        cpu, begin = time.process_time(), time.perf_counter()
        self.until = begin + seconds
        for one in asking:
            one.ask()
        try:
            await asyncio.wait_for(self._ended, seconds + 60)
        finally:
            self.seconds = time.perf_counter() - begin
            self.generator = (time.process_time() - cpu) / self.seconds
            for one in asking:
                one.close()

    def rest(self) -> None:
        """One connection has done its part."""
        self._busy -= 1
        if not self._busy and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def fail(self, why: str) -> None:
        """Nothing that follows would mean anything."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(ConnectionError(why))


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self._load = load
        self._sent = 0.0
        self._received = b""
        self._whole = 0  # the length of an answer, once it is known
        self._is_closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's is none by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def ask(self) -> None:
        request = next(self._load.requests)
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._received:
            data = self._received + data
        if len(data) != self._whole:
            self._whole = _length(data)
            if not 0 < self._whole <= len(data):
                self._received = data
                return
        self._received = b""
        if not data.startswith(b"HTTP/1.1 200"):
            self._load.fail(f"answered {data[:200]!r}")
            return
        self._load.answers.append(now - self._sent)
        if now < self._load.until:
            self.ask()
        else:
            self._load.rest()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_closing:
            self._load.fail(f"the server has closed a connection ({exc})")

    def close(self) -> None:
        self._is_closing = True
        self._transport.abort()


def _length(data: bytes) -> int:
    """Of the answer that begins with these bytes; 0 where that cannot be said yet."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return 0
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return len(head) + len(end) + int(value)
    return len(data) if body.endswith(b"0\r\n\r\n") else 0  # it is chunked
