"""The ledger: an `out_call_id` is used once, whoever places the calls."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, select_in, url_in
from faulty_platform import (
    APP_ID,
    SECRET,
    FaultyPlatform,
    always,
    close_after_reading,
    http,
    never_answer,
    once,
)
from ledger_support import (
    HOSTILE_IDS,
    NUMBERS,
    call,
    calling,
    client_of,
    entry_of,
    states_in,
    store_of,
)
from store_support import Process, keep

from qmc_async import (
    ApiError,
    ArgumentError,
    Call,
    CallOutcomeUnknown,
    CallState,
    DuplicateCall,
    RateLimited,
)
from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from faulty_platform import Behaviour


@pytest.fixture
async def platform() -> AsyncIterator[FaultyPlatform]:
    """A platform that places every call."""
    async with FaultyPlatform(always(http())) as platform:
        yield platform


# --- one client --------------------------------------------------------------------------------


async def test_an_id_is_used_once(platform: FaultyPlatform, tmp_path: Path) -> None:
    """The second call under it is refused before anything is sent, also after a restart."""
    for attempt in range(3):
        async with calling(platform, tmp_path) as client:
            if not attempt:
                await call(client)
                continue
            with pytest.raises(DuplicateCall, match=r"order-1 was used before.*placed since"):
                await call(client)
    assert len(platform.requests) == 1
    assert states_in(tmp_path) == {"order-1": "placed"}


async def test_what_the_error_tells(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Which call is there and what became of it, also to another process; and no number."""
    async with calling(platform, tmp_path) as client:
        await call(client)
        await keep(store_of(client), body_of("c-1", outCallId="order-1"))
        with pytest.raises(DuplicateCall) as caught:
            await call(client)
    error = caught.value
    assert isinstance(error, ArgumentError)
    for one in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own
        assert type(one) is DuplicateCall
        assert (one.argument, one.out_call_id) == ("out_call_id", "order-1")
        assert (one.call_id, one.state) == ("c-1", "ended")
        assert str(one) == str(error)
        assert not any(number in f"{one}{one!r}" for number in NUMBERS)


UNSETTLED: dict[str, tuple[Behaviour, str]] = {
    "no reply": (close_after_reading, "unknown"),
    "nonsense": (once(http(b"{}")), "unknown"),
}


@pytest.mark.parametrize("name", UNSETTLED)
async def test_a_call_that_may_have_rung(name: str, tmp_path: Path) -> None:
    """Its id is used: nobody's telephone rings twice because an answer was lost."""
    behaviour, state = UNSETTLED[name]
    async with FaultyPlatform(behaviour) as platform, calling(platform, tmp_path) as client:
        with pytest.raises(CallOutcomeUnknown):
            await call(client)
        with pytest.raises(DuplicateCall) as caught:
            await call(client)
        assert (caught.value.state, caught.value.call_id) == (state, None)
    assert len(platform.requests) == 1


async def test_a_call_that_was_refused(tmp_path: Path) -> None:
    """Its id can be used until one is placed under it; the last refusal is what is known."""
    refusals = once(http(b'{"code": 1, "msg": "no"}')), once(http(b"", "429 Too Many"))
    async with (
        FaultyPlatform(*refusals, always(http())) as platform,
        calling(platform, tmp_path) as client,
    ):
        for error, why in (ApiError, "code 1: no"), (RateLimited, "HTTP 429"):
            with pytest.raises(error):
                await call(client)
            assert why in (await entry_of(client)).error
        await call(client)
        with pytest.raises(DuplicateCall):
            await call(client)
        assert select_in(tmp_path, "SELECT state, call_id, error FROM qmc_calls") == [
            ("placed", "c-1", "")
        ]
    assert len(platform.requests) == 3


async def test_ringing_again_by_request(tmp_path: Path) -> None:
    """With again=True each call is placed and has an entry; without, the id stays used."""
    replies = [
        once(http(b'{"code": 200, "success": true, "data": {"callidentifier": "c-%d"}}' % number))
        for number in range(1, 4)
    ]
    async with FaultyPlatform(*replies) as platform, calling(platform, tmp_path) as client:
        for _ in range(3):
            await call(client, again=True)
        with pytest.raises(DuplicateCall) as caught:
            await call(client)
        store = store_of(client)
        found = [await store.ledger_entry(call_id=f"c-{number}") for number in range(1, 4)]
        assert {one and one.out_call_id for one in found} == {"order-1"}
        assert (await entry_of(client)).call_id == "c-3"
    assert caught.value.call_id == "c-1"
    assert [request.json["outCallId"] for request in platform.seen] == ["order-1"] * 3
    assert list(states_in(tmp_path).values()) == ["placed"] * 3


