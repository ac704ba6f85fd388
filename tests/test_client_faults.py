"""What the client makes of a platform and a network that misbehave, counted at the socket.

Each fault is met by each operation on both transports. `call` must never arrive twice.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from unittest.mock import Mock

import httpcore
import httpx
import pytest
from faulty_platform import (
    APP_ID,
    CALLEE,
    CALLER,
    DONE,
    SECRET,
    TLS,
    TRANSPORTS,
    Connection,
    FaultyPlatform,
    Options,
    always,
    close_after_reading,
    close_before_reading,
    connect,
    endless_reply,
    half_a_chunk,
    half_a_reply,
    http,
    late,
    never_answer,
    no_http,
    no_tls,
    once,
    reset_after_reading,
    reset_in_the_reply,
    silent,
    trickle,
    unconnectable,
    unreachable,
)

from qmc_async.client import AsyncQmcClient
from qmc_async.errors import (
    ApiError,
    AuthenticationError,
    CallOutcomeUnknown,
    ExchangeError,
    RateLimited,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from faulty_platform import Behaviour

    Operation: TypeAlias = Callable[[AsyncQmcClient], Awaitable[object]]

OUT_CALL_ID = "order-42"
OPERATIONS: dict[str, Operation] = {
    "call": lambda client: client.call(CALLER, CALLEE, out_call_id=OUT_CALL_ID),
    "endCall": lambda client: client.end_call("c-1"),
    "record": lambda client: client.recording("c-1"),
}

# Read when the tests are collected: no test sees a variable of ours from outside.
FULL = int(os.environ.get("QMC_FAULT_ROUNDS", "2")) >= 50

both_transports = pytest.mark.parametrize("transport", TRANSPORTS)
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off for hundredths of a second."""
    monkeypatch.setattr("qmc_async.retry.FIRST_WAIT", 0.01)


async def failure(operation: str, client: AsyncQmcClient) -> ExchangeError:
    """The exception that an operation ends with."""
    with pytest.raises(ExchangeError) as caught:
        await OPERATIONS[operation](client)
    return caught.value


# --- The table --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """What comes of a fault: the exception, how many attempts, how many requests were read."""

    error: type[ExchangeError]
    attempts: int
    requests: int


@dataclass(frozen=True)
class Fault:
    """A fault, and what comes of it; None stands for an address that nobody serves."""

    name: str
    behaviour: Behaviour | None
    call: Expected
    others: Expected
    http_status: int | None = None
    code: int | None = None
    url: str = "{}"
    options: Options = field(default_factory=Options)


NOTHING_LEFT = Expected(TransportError, 3, 0)
UNKNOWN = Expected(CallOutcomeUnknown, 1, 1)
NO_USE = Expected(TransportError, 3, 3)
REFUSED = Expected(ApiError, 1, 1)
FORBIDDEN = Expected(AuthenticationError, 1, 1)
LIMITED = Expected(RateLimited, 1, 1)
SHORT: Options = {"timeout": 0.2}

