"""How often a handler is tried, for how long, and what it is told of its `Delivery`."""

from __future__ import annotations

import asyncio
import logging
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import (
    LATER,
    SOON,
    Seen,
    body_of,
    deliveries_in,
    hurry,
    make_due,
    messages,
    post_to,
    select_in,
    until,
    url_in,
)

from qmc_async import ArgumentError, CallbackServer, Disconnected, Reject, Retry
from qmc_async.callback.patience import Patience

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait is as long as it can be."""

    def upper(_: float, limit: float) -> float:
        return limit

    monkeypatch.setattr("qmc_async.retry.random.uniform", upper)


# --- how long to wait --------------------------------------------------------------------------


@pytest.mark.usefixtures("longest_waits")
def test_the_wait_doubles() -> None:
    """Its limit doubles with each failure, from the first delay to the longest."""
    retry = Retry(first_delay=3, longest_delay=20)
    assert [retry.delay(failed) for failed in range(1, 6)] == [3, 6, 12, 20, 20]
    assert retry.delay(5000) == 20


def test_the_wait_is_jittered() -> None:
    """Any time up to the limit: failures that came together do not come together again."""
    waits = [Retry(first_delay=8).delay(1) for _ in range(500)]
    assert min(waits) < 2
    assert 6 < max(waits) <= 8
    assert len(set(waits)) > 400


@pytest.mark.usefixtures("longest_waits")
def test_the_default_is_about_a_day() -> None:
    """By default a handler is tried for a day on average: half of the longest that it can be."""
    retry = Retry()
    waits = [retry.delay(failed) / 2 for failed in range(1, retry.attempts)]
    assert 18 * 3600 <= sum(waits) <= 30 * 3600
    in_first_hour = [number for number in range(len(waits)) if sum(waits[:number]) < 3600]
    assert len(in_first_hour) >= 12
    assert waits[-1] == 3600


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": 10_000}, "attempts"),
        ({"attempts": 1.5}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"first_delay": 0}, "first_delay"),
        ({"first_delay": math.nan}, "first_delay"),
        ({"first_delay": True}, "first_delay"),
        ({"longest_delay": -1}, "longest_delay"),
        ({"longest_delay": 6 * 3600 + 1}, "longest_delay"),
        ({"longest_delay": math.inf}, "longest_delay"),
    ],
)
def test_a_retry_that_is_none(options: dict[str, Any], argument: str) -> None:
    """What would never end, or never wait, is refused at once; the error names the argument."""
    with pytest.raises(ArgumentError, match=f"^{argument}: ") as caught:
        Retry(**options)
    assert caught.value.argument == argument


def test_the_widest_retry() -> None:
    """The bounds themselves are allowed."""
    retry = Retry(attempts=9999, first_delay=6 * 3600, longest_delay=6 * 3600)
    assert 0 <= retry.delay(9998) <= 6 * 3600


# --- through a server --------------------------------------------------------------------------


async def test_attempts_are_counted_over_restarts(tmp_path: Path) -> None:
    """The number of attempts is in the store: after so many it is a dead letter, restarts or no."""
    seen = Seen()
    for number in range(1, 5):
        server = CallbackServer(port=0, store=url_in(tmp_path))
        retry = Retry(attempts=3, first_delay=3600, longest_delay=3600)
        server.on_disconnected(name="a", retry=retry)(seen.handler("a", ValueError()))
        expected = ("dead", 3, None) if number >= 3 else ("pending", number, None)
        async with server:
            if number == 1:
                await post_to(server, body_of())
            await until(lambda: deliveries_in(tmp_path) == {"a": expected})  # noqa: B023 - awaited here
        make_due(tmp_path)
    assert seen.attempts == [1, 2, 3]


@pytest.mark.usefixtures("longest_waits")
async def test_the_wait_is_in_the_store(tmp_path: Path) -> None:
    """When it is tried next is written down with the failure, by the policy of the handler."""
    server = CallbackServer(port=0, store=url_in(tmp_path))
    retry = Retry(first_delay=100, longest_delay=1000)
    server.on_disconnected(name="a", retry=retry)(Seen().handler("a", *[ValueError()] * 2))
    server.on_disconnected(name="b")(Seen().handler("b", ValueError()))
    waits = "SELECT (due_at - changed_at) / 1000.0 FROM qmc_deliveries ORDER BY handler"
    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path).get("a") == ("pending", 1, None))
        await until(lambda: deliveries_in(tmp_path).get("b") == ("pending", 1, None))
        assert select_in(tmp_path, waits) == [(100,), (1,)]
        select_in(tmp_path, "UPDATE qmc_deliveries SET due_at = 1 WHERE handler = 'a'")
        await until(lambda: deliveries_in(tmp_path)["a"] == ("pending", 2, None))
        assert select_in(tmp_path, waits)[0] == (200,)


async def test_one_attempt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`attempts=1` is never again: one failure makes a dead letter, and an error in the log."""
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="a", retry=Retry(attempts=1))(seen.handler("a", ValueError("no")))
    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path) == {"a": ("dead", 1, None)})
    assert seen.attempts == [1]
    [message] = messages(caplog, logging.ERROR)
    assert "a gave up event 4711 after 1 attempts" in message


