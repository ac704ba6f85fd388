"""Deliveries: leases with their fences, what is due, and what becomes of it, in the file itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, select_in
from store_support import ask, keep, put_of, store_in

from qmc_async.models import Conflict, Disconnected
from qmc_async.store import Kind, State, Store, deliveries, transaction
from qmc_async.store.records import LEASE, LONGEST_DELAY, Claim, Outcome, Poll

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        """As `records.now`."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the store."""
    clock = Clock()
    monkeypatch.setattr(transaction, "now", clock)
    return clock


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    """An open store in a file, by a clock that stands still."""
    assert clock.now
    async with store_in(tmp_path) as store:
        yield store


async def _poll(store: Store, limit: int = 10, owner: str = "us", **more: Any) -> list[Claim]:  # noqa: ANN401 - as `Poll` takes it
    return list((await store.poll(Poll(owner, {"handler": limit}, **more))).claims)


def _deliveries(folder: Path) -> list[tuple[Any, ...]]:
    return select_in(
        folder,
        "SELECT handler, state, attempts, fence, owner, due_at, error FROM qmc_deliveries"
        " ORDER BY event_id, handler",
    )


# --- due, leased, settled ----------------------------------------------------------------------


async def test_what_is_due_is_leased(store: Store, tmp_path: Path, clock: Clock) -> None:
    """The longest due first, as many as wanted, to one owner at a time, until the lease ends."""
    for call_id in "123":
        await keep(store, body_of(call_id), {"handler": False, "other": False})
        clock.now += 1
    claims = await _poll(store, 2)
    assert [(claim.event_id, claim.fence, claim.attempts) for claim in claims] == [
        ("1", 1, 0),
        ("2", 1, 0),
    ]
    assert all(isinstance(claim.event, Disconnected) for claim in claims)
    assert [claim.event_id for claim in await _poll(store, owner="others")] == ["3"]
    assert await _poll(store) == []
    clock.now += int(LEASE * 1000) - 1
    assert await _poll(store) == []
    clock.now += 1
    assert [claim.fence for claim in await _poll(store)] == [2, 2, 2]
    rows = [row for row in _deliveries(tmp_path) if row[0] == "handler"]
    assert {(row[3], row[4]) for row in rows} == {(2, "us")}


async def test_what_is_held_is_not_leased_again(store: Store, clock: Clock) -> None:
    """A clock that jumps makes our own leases look expired; what we run we do not run twice."""
    for call_id in "12":
        await keep(store, body_of(call_id), {"handler": False})
    [held] = await _poll(store, 1)
    clock.now += 86_400_000
    [other] = await _poll(store, 1, held=frozenset({held.key}))
    assert other.event_id == "2"


async def test_a_renewed_lease(store: Store, clock: Clock) -> None:
    """It lasts as long again; a claim that was lost is not brought back by renewing it."""
    await keep(store, body_of(), {"handler": False})
    [claim] = await _poll(store)
    clock.now += 40_000
    await store.renew([claim])
    await store.renew([])
    clock.now += 40_000
    assert await _poll(store, owner="others") == []
    clock.now += 40_000
    [theirs] = await _poll(store, owner="others")
    clock.now += 40_000
    await store.renew([claim])
    clock.now += 40_000
    assert [one.fence for one in await _poll(store)] == [theirs.fence + 1]


@pytest.mark.parametrize(
    ("outcome", "row"),
    [
        ({"state": State.DONE}, ("done", 0, None, None, "")),
        (
            {"state": State.DEAD, "failed": True, "error": "why"},
            ("dead", 1, None, None, "why"),
        ),
        (
            {"state": State.PENDING, "failed": True, "error": "why", "delay": 2.5},
            ("pending", 1, None, 2500, "why"),
        ),
        ({"state": State.PENDING}, ("pending", 0, None, 0, "")),
    ],
    ids=["done", "dead", "again", "given back"],
)
async def test_how_a_claim_ends(
    store: Store, tmp_path: Path, clock: Clock, outcome: dict[str, Any], row: tuple[Any, ...]
) -> None:
    """State, attempts and error are written, and the lease is over."""
    await keep(store, body_of(), {"handler": False})
    [claim] = await _poll(store)
    assert await store.settle(Outcome(claim, **outcome))
    [found] = _deliveries(tmp_path)
    state, attempts, owner, delay, error = row
    due = None if delay is None else clock.now + delay
    assert found[1:3] + found[4:] == (state, attempts, owner, due, error)
    assert await store.count_pending() == (due is not None)


