"""A store with one event of each sort in it, as a server has left it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from callback_peer import body_of, post_to, select_in, until, url_in
from click.testing import CliRunner, Result

from qmc_async import CallbackServer, Disconnected, Reject, Retry
from qmc_async.cli import cli

if TYPE_CHECKING:
    from pathlib import Path

NUMBER = "13912345678"
MASKED = "139****5678"
TALK = {
    "startTime": "2026-01-31 23:59:50",
    "answerTime": "2026-02-01 00:00:00",
    "endTime": "2026-02-01 01:02:03",
    "callDuration": "3723",
    "recordingResult": "success",
    "outCallId": "order-1",
}
UNREADABLE = b"\xff\xfe " + NUMBER.encode()
BODIES = (
    body_of("1001", **TALK),
    body_of("1002", reason="CalleeBusy", outCallId="order-2", callDuration="soon"),
    body_of("1001", reason="Other", **{**TALK, "endTime": "2026-02-01 01:02:04"}),
    b'{"callidentifier": "1003", "status": "Ringing", "caller": "%s"}' % NUMBER.encode(),
    UNREADABLE,
)
"""In the order in which they came: the third is a conflict, the last two are unknown."""

COLOURS = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}


def qmc(folder: Path, *words: str, columns: int = 0, answer: str | None = None) -> Result:
    """Run `qmc events` on the store in a folder; on a terminal of so many columns, if any."""
    terminal = {**COLOURS, "COLUMNS": str(columns)} if columns else {}
    runner = CliRunner(env={"QMC_STORE": url_in(folder), **terminal})
    return runner.invoke(cli, ["events", *words], input=answer)


async def keep(folder: Path, *bodies: bytes, calls: int = 0) -> None:
    """Let a server take bodies, and end once its handlers have been called often enough.

    ``crm`` does its work; ``billing`` gives up 1001, and has to wait an hour to try 1002 again.
    """
    server = CallbackServer(store=url_in(folder), port=0)
    called: list[str] = []

    @server.on_disconnected(name="crm")
    async def crm(event: Disconnected) -> None:
        called.append(event.call_id)

    @server.on_disconnected(name="billing", retry=Retry(first_delay=3600, longest_delay=3600))
    async def billing(event: Disconnected) -> None:
        called.append(event.call_id)
        if event.call_id == "1001":
            raise Reject(f"no order for {NUMBER}\nin the books")
        if event.call_id == "1002":
            raise ConnectionError("the books are closed")

    async with server:
        for body in bodies:
            assert (await post_to(server, body)).status == 200
        await until(lambda: len(called) >= calls)
        # Only a server routes a conflict.
        await until(lambda: not select_in(folder, "SELECT 1 FROM qmc_events WHERE NOT routed"))


def fill(folder: Path) -> None:
    """One event of each sort."""
    asyncio.run(keep(folder, *BODIES, calls=4))
