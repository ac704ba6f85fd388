"""Handlers: which are taken, which events they get, and that each runs on its own."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from qmc_async import CallbackServer, Disconnected, Reason, UnknownNotification
from qmc_async.callback.dispatcher import Dispatcher, to_reasons

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from qmc_async.models import Notification

END = datetime(2023, 8, 29, 0, 52, 10, tzinfo=UTC)
EVENT = Disconnected(call_id="4711", end_time=END, reason=Reason.HANG_UP)
UNKNOWN = UnknownNotification(status="Ringing", call_id="4712", body=b"{}")


def _event(reason: Reason | str | None) -> Disconnected:
    return Disconnected(call_id="4711", end_time=END, reason=reason)


class Seen:
    """What handlers were called with, each under a name."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Notification]] = []

    def handler(self, name: str) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """A handler that notes what it gets."""

        async def note(event: Notification) -> None:
            self.all.append((name, event))

        return note

    @property
    def names(self) -> list[str]:
        """Who was called, in order."""
        return [name for name, _ in self.all]


async def _handle(dispatcher: Dispatcher, *events: Notification) -> None:
    for event in events:
        dispatcher.dispatch(event)
    await dispatcher.drain(5)


def _register(dispatcher: Dispatcher, run: Any, **options: Any) -> None:  # noqa: ANN401 - callers err
    dispatcher.register(run, Disconnected, **({"name": None} | options))


def _messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


# --- what is a handler -------------------------------------------------------------------------


async def handle(event: Notification) -> None:
    """A handler of this module."""
    del event


class Service:
    """Handlers as objects have them."""

    def __init__(self, seen: list[object]) -> None:
        self._seen = seen

    async def on_end(self, event: Notification) -> None:
        """A bound method."""
        self._seen.append(event)

    async def __call__(self, event: Notification) -> None:
        """The object itself."""
        self._seen.append(event)


async def _with_two(seen: list[object], event: Notification) -> None:
    seen.append(event)


def _partial(seen: list[object]) -> object:
    return functools.partial(_with_two, seen)


def _partial_of_partial(seen: list[object]) -> object:
    return functools.partial(functools.partial(_with_two), seen)


def _partial_of_method(seen: list[object]) -> object:
    return functools.partial(Service(seen).on_end)


def _bound_method(seen: list[object]) -> object:
    return Service(seen).on_end


@pytest.mark.parametrize(
    "make", [_partial, _partial_of_partial, _partial_of_method, _bound_method, Service]
)
async def test_every_kind_of_coroutine_function_is_a_handler(
    make: Callable[[list[object]], object],
) -> None:
    """A partial, a bound method and an object with an async `__call__` are called as they are."""
    seen: list[object] = []
    dispatcher = Dispatcher()
    _register(dispatcher, make(seen))
    await _handle(dispatcher, EVENT)
    assert seen == [EVENT]


def _plain(event: Notification) -> None:
    del event


async def _generator(event: Notification) -> AsyncIterator[Notification]:
    yield event


def _plain_generator(event: Notification) -> Iterator[Notification]:
    yield event


class _Plain:
    def __call__(self, event: Notification) -> None:
        del event


class _Generating:
    async def __call__(self, event: Notification) -> AsyncIterator[Notification]:
        yield event


@pytest.mark.parametrize(
    "handler",
    [
        _plain,
        functools.partial(_plain),
        lambda event: handle(event),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType, reportUnknownVariableType] # noqa: PLW0108 - it returns a coroutine, and is none
        _generator,
        _plain_generator,
        _Plain(),
        _Generating(),
        _Plain,
        Service,
        "HangUp",
        Reason.HANG_UP,
        7,
        staticmethod(_plain),
    ],
    ids=lambda handler: type(handler).__name__,
)
def test_nothing_else_is_a_handler(handler: Any) -> None:  # noqa: ANN401 - callers err
    """A function that cannot be awaited is refused at once, not at the first notification.

    An async generator function and a class with an async `__call__` look like a handler: calling
    them gives nothing to await.
    """
    server = CallbackServer()
    with pytest.raises(TypeError, match="is no coroutine function"):
        server.on_disconnected(handler)
    with pytest.raises(TypeError, match="is no coroutine function"):
        server.on_disconnected(name="x")(handler)
    with pytest.raises(TypeError, match="is no coroutine function"):
        server.on_unknown(handler)


