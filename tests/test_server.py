"""The callback server over real sockets: what is taken, and what is answered."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from callback_peer import (
    LONGEST,
    NOT_FOUND,
    SIGNER,
    SUCCESS,
    TOKEN,
    TOO_LARGE,
    Reply,
    Store,
    alone,
    body_of,
    request_bytes,
    taking_in,
    until,
)
from callback_shells import mounted, shells

from qmc_async import (
    CallbackServer,
    Credentials,
    Disconnected,
    Reason,
    Signer,
)
from qmc_async.listening import listen as listen_at


async def test_the_answer_byte_for_byte() -> None:
    """A notification is answered as documented (3.2), and with nothing that tells more of us."""
    async with alone() as there:
        reply = await there.post(body_of(), "Content-Type: application/json;charset=utf-8")
    assert (reply.version, reply.status, reply.reason) == ("HTTP/1.1", 200, "OK")
    assert reply.body == b'{"code":"200","msg":"success","data":""}'
    assert reply.headers["Content-Type"] == "application/json;charset=utf-8"
    assert reply.headers["Content-Length"] == str(len(reply.body))
    assert reply.headers["Connection"] == "close"
    assert set(reply.headers) - {"Date", "Server"} == {
        "Content-Type",
        "Content-Length",
        "Connection",
    }


@shells
@pytest.mark.parametrize(
    ("how", "status", "body"),
    [
        ({"method": "GET"}, 405, b'{"code":"405","msg":"method not allowed","data":""}'),
        ({"length": LONGEST + 1}, 413, TOO_LARGE),
    ],
)
async def test_a_refusal_byte_for_byte(
    listen: Any,  # noqa: ANN401 - one of the shells
    how: dict[str, Any],
    status: int,
    body: bytes,
) -> None:
    """A refusal has the same form as the answer; its code is the HTTP status, as a String."""
    async with listen() as there:
        reply = await there.post(b"", **how)
        assert not there.ended + there.unknown
    assert (reply.status, reply.body) == (status, body)
    assert reply.headers["Content-Type"] == "application/json;charset=utf-8"


@shells
async def test_an_event_reaches_its_handlers(listen: Any) -> None:  # noqa: ANN401 - one of the shells
    """What is posted is handed to the handlers of its kind, decoded."""
    async with listen() as there:
        assert (await there.post(body_of(outCallId="order-42"))).body == SUCCESS
        assert (await there.post(body_of("4712", status="Ringing"))).body == SUCCESS
        await until(lambda: there.ended and there.unknown)
    [event], [unknown] = there.ended, there.unknown
    assert (event.call_id, event.out_call_id, event.reason) == ("4711", "order-42", Reason.HANG_UP)
    assert (unknown.call_id, unknown.status) == ("4712", "Ringing")
    assert unknown.body == body_of("4712", status="Ringing")


@shells
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"callidentifier=1",
        b"[]",
        b"\xff\xfe",
        b'{"callidentifier":"\\ud800","status":"Disconnected"}',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"callDuration":NaN,"status":"Disconnected"}',
        b'{"status":"Ringing"}',
        b"\x00" * LONGEST,
    ],
    ids=range(9),
)
async def test_what_cannot_be_decoded(listen: Any, body: bytes) -> None:  # noqa: ANN401 - one of the shells
    """It is answered with success, and `on_unknown` gets all of its bytes."""
    async with listen() as there:
        assert (await there.post(body)).whole.startswith(b"HTTP/1.1 200 ")
        await until(lambda: there.unknown)
    assert [event.body for event in there.unknown] == [body]
    assert not there.ended


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Content-Type: text/plain"],
        ["Content-Type: application/x-www-form-urlencoded"],
        ["Content-Type: multipart/form-data; boundary=x"],
        ["Content-Type: application/json;charset=GBK"],
        ["Authorization: nonsense"],
    ],
)
async def test_headers_do_not_matter(headers: list[str]) -> None:
    """The document promises none of them: a notification is taken whatever they say."""
    async with alone() as there:
        assert (await there.post(body_of(), *headers)).body == SUCCESS
        await until(lambda: there.ended)


async def test_without_a_length() -> None:
    """A request that declares no body has an empty one, which is kept like any other."""
    async with alone() as there:
        assert (await there.post(b"", length=None)).body == SUCCESS
        await until(lambda: there.unknown)
    assert there.unknown[0].body == b""


async def test_old_http() -> None:
    """HTTP/1.0 is taken too, and the connection is closed."""
    async with alone() as there:
        reply = await there.post(body_of(), version="1.0")
        assert reply.body == SUCCESS
        await until(lambda: there.ended)


async def test_one_connection_many_notifications() -> None:
    """The platform may keep its connection: every request on it is answered in order."""
    async with alone() as there, aiohttp.ClientSession() as session:
        for number in range(5):
            async with session.post(there.server.url, data=body_of(str(number))) as reply:
                assert await reply.read() == SUCCESS
        await until(lambda: len(there.ended) == 5)


async def test_a_body_in_pieces() -> None:
    """A body that trickles in is put together."""
    async with alone() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        for byte in request_bytes(body_of()):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert Reply(await reader.read()).body == SUCCESS
        writer.close()
        await until(lambda: there.ended)


async def test_a_compressed_body() -> None:
    """A body that a proxy has compressed is read; one that would burst is refused."""
    async with alone() as there:
        reply = await there.post(gzip.compress(body_of()), "Content-Encoding: gzip")
        assert reply.body == SUCCESS
        bomb = gzip.compress(b"0" * 5_000_000)
        assert len(bomb) < LONGEST
        assert (await there.post(bomb, "Content-Encoding: gzip")).body == TOO_LARGE
        await until(lambda: there.ended)
    assert not there.unknown


@shells
async def test_a_sender_that_asks_first(listen: Any) -> None:  # noqa: ANN401 - one of the shells
    """`Expect: 100-continue` is answered: .NET, curl and others hold the body back until it is."""
    async with listen() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        head, _, body = request_bytes(body_of(), "Expect: 100-continue").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert Reply(await reader.read()).body == SUCCESS
        writer.close()
        await until(lambda: there.ended)


async def test_a_sender_that_asks_first_for_too_much() -> None:
    """A body that will be refused is not asked for; nor is one where HTTP/1.0 cannot ask."""
    async with alone() as there:
        reply = await there.post(b"", "Expect: 100-continue", length=LONGEST + 1)
        assert reply.status == 413
        reply = await there.post(b"", "Expect: 100-continue", target="/")
        assert reply.status == 404
        reply = await there.post(body_of(), "Expect: 100-continue", version="1.0")
        assert reply.status == 200
        reply = await there.post(body_of(), "Expect: something")
        assert reply.status == 200


async def test_a_sender_that_asks_first_and_sends_rubbish() -> None:
    """What cannot be unpacked is answered, and read as it came."""
    async with alone() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(request_bytes(body_of(), "Expect: 100-continue", "Content-Encoding: gzip"))
        async with asyncio.timeout(5):
            replies = await reader.read()
        writer.close()
        # It is not told to go on where it has sent all already (RFC 9110, 10.1.1).
        assert replies.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        await until(lambda: there.ended)
    assert not there.unknown


async def test_a_sender_that_goes_away() -> None:
    """What came of a body is handed on, cut as it is; the next one is taken as ever."""
    async with alone() as there:
        _, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(request_bytes(body_of())[:-10])
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()
        await writer.wait_closed()
        assert (await there.post(body_of("2"))).body == SUCCESS
        await until(lambda: there.ended and there.unknown)
    assert [event.call_id for event in there.ended] == ["2"]
    [cut] = there.unknown
    assert cut.body == body_of()[:-10]
    assert "cut off" in (cut.problem or "")


async def test_a_sender_that_cannot_count() -> None:
    """A whole notification behind a Content-Length that promises more is taken all the same."""
    async with alone() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(request_bytes(body_of(), length=len(body_of()) + 5))
        await writer.drain()
        writer.write_eof()
        await until(lambda: there.ended)
        await reader.read()
        writer.close()
    assert not there.unknown


async def test_a_sender_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not come in time is taken as far as it came, and answered."""
    monkeypatch.setattr("qmc_async.callback.body.BODY_DEADLINE", 0.1)
    async with alone() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(request_bytes(body_of())[:-1])
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await until(lambda: there.unknown)
    assert "in time" in (there.unknown[0].problem or "")


