"""Each handler on its own: what one does or fails to do is nothing to the others."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import (
    LATER,
    SOON,
    SUCCESS,
    Seen,
    SettlingStore,
    Store,
    body_of,
    deliveries_in,
    held_in,
    hurry,
    make_due,
    messages,
    post_to,
    running_in,
    select_in,
    until,
    url_in,
)

from qmc_async import CallbackServer, Delivery, Disconnected, Retry, StoreError
from qmc_async.store.deliveries import settle
from qmc_async.store.records import Receipt, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qmc_async.store.group_commit import Job
    from qmc_async.store.records import Outcome, Poll, Polled


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def _is_settled(folder: Path) -> Callable[[], bool]:
    """Whether the file has no delivery that is still to be done."""
    pending = "SELECT count(*) FROM qmc_deliveries WHERE state = 'pending'"
    return lambda: select_in(folder, pending) == [(0,)]


async def test_nobody_listens(tmp_path: Path) -> None:
    """An event that no handler wants is kept all the same, and there is nothing left to do."""
    async with CallbackServer(port=0, store=url_in(tmp_path)) as server:
        assert (await post_to(server, body_of())).body == SUCCESS
    assert select_in(tmp_path, "SELECT event_id, routed FROM qmc_events") == [("4711", 1)]
    assert deliveries_in(tmp_path) == {}


async def test_a_hundred_handlers(tmp_path: Path) -> None:
    """All handlers of an event run, once each, and are written down as done."""
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    names = {str(number) for number in range(100)}
    for name in names:
        server.on_disconnected(name=name)(seen.handler(name))
    async with server:
        await post_to(server, body_of())
        await until(_is_settled(tmp_path))
    assert sorted(seen.names) == sorted(names)
    assert deliveries_in(tmp_path) == dict.fromkeys(names, ("done", 0, None))


async def test_handlers_do_not_wait_for_each_other() -> None:
    """All handlers of one event, and those of several events, run at the same time."""
    server = CallbackServer(port=0)
    meeting = asyncio.Barrier(6)
    met: list[str] = []

    async def meet(event: Disconnected) -> None:
        await meeting.wait()
        met.append(event.call_id)

    for name in ("a", "b", "c"):
        server.on_disconnected(name=name)(meet)
    async with server:
        await post_to(server, body_of("1"))
        await post_to(server, body_of("2"))
        await until(lambda: len(met) == 6)


class GivingUp(BaseException):
    """More than a failure, less than what ends the event loop."""


class Mute(Exception):  # noqa: N818 - it says nothing
    """An exception that cannot even be shown."""

    def __str__(self) -> str:
        raise KeyError("and neither can this one")


FAILURES = [
    ValueError("no"),
    TimeoutError(),
    KeyError(1),
    ExceptionGroup("two", [OSError()]),
    MemoryError(),
    asyncio.CancelledError(),
    SystemExit(3),
    GivingUp("all of it"),
    OSError(2, "no such file", "\udcff"),
    Mute(),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_a_failing_handler(
    failure: BaseException, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again, whatever it raised; its siblings neither stop nor run again."""
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="before")(seen.handler("before"))
    server.on_disconnected(name="failing", retry=SOON)(seen.handler("failing", failure))
    server.on_disconnected(name="after")(seen.handler("after"))
    async with server:
        await post_to(server, body_of())
        await until(lambda: len(seen.all) >= 4)
        await until(_is_settled(tmp_path))
        await post_to(server, body_of("4712"))
        await until(lambda: len(seen.all) >= 7)
    assert sorted(seen.names) == ["after"] * 2 + ["before"] * 2 + ["failing"] * 3
    of_first = select_in(tmp_path, "SELECT handler, state, attempts FROM qmc_deliveries LIMIT 3")
    assert of_first == [("after", "done", 0), ("before", "done", 0), ("failing", "done", 1)]
    [message] = messages(caplog, logging.WARNING)
    assert "failing" in message
    assert "4711" in message
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [failure]


async def test_what_failed_before_a_restart(tmp_path: Path) -> None:
    """After a restart who is done does not run again, and who is not does."""
    before, after = Seen(), Seen()
    for seen, failures in ((before, [ValueError()]), (after, [])):
        server = CallbackServer(port=0, store=url_in(tmp_path))
        server.on_disconnected(name="good")(seen.handler("good"))
        server.on_disconnected(name="bad", retry=LATER)(seen.handler("bad", *failures))
        async with server:
            if seen is before:
                await post_to(server, body_of())
                await until(lambda: deliveries_in(tmp_path).get("good") == ("done", 0, None))
                await until(lambda: deliveries_in(tmp_path)["bad"] == ("pending", 1, None))
                make_due(tmp_path)
            else:
                await until(_is_settled(tmp_path))
    assert sorted(before.names) == ["bad", "good"] or sorted(before.names) == ["bad", "bad", "good"]
    assert "good" not in after.names
    assert deliveries_in(tmp_path) == {"good": ("done", 0, None), "bad": ("done", 1, None)}


