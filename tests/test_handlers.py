"""Handlers: which are taken, under which names, and with which options."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from qmc_async import CallbackServer, Conflict, Delivery, Disconnected, Reason, UnknownNotification
from qmc_async.callback.handlers import Handlers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from qmc_async.models import Event

END = datetime(2023, 8, 29, 0, 52, 10, tzinfo=UTC)
EVENT = Disconnected(call_id="4711", end_time=END, reason=Reason.HANG_UP)
UNKNOWN = UnknownNotification(status="Ringing", call_id="4712", body=b"{}")
CONFLICT = Conflict(call_id="4711", first=None, second=EVENT)
DELIVERY = Delivery(attempt=1, first_seen=END, idempotency_key="4711:x")


class Seen:
    """What handlers were called with, each under a name."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Event]] = []

    def handler(self, name: str) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """A handler that notes what it gets."""

        async def note(event: Event) -> None:
            self.all.append((name, event))

        return note

    @property
    def names(self) -> list[str]:
        """Who was called, in order."""
        return [name for name, _ in self.all]


async def _handle(handlers: Handlers, *events: Event) -> None:
    """Give events to those who want them, as the dispatcher does."""
    for event in events:
        for name in handlers.wanting(event):
            await handlers.by_name[name].handle(event, DELIVERY)


def _register(
    handlers: Handlers,
    run: Any,  # noqa: ANN401 - callers err
    kind: type[Event] = Disconnected,
    **options: Any,  # noqa: ANN401 - the same
) -> None:
    handlers.register(run, kind, **({"name": None, "retry": None, "timeout": None} | options))


# --- what is a handler -------------------------------------------------------------------------


async def handle(event: Event) -> None:
    """A handler of this module."""
    del event


class Service:
    """Handlers as objects have them."""

    def __init__(self, seen: list[object]) -> None:
        self._seen = seen

    async def on_end(self, event: Event) -> None:
        """A bound method."""
        self._seen.append(event)

    async def __call__(self, event: Event) -> None:
        """The object itself."""
        self._seen.append(event)


async def _with_two(seen: list[object], event: Event) -> None:
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
    handlers = Handlers()
    _register(handlers, make(seen))
    await _handle(handlers, EVENT)
    assert seen == [EVENT]


def _plain(event: Event) -> None:
    del event


async def _generator(event: Event) -> AsyncIterator[Event]:
    yield event


def _plain_generator(event: Event) -> Iterator[Event]:
    yield event


class _Plain:
    def __call__(self, event: Event) -> None:
        del event


class _Generating:
    async def __call__(self, event: Event) -> AsyncIterator[Event]:
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
    handlers = Handlers()
    with pytest.raises(TypeError):
        _register(handlers, _plain, name="a")
    _register(handlers, seen.handler("a"), name="a")
    await _handle(handlers, EVENT)
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
    assert server.on_conflict(name="f")(handle) is handle


def test_a_function_may_be_registered_twice_under_two_names() -> None:
    """Stacked decorators with names of their own are two handlers."""
    server = CallbackServer()
    server.on_disconnected(name="a")(server.on_disconnected(name="b")(handle))
    with pytest.raises(ValueError, match="'a'"):
        server.on_disconnected(name="a")(handle)


@pytest.mark.parametrize("kind", ["on_disconnected", "on_unknown", "on_conflict"])
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


@pytest.mark.parametrize("kind", ["on_disconnected", "on_unknown", "on_conflict"])
async def test_too_late(kind: str) -> None:
    """Once the server has started, also after it stopped, a handler is refused: it missed some."""
    server = CallbackServer(port=0)
    async with server:
        with pytest.raises(RuntimeError, match="'late' came too late"):
            getattr(server, kind)(name="late")(handle)
    with pytest.raises(RuntimeError, match="'late' came too late"):
        getattr(server, kind)(name="late")(handle)


async def test_late_after_all() -> None:
    """Who knows that nothing was missed may let handlers in again."""
    handlers = Handlers()
    handlers.freeze()
    handlers.thaw()
    handlers.register(handle, Disconnected, name="late", retry=None, timeout=None)
    assert list(handlers.by_name) == ["late"]


# --- the second argument -----------------------------------------------------------------------


class _Taking:
    async def __call__(self, event: Event, delivery: Delivery) -> None:
        TAKEN.append((event, delivery))

    async def method(self, event: Event, delivery: Delivery) -> None:
        TAKEN.append((event, delivery))


async def _taking(event: Event, delivery: Delivery) -> None:
    TAKEN.append((event, delivery))


async def _taking_more(event: Event, delivery: Delivery, more: int = 7) -> None:
    TAKEN.append((event, delivery))
    assert more == 7


async def _not_taking(event: Event, more: int = 7) -> None:
    TAKEN.append((event, more))


async def _taking_any(*arguments: object) -> None:
    TAKEN.append(arguments)


TAKEN: list[tuple[object, ...]] = []


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (_taking, (EVENT, DELIVERY)),
        (_taking_more, (EVENT, DELIVERY)),
        (_Taking(), (EVENT, DELIVERY)),
        (_Taking().method, (EVENT, DELIVERY)),
        (functools.partial(_taking_more, more=7), (EVENT, DELIVERY)),
        (_not_taking, (EVENT, 7)),
        (_taking_any, (EVENT,)),
    ],
)
async def test_who_takes_a_delivery(handler: object, expected: tuple[object, ...]) -> None:
    """A handler that cannot do with one argument gets the `Delivery` as the second."""
    TAKEN.clear()
    handlers = Handlers()
    _register(handlers, handler)
    await _handle(handlers, EVENT)
    assert [expected] == TAKEN


async def _of_none() -> None: ...


async def _of_three(event: Event, delivery: Delivery, more: int) -> None:
    del event, delivery, more


async def _of_names(event: Event, *, more: int) -> None:
    del event, more


@pytest.mark.parametrize("handler", [_of_none, _of_three, _of_names])
def test_another_number_of_arguments(handler: Any) -> None:  # noqa: ANN401 - callers err
    """What cannot be called with one argument or two is refused at once."""
    server = CallbackServer()
    with pytest.raises(TypeError, match="must take the event"):
        server.on_disconnected(handler)


# --- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["on_disconnected", "on_unknown", "on_conflict"])
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_none(kind: str, timeout: float) -> None:
    """A time that is over before it begins, or never, is refused at once."""
    with pytest.raises(ValueError, match="timeout="):
        getattr(CallbackServer(), kind)(timeout=timeout)(handle)


def test_a_name_that_is_too_long() -> None:
    """The store keeps 200 bytes of a name: a longer one is refused, and told how to be shorter."""
    server = CallbackServer()
    server.on_disconnected(name="n" * 200)(handle)
    for name in ("n" * 201, "名" * 67):
        with pytest.raises(ValueError, match="200 bytes: pass name="):
            server.on_disconnected(name=name)(handle)
