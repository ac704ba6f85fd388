"""Click to call: a service that rings an agent, then a customer, and keeps the recording.

Against the sandbox (`qmc sandbox` shows what to export; give it the callback address that this
program prints), and then::

    curl -d '{"id": "order-42", "agent": "13987654321", "customer": "13912345678"}' \
        http://127.0.0.1:8000/calls
    curl http://127.0.0.1:8000/calls/order-42

It keeps its calls in memory; a real service has a database. The notifications are on disk (qmc.db):
what a crash interrupts, a recording that was being fetched for one, goes on after the restart.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from qmc_async import (
    ArgumentError,
    AsyncQmcClient,
    CallbackServer,
    CallOutcomeUnknown,
    Disconnected,
    QmcError,
    RecordingResult,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ClickToCall:
    """What the service knows of its calls, by the shop's own order number."""

    def __init__(self, client: AsyncQmcClient, callbacks: CallbackServer, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.calls: dict[str, dict[str, str]] = {}
        callbacks.on_disconnected(self.note_the_end)
        callbacks.on_disconnected(where=was_recorded)(self.save_the_recording)

    async def place(self, request: web.Request) -> web.Response:
        """POST /calls."""
        wanted = await request.json()
        order = wanted["id"]
        if order in self.calls:  # a second click rings nobody twice
            return web.json_response(self.calls[order])
        known = self.calls[order] = {"state": "placing"}
        try:
            call = await self.client.call(wanted["agent"], wanted["customer"], out_call_id=order)
        except CallOutcomeUnknown:
            # It may be ringing. The notification carries our order number, and settles it.
            state = "unknown"
        except ArgumentError as error:
            del self.calls[order]
            raise web.HTTPBadRequest(text=str(error)) from None
        except QmcError as error:
            del self.calls[order]
            raise web.HTTPBadGateway(text=str(error)) from None
        else:
            state = "placed"
            known["call_id"] = call.call_id
        if known["state"] == "placing":  # the notification may have overtaken the reply
            known["state"] = state
        return web.json_response(known, status=201)

    async def show(self, request: web.Request) -> web.Response:
        """GET /calls/{order}."""
        known = self.calls.get(request.match_info["order"])
        if known is None:
            raise web.HTTPNotFound
        return web.json_response(known)

    async def note_the_end(self, event: Disconnected) -> None:
        """Handler: how the call ended."""
        known = self.calls.setdefault(event.out_call_id or event.call_id, {})
        known |= {"call_id": event.call_id, "state": "ended", "reason": str(event.reason)}

    async def save_the_recording(self, event: Disconnected) -> None:
        """Handler: the recording is not ready at once, and gone after three days."""
        recording = await self.client.recording(event, wait=60)
        saved = await self.client.download(recording, self.folder)
        known = self.calls.setdefault(event.out_call_id or event.call_id, {})
        known["recording"] = saved.path.name


def was_recorded(event: Disconnected) -> bool:
    """Filter: there is something to save."""
    return event.recording_result == RecordingResult.SUCCESS


def make_app(client: AsyncQmcClient, callbacks: CallbackServer, folder: Path) -> web.Application:
    """The service, with the platform's notifications taken in the same application."""
    service = ClickToCall(client, callbacks, folder)

    async def own_the_client(_: web.Application) -> AsyncIterator[None]:
        async with client:
            yield

    app = web.Application()
    app.add_routes([web.post("/calls", service.place), web.get("/calls/{order}", service.show)])
    app.cleanup_ctx.append(own_the_client)
    callbacks.attach(app)
    return app


def main() -> None:
    """Serve on loopback; behind a proxy, --public-url is how the platform reaches it."""
    parser = argparse.ArgumentParser(description="Click to call")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--public-url")
    parser.add_argument("--folder", type=Path, default=Path("recordings"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    client = AsyncQmcClient()
    callbacks = CallbackServer(
        signer=client.signer,
        public_url=options.public_url or f"http://127.0.0.1:{options.port}",
    )
    print(f"callback address for the platform's console: {callbacks.url}", flush=True)
    # Without an access log: it would show the callback address to whoever reads it.
    web.run_app(
        make_app(client, callbacks, options.folder),
        host="127.0.0.1",
        port=options.port,
        access_log=None,
        print=None,
    )


if __name__ == "__main__":
    main()
