"""What the callback server never shows."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from qmc_async import (
    CallbackServer,
)

if TYPE_CHECKING:
    from qmc_async.models import Notification


from callback_peer import (
    LATER,
    LONGEST,
    NUMBERS,
    SIGNER,
    SUCCESS,
    TOKEN,
    alone,
    body_of,
    path_of,
    post_to,
    request_bytes,
)


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that anybody logs, asyncio's debug mode included."""
    caplog.set_level(logging.DEBUG)
    for name in ("aiohttp", "aiohttp.server", "aiohttp.access", "aiohttp.web", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


def _with_numbers(call_id: str, **fields: object) -> bytes:
    planted = {"caller": NUMBERS[0], "callee": NUMBERS[1], "extra": {"number": list(NUMBERS)}}
    return body_of(call_id, **planted, **fields)


MISTAKES = [
    _with_numbers("1"),
    _with_numbers("1"),
    _with_numbers("2", status="Ringing"),
    _with_numbers("3", endTime=NUMBERS[0]),
    _with_numbers("4", callDuration=NUMBERS[0], answerTime=NUMBERS[1]),
    f"caller={NUMBERS[0]}&callee={NUMBERS[1]}".encode(),
    _with_numbers("5")[:-1],
    json.dumps(list(NUMBERS)).encode(),
    _with_numbers("6").ljust(LONGEST + 1),
]


async def test_no_number_and_no_token_is_shown(everything: pytest.LogCaptureFixture) -> None:
    """Numbers in a body and the secret path appear in no log, no repr and no answer."""
    asyncio.get_running_loop().set_debug(enabled=True)
    shown: list[str] = []
    server = CallbackServer(port=0, signer=SIGNER, shutdown_timeout=1)

    async def fail(event: Notification) -> None:
        shown.append(repr(event))
        raise ValueError("a handler's own")

    # A busy machine would have some of them tried again meanwhile.
    server.on_disconnected(name="a", retry=LATER)(fail)
    server.on_unknown(name="b", retry=LATER)(fail)
    async with server:
        replies = [await post_to(server, body) for body in MISTAKES]
        for how in ({"target": "/"}, {"method": "GET"}, {"target": f"/qmc/callback/{TOKEN}x"}):
            replies.append(await post_to(server, b"", **how))  # noqa: PERF401 - one reads better
        shown.extend(repr(reply.whole) for reply in replies)
        parts = [part for part in vars(server).values() if part != path_of(server)]
        shown.extend(repr(part) for part in [server, *parts])
    assert len([text for text in shown if "Disconnected(" in text]) == 2
    text = "\n".join([*shown, everything.text])
    for secret in (*NUMBERS, TOKEN, "/qmc/callback/"):
        assert secret not in text
    assert "a handler's own" in everything.text


@pytest.mark.parametrize(
    "data",
    [
        request_bytes(target=f"/qmc/callback/{TOKEN}\x01"),
        request_bytes(target=f"/qmc/callback/{TOKEN}", version="9.9"),
        request_bytes(target=f"/qmc/callback/{TOKEN}", method="PO ST"),
        request_bytes(target=f"qmc/callback/{TOKEN}"),
        request_bytes(target=f"http://[/qmc/callback/{TOKEN}"),
        request_bytes(_with_numbers("1"), target=f"/qmc/callback/{TOKEN}", length=10).replace(
            b"Connection: close\r\n", b""
        ),
        request_bytes(
            NUMBERS[0].encode() + b"x\r\n",
            "Transfer-Encoding: chunked",
            target=f"/qmc/callback/{TOKEN}",
            length=None,
        ),
        request_bytes(
            _with_numbers("1")[1:], "Content-Encoding: gzip", target=f"/qmc/callback/{TOKEN}"
        ),
        request_bytes(
            _with_numbers("1"), f"Bad Header {NUMBERS[0]}", target=f"/qmc/callback/{TOKEN}"
        ),
    ],
    ids=range(9),
)
async def test_a_malformed_request_is_not_quoted(
    data: bytes, everything: pytest.LogCaptureFixture
) -> None:
    """What is not even HTTP is refused; neither its path nor its body gets into the log."""
    asyncio.get_running_loop().set_debug(enabled=True)
    async with alone(signer=SIGNER) as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(data)
        async with asyncio.timeout(5):
            replies = await reader.read()
        writer.close()
        assert (await there.post(body_of("2"))).body == SUCCESS
    assert re.match(rb"HTTP/1.[01] (400|200) ", replies)
    assert re.search("Error handling request|cannot be decoded", everything.text)
    for secret in (*NUMBERS, TOKEN):
        assert secret not in everything.text


@pytest.mark.parametrize(
    "error", [web.RequestPayloadError(NUMBERS[0]), HttpProcessingError(message=NUMBERS[0])]
)
def test_what_a_parser_says_is_left_out(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """A parser's error quotes what it read: its class is logged, its words are not."""
    logger = logging.getLogger("qmc_async.callback.server.http")
    logger.error("Error handling request from %s", "192.0.2.1", exc_info=error)
    assert NUMBERS[0] not in caplog.text
    assert f"Error handling request from 192.0.2.1: {type(error).__name__}" in caplog.text


def test_other_errors_are_logged_whole(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours keeps its traceback."""
    logger = logging.getLogger("qmc_async.callback.server.http")
    logger.error("Unhandled exception", exc_info=KeyError("ours"))
    logger.error("no exception")
    assert "KeyError: 'ours'" in caplog.text
    assert "no exception" in caplog.text
