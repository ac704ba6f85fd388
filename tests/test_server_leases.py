"""Who may run a handler: leases, their end, and whoever takes over."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from callback_peer import (
    Seen,
    SettlingStore,
    Store,
    body_of,
    deliveries_in,
    hurry,
    messages,
    port_of,
    post_to,
    running_in,
    select_in,
    until,
    url_in,
)

from qmc_async import CallbackServer, Disconnected, Retry, StoreError
from qmc_async.store import records

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qmc_async.store.records import Claim, Outcome, Poll, Polled

DAY = 86_400_000
LEASED = "SELECT count(*) FROM qmc_deliveries WHERE owner IS NOT NULL"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def _short_leases(monkeypatch: pytest.MonkeyPatch, lease: float, renewed_every: float) -> None:
    monkeypatch.setattr("qmc_async.store.deliveries.LEASE", lease)
    monkeypatch.setattr("qmc_async.callback.dispatcher._RENEWED_EVERY", renewed_every)


class Stuck:
    """A handler that ends when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.go_on = asyncio.Event()

    async def run(self, _: Disconnected) -> None:
        """Wait."""
        self.begun += 1
        await self.go_on.wait()
        self.ended += 1


# --- given back --------------------------------------------------------------------------------


@pytest.mark.parametrize("shutdown_timeout", [0, 0.1])
async def test_a_stop_gives_leases_back(shutdown_timeout: float, tmp_path: Path) -> None:
    """Who was cut short has not failed: the next start gets it at once, as the same attempt."""
    stuck, seen = Stuck(), Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path), shutdown_timeout=shutdown_timeout)
    server.on_disconnected(name="a", retry=Retry(attempts=1))(stuck.run)
    async with server:
        await post_to(server, body_of())
        await until(lambda: stuck.begun)
    assert not stuck.ended
    assert deliveries_in(tmp_path) == {"a": ("pending", 0, None)}
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="a")(seen.handler("a"))
    async with server:
        await until(lambda: seen.all)
    assert seen.attempts == [1]


class SlowlySettled(SettlingStore):
    """A store in which every outcome takes a while."""

    async def settle(self, outcome: Outcome) -> bool:
        """Write it down, slowly."""
        await asyncio.sleep(0.05)
        return await super().settle(outcome)


async def test_a_stop_gives_many_leases_back(tmp_path: Path) -> None:
    """A hundred leases are given back together, in a time in which one by one would not do."""
    stuck = Stuck()
    server = CallbackServer(port=0, store=SlowlySettled(url_in(tmp_path)), shutdown_timeout=0)
    server.on_disconnected(name="a")(stuck.run)
    async with server:
        await asyncio.gather(*(post_to(server, body_of(str(one))) for one in range(100)))
        await until(lambda: stuck.begun == 100)
        assert select_in(tmp_path, LEASED) == [(100,)]
    assert select_in(tmp_path, LEASED) == [(0,)]


class Hanging(SettlingStore):
    """A store that writes nothing down until it is told to."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.go_on_settling = asyncio.Event()

    async def settle(self, outcome: Outcome) -> bool:
        """Wait, and write it down."""
        await self.go_on_settling.wait()
        return await super().settle(outcome)


async def test_leases_that_cannot_be_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not keep the server from stopping, and the next start gives them back."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._UNWINDING", 0.05)
    stuck = Stuck()
    store = Hanging(url_in(tmp_path))
    server = CallbackServer(port=0, store=store, shutdown_timeout=0)
    server.on_disconnected(name="a")(stuck.run)
    async with asyncio.timeout(20):
        async with server:
            await post_to(server, body_of())
            await until(lambda: stuck.begun)
    assert select_in(tmp_path, LEASED) == [(1,)]
    store.go_on_settling.set()
    stuck.go_on.set()
    async with server:
        await until(lambda: deliveries_in(tmp_path) == {"a": ("done", 0, None)})
    assert stuck.begun == 2


class SlowlySearched(Store):
    """A store that has leased something before its answer arrives."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.found = asyncio.Event()
        self.go_on_polling = asyncio.Event()

    async def poll(self, poll: Poll) -> Polled:
        """Look; tell later."""
        polled = await super().poll(poll)
        if polled.claims:
            self.found.set()
            await self.go_on_polling.wait()
        return polled


async def test_a_stop_gives_back_what_it_was_about_to_begin(tmp_path: Path) -> None:
    """A stop in the middle of a look through the store leaves no lease behind either."""
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="a", retry=Retry(first_delay=3600))(seen.handler("a", ValueError()))
    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path) == {"a": ("pending", 1, None)})
    select_in(tmp_path, "UPDATE qmc_deliveries SET due_at = 1")
    store = SlowlySearched(url_in(tmp_path))
    server = CallbackServer(port=0, store=store, shutdown_timeout=0)
    server.on_disconnected(name="a")(seen.handler("a"))
    async with server:
        await store.found.wait()
        asyncio.get_running_loop().call_later(0.05, store.go_on_polling.set)
    assert deliveries_in(tmp_path) == {"a": ("pending", 1, None)}
    assert seen.names == ["a"]


