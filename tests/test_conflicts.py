"""What is no plain report: second reports that differ, other statuses, and what is undecodable."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest
from callback_peer import (
    SOON,
    SUCCESS,
    Seen,
    Store,
    body_of,
    hurry,
    messages,
    post_to,
    select_in,
    until,
    url_in,
)

from qmc_async import (
    CallbackServer,
    Conflict,
    DecodeError,
    Disconnected,
    Retry,
    UnknownNotification,
)
from qmc_async.codec import decode_notification
from qmc_async.store.records import Put, Receipt

if TYPE_CHECKING:
    from pathlib import Path

    from qmc_async.models import Notification

FIRST = body_of(reason="HangUp")
SECOND = body_of(reason="CalleeBusy")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def _server(folder: Path, seen: Seen, *failures: BaseException) -> CallbackServer:
    server = CallbackServer(port=0, store=url_in(folder))
    server.on_disconnected(name="ended")(seen.handler("ended"))
    server.on_unknown(name="unknown", retry=SOON)(seen.handler("unknown", *failures))
    server.on_conflict(name="conflict", retry=SOON)(seen.handler("conflict", *failures))
    return server


# --- conflicts ---------------------------------------------------------------------------------


async def test_each_handler_gets_the_bytes_as_they_came(tmp_path: Path) -> None:
    """`Delivery.body` is what was posted, at every attempt; it is in no repr."""
    seen = Seen()
    bodies = {"ended": b" " + FIRST, "conflict": SECOND + b"\n", "unknown": b"13912345678?"}
    async with _server(tmp_path, seen, ValueError(), ValueError()) as server:
        for body in bodies.values():
            assert (await post_to(server, body)).body == SUCCESS
        await until(lambda: len(seen.all) > len(bodies) and set(seen.names) == set(bodies))
    for name, delivery in zip(seen.names, seen.deliveries, strict=True):
        assert delivery.body == bodies[name]
        assert "13912345678" not in repr(delivery)


async def test_a_report_that_says_something_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both are kept; the second goes to `on_conflict`, beside the first, and is logged."""
    seen = Seen()
    server = _server(tmp_path, seen)
    async with server:
        for body in (FIRST, SECOND):
            assert (await post_to(server, body)).body == SUCCESS
        await until(lambda: len(seen.all) == 2)
        assert (await server.wait_for("4711", timeout=0)).reason == "HangUp"
    assert sorted(seen.names) == ["conflict", "ended"]
    conflict = dict(seen.all)["conflict"]
    assert isinstance(conflict, Conflict)
    assert conflict.call_id == "4711"
    assert isinstance(conflict.first, Disconnected)
    assert (conflict.first.reason, conflict.second.reason) == ("HangUp", "CalleeBusy")
    rows = select_in(tmp_path, "SELECT kind, body FROM qmc_events ORDER BY seq")
    assert rows == [("disconnected", FIRST), ("conflict", SECOND)]
    [message] = messages(caplog, logging.WARNING)
    assert "call 4711 came again with other content" in message


async def test_a_conflict_needs_no_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handlers run now, not when the store is looked through anyway."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._POLLED_EVERY", 600)
    seen = Seen()
    server = _server(tmp_path, seen)
    async with server:
        for body in (FIRST, SECOND):
            await post_to(server, body)
        await until(lambda: "conflict" in seen.names)


async def test_the_same_json_is_no_conflict(tmp_path: Path) -> None:
    """Spaces and the order of fields say nothing else: the same again is known."""
    seen = Seen()
    server = _server(tmp_path, seen)
    fields = json.loads(FIRST)
    again = [
        FIRST,
        json.dumps(fields, indent=4).encode(),
        json.dumps(dict(reversed(fields.items())), separators=(",", ":")).encode(),
    ]
    async with server:
        for body in [FIRST, SECOND, *again, SECOND]:
            assert (await post_to(server, body)).body == SUCCESS
        await until(lambda: len(seen.all) == 2)
        await post_to(server, body_of("4712"))
        await until(lambda: len(seen.all) == 3)
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(3,)]


async def test_each_conflict_is_told_once(tmp_path: Path) -> None:
    """A third report that differs from both is another conflict; each handler runs once."""
    seen = Seen()
    server = _server(tmp_path, seen)
    third = body_of(reason="CallerBusy")
    async with server:
        for body in (FIRST, SECOND, third, third):
            await post_to(server, body)
        await until(lambda: len(seen.all) == 3)
    reasons = {event.second.reason for _, event in seen.all if isinstance(event, Conflict)}
    assert reasons == {"CalleeBusy", "CallerBusy"}


async def test_a_conflict_whose_handler_fails(tmp_path: Path) -> None:
    """It is tried again like any other, also when the first report was purged meanwhile."""
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    later = Retry(first_delay=3600, longest_delay=3600)
    server.on_conflict(name="conflict", retry=later)(seen.handler("conflict", ValueError()))
    async with server:
        for body in (FIRST, SECOND):
            await post_to(server, body)
        failed = "SELECT state, attempts FROM qmc_deliveries"
        await until(lambda: select_in(tmp_path, failed) == [("pending", 1)])
        select_in(tmp_path, "DELETE FROM qmc_events WHERE kind = 'disconnected'")
        select_in(tmp_path, "UPDATE qmc_deliveries SET due_at = 1")
        await until(lambda: len(seen.all) == 2)
    first, second = (event for _, event in seen.all)
    assert isinstance(first, Conflict)
    assert isinstance(second, Conflict)
    assert first.first is not None
    assert second.first is None
    assert first.second == second.second
    assert seen.attempts == [1, 2]


