"""One HTTP request, and what kept it from being answered."""

from __future__ import annotations

import asyncio
import enum
import os
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from attrs import field, frozen

from qmc_async.signer import seconds_ahead

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Answer", "NoAnswer", "Why", "ask", "origin"]

_LONGEST: Final = 64 * 1024  # bytes; what is longer is nothing of ours


class Why(enum.Enum):
    """What kept a request from being answered."""

    NO_NAME = enum.auto()
    REFUSED = enum.auto()
    NO_WAY = enum.auto()
    TOO_SLOW = enum.auto()
    CERTIFICATE = enum.auto()
    TLS = enum.auto()
    CUT = enum.auto()
    NO_HTTP = enum.auto()


@frozen
class Answer:
    """Any HTTP reply.

    Attributes:
        status: of the reply.
        body: its first 64 KiB.
        ahead: how many seconds the clock of who answered is ahead; None where it does not say.
    """

    status: int
    body: bytes = field(repr=False)
    ahead: float | None


@frozen
class NoAnswer:
    """There was none.

    Attributes:
        why: the sort.
        told: for people.
    """

    why: Why
    told: str


def origin(url: str) -> str:
    """Scheme, host and port: the rest of a callback address is secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def ask(
    method: str,
    url: str,
    timeout: float,  # noqa: ASYNC109 - it becomes an answer
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer | NoAnswer:
    """Send one request, to no other address than this, and read what comes.

    Args:
        method: of the request.
        url: which `whole_url` has checked.
        timeout: seconds for all of it.
        headers: of the request.
        body: of the request.
    """
    sent = time.time()
    try:
        async with (
            aiohttp.ClientSession(
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as session,
            session.request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response,
        ):
            received = time.time()
            content = b""
            async for piece in response.content.iter_any():
                content += piece
                if len(content) > _LONGEST:
                    break
            date = response.headers.get("Date", "")
            return Answer(response.status, content, seconds_ahead(date, sent, received))
    except (aiohttp.ClientError, OSError) as error:
        return _explain(error, timeout)


def _explain(error: Exception, timeout: float) -> NoAnswer:  # noqa: PLR0911 - one for each sort
    # The messages of the errors themselves may quote the address.
    match error:
        case asyncio.TimeoutError():
            return NoAnswer(Why.TOO_SLOW, f"there is no answer within {timeout:g} s")
        case aiohttp.ClientConnectorDNSError():
            return NoAnswer(Why.NO_NAME, "the name of its host is not known")
        case aiohttp.ClientConnectorCertificateError():
            told = getattr(error.certificate_error, "verify_message", "") or "it is not valid"
            return NoAnswer(Why.CERTIFICATE, f"its certificate is not accepted: {told}")
        case aiohttp.ClientSSLError():
            return NoAnswer(Why.TLS, "no TLS connection can be made with it")
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return NoAnswer(Why.REFUSED, "nothing listens there: the connection is refused")
        case aiohttp.ClientConnectorError(os_error=cause):
            told = os.strerror(cause.errno) if cause.errno else "no reason is given"
            return NoAnswer(Why.NO_WAY, f"there is no way to it: {told}")
        case aiohttp.ClientResponseError():
            return NoAnswer(Why.NO_HTTP, "what answers there is not HTTP")
        case _:
            return NoAnswer(Why.CUT, "the connection is closed without an answer")