async def test_a_refused_handler_leaves_its_name_free() -> None:
    """A registration that failed has registered nothing."""
    seen = Seen()
    dispatcher = Dispatcher()
    with pytest.raises(TypeError):
        _register(dispatcher, _plain, name="a")
    _register(dispatcher, seen.handler("a"), name="a")
    await _handle(dispatcher, EVENT)
    assert seen.names == ["a"]


# --- decorators --------------------------------------------------------------------------------


def test_the_decorator_returns_the_function_itself() -> None:
    """With and without parentheses, what was decorated can be called and tested as before."""
    server = CallbackServer()
    assert server.on_disconnected(handle) is handle
    assert server.on_disconnected(name="b")(handle) is handle
    assert server.on_disconnected(reason="HangUp", where=bool, name="c")(handle) is handle
    assert server.on_unknown(handle, name="d") is handle  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    assert server.on_unknown(name="e")(handle) is handle


def test_a_function_may_be_registered_twice_under_two_names() -> None:
    """Stacked decorators with names of their own are two handlers."""
    server = CallbackServer()
    server.on_disconnected(name="a")(server.on_disconnected(name="b")(handle))
    with pytest.raises(ValueError, match="'a'"):
        server.on_disconnected(name="a")(handle)


@pytest.mark.parametrize("kind", ["on_disconnected", "on_unknown"])
def test_a_name_is_taken_once(kind: str) -> None:
    """One name is one handler, whatever the event: a second one is refused, and told the name."""
    server = CallbackServer()
    server.on_disconnected(name="log-it")(handle)
    with pytest.raises(ValueError, match=r"'log-it' is registered already"):
        getattr(server, kind)(name="log-it")(Seen().handler("other"))


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (handle, f"{__name__}.handle"),
        (Service([]).on_end, f"{__name__}.Service.on_end"),
        (Service([]), f"{__name__}.Service"),
        (Seen().handler(""), f"{__name__}.Seen.handler.<locals>.note"),
    ],
)
def test_the_default_name_is_the_same_in_every_process(
    handler: Callable[[Any], Any], name: str
) -> None:
    """By default a handler is named by its module and qualified name; twice is an error."""
    server = CallbackServer()
    server.on_disconnected(handler)
    with pytest.raises(ValueError, match="is registered already") as caught:
        server.on_disconnected(handler)
    assert repr(name) in str(caught.value)


def test_two_servers_are_apart() -> None:
    """A name taken on one server is free on another."""
    for _ in range(2):
        CallbackServer().on_disconnected(name="log-it")(handle)


@pytest.mark.parametrize("kind", ["on_disconnected", "on_unknown"])
async def test_too_late(kind: str) -> None:
    """Once the server has started, also after it stopped, a handler is refused: it missed some."""
    server = CallbackServer(port=0)
    async with server:
        with pytest.raises(RuntimeError, match="'late' came too late"):
            getattr(server, kind)(name="late")(handle)
    with pytest.raises(RuntimeError, match="'late' came too late"):
        getattr(server, kind)(name="late")(handle)


# --- filters -----------------------------------------------------------------------------------


def test_reasons() -> None:
    """One reason or several, as `Reason` or as the document writes it; none is no filter."""
    assert to_reasons(None) is None
    assert to_reasons(Reason.HANG_UP) == frozenset({Reason.HANG_UP})
    assert to_reasons("CalleeBusy") == frozenset({Reason.CALLEE_BUSY})
    both = frozenset({Reason.HANG_UP, Reason.CALLEE_BUSY})
    assert to_reasons([Reason.HANG_UP, "CalleeBusy"]) == both
    assert to_reasons({"HangUp", "CalleeBusy"}) == both
    assert to_reasons(reason for reason in ("HangUp", "CalleeBusy", "HangUp")) == both


@pytest.mark.parametrize(
    "reason", ["Hangup", "HANG_UP", "", " HangUp", ["HangUp", "Busy"], [None], [""]]
)
def test_a_reason_that_the_document_does_not_have(reason: Any) -> None:  # noqa: ANN401 - callers err
    """A misspelt reason would never come: it is an error at once, which tells those there are."""
    with pytest.raises(ValueError, match=r"the document has HangUp, CallerBusy, .*Other"):
        CallbackServer().on_disconnected(reason=reason)


@pytest.mark.parametrize("reason", [[], (), frozenset[Reason]()])
def test_no_reason_at_all(reason: Any) -> None:  # noqa: ANN401 - any collection
    """An empty list of reasons would let nothing through: it is an error at once."""
    with pytest.raises(ValueError, match="would never run"):
        CallbackServer().on_disconnected(reason=reason)


