"""For the tests of whoever uses this library, on top of `qmc_async.sandbox`.

The extra ``testing`` brings a pytest plugin: the fixtures `qmc_sandbox`, `qmc_client` and
`callback_server`. What is imported from here works with them, and without.
"""

from __future__ import annotations

from qmc_async.testing.handling import HandlerFailed, handled
from qmc_async.testing.notifications import Answer, disconnected, post_disconnected

__all__ = ["Answer", "HandlerFailed", "disconnected", "handled", "post_disconnected"]
