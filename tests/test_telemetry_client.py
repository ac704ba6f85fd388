"""What a client records of calls, their ends and their recordings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import select_in, url_in
from faulty_platform import (
    DONE,
    FaultyPlatform,
    always,
    close_after_reading,
    connect,
    http,
    in_turn,
    never_answer,
    unreachable,
)
from ledger_support import NUMBERS, call, calling
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from telemetry_support import Recorded, attributes_of, is_child_of

from qmc_async import AsyncQmcClient, DuplicateCall, QmcError
from qmc_async.sandbox import Sandbox, VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from faulty_platform import Behaviour


@pytest.fixture
async def sandbox() -> AsyncGenerator[Sandbox]:
    """The platform, with a clock of the test's."""
    async with Sandbox(clock=VirtualClock()) as platform:
        yield platform


def of(platform: Sandbox, **options: Any) -> AsyncQmcClient:  # noqa: ANN401 - any of the client's
    """A client of a sandbox."""
    with_defaults: dict[str, Any] = {
        "base_url": platform.base_url,
        "record_base_url": platform.base_url,
        "recording_networks": "127.0.0.0/8",
    }
    return AsyncQmcClient(
        platform.credentials.app_id, platform.credentials.app_secret, **with_defaults | options
    )


async def test_a_call(sandbox: Sandbox, recorded: Recorded) -> None:
    """A client's span, with the ids of the call, the server and the reply; part of the user's."""
    async with of(sandbox) as client:
        with recorded.tracer.start_as_current_span("order"):
            placed = await client.call(*NUMBERS, out_call_id="order-42")
    span = recorded.one("qmc.call")
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert attributes_of(span) == {
        "qmc.out_call_id": "order-42",
        "server.address": "127.0.0.1",
        "server.port": int(sandbox.base_url.rpartition(":")[2]),
        "http.response.status_code": 200,
        "qmc.call_id": placed.call_id,
        "qmc.result": "placed",
    }
    assert is_child_of(span, recorded.one("order"))
    assert recorded.values("qmc.calls") == {("placed",): 1}
    assert {(name, unit) for name, unit, _ in recorded.metrics} == {("qmc.calls", "{call}")}


REFUSED = b'{"code": 500, "msg": "no", "data": null}'
RESULTS: dict[str, tuple[Behaviour, str, dict[str, object]]] = {
    "refused": (
        always(http(REFUSED)),
        "refused",
        {"error.type": "qmc_async.errors.ApiError", "http.response.status_code": 200},
    ),
    "credentials": (
        always(http(b"", "401 No")),
        "refused",
        {"error.type": "qmc_async.errors.AuthenticationError", "http.response.status_code": 401},
    ),
    "closed": (
        close_after_reading,
        "unknown",
        {"error.type": "qmc_async.errors.CallOutcomeUnknown"},
    ),
}


@pytest.mark.parametrize("name", RESULTS)
async def test_a_call_that_is_not_placed(name: str, recorded: Recorded) -> None:
    """The span has failed, and says by which class of exception: nothing of its message."""
    behaviour, result, expected = RESULTS[name]
    async with FaultyPlatform(behaviour) as platform, connect(platform.url) as client:
        with pytest.raises(QmcError):
            await client.call(*NUMBERS)
    span = recorded.one("qmc.call")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.events == ()
    assert attributes_of(span).items() >= (expected | {"qmc.result": result}).items()
    assert recorded.values("qmc.calls") == {(result,): 1}


async def test_a_call_that_cannot_leave(recorded: Recorded) -> None:
    """An error, and not in doubt; how often it was tried is told."""
    async with unreachable() as url, connect(url, max_retries=1) as client:
        with pytest.raises(QmcError):
            await client.call(*NUMBERS)
    attributes = attributes_of(recorded.one("qmc.call"))
    assert attributes["error.type"] == "qmc_async.errors.TransportError"
    assert attributes["http.request.resend_count"] == 1
    assert "http.response.status_code" not in attributes
    assert recorded.values("qmc.calls") == {("error",): 1}


