"""Which events a handler gets: by kind, by reason, and by a predicate."""

from __future__ import annotations

import asyncio
import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from qmc_async import CallbackServer, Conflict, Delivery, Disconnected, Reason, UnknownNotification
from qmc_async.callback.handlers import Handlers, to_reasons

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qmc_async.models import Event

END = datetime(2023, 8, 29, 0, 52, 10, tzinfo=UTC)
EVENT = Disconnected(call_id="4711", end_time=END, reason=Reason.HANG_UP)
UNKNOWN = UnknownNotification(status="Ringing", call_id="4712", body=b"{}")
CONFLICT = Conflict(call_id="4711", first=None, second=EVENT)
DELIVERY = Delivery(attempt=1, first_seen=END, idempotency_key="4711:x")


def _event(reason: Reason | str | None) -> Disconnected:
    return Disconnected(call_id="4711", end_time=END, reason=reason)


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


async def handle(event: Event) -> None:
    """A handler of this module."""
    del event


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
    handlers = Handlers()
    _register(handlers, seen.handler("one"), name="1", reasons=to_reasons(reason))
    others = set(Reason) - {reason}
    _register(handlers, seen.handler("others"), name="2", reasons=frozenset(others))
    _register(handlers, seen.handler("all"), name="3")
    await _handle(handlers, _event(reason))
    assert seen.names == ["one", "all"]


@pytest.mark.parametrize("reason", [None, "Vanished", "hangup"])
async def test_reason_filter_without_a_known_reason(reason: str | None) -> None:
    """An event with no reason, or one unknown to the document, goes to who did not filter."""
    seen = Seen()
    handlers = Handlers()
    _register(handlers, seen.handler("filtered"), name="1", reasons=frozenset(Reason))
    _register(handlers, seen.handler("all"), name="2")
    await _handle(handlers, _event(reason))
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

    handlers = Handlers()
    _register(handlers, seen.handler("a"), where=where)
    await _handle(handlers, EVENT)
    assert asked == [EVENT]
    assert bool(seen.all) is called


async def test_where_is_asked_after_reason() -> None:
    """Both filters must let the event through; the predicate sees only those of the reason."""
    seen = Seen()
    asked: list[Disconnected] = []
    handlers = Handlers()
    _register(
        handlers,
        seen.handler("a"),
        reasons=frozenset({Reason.OTHER}),
        where=asked.append,
    )
    await _handle(handlers, EVENT)
    assert (asked, seen.all) == ([], [])
    await _handle(handlers, _event(Reason.OTHER))
    assert len(asked) == 1
    assert seen.all == []


@pytest.mark.parametrize("where", [handle, functools.partial(handle), "HangUp", 7])
def test_where_is_a_plain_function(where: Any) -> None:  # noqa: ANN401 - callers err
    """A coroutine is always true, so an async predicate would filter nothing: refused at once."""
    with pytest.raises(TypeError, match="where="):
        CallbackServer().on_disconnected(where=where)(handle)


async def test_where_that_raises() -> None:
    """A failing predicate fails its handler's attempt: it does not decide for the event."""
    seen = Seen()

    def where(_: Disconnected) -> bool:
        raise KeyError("reason")

    handlers = Handlers()
    _register(handlers, seen.handler("filtered"), name="filtered", where=where)
    with pytest.raises(KeyError, match="reason"):
        await _handle(handlers, EVENT)
    assert not seen.all


def _sleeping(_: object) -> object:
    return asyncio.sleep(0)


def _promising(_: object) -> object:
    return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("awaitable", [_sleeping, _promising])
async def test_a_filter_that_is_to_be_awaited(awaitable: Callable[[Any], object]) -> None:
    """A filter that returns something to await would pass everything: it is an error instead."""
    seen = Seen()
    handlers = Handlers()
    _register(handlers, seen.handler("filtered"), where=awaitable)
    with pytest.raises(TypeError, match="something to await"):
        await _handle(handlers, EVENT)
    assert not seen.all


async def test_each_kind_of_event_has_its_handlers() -> None:
    """A handler gets what it is registered for, and nothing else."""
    seen = Seen()
    handlers = Handlers()
    _register(handlers, seen.handler("unknown"), UnknownNotification, name="1")
    _register(handlers, seen.handler("ended"), name="2")
    _register(handlers, seen.handler("ended, filtered"), name="3", where=bool)
    _register(handlers, seen.handler("conflict"), Conflict, name="4")
    await _handle(handlers, UNKNOWN, EVENT, CONFLICT)
    assert seen.all == [
        ("unknown", UNKNOWN),
        ("ended", EVENT),
        ("ended, filtered", EVENT),
        ("conflict", CONFLICT),
    ]