async def test_reject(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`Reject` makes a dead letter at once, whatever the policy; siblings do not notice."""
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    reject = Reject("no such order: 13912345678")
    server.on_disconnected(name="a", retry=SOON)(seen.handler("a", reject))
    server.on_disconnected(name="b", retry=SOON)(seen.handler("b", ValueError()))
    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path).get("a") == ("dead", 1, None))
        await until(lambda: deliveries_in(tmp_path).get("b") == ("done", 1, None))
    assert sorted(seen.names) == ["a", "b", "b"]
    errors = select_in(tmp_path, "SELECT error FROM qmc_deliveries WHERE handler = 'a'")
    assert errors[0][0].startswith("Reject: no such order: ")
    assert "13912345678" not in errors[0][0]
    assert [text for text in messages(caplog, logging.WARNING) if "a rejected event 4711" in text]


@pytest.mark.parametrize("swallows", [False, True])
async def test_timeout(swallows: bool, tmp_path: Path) -> None:  # noqa: FBT001 - both kinds
    """A handler's own time is a failure when it is over, also for one that fails as it ends."""
    begun = asyncio.Event()
    server = CallbackServer(port=0, store=url_in(tmp_path))

    @server.on_disconnected(name="a", retry=LATER, timeout=0.05)
    async def slow(_: Disconnected) -> None:
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            if swallows:
                raise ValueError

    @server.on_disconnected(name="b", timeout=None)
    async def patient(_: Disconnected) -> None:
        await begun.wait()
        await asyncio.sleep(0.1)

    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path).get("a") == ("pending", 1, None))
        await until(lambda: deliveries_in(tmp_path).get("b") == ("done", 0, None))
    errors = select_in(tmp_path, "SELECT error FROM qmc_deliveries WHERE handler = 'a'")
    assert errors == [("TimeoutError: it took longer than 0.05 s",)]


async def test_the_timeout_of_who_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default an attempt has five minutes."""
    asked: list[float] = []
    begin = Patience.begin

    def note(patience: Patience, task: asyncio.Task[object], timeout: float) -> None:
        asked.append(timeout)
        begin(patience, task, timeout)

    monkeypatch.setattr(Patience, "begin", note)
    seen = Seen()
    server = CallbackServer(port=0)
    server.on_disconnected(seen.handler("a"))
    async with server:
        await post_to(server, body_of())
        await until(lambda: seen.all)
    assert asked == [300.0]


async def test_what_a_handler_is_told(tmp_path: Path) -> None:
    """The attempt's number grows; when it came and the key stay, over failures and a restart."""
    seen = Seen()
    began = datetime.now(UTC)
    for retry, failures, end in ((SOON, 2, "done"), (LATER, 1, "pending"), (LATER, 0, "done")):
        server = CallbackServer(port=0, store=url_in(tmp_path))
        server.on_disconnected(name="a", retry=retry)(seen.handler("a", *[ValueError()] * failures))
        call_id = "1" if retry is SOON else "2"
        query = "SELECT state, attempts FROM qmc_deliveries WHERE event_id = ?"
        expected = [(end, 2 if retry is SOON else 1)]
        async with server:
            await post_to(server, body_of(call_id))
            await until(lambda: select_in(tmp_path, query, call_id) == expected)  # noqa: B023 - awaited here
        make_due(tmp_path)
    assert seen.attempts == [1, 2, 3, 1, 2]
    of_first, of_second = seen.deliveries[:3], seen.deliveries[3:]
    for deliveries, call_id in ((of_first, "1"), (of_second, "2")):
        [first_seen] = {delivery.first_seen for delivery in deliveries}
        [_] = {delivery.idempotency_key for delivery in deliveries}
        query = "SELECT received_at FROM qmc_events WHERE event_id = ?"
        [(received_at,)] = select_in(tmp_path, query, call_id)
        assert first_seen == datetime.fromtimestamp(received_at / 1000, UTC)
        assert first_seen.utcoffset() == timedelta(hours=8)
        assert began - timedelta(seconds=1) <= first_seen <= datetime.now(UTC)


async def test_no_two_deliveries_share_a_key() -> None:
    """The key tells the event and the handler apart from every other."""
    seen = Seen()
    server = CallbackServer(port=0)
    for name in ("a", "b"):
        server.on_disconnected(name=name)(seen.handler(name))
    server.on_unknown(name="c")(seen.handler("c"))
    async with server:
        for body in (body_of("1"), body_of("2"), b"?", b"?"):
            await post_to(server, body)
        await until(lambda: len(seen.all) == 6)
    keys = [delivery.idempotency_key for delivery in seen.deliveries]
    assert len(set(keys)) == 6
    assert all(isinstance(key, str) and key for key in keys)
