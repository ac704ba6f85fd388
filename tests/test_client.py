"""`AsyncQmcClient`: its operations, options and arguments, as the platform sees them on the wire.

What it makes of faults is in `test_client_faults.py`, of recordings in `test_recordings.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import logging
import re
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import httpx
import orjson
import pytest
from faulty_platform import (
    APP_ID,
    CALLEE,
    CALLER,
    DONE,
    SECRET,
    TRANSPORTS,
    Connection,
    FaultyPlatform,
    Options,
    always,
    connect,
    date,
    http,
    in_turn,
    keeps_time,
    late,
    never_answer,
    unreachable,
)

from qmc_async.client import AsyncQmcClient
from qmc_async.errors import (
    ApiError,
    ArgumentError,
    AuthenticationError,
    CallOutcomeUnknown,
    ConfigError,
    RateLimited,
    TransportError,
)
from qmc_async.models import BEIJING, Call, Disconnected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

both_transports = pytest.mark.parametrize("transport", TRANSPORTS)

REPEATABLE: dict[str, Callable[[AsyncQmcClient], Awaitable[object]]] = {
    "end_call": lambda client: client.end_call("c-1"),
    "recording": lambda client: client.recording("c-1"),
}
CALL_PATH = "/api/qmc-call/openapi/v1/call"
END_CALL_PATH = "/api/qmc-call/openapi/v1/endCall"
RECORD_PATH = "/api/qmc-cdr/openapi/v1/record"


@pytest.fixture
async def platform() -> AsyncGenerator[FaultyPlatform]:
    """One that says yes to everything. It hides the sandbox of the same name."""
    async with FaultyPlatform(always(http(DONE))) as platform:
        yield platform


@pytest.fixture
async def client(platform: FaultyPlatform) -> AsyncGenerator[AsyncQmcClient]:
    """A client of `platform`."""
    async with connect(platform.url) as client:
        yield client


# --- The three operations -----------------------------------------------------------------------


@both_transports
async def test_call(transport: str, platform: FaultyPlatform) -> None:
    """`call` sends what the document (3.1) shows, and returns what the platform answered."""
    async with connect(platform.url, transport) as client:
        before = time.time()
        call = await client.call(CALLER, CALLEE, out_call_id="order-42")
    (request,) = platform.seen
    assert request.line == f"POST {CALL_PATH} HTTP/1.1"
    assert request.headers["content-type"] == "application/json;charset=utf-8"
    assert request.json == {"caller": CALLER, "callee": CALLEE, "outCallId": "order-42"}
    assert (call.call_id, call.out_call_id) == ("c-1", "order-42")
    assert call.placed_at.timestamp() == pytest.approx(before, abs=1)
    assert call.placed_at.tzinfo is BEIJING
    assert call.raw["callidentifier"] == "c-1"


@both_transports
async def test_end_call(transport: str, platform: FaultyPlatform) -> None:
    """`end_call` sends the call's id (3.4), and returns nothing."""
    async with connect(platform.url, transport) as client:
        call = await client.call(CALLER, CALLEE)
        ends: list[Call | str] = [call, "c-1", " c-1\n"]
        for end in ends:
            await client.end_call(end)
    for request in platform.seen[1:]:
        assert request.line == f"POST {END_CALL_PATH} HTTP/1.1"
        assert request.json == {"callidentifier": "c-1"}


@both_transports
async def test_recording(transport: str, platform: FaultyPlatform) -> None:
    """`recording` sends the call's id (3.3), and returns where the file is."""
    async with connect(platform.url, transport) as client:
        recording = await client.recording("c-1")
    (request,) = platform.seen
    assert request.line == f"POST {RECORD_PATH} HTTP/1.1"
    assert request.json == {"callidentifier": "c-1"}
    assert recording.call_id == "c-1"
    assert recording.file_url == "http://files.invalid/c-1.wav"


