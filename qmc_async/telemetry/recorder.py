"""What one client or one server has to tell, recorded by OpenTelemetry."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context, attach
from opentelemetry.metrics import get_meter_provider
from opentelemetry.trace import SpanKind, get_current_span, get_tracer, get_tracer_provider

from qmc_async.telemetry.metrics import SCOPE, Backlog, instruments
from qmc_async.telemetry.silent import SILENT, Telemetry
from qmc_async.telemetry.spans import (
    HandlingSpan,
    OperationSpan,
    PlacingSpan,
    ReceivingSpan,
    harmless,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmc_async.models import Event
    from qmc_async.telemetry.silent import FindTrace, Handling, Placing, Receiving, Span

__all__ = ["Recorder"]

_API: Final = ("opentelemetry.trace", "opentelemetry.metrics")  # the SDK's are elsewhere
_LOOKED_EVERY: Final = 0.5  # seconds between two looks whether anybody has set a provider
_FINISHED_WITHIN: Final = 1.0  # seconds that look-ups have when a server stops


class Recorder(Telemetry):
    """Takes what one client or one server has to tell, and records it by OpenTelemetry.

    Args:
        find_trace: finds what notifications and handlers are linked to; None where there are none.
    """

    def __init__(self, find_trace: FindTrace | None = None) -> None:
        self.tracer = get_tracer(SCOPE)
        self.instruments = instruments()
        self._find_trace = find_trace
        self._looking: dict[tuple[str | None, str | None], asyncio.Future[str | None]] = {}
        self._backlog = Backlog()
        self._is_heard = False
        self._look_at = 0.0

    @property
    def is_heard(self) -> bool:
        """Whether anybody has set a provider; until then there is nobody to tell.

        It may be set at any time, and once only. To ask costs as much as to read a notification,
        so that nobody is heard of for a moment.
        """
        if not self._is_heard and (now := time.monotonic()) >= self._look_at:
            self._look_at = now + _LOOKED_EVERY
            providers = (get_tracer_provider(), get_meter_provider())
            self._is_heard = any(
                not type(provider).__module__.startswith(_API) for provider in providers
            )
        return self._is_heard

    def look_up(
        self, call_id: str | None, out_call_id: str | None
    ) -> asyncio.Future[str | None] | None:
        """Look for what is to be linked to: once for a notification and all of its handlers.

        Raises:
            StoreError: nothing can be looked up.
        """
        ids = call_id, out_call_id
        found = self._looking.get(ids)
        if found is None and self._find_trace is not None:
            found = self._looking[ids] = self._find_trace(call_id, out_call_id)
            found.add_done_callback(lambda _: self._looking.pop(ids, None))
        return found

    def placing(self, base_url: str, out_call_id: str) -> Placing:
        """See `Telemetry`."""
        if not self.is_heard:
            return SILENT.placing(base_url, out_call_id)
        return PlacingSpan(self, "qmc.call", base_url, out_call_id=out_call_id)

    def operation(self, name: str, base_url: str | None, call_id: str) -> Span:
        """See `Telemetry`."""
        if not self.is_heard:
            return SILENT.operation(name, base_url, call_id)
        return OperationSpan(self, f"qmc.{name}", base_url, call_id=call_id)

    def receiving(self) -> Receiving:
        """See `Telemetry`.

        To the semantic conventions it is an HTTP request, which is answered while who sent it
        waits, and no message of a broker. Where a framework's own span is the server's, it is part
        of that.
        """
        if not self.is_heard:
            return SILENT.receiving()
        inside = get_current_span().is_recording()
        return ReceivingSpan(
            self, "qmc.notification", SpanKind.INTERNAL if inside else SpanKind.SERVER
        )

    def handling(self, handler: str, event: Event, attempt: int) -> Handling:
        """See `Telemetry`.

        The kind is that of a message's consumer: what is kept is delivered at least once, to
        whichever server comes first, and nobody waits for it.
        """
        if not self.is_heard:
            return SILENT.handling(handler, event, attempt)
        return HandlingSpan(self, handler, event, attempt)

    @harmless
    def overdue(self, outcome: str) -> None:
        """See `Telemetry`."""
        self.instruments.overdue_calls.add(1, {"qmc.outcome": outcome})

    def wants_backlog(self) -> bool:
        """See `Telemetry`."""
        return self._backlog.is_due()

    def backlog(self, waiting: Mapping[str, int]) -> None:
        """See `Telemetry`."""
        self._backlog.tell(waiting)

    @harmless
    def begin_anew(self) -> None:
        """See `Telemetry`."""
        attach(Context())

    async def finish(self) -> None:
        """See `Telemetry`."""
        self._backlog.tell({})
        if self._looking:
            await asyncio.wait(self._looking.values(), timeout=_FINISHED_WITHIN)
            await asyncio.sleep(0)  # who waits for one that was found is told in the next round