async def test_a_call_that_is_cancelled(recorded: Recorded) -> None:
    """It may ring: that is unknown."""
    async with FaultyPlatform(never_answer) as platform, connect(platform.url) as client:
        task = asyncio.ensure_future(client.call(*NUMBERS))
        await platform.received(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    attributes = attributes_of(recorded.one("qmc.call"))
    assert attributes["error.type"] == "asyncio.exceptions.CancelledError"
    assert recorded.values("qmc.calls") == {("unknown",): 1}


async def test_a_port_that_goes_without_saying(recorded: Recorded) -> None:
    """The scheme's own stands for it."""
    for url, port in (("http://platform.invalid", 80), ("https://platform.invalid", 443)):
        async with connect(url, max_retries=0) as client:
            with pytest.raises(QmcError):
                await client.end_call("c-1")
        attributes = attributes_of(recorded.named("qmc.end_call")[-1])
        assert (attributes["server.address"], attributes["server.port"]) == (
            "platform.invalid",
            port,
        )


async def test_the_other_operations(sandbox: Sandbox, recorded: Recorded, tmp_path: Path) -> None:
    """Each has its span; a lookup that a download needs is part of the download's."""
    async with of(sandbox) as client:
        placed = await client.call(*NUMBERS)
        await sandbox.advance(seconds=10)
        await client.end_call(placed)
        await sandbox.advance(minutes=1)
        await client.download(placed, tmp_path)
    for name in ("qmc.end_call", "qmc.recording"):
        assert recorded.one(name).kind is SpanKind.CLIENT
        assert attributes_of(recorded.one(name)) == {
            "qmc.call_id": placed.call_id,
            "server.address": "127.0.0.1",
            "server.port": int(sandbox.base_url.rpartition(":")[2]),
            "http.response.status_code": 200,
        }
    download = recorded.one("qmc.download")
    assert attributes_of(download) == {"qmc.call_id": placed.call_id}
    assert is_child_of(recorded.one("qmc.recording"), download)


async def test_a_recording_that_is_waited_for(recorded: Recorded) -> None:
    """One span, however often the platform was asked; it says what the last reply was."""
    none_yet = http(b'{"code": 404, "msg": "not yet"}', "404 Not Found")
    async with (
        FaultyPlatform(in_turn(none_yet, http(DONE))) as platform,
        connect(platform.url) as client,
    ):
        await client.recording("c-1", wait=5)
    assert attributes_of(recorded.one("qmc.recording"))["http.response.status_code"] == 200


OPERATIONS: dict[str, Callable[[AsyncQmcClient, Path], Awaitable[object]]] = {
    "qmc.end_call": lambda client, _: client.end_call("c-1"),
    "qmc.recording": lambda client, _: client.recording("c-1"),
    "qmc.download": lambda client, folder: client.download("c-1", folder),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_operation_that_fails(name: str, recorded: Recorded, tmp_path: Path) -> None:
    """So does its span."""
    async with FaultyPlatform(always(http(REFUSED))) as platform, connect(platform.url) as client:
        with pytest.raises(QmcError):
            await OPERATIONS[name](client, tmp_path)
    span = recorded.one(name)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "qmc_async.errors.ApiError"


# --- the ledger --------------------------------------------------------------------------------


def traces_in(folder: Path) -> list[str | None]:
    """What stands in the ledger, for whoever is to link to it."""
    return [row[0] for row in select_in(folder, "SELECT traceparent FROM qmc_calls ORDER BY seq")]


async def test_the_ledger_has_the_span(recorded: Recorded, tmp_path: Path) -> None:
    """As W3C Trace Context has it, written down before the call is placed."""
    async with FaultyPlatform(always(http())) as platform, calling(platform, tmp_path) as client:
        await call(client)
    context = recorded.one("qmc.call").context
    assert context is not None
    assert "traceparent" not in platform.seen[0].headers, "it is none of the platform's business"
    [traceparent] = traces_in(tmp_path)
    assert traceparent is not None
    version, trace_id, span_id, _ = traceparent.split("-")
    assert version == "00"
    assert (int(trace_id, 16), int(span_id, 16)) == (context.trace_id, context.span_id)


async def test_a_duplicate(recorded: Recorded, tmp_path: Path) -> None:
    """It is an error, and the ledger keeps the span of the call that is there."""
    async with FaultyPlatform(always(http())) as platform, calling(platform, tmp_path) as client:
        await call(client)
        [before] = traces_in(tmp_path)
        with pytest.raises(DuplicateCall):
            await call(client)
        assert traces_in(tmp_path) == [before]
    assert recorded.values("qmc.calls") == {("placed",): 1, ("error",): 1}


async def test_nothing_is_linked_to_what_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that was sampled out leads nowhere; it is counted all the same."""
    recorded = Recorded(TracerProvider(sampler=ALWAYS_OFF))
    recorded.use(monkeypatch)
    async with FaultyPlatform(always(http())) as platform, calling(platform, tmp_path) as client:
        await call(client)
    assert traces_in(tmp_path) == [None]
    assert recorded.spans == ()
    assert recorded.values("qmc.calls") == {("placed",): 1}


async def test_a_ledger_that_cannot_be_opened(recorded: Recorded, tmp_path: Path) -> None:
    """A call that could not be written down was not sent: an error."""
    client = AsyncQmcClient(1, "secret", store=url_in(tmp_path / "nowhere"))
    with pytest.raises(QmcError):
        await call(client)
    await client.aclose()
    assert recorded.values("qmc.calls") == {("error",): 1}