async def test_many_at_once(platform: FaultyPlatform, client: AsyncQmcClient) -> None:
    """Each of many calls at once is sent once, and each gets its own answer."""

    async def echo(connection: Connection) -> None:
        while True:
            await connection.read_request()
            out = platform.seen[-1].json["outCallId"]
            data = {"code": 200, "data": {"callidentifier": f"id-of-{out}"}}
            connection.writer.write(http(orjson.dumps(data)))

    platform.behaviours[:] = [echo]
    calls = await asyncio.gather(
        *(client.call(CALLER, CALLEE, out_call_id=f"o-{n}") for n in range(300))
    )
    assert [call.call_id for call in calls] == [f"id-of-o-{n}" for n in range(300)]
    assert len(platform.requests) == 300


# --- Credentials and addresses ------------------------------------------------------------------


@both_transports
@pytest.mark.parametrize("app_id", [42, "42", " 0042"])
async def test_credentials(transport: str, app_id: int | str, platform: FaultyPlatform) -> None:
    """`app_id` and `app_secret` make the `Authorization` of every operation."""
    async with httpx.AsyncClient(trust_env=False) as plain:
        client = AsyncQmcClient(
            app_id,
            "another secret",
            base_url=platform.url,
            record_base_url=platform.url,
            http_client=plain if transport == "plain" else None,
        )
        async with client:
            await client.call(CALLER, CALLEE)
            await client.end_call("c-1")
            await client.recording("c-1")
    assert len(platform.seen) == 3
    for request in platform.seen:
        sent_id, timestamp, sign = request.signed
        plain_text = f"42:another secret:{timestamp}"
        assert sent_id == "42"
        assert sign == hashlib.md5(plain_text.encode(), usedforsecurity=False).hexdigest()
        assert int(timestamp) / 1000 == pytest.approx(request.arrived, abs=0.5)


