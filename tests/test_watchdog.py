"""What the watchdog makes of calls whose notification does not come by the deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, post_to, select_in, until
from faulty_platform import APP_ID, SECRET, FaultyPlatform, close_after_reading, http
from ledger_support import NUMBERS, states_in
from watchdog_support import (
    KINDS,
    RECORDED,
    SILENT,
    asked,
    calls_in,
    hurry_watchdog,
    make_overdue,
    recorded,
    watched,
)

from qmc_async import CallOutcomeUnknown, CallState, Credentials, Overdue, Reason
from qmc_async.models import BEIJING
from qmc_async.sandbox import Faults, Rule, Sandbox, Scenario, VirtualClock

if TYPE_CHECKING:
    from pathlib import Path

    from faulty_platform import Connection


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_watchdog(monkeypatch)


# --- what a call without a notification is -----------------------------------------------------


@pytest.mark.parametrize("outcome", ["inferred", "missing"])
async def test_an_overdue_call(tmp_path: Path, outcome: str) -> None:
    """With a recording its end is inferred, without one it is missing; it is asked for once."""
    behaviour = RECORDED if outcome == "inferred" else SILENT
    async with FaultyPlatform(behaviour) as platform, watched(tmp_path, platform.url) as there:
        await there.overdue()
        await until(lambda: there.seen.all)
        assert states_in(tmp_path) == {"order-1": outcome}
        assert calls_in(tmp_path) == {"order-1": (outcome, 0, False)}
    [(name, event)] = there.seen.all
    assert isinstance(event, Overdue)
    assert (name, event.call_id, event.out_call_id) == ("missing", "4711", "order-1")
    assert event.outcome is CallState(outcome)
    [(placed_at,)] = select_in(tmp_path, "SELECT placed_at FROM qmc_calls")
    assert event.placed_at.timestamp() == placed_at / 1000
    assert event.placed_at.tzinfo is BEIJING
    assert asked(platform) == [("record", "4711")]
    assert select_in(tmp_path, KINDS) == [("4711~missing", "missing")]


async def test_a_call_that_the_client_has_placed(tmp_path: Path) -> None:
    """The deadline is the client's setting; nothing is ever asked to end a call."""
    async with (
        FaultyPlatform(RECORDED) as platform,
        watched(tmp_path, platform.url, missing_after=0.001) as there,
    ):
        call = await there.client.call(*NUMBERS, out_call_id="order-1")
        await until(lambda: there.seen.all)
    assert there.told == [("missing", call.call_id)]
    assert asked(platform) == [("call", None), ("record", "c-1")]


async def test_the_deadline(tmp_path: Path) -> None:
    """It is counted from when the call was placed, not from when it was written down."""
    written_down: list[int] = []

    async def look(connection: Connection) -> None:
        await connection.read_request()
        [(due_at,)] = select_in(tmp_path, "SELECT due_at FROM qmc_calls")
        written_down.append(due_at)
        time.sleep(0.01)  # noqa: ASYNC251 - the clock must go on, and nothing else
        connection.writer.write(http())

    async with (
        FaultyPlatform(look) as platform,
        watched(tmp_path, platform.url, missing_after=7.5) as there,
    ):
        await there.client.call(*NUMBERS)
        [(placed_at, due_at)] = select_in(tmp_path, "SELECT placed_at, due_at FROM qmc_calls")
    assert due_at - placed_at == 7500
    assert written_down[0] < due_at


async def test_more_than_are_looked_for_at_once(tmp_path: Path) -> None:
    """Seventy calls are told apart, each is asked for once, and each is told once."""
    ids = [str(number) for number in range(70)]
    async with (
        FaultyPlatform(recorded(ids[::3])) as platform,
        watched(tmp_path, platform.url) as there,
    ):
        for call_id in ids:
            await there.place(call_id, f"order-{call_id}")
        make_overdue(tmp_path)
        await until(lambda: len(there.seen.all) >= 70)
    outcomes = {
        event.call_id: event.outcome for _, event in there.seen.all if isinstance(event, Overdue)
    }
    assert outcomes == {
        call_id: CallState.MISSING if number % 3 else CallState.INFERRED
        for number, call_id in enumerate(ids)
    }
    assert sorted(asked(platform)) == sorted(("record", call_id) for call_id in ids)
    assert len(there.seen.all) == 70


async def test_a_call_whose_reply_was_lost(tmp_path: Path) -> None:
    """It has no id to ask for: it is missing, and nobody is asked."""
    async with (
        FaultyPlatform(close_after_reading) as platform,
        watched(tmp_path, platform.url, missing_after=0.001) as there,
    ):
        with pytest.raises(CallOutcomeUnknown):
            await there.client.call(*NUMBERS, out_call_id="order-1")
        await until(lambda: there.seen.all)
        assert states_in(tmp_path) == {"order-1": "missing"}
    [(_, event)] = there.seen.all
    assert isinstance(event, Overdue)
    assert (event.call_id, event.out_call_id) == (None, "order-1")
    assert event.outcome is CallState.MISSING
    assert asked(platform) == [("call", None)]


