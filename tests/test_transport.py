"""One client's connections: whose they are, which loop's, what they send and what they learn.

What a broken connection means is in `test_client_faults.py`, on both transports.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import httpx
import pytest
from faulty_platform import (
    APP_ID,
    DONE,
    SECRET,
    TRANSPORTS,
    FaultyPlatform,
    always,
    close_after_reading,
    date,
    endless_reply,
    http,
    keeps_time,
    late,
    never_answer,
    once,
    unreachable,
)
from yarl import URL

from qmc_async.errors import ConfigError
from qmc_async.recording_address import RecordingHosts
from qmc_async.signer import Credentials, Signer
from qmc_async.transport import DEFAULT_LIMITS, Transport
from qmc_async.verdict import NoReply, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from faulty_platform import Behaviour

BODY = b'{"callidentifier":"c-1"}'
OURS = "http://127.0.0.1:8"
ELSEWHERE = URL("http://files.invalid/1.wav")


@pytest.fixture
def signer() -> Signer:
    """The one that `transport` signs with."""
    return Signer(Credentials(APP_ID, SECRET))


@pytest.fixture(params=TRANSPORTS)
async def transport(request: pytest.FixtureRequest, signer: Signer) -> AsyncGenerator[Transport]:
    """A transport over our pool, and one over a plain httpx client."""
    if request.param == "ours":
        ours = Transport(signer)
        yield ours
        await ours.aclose()
        return
    async with httpx.AsyncClient(limits=DEFAULT_LIMITS, trust_env=False) as plain:
        theirs = Transport(signer, plain)
        yield theirs
        await theirs.aclose()
        assert not plain.is_closed


def make(
    http_client: httpx.AsyncClient | None = None, limits: httpx.Limits = DEFAULT_LIMITS
) -> Transport:
    """A transport with the tests' credentials."""
    return Transport(Signer(Credentials(APP_ID, SECRET)), http_client, limits)


async def reply(transport: Transport, url: str) -> Reply:
    """What comes back, which must be a reply."""
    outcome = await transport.post(url, BODY, 1.0)
    assert isinstance(outcome, Reply), outcome
    return outcome


# --- What is sent -------------------------------------------------------------------------------


async def test_request(transport: Transport) -> None:
    """The request is the document's, byte for byte, and says no more than it must."""
    async with FaultyPlatform(always(http(DONE))) as platform:
        got = await reply(transport, platform.url + "/api/x")
    (request,) = platform.seen
    assert request.line == "POST /api/x HTTP/1.1"
    assert request.body == BODY
    headers = dict(request.headers)
    assert headers.pop("user-agent")
    assert headers.pop("authorization")
    assert headers.pop("connection", "keep-alive") == "keep-alive"
    assert headers == {
        "host": platform.url.removeprefix("http://"),
        "content-type": "application/json;charset=utf-8",
        "content-length": str(len(BODY)),
        "accept": "application/json",
        "accept-encoding": "identity",
    }
    assert (got.http_status, got.body) == (200, DONE)


