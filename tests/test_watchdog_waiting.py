"""`wait_for` a call that the watchdog gives up."""

from __future__ import annotations

import asyncio
import pickle
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, post_to, until, url_in
from faulty_platform import FaultyPlatform, close_after_reading
from ledger_support import NUMBERS
from watchdog_support import RECORDED, SILENT, hurry_watchdog, make_overdue, watched

from qmc_async import (
    CallbackServer,
    CallOutcomeUnknown,
    CallState,
    Disconnected,
    NotificationMissing,
    QmcError,
)
from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from qmc_async.callback.waiting import Waiting

WAYS: list[dict[str, Any]] = [{"call": "4711"}, {"out_call_id": "order-1"}]
by_either_id = pytest.mark.parametrize("way", WAYS, ids=["call_id", "out_call_id"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_watchdog(monkeypatch)


async def _is_missing(waiting: Awaitable[Disconnected]) -> NotificationMissing:
    with pytest.raises(NotificationMissing) as caught:
        await waiting
    assert (caught.value.out_call_id, caught.value.__cause__) == ("order-1", None)
    return caught.value


@by_either_id
@pytest.mark.parametrize("outcome", ["inferred", "missing"])
async def test_who_waits(tmp_path: Path, way: dict[str, Any], outcome: str) -> None:
    """Whoever waits when it is given up, and whoever asks after, is told at once, and why."""
    behaviour = RECORDED if outcome == "inferred" else SILENT
    async with FaultyPlatform(behaviour) as platform, watched(tmp_path, platform.url) as there:
        await there.place()
        waiting = [
            asyncio.ensure_future(there.server.wait_for(**way, timeout=600)) for _ in range(3)
        ]
        other = asyncio.ensure_future(there.server.wait_for("4712", timeout=600))
        await asyncio.sleep(0.05)
        make_overdue(tmp_path)
        errors = [await _is_missing(one) for one in waiting]
        errors += [
            await _is_missing(there.server.wait_for(**way, timeout=patience))
            for patience in (0, 600)
        ]
        assert not other.done()
        await post_to(there.server, body_of("4712"))
        assert (await other).call_id == "4712"
    for error in errors:
        assert isinstance(error, QmcError)
        assert (error.call_id, error.outcome) == ("4711", outcome)
        assert str(error).startswith("the call order-1, placed at 20")
        assert ("has a recording" in str(error)) is (outcome == "inferred")
    copy = pickle.loads(pickle.dumps(errors[0]))  # noqa: S301 - our own
    assert (str(copy), copy.call_id, copy.out_call_id, copy.outcome) == (
        *(str(errors[0]), "4711", "order-1", outcome),
    )


@by_either_id
async def test_who_waits_elsewhere(tmp_path: Path, way: dict[str, Any]) -> None:
    """On another server of the same store, which has no client, before and after."""
    other = CallbackServer(port=0, store=Store(url_in(tmp_path), patience=30), shutdown_timeout=0.2)
    async with (
        FaultyPlatform(SILENT) as platform,
        watched(tmp_path, platform.url) as there,
        other,
    ):
        await there.place()
        waiting = asyncio.ensure_future(other.wait_for(**way, timeout=600))
        await asyncio.sleep(0.05)
        make_overdue(tmp_path)
        await _is_missing(waiting)
        for patience in (0, 600):
            await _is_missing(other.wait_for(**way, timeout=patience))
        await post_to(other, body_of("4711", outCallId="order-1"))
        for server in (there.server, other):
            assert (await server.wait_for(**way, timeout=600)).call_id == "4711"


async def test_after_a_restart(tmp_path: Path) -> None:
    """What an earlier process has given up is known to the next."""
    async with FaultyPlatform(SILENT) as platform:
        async with watched(tmp_path, platform.url) as there:
            await there.overdue()
            await until(lambda: there.seen.all)
        async with CallbackServer(port=0, store=url_in(tmp_path)) as server:
            for way in WAYS:
                await _is_missing(server.wait_for(**way, timeout=600))


async def test_a_call_outcome_unknown(tmp_path: Path) -> None:
    """`wait_for(out_call_id=...)` is how one asks what became of it: it will not be known."""
    async with (
        FaultyPlatform(close_after_reading) as platform,
        watched(tmp_path, platform.url, missing_after=0.05) as there,
    ):
        with pytest.raises(CallOutcomeUnknown) as caught:
            await there.client.call(*NUMBERS, out_call_id="order-1")
        ours = caught.value.out_call_id
        error = await _is_missing(there.server.wait_for(out_call_id=ours, timeout=600))
        assert (error.call_id, error.outcome) == (None, "missing")
        await post_to(there.server, body_of("4711", outCallId="order-1"))
        assert (await there.server.wait_for(out_call_id=ours, timeout=600)).call_id == "4711"


async def test_a_strange_id(tmp_path: Path) -> None:
    """An id that the database keeps under another key wakes who waits for it all the same."""
    async with FaultyPlatform(SILENT) as platform, watched(tmp_path, platform.url) as there:
        await there.place("call~1", "order~1")
        waiting = [
            asyncio.ensure_future(there.server.wait_for(**way, timeout=600))
            for way in ({"call": "call~1"}, {"out_call_id": "order~1"})
        ]
        await asyncio.sleep(0.05)
        make_overdue(tmp_path)
        for one in waiting:
            with pytest.raises(NotificationMissing, match="the call order~1"):
                await one
        assert [event.call_id for _, event in there.seen.all] in ([], ["call~1"])


async def test_an_id_that_was_used_again(tmp_path: Path) -> None:
    """Of two calls under one id, the one that was reported is what is waited for."""
    async with FaultyPlatform(SILENT) as platform, watched(tmp_path, platform.url) as there:
        await there.place("1")
        await there.place("2", again=True)
        await post_to(there.server, body_of("2", outCallId="order-1"))
        make_overdue(tmp_path)
        await until(lambda: len(there.seen.all) == 2)
        assert sorted(there.told) == [("ended", "2"), ("missing", "1")]
        error = await _is_missing(there.server.wait_for("1", timeout=600))
        assert error.outcome == CallState.MISSING
        event = await there.server.wait_for(out_call_id="order-1", timeout=600)
        assert event.call_id == "2"


@pytest.mark.parametrize("end", ["timeout", "cancel", "stop"])
async def test_who_has_left(tmp_path: Path, end: str) -> None:
    """Whoever no longer waits is told nothing, and nothing complains that nobody listens."""
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
    async with FaultyPlatform(SILENT) as platform, watched(tmp_path, platform.url) as there:
        await there.place()
        patience = 0.01 if end == "timeout" else 600
        waiting = asyncio.ensure_future(there.server.wait_for("4711", timeout=patience))
        await asyncio.sleep(0.05)
        if end == "cancel":
            waiting.cancel()
        make_overdue(tmp_path)
        if end == "stop":
            await there.server.stop()
        else:
            await until(lambda: there.seen.all)
        await asyncio.wait({waiting})
        assert waiting.cancelled() or isinstance(
            waiting.exception(), TimeoutError | RuntimeError | NotificationMissing
        )
    del waiting
    assert not problems


async def test_who_is_just_leaving(tmp_path: Path) -> None:
    """What comes in the moment in which somebody gives up wakes the others, and harms nobody."""
    async with FaultyPlatform(SILENT) as platform, watched(tmp_path, platform.url) as there:
        leaving, staying = [
            asyncio.ensure_future(there.server.wait_for("4711", timeout=600)) for _ in range(2)
        ]
        await asyncio.sleep(0.05)
        leaving.cancel()
        waiting: Waiting = vars(there.server)["_waiting"]
        waiting.wake(Disconnected(call_id="4711", end_time=datetime.now(UTC)))
        assert (await staying).call_id == "4711"
        with pytest.raises(asyncio.CancelledError):
            await leaving
