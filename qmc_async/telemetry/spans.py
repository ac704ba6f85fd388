"""Spans of OpenTelemetry, and what is counted as they end.

1. A span has ids, masked, and names of classes: no number, secret, address or message of an
   exception.
2. Nothing that a sampler, a processor or an exporter does wrong comes between a call and its
   telephone, or a notification and its handlers.
3. A call and its notification are hours and machines apart: they are linked, by what the ledger
   has of the call. Nobody waits until that is found.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from functools import partial, wraps
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qmc_async.errors import ApiError, CallOutcomeUnknown, TransportError
from qmc_async.models import ids_of
from qmc_async.telemetry.silent import Handling, Placing, Receiving, Span
from qmc_async.telemetry.words import (
    error_type,
    kind_of,
    of_event,
    reason_of,
    server_at,
    told,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from contextvars import Token
    from types import TracebackType
    from typing import Self

    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.util.types import AttributeValue

    from qmc_async.models import Event, Notification
    from qmc_async.telemetry.recorder import Recorder

__all__ = ["HandlingSpan", "OperationSpan", "PlacingSpan", "ReceivingSpan", "harmless"]

logger = logging.getLogger(__name__)

S = TypeVar("S")
P = ParamSpec("P")

_W3C: Final = TraceContextTextMapPropagator()
_SERVER_ERROR: Final = 500


def harmless(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """Rule 2."""

    @wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever has been put into OpenTelemetry
            # Not its message: it may quote what it was given.
            logger.warning(
                "nothing is recorded of %s (%s)", method.__name__, error_type(type(error))
            )

    return run


class _Recorded(Span, ABC):
    """A span, from when its ``with`` begins; it is the current one until that ends."""

    def __init__(self, recorder: Recorder, name: str, kind: SpanKind) -> None:
        self._recorder = recorder
        self._name = name
        self._kind = kind
        self._span: OtelSpan = INVALID_SPAN
        self._token: Token[Context] | None = None
        self._began = 0.0
        self._raised: type[BaseException] | None = None  # its traceback would lead back to here

    @property
    def traceparent(self) -> str | None:
        """See `Span`."""
        if not self._span.is_recording():
            return None
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(self._span, Context()))
        return carrier["traceparent"]

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._raised = exc_type
        self._count()  # while the span is the current one, which an exemplar refers to
        if self._token is not None:
            self._step_back(self._token)
        if self._span is not INVALID_SPAN:  # as where nobody has set a provider
            self._end()

    @harmless
    def _begin(self) -> None:
        self._began = time.perf_counter()
        self._span = self._recorder.tracer.start_span(self._name, kind=self._kind)
        if self._span.get_span_context().is_valid:
            self._token = attach(set_span_in_context(self._span))
        if self._span.is_recording():  # masking takes longer than all the rest
            self._span.set_attributes(self._described())

    @abstractmethod
    def _described(self) -> Mapping[str, AttributeValue]:
        """What is known of it as it begins."""

    @harmless
    def _step_back(self, token: Token[Context]) -> None:
        detach(token)

    def _count(self) -> None:
        """Count and measure what has ended."""

    @harmless
    def _end(self) -> None:
        if self._raised is not None:
            self._fail(error_type(self._raised))
        self._span.end()

    def _fail(self, error_type: str) -> None:
        # No `record_exception`: it would have the message, and the stack with it.
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR))

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._began


class OperationSpan(_Recorded):
    """Something that the platform is asked for."""

    def __init__(self, recorder: Recorder, name: str, base_url: str | None, **ids: str) -> None:
        super().__init__(recorder, name, SpanKind.CLIENT)
        self._base_url = base_url
        self._ids = ids

    def _described(self) -> Mapping[str, AttributeValue]:
        ids: dict[str, AttributeValue] = {
            f"qmc.{name}": told(value) for name, value in self._ids.items()
        }
        return ids if self._base_url is None else {**ids, **server_at(self._base_url)}

    @harmless
    def attempted(self, attempts: int, http_status: int | None) -> None:
        """See `Span`."""
        if attempts > 1:
            self._span.set_attribute("http.request.resend_count", attempts - 1)
        if http_status is not None:
            self._span.set_attribute("http.response.status_code", http_status)


class PlacingSpan(OperationSpan, Placing):
    """A call that is being placed."""

    _result = "error"

    def sends(self) -> None:
        """See `Placing`."""
        self._result = "unknown"

    @harmless
    def placed(self, call_id: str) -> None:
        """See `Placing`."""
        self._result = "placed"
        if self._span.is_recording():
            self._span.set_attribute("qmc.call_id", told(call_id))

    @harmless
    def _count(self) -> None:
        raised = self._raised or Exception
        if issubclass(raised, ApiError):
            self._result = "refused"
        elif issubclass(raised, TransportError):
            self._result = "unknown" if issubclass(raised, CallOutcomeUnknown) else "error"
        self._span.set_attribute("qmc.result", self._result)
        self._recorder.instruments.calls.add(1, {"qmc.result": self._result})


class _Linked(_Recorded):
    """A span that is linked to the one by which its call was placed, once that is found."""

    def _look_up(self, event: Event) -> asyncio.Future[str | None] | None:
        ids = ids_of(event)
        if ids == (None, None) or not self._span.is_recording():
            return None
        try:
            return self._recorder.look_up(*ids)
        except Exception:  # noqa: BLE001 - the store is not open, or has other worries
            return None

    def _end_linked(self, found: asyncio.Future[str | None] | None) -> None:
        if found is None:
            self._span.end()
        elif found.done():
            self._end_at(time.time_ns(), found)
        else:
            found.add_done_callback(partial(self._end_at, time.time_ns()))

    @harmless
    def _end_at(self, ended_at: int, found: asyncio.Future[str | None]) -> None:
        self._link(found)
        self._span.end(ended_at)

    @harmless
    def _link(self, found: asyncio.Future[str | None]) -> None:
        if found.cancelled() or found.exception() is not None or not (parent := found.result()):
            return
        context = get_current_span(_W3C.extract({"traceparent": parent})).get_span_context()
        if context.is_valid:
            self._span.add_link(context)


class ReceivingSpan(_Linked, Receiving):
    """A notification that is being taken."""

    _event: Notification | None = None
    _http_status: int | None = None

    def reads(self, event: Notification) -> None:
        """See `Receiving`."""
        self._event = event

    def answers(self, http_status: int) -> None:
        """See `Receiving`."""
        self._http_status = http_status

    def _described(self) -> Mapping[str, AttributeValue]:
        # Not the path, which the conventions want as well: the token is in it.
        return {"http.request.method": "POST"}

    @harmless
    def _count(self) -> None:
        made = self._recorder.instruments
        if self._event is not None:
            told_apart = {"qmc.kind": kind_of(self._event), "qmc.reason": reason_of(self._event)}
            made.notifications.add(1, told_apart)
        if self._http_status is not None:
            made.answers.record(self._elapsed, {"http.response.status_code": self._http_status})

    @harmless
    def _end(self) -> None:
        found = None
        if self._span.is_recording():
            if self._event is not None:
                self._span.set_attributes(of_event(self._event))
            if self._http_status is not None:
                self._span.set_attribute("http.response.status_code", self._http_status)
            if self._raised is not None:
                self._fail(error_type(self._raised))
            elif (self._http_status or 0) >= _SERVER_ERROR:
                self._fail(str(self._http_status))
            elif self._event is not None:
                found = self._look_up(self._event)
        self._end_linked(found)


class HandlingSpan(_Linked, Handling):
    """One run of a handler."""

    _outcome = "cancelled"
    _error: type[BaseException] | None = None
    _found: asyncio.Future[str | None] | None = None

    def __init__(self, recorder: Recorder, handler: str, event: Event, attempt: int) -> None:
        super().__init__(recorder, f"qmc.handle {handler}", SpanKind.CONSUMER)
        self._handler = handler
        self._event = event
        self._attempt = attempt

    def ends(self, outcome: str, error: BaseException | None = None) -> None:
        """See `Handling`."""
        self._outcome = outcome
        self._error = None if error is None else type(error)

    def _described(self) -> Mapping[str, AttributeValue]:
        self._found = self._look_up(self._event)  # it is there when the handler has done its work
        own: dict[str, AttributeValue] = {
            "qmc.handler": self._handler,
            "qmc.attempt": self._attempt,
        }
        return {**own, **of_event(self._event)}

    @harmless
    def _count(self) -> None:
        made, outcome = self._recorder.instruments, self._outcome
        named = {"qmc.handler": self._handler}
        made.runs.record(self._elapsed, {**named, "qmc.outcome": outcome})
        if outcome in {"retry", "timeout"}:
            made.retries.add(1, named)
        elif outcome in {"rejected", "dead_letter"}:
            made.dead_letters.add(1, named)

    @harmless
    def _end(self) -> None:
        self._span.set_attribute("qmc.outcome", self._outcome)
        if self._error is not None:
            self._fail(error_type(self._error))
        self._end_linked(self._found)
