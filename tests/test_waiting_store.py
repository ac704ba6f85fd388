"""`wait_for` on what the store has: after a restart, from another process, and for very many."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import alone, body_of, hurry, messages, until, url_in
from sqlalchemy import Engine, event
from store_support import store_in

from qmc_async import CallbackServer, Disconnected, StoreError
from qmc_async.store import Store
from qmc_async.store.records import Put, Receipt

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping
    from pathlib import Path

    from qmc_async.models import Overdue

WAYS: list[dict[str, Any]] = [{"call": "4711"}, {"out_call_id": "order-42"}]
BODY = body_of(outCallId="order-42")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def _keep(store: Store, *bodies: bytes) -> None:
    """Put notifications into a store as a server does."""

    def late(_: object) -> None:
        raise AssertionError

    await asyncio.gather(*(store.keep(Put(Receipt.read(body), {}, ""), late) for body in bodies))


@pytest.mark.parametrize("way", WAYS, ids=["call_id", "out_call_id"])
@pytest.mark.parametrize("patience", [0, 30])
async def test_after_a_restart(tmp_path: Path, way: dict[str, Any], patience: float) -> None:
    """What an earlier process was told is known to the next, also to who has no time to wait."""
    async with alone(store=url_in(tmp_path)) as there:
        await there.post(BODY)
    async with CallbackServer(port=0, store=url_in(tmp_path)) as server:
        assert (await server.wait_for(**way, timeout=patience)).call_id == "4711"


@pytest.mark.parametrize("way", WAYS, ids=["call_id", "out_call_id"])
async def test_another_server_on_the_same_file(tmp_path: Path, way: dict[str, Any]) -> None:
    """What another server of the file is told wakes who waits here, before and after."""
    url = url_in(tmp_path)
    async with alone(store=url) as other, CallbackServer(port=0, store=url) as server:
        waiting = asyncio.ensure_future(server.wait_for(**way, timeout=30))
        await asyncio.sleep(0.05)
        await other.post(body_of("4710", outCallId="order-41"))
        await other.post(BODY)
        assert (await waiting).call_id == "4711"
        assert (await server.wait_for(**way, timeout=30)).call_id == "4711"


async def test_who_begins_to_wait_later_hears_too(tmp_path: Path) -> None:
    """What came while nobody waited, or while somebody else did, is found by who waits next."""
    url = url_in(tmp_path)
    async with alone(store=url) as other, CallbackServer(port=0, store=url) as server:
        await other.post(body_of("1"))
        assert (await server.wait_for("1", timeout=30)).call_id == "1"
        await other.post(body_of("2"))
        patient = asyncio.ensure_future(server.wait_for("3", timeout=30))
        assert (await server.wait_for("2", timeout=30)).call_id == "2"
        await other.post(body_of("3"))
        assert (await patient).call_id == "3"


PROGRAM = """
import asyncio, sys
from qmc_async.store import Store
from qmc_async.store.records import Put, Receipt

async def main():
    async with Store(sys.argv[1], patience=30) as store:
        await store.keep(Put(Receipt.read(sys.argv[2].encode()), None, ""), print)

asyncio.run(main())
"""


async def test_another_process(tmp_path: Path) -> None:
    """What another process keeps wakes who waits here."""
    url = url_in(tmp_path)
    async with CallbackServer(port=0, store=url) as server:
        waiting = asyncio.ensure_future(server.wait_for("4711", timeout=50))
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "error", "-c", PROGRAM, url, BODY.decode()],
            check=True,
            capture_output=True,
            timeout=40,
        )
        assert done.stderr == b""
        assert (await waiting).out_call_id == "order-42"


class Failing(Store):
    """A store that cannot be asked, when told so."""

    def __init__(self, url: str = "sqlite://") -> None:
        super().__init__(url)
        self.failure: Exception | None = None
        self.asked = 0

    def _fail(self) -> None:
        self.asked += 1
        if self.failure is not None:
            raise self.failure

    async def changes(self) -> object:
        """Fail."""
        self._fail()
        return await super().changes()

    async def find(
        self, call_ids: Collection[str] = (), out_call_ids: Collection[str] = ()
    ) -> tuple[Mapping[str, Disconnected | Overdue], Mapping[str, Disconnected | Overdue]]:
        """Fail."""
        self._fail()
        return await super().find(call_ids, out_call_ids)


@pytest.mark.parametrize("failure", [StoreError("away"), TimeoutError("away"), OSError("away")])
@pytest.mark.parametrize("begun", ["before", "meanwhile"])
async def test_a_store_that_fails_meanwhile(
    failure: Exception, begun: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It delays who waits, and ends nobody's wait; a mistake of the store's is logged."""
    store = Failing(url_in(tmp_path))
    async with CallbackServer(port=0, store=store) as server:
        if begun == "meanwhile":
            store.failure = failure
        waiting = asyncio.ensure_future(server.wait_for("4711", timeout=30))
        await until(lambda: store.asked)
        store.failure = failure
        asked = store.asked
        async with store_in(tmp_path) as another:
            await _keep(another, BODY)
        await until(lambda: store.asked > asked + 3)
        assert not waiting.done()
        store.failure = None
        assert (await waiting).call_id == "4711"
    is_a_mistake = not isinstance(failure, StoreError)
    assert bool(messages(caplog, logging.ERROR)) is is_a_mistake


async def test_who_has_no_time_and_a_store_that_fails() -> None:
    """Who asks with no time to wait is told that nothing came, whatever the store does."""
    store = Failing()
    async with CallbackServer(port=0, store=store) as server:
        store.failure = StoreError("away")
        with pytest.raises(TimeoutError, match="call_id 4711"):
            await server.wait_for("4711", timeout=0)


async def test_a_store_that_fails_is_not_stormed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two failures there is a pause, also for who waits since the store fails."""
    monkeypatch.setattr("qmc_async.callback.waiting._TICK", 0.5)
    store = Failing()
    async with CallbackServer(port=0, store=store) as server:
        store.failure = StoreError("away")
        with pytest.raises(TimeoutError):
            await server.wait_for("4711", timeout=0.2)
        assert 0 < store.asked < 20


@contextmanager
def _statements() -> Generator[list[str]]:
    """What is asked of any database."""
    asked: list[str] = []

    def note(*arguments: Any) -> None:  # noqa: ANN401 - as SQLAlchemy calls it
        asked.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def _look_ups(asked: list[str]) -> int:
    """How many statements were about calls that somebody waits for."""
    return sum(" IN (" in statement for statement in asked)


async def test_ten_thousand_waiters() -> None:
    """They cost as many statements as one: one a tick, and one for each 500 as they begin."""
    ids = [str(number) for number in range(10_000)]
    store = Store("sqlite://", patience=30)
    async with CallbackServer(port=0, store=store) as server:
        with _statements() as asked:
            waiting = [asyncio.ensure_future(server.wait_for(one, timeout=50)) for one in ids]
            await until(lambda: _look_ups(asked) >= 20)
            begun = len(asked)
            await until(lambda: len(asked) > begun + 30)
            assert _look_ups(asked) <= 2 * 20
        await _keep(store, *(body_of(one) for one in ids))
        events = await asyncio.gather(*waiting)
    assert [one.call_id for one in events] == ids