@pytest.mark.parametrize("reason", list(Reason))
async def test_reason_filter(reason: Reason) -> None:
    """A handler with a reason gets the events that ended so, and no others."""
    seen = Seen()
    dispatcher = Dispatcher()
    _register(dispatcher, seen.handler("one"), name="1", reasons=to_reasons(reason))
    others = set(Reason) - {reason}
    _register(dispatcher, seen.handler("others"), name="2", reasons=frozenset(others))
    _register(dispatcher, seen.handler("all"), name="3")
    await _handle(dispatcher, _event(reason))
    assert seen.names == ["one", "all"]


@pytest.mark.parametrize("reason", [None, "Vanished", "hangup"])
async def test_reason_filter_without_a_known_reason(reason: str | None) -> None:
    """An event with no reason, or one unknown to the document, goes to who did not filter."""
    seen = Seen()
    dispatcher = Dispatcher()
    _register(dispatcher, seen.handler("filtered"), name="1", reasons=frozenset(Reason))
    _register(dispatcher, seen.handler("all"), name="2")
    await _handle(dispatcher, _event(reason))
    assert seen.names == ["all"]


@pytest.mark.parametrize(
    ("answer", "called"), [(True, True), (False, False), (1, True), ("", False), (None, False)]
)
async def test_where_filter(answer: object, called: bool) -> None:  # noqa: FBT001 - a table
    """A handler with a predicate gets the events for which that returns something true."""
    seen = Seen()
    asked: list[Disconnected] = []

    def where(event: Disconnected) -> object:
        asked.append(event)
        return answer

    dispatcher = Dispatcher()
    _register(dispatcher, seen.handler("a"), where=where)
    await _handle(dispatcher, EVENT)
    assert asked == [EVENT]
    assert bool(seen.all) is called


async def test_where_is_asked_after_reason() -> None:
    """Both filters must let the event through; the predicate sees only those of the reason."""
    seen = Seen()
    asked: list[Disconnected] = []
    dispatcher = Dispatcher()
    _register(
        dispatcher,
        seen.handler("a"),
        reasons=frozenset({Reason.OTHER}),
        where=asked.append,
    )
    await _handle(dispatcher, EVENT)
    assert (asked, seen.all) == ([], [])
    await _handle(dispatcher, _event(Reason.OTHER))
    assert len(asked) == 1
    assert seen.all == []


@pytest.mark.parametrize("where", [handle, functools.partial(handle), "HangUp", 7])
def test_where_is_a_plain_function(where: Any) -> None:  # noqa: ANN401 - callers err
    """A coroutine is always true, so an async predicate would filter nothing: refused at once."""
    with pytest.raises(TypeError, match="where="):
        CallbackServer().on_disconnected(where=where)(handle)


