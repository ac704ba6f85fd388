"""The receiver mounted in ASGI applications: where it lives, what it takes, and what it refuses."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import (
    SIGNER,
    SUCCESS,
    TOKEN,
    TOO_LARGE,
    Listening,
    Reply,
    body_of,
    exchange,
    request_bytes,
    until,
)
from callback_shells import an_asgi_application, asgi_serving, mounted
from fastapi import FastAPI

from qmc_async import CallbackServer, ConfigError, Disconnected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, MutableMapping
    from pathlib import Path

    from starlette.types import Message

PATH = f"/qmc/callback/{TOKEN}"


async def ask(
    server: CallbackServer,
    *received: Message,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    **scope: Any,  # noqa: ANN401 - any of the specification's
) -> tuple[int, bytes]:
    """Send a request without any server, as the specification has it; status and body."""
    sent: list[MutableMapping[str, Any]] = []
    messages = list(received or [{"type": "http.request", "body": body_of()}])

    async def receive() -> Message:
        if not messages:
            await asyncio.sleep(3600)
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    whole = {"type": "http", "method": "POST", "path": PATH, "headers": headers} | scope
    await server.asgi(whole, receive, send)
    start, body = sent
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])
    return start["status"], body["body"]


# --- where it lives ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_over", [False, True], ids=["never started", "stopped"])
async def test_not_started(caplog: pytest.LogCaptureFixture, *, is_over: bool) -> None:
    """A mounted application's own lifespan never runs: the first request says what to do."""
    server = CallbackServer(signer=SIGNER)
    app = FastAPI()
    app.mount("/qmc", server.asgi)
    if is_over:
        async with server.asgi:
            pass
    async with asgi_serving(app) as port:
        reply = await exchange(port, request_bytes(body_of(), target=PATH))
        assert (reply.status, reply.body) == (500, b"Internal Server Error")
        assert (
            await exchange(port, request_bytes(method="GET", target="/qmc/readyz"))
        ).status == 503
    assert "put 'async with server.asgi: yield' into your application's lifespan" in caplog.text


async def test_on_another_event_loop() -> None:
    """A server that runs on one loop takes nothing on another."""
    server = CallbackServer(signer=SIGNER)
    async with server.asgi:
        assert await ask(server) == (200, SUCCESS)
        with pytest.raises(RuntimeError, match="on this event loop"):
            await asyncio.to_thread(asyncio.run, ask(server))


async def test_handlers_have_their_time_at_the_end() -> None:
    """The end of the lifespan waits for the handlers."""
    server = CallbackServer(signer=SIGNER, shutdown_timeout=20)
    ended: list[str] = []
    begun = asyncio.Event()

    @server.on_disconnected(name="slow")
    async def slow(event: Disconnected) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        ended.append(event.call_id)

    async with asgi_serving(an_asgi_application(server)) as port:
        assert (await exchange(port, request_bytes(body_of(), target=PATH))).body == SUCCESS
        await begun.wait()
        assert not ended
    assert ended == ["4711"]


async def test_by_itself() -> None:
    """As the outermost application it starts and stops with its own lifespan."""
    server = CallbackServer(signer=SIGNER, public_url="https://crm.example.com")
    async with asgi_serving(server.asgi) as port:
        assert (await exchange(port, request_bytes(body_of(), target=PATH))).body == SUCCESS
        assert (await server.wait_for("4711", timeout=20)).call_id == "4711"
        assert (await exchange(port, request_bytes(method="GET", target="/readyz"))).status == 200
    assert "stopped" in server.problems
    assert server.url == f"https://crm.example.com{PATH}"


