"""Click to call with FastAPI: one process, one port, and a ledger of every call.

Against the sandbox (`qmc sandbox` shows what to export; give it the callback address that this
program prints), and then::

    curl -X POST 'http://127.0.0.1:8000/calls/order-42?agent=13987654321&customer=13912345678'
    curl 'http://127.0.0.1:8000/calls/order-42'

The second one answers once the call has ended. Calls and notifications are in qmc.db.
"""

from __future__ import annotations

import argparse
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, HTTPException

from qmc_async import (
    ArgumentError,
    AsyncQmcClient,
    CallbackServer,
    CallOutcomeUnknown,
    Disconnected,
    DuplicateCall,
    NotificationMissing,
    QmcError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

LONGEST_CALL = 3600.0  # seconds


def make_app(client: AsyncQmcClient, callbacks: CallbackServer) -> FastAPI:
    """The service, with the platform's notifications taken in the same application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        # A mounted application's own lifespan does not run, so this one starts it.
        async with client, callbacks.asgi:
            yield

    app = FastAPI(title="Click to call", lifespan=lifespan)
    app.mount("/qmc", callbacks.asgi)

    @app.post("/calls/{order}", status_code=201)
    async def place(order: str, agent: str, customer: str) -> dict[str, str]:
        """Ring the agent, then the customer."""
        try:
            call = await client.call(agent, customer, out_call_id=order)
        except DuplicateCall as error:  # a second click rings nobody twice
            raise HTTPException(409, str(error)) from None
        except ArgumentError as error:
            raise HTTPException(400, str(error)) from None
        except CallOutcomeUnknown:
            # It may be ringing. The notification carries our order number, and settles it.
            return {"state": "unknown"}
        except QmcError as error:
            raise HTTPException(502, str(error)) from None
        return {"state": "placed", "call_id": call.call_id}

    @app.get("/calls/{order}")
    async def how_it_ended(order: str) -> dict[str, str]:
        """Answer when it has."""
        try:
            event = await callbacks.wait_for(out_call_id=order, timeout=LONGEST_CALL)
        except NotificationMissing as error:
            raise HTTPException(504, str(error)) from None
        return {"reason": str(event.reason), "ended": event.end_time.isoformat()}

    return app


def main() -> None:
    """Serve on loopback; behind a proxy, --public-url is how the platform reaches it."""
    parser = argparse.ArgumentParser(description="Click to call with FastAPI")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--public-url")
    parser.add_argument("--store", default="sqlite:///qmc.db")
    options = parser.parse_args()
    client = AsyncQmcClient(store=options.store)
    callbacks = CallbackServer(
        client=client, public_url=options.public_url or f"http://127.0.0.1:{options.port}"
    )

    @callbacks.on_disconnected(name="tell")
    async def tell(event: Disconnected) -> None:
        print(event.out_call_id, event.reason, flush=True)

    print(f"callback address for the platform's console: {callbacks.url}", flush=True)
    uvicorn.run(
        make_app(client, callbacks),
        port=options.port,
        access_log=False,  # it would show the callback address to whoever reads it
        log_level="warning",
        # Or who connects and sends nothing would hold a connection for ever, and a header could
        # say who is on its other end.
        http="qmc_async.callback.uvicorn_edge:EdgeProtocol",
    )


if __name__ == "__main__":
    main()