# --- held, and lost ----------------------------------------------------------------------------


async def test_a_lease_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that takes longer than a lease keeps it: nobody else gets the event."""
    _short_leases(monkeypatch, lease=2.0, renewed_every=0.05)
    stuck, other = Stuck(), Seen()
    one = CallbackServer(port=0, store=url_in(tmp_path))
    two = CallbackServer(port=0, store=url_in(tmp_path))
    one.on_disconnected(name="a")(stuck.run)
    two.on_disconnected(name="a")(other.handler("a"))
    async with one:
        await post_to(one, body_of())
        await until(lambda: stuck.begun)
        async with two:
            [(first,)] = select_in(tmp_path, "SELECT due_at FROM qmc_deliveries")
            await until(lambda: records.now() > first + 100)
            stuck.go_on.set()
            await until(lambda: deliveries_in(tmp_path) == {"a": ("done", 0, None)})
    assert (stuck.begun, other.all) == (1, [])


class Unrenewable(Store):
    """A store that fails to renew, at first."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.failures: list[Exception] = [StoreError("away"), OSError("a mistake")]
        self.renewed = 0

    async def renew(self, claims: Sequence[Claim]) -> None:
        """Fail, or renew."""
        if self.failures:
            raise self.failures.pop(0)
        await super().renew(claims)
        self.renewed += 1


async def test_renewing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A lease that could not be renewed is renewed the next time; what went wrong is logged."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._RENEWED_EVERY", 0.02)
    stuck = Stuck()
    store = Unrenewable(url_in(tmp_path))
    server = CallbackServer(port=0, store=store)
    server.on_disconnected(name="a")(stuck.run)
    due = "SELECT due_at FROM qmc_deliveries"
    async with server:
        await post_to(server, body_of())
        await until(lambda: stuck.begun)
        before = select_in(tmp_path, due)
        await until(lambda: store.renewed and select_in(tmp_path, due) > before)
        stuck.go_on.set()
    logged = [text for text in messages(caplog, logging.WARNING) if "not be renewed" in text]
    assert len(logged) == 2


class Overtaken(SettlingStore):
    """A store that is asked to renew a lease just before it hears that there is none any more."""

    async def settle(self, outcome: Outcome) -> bool:
        """Write it down, and then renew."""
        settling = asyncio.ensure_future(super().settle(outcome))
        await asyncio.sleep(0)
        await self.renew([outcome.claim])
        return await settling


async def test_a_renewal_that_comes_too_late(tmp_path: Path) -> None:
    """It does not put off, nor hasten, what has been settled meanwhile."""
    seen = Seen()
    server = CallbackServer(port=0, store=Overtaken(url_in(tmp_path)))
    retry = Retry(first_delay=5, longest_delay=5)
    server.on_disconnected(name="a", retry=retry)(seen.handler("a", ValueError()))
    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path) == {"a": ("pending", 1, None)})
        await until(lambda: not running_in(server))
    [(wait,)] = select_in(tmp_path, "SELECT due_at - changed_at FROM qmc_deliveries")
    assert 0 <= wait <= 5000


class Deaf(Store):
    """A store that forgets to renew, as if its process had been halted."""

    async def renew(self, claims: Sequence[Claim]) -> None:
        """Do nothing."""