async def test_where_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A failing predicate fails its handler only, and is logged with the call id."""
    seen = Seen()

    def where(_: Disconnected) -> bool:
        raise KeyError("reason")

    dispatcher = Dispatcher()
    _register(dispatcher, seen.handler("filtered"), name="filtered", where=where)
    _register(dispatcher, seen.handler("all"), name="all")
    await _handle(dispatcher, EVENT)
    assert seen.names == ["all"]
    [message] = _messages(caplog, logging.ERROR)
    assert "filtered" in message
    assert "4711" in message


async def test_each_kind_of_event_has_its_handlers() -> None:
    """`on_unknown` gets what is no `Disconnected`, and nothing else; and the other way round."""
    seen = Seen()
    dispatcher = Dispatcher()
    dispatcher.register(seen.handler("unknown"), UnknownNotification, name="1")
    dispatcher.register(seen.handler("ended"), Disconnected, name="2")
    dispatcher.register(seen.handler("ended, filtered"), Disconnected, name="3", where=bool)
    await _handle(dispatcher, UNKNOWN, EVENT)
    assert seen.all == [("unknown", UNKNOWN), ("ended", EVENT), ("ended, filtered", EVENT)]


# --- each on its own ---------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    """An event that no handler wants is no error, and nothing is left to wait for."""
    dispatcher = Dispatcher()
    await _handle(dispatcher, EVENT, UNKNOWN)


async def test_a_hundred_handlers() -> None:
    """All handlers of an event run, once each, and with the same event."""
    seen = Seen()
    dispatcher = Dispatcher()
    for number in range(100):
        _register(dispatcher, seen.handler(str(number)), name=str(number))
    await _handle(dispatcher, EVENT)
    assert sorted(seen.names, key=int) == [str(number) for number in range(100)]
    assert all(event is EVENT for _, event in seen.all)


async def test_handlers_do_not_wait_for_each_other() -> None:
    """All handlers of one event, and those of several events, run at the same time."""
    dispatcher = Dispatcher()
    meeting = asyncio.Barrier(6)

    async def meet(_: Disconnected) -> None:
        await meeting.wait()

    for name in ("a", "b", "c"):
        _register(dispatcher, meet, name=name)
    async with asyncio.timeout(5):
        await _handle(dispatcher, EVENT, _event(None))
    assert meeting.n_waiting == 0


async def test_dispatch_runs_nothing_itself() -> None:
    """Handlers start after `dispatch` has returned: the answer goes out first."""
    seen = Seen()
    dispatcher = Dispatcher()
    _register(dispatcher, seen.handler("a"))
    dispatcher.dispatch(EVENT)
    assert seen.all == []
    await dispatcher.drain(5)
    assert seen.names == ["a"]


@pytest.mark.parametrize(
    "failure", [ValueError("no"), TimeoutError(), KeyError(1), ExceptionGroup("two", [OSError()])]
)
async def test_a_failing_handler(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """It neither stops nor re-runs the others, and is logged with its name and the call id."""
    seen = Seen()
    runs: list[object] = []

    async def fail(event: Disconnected) -> None:
        runs.append(event)
        raise failure

    dispatcher = Dispatcher()
    _register(dispatcher, seen.handler("before"), name="before")
    _register(dispatcher, fail, name="failing")
    _register(dispatcher, seen.handler("after"), name="after")
    await _handle(dispatcher, EVENT)
    assert sorted(seen.names) == ["after", "before"]
    assert len(runs) == 1
    [message] = _messages(caplog, logging.ERROR)
    assert "failing" in message
    assert "4711" in message
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [failure]


async def test_a_failing_handler_of_an_unknown_notification(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged with the call id as well, where there is one."""

    async def fail(_: UnknownNotification) -> None:
        raise ValueError

    dispatcher = Dispatcher()
    dispatcher.register(fail, UnknownNotification, name="failing")
    await _handle(dispatcher, UNKNOWN)
    [message] = _messages(caplog, logging.ERROR)
    assert "4712" in message


async def test_a_handler_that_raises_cancelled_error(caplog: pytest.LogCaptureFixture) -> None:
    """A cancellation that comes out of a handler ends that one only, and is logged."""
    seen = Seen()

    async def cancelled(_: Disconnected) -> None:
        raise asyncio.CancelledError

    dispatcher = Dispatcher()
    _register(dispatcher, cancelled, name="cancelled")
    _register(dispatcher, seen.handler("other"), name="other")
    await _handle(dispatcher, EVENT)
    assert seen.names == ["other"]
    [message] = _messages(caplog, logging.WARNING)
    assert "cancelled" in message
    assert "4711" in message


async def test_a_failure_is_not_repeated_for_the_next_event() -> None:
    """A handler that failed gets the next event like any other."""
    seen = Seen()
    note = seen.handler("a")

    async def fail_once(event: Disconnected) -> None:
        await note(event)
        if len(seen.all) == 1:
            raise ValueError

    dispatcher = Dispatcher()
    _register(dispatcher, fail_once)
    await _handle(dispatcher, EVENT)
    await _handle(dispatcher, _event(None))
    assert [event for _, event in seen.all] == [EVENT, _event(None)]


async def test_a_running_handler_is_not_collected_as_garbage() -> None:
    """The event loop holds its tasks weakly: the dispatcher holds those that run, and no others."""
    dispatcher = Dispatcher()
    go_on = asyncio.Event()

    async def wait(_: Disconnected) -> None:
        await go_on.wait()

    _register(dispatcher, wait)
    dispatcher.dispatch(EVENT)
    running: set[object] = vars(dispatcher)["_running"]
    assert len(running) == 1
    go_on.set()
    await dispatcher.drain(5)
    await asyncio.sleep(0)
    assert not running


# --- the end -----------------------------------------------------------------------------------


async def test_drain_waits_no_longer_than_the_handlers() -> None:
    """A handler that ends in time is waited for, and no longer."""
    ended: list[object] = []

    async def slow(event: Disconnected) -> None:
        await asyncio.sleep(0.05)
        ended.append(event)

    dispatcher = Dispatcher()
    _register(dispatcher, slow)
    dispatcher.dispatch(EVENT)
    began = time.monotonic()
    await dispatcher.drain(30)
    assert ended == [EVENT]
    assert time.monotonic() - began < 5