async def test_a_handler_that_came_later(tmp_path: Path) -> None:
    """A handler that is new gets what comes from now on, not what came before it was there."""
    seen = Seen()
    for call_id, names in (("1", ["old"]), ("2", ["old", "new"])):
        server = CallbackServer(port=0, store=url_in(tmp_path))
        for name in names:
            server.on_disconnected(name=name)(seen.handler(name))
        async with server:
            await post_to(server, body_of(call_id))
            await until(_is_settled(tmp_path))
    got = sorted((name, event.call_id) for name, event in seen.all)
    assert got == [("new", "2"), ("old", "1"), ("old", "2")]


async def test_a_handler_that_is_gone(tmp_path: Path) -> None:
    """What a handler has not done waits for it while it is not there."""
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="a", retry=LATER)(seen.handler("a", ValueError()))
    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path) == {"a": ("pending", 1, None)})
    make_due(tmp_path)
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="b")(seen.handler("b"))
    async with server:
        await post_to(server, body_of("4712"))
        await until(lambda: "b" in seen.names)
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="a")(seen.handler("a"))
    async with server:
        await until(_is_settled(tmp_path))
    assert [(name, event.call_id) for name, event in seen.all] == [
        ("a", "4711"),
        ("b", "4712"),
        ("a", "4711"),
    ]


def test_an_interrupt_ends_the_program(tmp_path: Path) -> None:
    """Who presses Ctrl-C means the program: the handler has not failed, and gets it again."""

    async def main() -> None:
        server = CallbackServer(port=0, store=url_in(tmp_path))

        @server.on_disconnected(name="a", retry=Retry(attempts=1))
        async def interrupt(_: Disconnected) -> None:
            raise KeyboardInterrupt

        async with server:
            posting = asyncio.ensure_future(post_to(server, body_of()))
            await asyncio.sleep(30)
            await posting

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert deliveries_in(tmp_path) == {"a": ("pending", 0, None)}


async def test_what_a_handler_says_is_kept_without_numbers(tmp_path: Path) -> None:
    """The error in the store is short, has no telephone number, and any character may be in it."""
    failures = [ValueError("13912345678 " + "x" * 5000), ValueError("\udcff"), Mute()]
    seen = Seen()
    for number, failure in enumerate(failures):
        server = CallbackServer(port=0, store=url_in(tmp_path))
        server.on_disconnected(name="a", retry=LATER)(seen.handler("a", failure))
        async with server:
            await post_to(server, body_of(str(number)))
            await until(lambda: deliveries_in(tmp_path)["a"] == ("pending", 1, None))
    errors = [error for (error,) in select_in(tmp_path, "SELECT error FROM qmc_deliveries")]
    assert "13912345678" not in errors[0]
    assert len(errors[0]) <= 2000
    assert errors[1:] == ["ValueError: \\udcff", "Mute"]


async def test_a_running_handler_is_not_collected_as_garbage() -> None:
    """The event loop holds its tasks weakly: somebody else holds those that run."""
    server = CallbackServer(port=0)
    begun, ended = asyncio.Event(), asyncio.Event()

    @server.on_disconnected
    async def wait(_: Disconnected) -> None:
        begun.set()
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.1, future.set_result, None)
        await future
        ended.set()

    async with server:
        await post_to(server, body_of())
        await begun.wait()
        gc.collect()
        async with asyncio.timeout(5):
            await ended.wait()


# --- a store that fails ------------------------------------------------------------------------


class Failing(SettlingStore, Store):
    """A store whose own mistakes come as often as told."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)
        self.settled: list[Outcome] = []

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    async def settle(self, outcome: Outcome) -> bool:
        """Write it down, or fail."""
        self._fail()
        self.settled.append(outcome)
        return await super().settle(outcome)


async def test_an_outcome_that_cannot_be_written_down_yet() -> None:
    """It is tried until it can; the handler is not run again for it."""
    store = Failing(StoreError("away"), StoreError("away"))
    seen = Seen()
    server = CallbackServer(port=0, store=store)
    server.on_disconnected(name="a")(seen.handler("a"))
    async with server:
        await post_to(server, body_of())
        await until(lambda: store.settled)
        await until(lambda: not running_in(server))
        assert await store.count_pending() == 0
    assert seen.names == ["a"]


async def test_an_outcome_that_can_never_be_written_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is given up and logged; what the store refuses blocks nothing else."""
    store = Failing(StoreError("never", temporary=False))
    seen = Seen()
    server = CallbackServer(port=0, store=store)
    server.on_disconnected(name="a")(seen.handler("a"))
    async with server:
        await post_to(server, body_of())
        await post_to(server, body_of("4712"))
        await until(lambda: len(seen.all) == 2)
        await until(lambda: len(store.settled) == 1)
        await until(lambda: not running_in(server))
        assert await store.count_pending() == 1
    [message] = messages(caplog, logging.ERROR)
    assert "could not be written down (never)" in message
    assert "4711" in message


