"""A host of recordings on a real socket, and what several files of tests want from it."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from faulty_platform import http

from qmc_async.models import Recording

if TYPE_CHECKING:
    from pathlib import Path

    from faulty_platform import Behaviour, Connection

PATH = "/rec-token-9f8e7d/1.wav?sign=rec-sign-5a5a"
LOOPBACK = ["127.0.0.0/8"]
"""Where the hosts of the tests are, and where no recording may be unless it is allowed."""


def wav(length: int, claimed: int | None = None, seed: int = 0) -> bytes:
    """A WAV file of so many bytes, that says it has so many. No two places in it are alike."""
    says = (length if claimed is None else claimed) - 8
    data = b"RIFF" + says.to_bytes(4, "little") + b"WAVEfmt "
    return (data + random.Random(seed).randbytes(max(0, length - len(data))))[:length]  # noqa: S311 - no secret


AUDIO = wav(1 << 20)  # several pieces
AUDIO_REPLY = http(AUDIO, headers="Content-Type: audio/wav\r\n")


def at(url: str, call_id: str = "c-1", path: str = PATH) -> Recording:
    """A recording that is kept at `url`."""
    return Recording(call_id=call_id, file_url=url + path)


def no_wait(*_: object) -> float:
    """Instead of a back-off."""
    return 0.0


def left_in(folder: Path) -> list[str]:
    """The names of everything in a folder."""
    return sorted(path.name for path in folder.iterdir())


def until_closed(body: bytes, headers: str = "Content-Type: audio/wav\r\n") -> bytes:
    """A reply that gives no length: the connection's end is the file's."""
    return f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode() + body


def in_chunks(body: bytes, headers: str = "Transfer-Encoding: chunked\r\n") -> bytes:
    """A reply in chunks, which says where it ends only there."""
    size = 50_000
    chunks = [
        b"%x\r\n%b\r\n" % (len(chunk), chunk)
        for chunk in (body[start : start + size] for start in range(0, len(body), size))
    ]
    return until_closed(b"".join(chunks) + b"0\r\n\r\n", headers)


@dataclass
class Kept:
    """A file, and how its host serves it.

    Attributes:
        content: the file.
        headers: lines about this very file, such as its entity tag.
        ranges: whether a part may be asked for.
        heeds: whether it knows ``If-Range``.
        sized: whether a whole reply says how long it is; else it comes in chunks.
        cuts: the connection of each reply is cut where the file has so many bytes; then no more.
        starts: the byte from which each reply went on.
        written: what the client has reported by `note`, if it does.
    """

    content: bytes
    headers: str = 'ETag: "1"\r\n'
    ranges: bool = True
    heeds: bool = True
    sized: bool = True
    cuts: list[int] = field(default_factory=list[int])
    starts: list[int] = field(default_factory=list[int])
    written: int | None = None

    def note(self, written: int, _: int | None = None) -> None:
        """A progress callback: what comes together with a connection's end, aiohttp throws away.

        So the connection is cut only once all before it has been reported.
        """
        self.written = written

    async def taken(self, length: int) -> None:
        """Wait until so many bytes are reported; without reports, a moment."""
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if self.written is None or self.written >= length:
                return

    def reply(self, request: bytes) -> tuple[int, bytes]:
        """The first byte that is sent, and the whole reply (RFC 9110, 13.2.2 and 14.2)."""
        asked = re.search(rb"\r\nRange: bytes=(\d+)-\r\n", request)
        condition = re.search(rb"\r\nIf-Range: ([^\r]+)\r\n", request)
        marks = [line.partition(": ")[2].encode() for line in self.headers.split("\r\n")]
        current = condition is None or not self.heeds or condition[1] in marks
        headers = "Content-Type: audio/wav\r\n" + self.headers
        size = len(self.content)
        if asked is None or not self.ranges or not current:
            if self.sized:
                return 0, http(self.content, headers=headers)
            return 0, in_chunks(self.content, "Transfer-Encoding: chunked\r\n" + headers)
        start = int(asked[1])
        if start >= size:
            status = "416 Range Not Satisfiable"
            return start, http(b"", status, f"Content-Range: bytes */{size}\r\n")
        part = f"Content-Range: bytes {start}-{size - 1}/{size}\r\n"
        return start, http(self.content[start:], "206 Partial Content", headers + part)


def serves(*files: Kept) -> Behaviour:
    """Serve a file; after the cuts of the first one are used up, the next one in its place."""
    left = list(files)

    async def behaviour(connection: Connection) -> None:
        while True:
            request = await connection.read_request()
            if len(left) > 1 and not left[0].cuts:
                del left[0]
            kept = left[0]
            start, reply = kept.reply(request)
            kept.starts.append(start)
            if not kept.cuts:
                connection.writer.write(reply)
                await connection.writer.drain()
                continue
            cut = kept.cuts.pop(0)
            body = reply.index(b"\r\n\r\n") + 4
            connection.writer.write(reply[: body + max(0, cut - start)])
            await connection.writer.drain()
            # Of what comes in chunks, some bytes are not the file's.
            await kept.taken(cut if kept.sized or start else cut - 1000)
            return

    return behaviour
