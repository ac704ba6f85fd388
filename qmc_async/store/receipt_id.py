"""Ids of requests: asking for chance each time would cost as much as decoding a notification."""

from __future__ import annotations

import itertools
import os
import secrets
import time

__all__ = ["new_receipt_id"]


class _Ids:
    """A process's own, by chance, and counted from the moment at which it began."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Be another process."""
        self._process = secrets.token_hex(8)
        self._count = itertools.count(time.time_ns())

    def new(self) -> str:
        """Make one; threads need not take turns."""
        return f"{self._process}{next(self._count):016x}"


_ids = _Ids()
if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows does not fork
    os.register_at_fork(after_in_child=_ids.renew)


def new_receipt_id() -> str:
    """32 characters that no other process, and nobody in this one, has been given."""
    return _ids.new()
