"""What a server records of its handlers' runs, and whose part they are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import LATER, SOON, Seen, Store, body_of, hurry, make_due, post_to, until, url_in
from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanKind, StatusCode
from telemetry_support import Recorded, attributes_of, is_child_of

from qmc_async import (
    AsyncQmcClient,
    CallbackServer,
    Conflict,
    Disconnected,
    Postpone,
    RecordingArchive,
    Reject,
    Retry,
)
from qmc_async.sandbox import Sandbox, VirtualClock

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def server_in(folder: Path) -> CallbackServer:
    """A server with a store in a folder, and no handlers yet."""
    return CallbackServer(store=Store(url_in(folder), patience=30), port=0, shutdown_timeout=0.2)


def looks_of(server: CallbackServer, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Its looks through the store: each second, and while it looks nothing is run from memory."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._POLLED_EVERY", 1.0)
    dispatcher: Any = vars(server)["_dispatcher"]
    poll, looks = dispatcher._poll, list[None]()

    async def look() -> None:
        await poll()
        looks.append(None)

    monkeypatch.setattr(dispatcher, "_poll", look)
    return looks


class PlantedError(Exception):
    """What a handler raises."""


ONCE = Retry(attempts=1)
ENDS: list[tuple[str, BaseException | None, Retry, str | None]] = [
    ("done", None, LATER, None),
    ("retry", PlantedError("at 13987654321"), LATER, "test_telemetry_handlers.PlantedError"),
    ("dead_letter", PlantedError(), ONCE, "test_telemetry_handlers.PlantedError"),
    ("rejected", Reject("no"), LATER, "qmc_async.callback.delivery.Reject"),
    ("postponed", Postpone(3600), LATER, None),
]


@pytest.mark.parametrize("outcome", [outcome for outcome, *_ in ENDS])
async def test_how_a_run_ends(outcome: str, recorded: Recorded, tmp_path: Path) -> None:
    """The span says what becomes of the delivery, and what class of exception it was."""
    [(_, failure, retry, error)] = [one for one in ENDS if one[0] == outcome]
    server = server_in(tmp_path)
    server.on_disconnected(name="bill", retry=retry)(Seen().handler("bill", failure))
    async with server:
        await post_to(server, body_of(outCallId="order-42"))
        await recorded.ended("qmc.handle bill")
    span = recorded.one("qmc.handle bill")
    expected = {
        "qmc.handler": "bill",
        "qmc.attempt": 1,
        "qmc.call_id": "4711",
        "qmc.out_call_id": "order-42",
        "qmc.reason": "HangUp",
        "qmc.outcome": outcome,
    }
    assert attributes_of(span) == expected | ({} if error is None else {"error.type": error})
    assert span.kind is SpanKind.CONSUMER
    assert span.status.description is None
    assert (span.status.status_code is StatusCode.ERROR) is (error is not None)
    assert span.events == ()
    assert recorded.values("qmc.handler.duration") == {("bill", outcome): 1}
    given_up = outcome in {"dead_letter", "rejected"}
    assert recorded.values("qmc.dead_letters") == ({("bill",): 1} if given_up else {})
    assert recorded.values("qmc.handler.retries") == ({("bill",): 1} if outcome == "retry" else {})
    units = {name: unit for name, unit, _ in recorded.metrics}
    assert units["qmc.handler.duration"] == "s"


@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_run_that_takes_too_long(attempts: int, recorded: Recorded, tmp_path: Path) -> None:
    """A timeout that is tried again is one; the last is a dead letter by its class."""
    server = server_in(tmp_path)

    @server.on_disconnected(name="slow", retry=Retry(attempts=attempts), timeout=0.01)
    async def slow(_: Disconnected) -> None:
        await asyncio.sleep(60)

    async with server:
        await post_to(server, body_of())
        [span, *_] = await recorded.ended("qmc.handle slow")
    attributes = attributes_of(span)
    assert attributes["qmc.outcome"] == ("dead_letter" if attempts == 1 else "timeout")
    assert attributes["error.type"] == "TimeoutError"


async def test_a_run_that_is_cut_short(recorded: Recorded, tmp_path: Path) -> None:
    """It is no failure."""
    server = server_in(tmp_path)
    begun = asyncio.Event()

    @server.on_disconnected(name="slow")
    async def slow(_: Disconnected) -> None:
        begun.set()
        await asyncio.sleep(60)

    async with server:
        await post_to(server, body_of())
        await begun.wait()
    span = recorded.one("qmc.handle slow")
    assert attributes_of(span)["qmc.outcome"] == "cancelled"
    assert span.status.status_code is StatusCode.UNSET


async def test_each_attempt_has_its_span(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is a part of the notification that brought it; a later one is nobody's."""
    server = server_in(tmp_path)
    looks = looks_of(server, monkeypatch)
    failing = Seen().handler("bill", PlantedError(), PlantedError())
    server.on_disconnected(name="bill", retry=SOON)(failing)
    with recorded.tracer.start_as_current_span("start"):
        async with server:
            await until(looks.__len__)
            await post_to(server, body_of())
            spans = await recorded.ended("qmc.handle bill", 3)
    assert [attributes_of(span)["qmc.attempt"] for span in spans] == [1, 2, 3]
    assert [attributes_of(span)["qmc.outcome"] for span in spans] == ["retry", "retry", "done"]
    assert is_child_of(spans[0], recorded.one("qmc.notification"))
    assert [span.parent for span in spans[1:]] == [None, None]
    assert recorded.values("qmc.handler.retries") == {("bill",): 2}


