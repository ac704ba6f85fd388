"""`dead_letters`, `replay` and `purge`: what was given up, what is tried again, and what goes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from callback_peer import (
    LATER,
    NUMBERS,
    Seen,
    body_of,
    deliveries_in,
    hurry,
    post_to,
    select_in,
    until,
    url_in,
)

from qmc_async import CallbackServer, Disconnected, Reject, Retry, StoreError

if TYPE_CHECKING:
    from pathlib import Path

ONCE = Retry(attempts=1)
BODY = body_of(outCallId="order-42", caller=NUMBERS[0])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def _server(folder: Path, seen: Seen, **failures: int) -> CallbackServer:
    """A server whose handlers fail so many times, and are given up each time."""
    server = CallbackServer(port=0, store=url_in(folder))
    for name, count in failures.items():
        errors = [ValueError(f"{name} {NUMBERS[1]}") for _ in range(count)]
        server.on_disconnected(name=name, retry=ONCE)(seen.handler(name, *errors))
    return server


async def test_a_dead_letter(tmp_path: Path) -> None:
    """It has all that is needed to understand it, and to try it again; numbers are masked."""
    began = datetime.now(UTC) - timedelta(seconds=1)
    server = _server(tmp_path, Seen(), bad=1, good=0)
    async with server:
        assert await server.dead_letters() == []
        await post_to(server, BODY)
        await until(lambda: deliveries_in(tmp_path)["bad"][0] == "dead")
        [letter] = await server.dead_letters()
    assert (letter.event_id, letter.handler, letter.attempts) == ("4711", "bad", 1)
    assert isinstance(letter.event, Disconnected)
    assert (letter.event.call_id, letter.event.out_call_id) == ("4711", "order-42")
    assert letter.body == BODY
    assert letter.error.startswith("ValueError: bad ")
    assert began <= letter.first_seen <= letter.died_at <= datetime.now(UTC)
    assert letter.first_seen.utcoffset() == letter.died_at.utcoffset() == timedelta(hours=8)
    for number in NUMBERS:
        assert number not in repr(letter)


async def test_dead_letters_of_another_day(tmp_path: Path) -> None:
    """They outlive the process, the latest comes first, and only so many as asked for."""
    for call_id in ("1", "2", "3"):
        server = _server(tmp_path, Seen(), bad=1)
        async with server:
            await post_to(server, body_of(call_id))
            await until(
                lambda: (
                    select_in(
                        tmp_path,
                        "SELECT state FROM qmc_deliveries WHERE event_id = ?",
                        call_id,  # noqa: B023 - awaited here
                    )
                    == [("dead",)]
                )
            )
            await asyncio.sleep(0.005)  # times are milliseconds
    async with CallbackServer(port=0, store=url_in(tmp_path)) as server:
        assert [letter.event_id for letter in await server.dead_letters()] == ["3", "2", "1"]
        assert [letter.event_id for letter in await server.dead_letters(2)] == ["3", "2"]
        assert [letter.event_id for letter in await server.dead_letters(limit=1)] == ["3"]


async def test_replay_a_letter(tmp_path: Path) -> None:
    """Its handler, and no other, gets the event as if for the first time, with the same key."""
    seen = Seen()
    server = _server(tmp_path, seen, bad=1, worse=1)
    async with server:
        await post_to(server, BODY)
        await until(lambda: {state for state, *_ in deliveries_in(tmp_path).values()} == {"dead"})
        letter = next(one for one in await server.dead_letters() if one.handler == "bad")
        assert await server.replay(letter) == ["bad"]
        await until(lambda: deliveries_in(tmp_path)["bad"] == ("done", 0, None))
        assert [one.handler for one in await server.dead_letters()] == ["worse"]
        assert await server.replay(letter) == []  # it is none any longer
    assert sorted(seen.names) == ["bad", "bad", "worse"]
    assert seen.attempts == [1, 1, 1]
    keys = [
        one.idempotency_key
        for one, name in zip(seen.deliveries, seen.names, strict=True)
        if name == "bad"
    ]
    assert keys == keys[:1] * 2


async def test_replay_an_event(tmp_path: Path) -> None:
    """By its id all who gave it up get it again, or one of them; nobody else."""
    seen = Seen()
    server = _server(tmp_path, seen, a=1, b=1, c=2, good=0)
    dead = "SELECT handler FROM qmc_deliveries WHERE state = 'dead' ORDER BY handler"
    async with server:
        await post_to(server, BODY)
        await until(lambda: len(select_in(tmp_path, dead)) == 3)
        assert await server.replay("4711", handler="a") == ["a"]
        await until(lambda: deliveries_in(tmp_path)["a"][0] == "done")
        assert sorted(await server.replay("4711")) == ["b", "c"]
        await until(lambda: len(seen.all) == 7)
        await until(lambda: select_in(tmp_path, dead) == [("c",)])
        assert await server.replay("4711", handler="good") == []
        assert await server.replay("4711", handler="nobody") == []
        assert await server.replay("4712") == []
    assert sorted(seen.names) == ["a", "a", "b", "b", "c", "c", "good"]


async def test_replay_needs_no_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is replayed runs now."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._POLLED_EVERY", 600)
    seen = Seen()
    server = _server(tmp_path, seen, bad=1)
    async with server:
        await post_to(server, BODY)
        await until(lambda: deliveries_in(tmp_path)["bad"][0] == "dead")
        await server.replay("4711")
        await until(lambda: len(seen.all) == 2)


async def test_purge(tmp_path: Path) -> None:
    """Only what is finished goes, and only what came longer ago than was said."""
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    for name in ("a", "b"):

        async def handle(event: Disconnected, name: str = name) -> None:
            seen.all.append((name, event))
            if event.call_id == f"dead in {name}":
                raise Reject
            if event.call_id == f"pending in {name}":
                raise ValueError

        server.on_disconnected(name=name, retry=LATER)(handle)
    calls = ["done", "dead in a", "dead in b", "pending in a", "pending in b"]
    async with server:
        for call_id in calls:
            await post_to(server, body_of(call_id))
        await post_to(server, b"for nobody")
        busy = "SELECT count(*) FROM qmc_deliveries WHERE owner IS NOT NULL OR (due_at < 1e12)"
        await until(lambda: len(seen.all) == 10 and select_in(tmp_path, busy) == [(0,)])
        assert await server.purge(timedelta(hours=1)) == 0
        select_in(tmp_path, "UPDATE qmc_events SET received_at = received_at - 7200000")
        await post_to(server, body_of("done lately"))
        await until(lambda: len(seen.all) == 12 and select_in(tmp_path, busy) == [(0,)])
        assert await server.purge(timedelta(hours=3)) == 0
        assert await server.purge(timedelta(hours=1)) == 2
        assert await server.purge(timedelta(hours=1)) == 0
        left = select_in(tmp_path, "SELECT event_id FROM qmc_events")
        assert {call_id for (call_id,) in left} == {*calls[1:], "done lately"}
        assert await server.purge(timedelta(0)) == 1
        assert await server.replay("dead in a") == ["a"]
    orphans = "SELECT event_id FROM qmc_deliveries EXCEPT SELECT event_id FROM qmc_events"
    assert select_in(tmp_path, orphans) == []


async def test_a_server_that_does_not_run() -> None:
    """Its store is closed: none of these is to be had, and that is said."""
    server = CallbackServer(port=0)
    for ask in (
        server.dead_letters(),
        server.replay("4711"),
        server.purge(timedelta(days=1)),
    ):
        with pytest.raises(StoreError, match="not open"):
            await ask
