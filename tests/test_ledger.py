"""The ledger: a call is written down before it is placed, and what became of it after."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest
from callback_peer import body_of, select_in, until
from faulty_platform import (
    FaultyPlatform,
    always,
    close_after_reading,
    http,
    never_answer,
    once,
    unreachable,
)
from ledger_support import (
    MASKED,
    NUMBERS,
    call,
    calling,
    client_of,
    entry_of,
    states_in,
    store_of,
    unwritten_in,
)
from store_support import held_up, keep, names_in, waiting

from qmc_async import (
    ApiError,
    ArgumentError,
    AuthenticationError,
    CallOutcomeUnknown,
    CallState,
    RateLimited,
    TransportError,
)
from qmc_async.models import BEIJING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from faulty_platform import Behaviour, Connection

NOT_PLACED = http(b'{"code": 40001, "msg": "no such number"}')


@pytest.fixture
async def platform() -> AsyncIterator[FaultyPlatform]:
    """A platform that places every call."""
    async with FaultyPlatform(always(http())) as platform:
        yield platform


# --- before and after it is sent ---------------------------------------------------------------


async def test_it_is_written_down_before_it_is_sent(tmp_path: Path) -> None:
    """When the platform sees the request, the call is in the file; when we go on, its id too."""
    seen: list[dict[str, str]] = []

    async def look(connection: Connection) -> None:
        await connection.read_request()
        seen.append(states_in(tmp_path))
        connection.writer.write(http())

    async with FaultyPlatform(look) as platform, calling(platform, tmp_path) as client:
        placed = await call(client)
        assert seen == [{"order-1": "placing"}]
        assert states_in(tmp_path) == {"order-1": "placed"}
        entry = await entry_of(client)
    assert (entry.call_id, entry.out_call_id) == (placed.call_id, "order-1") == ("c-1", "order-1")
    assert entry.state is CallState.PLACED
    assert entry.placed_at.tzinfo is BEIJING
    assert abs((entry.placed_at - placed.placed_at).total_seconds()) < 30
    assert (entry.error, entry.changed_at) == ("", entry.placed_at)


OUTCOMES: dict[str, tuple[Behaviour, type[Exception], str, str]] = {
    "refused": (once(NOT_PLACED), ApiError, "refused", "code 40001: no such number"),
    "not authorized": (
        once(http(b"", "401 Unauthorized")),
        AuthenticationError,
        "refused",
        "HTTP 401",
    ),
    "too many": (once(http(b"", "429 Too Many")), RateLimited, "refused", "HTTP 429"),
    "no reply": (close_after_reading, CallOutcomeUnknown, "unknown", "the connection broke"),
    "broken": (once(http(b"", "500 Oops")), CallOutcomeUnknown, "unknown", "HTTP 500"),
    "nonsense": (once(http(b"[]")), CallOutcomeUnknown, "unknown", "without the documented JSON"),
}


@pytest.mark.parametrize("name", OUTCOMES)
async def test_what_became_of_it(name: str, tmp_path: Path) -> None:
    """Refused where no telephone can have rung, unknown where one may have, and why."""
    behaviour, error, state, why = OUTCOMES[name]
    async with FaultyPlatform(behaviour) as platform, calling(platform, tmp_path) as client:
        with pytest.raises(error):
            await call(client)
        assert states_in(tmp_path) == {"order-1": state}
        assert why in (await entry_of(client)).error


async def test_what_the_platform_says_may_be_anything(tmp_path: Path) -> None:
    """Why it was refused is written down in part, and without what no database takes."""
    reply = http(b'{"code": 40001, "msg": "a\\u0000b\\ud800' + b"x" * 100_000 + b'"}')
    async with FaultyPlatform(once(reply)) as platform, calling(platform, tmp_path) as client:
        with pytest.raises((ApiError, CallOutcomeUnknown)) as caught:
            await call(client)
        [(state, error)] = select_in(tmp_path, "SELECT state, error FROM qmc_calls")
    assert state == ("refused" if isinstance(caught.value, ApiError) else "unknown")
    assert 0 < len(error) <= 2000
    assert "\0" not in error


async def test_a_platform_that_cannot_be_reached(tmp_path: Path) -> None:
    """Nothing left this machine: the call is refused, and its id can be used again."""
    async with (
        unreachable() as url,
        client_of(url, f"sqlite:///{tmp_path / 'qmc.db'}", max_retries=0) as client,
    ):
        for _ in range(2):
            with pytest.raises(TransportError):
                await call(client)
            assert states_in(tmp_path) == {"order-1": "refused"}


async def test_an_argument_that_is_no_good(platform: FaultyPlatform, tmp_path: Path) -> None:
    """It leaves nothing in the ledger."""
    async with calling(platform, tmp_path) as client:
        for numbers, out_call_id in (("12", NUMBERS[1]), "order-1"), (NUMBERS, "0"):
            with pytest.raises(ArgumentError):
                await client.call(*numbers, out_call_id=out_call_id)
        assert states_in(tmp_path) == {}


async def test_an_id_that_is_made_up(platform: FaultyPlatform, tmp_path: Path) -> None:
    """It is written down like one's own."""
    async with calling(platform, tmp_path) as client:
        placed = [await client.call(*NUMBERS) for _ in range(2)]
    assert list(states_in(tmp_path)) == [one.out_call_id for one in placed]


