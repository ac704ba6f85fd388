"""What a server of the benchmarks does besides serving: it ends with who has started it."""

from __future__ import annotations

import os
import signal
import sys
from threading import Thread

__all__ = ["end_with_parent"]


def end_with_parent() -> None:
    """Have a SIGTERM sent once standard input is closed."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=wait, daemon=True).start()