async def test_handlers_are_part_of_nothing_of_each_others(
    recorded: Recorded, tmp_path: Path
) -> None:
    """What a handler does is part of its own run, and what it sets ends with that."""
    server = server_in(tmp_path)
    found: list[tuple[str, trace.SpanContext, object]] = []
    both = asyncio.Barrier(2)

    def handler(name: str) -> Any:  # noqa: ANN401 - of either handler
        async def run(_: Disconnected) -> None:
            context.attach(baggage.set_baggage("who", name))
            await both.wait()
            with recorded.tracer.start_as_current_span(f"in {name}"):
                await asyncio.sleep(0)
            found.append((name, trace.get_current_span().get_span_context(), baggage.get_all()))

        return run

    for name in ("log", "bill"):
        server.on_disconnected(name=name)(handler(name))
    async with server:
        for call_id in ("1", "2"):
            await post_to(server, body_of(call_id))
            await until(lambda: len(found) % 2 == 0 and found)
        await recorded.ended("qmc.handle bill", 2)
    for name, current, set_there in found:
        runs = recorded.named(f"qmc.handle {name}")
        assert current in [run.context for run in runs]
        assert set_there == {"who": name}
    for name in ("log", "bill"):
        runs = recorded.named(f"qmc.handle {name}")
        for inner, run in zip(recorded.named(f"in {name}"), runs, strict=True):
            assert is_child_of(inner, run)
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_what_could_not_be_kept(recorded: Recorded) -> None:
    """Its handlers run all the same, and so have their spans."""
    store = Store()
    store.failure = RuntimeError("planted")
    server = CallbackServer(store=store, port=0, shutdown_timeout=0.2)
    server.on_disconnected(name="log")(Seen().handler("log"))
    async with server:
        await post_to(server, body_of())
        await recorded.ended("qmc.handle log")
    assert is_child_of(recorded.one("qmc.handle log"), recorded.one("qmc.notification"))


async def test_a_conflict(recorded: Recorded, tmp_path: Path) -> None:
    """It is about the second report."""
    server = server_in(tmp_path)
    seen: list[Conflict] = []

    @server.on_conflict(name="conflict")
    async def conflict(event: Conflict) -> None:
        seen.append(event)

    async with server:
        await post_to(server, body_of())
        await post_to(server, body_of(reason="CalleeBusy", outCallId="order-42"))
        await recorded.ended("qmc.handle conflict")
    attributes = attributes_of(recorded.one("qmc.handle conflict"))
    assert attributes["qmc.reason"] == "CalleeBusy"
    assert attributes["qmc.out_call_id"] == "order-42"


async def test_a_run_of_an_earlier_process(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has left is nobody's part."""
    for failure in (PlantedError(), None):
        server = server_in(tmp_path)
        server.on_disconnected(name="bill", retry=LATER)(Seen().handler("bill", failure))
        looks = looks_of(server, monkeypatch)
        async with server:
            if failure is not None:
                await until(looks.__len__)
                await post_to(server, body_of())
            await recorded.ended("qmc.handle bill", 1 if failure else 2)
        make_due(tmp_path)
    assert [span.parent is None for span in recorded.named("qmc.handle bill")] == [False, True]


async def test_an_archive(recorded: Recorded, tmp_path: Path) -> None:
    """It is a handler, and what it fetches is part of its run."""
    async with Sandbox(clock=VirtualClock()) as platform:
        client = AsyncQmcClient(
            platform.credentials.app_id,
            platform.credentials.app_secret,
            base_url=platform.base_url,
            record_base_url=platform.base_url,
            store=Store(url_in(tmp_path), patience=30),
        )
        server = CallbackServer(client=client, port=0)
        RecordingArchive(tmp_path / "archive", client=client).attach(server)
        async with client, server:
            platform.callback_url = server.url
            await client.call("13987654321", "13912345678")
            await platform.advance(minutes=1)
            await recorded.ended("qmc.handle archive")
    run, download = recorded.one("qmc.handle archive"), recorded.one("qmc.download")
    assert attributes_of(run)["qmc.outcome"] == "done"
    assert is_child_of(download, run)
    assert is_child_of(recorded.one("qmc.recording"), download)
