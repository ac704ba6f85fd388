"""What a server records of notifications, of calls that nobody reports, and of what waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from callback_peer import (
    LATER,
    Seen,
    Store,
    alone,
    body_of,
    post_to,
    until,
    url_in,
)
from callback_shells import an_asgi_application, asgi_serving, serving
from faulty_platform import FaultyPlatform
from opentelemetry.trace import SpanKind, StatusCode
from telemetry_support import Recorded, attributes_of, is_child_of
from watchdog_support import RECORDED, SILENT, hurry_watchdog, watched

from qmc_async import CallbackServer, Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from faulty_platform import Behaviour
    from starlette.types import Receive, Scope, Send


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_watchdog(monkeypatch)


# --- notifications -----------------------------------------------------------------------------


async def test_a_notification(recorded: Recorded) -> None:
    """To the conventions it is an HTTP request; its path is a secret."""
    async with alone() as there:
        body = body_of(outCallId="order-42", reason="CalleeBusy")
        assert (await there.post(body)).status == 200
        await recorded.ended("qmc.notification")
    span = recorded.one("qmc.notification")
    assert span.kind is SpanKind.SERVER
    assert span.parent is None
    assert attributes_of(span) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "qmc.call_id": "4711",
        "qmc.out_call_id": "order-42",
        "qmc.reason": "CalleeBusy",
    }
    assert recorded.values("qmc.notifications") == {("disconnected", "CalleeBusy"): 1}
    assert recorded.values("qmc.notification.duration") == {(200,): 1}


REASONS: list[tuple[bytes, tuple[str, str]]] = [
    *((body_of(reason=reason), ("disconnected", reason.value)) for reason in Reason),
    (body_of(reason="Exploded"), ("disconnected", "other")),
    (body_of(reason=""), ("disconnected", "none")),
    (body_of(status="Ringing"), ("unknown", "none")),
    (b"\xff", ("unknown", "none")),
]


async def test_reasons_are_few(recorded: Recorded) -> None:
    """Whatever is sent, there are no more series than the document has reasons, and three."""
    async with alone() as there:
        for body, _ in REASONS:
            assert (await there.post(body)).status == 200
    counted = recorded.values("qmc.notifications")
    assert set(counted) == {expected for _, expected in REASONS}
    assert sum(counted.values()) == len(REASONS)


async def test_what_is_no_notification(recorded: Recorded) -> None:
    """Strangers are not recorded, nor what is too long to be one."""
    async with alone() as there:
        assert (await there.post(body_of(), target="/elsewhere")).status == 404
        assert recorded.spans == ()
        receiver = vars(there.server)["_receiver"]
        assert (await receiver.take(b"x" * 70_000)).status == 413
    assert attributes_of(recorded.one("qmc.notification")) == {
        "http.request.method": "POST",
        "http.response.status_code": 413,
    }
    assert [name for name, _, _ in recorded.metrics if name == "qmc.notifications"] == []


async def test_a_notification_that_cannot_be_kept(recorded: Recorded) -> None:
    """The span has failed, by what the platform was answered."""
    store = Store()
    async with alone(store=store) as there:
        store.failure = RuntimeError("planted")
        assert (await there.post(body_of())).status == 500
        await recorded.ended("qmc.notification")
    span = recorded.one("qmc.notification")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "500"
    assert recorded.values("qmc.notification.duration") == {(500,): 1}


async def test_a_server_that_stops_meanwhile(recorded: Recorded) -> None:
    """What was cut short says so, and was not answered."""
    store = Store()
    receiver = vars(CallbackServer(store=store, port=0))["_receiver"]
    store.go_on.clear()
    taking = asyncio.ensure_future(receiver.take(body_of()))
    await asyncio.sleep(0.01)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    span = recorded.one("qmc.notification")
    assert attributes_of(span)["error.type"] == "asyncio.exceptions.CancelledError"
    assert "http.response.status_code" not in attributes_of(span)
    assert recorded.values("qmc.notification.duration") == {}


async def test_inside_a_framework(recorded: Recorded) -> None:
    """Where its span is the server's, ours is a part of that."""

    @web.middleware
    async def instrumented(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        with recorded.tracer.start_as_current_span("POST", kind=SpanKind.SERVER):
            return await handler(request)

    app = web.Application(middlewares=[instrumented])
    server = CallbackServer(store="sqlite://", shutdown_timeout=0.2)
    server.attach(app)
    async with serving(app) as port:
        vars(server)["_port"] = port
        assert (await post_to(server, body_of())).status == 200
        await recorded.ended("qmc.notification")
    span = recorded.one("qmc.notification")
    assert span.kind is SpanKind.INTERNAL
    assert is_child_of(span, recorded.one("POST"))


async def test_inside_an_asgi_application(recorded: Recorded) -> None:
    """The same."""
    server = CallbackServer(store="sqlite://", shutdown_timeout=0.2)
    app = an_asgi_application(server, prefix="")

    async def instrumented(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        with recorded.tracer.start_as_current_span("POST", kind=SpanKind.SERVER):
            await app(scope, receive, send)

    async with asgi_serving(instrumented) as port:
        vars(server)["_port"] = port
        assert (await post_to(server, body_of())).status == 200
        await recorded.ended("qmc.notification")
    assert recorded.one("qmc.notification").kind is SpanKind.INTERNAL
    assert is_child_of(recorded.one("qmc.notification"), recorded.one("POST"))


async def test_who_started_the_server_is_no_part_of_it(recorded: Recorded) -> None:
    """A span that was current then has nothing to do with what comes."""
    with recorded.tracer.start_as_current_span("start"):
        async with alone() as there:
            assert (await there.post(body_of())).status == 200
            await recorded.ended("qmc.notification")
    assert recorded.one("qmc.notification").parent is None


# --- calls that nobody reports -----------------------------------------------------------------


@pytest.mark.parametrize(("behaviour", "outcome"), [(RECORDED, "inferred"), (SILENT, "missing")])
async def test_overdue_calls(
    behaviour: Behaviour, outcome: str, recorded: Recorded, tmp_path: Path
) -> None:
    """They are counted by what is known of them; the lookup is nobody's part."""
    with recorded.tracer.start_as_current_span("start"):
        async with FaultyPlatform(behaviour) as platform, watched(tmp_path, platform.url) as there:
            await there.overdue()
            await until(lambda: there.seen.all)
    assert recorded.values("qmc.overdue_calls") == {(outcome,): 1}
    assert recorded.one("qmc.recording").parent is None
    assert attributes_of(recorded.one("qmc.handle missing"))["qmc.call_id"] == "4711"


# --- what waits --------------------------------------------------------------------------------


def _counts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note each time that the database is asked how many deliveries wait."""
    asked: list[object] = []
    count = Store.count_waiting

    async def note(store: Store, handlers: list[str]) -> object:
        asked.append(handlers)
        return await count(store, handlers)

    monkeypatch.setattr(Store, "count_waiting", note)
    return asked


async def test_the_backlog(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted only once somebody has asked, and then told to the next who asks."""
    monkeypatch.setattr("qmc_async.telemetry.metrics._COUNTED_EVERY", 0.0)
    asked = _counts(monkeypatch)
    server = CallbackServer(store=Store(url_in(tmp_path), patience=30), port=0)
    seen = Seen()
    failing = seen.handler("bill", *[ValueError("planted")] * 9)
    server.on_disconnected(name="bill", retry=LATER)(failing)
    server.on_disconnected(name="log")(seen.handler("log"))
    async with server:
        for n in range(3):
            await post_to(server, body_of(str(n)))
        await until(lambda: len(seen.all) == 6)
        await asyncio.sleep(0.05)
        assert asked == []
        assert recorded.values("qmc.backlog") == {}
        await until(lambda: asked)
        await until(lambda: recorded.values("qmc.backlog") == {("bill",): 3, ("log",): 0})
    assert recorded.values("qmc.backlog") == {}, "whoever has stopped knows nothing"


async def test_a_backlog_is_not_counted_often(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often somebody asks."""
    asked = _counts(monkeypatch)
    server = CallbackServer(store=Store(url_in(tmp_path), patience=30), port=0)
    server.on_disconnected(name="log")(Seen().handler("log"))
    async with server:
        for _ in range(20):
            recorded.values("qmc.backlog")
            await asyncio.sleep(0.01)
    assert len(asked) == 1


async def test_servers_of_one_process(recorded: Recorded, tmp_path: Path) -> None:
    """They share the one gauge that there is; of the same handler the longer queue is told."""
    servers = [CallbackServer(store=url_in(tmp_path), port=0) for _ in range(2)]
    for server, waiting in zip(servers, ({"log": 3}, {"log": 5, "bill": 1}), strict=True):
        vars(server)["_telemetry"].backlog(waiting)
    assert recorded.values("qmc.backlog") == {("log",): 5, ("bill",): 1}
    assert {unit for name, unit, _ in recorded.metrics if name == "qmc.backlog"} == {"{delivery}"}
