"""The callback server inside somebody's aiohttp application."""

from __future__ import annotations

import asyncio

import pytest
from callback_peer import SIGNER, SUCCESS, Listening, alone, body_of, exchange, request_bytes, until
from callback_shells import an_application, attached, serving

from qmc_async import (
    CallbackServer,
    Disconnected,
)


async def test_attached_beside_other_routes() -> None:
    """The application's own routes and its middleware work as before, and for ours too."""
    async with attached(signer=SIGNER) as there:
        home = await there.send(request_bytes(method="GET", target="/"))
        assert (home.status, home.body, home.headers["X-Stamp"]) == (200, b"home", "yes")
        order = await there.send(request_bytes(target="/orders/7"))
        assert order.body == b"home"
        ours = await there.post(body_of())
        assert (ours.body, ours.headers["X-Stamp"]) == (SUCCESS, "yes")


async def test_attached_lives_with_the_application(caplog: pytest.LogCaptureFixture) -> None:
    """It runs from the application's start to its end, which gives the handlers their time."""
    server = CallbackServer(shutdown_timeout=0.1, public_url="https://crm.example.com")

    begun = asyncio.Event()

    @server.on_disconnected(name="stuck")
    async def stuck(_: Disconnected) -> None:
        begun.set()
        await asyncio.sleep(60)

    app = an_application()
    server.attach(app)
    with pytest.raises(RuntimeError, match="to be running"):
        await server.wait_for("1", timeout=1)
    async with serving(app) as port:
        waiting = asyncio.ensure_future(server.wait_for("1", timeout=30))
        await exchange(port, request_bytes(body_of()))
        assert (await server.wait_for("4711", timeout=5)).call_id == "4711"
        await begun.wait()
    with pytest.raises(RuntimeError, match="stopped before"):
        await waiting
    assert [r for r in caplog.records if "stuck was cancelled at event 4711" in r.getMessage()]
    with pytest.raises(RuntimeError, match="to be running"):
        await server.wait_for("1", timeout=1)


async def test_attached_takes_no_late_handlers() -> None:
    """Handlers can be registered until the application starts."""
    server = CallbackServer()
    app = an_application()
    server.attach(app)
    there = Listening(server, 0)
    server.on_disconnected(there.on_end)
    async with serving(app) as there.port:
        with pytest.raises(RuntimeError, match="too late"):
            server.on_unknown(there.on_unknown)
        await there.post(body_of())
        await until(lambda: there.ended)


def test_attach_twice_to_one_application() -> None:
    """The same application takes it once."""
    server = CallbackServer()
    app = an_application()
    server.attach(app)
    with pytest.raises(RuntimeError):
        server.attach(app)


async def test_attach_to_two_applications() -> None:
    """Only one of two applications can run with it: the other one does not start."""
    server = CallbackServer()
    one, other = an_application(), an_application()
    server.attach(one)
    server.attach(other)
    async with serving(one) as port:
        with pytest.raises(RuntimeError, match="running already"):
            async with serving(other):
                pass
        assert (await exchange(port, request_bytes(body_of()))).body == SUCCESS


async def test_attached_and_started() -> None:
    """A server that runs in an application is not started besides."""
    async with attached() as there:
        with pytest.raises(RuntimeError, match="running already"):
            await there.server.start()
        assert (await there.post(body_of())).body == SUCCESS


async def test_started_and_attached() -> None:
    """An application does not start with a server that already listens on its own."""
    async with alone() as there:
        app = an_application()
        there.server.attach(app)
        with pytest.raises(RuntimeError, match="running already"):
            async with serving(app):
                pass
        assert (await there.post(body_of())).body == SUCCESS


async def test_attach_too_late() -> None:
    """An application that runs already takes no routes any more."""
    app = an_application()
    async with serving(app):
        with pytest.raises(RuntimeError, match="frozen"):
            CallbackServer().attach(app)