async def test_a_start_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An application does not start with a store that keeps nothing."""
    server = CallbackServer(signer=SIGNER, store=f"sqlite:///{tmp_path}/no/folder.db")
    sent: list[Message] = []
    messages = [{"type": "lifespan.startup"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await server.asgi({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert sent[0]["message"].startswith("ConfigError: store: there is no")
    with pytest.raises(ConfigError):
        async with server.asgi:
            pass
    with pytest.raises(RuntimeError, match="on this event loop"):
        await ask(server)
    assert "Traceback" not in caplog.text


async def test_twice() -> None:
    """It runs once, in whichever way, and again after it has ended."""
    server = CallbackServer(signer=SIGNER, port=0)
    for _ in range(2):
        async with server.asgi as app:
            assert app is server.asgi
            for start in (server.start, app.__aenter__):
                with pytest.raises(RuntimeError, match="running already"):
                    await start()
            assert (await ask(server))[0] == 200


def test_url_of_a_mounted_server() -> None:
    """The application knows where it is, so the server must be told."""
    server = CallbackServer()
    assert server.url.startswith("http://127.0.0.1:8080/")
    assert server.asgi is server.asgi
    with pytest.raises(RuntimeError, match="public_url="):
        _ = server.url


# --- what it takes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "path", "target", "root_path"),
    [
        ("/qmc", "/qmc/callback", PATH, ""),
        ("/qmc/callback", "/qmc/callback", PATH, ""),
        ("/hooks", "/qmc/callback", f"/hooks{PATH}", ""),
        ("/hooks", "/", f"/hooks/{TOKEN}", ""),
        ("", "/qmc/callback", PATH, ""),
        ("/qmc", "/qmc/callback", PATH, "/api"),  # which the proxy has taken away
        ("/qmc", "/api/qmc/callback", PATH, "/api"),
    ],
)
async def test_where_it_is_mounted(prefix: str, path: str, target: str, root_path: str) -> None:
    """The path is taken with the prefix in it, or behind the prefix."""
    server = CallbackServer(signer=SIGNER, path=path)
    there = Listening(server, 0)
    server.on_disconnected(there.on_end)
    app = an_asgi_application(server, prefix)
    async with asgi_serving(app, root_path=root_path) as there.port:
        assert (await there.send(request_bytes(body_of(), target=target))).body == SUCCESS
        assert (await there.send(request_bytes(body_of(), target=target + "x"))).status == 404
        assert (await there.send(request_bytes(body_of(), target=f"/x{target}"))).status == 404
        health = request_bytes(method="GET", target=f"{prefix}/healthz")
        assert (await there.send(health)).body == b'{"alive":true}'
        await until(lambda: there.ended)


async def test_in_fastapi() -> None:
    """Beside routes, which see the same server."""
    server = CallbackServer(signer=SIGNER)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with server.asgi:
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/qmc", server.asgi)

    @app.get("/calls/{call_id}")
    async def how_it_ended(call_id: str) -> str:
        return str((await server.wait_for(call_id, timeout=20)).reason)

    async with asgi_serving(app) as port:
        waiting = asyncio.ensure_future(
            exchange(port, request_bytes(method="GET", target="/calls/4711"))
        )
        assert (await exchange(port, request_bytes(body_of(), target=PATH))).body == SUCCESS
        assert (await waiting).body == b'"HangUp"'


@pytest.mark.parametrize(
    ("scope", "paths"),
    [
        ({"path": "/m" + PATH, "root_path": "/m"}, True),
        ({"path": PATH, "root_path": "/m"}, True),  # as older versions of Starlette had it
        ({"path": "/callback/" + TOKEN, "root_path": "/qmc"}, True),
        ({"path": "/x", "raw_path": PATH.encode()}, True),
        ({"path": PATH, "raw_path": PATH.replace("q", "%71").encode()}, False),
        ({"path": PATH + "\udcff"}, False),
        ({"path": "/m" + PATH}, False),
    ],
)
async def test_paths_of_other_servers(scope: dict[str, Any], *, paths: bool) -> None:
    """What the specification leaves open is taken either way."""
    server = CallbackServer(signer=SIGNER)
    async with server.asgi:
        assert (await ask(server, **scope))[0] == (200 if paths else 404)


@pytest.mark.parametrize("length", [b"65537", b"9" * 20, b"9" * 5000])
async def test_a_length_is_refused_unread(length: bytes) -> None:
    """A body that says that it is too long is not read."""
    server = CallbackServer(signer=SIGNER)
    never: Message = {"type": "http.request", "body": b"", "more_body": True}
    async with server.asgi:
        refused = await ask(server, never, headers=((b"content-length", length),))
        assert refused == (413, TOO_LARGE)


@pytest.mark.parametrize("length", [b"", b"-1", b"many", "１".encode(), b"0"])
async def test_a_length_that_is_none(length: bytes) -> None:
    """What the server has let through as a length is not believed, and the body is taken."""
    server = CallbackServer(signer=SIGNER)
    async with server.asgi:
        assert (await ask(server, headers=((b"content-length", length),)))[0] == 200


async def test_a_body_in_pieces() -> None:
    """Pieces are put together, and are too many together when they are too long."""
    body = body_of()
    halves: list[Message] = [
        {"type": "http.request", "body": body[:20], "more_body": True},
        {"type": "http.request", "more_body": True},
        {"type": "http.request", "body": body[20:]},
    ]
    long: Message = {"type": "http.request", "body": bytes(40_000), "more_body": True}
    server = CallbackServer(signer=SIGNER)
    there = Listening(server, 0)
    server.on_disconnected(there.on_end)
    async with server.asgi:
        assert await ask(server, *halves) == (200, SUCCESS)
        assert await ask(server, long, long, long) == (413, TOO_LARGE)
        await until(lambda: there.ended)


async def test_a_sender_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come of a body is kept: it will not come again."""
    monkeypatch.setattr("qmc_async.callback.body.BODY_DEADLINE", 0.1)
    half: Message = {"type": "http.request", "body": body_of()[:20], "more_body": True}
    server = CallbackServer(signer=SIGNER, store="sqlite://")
    there = Listening(server, 0)
    server.on_unknown(there.on_unknown)
    async with server.asgi:
        assert await ask(server, half, {"type": "http.disconnect"}) == (200, SUCCESS)
        assert await ask(server, half) == (200, SUCCESS)
        await until(lambda: len(there.unknown) == 2)
    assert {event.body for event in there.unknown} == {body_of()[:20]}
    problems = "".join(event.problem or "" for event in there.unknown)
    assert "cut off" in problems
    assert "in time" in problems


