"""The service's tests: with the fixtures of qmc-async's pytest plugin, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from orders import CALLED_AGAIN_AFTER, Order, Orders

from qmc_async import AsyncQmcClient, NotificationMissing, Reason, RecordingError
from qmc_async.testing import disconnected, handled, post_disconnected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmc_async.sandbox import Sandbox, SimulatedCall


@pytest_asyncio.fixture
async def orders(qmc_sandbox: Sandbox, qmc_client: AsyncQmcClient) -> AsyncGenerator[Orders]:
    """The service, running, with one order; the sandbox sends it the notifications."""
    orders = Orders(qmc_client, port=0)
    orders.all["order-42"] = Order("13987654321", "13912345678")
    async with orders.server:
        qmc_sandbox.callback_url = orders.server.url
        yield orders


def last_call(platform: Sandbox) -> SimulatedCall:
    """The call that was placed last."""
    return list(platform.calls.values())[-1]


async def test_a_busy_customer_is_called_twice_more(orders: Orders, qmc_sandbox: Sandbox) -> None:
    """Each time ten minutes later, and then no more."""
    await orders.place("order-42")
    for placed_until_then, placed_after in ((1, 2), (2, 3), (3, 3)):
        await qmc_sandbox.hang_up(last_call(qmc_sandbox), reason=Reason.CALLEE_BUSY)
        await handled(orders.server)
        for minutes, placed in ((9, placed_until_then), (1, placed_after)):
            await qmc_sandbox.advance(minutes=minutes)
            await orders.place_due(qmc_sandbox.clock.now())
            assert len(qmc_sandbox.calls) == placed
    assert orders.all["order-42"].calls == ["order-42-1", "order-42-2", "order-42-3"]


async def test_the_talk_is_billed_once(orders: Orders, qmc_sandbox: Sandbox) -> None:
    """Also where the platform reports the call twice, or the handler gets the event again."""
    await orders.place("order-42")
    call = last_call(qmc_sandbox)
    await qmc_sandbox.advance(seconds=15)  # 3 s and 4 s until both have picked up
    await qmc_sandbox.hang_up(call)
    await qmc_sandbox.resend(call)
    await handled(orders.server)
    await orders.bill(disconnected(call_id=call.call_id, out_call_id=call.out_call_id))
    assert orders.all["order-42"].billed == {call.call_id: timedelta(seconds=8)}


async def test_nothing_is_billed_where_nobody_talked(orders: Orders) -> None:
    """The handlers alone, with events that no call has caused."""
    for reason in set(Reason) - {Reason.HANG_UP}:
        event = disconnected(reason, out_call_id="order-42-1")
        assert (await post_disconnected(orders.server, event)).status == 200
    await handled(orders.server)
    assert orders.all["order-42"].billed == {}


async def test_when_to_call_again() -> None:
    """A handler is a function: it needs neither server nor sandbox."""
    orders = Orders(AsyncQmcClient(1, "secret"))
    order = orders.all["order-7"] = Order("13987654321", "13912345678", ["order-7-1"])
    event = disconnected("CalleeBusy", out_call_id="order-7-1")
    await orders.call_again(event)
    assert order.call_again_at == event.end_time + CALLED_AGAIN_AFTER


async def test_a_missing_notification_is_noticed(qmc_sandbox: Sandbox) -> None:
    """The call ends and nobody reports it: the next look into the ledger finds it."""
    async with AsyncQmcClient(store="sqlite://", missing_after=0.001) as client:
        orders = Orders(client, port=0)
        orders.all["order-42"] = Order("13987654321", "13912345678")
        qmc_sandbox.drop_next_notification()
        await orders.place("order-42")
        await qmc_sandbox.hang_up(last_call(qmc_sandbox))
        async with orders.server:  # it looks when it starts, and every five seconds
            with pytest.raises(NotificationMissing):
                await orders.server.wait_for(out_call_id="order-42-1", timeout=20)
            await handled(orders.server)
    assert orders.all["order-42"].unreported == ["order-42-1"]


async def test_a_recording_is_gone_after_three_days(
    orders: Orders, qmc_sandbox: Sandbox, qmc_client: AsyncQmcClient, tmp_path: Path
) -> None:
    """Three days take as long as any other line."""
    await orders.place("order-42")
    await qmc_sandbox.advance(minutes=1)
    event = await orders.server.wait_for(out_call_id="order-42-1", timeout=5)
    recording = await qmc_client.recording(event)
    saved = await qmc_client.download(recording, tmp_path)
    assert saved.path.name == f"{event.call_id}.wav"
    await qmc_sandbox.advance(days=3)
    with pytest.raises(RecordingError):
        await qmc_client.download(recording, tmp_path)
