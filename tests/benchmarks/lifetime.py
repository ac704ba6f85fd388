"""What a server of the benchmarks does besides serving, whichever it is."""

from __future__ import annotations

import gc
import os
import signal
import sys
from threading import Thread

__all__ = ["end_with_parent", "freeze_imports"]


def end_with_parent() -> None:
    """Have a SIGTERM sent once standard input is closed."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=wait, daemon=True).start()


def freeze_imports() -> None:
    """Take what was imported off the garbage collector's list, as the README tells a service to."""
    gc.collect()
    gc.freeze()