FAULTS = [
    # No connection comes about.
    Fault(
        "name that does not resolve",
        None,
        NOTHING_LEFT,
        NOTHING_LEFT,
        url="http://nonexistent.invalid",
    ),
    Fault("TLS against plain text", no_tls, NOTHING_LEFT, NOTHING_LEFT, url="https{}"),
    Fault(
        "TLS handshake unanswered", silent, NOTHING_LEFT, NOTHING_LEFT, url="https{}", options=SHORT
    ),
    # The connection breaks.
    Fault(
        "closed before reading",
        close_before_reading,
        Expected(CallOutcomeUnknown, 1, 0),
        Expected(TransportError, 3, 0),
    ),
    Fault("closed after reading", close_after_reading, UNKNOWN, NO_USE),
    Fault("reset after reading", reset_after_reading, UNKNOWN, NO_USE),
    Fault("reset in the reply", reset_in_the_reply, UNKNOWN, NO_USE),
    Fault("closed in the reply", half_a_reply, UNKNOWN, NO_USE),
    Fault("closed in a chunk", half_a_chunk, UNKNOWN, NO_USE),
    # The reply is too slow.
    Fault("no reply", never_answer, UNKNOWN, NO_USE, options=SHORT),
    Fault("reply after the timeout", late(http(DONE), 0.6), UNKNOWN, NO_USE, options=SHORT),
    Fault(
        "reply that trickles past the deadline",
        trickle,
        UNKNOWN,
        Expected(TransportError, 1, 1),
        options={"timeout": 0.15, "deadline": 0.3},
    ),
    # The reply makes no sense.
    Fault("not HTTP", no_http, UNKNOWN, NO_USE),
    Fault("empty reply", always(http(b"")), UNKNOWN, NO_USE, 200),
    Fault("200 with HTML", always(http(b"<html>ok</html>")), UNKNOWN, NO_USE, 200),
    Fault("200 with half a JSON", always(http(DONE[:-9])), UNKNOWN, NO_USE, 200),
    Fault("200 with a list", always(http(b"[]")), UNKNOWN, NO_USE, 200),
    Fault("200 without a code", always(http(b'{"data": {}}')), UNKNOWN, NO_USE, 200),
    Fault(
        "compressed nonsense",
        always(http(DONE, headers="Content-Encoding: gzip\r\n")),
        UNKNOWN,
        NO_USE,
    ),
    Fault("reply above 1 MiB", always(http(DONE + b" " * 1024 * 1024)), UNKNOWN, NO_USE),
    Fault("reply without end", endless_reply, UNKNOWN, NO_USE),
    Fault("204", always(http(b"", "204 No Content")), UNKNOWN, NO_USE, 204),
    Fault("302", always(http(b"", "302 Found", "Location: /x\r\n")), UNKNOWN, NO_USE, 302),
    Fault(
        "307",
        always(http(b"", "307 Temporary Redirect", "Location: /x\r\n")),
        UNKNOWN,
        NO_USE,
        307,
    ),
    # The platform fails.
    Fault("500", always(http(b"", "500 Oops")), UNKNOWN, Expected(ApiError, 3, 3), 500),
    Fault(
        "502 with a success inside",
        always(http(DONE, "502 Bad Gateway")),
        UNKNOWN,
        Expected(ApiError, 3, 3),
        502,
        200,
    ),
    Fault("404 with a success inside", always(http(DONE, "404 Not Found")), UNKNOWN, NO_USE, 404),
    Fault("408", always(http(b"", "408 Request Timeout")), UNKNOWN, NO_USE, 408),
    # The platform says no.
    Fault("400", always(http(b"bad", "400 Bad Request")), REFUSED, REFUSED, 400),
    Fault(
        "404 with an envelope",
        always(http(b'{"code": 40004}', "404 Not Found")),
        REFUSED,
        REFUSED,
        404,
        40004,
    ),
    Fault("200 with code 500", always(http(b'{"code": 500}')), REFUSED, REFUSED, 200, 500),
    Fault("200 with code as text", always(http(b'{"code": "-1"}')), REFUSED, REFUSED, 200, -1),
    Fault("401", always(http(b"", "401 Unauthorized")), FORBIDDEN, FORBIDDEN, 401),
    Fault("403", always(http(b"", "403 Forbidden")), FORBIDDEN, FORBIDDEN, 403),
    Fault("200 with code 401", always(http(b'{"code": 401}')), FORBIDDEN, FORBIDDEN, 200, 401),
    Fault("200 with code 403", always(http(b'{"code": 403}')), FORBIDDEN, FORBIDDEN, 200, 403),
    Fault(
        "429",
        always(http(b"", "429 Too Many Requests")),
        LIMITED,
        Expected(RateLimited, 3, 3),
        429,
    ),
    Fault(
        "429 with Retry-After",
        always(http(b"", "429 Too Many Requests", "Retry-After: 0\r\n")),
        LIMITED,
        Expected(RateLimited, 3, 3),
        429,
    ),
    Fault(
        "200 with code 429",
        always(http(b'{"code": 429}')),
        LIMITED,
        Expected(RateLimited, 3, 3),
        200,
        429,
    ),
    Fault(
        "Retry-After beyond the deadline",
        always(http(b"", "429 Too Many Requests", "Retry-After: 3600\r\n")),
        LIMITED,
        LIMITED,
        429,
    ),
    Fault(
        "hostile headers",
        always(
            http(
                b"",
                "503 Service Unavailable",
                "Date: Mon, 01 Jan 99999999999999999999 00:00:00 GMT\r\n"
                "Retry-After: Mon, 01 Jan 99999999999999999999 00:00:00 GMT\r\n",
            )
        ),
        UNKNOWN,
        Expected(ApiError, 3, 3),
        503,
    ),
]