@pytest.mark.parametrize("failures", [0, 2])
async def test_a_handler_that_is_cancelled_from_outside(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not failed: it gets the event again as the same attempt, once that is written down."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._CANCELLED_DELAY", 0.01)
    store = Failing(*[StoreError("away")] * failures)
    attempts: list[int] = []
    server = CallbackServer(port=0, store=store)

    @server.on_disconnected(retry=Retry(attempts=1))
    async def wait(_: Disconnected, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            await asyncio.Event().wait()

    async with server:
        await post_to(server, body_of())
        await until(lambda: attempts)
        for task in running_in(server):
            assert isinstance(task, asyncio.Task)
            task.cancel()
        await until(lambda: len(attempts) == 2)
        await until(lambda: not running_in(server))
        assert await store.dead_letters() == []
        assert await store.count_pending() == 0
    assert attempts == [1, 1]


async def test_a_handler_that_is_cancelled_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the event all the same: the lease of a run that never was is given back."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._CANCELLED_DELAY", 0.01)
    seen = Seen()
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="a")(seen.handler("a"))
    create_task = asyncio.create_task
    cancelled: list[str] = []

    def create(work: Any, *, name: str | None = None) -> asyncio.Task[Any]:  # noqa: ANN401 - as asyncio's
        task = create_task(work, name=name)
        if name == "qmc handler a" and not cancelled:
            cancelled.append(name)
            task.cancel()
        return task

    monkeypatch.setattr(asyncio, "create_task", create)
    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path) == {"a": ("done", 0, None)})
    assert cancelled
    assert seen.attempts == [1]


async def test_handlers_that_cancel_themselves_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have done their work, however many they are: it is written down, and others go on."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._UNSETTLED", 2)
    server = CallbackServer(port=0, store=url_in(tmp_path))
    runs: list[str] = []

    @server.on_disconnected(name="a")
    async def cancel(event: Disconnected) -> None:
        runs.append(event.call_id)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async with server:
        for number in range(6):
            await post_to(server, body_of(str(number)))
        await until(lambda: len(runs) >= 6)
        await until(_is_settled(tmp_path))
    assert sorted(runs) == [str(number) for number in range(6)]


def test_a_loop_that_ended_before_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a handler had made of an event is written down by the next start, on another loop."""
    monkeypatch.setattr("qmc_async.store.store._LONGEST_CLOSE", 0.05)
    monkeypatch.setattr("qmc_async.callback.dispatcher._UNWINDING", 0.05)
    hangs = threading.Event()
    seen = Seen()
    store = Store(url_in(tmp_path))
    server = CallbackServer(port=0, store=store, shutdown_timeout=0.05)
    server.on_disconnected(name="a")(seen.handler("a"))

    async def first() -> None:
        async with server:
            rows: Any = vars(store)["_rows"]
            commit = rows._commit

            def hang(jobs: Sequence[Job]) -> None:
                if any(job.operation is settle for job in jobs):
                    hangs.wait(60)
                    raise OSError
                commit(jobs)

            rows._commit = hang
            await post_to(server, body_of())
            await until(lambda: seen.all)

    async def second() -> None:
        async with server:
            await until(lambda: deliveries_in(tmp_path) == {"a": ("done", 0, None)})
            await until(lambda: not held_in(server))
            dispatcher: Any = vars(server)["_dispatcher"]
            assert not dispatcher._writing
            assert dispatcher._settling["a"] == 0

    try:
        asyncio.run(first())
        asyncio.run(second())
    finally:
        hangs.set()
    assert seen.names == ["a"]


async def test_a_slot_that_was_booked_before_the_last_start(tmp_path: Path) -> None:
    """A start forgets it: whoever gives it back after that changes nothing."""
    server = CallbackServer(port=0, store=url_in(tmp_path))
    server.on_disconnected(name="a")(Seen().handler("a"))
    dispatcher: Any = vars(server)["_dispatcher"]
    async with server:
        put = dispatcher.prepare(Receipt.read(body_of()))
        assert dispatcher._booked["a"] == 1
    async with server:
        dispatcher.cancel(put)
        assert dispatcher._booked["a"] == 0


class Unanswering(Store):
    """A store that writes nothing down, and tells nobody, until it is told to."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.held: list[Callable[[bool | BaseException], None]] = []
        self.holds = True

    def begin_to_settle(
        self, outcome: Outcome, then: Callable[[bool | BaseException], None]
    ) -> None:
        """Hold it, or write it down."""
        if self.holds:
            self.held.append(then)
        else:
            super().begin_to_settle(outcome, then)


