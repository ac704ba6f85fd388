"""One replica of a click-to-call service; run.py starts three of them behind nginx.

``POST /calls`` rings an agent, then a customer, and answers once the call has ended, whichever
replica is told of its end. ``GET /calls/ID`` answers the same: for whoever asked a replica that
died meanwhile. ``GET /`` shows what this replica has done.

What makes it fit for several machines is one variable: QMC_STORE names one database for all.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from aiohttp import web

from qmc_async import (
    ArgumentError,
    AsyncQmcClient,
    CallbackServer,
    CallOutcomeUnknown,
    Disconnected,
    QmcError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE: Final = 60.0  # seconds; a call may take longer, and is asked for again then


class Service:
    """What one replica does. It keeps nothing in memory that the others would miss."""

    def __init__(self, name: str, client: AsyncQmcClient, callbacks: CallbackServer) -> None:
        self.name = name
        self.client = client
        self.callbacks = callbacks
        self.placed = self.handled = 0
        callbacks.on_disconnected(name="bill")(self.bill)

    async def place(self, request: web.Request) -> web.Response:
        """POST /calls. Its ``id`` is new: a shop would take it from its own database."""
        wanted = await request.json()
        try:
            await self.client.call(wanted["agent"], wanted["customer"], out_call_id=wanted["id"])
        except CallOutcomeUnknown:
            pass  # it may be ringing: to wait for its end settles that
        except ArgumentError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        except QmcError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        self.placed += 1
        return await self.tell_the_end(wanted["id"])

    async def show(self, request: web.Request) -> web.Response:
        """GET /calls/{id}."""
        return await self.tell_the_end(request.match_info["id"])

    async def tell_the_end(self, order: str) -> web.Response:
        """Wait for a notification that any replica may receive, or has received long ago."""
        try:
            event = await self.callbacks.wait_for(out_call_id=order, timeout=PATIENCE)
        except TimeoutError:
            return web.json_response({"replica": self.name, "state": "open"}, status=202)
        known = {"replica": self.name, "state": "ended", "reason": str(event.reason)}
        return web.json_response(known)

    async def bill(self, event: Disconnected) -> None:
        """Handler: it runs on one replica, mostly on the one that received the notification."""
        self.handled += 1
        print(event.out_call_id, flush=True)  # run.py reads it, also after this process is killed

    async def report(self, _: web.Request) -> web.Response:
        """GET /."""
        return web.json_response(
            {
                "replica": self.name,
                "placed": self.placed,
                "handled": self.handled,
                "problems": dict(self.callbacks.problems),
            }
        )


def make_app(name: str, client: AsyncQmcClient, callbacks: CallbackServer) -> web.Application:
    """The service, with the platform's notifications taken in the same application."""
    service = Service(name, client, callbacks)

    async def own_the_client(_: web.Application) -> AsyncIterator[None]:
        async with client:
            yield

    app = web.Application()
    app.add_routes(
        [
            web.get("/", service.report),
            web.post("/calls", service.place),
            web.get("/calls/{id}", service.show),
        ]
    )
    app.cleanup_ctx.append(own_the_client)
    callbacks.attach(app)
    return app


def main() -> None:
    """Serve on loopback, with QMC_STORE and the client's own variables."""
    parser = argparse.ArgumentParser(description="One replica of a click-to-call service")
    parser.add_argument("--name", default="1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    client = AsyncQmcClient()
    # Without an access log: it would show the callback address to whoever reads it.
    web.run_app(
        make_app(options.name, client, CallbackServer(signer=client.signer)),
        host="127.0.0.1",
        port=options.port,
        access_log=None,
        print=None,
        shutdown_timeout=2.0,  # who waits for a call's end asks another replica
    )


if __name__ == "__main__":
    main()