async def test_a_call_that_was_refused(tmp_path: Path) -> None:
    """No telephone rang, so no notification is missing."""
    async with FaultyPlatform(SILENT) as platform, watched(tmp_path, platform.url) as there:
        await there.place(None, "refused", state=CallState.REFUSED)
        make_overdue(tmp_path)
        await there.overdue()
        await until(lambda: there.seen.all)
    assert there.told == [("missing", "4711")]
    assert states_in(tmp_path)["refused"] == "refused"


# --- notifications -----------------------------------------------------------------------------


async def test_a_notification_in_time(tmp_path: Path) -> None:
    """The call is ended, in the ledger too once its deadline has passed; nobody is asked."""
    async with FaultyPlatform(SILENT) as platform, watched(tmp_path, platform.url) as there:
        await there.place()
        await there.place(None, "order-2", state=CallState.UNKNOWN)
        for number, call_id in ((1, "4711"), (2, "4712")):
            await post_to(there.server, body_of(call_id, outCallId=f"order-{number}"))
        make_overdue(tmp_path)
        await until(lambda: states_in(tmp_path) == {"order-1": "ended", "order-2": "ended"})
        await there.overdue("4713", "order-3")
        await until(lambda: len(there.seen.all) == 3)
        ids = select_in(tmp_path, "SELECT call_id, call_key FROM qmc_calls ORDER BY seq")
    assert sorted(there.told) == [("ended", "4711"), ("ended", "4712"), ("missing", "4713")]
    assert asked(platform) == [("record", "4713")]
    assert ids == [(one, one) for one in ("4711", "4712", "4713")]


@pytest.mark.parametrize("call_id", ["4711", None])
async def test_a_notification_that_comes_later(tmp_path: Path, call_id: str | None) -> None:
    """It is delivered as any other; from then on the call is ended, and `wait_for` returns it."""
    state = CallState.UNKNOWN if call_id is None else CallState.PLACED
    async with FaultyPlatform(SILENT) as platform, watched(tmp_path, platform.url) as there:
        await there.place(call_id, state=state)
        make_overdue(tmp_path)
        await until(lambda: there.seen.all)
        await post_to(there.server, body_of("4711", outCallId="order-1"))
        await until(lambda: len(there.seen.all) == 2)
        assert there.told == [("missing", call_id), ("ended", "4711")]
        for way in ({"call": "4711"}, {"out_call_id": "order-1"}):
            for patience in (0, 30):
                event = await there.server.wait_for(**way, timeout=patience)
                assert event.call_id == "4711"
        assert there.client.store is not None
        entry = await there.client.store.ledger_entry(out_call_id="order-1")
        assert entry is not None
        assert (entry.state, entry.call_id) == (CallState.ENDED, "4711")
    kinds = [kind for _, kind in select_in(tmp_path, KINDS)]
    assert kinds == ["missing", "disconnected"]


async def test_a_notification_during_the_look(tmp_path: Path) -> None:
    """One that comes while the platform is asked wins: nothing is told of a missing one."""

    async def report(connection: Connection) -> None:
        await connection.read_request()
        await post_to(there.server, body_of("4711", outCallId="order-1"))
        connection.writer.write(http())

    async with FaultyPlatform(report) as platform, watched(tmp_path, platform.url) as there:
        await there.overdue()
        await until(lambda: states_in(tmp_path) == {"order-1": "ended"})
        await until(lambda: there.seen.all)
    assert there.told == [("ended", "4711")]
    assert select_in(tmp_path, KINDS) == [("4711", "disconnected")]
    assert asked(platform) == [("record", "4711")]


# --- with the sandbox --------------------------------------------------------------------------


async def test_a_platform_that_loses_notifications(tmp_path: Path) -> None:
    """Whoever still talks goes on talking, and is reported in the end all the same."""
    lost = Faults(drop_notification=True)
    rules = [
        Rule(out_call_id="live", scenario=Scenario.endless()),
        Rule(out_call_id="talked", scenario=Scenario.for_reason(Reason.HANG_UP), faults=lost),
        Rule(out_call_id="busy", scenario=Scenario.for_reason(Reason.CALLEE_BUSY), faults=lost),
        Rule(out_call_id="told", scenario=Scenario.for_reason(Reason.HANG_UP)),
    ]
    sandbox = Sandbox(Credentials(APP_ID, SECRET), clock=VirtualClock(), rules=rules)
    async with sandbox, watched(tmp_path, sandbox.base_url) as there:
        sandbox.callback_url = there.server.url
        ids = {
            name: (await there.client.call(*NUMBERS, out_call_id=name)).call_id
            for name in ("live", "talked", "busy", "told")
        }
        await sandbox.advance(minutes=10)
        make_overdue(tmp_path)
        states = {"live": "missing", "talked": "inferred", "busy": "missing", "told": "ended"}
        await until(lambda: states_in(tmp_path) == states)
        await until(lambda: len(there.seen.all) == 4)
        assert {one.endpoint for one in sandbox.received} == {"call", "record"}
        await there.client.end_call(ids["live"])  # as an agent does: it was live until here
        await until(lambda: len(there.seen.all) == 5)
        event = await there.server.wait_for(ids["live"], timeout=30)
        assert (event.reason, event.out_call_id) == (Reason.HANG_UP, "live")
    assert sorted(there.told) == sorted(
        [("missing", ids[name]) for name in ("live", "talked", "busy")]
        + [("ended", ids[name]) for name in ("live", "told")]
    )
