"""A server that tells when it knows of each call's end: ``serve_calls.py PORT STORE CALLS``.

It prints ``handler CALL TIME`` and ``wait_for CALL TIME``, by the clock that all processes share.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

from account import SIGNER
from lifetime import end_with_parent

from qmc_async import CallbackServer, Disconnected


async def main(port: int, store: str, calls: int) -> None:
    """Serve until SIGTERM."""
    server = CallbackServer(signer=SIGNER, store=store, port=port)

    @server.on_disconnected
    async def tell(event: Disconnected) -> None:  # pyright: ignore[reportUnusedFunction] - it is registered
        now = time.monotonic()
        print("handler", event.out_call_id, now, flush=True)  # noqa: T201 - it is asked for

    async def wait() -> None:
        for number in range(calls):
            await server.wait_for(out_call_id=f"call-{number}", timeout=600)
            now = time.monotonic()
            print("wait_for", f"call-{number}", now, flush=True)  # noqa: T201 - it is asked for

    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with server:
        waiting = asyncio.create_task(wait())
        await ended.wait()
        waiting.cancel()


end_with_parent()
asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