@both_transports
@each_operation
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_fault(fault: Fault, operation: str, transport: str) -> None:
    """Each fault raises what it means, after as many requests as are safe, with its facts."""
    expected = fault.call if operation == "call" else fault.others
    async with FaultyPlatform(fault.behaviour or silent) as platform:
        url = platform.url if fault.url == "{}" else fault.url.format(platform.url[4:])
        async with connect(url, transport, **fault.options) as client:
            error = await failure(operation, client)
            await asyncio.sleep(0)
    assert type(error) is expected.error
    assert error.attempts == expected.attempts
    assert len(platform.requests) == expected.requests
    assert error.endpoint == operation
    assert error.http_status == fault.http_status
    assert error.code == fault.code
    assert error.out_call_id == (OUT_CALL_ID if operation == "call" else None)
    assert 0 < error.elapsed < 5
    # People read the message, and act on it.
    message = str(error)
    assert message.startswith(f"{operation}: ")
    assert ("do not place it again" in message) is (expected.error is CallOutcomeUnknown)
    assert (f"out_call_id {OUT_CALL_ID}" in message) is (expected.error is CallOutcomeUnknown)
    nothing_left = operation == "call" and expected.error is TransportError
    assert ("nothing left this machine, so no call was placed" in message) is nothing_left
    assert ("APPSECRET" in message) is (expected.error is AuthenticationError)
    assert (f"in the last of {expected.attempts} attempts" in message) is (expected.attempts > 1)


@both_transports
@each_operation
async def test_refused(operation: str, transport: str) -> None:
    """A refused connection is tried again, for `call` too: nothing can have left."""
    async with unreachable() as url, connect(url, transport) as client:
        error = await failure(operation, client)
    assert type(error) is TransportError
    assert error.attempts == 3
    assert "no connection could be made" in str(error)


@both_transports
@each_operation
async def test_connect_times_out(operation: str, transport: str) -> None:
    """A connection that does not come about in time is tried again, for `call` too."""
    async with unconnectable() as url, connect(url, transport, timeout=0.06) as client:
        error = await failure(operation, client)
    assert type(error) is TransportError
    assert error.attempts == 3
    assert "no connection within the timeout" in str(error)


@both_transports
@each_operation
async def test_pool_exhausted(operation: str, transport: str) -> None:
    """Who gets no connection from the pool has sent nothing, and is told so."""
    async with (
        FaultyPlatform(never_answer) as platform,
        connect(
            platform.url, transport, timeout=0.06, limits=httpx.Limits(max_connections=1)
        ) as client,
    ):
        patient = client.with_options(timeout=30)
        hanging = asyncio.ensure_future(patient.end_call("c-0"))
        await platform.received(1)
        error = await failure(operation, client)
        assert type(error) is TransportError
        assert error.attempts == 3
        assert len(platform.requests) == 1
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging


@both_transports
async def test_deadline_while_connecting(transport: str) -> None:
    """A deadline that ends while the connection is sought leaves no doubt: nothing left."""
    async with (
        unconnectable() as url,
        connect(url, transport, timeout=30, deadline=0.3) as client,
    ):
        error = await failure("call", client)
    assert type(error) is TransportError
    assert "nothing left this machine" in str(error)
    assert error.elapsed < 0.5