async def test_a_sender_that_does_not_wait_for_the_answer() -> None:
    """Where an application cancels the handlers of lost connections, the event is handed on."""
    store = Store()
    store.go_on.clear()
    async with alone(store=store) as there:
        serving = asyncio.ensure_future(there.post(body_of()))
        await until(lambda: taking_in(there.server))
        serving.cancel()
        store.go_on.set()
        await until(lambda: there.ended)


async def test_inside_a_sub_application() -> None:
    """The prefix of a sub-application is the application's matter."""
    server = CallbackServer(signer=SIGNER, public_url="https://crm.example.com/api")
    ended: list[Disconnected] = []

    @server.on_disconnected
    async def _note(event: Disconnected) -> None:
        ended.append(event)

    inner, outer = web.Application(), web.Application()
    server.attach(inner)
    outer.add_subapp("/api", inner)
    runner = web.AppRunner(outer)
    port = await listen_at(runner, "127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        url = server.url.replace("https://crm.example.com", f"http://127.0.0.1:{port}")
        async with session.post(url, data=body_of()) as response:
            assert await response.read() == SUCCESS
        await until(lambda: ended)
    await runner.cleanup()


def _chunked(body: bytes, size: int = 16_000) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@shells
async def test_the_longest_body(listen: Any) -> None:  # noqa: ANN401 - one of the shells
    """64 KiB are taken, whether they are declared or come in chunks."""
    async with listen() as there:
        body = body_of().ljust(LONGEST)
        assert (await there.post(body)).body == SUCCESS
        chunked = _chunked(body_of("4712").ljust(LONGEST))
        reply = await there.post(chunked, "Transfer-Encoding: chunked", length=None)
        assert reply.body == SUCCESS
        await until(lambda: len(there.ended) == 2)


@shells
async def test_one_byte_more(listen: Any) -> None:  # noqa: ANN401 - one of the shells
    """64 KiB and a byte are refused, whether they are declared or come in chunks."""
    async with listen() as there:
        body = body_of().ljust(LONGEST + 1)
        assert (await there.post(body)).body == TOO_LARGE
        reply = await there.post(_chunked(body), "Transfer-Encoding: chunked", length=None)
        assert (reply.status, reply.body) == (413, TOO_LARGE)
    assert not there.ended + there.unknown


async def test_too_long_is_refused_unread() -> None:
    """The refusal does not wait for the body that was announced."""
    async with alone() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(request_bytes(length=10**9))
        async with asyncio.timeout(2):
            assert b" 413 " in await reader.readline()
        writer.close()


async def test_an_endless_body_is_refused() -> None:
    """A stream of chunks without end is cut at the limit, not gathered."""
    async with alone() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(request_bytes(b"", "Transfer-Encoding: chunked", length=None))
        for _ in range(5):
            writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        async with asyncio.timeout(2):
            assert b" 413 " in await reader.readline()
        writer.close()


@shells
async def test_the_token_is_part_of_the_path(listen: Any) -> None:  # noqa: ANN401 - one of the shells
    """With a signer the path ends in its token, and only the whole of it is taken."""
    async with listen(signer=SIGNER) as there:
        assert (await there.post(body_of(), target=f"/qmc/callback/{TOKEN}")).body == SUCCESS
        await until(lambda: there.ended)
    assert len(TOKEN) == 43


OTHER = Signer(Credentials(1696054309969104898, "another")).callback_token


@shells
@pytest.mark.parametrize(
    "target",
    [
        "/qmc/callback",
        "/qmc/callback/",
        f"/qmc/callback/{OTHER}",
        f"/qmc/callback/{TOKEN[:-1]}",
        f"/qmc/callback/{TOKEN}x",
        f"/qmc/callback/{TOKEN}/",
        f"/qmc/callback/{TOKEN}/x",
        f"/qmc/callback/{TOKEN.swapcase()}",
        f"/qmc/callback/%{ord(TOKEN[0]):02x}{TOKEN[1:]}",
        f"/qmc/callback%2F{TOKEN}",
        f"/qmc/%63allback/{TOKEN}",
        f"/qmc/callback/{TOKEN}%00",
        f"/qmc/callback/{TOKEN};x",
        f"/qmc/callback/{TOKEN}=",
        f"/qmc//callback/{TOKEN}",
        f"//qmc/callback/{TOKEN}",
        f"/qmc/./callback/{TOKEN}",
        f"/x/../qmc/callback/{TOKEN}",
        f"/{TOKEN}",
        f"/?/qmc/callback/{TOKEN}",
        f"/qmc/callback?{TOKEN}",
        "/",
    ],
)
async def test_any_other_path_is_not_found(listen: Any, target: str) -> None:  # noqa: ANN401 - one of the shells
    """A path without the token, or with it written in another way, is not found."""
    applications_own = listen is not alone and target.partition("?")[0] == "/"
    async with listen(signer=SIGNER) as there:
        reply = await there.post(body_of(), target=target)
        assert reply.status == (405 if applications_own else 404)
        if listen is alone:
            assert reply.body == NOT_FOUND
        assert not there.ended + there.unknown
        assert TOKEN.encode() not in reply.whole


async def test_without_a_signer_there_is_no_token() -> None:
    """Without a signer the path is as it was given, and nothing below it is taken."""
    async with alone(path="/in") as there:
        assert (await there.post(body_of(), target=f"/in/{TOKEN}")).status == 404
        assert (await there.post(body_of(), target="/in")).status == 200


@shells
async def test_the_query_is_not_looked_at(listen: Any) -> None:  # noqa: ANN401 - one of the shells
    """What follows a question mark changes nothing; neither does the form with the host."""
    path = f"/qmc/callback/{TOKEN}"
    targets = [path + "?", path + "?a=1&a=2", path + "?%zz"]
    if listen is not mounted:  # uvicorn hands it on as a path
        targets.append(f"http://else.where{path}?a")
    async with listen(signer=SIGNER) as there:
        for number, target in enumerate(targets):
            assert (await there.post(body_of(str(number)), target=target)).body == SUCCESS
        await until(lambda: len(there.ended) == len(targets))


@shells
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_only_post_is_allowed(listen: Any, method: str) -> None:  # noqa: ANN401 - one of the shells
    """Any other method on the right path is 405; HEAD without a body, as HTTP wants it."""
    async with listen(signer=SIGNER) as there:
        reply = await there.post(b"", method=method)
        assert reply.status == 405
        assert bool(reply.body) is (method != "HEAD")
        assert not there.ended + there.unknown