async def test_authorization(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header is the document's: Base64 of APPID, milliseconds and their MD5 with the secret."""
    moment = SimpleNamespace(time=lambda: 1693270226.642)
    monkeypatch.setattr("qmc_async.transport.time", moment)
    async with FaultyPlatform(always(http(DONE))) as platform:
        await reply(transport, platform.url)
    app_id, timestamp, sign = platform.seen[0].signed
    assert (app_id, timestamp) == ("1696054309969104898", "1693270226642")
    plain = f"1696054309969104898:{SECRET}:1693270226642"
    assert sign == hashlib.md5(plain.encode(), usedforsecurity=False).hexdigest()


async def test_known_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vector of the platform's page reaches the wire (its secret is ``secret``)."""
    monkeypatch.setattr("qmc_async.transport.time", SimpleNamespace(time=lambda: 1693270226.642))
    transport = Transport(Signer(Credentials(1696054309969104898, "secret")))
    async with FaultyPlatform(always(http(DONE))) as platform:
        await reply(transport, platform.url)
        await transport.aclose()
    assert platform.seen[0].signed == (
        "1696054309969104898",
        "1693270226642",
        "afd0fc7d026834e1ac42e87875b0d9a8",
    )


async def test_environment_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own client goes straight to the platform; a proxy is for `http_client` to bring."""
    async with (
        FaultyPlatform(always(http(b"", "502 Proxy"))) as proxy,
        FaultyPlatform(always(http(DONE))) as platform,
    ):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        transport = make()
        await reply(transport, platform.url)
        await transport.aclose()
    assert (len(platform.requests), proxy.connections) == (1, 0)


# --- What is learned ----------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-540, 540])
async def test_clock(transport: Transport, offset: int) -> None:
    """A ``Date`` nine minutes off is learned from one reply, and the next is signed with it."""
    async with FaultyPlatform(keeps_time(offset)) as platform:
        refused = await reply(transport, platform.url)
        assert (refused.http_status, refused.clock_was_wrong) == (401, True)
        accepted = await reply(transport, platform.url)
        assert (accepted.http_status, accepted.clock_was_wrong) == (200, False)
    assert platform.seen[1].timestamp == pytest.approx(time.time() + offset, abs=2)


async def test_clock_for_requests_under_way(transport: Transport) -> None:
    """Of requests that left together, each knows that it was signed with the wrong time.

    The first to come back corrects the clock; the others were signed before that just as well.
    """
    async with FaultyPlatform(keeps_time(540)) as platform:
        replies = await asyncio.gather(*(reply(transport, platform.url) for _ in range(5)))
    assert [got.clock_was_wrong for got in replies] == [True] * 5


@pytest.mark.parametrize(
    "header", ["", "Date: \r\n", "Date: nonsense\r\n", "Date: 0\r\n", "Date: \xe5\r\n"]
)
async def test_no_clock(transport: Transport, signer: Signer, header: str) -> None:
    """Without a readable ``Date`` nothing is learned, and nothing breaks."""
    async with FaultyPlatform(always(http(DONE, headers=header))) as platform:
        got = await reply(transport, platform.url)
    assert not got.clock_was_wrong
    assert signer.clock.offset == 0


async def test_right_clock(transport: Transport, signer: Signer) -> None:
    """A ``Date`` that agrees changes nothing."""
    async with FaultyPlatform(always(http(DONE, headers=date()))) as platform:
        got = await reply(transport, platform.url)
    assert not got.clock_was_wrong
    assert signer.clock.offset == 0


async def test_retry_after_counts_from_the_platforms_clock(transport: Transport) -> None:
    """A date in ``Retry-After`` is the platform's, so its clock tells how long that is."""
    headers = date(3600) + date(3610).replace("Date", "Retry-After")
    async with FaultyPlatform(always(http(b"", "429 Slow", headers))) as platform:
        got = await reply(transport, platform.url)
    assert got.retry_after == pytest.approx(10, abs=2)


async def test_retry_after_in_seconds(transport: Transport) -> None:
    """Seconds are taken as they are, and want of the header is None."""
    limited = http(b"", "429 Slow", "Retry-After: 17\r\nConnection: close\r\n")
    async with FaultyPlatform(once(limited), always(http(DONE))) as platform:
        assert (await reply(transport, platform.url)).retry_after == 17
        assert (await reply(transport, platform.url)).retry_after is None


async def test_what_is_private(transport: Transport) -> None:
    """A reply tells what must not be shown if the platform quotes it: the header, the secret."""
    async with FaultyPlatform(always(http(DONE))) as platform:
        got = await reply(transport, platform.url)
    assert set(got.private) == {platform.seen[0].headers["authorization"], SECRET}


@pytest.mark.parametrize("length", [len(DONE), 1024 * 1024, 1024 * 1024 + 1])
async def test_read_by_a_hook(length: int) -> None:
    """A reply that an injected client's hook has read already is a reply like any other."""

    async def read(response: httpx.Response) -> None:
        await response.aread()

    async with (
        FaultyPlatform(always(http(DONE.ljust(length)))) as platform,
        httpx.AsyncClient(event_hooks={"response": [read]}, trust_env=False) as theirs,
    ):
        outcome = await make(theirs).post(platform.url, BODY, 1.0)
    if length > 1024 * 1024:
        assert isinstance(outcome, NoReply)
    else:
        assert isinstance(outcome, Reply)
        assert outcome.body == DONE.ljust(length)


async def test_mocked() -> None:
    """A reply of `httpx.MockTransport`, as of respx, is a reply like any other."""
    mock = httpx.MockTransport(lambda _: httpx.Response(200, content=DONE))
    async with httpx.AsyncClient(transport=mock) as theirs:
        assert (await reply(make(theirs), "http://platform.invalid")).body == DONE


def test_a_synchronous_client(signer: Signer) -> None:
    """It would place the call before it failed to be awaited: it is refused at once."""
    with httpx.Client() as synchronous, pytest.raises(ConfigError, match="must be an httpx"):
        Transport(signer, synchronous)  # type: ignore[arg-type]  # the mistake


async def test_no_cookie_is_kept(signer: Signer) -> None:
    """What a reply sets, the next request does not bring: the platform has no sessions."""
    ours = Transport(signer)
    async with FaultyPlatform(
        always(http(DONE, headers="Set-Cookie: a=b; Path=/\r\n"))
    ) as platform:
        for _ in range(2):
            await reply(ours, platform.url)
        await ours.aclose()
    assert len(platform.seen) == 2
    assert not [request for request in platform.seen if "cookie" in request.headers]


# --- Whose connections they are -----------------------------------------------------------------


async def test_injected_client_stays_open() -> None:
    """Closing leaves an injected client open, and usable by its owner."""
    async with (
        FaultyPlatform(always(http(DONE))) as platform,
        httpx.AsyncClient(trust_env=False) as theirs,
    ):
        transport = make(theirs)
        await reply(transport, platform.url)
        await transport.aclose()
        assert (await theirs.get(platform.url)).status_code == 200


async def test_injected_client_closed_by_its_owner() -> None:
    """A closed injected client is a mistake in the program, not a call of unknown outcome."""
    theirs = httpx.AsyncClient()
    transport = make(theirs)
    await theirs.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await transport.post("http://127.0.0.1:9", BODY, 1.0)


async def test_closed(transport: Transport) -> None:
    """After `aclose`, which may be repeated, nothing can be sent or fetched."""
    await transport.aclose()
    await transport.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await transport.post("http://127.0.0.1:9", BODY, 1.0)
    with pytest.raises(RuntimeError, match="closed"):
        transport.download_session(ELSEWHERE)


async def test_download_sessions() -> None:
    """Recordings have sessions of their own, which are closed with the transport.

    One is for the platform's own hosts, whatever they resolve to; one is for all others.
    """
    signer = Signer(Credentials(APP_ID, SECRET))
    transport = Transport(signer, recording_hosts=RecordingHosts([OURS]))
    ours = transport.download_session(URL(f"{OURS}/1.wav"))
    other = transport.download_session(ELSEWHERE)
    assert transport.download_session(URL(f"{OURS}/2.wav")) is ours
    assert transport.download_session(URL("http://127.0.0.1:9/2.wav")) is other
    assert ours is not other
    assert [one.closed for one in (ours, other)] == [False, False]
    await transport.aclose()
    assert [one.closed for one in (ours, other)] == [True, True]


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_second_event_loop(kind: str) -> None:
    """On a second event loop every use is an error that says so, and nothing is sent."""
    plain = None if kind == "ours" else httpx.AsyncClient(trust_env=False)
    transport = make(plain)

    async def first() -> None:
        async with unreachable() as url:
            assert isinstance(await transport.post(url, BODY, 1.0), NoReply)

    async def second() -> None:
        async with FaultyPlatform(always(http(DONE))) as platform:
            with pytest.raises(RuntimeError, match="another event loop"):
                await transport.post(platform.url, BODY, 1.0)
            with pytest.raises(RuntimeError, match="another event loop"):
                transport.download_session(ELSEWHERE)
            assert platform.connections == 0
        await transport.aclose()
        if plain is not None:
            await plain.aclose()

    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.parametrize("behaviour", [never_answer, late(http(DONE), 0.3)])
async def test_closed_meanwhile(behaviour: Behaviour) -> None:
    """Closing the client under a request that waits for a connection cancels nobody's task."""
    transport = make(limits=httpx.Limits(max_connections=1))
    async with FaultyPlatform(behaviour) as platform:
        requests = [
            asyncio.ensure_future(transport.post(platform.url, BODY, 5.0)) for _ in range(3)
        ]
        await platform.received(1)
        await transport.aclose()
        for outcome in await asyncio.gather(*requests):
            assert isinstance(outcome, NoReply)
            assert outcome.may_have_arrived
        assert len(platform.requests) == 1


def test_made_outside_a_loop() -> None:
    """A transport can be made before any loop runs, and never be used or closed."""
    make()
    gc.collect()


# --- The pool -----------------------------------------------------------------------------------


async def test_max_connections() -> None:
    """No more connections are open at once than `limits` say; the requests wait for their turn."""
    transport = make(limits=httpx.Limits(max_connections=3))
    async with FaultyPlatform(late(http(DONE), 0.02)) as platform:
        await asyncio.gather(*(reply(transport, platform.url) for _ in range(12)))
        assert platform.most_open == 3
        await transport.aclose()
    assert len(platform.requests) == 12


async def test_no_maximum() -> None:
    """`max_connections=None` sets no bound."""
    transport = make(limits=httpx.Limits(max_connections=None))
    async with FaultyPlatform(late(http(DONE), 0.2)) as platform:
        await asyncio.gather(*(reply(transport, platform.url) for _ in range(120)))
        assert platform.most_open == 120
        await transport.aclose()


async def test_hundred_connections_by_default() -> None:
    """By default a hundred connections serve any number of requests."""
    transport = make()
    async with FaultyPlatform(late(http(DONE), 0.2)) as platform:
        await asyncio.gather(*(reply(transport, platform.url) for _ in range(120)))
        assert platform.most_open == 100
        await transport.aclose()


@pytest.mark.parametrize(
    ("expiry", "pause", "connections"), [(5.0, 0.1, 1), (None, 0.1, 1), (0.05, 0.1, 2), (0, 0, 2)]
)
async def test_keepalive_expiry(expiry: float | None, pause: float, connections: int) -> None:
    """A connection is used again until it has idled for `keepalive_expiry`."""
    transport = make(limits=httpx.Limits(max_connections=5, keepalive_expiry=expiry))
    async with FaultyPlatform(always(http(DONE))) as platform:
        await reply(transport, platform.url)
        await asyncio.sleep(pause)
        await reply(transport, platform.url)
        assert platform.connections == connections
        await transport.aclose()


async def test_keep_none() -> None:
    """`max_keepalive_connections=0` uses each connection once; aiohttp knows no other number."""
    transport = make(limits=httpx.Limits(max_connections=5, max_keepalive_connections=0))
    async with FaultyPlatform(always(http(DONE))) as platform:
        for _ in range(2):
            await reply(transport, platform.url)
        assert platform.connections == 2
        await transport.aclose()


def test_idle_for_five_seconds_by_default() -> None:
    """The default is short: a stale connection makes a good call's outcome unknown."""
    assert DEFAULT_LIMITS.keepalive_expiry == 5


async def test_broken_connections_are_given_back(transport: Transport) -> None:
    """However an exchange ends, its connection is closed or goes back to the pool."""
    behaviours = [close_after_reading, endless_reply, never_answer]
    async with FaultyPlatform(*behaviours, always(http(DONE))) as platform:
        for _ in behaviours:
            assert isinstance(await transport.post(platform.url, BODY, 0.1), NoReply)
        await reply(transport, platform.url)
        await asyncio.sleep(0.05)
        assert len(platform.current) == 1 + 1  # the idle one, and `never_answer` that sleeps
    assert platform.connections == 4
