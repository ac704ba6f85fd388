"""Handlers: registered by decorator, run side by side, each on its own."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from attrs import frozen

from qmc_async.models import Disconnected, Notification, Reason, UnknownNotification

if TYPE_CHECKING:
    from collections.abc import Iterable

    Predicate: TypeAlias = Callable[[Disconnected], object]

__all__ = ["Dispatcher", "to_reasons"]

logger = logging.getLogger(__name__)

N = TypeVar("N", Disconnected, UnknownNotification)


@frozen
class _Handler:
    name: str
    run: Callable[[Any], Coroutine[Any, Any, object]]
    kind: type[Disconnected | UnknownNotification]
    reasons: frozenset[Reason] | None
    where: Predicate | None


class Dispatcher:
    """Knows the handlers, and starts those that want an event."""

    def __init__(self) -> None:
        self._handlers: dict[str, _Handler] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._frozen = False

    def register(
        self,
        run: Callable[[N], Coroutine[Any, Any, object]],
        kind: type[N],
        *,
        name: str | None,
        reasons: frozenset[Reason] | None = None,
        where: Predicate | None = None,
    ) -> None:
        """Add a handler.

        Raises:
            TypeError: it is no coroutine function, or `where` is no plain one.
            ValueError: the name is taken.
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
        if name in self._handlers:
            raise ValueError(
                f"a handler named {name!r} is registered already: give each its own name="
            )
        self._handlers[name] = _Handler(name, run, kind, reasons, where)

    def freeze(self) -> None:
        """From now on no handler can be added."""
        self._frozen = True

    def dispatch(self, event: Notification) -> None:
        """Start every handler that wants the event; none waits for another."""
        for handler in self._handlers.values():
            if isinstance(event, handler.kind) and _has_reason(handler, event):
                task = asyncio.create_task(_run(handler, event), name=f"qmc handler {handler.name}")
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - handlers that outlive it are cancelled, not the caller
        """Wait for the running handlers, and cancel those that take longer.

        Args:
            timeout: seconds.
        """
        # A handler that stops the server does not wait for itself.
        running = {task for task in self._running if task is not asyncio.current_task()}
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            # A handler that will not be cancelled must not keep the server from stopping.
            await asyncio.wait(late, timeout=timeout)


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


def _has_reason(handler: _Handler, event: Notification) -> bool:
    if handler.reasons is None or not isinstance(event, Disconnected):
        return True
    return event.reason in handler.reasons


async def _run(handler: _Handler, event: Notification) -> None:
    try:
        if handler.where is None or _is_wanted(handler.where, event):
            await handler.run(event)
    except asyncio.CancelledError:
        logger.warning("the handler %s was cancelled for call %s", handler.name, event.call_id)
        raise
    except Exception:
        logger.exception("the handler %s failed for call %s", handler.name, event.call_id)
    except BaseException:
        logger.critical(
            "the handler %s gave up the program, at call %s", handler.name, event.call_id
        )
        raise


def _is_wanted(where: Predicate, event: Any) -> bool:  # noqa: ANN401 - of the handler's kind
    wanted = where(event)
    if inspect.isawaitable(wanted):
        if inspect.iscoroutine(wanted):
            wanted.close()
        raise TypeError("where= returned something to await, which would let every event pass")
    return bool(wanted)