async def test_a_notification_that_is_there_first(tmp_path: Path) -> None:
    """A call that was reported before the reply to it came is ended, and stays so."""

    async def report(connection: Connection) -> None:
        await connection.read_request()
        await keep(store_of(client), body_of("c-1", outCallId="order-1"))
        connection.writer.write(http())

    async with FaultyPlatform(report) as platform, calling(platform, tmp_path) as client:
        await call(client)
        assert (await entry_of(client)).state is CallState.ENDED


# --- telephone numbers -------------------------------------------------------------------------


def _numbers_in(folder: Path) -> list[str]:
    """Those that stand in any file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in files)
    return [number for number in (*NUMBERS, *MASKED) if number.encode() in everything]


async def test_numbers_are_masked(platform: FaultyPlatform, tmp_path: Path) -> None:
    """No file has them whole, and the platform gets them whole all the same."""
    async with calling(platform, tmp_path) as client:
        await call(client)
        assert _numbers_in(tmp_path) == list(MASKED)
        entry = await entry_of(client)
    assert (entry.caller, entry.callee) == MASKED
    assert (platform.seen[0].json["caller"], platform.seen[0].json["callee"]) == NUMBERS


async def test_numbers_are_whole_by_setting(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Who wants them whole gets them, but in no repr."""
    async with calling(platform, tmp_path, ledger_numbers="whole") as client:
        await call(client)
        assert _numbers_in(tmp_path) == list(NUMBERS)
        entry = await entry_of(client)
    assert (entry.caller, entry.callee) == NUMBERS
    assert not any(number in repr(entry) for number in NUMBERS)


# --- cancelled ---------------------------------------------------------------------------------


async def test_cancelled_while_it_is_placed(tmp_path: Path) -> None:
    """It may ring all the same: that is written down although nobody waits for it."""
    async with FaultyPlatform(never_answer) as platform:
        async with calling(platform, tmp_path) as client:
            placing = asyncio.ensure_future(call(client))
            await platform.received(1)
            placing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await placing
        assert select_in(tmp_path, "SELECT state, error FROM qmc_calls") == [
            ("unknown", "CancelledError")
        ]


