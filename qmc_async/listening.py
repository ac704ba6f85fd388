"""An aiohttp server on a port of its own, which loses no socket and quotes no request."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from aiohttp import web
from aiohttp.http import HttpProcessingError

__all__ = ["discreet_logger", "listen"]

_QUIET: Final = 60.0  # seconds


def discreet_logger(name: str) -> logging.Logger:
    """A logger for aiohttp's server, which else logs what it cannot read of a request.

    That would be the secret path, ``Authorization`` and the body; the error's name is left, once a
    minute: who sends such requests must not fill the log.
    """
    logger = logging.getLogger(name)
    if not any(isinstance(one, _Discretion) for one in logger.filters):
        logger.addFilter(_Discretion())
    return logger


class _Discretion(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError | web.RequestPayloadError):
            return True
        self._count += 1
        record.msg = f"{record.msg}: {type(error).__name__} ({self._count} so far)"
        record.exc_info = None
        if time.monotonic() < self._quiet_until:
            return False
        self._quiet_until = time.monotonic() + _QUIET
        return True


async def listen(runner: web.ServerRunner | web.AppRunner, host: str, port: int) -> int:
    """Open the port; `runner.cleanup` closes it.

    Args:
        runner: not set up yet. It is cleaned up where this fails or is cancelled.
        host: the address to listen on.
        port: 0 for a free one.

    Returns:
        The port.

    Raises:
        OSError: the port is taken, or the address is none of this machine's.
    """
    opening = asyncio.create_task(_open(runner, host, port))
    try:
        # asyncio forgets a listening socket when it is cancelled at the wrong moment, so a
        # cancelled start lets the listening begin before it is ended.
        await asyncio.shield(opening)
    except BaseException:
        await asyncio.gather(opening, return_exceptions=True)
        await runner.cleanup()
        raise
    return int(runner.addresses[0][1])


async def _open(runner: web.ServerRunner | web.AppRunner, host: str, port: int) -> None:
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
