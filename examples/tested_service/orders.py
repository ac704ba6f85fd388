"""A service that connects agents with customers, and is tested by test_orders.py beside it.

A customer who was busy is called again after ten minutes, twice at most. The time that was talked
is billed once. A call whose end nobody reports is noticed.

Run the tests with ``pip install 'qmc-async[testing]'`` and ``pytest``, in this folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from qmc_async import AsyncQmcClient, CallbackServer, Disconnected, Overdue, Reason

CALLED_AGAIN_AFTER = timedelta(minutes=10)
MOST_CALLS = 3


@dataclass
class Order:
    """A customer who wants to talk to an agent. A real service has it in its database."""

    agent: str
    customer: str
    calls: list[str] = field(default_factory=list[str])
    call_again_at: datetime | None = None
    billed: dict[str, timedelta] = field(default_factory=dict[str, timedelta])
    unreported: list[str] = field(default_factory=list[str])


class Orders:
    """The orders, and what becomes of them.

    Args:
        client: places the calls; with a ledger.
        port: on which the platform's notifications are taken.
    """

    def __init__(self, client: AsyncQmcClient, *, port: int = 8080) -> None:
        self.client = client
        self.all: dict[str, Order] = {}
        self.server = CallbackServer(client=client, port=port)
        self.server.on_disconnected(reason=Reason.CALLEE_BUSY, name="call-again")(self.call_again)
        self.server.on_disconnected(reason=Reason.HANG_UP, name="bill")(self.bill)
        self.server.on_missing(name="unreported")(self.unreported)

    async def place(self, name: str) -> None:
        """Call the customer of an order; again, if it was called before."""
        order = self.all[name]
        order.call_again_at = None
        order.calls.append(f"{name}-{len(order.calls) + 1}")
        await self.client.call(order.agent, order.customer, out_call_id=order.calls[-1])

    async def place_due(self, now: datetime) -> None:
        """Call again whoever is due. A real service runs this every minute."""
        for name, order in self.all.items():
            if order.call_again_at is not None and order.call_again_at <= now:
                await self.place(name)

    async def call_again(self, event: Disconnected) -> None:
        """Note when a customer who was busy is to be called again."""
        order = self._order_of(event)
        if len(order.calls) < MOST_CALLS:
            order.call_again_at = event.end_time + CALLED_AGAIN_AFTER

    async def bill(self, event: Disconnected) -> None:
        """Bill the talk. A handler may see an event twice, and the bill must not."""
        if event.call_duration is not None:
            self._order_of(event).billed.setdefault(event.call_id, event.call_duration)

    async def unreported(self, call: Overdue) -> None:
        """Have somebody ask the agent how a call went."""
        self._order_of(call).unreported.append(call.out_call_id)

    def _order_of(self, event: Disconnected | Overdue) -> Order:
        name, _, _ = (event.out_call_id or "").rpartition("-")
        return self.all[name]