async def test_who_has_lost_the_lease_settles_nothing(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    """The fence decides, not the owner; among several outcomes each gets its own answer."""
    for call_id in "12":
        await keep(store, body_of(call_id), {"handler": False})
    mine = await _poll(store)
    clock.now += int(LEASE * 1000)
    [theirs] = await _poll(store, 1, owner="others")
    answers = await _together(store, [Outcome(claim, State.DONE) for claim in mine])
    assert answers == [claim.event_id != theirs.event_id for claim in mine]
    states = [(row[1], row[4]) for row in _deliveries(tmp_path)]
    assert sorted(states) == [("done", None), ("pending", "others")]
    assert await store.settle(Outcome(theirs, State.DEAD))
    assert not await store.settle(Outcome(theirs, State.DONE))


async def _together(store: Store, outcomes: list[Outcome]) -> list[bool]:
    def settle(connection: Any, asked: Any) -> Any:  # noqa: ANN401 - as an operation
        return [deliveries.settle(connection, outcomes) for _ in asked]

    answers: list[bool] = await ask(store, settle, None)
    return answers


async def test_a_delivery_that_cannot_be_read(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A word that a flipped bit has made does not stand before those that can be read."""
    for call_id in "12":
        await keep(store, body_of(call_id), {"handler": False})
    with closing(sqlite3.connect(tmp_path / "qmc.db", timeout=30)) as file, file:
        file.execute("UPDATE qmc_events SET kind = 'dhsconnected' WHERE event_id = '1'")
    assert [claim.event_id for claim in await _poll(store)] == ["2"]
    assert [row[1] for row in _deliveries(tmp_path)] == ["dead", "pending"]
    assert "the event 1 cannot be read (ValueError)" in caplog.text


# --- after the file was set aside --------------------------------------------------------------


async def test_an_outcome_for_a_fresh_file(store: Store, tmp_path: Path) -> None:
    """What a handler made of an event is written down with the event, which went with the file."""
    receipt = put_of(body_of()).receipt
    conflict = Claim(
        event_id="4711~x",
        handler="handler",
        fence=5,
        attempts=2,
        event=Conflict(call_id="4711", first=None, second=receipt.event),  # type: ignore[arg-type]  # it is one
        receipt=receipt,
        kind=Kind.CONFLICT,
    )
    assert await store.settle(Outcome(conflict, State.DEAD, failed=True, error="why"))
    rows = select_in(tmp_path, "SELECT event_id, kind, routed, body FROM qmc_events")
    assert rows == [("4711~x", "conflict", 1, body_of())]
    assert _deliveries(tmp_path) == [("handler", "dead", 3, 5, None, None, "why")]
    [letter] = await store.dead_letters()
    assert isinstance(letter.event, Conflict)
    assert letter.event.first is None


async def test_an_outcome_for_an_event_that_is_not_routed_yet(store: Store, tmp_path: Path) -> None:
    """It came again through the spool: its other handlers get it, this one not a second time."""
    kept = await keep(store, body_of(), {"handler": True})
    async with store_in(tmp_path):
        pass
    [claim] = kept.claims
    (tmp_path / "fresh").mkdir()
    async with store_in(tmp_path / "fresh") as fresh:
        await keep(fresh, body_of("4711"), None)
        await keep(fresh, body_of("4712"), None)
        assert await fresh.settle(Outcome(claim, State.DONE))
        await fresh.route({"4711": ["handler", "other"], "4712": ["handler"]})
    rows = select_in(
        tmp_path / "fresh", "SELECT event_id, handler, state FROM qmc_deliveries ORDER BY 1, 2"
    )
    assert rows == [
        ("4711", "handler", "done"),
        ("4711", "other", "pending"),
        ("4712", "handler", "pending"),
    ]


# --- routes ------------------------------------------------------------------------------------


async def test_events_that_nobody_has_routed(store: Store, tmp_path: Path) -> None:
    """They are found with their event, routed once, and then due at once."""
    await keep(store, body_of("1"), None)
    await keep(store, body_of("1", reason="Other"), None)
    polled = await store.poll(Poll("us", {}))
    first, conflict = polled.unrouted.values()
    assert isinstance(first, Disconnected)
    assert isinstance(conflict, Conflict)
    conflict_id = list(polled.unrouted)[1]
    for _ in range(2):
        await store.route({"1": ["handler"], conflict_id: [], "unknown": ["handler"]})
    assert not (await store.poll(Poll("us", {}))).unrouted
    assert [claim.event_id for claim in await _poll(store)] == ["1"]
    assert len(_deliveries(tmp_path)) == 1


# --- dead letters ------------------------------------------------------------------------------


async def _die(store: Store, call_id: str, error: str = "why") -> None:
    kept = await keep(store, body_of(call_id), {"handler": True, "other": True})
    for claim in kept.claims:
        assert await store.settle(Outcome(claim, State.DEAD, failed=True, error=error))


async def test_dead_letters(store: Store, clock: Clock) -> None:
    """The latest first, as many as asked for, with all that is needed to try again."""
    for call_id in "123":
        await _die(store, call_id)
        clock.now += 1000
    letters = await store.dead_letters(4)
    assert [letter.event_id for letter in letters] == ["3", "3", "2", "2"]
    assert {letter.handler for letter in letters} == {"handler", "other"}
    letter = letters[0]
    assert letter.body == body_of("3")
    assert isinstance(letter.event, Disconnected)
    assert (letter.error, letter.attempts) == ("why", 1)
    assert letter.died_at.timestamp() * 1000 == clock.now - 1000


async def test_replay(store: Store, tmp_path: Path) -> None:
    """One handler, or all that gave it up; they start anew, and what is not dead is left alone."""
    await _die(store, "1")
    assert await store.replay("1", "nobody") == []
    assert await store.replay("2") == []
    assert await store.replay("1", "handler") == ["handler"]
    assert await store.replay("1") == ["other"]
    assert await store.replay("1") == []
    assert [row[1:3] for row in _deliveries(tmp_path)] == [("pending", 0)] * 2
    [claim] = await _poll(store)
    assert claim.attempts == 0
    assert claim.fence > 1  # nothing of its first life settles it


async def test_replay_of_what_can_be_decoded_now(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It becomes the end of a call, with its time and bytes, and goes to the handlers of that."""
    new = body_of("4711", status="Hungup")
    await keep(store, new, {"unknown": True})
    await keep(store, body_of("4712", status="Hungup"), {"unknown": True})
    [(event_id, received_at)] = select_in(
        tmp_path, "SELECT event_id, received_at FROM qmc_events WHERE event_id LIKE '4711%'"
    )
    assert await store.replay(event_id) == []
    monkeypatch.setattr("qmc_async.codec.STATUS", "Hungup")
    assert await store.replay(event_id) == ["*"]
    assert await store.replay(event_id) == []
    rows = select_in(
        tmp_path,
        "SELECT event_id, kind, received_at, body, routed FROM qmc_events ORDER BY event_id",
    )
    assert rows[0] == ("4711", "disconnected", received_at, new, 0)
    assert len(rows) == 2
    assert [row[0] for row in _deliveries(tmp_path)] == ["unknown"]  # of the other one
    assert list((await store.find(["4711"]))[0]) == ["4711"]


# --- clocks, and the dead ----------------------------------------------------------------------


async def test_a_clock_that_was_ahead(store: Store, tmp_path: Path, clock: Clock) -> None:
    """What it put off farther than anything may be put off is due at once; the rest stays."""
    for call_id in "1234":
        await keep(store, body_of(call_id), {"handler": False})
    claims = {claim.event_id: claim for claim in await _poll(store, 3)}
    delay = LONGEST_DELAY
    assert await store.settle(Outcome(claims["1"], State.PENDING, delay=delay, failed=True))
    clock.now += 86_400_000
    assert await store.settle(Outcome(claims["2"], State.PENDING, delay=delay, failed=True))
    await _poll(store, 10, held=frozenset({("1", "handler")}))
    clock.now -= 86_400_000
    await store.undo_clock_steps(["handler", "other"])
    await store.undo_clock_steps([])
    due = dict(select_in(tmp_path, "SELECT event_id, due_at - ? FROM qmc_deliveries", clock.now))
    assert due["1"] == delay * 1000
    assert {due["2"], due["3"], due["4"]} == {0}


async def test_the_leases_of_the_dead(store: Store, tmp_path: Path, clock: Clock) -> None:
    """They are given back at once, of every handler; nobody else's, and no back-off."""
    for number, owner in enumerate(["dead", "alive"]):
        await keep(store, body_of(str(number)), {"handler": True, "other": True}, owner)
    await keep(store, body_of("waiting"), {"handler": False})
    clock.now += 1

    def release(connection: Any, asked: Any) -> Any:  # noqa: ANN401 - as an operation
        return deliveries.release(connection, asked)

    assert await ask(store, release, "dead") == 2
    assert await ask(store, release, "dead") == 0
    owners = [row[4] for row in _deliveries(tmp_path)]
    assert owners == [None, None, "alive", "alive", None]
    assert len(await _poll(store)) == 2