async def test_an_answer_that_nobody_waits_for() -> None:
    """A connection that is gone by then is no error: the notification is kept."""
    server = CallbackServer(signer=SIGNER)
    there = Listening(server, 0)
    server.on_disconnected(there.on_end)

    async def receive() -> Message:
        return {"type": "http.request", "body": body_of()}

    async def send(_: Message) -> None:
        raise ConnectionResetError

    async with server.asgi:
        await server.asgi(
            {"type": "http", "method": "POST", "path": PATH, "headers": []}, receive, send
        )
        await until(lambda: there.ended)


async def test_no_websocket() -> None:
    """One is closed before it begins."""
    server = CallbackServer(signer=SIGNER)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async with server.asgi:
        await server.asgi({"type": "websocket", "path": PATH, "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close"}]


# --- who may ----------------------------------------------------------------------------------


async def test_guarded_as_well() -> None:
    """Senders, signatures and proxies are looked at as on a port of our own."""
    server = CallbackServer(
        signer=SIGNER,
        allowed_senders="203.0.113.0/24",
        trusted_proxies="10.0.0.1, unix",
        authorization="required",
    )
    signed = (b"authorization", SIGNER.sign(time.time()).encode())
    named = (b"x-forwarded-for", b"203.0.113.9")
    async with server.asgi:
        for scope, headers, status in (
            ({"client": ("203.0.113.9", 1)}, (signed,), 200),
            ({"client": ("203.0.113.9", 1)}, (), 403),
            ({"client": ("198.51.100.7", 1)}, (signed, named), 403),
            ({"client": ("10.0.0.1", 1)}, (signed, named), 200),
            ({"client": None}, (signed, named), 200),
            ({}, (signed, named), 200),
        ):
            assert (await ask(server, headers=headers, **scope))[0] == status
    assert server.refused == {"authorization": 1, "sender": 1}


@pytest.mark.parametrize(
    ("http", "headers", "status"),
    [
        ("h11", {}, 200),  # uvicorn itself believes what a proxy on this machine passes on
        ("qmc_async.callback.uvicorn_edge:EdgeProtocol", {}, 403),
        ("qmc_async.callback.uvicorn_edge:EdgeProtocol", {"trusted_proxies": "127.0.0.1"}, 200),
    ],
)
async def test_what_uvicorn_believes(http: str, headers: dict[str, str], status: int) -> None:
    """With our edge the peer is the connection's, whatever uvicorn has read in a header."""
    guard = {"signer": SIGNER, "allowed_senders": "203.0.113.9", **headers}
    async with mounted(http=http, **guard) as there:
        reply = await there.post(body_of(), "X-Forwarded-For: 203.0.113.9")
        assert reply.status == status


async def test_nothing_private_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the token nor what was posted is in a log, or in what a stranger is answered."""
    caplog.set_level(logging.DEBUG)
    async with mounted(signer=SIGNER, authorization="required") as there:
        replies: list[Reply] = [
            await there.post(body_of("planted"), "Authorization: planted"),
            await there.post(body_of("planted"), method="GET"),
            await there.post(body_of("planted") * 1000),
        ]
        app = repr(there.server.asgi)
    assert [reply.status for reply in replies] == [403, 405, 413]
    shown = caplog.text + app + "".join(str(reply.whole) for reply in replies)
    assert not [secret for secret in (TOKEN, "planted", "/qmc/callback") if secret in shown]
