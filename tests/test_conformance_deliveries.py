"""Deliveries, on each database: leases and fences, what is due, what becomes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of
from conformance import deliveries_in, ids_in, in_one_go, let_time_pass, replica, rows_in
from store_support import ask, keep, put_of

from qmc_async.models import Conflict, Disconnected, UnknownNotification
from qmc_async.store import Kind, State, Store, deliveries
from qmc_async.store.events import Listing
from qmc_async.store.records import LEASE, LONGEST_DELAY, Claim, Outcome, Poll

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from database_servers import TestDatabase

DAY = 86_400.0


@pytest.fixture
async def store(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store."""
    async with replica(database, tmp_path) as store:
        yield store


async def _poll(store: Store, limit: int = 10, owner: str = "us", **more: Any) -> list[Claim]:  # noqa: ANN401 - as `Poll` takes it
    return list((await store.poll(Poll(owner, {"handler": limit}, **more))).claims)


async def _due(store: Store, database: TestDatabase, *call_ids: str) -> None:
    """Keep notifications that are due for a handler, each since an hour more than the next."""
    for call_id in call_ids:
        let_time_pass(database, 3600)
        await keep(store, body_of(call_id), {"handler": False, "other": False})


# --- due, leased, settled ----------------------------------------------------------------------


async def test_what_is_due_is_leased(store: Store, database: TestDatabase) -> None:
    """The longest due first, as many as wanted, to one owner at a time, until the lease ends."""
    await _due(store, database, "1", "2", "3")
    claims = await _poll(store, 2)
    assert [(one.event_id, one.fence, one.attempts) for one in claims] == [("1", 1, 0), ("2", 1, 0)]
    assert all(isinstance(one.event, Disconnected) for one in claims)
    assert [one.receipt.body for one in claims] == [body_of("1"), body_of("2")]
    assert [one.event_id for one in await _poll(store, owner="others")] == ["3"]
    assert await _poll(store) == []
    let_time_pass(database, LEASE / 2)
    assert await _poll(store) == []
    let_time_pass(database, LEASE / 2)
    assert [one.fence for one in await _poll(store, owner="others")] == [2, 2, 2]
    rows = [row for row in deliveries_in(database) if row[1] == "handler"]
    assert {row[4:6] for row in rows} == {(2, "others")}


async def test_what_is_held_is_not_leased_again(store: Store, database: TestDatabase) -> None:
    """However old our lease looks, what we run we do not run twice."""
    await _due(store, database, "1", "2")
    [held] = await _poll(store, 1)
    let_time_pass(database, DAY)
    [other] = await _poll(store, 1, held=frozenset({held.key}))
    assert (held.event_id, other.event_id) == ("1", "2")


async def test_a_renewed_lease(store: Store, database: TestDatabase) -> None:
    """It lasts as long again; a claim that was lost is not brought back by renewing it."""
    await _due(store, database, "1")
    [claim] = await _poll(store)
    let_time_pass(database, LEASE * 2 / 3)
    await store.renew([claim])
    await store.renew([])
    let_time_pass(database, LEASE * 2 / 3)
    assert await _poll(store, owner="others") == []
    let_time_pass(database, LEASE / 3)
    [theirs] = await _poll(store, owner="others")
    let_time_pass(database, LEASE)
    await store.renew([claim])
    assert [one.fence for one in await _poll(store)] == [theirs.fence + 1]


@pytest.mark.parametrize(
    ("outcome", "row", "pending"),
    [
        ({"state": State.DONE}, ("done", 0, 2, None, ""), 0),
        ({"state": State.DEAD, "failed": True, "error": "why"}, ("dead", 1, 2, None, "why"), 0),
        (
            {"state": State.PENDING, "failed": True, "error": "😀 é", "delay": 90.0},
            ("pending", 1, 2, None, "😀 é"),
            1,
        ),
        ({"state": State.PENDING}, ("pending", 0, 2, None, ""), 1),
    ],
    ids=["done", "dead", "again", "given back"],
)
async def test_how_a_claim_ends(
    store: Store,
    database: TestDatabase,
    outcome: dict[str, Any],
    row: tuple[Any, ...],
    pending: int,
) -> None:
    """State, attempts and error are written, the lease is over, and it is due when it was said."""
    await keep(store, body_of(), {"handler": False})
    [claim] = await _poll(store)
    assert await store.settle(Outcome(claim, **outcome))
    [found] = deliveries_in(database)
    assert found[2:] == row
    assert await store.count_pending() == pending
    if pending:
        if "delay" in outcome:
            let_time_pass(database, outcome["delay"] - 30)  # the machine may be slow
            assert await _poll(store) == []
            let_time_pass(database, 30)
        [again] = await _poll(store, owner="others")
        assert again.attempts == outcome.get("failed", False)
    else:
        let_time_pass(database, DAY)
        assert await _poll(store) == []


