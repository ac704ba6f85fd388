"""The watchdog and a platform that cannot be asked, does not accept us, or answers too late."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Event
from typing import TYPE_CHECKING

import pytest
from callback_peer import messages, select_in, until, url_in
from faulty_platform import (
    FaultyPlatform,
    always,
    close_after_reading,
    half_a_reply,
    http,
    never_answer,
    once,
    reset_after_reading,
    unreachable,
)
from ledger_support import client_of, place, states_in
from watchdog_support import (
    HOUR,
    KINDS,
    NOT_RECORDED,
    RECORDED,
    SILENT,
    asked,
    calls_in,
    hurry_watchdog,
    make_overdue,
    watched,
)

from qmc_async import CallbackServer, CallState, Signer
from qmc_async.callback import watchdog
from qmc_async.callback.watchdog import Watchdog
from qmc_async.models import Recording
from qmc_async.store import Store
from qmc_async.store.records import LEASE

if TYPE_CHECKING:
    from pathlib import Path

    from faulty_platform import Behaviour

    from qmc_async.callback.watchdog import CallingClient

BROKEN: dict[str, Behaviour] = {
    "closed": close_after_reading,
    "reset": reset_after_reading,
    "half": half_a_reply,
    "nonsense": once(http(b"<html>")),
    "no address": once(http(b'{"code": 200, "data": {}}')),
    "failing": once(http(b"", "500 Oops")),
    "another server": once(http(b"", "404 Not Found")),
    "down": once(http(b"<html>", "502 Bad Gateway")),
    "failing in JSON": once(http(NOT_RECORDED.partition(b"\r\n\r\n")[2], "503 Busy")),
    "silent": never_answer,
}
NO: dict[str, bytes] = {
    "code": NOT_RECORDED,
    "both": http(b'{"code": 500, "msg": "?"}', "400 Bad Request"),
}
UNWANTED: dict[str, bytes] = {
    "not authorized": http(b"", "401 Unauthorized"),
    "forbidden": http(b'{"code": 403, "msg": "white list"}'),
    "too many": http(b'{"code": 429, "msg": "slower"}'),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry_watchdog(monkeypatch)


@pytest.fixture
def _longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait is as long as it can be."""

    def upper(_: float, limit: float) -> float:
        return limit

    monkeypatch.setattr("qmc_async.retry.random.uniform", upper)


def _due_in(folder: Path) -> float:
    """Seconds until the one call that is waiting is looked for again."""
    [(due_at,)] = select_in(folder, "SELECT due_at FROM qmc_calls")
    return float(due_at / 1000 - time.time())


