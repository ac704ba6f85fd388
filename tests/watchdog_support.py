"""What the tests of the watchdog share: a platform that is asked for recordings, and a server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from callback_peer import Seen, hurry, select_in, url_in
from faulty_platform import DONE, always, http
from ledger_support import client_of, place

from qmc_async import AsyncQmcClient, CallbackServer
from qmc_async.models import CallState
from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection
    from pathlib import Path

    import pytest
    from faulty_platform import Behaviour, Connection, FaultyPlatform

    from qmc_async.store.ledger import Opening

HOUR = 3_600_000  # milliseconds
RECORDED = always(http(DONE))
NOT_RECORDED = http(b'{"code": 40400, "msg": "no recording"}')
SILENT = always(NOT_RECORDED)
KINDS = "SELECT event_id, kind FROM qmc_events ORDER BY seq"


def hurry_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for overdue calls every few milliseconds, not every five seconds."""
    hurry(monkeypatch)
    monkeypatch.setattr("qmc_async.callback.watchdog._LOOKED_EVERY", 0.01)
    monkeypatch.setattr("qmc_async.callback.watchdog._FORWARDED_WITHIN", 0.01)


def recorded(call_ids: Collection[str]) -> Behaviour:
    """Have recordings of these calls, and of no others."""

    async def behaviour(connection: Connection) -> None:
        while True:
            await connection.read_request()
            is_there = connection.platform.seen[-1].json["callidentifier"] in call_ids
            connection.writer.write(http(DONE) if is_there else NOT_RECORDED)

    return behaviour


def asked(platform: FaultyPlatform) -> list[tuple[str, str | None]]:
    """Each request that the platform saw: the operation, and the call's id."""
    return [
        (request.line.split()[1].rpartition("/")[2], request.json.get("callidentifier"))
        for request in platform.seen
    ]


def make_overdue(folder: Path, out_call_id: str | None = None) -> None:
    """Let the deadline of calls pass, and the leases of those that are being looked for."""
    which = "" if out_call_id is None else " AND out_call_id = ?"
    arguments = [] if out_call_id is None else [out_call_id]
    select_in(
        folder,
        f"UPDATE qmc_calls SET due_at = 1 WHERE due_at IS NOT NULL{which}",  # noqa: S608 - our own words
        *arguments,
    )


def calls_in(folder: Path) -> dict[str, tuple[str, int, bool]]:
    """State, looks and whether there will be another look, by `out_call_id`."""
    rows = select_in(
        folder, "SELECT out_call_id, state, looks, due_at IS NOT NULL FROM qmc_calls ORDER BY seq"
    )
    return {ours: (state, looks, bool(is_due)) for ours, state, looks, is_due in rows}


class Watched:
    """A server that looks after a client's calls, with a handler for either end of a call."""

    def __init__(self, folder: Path, client: AsyncQmcClient, server: CallbackServer) -> None:
        self.folder = folder
        self.client = client
        self.server = server
        self.seen = Seen()

    async def place(
        self,
        call_id: str | None = "4711",
        out_call_id: str = "order-1",
        *,
        state: CallState = CallState.PLACED,
        again: bool = False,
    ) -> Opening:
        """Write down a call that is overdue in an hour."""
        assert self.client.store is not None
        return await place(
            self.client.store, call_id, out_call_id, state=state, again=again, missing_after=HOUR
        )

    async def overdue(self, call_id: str | None = "4711", out_call_id: str = "order-1") -> None:
        """Write down a call that is overdue."""
        await self.place(call_id, out_call_id)
        make_overdue(self.folder, out_call_id)

    @property
    def told(self) -> list[tuple[str, str | None]]:
        """What handlers got: their name, and the call's id."""
        return [(name, event.call_id) for name, event in self.seen.all]


@asynccontextmanager
async def watched(
    folder: Path,
    url: str,
    **options: Any,  # noqa: ANN401 - any of the client's
) -> AsyncGenerator[Watched]:
    """A running server and its client, which asks the platform at `url`."""
    # The client's own tries would hide the watchdog's.
    with_defaults = {"max_retries": 0} | options
    client = client_of(url, Store(url_in(folder), patience=30), **with_defaults)
    server = CallbackServer(client=client, port=0, shutdown_timeout=0.2)
    there = Watched(folder, client, server)
    server.on_missing(name="missing")(there.seen.handler("missing"))
    server.on_disconnected(name="ended")(there.seen.handler("ended"))
    async with client, server:
        yield there


def server_of(folder: Path, url: str) -> CallbackServer:
    """A server with a client of its own, and no handlers yet."""
    client = client_of(url, Store(url_in(folder), patience=30), max_retries=0)
    return CallbackServer(client=client, port=0, shutdown_timeout=0.2)


@asynccontextmanager
async def running(server: CallbackServer) -> AsyncGenerator[None]:
    """The server, and its client."""
    client = server.client
    assert isinstance(client, AsyncQmcClient)
    async with client, server:
        yield


async def place_on(server: CallbackServer, call_id: str | None = "4711") -> None:
    """Write down a call that is overdue in an hour; the server runs."""
    assert server.client is not None
    assert server.client.store is not None
    await place(server.client.store, call_id, f"order-{call_id}", missing_after=HOUR)