@pytest.mark.parametrize("deadline", [0.5, 4.9, 5.1, 5.3, 6.0, 7.5, 30.0])
async def test_timeouts_end_before_the_deadline(deadline: float) -> None:
    """Every phase ends before the deadline, though aiohttp rounds above 5 s up to whole seconds.

    Otherwise a call that waited for the pool in vain would have an unknown outcome.
    """
    seen: list[dict[str, float]] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(200, content=DONE)

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(note)) as plain,
        AsyncQmcClient(
            APP_ID, SECRET, timeout=1000, deadline=deadline, http_client=plain
        ) as client,
    ):
        await client.call(CALLER, CALLEE)
    for phase, seconds in seen[0].items():
        latest = seconds + 1 if seconds > 5 else seconds
        assert latest < deadline, phase
        assert seconds > deadline * 0.7 or phase == "connect", phase
    assert seen[0]["connect"] <= 5


async def test_wait_overshoots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that ends past the deadline does not turn "nothing left" into "unknown"."""

    async def overshoot(seconds: float) -> None:
        del seconds
        await real_sleep(0.4)

    real_sleep = asyncio.sleep
    async with unreachable() as url, connect(url, deadline=0.3, max_retries=1) as client:
        monkeypatch.setattr(asyncio, "sleep", overshoot)
        error = await failure("call", client)
        monkeypatch.undo()
    assert type(error) is TransportError
    assert error.attempts == 2


@both_transports
@each_operation
async def test_refused_then_listening(
    operation: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not leave is sent again once somebody listens, and arrives once."""
    monkeypatch.setattr("random.uniform", Mock(return_value=0.2))
    platform = FaultyPlatform(always(http(DONE)))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    async with connect(f"http://127.0.0.1:{port}", transport) as client:
        task = asyncio.ensure_future(OPERATIONS[operation](client))
        await asyncio.sleep(0.1)
        assert not task.done()
        async with platform.on(port):
            await task
    assert len(platform.requests) == 1


@both_transports
@pytest.mark.parametrize("operation", ["endCall", "record"])
async def test_recovers(operation: str, transport: str) -> None:
    """What may be repeated succeeds once the platform does, within `max_retries`."""
    behaviours = [close_after_reading, once(http(b"", "503 Oops")), always(http(DONE))]
    async with (
        FaultyPlatform(*behaviours) as platform,
        connect(platform.url, transport) as client,
    ):
        await OPERATIONS[operation](client)
    assert len(platform.requests) == 3


@both_transports
async def test_late_reply_is_not_the_next_ones(transport: str) -> None:
    """A reply that came too late is never taken for the answer to the next request."""
    old = http(DONE.replace(b"c-1", b"c-old"))
    async with (
        FaultyPlatform(late(old, 0.2), always(http(DONE))) as platform,
        connect(platform.url, transport, timeout=0.1) as client,
    ):
        assert type(await failure("call", client)) is CallOutcomeUnknown
        await asyncio.sleep(0.2)
        assert (await client.call(CALLER, CALLEE)).call_id == "c-1"


async def test_surplus_reply_is_not_the_next_ones() -> None:
    """A second reply to one request is never taken for the answer to the next request.

    A plain httpx client fails this, as h11 keeps the surplus: another reason for our transport.
    """
    surplus = http(DONE) + http(DONE.replace(b"c-1", b"c-old"))
    async with FaultyPlatform(always(surplus)) as platform, connect(platform.url) as client:
        for _ in range(3):
            assert (await client.call(CALLER, CALLEE)).call_id == "c-1"
    assert platform.connections == 3


@both_transports
async def test_longest_reply(transport: str) -> None:
    """A reply of exactly 1 MiB is still read."""
    body = DONE + b" " * (1024 * 1024 - len(DONE))
    async with (
        FaultyPlatform(always(http(body))) as platform,
        connect(platform.url, transport) as client,
    ):
        assert (await client.call(CALLER, CALLEE)).call_id == "c-1"


# --- Redirects, the injected client's own ideas, strange transports -----------------------------


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
async def test_redirect_is_never_followed(status: str) -> None:
    """A client that would follow redirects does not: the target could ring again."""
    async with (
        FaultyPlatform(always(http(DONE))) as target,
        FaultyPlatform(always(http(b"", status, f"Location: {target.url}/x\r\n"))) as platform,
        httpx.AsyncClient(follow_redirects=True, trust_env=False) as plain,
        AsyncQmcClient(APP_ID, SECRET, base_url=platform.url, http_client=plain) as client,
    ):
        error = await failure("call", client)
    assert type(error) is CallOutcomeUnknown
    assert error.http_status == int(status[:3])
    assert (len(platform.requests), len(target.requests)) == (1, 0)


