"""The platform: posts notifications over sockets, each once, and knows which were answered.

As a program it posts many copies of one notification at once, as soon as it is told to.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator

__all__ = ["BROKEN", "CONNECTIONS", "OK", "Connection", "Platform", "body_of", "calls"]

CONNECTIONS = 16
OK = 200
_PAUSE = 0.02  # seconds: a load that leaves the server some air
BROKEN = (OSError, asyncio.IncompleteReadError)


def body_of(call_id: str, reason: str = "HangUp", **more: str) -> bytes:
    """A notification's body; `more` are fields that not every one has."""
    return json.dumps(
        {
            "callidentifier": call_id,
            "status": "Disconnected",
            "endTime": "2023-08-29 08:52:10",
            "reason": reason,
            **more,
        }
    ).encode()


def calls(prefix: str, number: int, reasons: Iterable[str] = ("HangUp",)) -> dict[str, str]:
    """So many calls' ids, each with a reason, taking turns."""
    cycle = list(reasons)
    return {f"{prefix}-{one}": cycle[one % len(cycle)] for one in range(number)}


class Connection:
    """A connection that is kept open, and made anew where it broke."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, body: bytes) -> int:
        """Send a notification, and read the answer's status."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: platform\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return int(answer.split(b" ", 2)[1])

    def close(self) -> None:
        """Let go of the socket."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Platform:
    """What was answered, and how.

    Attributes:
        answered: HTTP statuses, by call id. A call that is missing got no answer.
        reasons: of every call, also of those that got no answer.
        slowest: seconds that an answer took at most.
    """

    def __init__(self) -> None:
        self.answered: dict[str, int] = {}
        self.reasons: dict[str, str] = {}
        self.slowest = 0.0

    @property
    def kept(self) -> dict[str, str]:
        """The reasons of the calls that were answered with success."""
        return {one: self.reasons[one] for one, status in self.answered.items() if status == OK}

    @property
    def statuses(self) -> Counter[int]:
        """How many answers of each kind came."""
        return Counter(self.answered.values())

    async def post(
        self, url: str, ended: dict[str, str], *, connections: int = CONNECTIONS
    ) -> None:
        """Report calls; give up where the server is gone."""
        left = iter(ended.items())
        await asyncio.gather(*(self._post_some(url, left) for _ in range(connections)))

    @asynccontextmanager
    async def posting(
        self, url: str, prefix: str, reasons: Iterable[str] = ("HangUp",)
    ) -> AsyncGenerator[None]:
        """Report calls for as long as the block takes: under load."""
        going_on = True
        cycle = list(reasons)

        def endless() -> Iterator[tuple[str, str]]:
            number = 0
            while going_on:
                # Ids in no order, so that all of an index is in use.
                name = f"{prefix}-{number}"
                yield f"{crc32(name.encode()):08x}-{name}", cycle[number % len(cycle)]
                number += 1

        left = endless()
        load = asyncio.gather(
            *(self._post_some(url, left, pause=_PAUSE) for _ in range(CONNECTIONS))
        )
        try:
            yield
        finally:
            going_on = False
            await load

    async def until_answered(self, number: int) -> None:
        """Wait for more answers, while a load goes on."""
        aim = len(self.answered) + number
        async with asyncio.timeout(30):
            while len(self.answered) < aim:  # noqa: ASYNC110 - a platform rings no bell
                await asyncio.sleep(0.01)

    async def _post_some(
        self, url: str, left: Iterator[tuple[str, str]], *, pause: float = 0
    ) -> None:
        connection = Connection(url)
        try:
            for call_id, reason in left:
                self.reasons[call_id] = reason
                began = time.monotonic()
                try:
                    self.answered[call_id] = await connection.post(body_of(call_id, reason))
                except ConnectionRefusedError:
                    del self.reasons[call_id]  # nothing was sent
                    return
                except BROKEN:
                    connection.close()
                self.slowest = max(self.slowest, time.monotonic() - began)
                if pause:
                    await asyncio.sleep(pause)
        finally:
            connection.close()


async def repeat(urls: list[str], call_id: str, reason: str, times: int) -> Counter[int]:
    """Post copies of one notification, each on a connection of its own, all at once."""
    ready = [Connection(urls[one % len(urls)]) for one in range(times)]

    async def post(connection: Connection) -> int:
        try:
            return await connection.post(body_of(call_id, reason))
        finally:
            connection.close()

    return Counter(await asyncio.gather(*map(post, ready)))


if __name__ == "__main__":
    a_call, why, how_often, *addresses = sys.argv[1:]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    json.dump(asyncio.run(repeat(addresses, a_call, why, int(how_often))), sys.stdout)
