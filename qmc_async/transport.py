"""HTTP to the platform, and the one question that matters of an error: can the request have left?

httpx does the talking, on aiohttp's connection pool (`httpx_aiohttp`), which is asked directly:
what `httpx.AsyncClient` does for cookies, redirects and logins, which the platform has none of,
takes a third of the time of a call. A client that the user injects is asked as its user expects.
Two things about that pair are not what they seem:

- A server that closes the connection *after reading the request* comes out as
  `httpx.ConnectTimeout`, the same class as a refused connection. So the class that httpx shows
  decides nothing here; the causes below it do.
- Exceptions of both libraries hold the request, with its ``Authorization`` and the telephone
  numbers, and some print it. So none of them leaves this module.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from qmc_async.errors import ConfigError
from qmc_async.recording_address import RecordingHosts
from qmc_async.retry import parse_retry_after
from qmc_async.verdict import NoReply, Reply

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterable, Callable, Iterable, Iterator

    from yarl import URL

    from qmc_async.recording_address import AddressInfo
    from qmc_async.signer import Signer

__all__ = ["DEFAULT_LIMITS", "Transport"]

DEFAULT_LIMITS: Final = httpx.Limits(
    max_connections=100, max_keepalive_connections=100, keepalive_expiry=5.0
)
"""A connection idles for five seconds at most: a stale one makes a good call's outcome unknown."""

_LONGEST_REPLY = 1024 * 1024
_CONNECT_TIMEOUT = 5.0
_HEADERS = [
    (b"Content-Type", b"application/json;charset=utf-8"),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),
]
# Raised only while a connection is sought, and so before a byte of the request is written.
_NOTHING_LEFT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
# The same of httpcore, whose import takes as long as half of ours: only who injects a client that
# stands on it has it.
_NOTHING_LEFT_OF_HTTPCORE = ("ConnectError", "ConnectTimeout", "PoolTimeout")
_TIMEOUTS = ("TimeoutException",)


