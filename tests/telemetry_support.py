"""What stands on the other side of OpenTelemetry: the SDK, with all that it was told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import until
from opentelemetry import trace
from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Tracer

PROVIDERS = {
    "tracer": "opentelemetry.trace._TRACER_PROVIDER",
    "meter": "opentelemetry.metrics._internal._METER_PROVIDER",
}
"""Where they stand once they are set, which a process can do but once."""


class Recorded:
    """The spans and metrics of one test."""

    def __init__(self, tracers: TracerProvider | None = None) -> None:
        self.tracers = tracers or TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be what the process has set."""
        monkeypatch.setattr(PROVIDERS["tracer"], self.tracers)
        monkeypatch.setattr(PROVIDERS["meter"], self.meters)

    @property
    def tracer(self) -> Tracer:
        """For spans of the user's own."""
        return trace.get_tracer("the user's")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All that have ended."""
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of a name, in the order in which they began."""
        found = [span for span in self.spans if span.name == name]
        return sorted(found, key=lambda span: span.start_time or 0)

    def one(self, name: str) -> ReadableSpan:
        """The only one of a name."""
        [span] = self.named(name)
        return span

    async def ended(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """Those of a name, once there are so many."""
        await until(lambda: len(self.named(name)) >= count)
        return self.named(name)

    @property
    def metrics(self) -> Iterator[tuple[str, str, Any]]:
        """Each point of each metric, with the metric's name and unit."""
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        yield metric.name, metric.unit or "", point

    def values(self, name: str) -> dict[tuple[Any, ...], Any]:
        """A metric's values, or how many were measured, by the values of its attributes."""
        found: dict[tuple[Any, ...], Any] = {}
        for metric, _, point in self.metrics:
            if metric == name:
                attributes: dict[str, Any] = dict(point.attributes)
                measured = point.count if hasattr(point, "count") else point.value
                found[tuple(attributes.values())] = measured
        return found


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Everything is recorded, and here it is."""
    there = Recorded()
    there.use(monkeypatch)
    return there


@pytest.fixture
def unset_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test set the providers as a program does, which a process can do but once."""
    for where in PROVIDERS.values():
        monkeypatch.setattr(where, None)
        monkeypatch.setattr(f"{where}_SET_ONCE", Once())
    proxies = type(get_meter_provider())()  # of instruments that no other test has made
    monkeypatch.setattr("opentelemetry.metrics._internal._PROXY_METER_PROVIDER", proxies)


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    """What it says."""
    return dict(span.attributes or {})


def is_child_of(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether one is part of the other."""
    context = parent.context
    assert context is not None
    return (
        span.parent is not None
        and span.parent.span_id == context.span_id
        and span.parent.trace_id == context.trace_id
    )


def linked_to(span: ReadableSpan) -> list[tuple[int, int]]:
    """Which spans it is linked to."""
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def name_of(span: ReadableSpan) -> tuple[int, int]:
    """By what others are linked to it."""
    assert span.context is not None
    return span.context.trace_id, span.context.span_id