async def test_drain_cancels_who_takes_longer(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that outlives the timeout is cancelled and logged; one in time is neither."""
    ended: list[str] = []

    async def stuck(_: Disconnected) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("stuck")

    async def quick(_: Disconnected) -> None:
        await asyncio.sleep(0.01)
        ended.append("quick")

    dispatcher = Dispatcher()
    _register(dispatcher, stuck, name="stuck-one")
    _register(dispatcher, quick, name="quick-one")
    dispatcher.dispatch(EVENT)
    began = time.monotonic()
    await dispatcher.drain(0.1)
    assert 0.1 <= time.monotonic() - began < 5
    assert ended == ["quick", "stuck"]
    [message] = _messages(caplog, logging.WARNING)
    assert "stuck-one" in message
    assert "4711" in message


async def test_drain_with_no_patience(caplog: pytest.LogCaptureFixture) -> None:
    """A timeout of nothing cancels at once, even who has not begun, and logs it."""
    dispatcher = Dispatcher()

    async def stuck(_: Disconnected) -> None:
        await asyncio.sleep(60)

    _register(dispatcher, stuck, name="stuck-one")
    dispatcher.dispatch(EVENT)
    async with asyncio.timeout(5):
        await dispatcher.drain(0)
    await asyncio.sleep(0.01)
    assert not vars(dispatcher)["_running"]
    assert any("stuck-one" in message for message in _messages(caplog, logging.WARNING))


async def test_drain_does_not_hang_on_who_will_not_be_cancelled() -> None:
    """A handler that swallows its cancellation is left behind after the same time again."""
    release = asyncio.Event()

    async def stubborn(_: Disconnected) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    dispatcher = Dispatcher()
    _register(dispatcher, stubborn)
    dispatcher.dispatch(EVENT)
    began = time.monotonic()
    async with asyncio.timeout(5):
        await dispatcher.drain(0.05)
    assert time.monotonic() - began >= 0.1
    release.set()
    await dispatcher.drain(5)
    assert not vars(dispatcher)["_running"]


async def test_drain_of_nothing() -> None:
    """Where nothing runs there is nothing to wait for."""
    async with asyncio.timeout(1):
        await Dispatcher().drain(30)


# --- what a handler must not be able to do -----------------------------------------------------


def _sleeping(_: object) -> object:
    return asyncio.sleep(0)


def _promising(_: object) -> object:
    return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("awaitable", [_sleeping, _promising])
async def test_a_filter_that_is_to_be_awaited(
    awaitable: Callable[[Any], object], caplog: pytest.LogCaptureFixture
) -> None:
    """A filter that returns something to await would pass everything: it is an error instead."""
    seen = Seen()
    dispatcher = Dispatcher()
    _register(dispatcher, seen.handler("filtered"), name="filtered", where=awaitable)
    _register(dispatcher, seen.handler("other"), name="other")
    await _handle(dispatcher, EVENT)
    assert seen.names == ["other"]
    assert "something to await" in caplog.text


def _nothing(_: object, __: object) -> None:
    """Do nothing about it."""


class GivingUp(BaseException):
    """More than a failure, less than what ends the event loop."""


async def test_a_handler_that_gives_up(caplog: pytest.LogCaptureFixture) -> None:
    """What is no `Exception` is logged with the call id, and the others run."""
    seen = Seen()

    async def give_up(_: Disconnected) -> None:
        raise GivingUp

    dispatcher = Dispatcher()
    _register(dispatcher, give_up, name="give-up")
    _register(dispatcher, seen.handler("other"), name="other")
    asyncio.get_running_loop().set_exception_handler(_nothing)  # the task's own end
    await _handle(dispatcher, EVENT)
    assert seen.names == ["other"]
    [message] = _messages(caplog, logging.CRITICAL)
    assert "give-up" in message
    assert "4711" in message


async def test_a_handler_that_drains() -> None:
    """A handler that stops the server does not wait for itself."""
    dispatcher = Dispatcher()
    done: list[float] = []

    async def drain(_: Disconnected) -> None:
        began = time.monotonic()
        await dispatcher.drain(5)
        done.append(time.monotonic() - began)

    _register(dispatcher, drain)
    await _handle(dispatcher, EVENT)
    assert done[0] < 1
