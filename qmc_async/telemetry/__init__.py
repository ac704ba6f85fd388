"""Traces and metrics, by OpenTelemetry where that is installed."""

from __future__ import annotations

from qmc_async.telemetry.silent import (
    SILENT,
    FindTrace,
    Handling,
    Placing,
    Receiving,
    Span,
    Telemetry,
)
from qmc_async.telemetry.wanted import telemetry_for

__all__ = [
    "SILENT",
    "FindTrace",
    "Handling",
    "Placing",
    "Receiving",
    "Span",
    "Telemetry",
    "telemetry_for",
]
