"""What clients and servers tell of their work, and how it looks where nobody listens.

Everything here does nothing. `recorder` has the same, with OpenTelemetry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self, TypeAlias

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from qmc_async.models import Event, Notification

__all__ = ["SILENT", "FindTrace", "Handling", "Placing", "Receiving", "Span", "Telemetry"]

FindTrace: TypeAlias = "Callable[[str | None, str | None], asyncio.Future[str | None]]"
"""Finds the ``traceparent`` of a call by its `call_id` or `out_call_id`, as `Store.trace_of`."""


class Span:
    """Something that is being done, for as long as the ``with`` goes on.

    Attributes:
        traceparent: how others can link to it (W3C Trace Context); None where it is not recorded.
    """

    @property
    def traceparent(self) -> str | None:
        """See the class."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def attempted(self, attempts: int, http_status: int | None) -> None:
        """Tell of a request that has come to its end, one way or the other.

        Args:
            attempts: how many there were until now.
            http_status: of the reply, None where there was none.
        """


class Placing(Span):
    """A call that is being placed."""

    def sends(self) -> None:
        """From now on the telephones may ring."""

    def placed(self, call_id: str) -> None:
        """The platform has accepted it."""


class Receiving(Span):
    """A notification that is being taken."""

    def reads(self, event: Notification) -> None:
        """Tell what came."""

    def answers(self, http_status: int) -> None:
        """Tell what the platform is answered."""


class Handling(Span):
    """One run of a handler."""

    def ends(self, outcome: str, error: BaseException | None = None) -> None:
        """Tell what becomes of the delivery.

        Args:
            outcome: ``done``, ``retry``, ``timeout`` (and a retry), ``rejected``,
                ``dead_letter`` or ``postponed``. By default it was cut short: ``cancelled``.
            error: why.
        """


class Telemetry:
    """Takes what one client or one server has to tell."""

    def placing(self, base_url: str, out_call_id: str) -> Placing:
        """A call is placed."""
        del base_url, out_call_id
        return _PLACING

    def operation(self, name: str, base_url: str | None, call_id: str) -> Span:
        """Something else is asked of the platform; `base_url` where it may be told."""
        del name, base_url, call_id
        return _SPAN

    def receiving(self) -> Receiving:
        """A notification has come."""
        return _RECEIVING

    def handling(self, handler: str, event: Event, attempt: int) -> Handling:
        """A handler runs."""
        del handler, event, attempt
        return _HANDLING

    def overdue(self, outcome: str) -> None:
        """A call was given up by the watchdog: see `Overdue.outcome`."""

    def wants_backlog(self) -> bool:
        """Whether somebody wants to know how many deliveries wait, and it is time to count."""
        return False

    def backlog(self, waiting: Mapping[str, int]) -> None:
        """Tell how many deliveries wait for each handler."""

    def begin_anew(self) -> None:
        """Let the running task be part of nothing that whoever started it was doing."""

    async def finish(self) -> None:
        """Tell the rest, and no backlog any more."""


_SPAN: Final = Span()
_PLACING: Final = Placing()
_RECEIVING: Final = Receiving()
_HANDLING: Final = Handling()
SILENT: Final = Telemetry()
"""Tells nobody."""