async def test_who_has_lost_the_lease_settles_nothing(store: Store, database: TestDatabase) -> None:
    """The fence decides, not the owner; among several outcomes each gets its own answer."""
    await _due(store, database, *"12345")
    mine = await _poll(store)
    let_time_pass(database, LEASE)
    theirs = await _poll(store, 2)
    lost = {one.event_id for one in theirs}
    answers = await in_one_go(
        {store: [partial(store.settle, Outcome(claim, State.DONE)) for claim in mine]}
    )
    assert answers == [claim.event_id not in lost for claim in mine]
    states = {row[0]: row[2:6] for row in deliveries_in(database) if row[1] == "handler"}
    for call_id in "12345":
        is_lost = call_id in lost
        assert states[call_id] == (("pending", 0, 2, "us") if is_lost else ("done", 0, 2, None))
    assert await store.settle(Outcome(theirs[0], State.DEAD))
    assert not await store.settle(Outcome(theirs[0], State.DONE))


async def test_an_outcome_that_is_written_down_twice(store: Store, database: TestDatabase) -> None:
    """As after a commit whose answer was lost: it stands, and both say so."""
    await _due(store, database, "1", "2")
    mine = await _poll(store)
    for _ in range(2):
        outcomes = [Outcome(claim, State.DEAD, failed=True, error="why") for claim in mine]
        works = [lambda one=one: store.settle(one) for one in outcomes]
        assert await in_one_go({store: works}) == [True, True]
    rows = [row[2:5] for row in deliveries_in(database) if row[1] == "handler"]
    assert rows == [("dead", 1, 2)] * 2


async def test_an_outcome_of_what_is_not_there(store: Store, database: TestDatabase) -> None:
    """It is written down with its event, as after the database was restored from a backup."""
    receipt = put_of(body_of()).receipt
    assert await store.settle(Outcome(receipt.claim("handler", fence=5), State.DONE))
    assert deliveries_in(database) == [("4711", "handler", "done", 0, 5, None, "")]
    assert database.select("SELECT body FROM qmc_events") == [(body_of(),)]


