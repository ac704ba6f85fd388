"""The decorators of `CallbackServer` by which handlers are registered."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, overload

from qmc_async.callback.delivery import Delivery
from qmc_async.callback.handlers import DEFAULT_TIMEOUT, Handlers, to_reasons
from qmc_async.models import Conflict, Disconnected, Overdue, UnknownNotification

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmc_async.callback.delivery import Retry
    from qmc_async.callback.handlers import Predicate
    from qmc_async.models import Reason

__all__ = ["Registration"]

OnDisconnected = TypeVar(
    "OnDisconnected",
    bound=Callable[[Disconnected], Coroutine[Any, Any, object]]
    | Callable[[Disconnected, Delivery], Coroutine[Any, Any, object]],
)
OnUnknown = TypeVar(
    "OnUnknown",
    bound=Callable[[UnknownNotification], Coroutine[Any, Any, object]]
    | Callable[[UnknownNotification, Delivery], Coroutine[Any, Any, object]],
)
OnConflict = TypeVar(
    "OnConflict",
    bound=Callable[[Conflict], Coroutine[Any, Any, object]]
    | Callable[[Conflict, Delivery], Coroutine[Any, Any, object]],
)
OnMissing = TypeVar(
    "OnMissing",
    bound=Callable[[Overdue], Coroutine[Any, Any, object]]
    | Callable[[Overdue, Delivery], Coroutine[Any, Any, object]],
)


class Registration:
    """Takes handlers, until the server starts."""

    def __init__(self) -> None:
        self._handlers = Handlers()

    @overload
    def on_disconnected(self, handler: OnDisconnected, /) -> OnDisconnected: ...

    @overload
    def on_disconnected(
        self,
        /,
        *,
        reason: Reason | str | Iterable[Reason | str] | None = None,
        where: Predicate | None = None,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> Callable[[OnDisconnected], OnDisconnected]: ...

    def on_disconnected(
        self,
        handler: OnDisconnected | None = None,
        /,
        *,
        reason: Reason | str | Iterable[Reason | str] | None = None,
        where: Predicate | None = None,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> OnDisconnected | Callable[[OnDisconnected], OnDisconnected]:
        """Register a coroutine function for calls that have ended; several may want one event.

        It gets each event at least once, also after a crash: on rare occasions twice. One that
        fails is tried again by itself; the others neither notice nor run again.

        Args:
            handler: takes a `Disconnected`, and a `Delivery` if it has a second parameter.
            reason: only calls that ended so; one `Reason` or several.
            where: only events for which this returns something true.
            name: the handler's lasting name, under which the store knows what it has done; by
                default its module and qualified name.
            retry: when it is tried again after it has failed; by default for about a day.
            timeout: seconds that one attempt may take before it has failed; None is any.

        Raises:
            TypeError: the handler is no coroutine function of one or two arguments, or `where` is
                no plain function.
            ValueError: the name is taken, the timeout is no time, or the document has no such
                reason.
            RuntimeError: the server has started.
        """
        reasons = to_reasons(reason)

        def register(run: OnDisconnected) -> OnDisconnected:
            self._handlers.register(
                run,
                Disconnected,
                name=name,
                retry=retry,
                timeout=timeout,
                reasons=reasons,
                where=where,
            )
            return run

        return register if handler is None else register(handler)

    @overload
    def on_unknown(self, handler: OnUnknown, /) -> OnUnknown: ...

    @overload
    def on_unknown(
        self,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> Callable[[OnUnknown], OnUnknown]: ...

    def on_unknown(
        self,
        handler: OnUnknown | None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> OnUnknown | Callable[[OnUnknown], OnUnknown]:
        """Register a coroutine function for notifications that are no `Disconnected`.

        That is another ``status`` than the document's, or a body that cannot be decoded.

        Args:
            handler: takes an `UnknownNotification`, and a `Delivery` if it has a second parameter.
            name: as for `on_disconnected`.
            retry: the same.
            timeout: the same.

        Raises:
            TypeError, ValueError, RuntimeError: as `on_disconnected`.
        """

        def register(run: OnUnknown) -> OnUnknown:
            self._handlers.register(
                run, UnknownNotification, name=name, retry=retry, timeout=timeout
            )
            return run

        return register if handler is None else register(handler)

    @overload
    def on_conflict(self, handler: OnConflict, /) -> OnConflict: ...

    @overload
    def on_conflict(
        self,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> Callable[[OnConflict], OnConflict]: ...

    def on_conflict(
        self,
        handler: OnConflict | None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> OnConflict | Callable[[OnConflict], OnConflict]:
        """Register a coroutine function for a second report of a call that says something else.

        Args:
            handler: takes a `Conflict`, and a `Delivery` if it has a second parameter.
            name: as for `on_disconnected`.
            retry: the same.
            timeout: the same.

        Raises:
            TypeError, ValueError, RuntimeError: as `on_disconnected`.
        """

        def register(run: OnConflict) -> OnConflict:
            self._handlers.register(run, Conflict, name=name, retry=retry, timeout=timeout)
            return run

        return register if handler is None else register(handler)

    @overload
    def on_missing(self, handler: OnMissing, /) -> OnMissing: ...

    @overload
    def on_missing(
        self,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> Callable[[OnMissing], OnMissing]: ...

    def on_missing(
        self,
        handler: OnMissing | None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> OnMissing | Callable[[OnMissing], OnMissing]:
        """Register a coroutine function for calls of which no notification came by the deadline.

        It gets each such call once, whichever server notices it, with the same guarantees as a
        notification. The server needs its `client`, and that one its ledger.

        Args:
            handler: takes an `Overdue`, and a `Delivery` if it has a second parameter.
            name: as for `on_disconnected`.
            retry: the same.
            timeout: the same.

        Raises:
            TypeError, ValueError, RuntimeError: as `on_disconnected`.
        """

        def register(run: OnMissing) -> OnMissing:
            self._handlers.register(run, Overdue, name=name, retry=retry, timeout=timeout)
            return run

        return register if handler is None else register(handler)
