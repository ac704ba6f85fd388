"""The platform's ``call``, answered as fast as can be: ``serve_platform.py PORT keep|close``.

Not the sandbox, whose engine would be the limit.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from email.utils import formatdate
from typing import cast

from event_loops import fastest_loop
from lifetime import end_with_parent

numbers = itertools.count(1)
is_closing = sys.argv[2] == "close"  # after each answer, as the document's examples have it


class Platform(asyncio.Protocol):
    """One connection."""

    second = 0
    date = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It was opened."""
        # Not checked: uvloop's is none by inheritance.
        self._transport = cast("asyncio.Transport", transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        """Answer each request once it is whole."""
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        _, _, value = head.lower().partition(b"\r\ncontent-length:")
        length = int(value.partition(b"\r\n")[0])
        if len(rest) < length:
            return
        self._received = rest[length:]
        assert b"\r\nauthorization:" in head.lower()
        self._transport.write(answer())
        if is_closing:
            self._transport.close()


def answer() -> bytes:
    """As the document (3.1) has it, with an id of its own."""
    now = int(time.time())
    if now != Platform.second:
        Platform.second, Platform.date = now, formatdate(now, usegmt=True).encode()
    body = b'{"code":200,"msg":"success","data":{"callidentifier":"%032d"},"success":true}' % next(
        numbers
    )
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=utf-8\r\nDate: %s\r\n%s"
        b"Content-Length: %d\r\n\r\n%s"
        % (Platform.date, b"Connection: close\r\n" if is_closing else b"", len(body), body)
    )


async def main(port: int) -> None:
    """Serve for ever."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Platform, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


end_with_parent()
with asyncio.Runner(loop_factory=fastest_loop()) as runner:
    runner.run(main(int(sys.argv[1])))