async def test_a_lease_that_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another server takes over what is not renewed; the late outcome is refused, and logged."""
    _short_leases(monkeypatch, lease=0.3, renewed_every=0.05)
    stuck, other = Stuck(), Seen()
    one = CallbackServer(port=0, store=Deaf(url_in(tmp_path)))
    two = CallbackServer(port=0, store=url_in(tmp_path))
    one.on_disconnected(name="a")(stuck.run)
    two.on_disconnected(name="a", retry=Retry(first_delay=3600))(
        other.handler("a", ValueError("of the second"))
    )
    async with one:
        await post_to(one, body_of())
        await until(lambda: stuck.begun)
        async with two:
            await until(lambda: other.all)
            await until(lambda: deliveries_in(tmp_path) == {"a": ("pending", 1, None)})
            stuck.go_on.set()
            await until(lambda: "another process has it too" in caplog.text)
    assert deliveries_in(tmp_path) == {"a": ("pending", 1, None)}
    [message] = [text for text in messages(caplog, logging.WARNING) if "another" in text]
    assert "4711" in message
    assert other.attempts == [1]


async def test_two_servers_on_one_file(tmp_path: Path) -> None:
    """Whoever of them an event is posted to, and however often: each handler does it once."""
    done: Counter[tuple[str, str]] = Counter()
    servers: list[CallbackServer] = []

    def handler(name: str) -> object:
        async def note(event: Disconnected) -> None:
            await asyncio.sleep(0)
            done[name, event.call_id] += 1

        return note

    for _ in range(2):
        store = Store(url_in(tmp_path), patience=30)
        server = CallbackServer(port=0, store=store, max_concurrency=5)
        for name in ("a", "b"):
            server.on_disconnected(name=name)(handler(name))  # type: ignore[type-var]
        servers.append(server)
    async with servers[0], servers[1]:
        replies = await asyncio.gather(
            *(
                post_to(server, body_of(str(number)))
                for number in range(200)
                for server in (servers if number % 4 == 0 else [servers[number % 2]])
            )
        )
        assert {reply.status for reply in replies} == {200}
        await until(lambda: len(done) == 400)
        undone = "SELECT count(*) FROM qmc_deliveries WHERE state <> 'done'"
        await until(lambda: select_in(tmp_path, undone) == [(0,)])
    assert set(done.values()) == {1}
    assert port_of(servers[0]) != port_of(servers[1])


# --- clocks ------------------------------------------------------------------------------------


class Clock:
    """The clock by which leases and back-off are reckoned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off = 0
        monkeypatch.setattr("qmc_async.store.transaction.now", lambda: records.now() + self.off)
        monkeypatch.setattr("qmc_async.callback.dispatcher._CHECKED_EVERY", 0.01)
        monkeypatch.setattr("qmc_async.callback.dispatcher._RENEWED_EVERY", 0.05)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that can be stepped."""
    return Clock(monkeypatch)


STEPS = pytest.mark.parametrize(
    "steps", [(DAY,), (-DAY,), (DAY, -DAY), (-DAY, DAY), (-DAY, 0)], ids=str
)


@STEPS
async def test_the_clock_steps_during_a_lease(
    steps: tuple[int, ...], clock: Clock, tmp_path: Path
) -> None:
    """A handler that runs meanwhile is not run a second time, and its outcome is written down."""
    stuck, seen = Stuck(), Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path), max_concurrency=2)
    server.on_disconnected(name="a")(stuck.run)
    server.on_disconnected(name="b")(seen.handler("b"))
    done = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
    async with server:
        await post_to(server, body_of())
        await until(lambda: stuck.begun and select_in(tmp_path, done) == [(1,)])
        for number, step in enumerate(steps, 2):
            clock.off = step
            await asyncio.sleep(0.15)  # some looks through the store, and some renewals
            await post_to(server, body_of(f"4711-{number}"))
            await until(lambda: select_in(tmp_path, done) == [(number,)])  # noqa: B023 - awaited here
            assert len(seen.all) == number
            assert stuck.begun == 2  # as many as may
        stuck.go_on.set()
        pending = "SELECT count(*) FROM qmc_deliveries WHERE state <> 'done'"
        await until(lambda: select_in(tmp_path, pending) == [(0,)])
    assert stuck.begun == stuck.ended == len(steps) + 1


@STEPS
async def test_the_clock_steps_during_a_back_off(
    steps: tuple[int, ...], clock: Clock, tmp_path: Path
) -> None:
    """What waits for its next attempt gets it, whichever way the clock went."""
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    retry = Retry(first_delay=0.2, longest_delay=0.2)
    server.on_disconnected(name="a", retry=retry)(
        seen.handler("a", *[ValueError()] * (len(steps) + 1))
    )
    async with server:
        await post_to(server, body_of())
        for number, step in enumerate(steps):
            await until(lambda: deliveries_in(tmp_path)["a"][1] > number)  # noqa: B023 - awaited here
            clock.off = step
        await until(lambda: deliveries_in(tmp_path)["a"][0] == "done")
    assert seen.attempts == list(range(1, len(steps) + 3))


async def test_the_clock_steps_while_nobody_runs(clock: Clock, tmp_path: Path) -> None:
    """What a clock a day ahead has put off is due when a server starts on the right time."""
    seen = Seen()
    for failures, off in (([ValueError()], DAY), ([], 0)):
        clock.off = off
        server = CallbackServer(port=0, store=url_in(tmp_path))
        server.on_disconnected(name="a", retry=Retry(first_delay=60))(seen.handler("a", *failures))
        async with server:
            if failures:
                await post_to(server, body_of())
                await until(lambda: deliveries_in(tmp_path) == {"a": ("pending", 1, None)})
            else:
                await until(lambda: deliveries_in(tmp_path) == {"a": ("done", 1, None)})
    assert seen.attempts == [1, 2]