async def test_injected_clients_own_credentials() -> None:
    """An injected client's `auth` and headers do not displace our signature."""
    async with (
        FaultyPlatform(always(http(DONE))) as platform,
        httpx.AsyncClient(
            auth=("user", "password"),
            headers={
                "Authorization": "Bearer theirs",
                "Content-Type": "text/plain",
                "X-Trace": "kept",
            },
            trust_env=False,
        ) as plain,
        AsyncQmcClient(APP_ID, SECRET, base_url=platform.url, http_client=plain) as client,
    ):
        await client.call(CALLER, CALLEE)
    request = platform.seen[0]
    assert request.raw.lower().count(b"authorization:") == 1
    assert request.signed[0] == str(APP_ID)
    assert request.headers["content-type"] == "application/json;charset=utf-8"
    assert request.headers["x-trace"] == "kept"


class Strange(httpx.AsyncBaseTransport):
    """A user's transport that raises what nobody foresaw."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.requests = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Count, and raise."""
        del request
        self.requests += 1
        raise self.error


def _caused_by_itself() -> Exception:
    error = RuntimeError("a chain without an end")
    error.__cause__ = error
    return error


def _two_in_a_ring() -> Exception:
    error, other = OSError("one"), OSError("the other")
    error.__cause__, other.__cause__ = other, error
    return error


