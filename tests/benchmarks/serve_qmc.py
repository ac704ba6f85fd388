"""`CallbackServer` as a user writes it: ``serve_qmc.py PORT STORE``."""

from __future__ import annotations

import asyncio
import signal
import sys

from account import SIGNER
from lifetime import end_with_parent, freeze_imports

from qmc_async import CallbackServer, Disconnected


async def main(port: int, store: str) -> None:
    """Serve until SIGTERM."""
    server = CallbackServer(signer=SIGNER, store=store, port=port)

    @server.on_disconnected
    async def ignore(event: Disconnected) -> None:  # pyright: ignore[reportUnusedFunction] - it is registered
        """Do nothing: what the library itself takes is measured."""

    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with server:
        await ended.wait()


end_with_parent()
freeze_imports()
asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