async def test_nobody_listens_for_conflicts(tmp_path: Path) -> None:
    """It is kept and logged, and nothing is left to do."""
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="ended")(seen.handler("ended"))
    async with server:
        for body in (FIRST, SECOND):
            await post_to(server, body)
        routed = "SELECT count(*) FROM qmc_events WHERE routed"
        await until(lambda: select_in(tmp_path, routed) == [(2,)])
    assert seen.names == ["ended"]


async def test_what_nobody_wants_stands_in_nobodys_way(tmp_path: Path) -> None:
    """However many conflicts nobody listens for: what came by way of the spool is handled."""
    seen = Seen()
    store = Store(url_in(tmp_path))
    server = CallbackServer(port=0, store=store)
    server.on_disconnected(name="ended")(seen.handler("ended"))
    puts = [
        Put(Receipt.read(body_of(outCallId=f"order-{number}")), {}, "") for number in range(150)
    ]
    async with server:
        for put in [*puts, Put(Receipt.read(body_of("4712")), None, "")]:
            await store.keep(put, print)
        await until(lambda: seen.all)
    assert [event.call_id for _, event in seen.all] == ["4712"]


# --- what is unknown ---------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"\xff", body_of(status="Ringing")], ids=["bytes", "status"])
async def test_an_unknown_notification_is_retried(body: bytes, tmp_path: Path) -> None:
    """A handler of it that fails is tried again, like any other."""
    seen = Seen()
    server = _server(tmp_path, seen, ValueError(), ValueError())
    async with server:
        await post_to(server, body)
        done = "SELECT state, attempts FROM qmc_deliveries"
        await until(lambda: select_in(tmp_path, done) == [("done", 2)])
    assert seen.names == ["unknown"] * 3
    assert seen.attempts == [1, 2, 3]
    events = [event for _, event in seen.all]
    assert all(isinstance(event, UnknownNotification) and event.body == body for event in events)


class Decoder:
    """A decoder that learns to read a reason that stands in a field of another name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.knows_better = False
        monkeypatch.setattr("qmc_async.codec.decode_notification", self.decode)

    def decode(self, body: bytes) -> Notification:
        """Read a body."""
        if body.startswith(b"v2 "):
            if not self.knows_better:
                raise DecodeError("$: version 2 is not known")
            body = body.removeprefix(b"v2 ")
        return decode_notification(body)


async def test_replay_once_the_decoder_knows_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be read goes, as what it is, to those that want it; who waits is woken."""
    decoder = Decoder(monkeypatch)
    seen = Seen()
    async with (server := _server(tmp_path, seen)):
        await post_to(server, b"v2 " + FIRST)
        await until(lambda: seen.names == ["unknown"])
    [(event_id,)] = select_in(tmp_path, "SELECT event_id FROM qmc_events")
    received = select_in(tmp_path, "SELECT received_at, body FROM qmc_events")
    async with (server := _server(tmp_path, seen)):
        assert await server.replay(event_id) == []
        decoder.knows_better = True
        assert await server.replay(event_id) == ["*"]
        await until(lambda: len(seen.all) == 2)
        assert (await server.wait_for("4711", timeout=10)).reason == "HangUp"
        assert await server.replay(event_id) == []  # it has another name now
    assert seen.names == ["unknown", "ended"]
    assert select_in(tmp_path, "SELECT received_at, body FROM qmc_events") == received
    assert select_in(tmp_path, "SELECT event_id, kind FROM qmc_events") == [
        ("4711", "disconnected")
    ]


async def test_replay_a_dead_letter_that_can_be_read_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead letter of an undecodable one gives way to what it turned out to be."""
    decoder = Decoder(monkeypatch)
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="ended")(seen.handler("ended"))
    server.on_unknown(name="unknown", retry=Retry(attempts=1))(
        seen.handler("unknown", ValueError())
    )
    async with server:
        await post_to(server, b"v2 " + FIRST)
        dead = "SELECT count(*) FROM qmc_deliveries WHERE state = 'dead'"
        await until(lambda: select_in(tmp_path, dead) == [(1,)])
        decoder.knows_better = True
        [letter] = await server.dead_letters()
        assert isinstance(letter.event, Disconnected)  # read by the decoder of today
        assert await server.replay(letter) == ["*"]
        await until(lambda: len(seen.all) == 2)
        assert await server.dead_letters() == []
    assert seen.names == ["unknown", "ended"]


async def test_replay_what_came_in_readable_form_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is a conflict with that, not a second report of the call's end."""
    decoder = Decoder(monkeypatch)
    seen = Seen()
    async with (server := _server(tmp_path, seen)):
        await post_to(server, FIRST)
        await post_to(server, b"v2 " + SECOND)
        await until(lambda: len(seen.all) == 2)
        [(event_id,)] = select_in(
            tmp_path, "SELECT event_id FROM qmc_events WHERE kind = 'unknown'"
        )
        decoder.knows_better = True
        assert await server.replay(event_id) == ["*"]
        await until(lambda: len(seen.all) == 3)
    assert sorted(seen.names) == ["conflict", "ended", "unknown"]
    kinds = select_in(tmp_path, "SELECT kind FROM qmc_events ORDER BY seq")
    assert kinds == [("disconnected",), ("conflict",)]
