"""A call's notification and its handlers are linked to where it was placed, on any machine."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from callback_peer import LATER, Seen, Store, body_of, hurry, make_due, post_to, until, url_in
from ledger_support import NUMBERS
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from telemetry_support import Recorded, linked_to, name_of
from test_schema_traces import traced

from qmc_async import AsyncQmcClient, CallbackServer, StoreError
from qmc_async.sandbox import Sandbox, VirtualClock
from qmc_async.store import Store as BaseStore

if TYPE_CHECKING:
    from pathlib import Path

    from database_servers import TestDatabase


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


PARENT = (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
"""What `test_schema_traces.PARENT` says."""


async def test_two_replicas(
    database: TestDatabase, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Placed on one, reported to another: notification and handlers are linked to the placing."""
    monkeypatch.setenv("QMC_SPOOL", str(tmp_path / "spool"))
    async with Sandbox(clock=VirtualClock()) as platform:
        client = AsyncQmcClient(
            platform.credentials.app_id,
            platform.credentials.app_secret,
            base_url=platform.base_url,
            store=BaseStore(database.url, patience=30),
        )
        server = CallbackServer(
            signer=client.signer, store=BaseStore(database.url, patience=30), port=0
        )
        seen = Seen()
        server.on_disconnected(name="log")(seen.handler("log"))
        server.on_disconnected(name="bill", retry=LATER)(seen.handler("bill", ValueError()))
        async with client, server:
            platform.callback_url = server.url
            await client.call(*NUMBERS, out_call_id="order-42")
            await platform.advance(minutes=1)
            await until(lambda: len(seen.all) == 2)
        database.execute("UPDATE qmc_deliveries SET due_at = 1 WHERE due_at IS NOT NULL")
        third = CallbackServer(store=BaseStore(database.url, patience=30), port=0)
        third.on_disconnected(name="bill")(seen.handler("bill"))
        async with third:
            await recorded.ended("qmc.handle bill", 2)
    placed = name_of(recorded.one("qmc.call"))
    spans = [
        recorded.one("qmc.notification"),
        recorded.one("qmc.handle log"),
        *recorded.named("qmc.handle bill"),
    ]
    assert [linked_to(span) for span in spans] == [[placed]] * 4


async def test_a_notification_that_is_earlier_than_the_reply(recorded: Recorded) -> None:
    """The ledger knows our id from before the call was placed."""
    async with Sandbox(clock=VirtualClock()) as platform:
        client = AsyncQmcClient(
            platform.credentials.app_id,
            platform.credentials.app_secret,
            base_url=platform.base_url,
            store="sqlite://",
        )
        server = CallbackServer(client=client, port=0)
        async with client, server:
            platform.callback_url = server.url
            await client.call(NUMBERS[0], "13912340025")
            await recorded.ended("qmc.notification")
    assert linked_to(recorded.one("qmc.notification")) == [name_of(recorded.one("qmc.call"))]


async def _report(server: CallbackServer, recorded: Recorded, body: bytes, *further: str) -> None:
    server.on_disconnected(name="log")(Seen().handler("log"))
    async with server:
        assert (await post_to(server, body)).status == 200
        for name in ("qmc.notification", *further):
            await recorded.ended(name)


@pytest.mark.parametrize("body", [body_of("4712"), b"\xff"], ids=["unknown", "undecodable"])
async def test_a_call_that_the_ledger_does_not_know(recorded: Recorded, body: bytes) -> None:
    """There is nothing to link to."""
    await _report(CallbackServer(store="sqlite://", port=0), recorded, body)
    assert [span.links for span in recorded.spans if span.links] == []


@pytest.mark.parametrize(
    "parent", ["", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "13987654321"]
)
async def test_what_is_no_trace(recorded: Recorded, tmp_path: Path, parent: str) -> None:
    """Whatever stands in the ledger, a notification is taken, and linked to nothing."""
    async with Store(url_in(tmp_path)) as store:
        await store.open_entry(traced("order-1", parent))
    server = CallbackServer(store=url_in(tmp_path), port=0)
    await _report(server, recorded, body_of(outCallId="order-1"))
    assert recorded.one("qmc.notification").links == ()


@pytest.mark.parametrize("when", ["at once", "later", "cancelled"])
async def test_a_look_up_that_fails(
    when: str, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notification is taken, its handler runs, and both have their spans."""

    def fail(_: Store, *__: object) -> asyncio.Future[str | None]:
        if when == "at once":
            raise StoreError("planted")
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        if when == "later":
            future.set_exception(StoreError("planted"))
        else:
            future.cancel()
        return future

    monkeypatch.setattr(BaseStore, "trace_of", fail)
    server = CallbackServer(store=url_in(tmp_path), port=0)
    await _report(server, recorded, body_of(), "qmc.handle log")
    assert len(recorded.named("qmc.handle log")) == 1
    assert [span.links for span in recorded.spans if span.links] == []


async def test_nobody_waits_for_a_look_up(recorded: Recorded, tmp_path: Path) -> None:
    """The platform is answered at once; the span ends later, as of when that was."""
    store = Store(url_in(tmp_path), patience=30)
    server = CallbackServer(store=store, port=0)
    asked: list[asyncio.Future[str | None]] = []

    def wait(*_: object) -> asyncio.Future[str | None]:
        asked.append(asyncio.get_running_loop().create_future())
        return asked[-1]

    vars(server)["_telemetry"]._find_trace = wait
    async with server:
        assert (await post_to(server, body_of())).status == 200
        answered = time.time_ns()
        await until(lambda: asked)
        assert recorded.spans == ()
        asked[0].set_result("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    span = recorded.one("qmc.notification")
    assert span.end_time is not None
    assert span.end_time <= answered
    assert linked_to(span) == [PARENT]


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_server_that_stops_waits_for_look_ups(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_late: bool
) -> None:
    """Who exports spans once it has stopped has them all, but for a database that hangs."""
    if is_late:
        monkeypatch.setattr("qmc_async.telemetry.recorder._FINISHED_WITHIN", 0.01)
    server = CallbackServer(store=url_in(tmp_path), port=0)
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str | None] = loop.create_future()

    def find(*_: object) -> asyncio.Future[str | None]:
        return found

    vars(server)["_telemetry"]._find_trace = find
    async with server:
        assert (await post_to(server, body_of())).status == 200
        if not is_late:
            loop.call_later(0.1, found.set_result, None)
    assert len(recorded.spans) == (0 if is_late else 1)
    found.cancel()
    assert len(await recorded.ended("qmc.notification")) == 1


async def test_nothing_is_looked_up_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where spans are not recorded, the database is not asked."""
    recorded = Recorded(TracerProvider(sampler=ALWAYS_OFF))
    recorded.use(monkeypatch)
    asked: list[object] = []

    def ask(*ids: object) -> None:
        asked.append(ids)

    monkeypatch.setattr(BaseStore, "trace_of", ask)
    server = CallbackServer(store=url_in(tmp_path), port=0)
    seen = Seen()
    server.on_disconnected(name="log")(seen.handler("log"))
    async with server:
        assert (await post_to(server, body_of())).status == 200
        await until(lambda: seen.all)
    make_due(tmp_path)
    assert asked == []
    assert recorded.values("qmc.notifications") == {("disconnected", "HangUp"): 1}