async def test_credentials_from_the_environment(
    platform: FaultyPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With variables set, the client needs no argument at all."""
    monkeypatch.setenv("QMC_APP_ID", "42")
    monkeypatch.setenv("QMC_APP_SECRET", "from-variable")
    monkeypatch.setenv("QMC_BASE_URL", platform.url + "/a")
    monkeypatch.setenv("QMC_RECORD_BASE_URL", platform.url + "/b")
    monkeypatch.setenv("QMC_RECORD_PATH", "/c")
    async with AsyncQmcClient() as client:
        await client.call(CALLER, CALLEE)
        await client.recording("c-1")
    assert [request.line for request in platform.seen] == [
        f"POST /a{CALL_PATH} HTTP/1.1",
        "POST /b/c HTTP/1.1",
    ]
    _, timestamp, sign = platform.seen[0].signed
    plain = f"42:from-variable:{timestamp}"
    assert sign == hashlib.md5(plain.encode(), usedforsecurity=False).hexdigest()


@both_transports
@pytest.mark.parametrize("prefix", ["", "/", "/gateway", "/gateway/", "/a/b%20c"])
async def test_base_url(transport: str, prefix: str, platform: FaultyPlatform) -> None:
    """`base_url` is where `call` and `endCall` go, with whatever path it has; not `record`."""
    async with (
        FaultyPlatform(always(http(DONE))) as records,
        connect(
            platform.url, transport, base_url=platform.url + prefix, record_base_url=records.url
        ) as client,
    ):
        await client.call(CALLER, CALLEE)
        await client.end_call("c-1")
        await client.recording("c-1")
    prefix = prefix.rstrip("/")
    assert [request.line for request in platform.seen] == [
        f"POST {prefix}{CALL_PATH} HTTP/1.1",
        f"POST {prefix}{END_CALL_PATH} HTTP/1.1",
    ]
    assert len(records.seen) == 1


@pytest.mark.parametrize("path", ["/api/qmc-cdr/openapi/api/v1/record", "/other"])
async def test_record_address(path: str, platform: FaultyPlatform) -> None:
    """`record_base_url` and `record_path` are where `record` goes."""
    async with connect(
        "http://127.0.0.1:9", record_base_url=platform.url + "/p", record_path=path
    ) as client:
        await client.recording("c-1")
    assert platform.seen[0].line == f"POST /p{path} HTTP/1.1"


# --- Times and retries --------------------------------------------------------------------------


@both_transports
async def test_timeout(transport: str) -> None:
    """`timeout` is how long one attempt waits."""
    async with (
        FaultyPlatform(never_answer) as platform,
        connect(platform.url, transport, timeout=0.2, max_retries=0) as client,
    ):
        started = time.monotonic()
        with pytest.raises(TransportError, match="no reply within the timeout") as caught:
            await client.end_call("c-1")
        assert time.monotonic() - started == pytest.approx(0.2, abs=0.1)
    assert caught.value.elapsed == pytest.approx(0.2, abs=0.1)


@both_transports
async def test_timeout_is_for_each_piece(transport: str) -> None:
    """A reply in slow pieces is read as long as none of them takes longer than `timeout`."""

    async def in_pieces(connection: Connection) -> None:
        await connection.read_request()
        reply = http(DONE)
        for start in range(0, len(reply), 40):
            connection.writer.write(reply[start : start + 40])
            await asyncio.sleep(0.1)

    async with (
        FaultyPlatform(in_pieces) as platform,
        connect(platform.url, transport, timeout=0.3) as client,
    ):
        started = time.monotonic()
        await client.call(CALLER, CALLEE)
        assert time.monotonic() - started > 0.3


@both_transports
async def test_deadline(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`deadline` ends all attempts together, in the middle of one."""
    monkeypatch.setattr("qmc_async.retry.FIRST_WAIT", 0.01)
    async with (
        FaultyPlatform(never_answer) as platform,
        connect(platform.url, transport, timeout=0.2, deadline=0.8, max_retries=100) as client,
    ):
        started = time.monotonic()
        with pytest.raises(TransportError) as caught:
            await client.end_call("c-1")
        took = time.monotonic() - started
    assert 0.5 < took < 0.9
    assert 3 <= caught.value.attempts <= 4
    assert caught.value.attempts == len(platform.requests)


async def test_deadline_holds_back_a_long_wait() -> None:
    """It does not wait for a retry that could not be in time: it raises at once."""
    limited = http(b"", "429 Slow", "Retry-After: 5\r\n")
    async with (
        FaultyPlatform(always(limited)) as platform,
        connect(platform.url, deadline=4) as client,
    ):
        started = time.monotonic()
        with pytest.raises(RateLimited) as caught:
            await client.end_call("c-1")
        assert time.monotonic() - started < 0.5
    assert caught.value.retry_after == 5
    assert caught.value.attempts == 1


@both_transports
@pytest.mark.parametrize("max_retries", [0, 1, 4])
async def test_max_retries(
    transport: str, max_retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`max_retries` is the number of attempts after the first."""
    monkeypatch.setattr("qmc_async.retry.FIRST_WAIT", 0.001)
    async with (
        FaultyPlatform(always(http(b"", "503 Busy"))) as platform,
        connect(platform.url, transport, max_retries=max_retries) as client,
    ):
        with pytest.raises(ApiError) as caught:
            await client.end_call("c-1")
    assert caught.value.attempts == len(platform.requests) == max_retries + 1


@both_transports
async def test_retry_after_is_honoured(transport: str) -> None:
    """A retry comes no earlier than the platform asked for."""
    limited = http(b"", "429 Slow", "Retry-After: 1\r\n")
    async with (
        FaultyPlatform(in_turn(limited, http(DONE))) as platform,
        connect(platform.url, transport) as client,
    ):
        await client.end_call("c-1")
    first, second = platform.seen
    assert 1 <= second.arrived - first.arrived < 1.4


@both_transports
async def test_every_attempt_is_signed_anew(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt is signed when it is sent, after the wait and not before it."""
    monkeypatch.setattr("random.uniform", Mock(return_value=0.3))
    busy = http(b"", "503 Busy")
    async with (
        FaultyPlatform(in_turn(busy, busy, http(DONE))) as platform,
        connect(platform.url, transport) as client,
    ):
        await client.end_call("c-1")
    assert len({request.headers["authorization"] for request in platform.seen}) == 3
    for request in platform.seen:
        assert request.timestamp == pytest.approx(request.arrived, abs=0.15)


async def test_ended_by_an_earlier_attempt() -> None:
    """A "no" to a repeated `end_call` may mean that the first one did it; the message says so."""
    gone = http(b'{"code": 40004}')
    async with (
        FaultyPlatform(in_turn(http(b"", "503 Busy"), gone)) as platform,
        connect(platform.url) as client,
    ):
        with pytest.raises(ApiError, match="An earlier attempt may have ended the call"):
            await client.end_call("c-1")
    assert len(platform.requests) == 2


async def test_retries_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """A retry is logged with its reason, at INFO."""
    caplog.set_level(logging.INFO, "qmc_async.client")
    async with (
        FaultyPlatform(in_turn(http(b"", "503 Busy"), http(DONE))) as platform,
        connect(platform.url) as client,
    ):
        await client.end_call("c-1")
    (told,) = [record for record in caplog.records if record.name == "qmc_async.client"]
    assert re.search(r"endCall: attempt 1: .*HTTP 503; trying again in 0\.\d\d s", told.message)


# --- The clock ----------------------------------------------------------------------------------

REFUSALS = pytest.mark.parametrize("refusal", [b"", b'{"code": 401}'], ids=["HTTP", "envelope"])
OFFSETS = pytest.mark.parametrize("offset", [-540, 540], ids=["behind", "ahead"])


@both_transports
@OFFSETS
@REFUSALS
async def test_clock_and_call(
    transport: str, offset: int, refusal: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Nine minutes off, `call` is refused once, and says why; the next one is signed right."""
    async with (
        FaultyPlatform(keeps_time(offset, refusal)) as platform,
        connect(platform.url, transport) as client,
    ):
        with pytest.raises(AuthenticationError, match="clock is wrong") as caught:
            await client.call(CALLER, CALLEE)
        assert caught.value.attempts == len(platform.requests) == 1
        call = await client.call(CALLER, CALLEE)
        assert len(platform.requests) == 2
        assert platform.seen[1].timestamp == pytest.approx(time.time() + offset, abs=3)
        # When it was placed is the platform's time too.
        assert call.placed_at.timestamp() == pytest.approx(time.time() + offset, abs=3)
        await client.call(CALLER, CALLEE)
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.name for record in warned] == ["qmc_async.signer"]


@both_transports
@OFFSETS
@REFUSALS
@pytest.mark.parametrize("operation", REPEATABLE)
async def test_clock_and_others(
    transport: str, offset: int, refusal: bytes, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nine minutes off, `end_call` and `recording` sign anew at once, and succeed in one go."""
    async with (
        FaultyPlatform(keeps_time(offset, refusal)) as platform,
        connect(platform.url, transport, max_retries=0) as client,
    ):
        await REPEATABLE[operation](client)
        assert len(platform.requests) == 2
        await REPEATABLE[operation](client)
        assert len(platform.requests) == 3
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


@both_transports
async def test_clock_and_many_at_once(transport: str) -> None:
    """Of many that were under way when the clock was corrected, each signs anew and succeeds."""
    async with (
        FaultyPlatform(keeps_time(540)) as platform,
        connect(platform.url, transport) as client,
    ):
        await asyncio.gather(*(client.end_call(f"c-{n}") for n in range(20)))
    assert len(platform.requests) == 40


@both_transports
@pytest.mark.parametrize("operation", REPEATABLE)
async def test_clock_was_not_it(transport: str, operation: str) -> None:
    """Still refused with the right time, it stops: platforms ban addresses for knocking on."""
    refused = http(b"", "401 No", date(540))
    async with (
        FaultyPlatform(always(refused)) as platform,
        connect(platform.url, transport, max_retries=5) as client,
    ):
        with pytest.raises(AuthenticationError, match="APPSECRET") as caught:
            await REPEATABLE[operation](client)
        assert caught.value.attempts == len(platform.requests) == 2
        with pytest.raises(AuthenticationError):
            await REPEATABLE[operation](client)
        assert len(platform.requests) == 3


@pytest.mark.parametrize("operation", REPEATABLE)
async def test_clock_that_jumps(operation: str) -> None:
    """Even a platform whose clock jumps with each reply gets one more request, not a stream."""
    replies = [http(b"", "401 No", date(n * 600)) for n in range(1, 9)]
    async with (
        FaultyPlatform(in_turn(*replies)) as platform,
        connect(platform.url) as client,
    ):
        with pytest.raises(AuthenticationError):
            await REPEATABLE[operation](client)
    assert len(platform.requests) == 2


@both_transports
@pytest.mark.parametrize("operation", REPEATABLE)
async def test_no_date(transport: str, operation: str) -> None:
    """Without a `Date` nothing can be learned: refused, once, and the clock is not blamed."""
    async with (
        FaultyPlatform(keeps_time(540, tells=False)) as platform,
        connect(platform.url, transport) as client,
    ):
        with pytest.raises(AuthenticationError) as caught:
            await REPEATABLE[operation](client)
        assert "clock is wrong" not in str(caught.value)
        assert client.signer.clock.offset == 0
    assert len(platform.requests) == 1


async def test_clock_within_the_threshold() -> None:
    """Ten seconds are not worth correcting."""
    async with (
        FaultyPlatform(always(http(DONE, headers=date(10)))) as platform,
        connect(platform.url) as client,
    ):
        for _ in range(2):
            await client.call(CALLER, CALLEE)
    assert platform.seen[1].timestamp == pytest.approx(time.time(), abs=2)


# --- Numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "typed", "sent"),
    [
        ({}, "+86 139-8765-4321", "13987654321"),
        ({"numbers": "lenient"}, "0755 1234 3388", "075512343388"),
        ({"numbers": "lenient"}, "12345", "12345"),
        ({"numbers": "strict"}, "＋８６ １３９ ８７６５ ４３２１", "13987654321"),
        ({"numbers": "off"}, "+86 139-8765-4321", "+86 139-8765-4321"),
        ({"numbers": "off"}, "sip:agent@pbx", "sip:agent@pbx"),
    ],
)
async def test_numbers(options: Options, typed: str, sent: str, platform: FaultyPlatform) -> None:
    """`numbers` decides how what people type reaches the wire, for both parties alike."""
    async with connect(platform.url, **options) as client:
        await client.call(typed, typed)
    assert platform.seen[0].json["caller"] == sent
    assert platform.seen[0].json["callee"] == sent


@pytest.mark.parametrize("argument", ["caller", "callee"])
@pytest.mark.parametrize(
    ("mode", "number"),
    [
        ("lenient", ""),
        ("lenient", "  "),
        ("lenient", "not a number"),
        ("lenient", "\ud800"),
        ("lenient", 13987654321),
        ("lenient", None),
        ("strict", "12345678901234"),
        ("off", ""),
        ("off", 13987654321),
        ("off", "139\ud8008765"),
    ],
)
async def test_bad_number(
    mode: Any,  # noqa: ANN401 - from the table
    number: Any,  # noqa: ANN401 - callers err
    argument: str,
    platform: FaultyPlatform,
) -> None:
    """A bad number is refused by its argument's name, before anything is sent."""
    numbers: dict[str, Any] = {"caller": CALLER, "callee": CALLEE, argument: number}
    async with connect(platform.url, numbers=mode) as client:
        with pytest.raises(ArgumentError, match=argument) as caught:
            await client.call(**numbers)
    assert caught.value.argument == argument
    assert caught.value.__context__ is None
    assert platform.connections == 0


# --- out_call_id --------------------------------------------------------------------------------


@pytest.mark.parametrize("out_call_id", ["order-42", "x", "订单 42", "a" * 64, "00", "🙂" * 64])
async def test_out_call_id(
    out_call_id: str, platform: FaultyPlatform, client: AsyncQmcClient
) -> None:
    """`out_call_id` is sent and returned as it was given."""
    call = await client.call(CALLER, CALLEE, out_call_id=out_call_id)
    assert call.out_call_id == platform.seen[0].json["outCallId"] == out_call_id


async def test_out_call_id_is_made_up(platform: FaultyPlatform, client: AsyncQmcClient) -> None:
    """Without one, each call gets one of its own, so that its notification can be told."""
    calls = [await client.call(CALLER, CALLEE) for _ in range(50)]
    sent = [request.json["outCallId"] for request in platform.seen]
    assert [call.out_call_id for call in calls] == sent
    assert len(set(sent)) == 50
    assert all(re.fullmatch("[0-9a-f]{32}", out_call_id) for out_call_id in sent)


async def test_out_call_id_is_kept_over_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempts of one call carry one id: the error names what was sent."""
    monkeypatch.setattr("qmc_async.retry.FIRST_WAIT", 0.001)
    async with unreachable() as url, connect(url) as client:
        with pytest.raises(TransportError) as caught:
            await client.call(CALLER, CALLEE)
    assert caught.value.attempts == 3
    assert re.fullmatch("[0-9a-f]{32}", caught.value.out_call_id or "")


async def test_unknown_call_names_what_was_sent() -> None:
    """A made-up id is in the error just as it is on the wire: only it can settle the call."""
    async with (
        FaultyPlatform(always(http(b"", "500 Oops"))) as platform,
        connect(platform.url) as client,
    ):
        with pytest.raises(CallOutcomeUnknown) as caught:
            await client.call(CALLER, CALLEE)
    assert caught.value.out_call_id == platform.seen[0].json["outCallId"]


@pytest.mark.parametrize(
    "out_call_id",
    [
        "",
        "a" * 65,
        " ",
        " x",
        "x ",
        "\tx",
        "x\n",
        "a\nb",
        "a\0b",
        "a\x7fb",
        "a\u200bb",
        "\ufeffx",
        "\u3000x",
        "0",
        "\ud800",
        "a\udfffb",
        42,
        0,
        b"x",
        ["x"],
        False,
    ],
    ids=repr,
)
async def test_bad_out_call_id(
    out_call_id: Any,  # noqa: ANN401 - callers err
    platform: FaultyPlatform,
    client: AsyncQmcClient,
) -> None:
    """An id that would come back changed, or not at all, is refused before anything is sent."""
    with pytest.raises(ArgumentError, match="out_call_id") as caught:
        await client.call(CALLER, CALLEE, out_call_id=out_call_id)
    assert caught.value.argument == "out_call_id"
    assert platform.connections == 0


@pytest.mark.parametrize("operation", ["end_call", "recording"])
@pytest.mark.parametrize("call", ["", "  ", None, 5, b"c-1", {}, "\ud800", object()], ids=repr)
async def test_bad_call(
    operation: str,
    call: Any,  # noqa: ANN401 - callers err
    platform: FaultyPlatform,
    client: AsyncQmcClient,
) -> None:
    """What is no call is refused, before anything is sent."""
    with pytest.raises(ArgumentError, match="call") as caught:
        await getattr(client, operation)(call)
    assert caught.value.argument == "call"
    assert platform.connections == 0


async def test_call_without_id(platform: FaultyPlatform, client: AsyncQmcClient) -> None:
    """An event that has no call id, as one from elsewhere may not, names no call."""
    event = Mock(spec=Disconnected, call_id=None)
    with pytest.raises(ArgumentError):
        await client.recording(event)
    assert platform.connections == 0


# --- http_client, limits and with_options -------------------------------------------------------


async def test_http_client(platform: FaultyPlatform) -> None:
    """An injected client does the talking, with its own extras, and is left open."""
    async with httpx.AsyncClient(headers={"X-Trace": "abc"}, trust_env=False) as plain:
        async with AsyncQmcClient(
            APP_ID, SECRET, base_url=platform.url, http_client=plain
        ) as client:
            await client.call(CALLER, CALLEE)
        assert not plain.is_closed
        assert (await plain.get(platform.url)).status_code == 200
    assert platform.seen[0].headers["x-trace"] == "abc"


async def test_limits() -> None:
    """`limits` bounds the connections; calls wait for their turn."""
    async with (
        FaultyPlatform(late(http(DONE), 0.02)) as platform,
        connect(platform.url, limits=httpx.Limits(max_connections=2)) as client,
    ):
        await asyncio.gather(*(client.call(CALLER, CALLEE) for _ in range(8)))
        assert platform.most_open == 2
    assert len(platform.requests) == 8


def test_limit_of_none() -> None:
    """No connection at all would let nothing out, and aiohttp would read it as no limit."""
    with pytest.raises(ConfigError) as caught:
        AsyncQmcClient(APP_ID, SECRET, limits=httpx.Limits(max_connections=0))
    assert caught.value.setting == "limits"


async def test_limits_for_http_client() -> None:
    """`limits` for somebody else's client could not take effect, and so are refused."""
    async with httpx.AsyncClient() as plain:
        with pytest.raises(ConfigError, match="http_client") as caught:
            AsyncQmcClient(APP_ID, SECRET, limits=httpx.Limits(), http_client=plain)
    assert caught.value.setting == "limits"


async def test_with_options_timeout(client: AsyncQmcClient, platform: FaultyPlatform) -> None:
    """`with_options(timeout=)` takes effect, and the original keeps its own."""
    platform.behaviours = [late(http(DONE), 0.3)]
    with pytest.raises(CallOutcomeUnknown):
        await client.with_options(timeout=0.1).call(CALLER, CALLEE)
    assert (await client.call(CALLER, CALLEE)).call_id == "c-1"


async def test_with_options_deadline(client: AsyncQmcClient, platform: FaultyPlatform) -> None:
    """`with_options(deadline=)` takes effect, and the original keeps its own."""
    platform.behaviours = [late(http(DONE), 0.3)]
    with pytest.raises(CallOutcomeUnknown):
        await client.with_options(deadline=0.1).call(CALLER, CALLEE)
    assert (await client.call(CALLER, CALLEE)).call_id == "c-1"


async def test_with_options_max_retries(client: AsyncQmcClient, platform: FaultyPlatform) -> None:
    """`with_options(max_retries=)` takes effect, and the original keeps its own."""
    platform.behaviours = [always(http(b"", "503 Busy"))]
    for options, attempts in ((client.with_options(max_retries=0), 1), (client, 3)):
        with pytest.raises(ApiError) as caught:
            await options.end_call("c-1")
        assert caught.value.attempts == attempts


async def test_with_options_numbers(client: AsyncQmcClient, platform: FaultyPlatform) -> None:
    """`with_options(numbers=)` takes effect, and the original keeps its own."""
    await client.with_options(numbers="off").call("139 8765 4321", CALLEE)
    await client.call("139 8765 4321", CALLEE)
    assert [request.json["caller"] for request in platform.seen] == [
        "139 8765 4321",
        "13987654321",
    ]


async def test_with_options_shares(client: AsyncQmcClient, platform: FaultyPlatform) -> None:
    """A derived client uses the same connections and clock; closing it leaves them open."""
    await client.call(CALLER, CALLEE)
    async with client.with_options(timeout=5) as derived:
        assert derived.signer is client.signer
        await derived.call(CALLER, CALLEE)
        await derived.with_options(timeout=6).call(CALLER, CALLEE)
    await derived.aclose()
    await client.call(CALLER, CALLEE)
    assert (len(platform.requests), platform.connections) == (4, 1)


async def test_with_options_after_the_original_is_closed(platform: FaultyPlatform) -> None:
    """A derived client ends with its original."""
    async with connect(platform.url) as client:
        derived = client.with_options(timeout=5)
    with pytest.raises(RuntimeError, match="closed"):
        await derived.call(CALLER, CALLEE)


def test_with_options_checks() -> None:
    """A malformed option is a `ConfigError` here too."""
    with pytest.raises(ConfigError) as caught:
        AsyncQmcClient(APP_ID, SECRET).with_options(timeout=-1)
    assert caught.value.setting == "timeout"


def test_subclass_stays_one() -> None:
    """A derived client is of the original's class."""

    class Ours(AsyncQmcClient):
        pass

    assert type(Ours(APP_ID, SECRET).with_options()) is Ours


# --- Life and death -----------------------------------------------------------------------------


@both_transports
async def test_closed(transport: str, platform: FaultyPlatform) -> None:
    """After `aclose`, which may be repeated, every operation is a clear `RuntimeError`."""
    async with connect(platform.url, transport) as client:
        await client.call(CALLER, CALLEE)
        await client.aclose()
        await client.aclose()
        for operation in (
            client.call(CALLER, CALLEE),
            client.end_call("c-1"),
            client.recording("c-1"),
            client.download("c-1", "x.wav"),
            client.__aenter__(),
        ):
            with pytest.raises(RuntimeError, match="closed: make a new one"):
                await operation
    assert len(platform.requests) == 1


async def test_closes_its_connections(platform: FaultyPlatform) -> None:
    """`async with` ends with every connection closed, also when it ends with an exception."""
    with contextlib.suppress(KeyError):
        async with connect(platform.url) as client:
            await client.call(CALLER, CALLEE)
            assert len(platform.current) == 1
            raise KeyError
    await asyncio.sleep(0.05)
    assert platform.current == []


@both_transports
def test_second_event_loop(transport: str) -> None:
    """On a second event loop every operation is a clear `RuntimeError`, and nothing is sent."""
    plain = httpx.AsyncClient(trust_env=False) if transport == "plain" else None
    client = AsyncQmcClient(
        APP_ID, SECRET, base_url="http://127.0.0.1:1", max_retries=0, http_client=plain
    )

    async def first() -> None:
        with pytest.raises(TransportError):
            await client.call(CALLER, CALLEE)

    async def second() -> None:
        for operation in (
            client.call(CALLER, CALLEE),
            client.with_options(timeout=1).call(CALLER, CALLEE),
            client.end_call("c-1"),
            client.recording("c-1"),
            client.download("c-1", "x.wav"),
            client.__aenter__(),
        ):
            with pytest.raises(RuntimeError, match="first used on another event loop"):
                await operation
        await client.aclose()
        if plain is not None:
            await plain.aclose()

    asyncio.run(first())
    asyncio.run(second())


def test_bound_when_entered() -> None:
    """`async with` binds the client to its loop, though nothing was sent there."""
    client = AsyncQmcClient(APP_ID, SECRET)

    async def enter() -> None:
        await client.__aenter__()

    asyncio.run(enter())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(enter())


def test_made_before_any_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client can be made at a module's top, before any loop runs, and be used on one."""
    monkeypatch.setattr("qmc_async.retry.FIRST_WAIT", 0.001)
    client = AsyncQmcClient(APP_ID, SECRET, base_url="http://127.0.0.1:1")

    async def use() -> None:
        async with client:
            with pytest.raises(TransportError):
                await client.call(CALLER, CALLEE)

    asyncio.run(use())


@both_transports
def test_nothing_leaks(transport: str) -> None:
    """Used properly, through good and bad, it leaves no `ResourceWarning` behind."""

    async def use() -> None:
        async with (
            FaultyPlatform(
                always(http(DONE)), never_answer, always(http(b"", "500 Oops"))
            ) as platform,
            connect(platform.url, transport, timeout=0.1, max_retries=0) as client,
        ):
            await client.call(CALLER, CALLEE)
            task = asyncio.ensure_future(client.call(CALLER, CALLEE))
            await asyncio.gather(
                task, *(client.end_call("c-1") for _ in range(3)), return_exceptions=True
            )
            if transport == "ours":  # a plain client leaks then: see test_client_faults.py
                task = asyncio.ensure_future(client.call(CALLER, CALLEE))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(use())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_repr() -> None:
    """The repr tells which application and where, and no secret."""
    client = AsyncQmcClient(APP_ID, SECRET, base_url="http://127.0.0.1:9/x")
    assert repr(client) == f"AsyncQmcClient(app_id={APP_ID}, base_url='http://127.0.0.1:9/x')"


def test_import_is_free_of_settings() -> None:
    """Importing the client reads no variable and opens nothing: a bad one fails when it is made."""
    script = (
        "import os, json; os.environ['QMC_TIMEOUT'] = 'bad'\n"
        "from qmc_async.client import AsyncQmcClient\n"
        "from qmc_async.errors import ConfigError\n"
        "try: AsyncQmcClient(1, 's')\n"
        "except ConfigError as error: print(json.dumps(error.setting))"
    )
    run = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert json.loads(run.stdout) == "QMC_TIMEOUT"
