"""`Delivery.entry`: what a handler can ask of the ledger about its event's call."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, post_to, until
from faulty_platform import FaultyPlatform
from ledger_support import MASKED, place
from watchdog_support import (
    HOUR,
    RECORDED,
    SILENT,
    hurry_watchdog,
    make_overdue,
    place_on,
    running,
    server_of,
)

from qmc_async import CallbackServer, CallState, Delivery, LedgerEntry, StoreError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_watchdog(monkeypatch)


async def test_the_entry_of_a_call(tmp_path: Path) -> None:
    """`Delivery.entry` is what the ledger knows: who was called, masked, and what became of it."""
    entries: dict[str, LedgerEntry | None] = {}

    async def note(event: Any, delivery: Delivery) -> None:  # noqa: ANN401 - any event
        entries[type(event).__name__] = await delivery.entry()

    async with FaultyPlatform(RECORDED) as platform:
        server = server_of(tmp_path, platform.url)
        server.on_missing(name="1")(note)
        server.on_disconnected(name="2")(note)
        server.on_conflict(name="3")(note)
        server.on_unknown(name="4")(note)
        async with running(server):
            await place_on(server, "1")
            make_overdue(tmp_path)
            await place_on(server, "2")
            for body in (
                body_of("2", outCallId="order-2"),
                body_of("2", outCallId="order-2", reason="Other"),
                b'{"callidentifier": "2", "status": "Ringing"}',
            ):
                await post_to(server, body)
            await until(lambda: len(entries) == 4)
    overdue_entry = entries.pop("Overdue")
    assert overdue_entry is not None
    assert (overdue_entry.state, overdue_entry.call_id) == (CallState.INFERRED, "1")
    assert (overdue_entry.out_call_id, overdue_entry.callee) == ("order-1", MASKED[1])
    for entry in entries.values():
        assert entry is not None
        assert (entry.state, entry.call_id) == (CallState.ENDED, "2")
        assert (entry.out_call_id, entry.caller) == ("order-2", MASKED[0])


async def test_the_entry_of_a_call_without_an_id(tmp_path: Path) -> None:
    """It is found by ours: missing, and after its notification has come, ended."""
    entries: list[LedgerEntry | None] = []

    async def note(_: Any, delivery: Delivery) -> None:  # noqa: ANN401 - either kind
        entries.append(await delivery.entry())

    async with FaultyPlatform(SILENT) as platform:
        server = server_of(tmp_path, platform.url)
        server.on_missing(name="missing")(note)
        server.on_disconnected(name="ended")(note)
        async with running(server):
            assert server.client is not None
            assert server.client.store is not None
            await place(server.client.store, None, state=CallState.UNKNOWN, missing_after=HOUR)
            make_overdue(tmp_path)
            await until(lambda: len(entries) == 1)
            await post_to(server, body_of("4711", outCallId="order-1"))
            await until(lambda: len(entries) == 2)
    [missing, ended] = entries
    assert missing is not None
    assert ended is not None
    assert (missing.state, missing.call_id) == (CallState.MISSING, None)
    assert (ended.state, ended.call_id) == (CallState.ENDED, "4711")


async def test_no_ledger() -> None:
    """Of a call that is in no ledger here there is none."""
    entries: list[LedgerEntry | None] = []

    async def note(_: Any, delivery: Delivery) -> None:  # noqa: ANN401 - either kind
        entries.append(await delivery.entry())

    server = CallbackServer(port=0)
    server.on_disconnected(name="ended")(note)
    server.on_unknown(name="unknown")(note)
    async with server:
        await post_to(server, body_of("4711", outCallId="order-1"))
        await post_to(server, b"?")
        await until(lambda: len(entries) == 2)
        assert server.client is None
    assert entries == [None, None]


async def test_a_delivery_made_by_hand() -> None:
    """In a handler's own test there is no ledger to ask."""
    delivery = Delivery(attempt=1, first_seen=datetime.now(UTC), idempotency_key="1:a")
    assert await delivery.entry() is None
    assert "entry" not in repr(delivery)


async def test_a_store_that_does_not_answer(tmp_path: Path) -> None:
    """A handler that asks once the server has stopped is told so."""
    deliveries: list[Delivery] = []

    async def note(_: Any, delivery: Delivery) -> None:  # noqa: ANN401 - any event
        deliveries.append(delivery)

    async with FaultyPlatform(SILENT) as platform:
        server = server_of(tmp_path, platform.url)
        server.on_disconnected(name="ended")(note)
        async with running(server):
            await post_to(server, body_of())
            await until(lambda: deliveries)
    with pytest.raises(StoreError, match="not open"):
        await deliveries[0].entry()
