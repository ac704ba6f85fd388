"""Whether there is anybody to tell: OpenTelemetry is looked for once for each client or server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from qmc_async.telemetry.silent import SILENT

if TYPE_CHECKING:
    from qmc_async.telemetry.silent import FindTrace, Telemetry

__all__ = ["telemetry_for"]

logger = logging.getLogger(__name__)


def telemetry_for(find_trace: FindTrace | None = None) -> Telemetry:
    """By OpenTelemetry, or silent where that is missing or too old.

    Args:
        find_trace: finds what notifications and handlers are to be linked to.
    """
    try:
        # Here, so that who imports this library does not import that one, too.
        from qmc_async.telemetry.recorder import Recorder  # noqa: PLC0415
    except ImportError as error:
        logger.debug("there are no traces and metrics: %s", error)
        return SILENT
    return Recorder(find_trace)