async def test_a_delivery_that_cannot_be_read(
    store: Store, database: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """A word of a newer version does not stand before those that can be read."""
    await _due(store, database, "1", "2")
    database.execute("UPDATE qmc_events SET kind = 'dhsconnected' WHERE event_id = '1'")
    assert [one.event_id for one in await _poll(store)] == ["2"]
    states = [row[2] for row in deliveries_in(database) if row[1] == "handler"]
    assert states == ["dead", "pending"]
    assert "the event 1 cannot be read (ValueError)" in caplog.text


# --- routes ------------------------------------------------------------------------------------


async def test_events_that_nobody_has_routed(store: Store, database: TestDatabase) -> None:
    """They are found with their event, routed once, and then due at once."""
    await keep(store, body_of("1"), None)
    await keep(store, body_of("1", reason="Other"), None)
    await keep(store, b"?", None)
    first, conflict, unknown = (await store.poll(Poll("us", {}))).unrouted.items()
    assert isinstance(first[1], Disconnected)
    assert isinstance(conflict[1], Conflict)
    assert isinstance(unknown[1], UnknownNotification)
    for _ in range(2):
        await store.route({"1": ["handler"], conflict[0]: [], unknown[0]: [], "none": ["handler"]})
    assert not (await store.poll(Poll("us", {}))).unrouted
    assert [one.event_id for one in await _poll(store)] == ["1"]
    assert len(deliveries_in(database)) == 1


async def test_more_unrouted_than_are_looked_at_at_once(store: Store) -> None:
    """They come in portions, in order, and from the beginning again after the last."""
    await in_one_go({store: [partial(keep, store, body_of(f"{n:03}"), None) for n in range(130)]})
    first = await store.poll(Poll("us", {}))
    second = await store.poll(Poll("us", {}, after=first.looked_until))
    assert [*first.unrouted, *second.unrouted] == [f"{number:03}" for number in range(130)]
    assert (len(first.unrouted), second.looked_until) == (100, 0)


# --- dead letters ------------------------------------------------------------------------------


async def _die(store: Store, *call_ids: str) -> None:
    for call_id in call_ids:
        kept = await keep(store, body_of(call_id), {"handler": True, "other": True})
        for claim in kept.claims:
            assert await store.settle(Outcome(claim, State.DEAD, failed=True, error="why"))


async def test_dead_letters(store: Store, database: TestDatabase) -> None:
    """The latest first, as many as asked for, with all that is needed to try again."""
    for call_id in "123":
        database.execute("UPDATE qmc_deliveries SET changed_at = changed_at - 1000")
        await _die(store, call_id)
    letters = await store.dead_letters(5)
    assert [one.event_id for one in letters] == ["3", "3", "2", "2", "1"]
    assert {one.handler for one in letters} == {"handler", "other"}
    letter = letters[0]
    assert letter.body == body_of("3")
    assert isinstance(letter.event, Disconnected)
    assert (letter.error, letter.attempts) == ("why", 1)
    ago = datetime.now(UTC) - letter.died_at
    assert timedelta(seconds=-30) < ago < timedelta(minutes=2)
    assert letter.died_at.utcoffset() == timedelta(hours=8)


async def test_replay(store: Store, database: TestDatabase) -> None:
    """One handler, or all that gave it up; they start anew, and what is not dead is left alone."""
    await _die(store, "1")
    assert await store.replay("1", "nobody") == []
    assert await store.replay("2") == []
    assert await store.replay("1", "handler") == ["handler"]
    assert await store.replay("1") == ["other"]
    assert await store.replay("1") == []
    assert [row[2:4] for row in deliveries_in(database)] == [("pending", 0)] * 2
    [claim] = await _poll(store)
    assert (claim.attempts, claim.fence) == (0, 4)  # nothing of its first life settles it


async def test_replay_of_what_can_be_decoded_now(
    store: Store, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It becomes the end of a call, with its time and bytes, and goes to the handlers of that."""
    new = body_of("4711", status="Hungup")
    await keep(store, new, {"unknown": True})
    [event_id] = ids_in(database, "SELECT event_id FROM qmc_events")
    received = database.select("SELECT received_at FROM qmc_events")
    assert await store.replay(event_id) == []
    monkeypatch.setattr("qmc_async.codec.STATUS", "Hungup")
    assert await store.replay(event_id) == ["*"]
    assert await store.replay(event_id) == []
    assert ids_in(database, "SELECT event_id FROM qmc_events WHERE NOT routed") == ["4711"]
    assert database.select("SELECT received_at FROM qmc_events") == received
    assert deliveries_in(database) == []


# --- what is finished, and the dead ------------------------------------------------------------


async def test_purge(store: Store, database: TestDatabase) -> None:
    """Only what is finished goes, with its deliveries, and only what came before a time."""
    await _die(store, "dead")
    await keep(store, body_of("pending"), {"handler": False})
    await keep(store, body_of("unrouted"), None)
    for call_id in ("done", "late"):
        kept = await keep(store, body_of(call_id), {"handler": True})
        assert await store.settle(Outcome(kept.claims[0], State.DONE))
    database.execute("UPDATE qmc_events SET received_at = 1000 WHERE event_id <> 'late'")
    assert await store.purge(datetime.fromtimestamp(1, UTC)) == 0
    assert await store.purge(datetime.fromtimestamp(1.5, UTC)) == 1
    assert await store.purge(datetime.fromtimestamp(1.5, UTC)) == 0
    left = ["dead", "late", "pending", "unrouted"]
    assert ids_in(database, "SELECT event_id FROM qmc_events ORDER BY event_id") == left
    assert {row[0] for row in deliveries_in(database)} == {"dead", "late", "pending"}


async def test_purge_more_than_one_statement_takes(store: Store, database: TestDatabase) -> None:
    """Twelve hundred, in portions."""
    await in_one_go({store: [partial(keep, store, body_of(f"{n}"), {}) for n in range(450)]})
    for copy in "ab":
        columns = "kind, out_call_id, received_at, receipt_id, problem, body, routed"
        database.execute(
            f"INSERT INTO qmc_events (event_id, {columns})"  # noqa: S608 - no input
            f" SELECT {_concatenated(database, copy)}, {columns} FROM qmc_events"
        )
    assert await store.purge(datetime.now(UTC) + timedelta(days=1)) == 1800
    assert database.select("SELECT count(*) FROM qmc_events") == [(0,)]


def _concatenated(database: TestDatabase, end: str) -> str:
    return f"concat(event_id, '{end}')" if database.kind == "mariadb" else f"event_id || '{end}'"


async def test_the_leases_of_the_dead(store: Store, database: TestDatabase) -> None:
    """They are given back at once, of every handler; nobody else's, and no back-off."""
    for owner in ("dead", "alive"):
        await keep(store, body_of(owner), {"handler": True, "other": True}, owner)
    await keep(store, body_of("waiting"), {"handler": False})
    assert await ask(store, deliveries.release, "dead") == 2
    assert await ask(store, deliveries.release, "dead") == 0
    owners = {row[:2]: row[5] for row in deliveries_in(database)}
    assert owners == {
        ("alive", "handler"): "alive",
        ("alive", "other"): "alive",
        ("dead", "handler"): None,
        ("dead", "other"): None,
        ("waiting", "handler"): None,
    }
    assert sorted(one.event_id for one in await _poll(store)) == ["dead", "waiting"]


async def test_a_clock_that_was_ahead(store: Store, database: TestDatabase) -> None:
    """What it put off farther than anything may be put off is due at once; the rest stays."""
    await _due(store, database, "1", "2", "3", "4")
    claims = {one.event_id: one for one in await _poll(store, 3)}
    for call_id in "12":
        delayed = Outcome(claims[call_id], State.PENDING, delay=LONGEST_DELAY, failed=True)
        assert await store.settle(delayed)
    database.execute("UPDATE qmc_deliveries SET due_at = due_at + 86400000 WHERE event_id <> '1'")
    await store.undo_clock_steps(["handler"])
    await store.undo_clock_steps([])
    assert sorted(one.event_id for one in await _poll(store)) == ["2", "3", "4"]


# --- lists -------------------------------------------------------------------------------------


async def test_list_events(store: Store, database: TestDatabase) -> None:
    """Newest first, in pages, with the event as it is read today, and its deliveries by handler."""
    await keep(store, body_of("1", reason="A", outCallId="order"), {"b": True, "a": False})
    await keep(store, body_of("1", reason="B", outCallId="order"))
    await keep(store, b"?", {})
    await _die(store, "2")
    (dead, unknown), position = await store.list_events(Listing(limit=2))
    assert [one.state for one in dead.deliveries] == [State.DEAD] * 2
    assert (unknown.kind, unknown.body, unknown.routed) == (Kind.UNKNOWN, b"?", True)
    (conflict, first), end = await store.list_events(Listing(limit=5, before=position))
    assert isinstance(conflict.event, Conflict)
    assert conflict.event.first is not None
    assert (conflict.event.first.reason, conflict.event.second.reason) == ("A", "B")
    assert not conflict.routed
    assert [one.handler for one in first.deliveries] == ["a", "b"]
    assert end == 0
    for listing, expected in [
        (Listing(limit=9, kind=Kind.CONFLICT), [conflict.event_id]),
        (Listing(limit=9, state=State.DEAD), ["2"]),
        (Listing(limit=9, identifier="1"), [conflict.event_id, "1"]),
        (Listing(limit=9, identifier="order"), [conflict.event_id, "1"]),
        (Listing(limit=9, identifier=conflict.event_id), [conflict.event_id]),
        (Listing(limit=9, since=1 << 50), []),
        (Listing(limit=9, since=1), ["2", unknown.event_id, conflict.event_id, "1"]),
    ]:
        found, _ = await store.list_events(listing)
        assert [one.event_id for one in found] == expected, listing
    assert len(rows_in(database, "SELECT 1 FROM qmc_events")) == 4
