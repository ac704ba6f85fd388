"""What stands on the other end of the callback server: the platform, and applications."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

from qmc_async import (
    CallbackServer,
    Credentials,
    Disconnected,
    Retry,
    Signer,
    StoreError,
    UnknownNotification,
)
from qmc_async.store import Store as BaseStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from pathlib import Path

    import pytest

    from qmc_async import Delivery
    from qmc_async.callback.address import CallbackAddress
    from qmc_async.callback.dispatcher import Dispatcher
    from qmc_async.callback.receiver import Receiver
    from qmc_async.models import Event
    from qmc_async.store.ladder import Then
    from qmc_async.store.records import Kept, Outcome, Put

SIGNER = Signer(Credentials(1696054309969104898, "secret"))
TOKEN = SIGNER.callback_token
NUMBERS = ("13987654321", "13912345678")
SUCCESS = b'{"code":"200","msg":"success","data":""}'
NOT_FOUND = b'{"code":"404","msg":"not found","data":""}'
TOO_LARGE = b'{"code":"413","msg":"content too large","data":""}'
LONGEST = 65_536


def body_of(call_id: str = "4711", **fields: object) -> bytes:
    """A notification's body."""
    wire = {
        "callidentifier": call_id,
        "status": "Disconnected",
        "endTime": "2023-08-29 08:52:10",
        "reason": "HangUp",
    }
    return json.dumps(wire | fields).encode()


def port_of(server: CallbackServer) -> int:
    """Where it listens."""
    port: int = vars(server)["_port"]
    return port


def path_of(server: CallbackServer) -> str:
    """Where it takes notifications, the token included."""
    address: CallbackAddress = vars(server)["_address"]
    return address.path


def running_in(server: CallbackServer) -> set[object]:
    """The handlers that run."""
    dispatcher: Dispatcher = vars(server)["_dispatcher"]
    running: set[object] = vars(dispatcher)["_running"]
    return running


def held_in(server: CallbackServer) -> dict[object, object]:
    """The claims that it holds."""
    dispatcher: Dispatcher = vars(server)["_dispatcher"]
    held: dict[object, object] = vars(dispatcher)["_held"]
    return held


def taking_in(server: CallbackServer) -> set[object]:
    """The notifications that are being kept."""
    receiver: Receiver = vars(server)["_receiver"]
    taking: set[object] = vars(receiver)["_taking"]
    return taking


class Reply:
    """An answer, read from the socket."""

    def __init__(self, whole: bytes) -> None:
        self.whole = whole
        head, _, self.body = whole.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.version, status, self.reason = first.split(" ", 2)
        self.status = int(status)
        # Not all libraries write them as the documents do.
        named = (line.split(": ", 1) for line in lines)
        self.headers = {name.title(): value for name, value in named}


def request_bytes(
    body: bytes = b"",
    *headers: str,
    method: str = "POST",
    target: str = "/qmc/callback",
    version: str = "1.1",
    length: int | None = -1,
) -> bytes:
    """A request as it goes over the wire; its `length` is a claim, -1 the truth, None nothing."""
    lines = [f"{method} {target} HTTP/{version}", "Host: platform", *headers]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


async def exchange(port: int, data: bytes, host: str = "127.0.0.1") -> Reply:
    """Send bytes and read one answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.timeout(20):
            writer.write(data)
            await writer.drain()
            reply = Reply(await reader.readuntil(b"\r\n\r\n"))
            if data.startswith(b"HEAD "):
                return Reply(reply.whole + await reader.read())
            return Reply(
                reply.whole + await reader.readexactly(int(reply.headers["Content-Length"]))
            )
    finally:
        writer.close()
        await writer.wait_closed()


async def post_to(server: CallbackServer, body: bytes, *headers: str, **how: Any) -> Reply:  # noqa: ANN401 - as `request_bytes` takes it
    """Post a body to the server's path, or as told."""
    how = {"target": path_of(server)} | how
    return await exchange(port_of(server), request_bytes(body, *headers, **how))


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for a condition, until it is clear that it hangs."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.002)


class Listening:
    """A server, or an application that holds one, with a handler for either kind of event."""

    def __init__(self, server: CallbackServer, port: int) -> None:
        self.server = server
        self.port = port
        self.ended: list[Disconnected] = []
        self.unknown: list[UnknownNotification] = []

    async def on_end(self, event: Disconnected) -> None:
        """Note it."""
        self.ended.append(event)

    async def on_unknown(self, event: UnknownNotification) -> None:
        """Note it."""
        self.unknown.append(event)

    async def send(self, data: bytes) -> Reply:
        """Send bytes and read one answer."""
        return await exchange(self.port, data)

    async def post(self, body: bytes, *headers: str, **how: Any) -> Reply:  # noqa: ANN401 - as `request_bytes` takes it
        """Post to the path, or as told."""
        how = {"target": path_of(self.server)} | how
        return await self.send(request_bytes(body, *headers, **how))


