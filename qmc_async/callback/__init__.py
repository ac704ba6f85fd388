"""The receiving half: the platform's notifications, and the handlers that want them."""

from __future__ import annotations

from qmc_async.callback.server import CallbackServer

__all__ = ["CallbackServer"]