@pytest.mark.parametrize(
    "error",
    [
        KeyError("what"),
        RuntimeError("no idea"),
        OSError("lost"),
        ConnectionRefusedError("by whom?"),
        TimeoutError("of what?"),
        httpx.ConnectError("says who?"),
        httpx.ConnectTimeout("as aiohttp says when the platform hung up"),
        httpx.PoolTimeout("not from httpcore"),
        ExceptionGroup("several", [OSError("lost")]),
        StopAsyncIteration(),
        _caused_by_itself(),
        _two_in_a_ring(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_strange_transport(error: Exception) -> None:
    """Whatever an unknown transport raises, the request may have arrived; nothing else escapes."""
    strange = Strange(error)
    async with (
        httpx.AsyncClient(transport=strange) as plain,
        AsyncQmcClient(APP_ID, SECRET, http_client=plain) as client,
    ):
        unknown = await failure("call", client)
        assert type(unknown) is CallOutcomeUnknown
        assert type(error).__name__ in str(unknown)
        assert strange.requests == 1
        assert type(await failure("endCall", client)) is TransportError
        assert strange.requests == 4


class SendsAgain(httpx.AsyncHTTPTransport):
    """A user's transport that sends again whatever broke: it must not, but some do."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send twice."""
        try:
            return await super().handle_async_request(request)
        except httpx.HTTPError:
            return await super().handle_async_request(request)


async def test_transport_that_sends_again() -> None:
    """A connection refused upon a second sending does not hide that the first one left."""

    async def go(connection: Connection) -> None:
        await connection.read_request()
        platform.stop_listening()

    platform = FaultyPlatform(go)
    async with (
        platform,
        httpx.AsyncClient(transport=SendsAgain()) as plain,
        AsyncQmcClient(APP_ID, SECRET, base_url=platform.url, http_client=plain) as client,
    ):
        error = await failure("call", client)
    assert type(error) is CallOutcomeUnknown
    assert "ConnectionRefusedError" in str(error) or "ConnectError" in str(error)
    assert len(platform.requests) == error.attempts == 1


@pytest.mark.parametrize("when", ["request", "response"])
async def test_hook_that_cannot_connect(when: str) -> None:
    """A hook of an injected client that fails to connect elsewhere proves nothing about us."""
    seen: list[str] = []

    async def report(_: httpx.Request | httpx.Response) -> None:
        seen.append(when)
        async with httpx.AsyncClient(trust_env=False, verify=TLS) as other, unreachable() as url:
            await other.get(url)

    async with (
        FaultyPlatform(always(http(DONE))) as platform,
        httpx.AsyncClient(event_hooks={when: [report]}, trust_env=False) as plain,
        AsyncQmcClient(APP_ID, SECRET, base_url=platform.url, http_client=plain) as client,
    ):
        error = await failure("call", client)
    assert type(error) is CallOutcomeUnknown
    assert seen == [when]


async def test_hook_that_makes_an_error_up() -> None:
    """Nor does an error of httpx's that belongs to no request."""

    async def complain(_: httpx.Request) -> None:
        raise httpx.ConnectError("made up") from httpcore.ConnectError()

    async with (
        FaultyPlatform(always(http(DONE))) as platform,
        httpx.AsyncClient(event_hooks={"request": [complain]}, trust_env=False) as plain,
        AsyncQmcClient(APP_ID, SECRET, base_url=platform.url, http_client=plain) as client,
    ):
        error = await failure("call", client)
    assert type(error) is CallOutcomeUnknown


# --- Connections that are kept ------------------------------------------------------------------


@both_transports
@each_operation
async def test_idle_connection_closed_by_the_platform(operation: str, transport: str) -> None:
    """A connection that the platform closed while it idled costs nothing: one request each."""

    async def close_when_idle(connection: Connection) -> None:
        await connection.answer(http(DONE))
        await asyncio.sleep(0.05)

    async with (
        FaultyPlatform(close_when_idle, always(http(DONE))) as platform,
        connect(platform.url, transport) as client,
    ):
        await OPERATIONS[operation](client)
        await asyncio.sleep(0.15)
        await OPERATIONS[operation](client)
    assert (len(platform.requests), platform.connections) == (2, 2)


@both_transports
async def test_kept_connection_closed_upon_the_request(transport: str) -> None:
    """A kept connection that breaks upon a request leaves `call` unknown, and is not retried."""

    async def close_upon_the_second(connection: Connection) -> None:
        await connection.answer(http(DONE))
        await connection.read_request()

    async with (
        FaultyPlatform(close_upon_the_second, always(http(DONE))) as platform,
        connect(platform.url, transport) as client,
    ):
        await client.call(CALLER, CALLEE)
        error = await failure("call", client)
        assert type(error) is CallOutcomeUnknown
        assert error.attempts == 1
        assert (len(platform.requests), platform.connections) == (2, 1)


@both_transports
@pytest.mark.parametrize("operation", ["endCall", "record"])
async def test_kept_connection_closed_upon_a_repeatable_request(
    operation: str, transport: str
) -> None:
    """What may be repeated survives that, on a new connection."""

    async def close_upon_the_second(connection: Connection) -> None:
        await connection.answer(http(DONE))
        await connection.read_request()

    async with (
        FaultyPlatform(close_upon_the_second, always(http(DONE))) as platform,
        connect(platform.url, transport) as client,
    ):
        await client.end_call("c-0")
        await OPERATIONS[operation](client)
        assert (len(platform.requests), platform.connections) == (3, 2)


@both_transports
async def test_connection_dies_in_the_same_moment(transport: str) -> None:
    """A connection that dies before the event loop could notice: sent once, or unknown."""
    async with (
        FaultyPlatform(always(http(DONE))) as platform,
        connect(platform.url, transport) as client,
    ):
        await client.call(CALLER, CALLEE)
        sock = platform.current[0].writer.get_extra_info("socket")
        sock.shutdown(socket.SHUT_RDWR)
        placed = 1
        try:
            await client.call(CALLER, CALLEE)
            placed = 2
        except CallOutcomeUnknown as error:
            assert error.attempts == 1  # noqa: PT017 - both endings are right
        assert len(platform.requests) == placed


# --- Cancellation -------------------------------------------------------------------------------


async def _cancel_many(client: AsyncQmcClient, calls: int, at_once: int) -> int:
    """Cancel calls at every moment of their lives; how many came to their end before."""
    moments = random.Random(20230829)  # noqa: S311 - the same moments each time
    ended = 0

    async def worker() -> None:
        nonlocal ended
        for _ in range(calls // at_once):
            task = asyncio.ensure_future(client.call(CALLER, CALLEE))
            if moments.random() < 0.2:
                await asyncio.sleep(moments.uniform(0, 0.005))
            else:
                for _ in range(moments.randrange(20)):
                    await asyncio.sleep(0)
            task.cancel()
            try:
                await task
                ended += 1
            except asyncio.CancelledError:
                pass

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return ended


@both_transports
@pytest.mark.timeout(240)
async def test_ten_thousand_cancelled(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    """After each 250 of 10,000 cancelled calls the next succeeds, and none arrived twice.

    Left to itself, httpx's own pool would have lost all its connections long before. That takes a
    while: there are 2,500, unless ``QMC_FAULT_ROUNDS`` asks for all.
    """
    caplog.set_level("ERROR", "qmc_async.client")
    lots, ended = 40 if FULL else 10, 0
    calls = 250 * lots
    async with (
        FaultyPlatform(always(http(DONE))) as platform,
        connect(platform.url, transport) as client,
    ):
        patient = client.with_options(timeout=20, max_retries=0)
        for _ in range(lots):
            ended += await _cancel_many(client, 250, 50)
            assert (await patient.call(CALLER, CALLEE)).call_id == "c-1"
        arrived = len(platform.requests)
        assert len({request.json["outCallId"] for request in platform.seen}) == arrived
        # Many were cancelled before they left, many after, and some were too late to cancel.
        assert calls / 100 < arrived < calls
        assert 0 < ended < calls


@both_transports
@pytest.mark.parametrize("before", [0, 1], ids=["new", "kept"])
async def test_cancelled_at_every_step(
    transport: str, before: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelled after any number of steps of the loop, a call gives its connection back.

    The pool has one connection, and so a single loss would show.
    """
    caplog.set_level("ERROR", "qmc_async.client")
    ended: set[bool] = set()
    async with FaultyPlatform(always(http(DONE))) as platform:
        for steps in range(40):
            async with connect(
                platform.url,
                transport,
                timeout=2,
                max_retries=0,
                limits=httpx.Limits(max_connections=1),
            ) as client:
                for _ in range(before):
                    await client.call(CALLER, CALLEE)
                two = [asyncio.ensure_future(client.call(CALLER, CALLEE)) for _ in range(2)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                ended.add(two[0].done())
                for task in two:
                    task.cancel()
                await asyncio.gather(*two, return_exceptions=True)
                assert (await client.call(CALLER, CALLEE)).call_id == "c-1", steps
    assert ended == {False, True}  # from the first step to after the last


@both_transports
async def test_cancelled_before_it_left(transport: str) -> None:
    """A `call` that is cancelled while it waits for a connection never leaves."""
    async with (
        FaultyPlatform(late(http(DONE), 0.2)) as platform,
        connect(platform.url, transport, limits=httpx.Limits(max_connections=1)) as client,
    ):
        first = asyncio.ensure_future(client.call(CALLER, CALLEE))
        await platform.received(1)
        second = asyncio.ensure_future(client.call(CALLER, CALLEE, out_call_id=OUT_CALL_ID))
        await asyncio.sleep(0.05)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await first
        await client.call(CALLER, CALLEE)
        sent = [request.json["outCallId"] for request in platform.seen]
    assert len(sent) == 2
    assert OUT_CALL_ID not in sent


@both_transports
async def test_cancelled_call_is_not_repeated(transport: str) -> None:
    """A `call` that was cancelled while it waited for its reply has been sent once."""
    async with (
        FaultyPlatform(never_answer) as platform,
        connect(platform.url, transport) as client,
    ):
        task = asyncio.ensure_future(client.call(CALLER, CALLEE, out_call_id=OUT_CALL_ID))
        await platform.received(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)
        assert len(platform.requests) == 1


@both_transports
async def test_cancelled_while_backing_off(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits to try again is cancelled at once, and tries no more."""
    monkeypatch.setattr("random.uniform", Mock(return_value=20.0))
    async with (
        FaultyPlatform(always(http(b"", "503 Oops"))) as platform,
        connect(platform.url, transport) as client,
    ):
        task = asyncio.ensure_future(client.end_call("c-1"))
        await platform.received(1)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(platform.requests) == 1