@asynccontextmanager
async def alone(**options: Any) -> AsyncGenerator[Listening]:  # noqa: ANN401 - any of the server's
    """A server that listens on its own."""
    with_defaults: dict[str, Any] = {"port": 0, "shutdown_timeout": 0.2} | options
    server = CallbackServer(**with_defaults)
    listening = Listening(server, 0)
    server.on_disconnected(listening.on_end)
    server.on_unknown(listening.on_unknown)
    async with server:
        listening.port = port_of(server)
        yield listening


class Store(BaseStore):
    """A store that can be slow and can fail, and that is false while it is empty."""

    def __init__(self, url: str = "sqlite://", **options: Any) -> None:  # noqa: ANN401 - any of the store's
        super().__init__(url, **options)
        self.put_bodies: list[bytes] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.failure: Exception | None = None
        self._keeping: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self.put_bodies)

    def begin_to_keep(self, put: Put, then: Then, on_late: Callable[[Kept], None]) -> None:
        """Keep it, when told to."""
        task = asyncio.create_task(self._keep_when_told(put, then, on_late))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep_when_told(self, put: Put, then: Then, on_late: Callable[[Kept], None]) -> None:
        await self.go_on.wait()
        if self.failure:
            then(self.failure)
            return
        self.put_bodies.append(put.receipt.body)
        try:
            super().begin_to_keep(put, then, on_late)
        except StoreError as error:
            then(error)


_SETTLING: set[asyncio.Task[None]] = set()


class SettlingStore(BaseStore):
    """A store whose `settle`, as a subclass has it, is what a server is told of."""

    def begin_to_settle(
        self, outcome: Outcome, then: Callable[[bool | BaseException], None]
    ) -> None:
        """Settle it."""
        task = asyncio.create_task(self._settle_then(outcome, then))
        _SETTLING.add(task)
        task.add_done_callback(_SETTLING.discard)

    async def _settle_then(
        self, outcome: Outcome, then: Callable[[bool | BaseException], None]
    ) -> None:
        try:
            then(await self.settle(outcome))
        except StoreError as error:
            then(error)


# --- a store in a file, and what is in it ------------------------------------------------------


def url_in(folder: Path) -> str:
    """The URL of a store in a folder."""
    return f"sqlite:///{folder / 'qmc.db'}"


def select_in(folder: Path, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    """Ask the file itself, past all code of ours."""
    with closing(sqlite3.connect(folder / "qmc.db", timeout=30)) as file, file:
        return file.execute(query, arguments).fetchall()


def deliveries_in(folder: Path) -> dict[str, tuple[str, int, str | None]]:
    """State, attempts and owner of each handler's delivery, where there is one event."""
    rows = select_in(folder, "SELECT handler, state, attempts, owner FROM qmc_deliveries")
    return {handler: (state, attempts, owner) for handler, state, attempts, owner in rows}


# --- handlers that note what they get ----------------------------------------------------------


class Seen:
    """What handlers were called with, each under a name."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Event]] = []
        self.deliveries: list[Delivery] = []

    def handler(
        self, name: str, *failures: BaseException | None
    ) -> Callable[[Any, Delivery], Coroutine[Any, Any, None]]:
        """A handler that notes what it gets, and then fails as often as told."""
        rest = list(failures)

        async def note(event: Event, delivery: Delivery) -> None:
            self.all.append((name, event))
            self.deliveries.append(delivery)
            failure = rest.pop(0) if rest else None
            if failure is not None:
                raise failure

        return note

    @property
    def names(self) -> list[str]:
        """Who was called, in order."""
        return [name for name, _ in self.all]

    @property
    def attempts(self) -> list[int]:
        """The number of each attempt, in order."""
        return [delivery.attempt for delivery in self.deliveries]


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look through the store every few milliseconds, not every second."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._POLLED_EVERY", 0.01)
    monkeypatch.setattr("qmc_async.callback.waiting._TICK", 0.01)


SOON = Retry(first_delay=0.001, longest_delay=0.001)
LATER = Retry(first_delay=3600, longest_delay=3600)


def make_due(folder: Path) -> None:
    """Let the wait for the next attempt be over."""
    select_in(folder, "UPDATE qmc_deliveries SET due_at = 1 WHERE due_at IS NOT NULL")


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What was logged at a level."""
    return [record.getMessage() for record in caplog.records if record.levelno == level]