# --- which cannot be asked ---------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
async def test_a_platform_that_fails(
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A call is not missing because the platform is: it is asked again later, and believed then."""
    if name == "silent":
        monkeypatch.setattr("qmc_async.callback.watchdog._LONGEST_LOOK", 0.05)
    async with (
        FaultyPlatform(BROKEN[name], RECORDED) as platform,
        watched(tmp_path, platform.url) as there,
    ):
        await there.overdue()
        await until(lambda: calls_in(tmp_path) == {"order-1": ("placed", 1, True)})
        assert select_in(tmp_path, KINDS) == []
        [warning] = messages(caplog, logging.WARNING)
        assert warning.startswith("the call order-1 is overdue, and the platform cannot be asked")
        make_overdue(tmp_path)
        await until(lambda: there.seen.all)
    assert states_in(tmp_path) == {"order-1": "inferred"}
    assert asked(platform) == [("record", "4711")] * 2


@pytest.mark.parametrize("name", NO)
async def test_a_platform_that_says_no(tmp_path: Path, name: str) -> None:
    """Whatever it answers otherwise but success, there is no recording."""
    async with (
        FaultyPlatform(always(NO[name])) as platform,
        watched(tmp_path, platform.url) as there,
    ):
        await there.overdue()
        await until(lambda: there.seen.all)
    assert states_in(tmp_path) == {"order-1": "missing"}


async def test_a_platform_that_cannot_be_reached(tmp_path: Path) -> None:
    """So too where nobody listens at its address."""
    async with unreachable() as url, watched(tmp_path, url) as there:
        await there.overdue()
        await until(lambda: calls_in(tmp_path) == {"order-1": ("placed", 1, True)})
    assert select_in(tmp_path, KINDS) == []


@pytest.mark.usefixtures("_longest_waits")
@pytest.mark.parametrize(("looks", "limit"), [(0, 60), (1, 120), (4, 960), (5, 1800), (900, 1800)])
async def test_the_wait_for_the_next_look(tmp_path: Path, looks: int, limit: float) -> None:
    """Its limit doubles from a minute to half an hour."""
    async with unreachable() as url, watched(tmp_path, url) as there:
        await there.place()
        select_in(tmp_path, "UPDATE qmc_calls SET looks = ?", looks)
        make_overdue(tmp_path)
        await until(lambda: calls_in(tmp_path)["order-1"][1] == looks + 1)
    assert limit - 20 < _due_in(tmp_path) <= limit


async def test_the_wait_is_jittered(tmp_path: Path) -> None:
    """Calls that could not be looked for together are not looked for together again."""
    async with unreachable() as url, watched(tmp_path, url) as there:
        for number in range(20):
            await there.place(str(number), f"order-{number}")
        make_overdue(tmp_path)
        await until(lambda: {looks for _, looks, _ in calls_in(tmp_path).values()} == {1})
        rows = select_in(tmp_path, "SELECT due_at FROM qmc_calls")
    assert len(set(rows)) > 10


async def test_after_three_days(tmp_path: Path) -> None:
    """The platform has deleted every recording: the call is missing, and nobody is asked."""
    async with FaultyPlatform(RECORDED) as platform, watched(tmp_path, platform.url) as there:
        for number, days in ((1, 2.99), (2, 3.01)):
            await there.place(str(number), f"order-{number}")
            select_in(
                tmp_path,
                "UPDATE qmc_calls SET placed_at = placed_at - ? WHERE out_call_id = ?",
                int(days * 24 * HOUR),
                f"order-{number}",
            )
        make_overdue(tmp_path)
        await until(lambda: len(there.seen.all) == 2)
    assert states_in(tmp_path) == {"order-1": "inferred", "order-2": "missing"}
    assert asked(platform) == [("record", "1")]


# --- which does not accept us ------------------------------------------------------------------


@pytest.mark.parametrize("name", UNWANTED)
async def test_a_platform_that_does_not_accept_us(tmp_path: Path, name: str) -> None:
    """It is asked once, about one of many calls, and left alone; none of them is missing."""
    async with (
        FaultyPlatform(always(UNWANTED[name])) as platform,
        watched(tmp_path, platform.url) as there,
    ):
        for number in range(50):
            await there.place(str(number), f"order-{number}")
        make_overdue(tmp_path)
        await until(lambda: sum(looks for _, looks, _ in calls_in(tmp_path).values()) == 32)
        make_overdue(tmp_path)
        await asyncio.sleep(0.2)
        assert len(platform.seen) == 1
    assert set(states_in(tmp_path).values()) == {"placed"}
    assert select_in(tmp_path, KINDS) == []


@pytest.mark.parametrize(
    ("header", "left_alone", "longest"),
    [("", 0.05, 1800), ("Retry-After: 1\r\n", 3600, 1800), ("Retry-After: 86400\r\n", 3600, 0.05)],
    ids=["by default", "as it says", "not for ever"],
)
async def test_how_long_it_is_left_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    header: str,
    left_alone: float,
    longest: float,
) -> None:
    """As long as it says, within bounds; then it is asked again, and the call is settled."""
    monkeypatch.setattr("qmc_async.callback.watchdog._LEFT_ALONE", left_alone)
    monkeypatch.setattr("qmc_async.callback.watchdog._LONGEST_DELAY", longest)
    refusal = once(http(b"", "429 Too Many Requests", header))
    async with (
        FaultyPlatform(refusal, RECORDED) as platform,
        watched(tmp_path, platform.url) as there,
    ):
        await there.overdue()
        await until(lambda: calls_in(tmp_path)["order-1"][1])
        make_overdue(tmp_path)
        await until(lambda: there.seen.all)
    assert states_in(tmp_path) == {"order-1": "inferred"}
    assert len(platform.seen) == 2


async def test_a_server_that_starts_again_asks_again(tmp_path: Path) -> None:
    """Whoever has mended the secret need not wait until the platform is no longer left alone."""
    async with (
        FaultyPlatform(once(UNWANTED["not authorized"]), RECORDED) as platform,
        watched(tmp_path, platform.url) as there,
    ):
        await there.overdue()
        await until(lambda: calls_in(tmp_path)["order-1"][1])
        make_overdue(tmp_path)
        await there.server.stop()
        await there.server.start()
        await until(lambda: there.seen.all)
    assert states_in(tmp_path) == {"order-1": "inferred"}


# --- clients -----------------------------------------------------------------------------------


async def test_a_client_that_is_closed(tmp_path: Path) -> None:
    """It cannot ask, so the call waits for a server whose client can."""
    async with FaultyPlatform(RECORDED) as platform, watched(tmp_path, platform.url) as there:
        await there.place()
        await there.client.aclose()
        make_overdue(tmp_path)
        await until(lambda: calls_in(tmp_path) == {"order-1": ("placed", 1, True)})
    assert not platform.seen


class Odd:
    """A client of somebody's own, which fails at first in a way that nobody has foreseen."""

    def __init__(self, signer: Signer, store: Store) -> None:
        self.signer = signer
        self.store = store
        self.failures = 1

    async def recording(self, call: str, /) -> Recording:
        """Find one, but not at once."""
        if self.failures:
            self.failures -= 1
            raise LookupError("oops")
        return Recording(call_id=call, file_url="http://files.invalid/1.wav")


async def test_a_client_with_a_mistake_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the watchdog goes on: other calls are looked for, and this one again."""
    store = Store(url_in(tmp_path), patience=30)
    client: CallingClient = Odd(client_of("http://unused.invalid", None).signer, store)
    server = CallbackServer(client=client, port=0, shutdown_timeout=0.2)
    assert server.client is client
    async with server:
        await place(store, "1", "order-1", missing_after=HOUR)
        make_overdue(tmp_path)
        await until(lambda: messages(caplog, logging.ERROR))
        assert messages(caplog, logging.ERROR) == ["looking for overdue calls failed"]
        await place(store, "2", "order-2", missing_after=HOUR)
        make_overdue(tmp_path)
        await until(lambda: set(states_in(tmp_path).values()) == {"inferred"})


async def test_a_server_without_a_client_looks_for_nothing(tmp_path: Path) -> None:
    """Nobody is asked, and overdue calls stay for a server that can ask."""
    async with FaultyPlatform(SILENT) as platform:
        store = Store(url_in(tmp_path), patience=30)
        async with CallbackServer(store=store, port=0):
            await place(store, state=CallState.PLACED, missing_after=HOUR)
            make_overdue(tmp_path)
            await asyncio.sleep(0.1)
            assert calls_in(tmp_path) == {"order-1": ("placed", 0, True)}
        async with watched(tmp_path, platform.url) as there:
            await until(lambda: there.seen.all)
    assert states_in(tmp_path) == {"order-1": "missing"}


async def test_one_that_never_looked() -> None:
    """It can be stopped as well, and twice."""
    store = Store("sqlite://")
    one = Watchdog(store, Odd(client_of("http://unused.invalid", None).signer, store), Event().set)
    for _ in range(2):
        await one.stop()
    one.start()
    for _ in range(2):
        await one.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "qmc watchdog"]


def test_the_bounds_are_a_leases() -> None:
    """Two looks, one after the other, are over before the lease of both is."""
    longest: float = vars(watchdog)["_LONGEST_LOOK"]
    assert 2 * longest < LEASE
