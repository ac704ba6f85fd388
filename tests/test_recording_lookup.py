"""Ask the platform where a recording is: at once, or until it is there."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from faulty_platform import (
    CALLEE,
    CALLER,
    DONE,
    TRANSPORTS,
    FaultyPlatform,
    always,
    close_after_reading,
    connect,
    http,
    in_turn,
)

from qmc_async.errors import (
    ApiError,
    ArgumentError,
    AuthenticationError,
    RateLimited,
    TransportError,
)
from qmc_async.models import BEIJING, Disconnected

NOT_READY = http(b'{"code": 40001, "msg": "not yet"}')

both_transports = pytest.mark.parametrize("transport", TRANSPORTS)


@both_transports
async def test_wait(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `wait=` it keeps asking, ever more slowly, until the platform has the recording."""
    monkeypatch.setattr("qmc_async.client._FIRST_POLL", 0.05)
    async with (
        FaultyPlatform(in_turn(NOT_READY, NOT_READY, NOT_READY, http(DONE))) as platform,
        connect(platform.url, transport) as client,
    ):
        found = await client.recording("c-1", wait=30)
    assert found.file_url == "http://files.invalid/c-1.wav"
    arrived = [request.arrived for request in platform.seen]
    pauses = [after - before for before, after in itertools.pairwise(arrived)]
    assert pauses == pytest.approx([0.05, 0.1, 0.2], abs=0.04)


async def test_wait_has_a_longest_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses grow to a bound, so that a recording is found soon after it is there."""
    monkeypatch.setattr("qmc_async.client._FIRST_POLL", 0.02)
    monkeypatch.setattr("qmc_async.client._LONGEST_POLL", 0.03)
    async with (
        FaultyPlatform(always(NOT_READY)) as platform,
        connect(platform.url) as client,
    ):
        with pytest.raises(ApiError):
            await client.recording("c-1", wait=0.3)
    assert 7 <= len(platform.requests) <= 12


async def test_wait_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is up it asks once more, and raises the platform's last word."""
    monkeypatch.setattr("qmc_async.client._FIRST_POLL", 10.0)
    async with FaultyPlatform(always(NOT_READY)) as platform, connect(platform.url) as client:
        started = time.monotonic()
        with pytest.raises(ApiError, match="not yet") as caught:
            await client.recording("c-1", wait=0.2)
        assert time.monotonic() - started == pytest.approx(0.2, abs=0.1)
    assert caught.value.code == 40001
    assert len(platform.requests) == 2


@pytest.mark.parametrize("wait", ["5", None, -1, -0.001, float("nan"), float("-inf")])
async def test_bad_wait(wait: Any) -> None:  # noqa: ANN401 - callers err
    """A wait that is no time is refused, before anything is sent."""
    async with FaultyPlatform(always(NOT_READY)) as platform, connect(platform.url) as client:
        with pytest.raises(ArgumentError) as caught:
            await client.recording("c-1", wait=wait)
    assert caught.value.argument == "wait"
    assert platform.connections == 0


async def test_no_wait() -> None:
    """Without `wait=` a "no" is raised at once."""
    async with FaultyPlatform(always(NOT_READY)) as platform, connect(platform.url) as client:
        with pytest.raises(ApiError):
            await client.recording("c-1")
    assert len(platform.requests) == 1


@pytest.mark.parametrize(
    ("status", "error"), [("401 No", AuthenticationError), ("429 Slow", RateLimited)]
)
async def test_wait_is_not_for_these(status: str, error: type[ApiError]) -> None:
    """While it waits, a refusal of the credentials or of the pace is raised at once."""
    async with (
        FaultyPlatform(in_turn(http(b"", status))) as platform,
        connect(platform.url, max_retries=0) as client,
    ):
        with pytest.raises(error):
            await client.recording("c-1", wait=30)
    assert len(platform.requests) == 1


async def test_wait_is_not_for_a_broken_network() -> None:
    """While it waits, a platform that does not answer is raised once the retries are used up."""
    async with (
        FaultyPlatform(close_after_reading) as platform,
        connect(platform.url, max_retries=1) as client,
    ):
        with pytest.raises(TransportError):
            await client.recording("c-1", wait=30)
    assert len(platform.requests) == 2


async def test_expires() -> None:
    """The expiry is exact for a `Disconnected`, on the early side for a `Call`, else unknown."""
    end = datetime(2023, 8, 29, 8, 50, 26, tzinfo=BEIJING)
    three_days = timedelta(days=3)
    async with FaultyPlatform(always(http(DONE))) as platform, connect(platform.url) as client:
        call = await client.call(CALLER, CALLEE)
        by_call = await client.recording(call)
        by_event = await client.recording(Disconnected(call_id="c-1", end_time=end))
        by_id = await client.recording("c-1")
        never = datetime(9999, 12, 31, tzinfo=BEIJING)  # which the platform could say
        by_nonsense = await client.recording(Disconnected(call_id="c-1", end_time=never))
    assert by_event.expires_at == end + three_days
    assert by_call.expires_at == call.placed_at + three_days
    assert by_id.expires_at is None
    assert by_nonsense.expires_at is None
    assert call.placed_at - datetime.now(UTC) < timedelta(seconds=5)
    assert call.placed_at.utcoffset() == timedelta(hours=8)
    assert {request.json["callidentifier"] for request in platform.seen[1:]} == {"c-1"}
    assert by_id.raw["fileUrl"] == by_id.file_url
    assert "files.invalid" not in repr(by_id)