async def test_ids_that_are_alike(platform: FaultyPlatform, tmp_path: Path) -> None:
    """None is taken for another: each is placed once, as it was given."""
    names = [name for name in HOSTILE_IDS if len(name) <= 64]  # no call can have the rest
    async with calling(platform, tmp_path) as client:
        for name in names:
            await call(client, name)
        for name in names:
            with pytest.raises(DuplicateCall) as caught:
                await call(client, name)
            assert caught.value.out_call_id == name
            assert (await entry_of(client, name)).out_call_id == name
    assert [request.json["outCallId"] for request in platform.seen] == names


async def test_many_at_once(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Of calls with one id that are placed together, one is."""
    async with calling(platform, tmp_path) as client:
        names = [f"order-{number % 5}" for number in range(50)]
        done = await asyncio.gather(*(call(client, name) for name in names), return_exceptions=True)
    placed = [one.out_call_id for one in done if isinstance(one, Call)]
    duplicates = [one.out_call_id for one in done if isinstance(one, DuplicateCall)]
    assert sorted(placed) == sorted(set(names))
    assert len(duplicates) == 45
    assert sorted(request.json["outCallId"] for request in platform.seen) == sorted(set(names))


# --- several -----------------------------------------------------------------------------------


async def test_several_clients_of_a_file(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Each with a connection of its own: one of them places the call."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(calling(platform, tmp_path)) for _ in range(3)]
        tries = [call(client, f"order-{number}") for number in range(5) for client in clients]
        done = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(one) for one in done].count(Call) == 5
    assert [type(one) for one in done].count(DuplicateCall) == 10
    assert len({request.json["outCallId"] for request in platform.seen}) == 5
    assert len(platform.requests) == 5


async def test_two_clients_of_one_store(platform: FaultyPlatform, tmp_path: Path) -> None:
    """They share the ledger, and the one that is closed leaves it to the other."""
    store = Store(url_in(tmp_path))
    async with client_of(platform.url, store) as other:
        async with client_of(platform.url, store) as client:
            assert client.store is other.store is store
            await call(client)
        with pytest.raises(DuplicateCall):
            await call(other)
        await call(other, "order-2")
    assert states_in(tmp_path) == {"order-1": "placed", "order-2": "placed"}


async def test_a_client_with_other_options(platform: FaultyPlatform, tmp_path: Path) -> None:
    """It has the same ledger, and leaves it open."""
    async with calling(platform, tmp_path) as client:
        other = client.with_options(timeout=7)
        assert other.store is client.store
        await call(other)
        await other.aclose()
        with pytest.raises(DuplicateCall):
            await call(client)
        await call(client, "order-2")
    assert len(platform.requests) == 2


PROGRAM = """
import asyncio, sys
from qmc_async import AsyncQmcClient, DuplicateCall

url, store, app_id, secret, caller, callee = sys.argv[1:]

async def main():
    async with AsyncQmcClient(app_id, secret, base_url=url, store=store) as client:
        print("ready", flush=True)
        input()
        try:
            call = await client.call(caller, callee, out_call_id="order-1")
        except DuplicateCall as error:
            print("duplicate", error.state, flush=True)
        else:
            print("placed", call.call_id, flush=True)

asyncio.run(main())
"""


def _process(platform: FaultyPlatform, folder: Path) -> Process:
    return Process(PROGRAM, platform.url, url_in(folder), str(APP_ID), SECRET, *NUMBERS)


async def test_two_processes(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Of two that place the same call at the same time, one does."""
    processes = [_process(platform, tmp_path) for _ in range(2)]
    for process in processes:
        assert await asyncio.to_thread(process.line) == "ready"
    for process in processes:
        process.say()
    said = [await asyncio.to_thread(process.line) for process in processes]
    for process in processes:
        process.end()
    assert sorted(one.split()[0] for one in said) == ["duplicate", "placed"]
    assert "placed c-1" in said
    assert len(platform.requests) == 1


async def test_a_process_that_is_killed(tmp_path: Path) -> None:
    """Nobody knows whether that call rings: its id is used for whoever comes next."""
    async with FaultyPlatform(never_answer, always(http())) as platform:
        process = _process(platform, tmp_path)
        assert await asyncio.to_thread(process.line) == "ready"
        process.say()
        await platform.received(1)
        process.kill()
        assert states_in(tmp_path) == {"order-1": "placing"}
        async with calling(platform, tmp_path) as client:
            with pytest.raises(DuplicateCall) as caught:
                await call(client)
            assert (caught.value.state, caught.value.call_id) == ("placing", None)
            assert len(platform.requests) == 1
            await keep(store_of(client), body_of("c-7", outCallId="order-1"))
            entry = await entry_of(client)
            assert (entry.state, entry.call_id) == (CallState.ENDED, "c-7")
            await call(client, again=True)
    assert len(platform.requests) == 2