async def test_an_answer_from_before_the_last_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start has written the outcome down anew: what comes then of the first time is nothing."""
    monkeypatch.setattr("qmc_async.callback.dispatcher._UNWINDING", 0.05)
    store = Unanswering(url_in(tmp_path))
    seen = Seen()
    server = CallbackServer(port=0, store=store, shutdown_timeout=0.05)
    server.on_disconnected(name="a")(seen.handler("a"))
    dispatcher: Any = vars(server)["_dispatcher"]
    async with server:
        await post_to(server, body_of())
        await until(lambda: store.held)
    store.holds = False
    async with server:
        await until(_is_settled(tmp_path))
        await until(lambda: not held_in(server))
        for then in store.held:
            then(True)  # noqa: FBT003 - as the store tells it
        assert dispatcher._settling["a"] == 0
    assert seen.names == ["a"]


class Unreleasing(SettlingStore, Store):
    """A store that never takes back what was not handled."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    async def settle(self, outcome: Outcome) -> bool:
        """Write it down, unless it is a release."""
        if outcome.state is State.PENDING:
            self.refused += 1
            raise StoreError("never", temporary=False)
        return await super().settle(outcome)


async def test_a_release_that_can_never_be_written_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the store refuses to take back is logged, and blocks nothing else."""
    store = Unreleasing()
    seen = Seen()
    begun = asyncio.Event()
    server = CallbackServer(port=0, store=store)

    @server.on_disconnected(name="a", where=lambda event: event.call_id == "1")
    async def wait(_: Disconnected) -> None:
        begun.set()
        await asyncio.Event().wait()

    server.on_disconnected(name="b", retry=SOON)(seen.handler("b"))
    async with server:
        await post_to(server, body_of("1"))
        await begun.wait()
        for task in running_in(server):
            assert isinstance(task, asyncio.Task)
            task.cancel()
        await until(lambda: store.refused)
        await post_to(server, body_of("2"))
        await until(lambda: len(seen.all) == 2)
        await until(lambda: messages(caplog, logging.ERROR))
    assert store.refused == 1
    assert all("never" in text for text in messages(caplog, logging.ERROR))


class Unreadable(Store):
    """A store that cannot be looked through, as often as told."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)

    async def poll(self, poll: Poll) -> Polled:
        """Fail, or look."""
        if self.failures:
            raise self.failures.pop(0)
        return await super().poll(poll)


@pytest.mark.parametrize("failure", [StoreError("away"), OSError("a mistake")])
async def test_looking_goes_on(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong with the store, it is looked through again; a mistake is logged."""
    store = Unreadable(*[failure] * 3)
    seen = Seen()
    server = CallbackServer(port=0, store=store)
    server.on_disconnected(name="a", retry=SOON)(seen.handler("a", ValueError()))
    async with server:
        await post_to(server, body_of())
        await until(lambda: len(seen.all) == 2)
    assert not store.failures
    assert len(messages(caplog, logging.ERROR)) == (0 if isinstance(failure, StoreError) else 3)


@pytest.mark.parametrize("failures", [[], [ValueError()], [SystemExit()]])
async def test_what_could_not_be_kept_is_handled_once(failures: list[BaseException]) -> None:
    """Nobody knows of it later: every handler gets it once, from memory, done or not."""
    store = Store()
    store.failure = StoreError("away")
    seen = Seen()
    server = CallbackServer(port=0, store=store)
    server.on_disconnected(name="a", retry=SOON)(seen.handler("a", *failures))
    server.on_disconnected(name="b")(seen.handler("b"))
    async with server:
        assert (await post_to(server, body_of())).status == 500
        await until(lambda: len(seen.all) == 2)
        store.failure = None
        await post_to(server, body_of("4712"))
        await until(lambda: len(seen.all) == 4)
        await until(lambda: not running_in(server))
        assert await store.count_pending() == 0
    assert sorted(seen.names) == ["a", "a", "b", "b"]
    assert seen.attempts == [1] * 4
    assert all(isinstance(delivery, Delivery) for delivery in seen.deliveries)
