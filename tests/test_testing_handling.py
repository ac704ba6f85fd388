"""Waiting for handlers: until they are done, and not past their failures."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of
from store_support import keep

from qmc_async import CallbackServer, Disconnected, Postpone, Reject, Retry, StoreError
from qmc_async.testing import HandlerFailed, disconnected, handled, post_disconnected

if TYPE_CHECKING:
    from qmc_async import AsyncQmcClient

SOON = Retry(attempts=3, first_delay=0.01, longest_delay=0.01)


@pytest.fixture(autouse=True)
def _tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due again is found within hundredths of a second."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._POLLED_EVERY", 0.02)


async def test_nothing_came(callback_server: CallbackServer) -> None:
    """Then nothing is to be waited for; nor is there what no handler wants."""
    await handled(callback_server)
    await post_disconnected(callback_server)
    await handled(callback_server)


async def test_every_handler_of_every_event(
    callback_server: CallbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for all of them, however many, and for what they wait for."""
    monkeypatch.setattr("qmc_async.testing.handling._AT_ONCE", 2)
    seen: list[tuple[str, str]] = []
    for name in ("one", "other"):

        @callback_server.on_disconnected(name=name)
        async def note(event: Disconnected, name: str = name) -> None:
            await asyncio.sleep(0.02)
            seen.append((event.call_id, name))

    for call_id in "123":
        await post_disconnected(callback_server, disconnected(call_id=call_id))
    await handled(callback_server)
    assert sorted(seen) == [(call_id, name) for call_id in "123" for name in ("one", "other")]


async def test_a_failure_is_told(callback_server: CallbackServer) -> None:
    """At once, and also after the second try has mended it, unless the tries are wanted."""
    tries: list[str] = []

    @callback_server.on_disconnected(name="bill", retry=SOON)
    async def bill(event: Disconnected) -> None:
        tries.append(event.call_id)
        if len(tries) == 1:
            raise ValueError("the number is 13912345678")

    await post_disconnected(callback_server, disconnected(call_id="4711"))
    told = r"^the handler bill failed at event 4711: ValueError: the number is 139\*{4}5678$"
    with pytest.raises(HandlerFailed, match=told) as caught:
        await handled(callback_server)
    await handled(callback_server, retries=True)
    assert tries == ["4711", "4711"]
    with pytest.raises(HandlerFailed):
        await handled(callback_server)
    again: HandlerFailed = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (again.handler, again.event_id, str(again)) == ("bill", "4711", str(caught.value))


@pytest.mark.parametrize("error", [Reject("never"), ValueError("never")])
async def test_what_is_given_up(error: Exception, callback_server: CallbackServer) -> None:
    """A dead letter is told, until it is replayed."""
    errors = [error] * 3

    @callback_server.on_disconnected(name="bill", retry=SOON)
    async def bill(_: Disconnected) -> None:
        if errors:
            raise errors.pop()

    await post_disconnected(callback_server)
    for _ in range(2):
        with pytest.raises(HandlerFailed, match="never"):
            await handled(callback_server, retries=True)
    [letter] = await callback_server.dead_letters()
    errors.clear()
    await callback_server.replay(letter)
    await handled(callback_server)


async def test_what_is_postponed(callback_server: CallbackServer) -> None:
    """A handler that wants the event later has done what it can now."""

    @callback_server.on_disconnected(name="archive")
    async def archive(_: Disconnected) -> None:
        raise Postpone(60)

    await post_disconnected(callback_server)
    await handled(callback_server)


async def test_what_takes_too_long(callback_server: CallbackServer) -> None:
    """The error names the handlers that are not done."""
    billing = asyncio.Event()

    @callback_server.on_disconnected(name="bill")
    async def bill(_: Disconnected) -> None:
        await billing.wait()

    await post_disconnected(callback_server)
    with pytest.raises(TimeoutError, match=r"^not done in 0\.05 s: bill$"):
        await handled(callback_server, timeout=0.05)
    with pytest.raises(TimeoutError, match=r"^not done in 0 s: the look into the store$"):
        await handled(callback_server, timeout=0)
    billing.set()
    await handled(callback_server)


async def test_what_nobody_has_looked_at(qmc_client: AsyncQmcClient) -> None:
    """What came while no server ran is waited for, until its handlers have run."""
    server = CallbackServer(client=qmc_client, port=0)
    seen: list[str] = []

    @server.on_disconnected(name="note")
    async def note(event: Disconnected) -> None:
        seen.append(event.call_id)

    await keep(server.store, body_of())
    with pytest.raises(TimeoutError, match=r"^not done in 0\.1 s: the choice of handlers$"):
        await handled(server, timeout=0.1)
    async with server:
        await handled(server)
    assert seen == ["4711"]


async def test_a_server_that_does_not_run(callback_server: CallbackServer) -> None:
    """There is nothing to ask."""
    await callback_server.stop()
    await handled(callback_server)  # the client has the store open still
    await callback_server.store.close()
    with pytest.raises(StoreError):
        await handled(callback_server)
