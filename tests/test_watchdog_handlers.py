"""Handlers of `on_missing`: what they are promised, over failures, restarts and replicas."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import (
    LATER,
    SIGNER,
    SOON,
    Seen,
    body_of,
    deliveries_in,
    port_of,
    post_to,
    select_in,
    until,
    url_in,
)
from faulty_platform import FaultyPlatform, never_answer
from ledger_support import client_of, states_in
from sqlalchemy.exc import OperationalError
from store_support import names_in
from watchdog_support import (
    HOUR,
    KINDS,
    RECORDED,
    SILENT,
    asked,
    calls_in,
    hurry_watchdog,
    make_overdue,
    place_on,
    running,
    server_of,
    watched,
)

from qmc_async import (
    CallbackServer,
    CallState,
    ConfigError,
    Delivery,
    Disconnected,
    Overdue,
    Reject,
    Retry,
)
from qmc_async.errors import StoreError
from qmc_async.store import overdue

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy import Connection as Database


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_watchdog(monkeypatch)


# --- registered --------------------------------------------------------------------------------


@pytest.mark.parametrize("has_client", [False, True])
async def test_a_server_without_a_ledger(tmp_path: Path, *, has_client: bool) -> None:
    """Its handlers would never run: it does not start, and neither port nor store is opened."""
    client = client_of("http://127.0.0.1:1", None) if has_client else None
    server = CallbackServer(port=0, client=client, signer=SIGNER, store=url_in(tmp_path))
    server.on_missing(Seen().handler("a"))
    with pytest.raises(ConfigError, match="need a client with a ledger") as caught:
        await server.start()
    assert caught.value.setting == "client"
    assert port_of(server) == 0
    assert names_in(tmp_path) == []


async def test_it_gets_nothing_else(tmp_path: Path) -> None:
    """Neither do its handlers get notifications, nor those of notifications what is missing."""
    seen = Seen()
    async with FaultyPlatform(SILENT) as platform:
        server = server_of(tmp_path, platform.url)
        server.on_missing(name="missing")(seen.handler("missing"))
        server.on_disconnected(name="ended")(seen.handler("ended"))
        server.on_unknown(name="unknown")(seen.handler("unknown"))
        server.on_conflict(name="conflict")(seen.handler("conflict"))
        async with running(server):
            await place_on(server)
            make_overdue(tmp_path)
            for body in (body_of("1"), body_of("1", reason="Other"), b"?"):
                await post_to(server, body)
            await until(lambda: len(seen.all) == 4)
    assert {name: event.call_id for name, event in seen.all} == {
        "missing": "4711",
        "ended": "1",
        "conflict": "1",
        "unknown": None,
    }
    bodies = dict(zip(seen.names, (delivery.body for delivery in seen.deliveries), strict=True))
    assert bodies["missing"] == b""  # nothing came


async def test_every_way_to_register(tmp_path: Path) -> None:
    """Bare or with options, with the `Delivery` or without; under its own name, or one given."""
    got: list[tuple[str, object]] = []
    async with FaultyPlatform(SILENT) as platform:
        server = server_of(tmp_path, platform.url)

        @server.on_missing
        async def bare(event: Overdue) -> None:
            got.append(("bare", event))

        @server.on_missing(name="named", retry=SOON, timeout=None)
        async def with_delivery(event: Overdue, delivery: Delivery) -> None:
            assert (delivery.attempt, delivery.idempotency_key) == (1, "4711~missing:named")
            got.append(("named", event))

        async with running(server):
            await place_on(server)
            make_overdue(tmp_path)
            await until(lambda: len(got) == 2)
            await until(lambda: {one[0] for one in deliveries_in(tmp_path).values()} == {"done"})
    assert (bare.__name__, with_delivery.__name__) == ("bare", "with_delivery")
    [one, other] = [event for _, event in got]
    assert one == other
    assert sorted(name for name, _ in got) == ["bare", "named"]
    assert {name.rpartition(".")[2] for name in deliveries_in(tmp_path)} == {"bare", "named"}


async def test_it_needs_no_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers run as soon as the call is given up, however seldom the store is looked through."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._POLLED_EVERY", 600)
    async with FaultyPlatform(SILENT) as platform, watched(tmp_path, platform.url) as there:
        await there.overdue()
        await until(lambda: there.seen.all)
    assert there.told == [("missing", "4711")]


# --- the guarantees of a notification ----------------------------------------------------------


async def test_one_that_fails(tmp_path: Path) -> None:
    """It is tried again, also by the next server; a sibling of it runs once."""
    seen = Seen()
    async with FaultyPlatform(RECORDED) as platform:
        for failures in (2, 0):
            server = server_of(tmp_path, platform.url)
            retry = Retry(attempts=4, first_delay=0.001, longest_delay=0.001)
            errors = [ValueError() for _ in range(failures)]
            server.on_missing(name="a", retry=retry if failures else LATER)(
                seen.handler("a", *errors)
            )
            server.on_missing(name="b")(seen.handler("b"))
            if failures:
                async with running(server):
                    await place_on(server)
                    make_overdue(tmp_path)
                    await until(lambda: deliveries_in(tmp_path).get("a") == ("done", 2, None))
                continue
            select_in(tmp_path, "UPDATE qmc_deliveries SET state = 'pending', due_at = 1")
            async with running(server):
                await until(lambda: len(seen.all) == 6)
    assert sorted(seen.names) == ["a", "a", "a", "a", "b", "b"]
    events = [event for _, event in seen.all]
    assert events == events[:1] * 6
    assert isinstance(events[0], Overdue)
    assert events[0].outcome is CallState.INFERRED


async def test_a_dead_letter(tmp_path: Path) -> None:
    """One that gives up leaves a dead letter with the event, and is replayed by it or its id."""
    seen = Seen()
    async with FaultyPlatform(SILENT) as platform:
        server = server_of(tmp_path, platform.url)
        errors = [Reject("no such order"), Reject("not yet")]
        server.on_missing(name="a")(seen.handler("a", *errors))
        async with running(server):
            await place_on(server)
            make_overdue(tmp_path)
            await until(lambda: deliveries_in(tmp_path).get("a", ("",))[0] == "dead")
            [letter] = await server.dead_letters()
            assert letter.event == seen.all[0][1]
            assert (letter.event_id, letter.handler) == ("4711~missing", "a")
            assert await server.replay(letter) == ["a"]
            await until(lambda: len(seen.all) == 2)
            await until(lambda: deliveries_in(tmp_path)["a"][0] == "dead")
            assert await server.replay("4711~missing") == ["a"]
            await until(lambda: deliveries_in(tmp_path)["a"][0] == "done")
    assert seen.names == ["a"] * 3
    assert [event for _, event in seen.all] == [letter.event] * 3


async def test_a_restart(tmp_path: Path) -> None:
    """What was told is not told again, by this server or by another."""
    async with FaultyPlatform(SILENT) as platform:
        async with watched(tmp_path, platform.url) as there:
            await there.overdue()
            await until(lambda: deliveries_in(tmp_path).get("missing") == ("done", 0, None))
            await there.server.stop()
            await there.server.start()
            await there.overdue("4712", "order-2")
            await until(lambda: len(there.seen.all) == 2)
        async with watched(tmp_path, platform.url) as later:
            await later.overdue("4713", "order-3")
            await until(lambda: later.seen.all)
    assert [*there.told, *later.told] == [("missing", one) for one in ("4711", "4712", "4713")]
    assert asked(platform) == [("record", one) for one in ("4711", "4712", "4713")]


async def test_a_server_that_stops_as_it_looks(tmp_path: Path) -> None:
    """It stops at once; the call is looked for by the next one, when the lease has ended."""
    async with FaultyPlatform(never_answer, SILENT) as platform:
        async with watched(tmp_path, platform.url) as there:
            await there.overdue()
            await platform.received(1)
            async with asyncio.timeout(10):
                await there.server.stop()
            assert calls_in(tmp_path) == {"order-1": ("placed", 0, True)}
        async with watched(tmp_path, platform.url) as later:
            await later.overdue("4712", "order-2")
            await until(lambda: later.seen.all)
            assert later.told == [("missing", "4712")]
            make_overdue(tmp_path)
            await until(lambda: len(later.seen.all) == 2)
    assert later.told == [("missing", "4712"), ("missing", "4711")]
    assert not there.seen.all


async def test_several_servers(tmp_path: Path) -> None:
    """Three servers of one store tell of each call once, and ask for it once."""
    ids = [str(number) for number in range(60)]
    async with FaultyPlatform(SILENT) as platform, AsyncExitStack() as stack:
        theres = [await stack.enter_async_context(watched(tmp_path, platform.url)) for _ in "123"]
        for call_id in ids:
            await theres[0].place(call_id, f"order-{call_id}")
        make_overdue(tmp_path)
        await until(lambda: len([one for there in theres for one in there.told]) >= len(ids))
        busy = "SELECT count(*) FROM qmc_deliveries WHERE state <> 'done'"
        await until(lambda: select_in(tmp_path, busy) == [(0,)])
    told = [call_id for there in theres for _, call_id in there.told]
    assert sorted(told, key=str) == sorted(ids)
    assert sorted(asked(platform)) == sorted(("record", call_id) for call_id in ids)
    assert len(select_in(tmp_path, KINDS)) == len(ids)


# --- a store that fails ------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["look_for_overdue", "settle_overdue"])
async def test_a_store_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """Whatever fails, before the platform was asked or after: it is told once, and only then."""
    real: Any = getattr(overdue, operation)
    failures = [OperationalError("?", {}, sqlite3.OperationalError("disk I/O error"))] * 3
    states: list[dict[str, str]] = []

    def fail(connection: Database, asked: Sequence[Any]) -> Sequence[Any]:
        if failures:
            states.append(states_in(tmp_path))
            raise failures.pop()
        done: Sequence[Any] = real(connection, asked)
        return done

    async with FaultyPlatform(SILENT) as platform, watched(tmp_path, platform.url) as there:
        await there.place()
        monkeypatch.setattr(overdue, operation, fail)
        assert there.client.store is not None
        with suppress(StoreError):  # it may share the transaction of a look that fails
            # After it, no look from before is under way.
            await there.client.store.count_overdue()

        def is_told() -> bool:
            make_overdue(tmp_path)
            return bool(there.seen.all)

        await until(is_told)
    assert not failures
    assert states == [{"order-1": "placed"}] * 3
    assert there.told == [("missing", "4711")]
    assert select_in(tmp_path, KINDS) == [("4711~missing", "missing")]


@pytest.mark.parametrize("put_off", [False, True], ids=["placed", "put off"])
async def test_a_clock_that_was_far_ahead(tmp_path: Path, put_off: bool) -> None:  # noqa: FBT001 - both kinds
    """A call of that time gets its whole time from now on; a look that it put off is due now."""
    year = 365 * 24 * HOUR
    async with FaultyPlatform(SILENT) as platform:
        async with watched(tmp_path, platform.url) as there:
            await there.place()
        what = (
            "due_at = due_at + ?" if put_off else "placed_at = placed_at + ?, due_at = due_at + ?"
        )
        select_in(tmp_path, f"UPDATE qmc_calls SET {what}", *[year] * (1 if put_off else 2))  # noqa: S608 - our own words
        [(placed_at, due_at)] = select_in(tmp_path, "SELECT placed_at, due_at FROM qmc_calls")
        async with watched(tmp_path, platform.url) as there:
            if put_off:
                await until(lambda: there.seen.all)
                return
            query = "SELECT placed_at, due_at FROM qmc_calls"
            await until(lambda: select_in(tmp_path, query) != [(placed_at, due_at)])
            [(placed_at_now, due_at_now)] = select_in(tmp_path, query)
            assert due_at_now - placed_at_now == HOUR
            assert abs(placed_at_now - (placed_at - year)) < 60_000
            assert not platform.seen


# --- a notification that comes later -----------------------------------------------------------


async def test_a_late_notification_while_the_handler_runs(tmp_path: Path) -> None:
    """Both handlers run to their end, each once: what is missing is not taken back."""
    go_on = asyncio.Event()
    got: list[str] = []
    async with FaultyPlatform(SILENT) as platform:
        server = server_of(tmp_path, platform.url)

        @server.on_missing(name="missing")
        async def missing(_: Overdue) -> None:
            got.append("begun")
            await go_on.wait()
            got.append("missing")

        @server.on_disconnected(name="ended")
        async def ended(_: Disconnected) -> None:
            got.append("ended")

        async with running(server):
            await place_on(server)
            make_overdue(tmp_path)
            await until(lambda: got)
            await post_to(server, body_of("4711"))
            await until(lambda: len(got) == 2)
            go_on.set()
            await until(lambda: len(got) == 3)
            done = ("done", 0, None)
            await until(lambda: deliveries_in(tmp_path) == {"missing": done, "ended": done})
    assert got == ["begun", "ended", "missing"]
