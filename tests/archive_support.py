"""What the tests of the archive share: a platform with recordings, and a server that keeps them."""

from __future__ import annotations

import hashlib
import io
import json
import wave
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from callback_peer import body_of, post_to, select_in, url_in
from faulty_platform import Request, connect, http
from ledger_support import client_of

from qmc_async import CallbackServer, RecordingArchive
from qmc_async.models import BEIJING, Disconnected, RecordingResult
from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from pathlib import Path

    from faulty_platform import Connection

    from qmc_async import AsyncQmcClient
    from qmc_async.archive.destination import Destination, GivenDestination, Stat

NUMBER = "13912345678"
SECRET_PATH = "/rec-token-9f8e7d/1.wav?sign=rec-sign-5a5a"
READY = b""
NOT_READY = http(orjson.dumps({"code": 40902, "msg": f"not ready: {NUMBER}"}))
NO_ACCESS = http(orjson.dumps({"code": 401, "msg": "who are you?"}))
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def sound_of(seconds: int, value: int = 1) -> bytes:
    """A WAV file as the standard library writes it."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes([value]) * 16_000 * seconds)
    return written.getvalue()


SOUND = sound_of(2)


def at_address(url: str) -> bytes:
    """The platform's answer where there is a recording."""
    return http(orjson.dumps({"code": 200, "data": {"fileUrl": url}}))


class Keeper:
    """A behaviour: the platform has the recording of every call, once it has said all else.

    Args:
        answers: to ``record``, one after the other; the last one goes on for ever.
        sound: what the recording's address leads to.
    """

    def __init__(self, *answers: bytes, sound: bytes = SOUND) -> None:
        self.answers = list(answers) or [READY]
        self.file = http(sound, headers="Content-Type: audio/wav\r\n")
        self.asked: list[str] = []
        self.fetched = 0

    async def __call__(self, connection: Connection) -> None:
        """Answer every request of a connection."""
        while True:
            request = Request(await connection.read_request(), 0)
            if request.line.startswith("POST"):
                self.asked.append(request.json["callidentifier"])
                reply = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                reply = reply or at_address(connection.platform.url + SECRET_PATH)
            else:
                self.fetched += 1
                reply = self.file
            connection.writer.write(reply)
            await connection.writer.drain()


def ago(past: timedelta) -> datetime:
    """A moment of the past, as the platform tells it."""
    return datetime.now(BEIJING).replace(microsecond=0) - past


def recorded(call_id: str = "4711", past: timedelta = timedelta(0), **fields: object) -> bytes:
    """The notification of a recorded call that ended some time ago."""
    more = {"recordingResult": "success", "endTime": f"{ago(past):%Y-%m-%d %H:%M:%S}"} | fields
    return body_of(call_id, **more)


def event_of(call_id: str = "4711", past: timedelta = timedelta(0)) -> Disconnected:
    """The same, decoded."""
    return Disconnected(
        call_id=call_id, end_time=ago(past), recording_result=RecordingResult.SUCCESS
    )


class Archiving:
    """A running server with an archive, and its folder."""

    def __init__(
        self,
        folder: Path,
        client: AsyncQmcClient,
        server: CallbackServer,
        archive: RecordingArchive,
    ) -> None:
        self.folder = folder
        self.client = client
        self.server = server
        self.archive = archive

    async def post(self, body: bytes) -> None:
        """Notify it."""
        assert (await post_to(self.server, body)).status == 200

    def waits_for(self, words: str) -> bool:
        """Whether the archive's delivery waits, was given back, and says why."""
        query = "SELECT error FROM qmc_deliveries WHERE state = 'pending' AND owner IS NULL"
        return any(words in error for (error,) in select_in(self.folder, query))

    def has_tried(self) -> bool:
        """The same, for any reason."""
        return self.waits_for("Postpone: ")


@asynccontextmanager
async def archiving(
    folder: Path,
    url: str,
    destination: GivenDestination | None = None,
    **options: Any,  # noqa: ANN401 - any of the archive's
) -> AsyncGenerator[Archiving]:
    """A server whose client asks the platform at `url`; the archive is in ``kept``."""
    client = client_of(url, Store(url_in(folder), patience=30), max_retries=0)
    server = CallbackServer(client=client, port=0, shutdown_timeout=0.2)
    archive = RecordingArchive(destination or folder / "kept", client=client, **options)
    archive.attach(server)
    async with client, server:
        yield Archiving(folder, client, server, archive)


@asynccontextmanager
async def archive_at(
    destination: GivenDestination,
    url: str,
    **options: Any,  # noqa: ANN401 - any of the archive's
) -> AsyncGenerator[RecordingArchive]:
    """An archive alone, without a server."""
    async with connect(url, max_retries=0) as client:
        yield RecordingArchive(destination, client=client, **options)


def waits_in(folder: Path) -> list[float]:
    """How many seconds each delivery waits, from when that was decided."""
    query = "SELECT (due_at - changed_at) / 1000.0 FROM qmc_deliveries"
    return [wait for (wait,) in select_in(folder, query)]


def files_in(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_whole(files: dict[str, bytes]) -> bool:
    """Whether every JSON is beside the sound that it tells of, by an independent reading."""
    for name, data in files.items():
        if name.endswith(".json"):
            told = json.loads(data)
            sound = files.get(told["key"])
            if sound is None or len(sound) != told["length"]:
                return False
            if hashlib.sha256(sound).hexdigest() != told["sha256"]:
                return False
    return True


def replace_destination(archive: RecordingArchive, destination: Destination) -> None:
    """Put something between an archive and its files."""
    vars(archive)["_destination"] = destination


class Between:
    """A destination that does as another does, with something of a test's in between."""

    def __init__(self, real: Destination) -> None:
        self.real = real

    @property
    def place(self) -> str:
        """As the real one."""
        return self.real.place

    def prepare(self) -> None:
        """As the real one."""
        self.real.prepare()

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """As the real one."""
        with self.real.scratch() as folder:
            yield folder

    async def put(self, key: str, file: Path) -> str | None:
        """As the real one."""
        return await self.real.put(key, file)

    async def read(self, key: str) -> bytes | None:
        """As the real one."""
        return await self.real.read(key)

    async def stat(self, key: str) -> Stat | None:
        """As the real one."""
        return await self.real.stat(key)

    async def delete(self, key: str) -> None:
        """As the real one."""
        await self.real.delete(key)

    async def pieces(self, key: str) -> AsyncGenerator[bytes]:
        """As the real one."""
        async for piece in self.real.pieces(key):
            yield piece

    async def keys(self) -> list[str]:
        """As the real one."""
        return await self.real.keys()
