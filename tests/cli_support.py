"""What the tests of `qmc listen` and `qmc trigger` share: a service, and a listener to stop."""

from __future__ import annotations

import asyncio
import inspect
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from aiohttp import web
from callback_shells import serving
from click.testing import CliRunner, Result

from qmc_async.cli import cli

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import pytest

RECEIVED = b'{"code":"200","msg":"success","data":""}'
SECRET_PATH = "/hooks/KZ7Q-secret-token"


async def qmc(*words: str, given: str = "", **environ: str | None) -> Result:
    """Run a command in a thread of its own."""
    runner = CliRunner(env=environ)
    return await asyncio.to_thread(runner.invoke, cli, words, input=given)


class Service:
    """Somebody's service: it notes what it gets, and answers as it is told.

    Attributes:
        url: where it takes notifications.
        place: what of that may be shown.
        answers: HTTP status and body, one for each request; the last one again for all others.
        bodies: what came.
        headers: what came with it.
        go_on: no answer is given before it is set.
    """

    def __init__(self) -> None:
        self.url = self.place = ""
        self.answers: list[tuple[int, bytes]] = [(200, RECEIVED)]
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def take(self, request: web.Request) -> web.Response:
        """Answer one request."""
        self.bodies.append(await request.read())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        await self.go_on.wait()
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=status, body=body, headers={"Location": "/elsewhere"})


@asynccontextmanager
async def a_service() -> AsyncGenerator[Service]:
    """One on a free port."""
    service = Service()
    app = web.Application()
    app.router.add_post(SECRET_PATH, service.take)
    async with serving(app) as port:
        service.place = f"http://127.0.0.1:{port}"
        service.url = f"{service.place}{SECRET_PATH}?key=1"
        yield service


@asynccontextmanager
async def rude_host(says: bytes) -> AsyncGenerator[int]:
    """A port on which something answers that is no HTTP."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(says)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


class Listener:
    """`qmc listen`, run on the loop of the test.

    Attributes:
        task: its run; cancelled, it ends as by Ctrl-C.
        out: what it has printed so far.
        err: the same, on the standard error.
    """

    def __init__(self, task: asyncio.Task[None], printed: pytest.CaptureFixture[str]) -> None:
        self.task = task
        self._printed = printed
        self.out = self.err = ""

    @property
    def url(self) -> str:
        """Where it listens."""
        found = re.search(r"listening at (\S+)", self.err)
        assert found is not None, self.err
        return found[1]

    @property
    def lines(self) -> list[str]:
        """What it has printed, without the time at which each line begins."""
        self.read()
        return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in self.out.splitlines()]

    def read(self) -> None:
        """Take what was printed since."""
        out, err = self._printed.readouterr()
        self.out += out
        self.err += err

    async def until(self, what: str, *, times: int = 1) -> None:
        """Wait until it has printed something so often, anywhere."""
        async with asyncio.timeout(20):
            while (self.out + self.err).count(what) < times:
                assert not self.task.done() or not self.task.exception()
                await asyncio.sleep(0.005)
                self.read()

    async def stop(self) -> None:
        """End it, where it has not ended by itself."""
        if not self.task.done():
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
        self.read()


@asynccontextmanager
async def listening(
    printed: pytest.CaptureFixture[str],
    **options: Any,  # noqa: ANN401 - any of the command's
) -> AsyncGenerator[Listener]:
    """`qmc listen` with options, by the names of its parameters."""
    command = cli.commands["listen"]
    given = command.make_context("listen", []).params | {"port": 0} | options
    assert command.callback is not None
    task = asyncio.create_task(inspect.unwrap(command.callback)(**given))
    listener = Listener(task, printed)
    try:
        await listener.until("listening ")
        yield listener
    finally:
        await listener.stop()
