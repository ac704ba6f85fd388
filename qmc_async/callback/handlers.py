"""Handlers: registered by decorator, known by a lasting name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import frozen

from qmc_async.callback.delivery import Retry
from qmc_async.models import Conflict, Disconnected, Event, Overdue, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmc_async.callback.delivery import Delivery

    Predicate: TypeAlias = Callable[[Disconnected], object]

__all__ = ["DEFAULT_RETRY", "DEFAULT_TIMEOUT", "Handler", "Handlers", "to_reasons"]

DEFAULT_RETRY = Retry()
DEFAULT_TIMEOUT = 300.0
"""Seconds."""

_LONGEST_NAME = 200  # bytes: the store keeps it


@frozen
class Handler:
    """A coroutine function, and what it wants.

    Attributes:
        name: under which the store knows it.
        run: the function.
        takes_delivery: whether it takes a `Delivery` as well.
        kind: what it is registered for.
        reasons: None is every reason.
        where: the function that chooses among events.
        retry: when it is tried again.
        timeout: seconds that one attempt may take; None is any.
    """

    name: str
    run: Callable[..., Coroutine[Any, Any, object]]
    takes_delivery: bool
    kind: type[Event]
    reasons: frozenset[Reason] | None
    where: Predicate | None
    retry: Retry
    timeout: float | None

    def wants(self, event: Event) -> bool:
        """Whether it is to get the event, as far as can be told without asking `where`."""
        if not isinstance(event, self.kind):
            return False
        return (
            self.reasons is None
            or not isinstance(event, Disconnected)
            or event.reason in self.reasons
        )

    async def handle(self, event: Event, delivery: Delivery | None) -> None:
        """Run it, if `where` lets the event pass.

        Args:
            event: what it is given.
            delivery: the same, where it `takes_delivery`.
        """
        if self.where is not None and not _is_wanted(self.where, event):
            return
        if self.takes_delivery:
            await self.run(event, delivery)
        else:
            await self.run(event)


class Handlers:
    """All handlers of a server, by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Handler] = {}
        self._frozen = False

    def register(
        self,
        run: Callable[..., Coroutine[Any, Any, object]],
        kind: type[Event],
        *,
        name: str | None,
        retry: Retry | None,
        timeout: float | None,
        reasons: frozenset[Reason] | None = None,
        where: Predicate | None = None,
    ) -> None:
        """Add a handler.

        Raises:
            TypeError: it is no coroutine function of one or two arguments, or `where` is no plain
                one.
            ValueError: the name is taken or too long, or the timeout is no time.
            RuntimeError: the server has started.
        """
        if not (inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(_call_of(run))):
            raise TypeError(f"{run!r} is no coroutine function: define the handler by async def")
        if where is not None and (not callable(where) or inspect.iscoroutinefunction(where)):
            # A coroutine is always true: the filter would let everything pass.
            raise TypeError(f"where={where!r} is no plain function of the event")
        name = name or f"{run.__module__}.{getattr(run, '__qualname__', type(run).__qualname__)}"
        if self._frozen:
            raise RuntimeError(
                f"the handler {name!r} came too late: register handlers before the server starts, "
                "or the first notifications pass them by"
            )
        if name in self.by_name:
            raise ValueError(
                f"a handler named {name!r} is registered already: give each its own name="
            )
        if len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"a handler's name has at most {_LONGEST_NAME} bytes: pass name=")
        if timeout is not None and not 0 < timeout < math.inf:
            raise ValueError("timeout= must be a number of seconds above 0, or None")
        self.by_name[name] = Handler(
            name,
            run,
            _takes_delivery(run),
            kind,
            reasons,
            where,
            retry or DEFAULT_RETRY,
            timeout,
        )

    def freeze(self) -> None:
        """From now on no handler can be added."""
        self._frozen = True

    def thaw(self) -> None:
        """Take handlers again, for who knows that nothing has come that they would want."""
        self._frozen = False

    @property
    def of_conflicts(self) -> list[str]:
        """The names of those that are to get every `Conflict`."""
        return [name for name, handler in self.by_name.items() if handler.kind is Conflict]

    @property
    def of_missing(self) -> list[str]:
        """The names of those that are to get every `Overdue`."""
        return [name for name, handler in self.by_name.items() if handler.kind is Overdue]

    def wanting(self, event: Event) -> list[str]:
        """The names of those that are to get an event."""
        return [name for name, handler in self.by_name.items() if handler.wants(event)]


def to_reasons(reason: Reason | str | Iterable[Reason | str] | None) -> frozenset[Reason] | None:
    """Read the filter of `on_disconnected`; None is every reason.

    Raises:
        ValueError: there is none, or the document has no such reason: the handler would never run.
    """
    if reason is None:
        return None
    wanted = [reason] if isinstance(reason, str) else list(reason)
    if not wanted:
        raise ValueError("reason= is empty: the handler would never run")
    try:
        return frozenset(Reason(one) for one in wanted)
    except ValueError:
        known = ", ".join(Reason)
        raise ValueError(f"reason={reason!r}: the document has {known}") from None


def _call_of(run: object) -> object:
    # A class is not its objects: calling it makes one, and awaits nothing.
    return None if isinstance(run, type) else getattr(run, "__call__", None)  # noqa: B004 - an object's async __call__ is wanted


def _takes_delivery(run: Callable[..., object]) -> bool:
    signature = inspect.signature(run)
    for arguments in (1, 2):
        try:
            signature.bind(*[None] * arguments)
        except TypeError:
            continue
        return arguments == 2  # noqa: PLR2004 - the event and the delivery
    raise TypeError(f"{run!r} must take the event, and may take the Delivery: {signature}")


def _is_wanted(where: Predicate, event: Any) -> bool:  # noqa: ANN401 - of the handler's kind
    wanted = where(event)
    if inspect.isawaitable(wanted):
        if inspect.iscoroutine(wanted):
            wanted.close()
        raise TypeError("where= returned something to await, which would let every event pass")
    return bool(wanted)