class Transport:
    """One client's connections, and the rule that they belong to one event loop.

    Args:
        signer: signs each request as it leaves, and learns the clock from each reply.
        http_client: the user's own; it is not closed here. None for ours.
        limits: for ours.
        recording_hosts: where recordings may be fetched from.

    Raises:
        ConfigError: `http_client` is something else.
    """

    def __init__(
        self,
        signer: Signer,
        http_client: httpx.AsyncClient | None = None,
        limits: httpx.Limits = DEFAULT_LIMITS,
        recording_hosts: RecordingHosts | None = None,
    ) -> None:
        if not isinstance(http_client, httpx.AsyncClient | None):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
            # A synchronous client would place the call before anybody could see the mistake.
            raise ConfigError(
                f"http_client: it must be an httpx.AsyncClient, not {type(http_client).__name__}",
                setting="http_client",
            )
        self._signer = signer
        self._limits = limits
        # The session has its own TLS; the context here is used by nobody, and the one that would be
        # made in its place takes 30 ms.
        self._pool = AiohttpTransport(
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), client=self._open_session
        )
        self._http = http_client
        # The class of the transport is all that is read of httpx's own, and nothing else tells it.
        self._on_httpcore = http_client is not None and isinstance(
            http_client._transport,  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - see above
            httpx.AsyncHTTPTransport,
        )
        self._abandoned: set[asyncio.Task[Reply | NoReply]] = set()
        self._recording_hosts = recording_hosts or RecordingHosts()
        self._downloads: dict[bool, aiohttp.ClientSession] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def post(self, url: str, body: bytes, timeout: float) -> Reply | NoReply:  # noqa: ASYNC109 - each phase has its own
        """Sign, send once, and read the whole reply.

        Args:
            url: the whole address.
            body: JSON.
            timeout: seconds to wait for each piece of the reply, and for a connection at most
                five of them.

        Raises:
            RuntimeError: the client is closed, or belongs to another event loop.
        """
        self.check_usable()
        sent, offset = time.time(), self._signer.clock.offset
        headers = [*_HEADERS, (b"Authorization", self._signer.sign(sent).encode())]
        patience = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT))
        leaving = _Leaving()
        if self._http is None:
            # A stream, for which httpx adds no headers: aiohttp does.
            request = httpx.Request(
                "POST",
                _parsed(url),
                stream=httpx.ByteStream(body),
                headers=headers,
                extensions={"timeout": patience.as_dict()},
            )
            request.read()
            request.headers.encoding = "ascii"  # as they are: else each look at one finds it out
            return await self._send(request, leaving, sent, offset)
        request = self._http.build_request(
            "POST", _parsed(url), content=body, headers=headers, timeout=patience
        )
        request.extensions["trace"] = leaving.trace
        if not self._on_httpcore:
            return await self._send(request, leaving, sent, offset)
        # httpcore's pool loses a connection for ever where a request is cancelled at the wrong
        # moment (its issues 658 and 1093). So the request is not: it ends by itself, before it
        # leaves if it has not yet.
        sending = asyncio.create_task(self._send(request, leaving, sent, offset))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            leaving.abandoned = True
            self._abandoned.add(sending)
            sending.add_done_callback(self._abandoned.discard)
            raise

    async def _send(
        self, request: httpx.Request, leaving: _Leaving, sent: float, offset: float
    ) -> Reply | NoReply:
        clock = self._signer.clock
        try:
            if self._http is None:
                response = await self._pool.handle_async_request(request)
                response.headers.encoding = "latin-1"
                # As it comes: httpx would cut and count it once more.
                pieces = cast("AsyncIterable[bytes]", response.stream)
            else:
                # The injected client's own auth would replace our header, and a redirect followed
                # would send the request twice.
                response = await self._http.send(
                    request, stream=True, auth=None, follow_redirects=False
                )
                pieces = response.aiter_raw()
            received = time.time()
            try:
                content = await _read(response, pieces)
            finally:
                await response.aclose()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled this task: aiohttp cancels who waits for a connection when it closes.
            return NoReply(may_have_arrived=True, why="the client was closed meanwhile")
        except Exception as error:  # noqa: BLE001 - whatever an injected transport raises, the request may have arrived
            # A hook of an injected client may fail to connect somewhere else, with the reply in its
            # hands.
            about_us = isinstance(error, httpx.RequestError) and (
                self._http is None or _request_of(error) is request
            )
            return _explain(error, nothing_left=about_us and not leaving.begun)
        if content is None:
            why = "the reply is longer than 1 MiB, or compressed without being asked to"
            return NoReply(may_have_arrived=True, why=why)
        headers = response.headers
        if date := headers.get("Date"):
            clock.observe(date, sent, received)
        return Reply(
            http_status=response.status_code,
            body=content,
            private=(request.headers["Authorization"], self._signer.credentials.app_secret),
            # Against what this request was signed with: of many that are under way, the first to
            # come back corrects the clock, and the others were signed before that too.
            clock_was_wrong=abs(clock.offset - offset) > clock.threshold,
            retry_after=parse_retry_after(headers.get("Retry-After", ""), clock.time(received)),
        )

    def download_session(self, url: URL) -> aiohttp.ClientSession:
        """The connections for a recording: no ``Authorization``, no cookies, no log of URLs.

        They go where `RecordingHosts` lets them, and through no proxy.

        Raises:
            RuntimeError: as `post`.
        """
        self.check_usable()
        ours = self._recording_hosts.owns(url)
        if ours not in self._downloads:
            guard = None if ours else self._recording_hosts.open_socket
            self._downloads[ours] = self._open_session(guard)
        return self._downloads[ours]

    def check_usable(self) -> None:
        """Bind to the running event loop at the first use, and hold on to it.

        Raises:
            RuntimeError: the client is closed, or belongs to another event loop.
        """
        if self._closed or (self._http is not None and self._http.is_closed):
            raise RuntimeError("this AsyncQmcClient, or its http_client, is closed: make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(
                "this AsyncQmcClient was first used on another event loop, and its connections "
                "belong to that one: make one client for each loop"
            )

    async def aclose(self) -> None:
        """Close the connections; an injected client stays open. Closing twice is harmless."""
        self._closed = True
        await self._pool.aclose()
        for session in self._downloads.values():
            await session.close()

    def _open_session(
        self, socket_factory: Callable[[AddressInfo], socket.socket] | None = None
    ) -> aiohttp.ClientSession:
        # The pool cannot count idle connections, but it can keep none.
        none_kept = self._limits.max_keepalive_connections == 0
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._limits.max_connections or 0,
                force_close=none_kept,
                keepalive_timeout=None if none_kept else self._limits.keepalive_expiry,
                socket_factory=socket_factory,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )


async def _read(response: httpx.Response, pieces: AsyncIterable[bytes]) -> bytes | None:
    """The whole body, None if it is no reply of the platform's: too long, or compressed.

    It is not unpacked: a few bytes could unfold into more than this machine has.
    """
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return None
    if response.is_stream_consumed:  # a hook of the user's has read it, or a mock never streamed
        return response.content if len(response.content) <= _LONGEST_REPLY else None
    kept: list[bytes] = []
    length = 0
    async for piece in pieces:
        length += len(piece)
        if length > _LONGEST_REPLY:
            return None
        kept.append(piece)
    return b"".join(kept)


@lru_cache(maxsize=16)  # there are three, and to parse one takes as long as to sign a request
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


class _Leaving:
    """Watches httpcore send a request, through whatever an injected client has put around it.

    Attributes:
        begun: whether a byte of it may have left.
        abandoned: whether nobody waits for it any more: then it must not begin to leave.
    """

    def __init__(self) -> None:
        self.begun = False
        self.abandoned = False

    async def trace(self, event: str, _: object) -> None:
        """Called by httpcore (its ``trace`` extension) at each step."""
        leaves = event.endswith("send_request_headers.started")
        # At these two steps httpcore has nothing in its hands that an error would make it drop.
        if self.abandoned and not self.begun and (leaves or event.endswith("connect_tcp.started")):
            raise _AbandonedError
        self.begun = self.begun or leaves


class _AbandonedError(Exception):
    """Ends a request inside httpcore, which cleans up after an error as it should."""


def _explain(error: Exception, *, nothing_left: bool) -> NoReply:
    """What an error says.

    Args:
        error: any.
        nothing_left: whether nothing of the request has left if no connection was found.
    """
    chain = list(_causes(error))
    # A message may quote what was sent or what came back; a class's name cannot.
    name = next(type(cause).__name__ for cause in reversed(chain) if isinstance(cause, Exception))
    timed_out = any(isinstance(cause, (TimeoutError, *_of_httpcore(_TIMEOUTS))) for cause in chain)
    never_connected = (*_NOTHING_LEFT, *_of_httpcore(_NOTHING_LEFT_OF_HTTPCORE))
    if nothing_left and any(isinstance(cause, never_connected) for cause in chain):
        if any(isinstance(cause, ssl.SSLError) for cause in chain):
            why = f"no TLS connection could be made ({name})"
        elif timed_out:
            why = f"no connection within the timeout ({name})"
        else:
            why = f"no connection could be made ({name})"
        return NoReply(may_have_arrived=False, why=why)
    if timed_out:
        return NoReply(may_have_arrived=True, why=f"no reply within the timeout ({name})")
    return NoReply(may_have_arrived=True, why=f"the connection broke ({name})")


def _of_httpcore(names: Iterable[str]) -> list[type[Exception]]:
    """Its exceptions, where anybody has imported it."""
    httpcore = sys.modules.get("httpcore")
    # None, too, while another thread is importing it.
    found = [getattr(httpcore, name, None) for name in names]
    return [each for each in found if each is not None]


def _request_of(error: httpx.RequestError) -> httpx.Request | None:
    try:
        return error.request
    except RuntimeError:  # it was never set: some transport made the error by itself
        return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()  # ``raise error from error`` makes a chain without an end
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__