async def test_cancelled_anywhere(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Wherever that is: what is not in the ledger was not sent, and nothing is left half-way."""
    async with calling(platform, tmp_path) as client:
        for steps in range(60):
            placing = asyncio.ensure_future(call(client, f"order-{steps}"))
            for _ in range(steps):
                await asyncio.sleep(0)
            placing.cancel()
            await asyncio.wait({placing})
    sent = {request.json["outCallId"] for request in platform.seen}
    states = states_in(tmp_path)
    assert sent <= states.keys()
    assert "order-0" not in states
    assert "placing" not in states.values()


async def test_cancelled_while_it_is_written_down(platform: FaultyPlatform, tmp_path: Path) -> None:
    """It is struck out, and whoever tries at once again does not run into it."""
    async with calling(platform, tmp_path) as client:
        async with held_up(store_of(client)):
            for _ in range(3):
                given_up = asyncio.ensure_future(call(client))
                await until(lambda: waiting(store_of(client)))
                await asyncio.sleep(0)
                given_up.cancel()
                await asyncio.wait({given_up})
                assert given_up.cancelled()
            last = asyncio.ensure_future(call(client))
            await asyncio.sleep(0)
            assert platform.requests == []
        assert (await last).call_id == "c-1"
        await until(lambda: not unwritten_in(client))
        assert states_in(tmp_path) == {"order-1": "placed"}
    assert len(platform.requests) == 1


# --- closed ------------------------------------------------------------------------------------


async def test_closed_while_it_is_placed(tmp_path: Path) -> None:
    """Its connection is closed under it, and that is written down before the store is closed."""
    async with FaultyPlatform(never_answer) as platform:
        async with calling(platform, tmp_path) as client:
            placing = asyncio.ensure_future(call(client))
            await platform.received(1)
        with pytest.raises(CallOutcomeUnknown):
            await placing
    assert states_in(tmp_path) == {"order-1": "unknown"}
    assert "qmc.db-wal" not in names_in(tmp_path), "the store is still open"


async def _answer_when(told: asyncio.Event, connection: Connection) -> None:
    await connection.read_request()
    await told.wait()
    connection.writer.write(http())
    await connection.writer.drain()


async def test_a_close_waits_for_calls_that_go_on(tmp_path: Path) -> None:
    """On an httpx client of one's own, a call goes on: it ends, and is written down."""
    told = asyncio.Event()
    async with (
        FaultyPlatform(lambda connection: _answer_when(told, connection)) as platform,
        httpx.AsyncClient(trust_env=False) as own,
    ):
        client = client_of(platform.url, f"sqlite:///{tmp_path / 'qmc.db'}", http_client=own)
        placing = asyncio.ensure_future(call(client))
        await platform.received(1)
        closing = asyncio.ensure_future(client.aclose())
        await asyncio.sleep(0)
        told.set()
        await closing
        assert states_in(tmp_path) == {"order-1": "placed"}
        assert (await placing).call_id == "c-1"


async def test_a_close_waits_so_long_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that ends after that is returned, and that it is not written down is logged."""
    monkeypatch.setattr("qmc_async.ledger._LAST", 0.02)
    told = asyncio.Event()
    async with (
        FaultyPlatform(lambda connection: _answer_when(told, connection)) as platform,
        httpx.AsyncClient(trust_env=False) as own,
    ):
        client = client_of(platform.url, f"sqlite:///{tmp_path / 'qmc.db'}", http_client=own)
        placing = asyncio.ensure_future(call(client))
        await platform.received(1)
        await client.aclose()
        told.set()
        assert (await placing).call_id == "c-1"
    assert states_in(tmp_path) == {"order-1": "placing"}
    assert "the call order-1 is placed cannot be written down: the store is not open" in caplog.text


async def test_closed_while_it_is_written_down(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Nothing is sent, and nothing is left in the ledger."""
    async with calling(platform, tmp_path) as client:
        async with held_up(store_of(client)):
            placing = asyncio.ensure_future(call(client))
            await until(lambda: waiting(store_of(client)))
            closing = asyncio.ensure_future(client.aclose())
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="closed: make a new one"):
            await placing
        await closing
        for use in (call(client), vars(client)["_ledger"].open()):
            with pytest.raises(RuntimeError, match="closed"):
                await use
    assert states_in(tmp_path) == {}
    assert platform.requests == []
