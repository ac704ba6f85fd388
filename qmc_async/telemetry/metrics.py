"""The instruments of OpenTelemetry that are counted and measured with.

What tells two series of a metric apart has few values: never an id, nor what came from outside.
"""

from __future__ import annotations

import time
from functools import lru_cache
from inspect import signature
from threading import Lock
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from attrs import frozen
from opentelemetry.metrics import (
    Counter,
    Histogram,
    Meter,
    Observation,
    get_meter,
    get_meter_provider,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import CallbackOptions, MeterProvider

__all__ = ["SCOPE", "Backlog", "Instruments", "instruments"]

SCOPE: Final = "qmc_async"
"""The name of the instrumentation scope."""

_ANSWERS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.4, 0.7, 1.0, 2.5, 5.0, 10.0)
_RUNS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_COUNTED_EVERY: Final = 10.0  # seconds

if "explicit_bucket_boundaries_advisory" not in signature(Meter.create_histogram).parameters:
    # By default they are made for milliseconds: all that is under five seconds would look the same.
    raise ImportError("opentelemetry-api is too old: qmc-async needs 1.30")


@frozen
class Instruments:
    """See the README for what each of them means."""

    calls: Counter
    overdue_calls: Counter
    notifications: Counter
    answers: Histogram
    runs: Histogram
    retries: Counter
    dead_letters: Counter


def instruments() -> Instruments:
    """The instruments of the present provider, made once for each."""
    return _made_by(get_meter_provider())


@lru_cache(maxsize=4)
def _made_by(provider: MeterProvider) -> Instruments:
    # Once: until a provider is set, OpenTelemetry's proxies stand for it, and it forgets none.
    meter = get_meter(SCOPE, meter_provider=provider)
    meter.create_observable_gauge(
        "qmc.backlog",
        [_observe],
        unit="{delivery}",
        description="Deliveries that wait for their handler, or are with it, in the whole store",
    )
    return Instruments(
        calls=meter.create_counter("qmc.calls", "{call}", "Calls, by what became of placing them"),
        overdue_calls=meter.create_counter(
            "qmc.overdue_calls", "{call}", "Calls of which no notification came by the deadline"
        ),
        notifications=meter.create_counter(
            "qmc.notifications", "{notification}", "Notifications that came"
        ),
        answers=meter.create_histogram(
            "qmc.notification.duration",
            "s",
            "How long it took to answer a notification, from when it was read",
            explicit_bucket_boundaries_advisory=_ANSWERS,
        ),
        runs=meter.create_histogram(
            "qmc.handler.duration",
            "s",
            "How long handlers ran",
            explicit_bucket_boundaries_advisory=_RUNS,
        ),
        retries=meter.create_counter(
            "qmc.handler.retries", "{retry}", "Runs that failed, and are tried again"
        ),
        dead_letters=meter.create_counter(
            "qmc.dead_letters", "{delivery}", "Deliveries that were given up"
        ),
    )


class Backlog:
    """What one server knows of the deliveries that wait in its store.

    Whoever reads the metrics does so on a thread of its own, and gets what was counted last.
    Nothing is counted while nobody reads.
    """

    def __init__(self) -> None:
        self._waiting: Mapping[str, int] = {}
        self._is_asked = False
        self._due = 0.0
        with _lock:
            _backlogs.add(self)

    def is_due(self) -> bool:
        """Whether somebody has asked, and the last count is old."""
        return self._is_asked and time.monotonic() >= self._due

    def tell(self, waiting: Mapping[str, int]) -> None:
        """Have it told from now on."""
        self._waiting = waiting
        self._is_asked = False
        self._due = time.monotonic() + _COUNTED_EVERY

    def ask(self) -> Mapping[str, int]:
        """What was told last."""
        self._is_asked = True
        return self._waiting


# Of a name there is one gauge in a process, whose first callback stays; servers come and go.
_backlogs: WeakSet[Backlog] = WeakSet()
_lock = Lock()


def _observe(_: CallbackOptions) -> list[Observation]:
    with _lock:
        asked = list(_backlogs)
    most: dict[str, int] = {}
    for one in asked:
        for handler, waiting in one.ask().items():
            # Servers of one process that have the same handler most likely share the store, too.
            most[handler] = max(most.get(handler, 0), waiting)
    return [Observation(waiting, {"qmc.handler": handler}) for handler, waiting in most.items()]
