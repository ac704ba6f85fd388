"""A server with much to do or to wait for: ``serve_waiting.py PORT STORE stuck|none WAITERS``.

Its handler is stuck, so that what waits in the store stays there, or there is nothing for it to do.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress

from account import SIGNER
from lifetime import end_with_parent

from qmc_async import CallbackServer, Disconnected, NotificationMissing

is_stuck = sys.argv[3] == "stuck"


async def main(port: int, store: str, waiters: int) -> None:
    """Serve until SIGTERM."""
    server = CallbackServer(signer=SIGNER, store=store, port=port, shutdown_timeout=0)

    @server.on_disconnected(name="keep")
    async def keep(_: Disconnected) -> None:  # pyright: ignore[reportUnusedFunction] - it is registered
        if is_stuck:
            await asyncio.Event().wait()

    async def wait(number: int) -> None:
        with suppress(NotificationMissing):
            await server.wait_for(out_call_id=f"never-{number}", timeout=3600)

    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with server:
        waiting = [asyncio.create_task(wait(number)) for number in range(waiters)]
        await ended.wait()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


end_with_parent()
asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[4])))
