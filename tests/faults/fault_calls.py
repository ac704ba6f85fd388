"""Placing calls in a process under test: a file tells it which, another has what became of each.

Where it dies in between, the process that comes next places all of them again, as a service does
that does not know how far it came.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qmc_async import AsyncQmcClient, CallOutcomeUnknown, Credentials, DuplicateCall, Signer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from qmc_async.store import Store

__all__ = ["CREDENTIALS", "callback_url", "client_in", "placing", "write_calls"]

logger = logging.getLogger(__name__)

CREDENTIALS: Final = Credentials(1696054309969104898, "secret")
_CALLER: Final = "13987654321"


def callback_url(port: int) -> str:
    """Where a process that listens on this port takes notifications."""
    return f"http://127.0.0.1:{port}/qmc/callback/{Signer(CREDENTIALS).callback_token}"


def write_calls(file: Path, wanted: Iterable[tuple[str, str]]) -> str:
    """Write down which calls are to be placed: `out_call_id` and callee; the file's name."""
    file.write_text(json.dumps(list(wanted)))
    return str(file)


@asynccontextmanager
async def client_in(options: dict[str, Any], store: Store) -> AsyncGenerator[AsyncQmcClient | None]:
    """A client with a ledger in the store, if there is a platform for it."""
    if not options["platform"]:
        yield None
        return
    client = AsyncQmcClient(
        CREDENTIALS.app_id,
        CREDENTIALS.app_secret,
        base_url=options["platform"],
        record_base_url=options["platform"],
        store=store,
        missing_after=options["missing_after"],
    )
    async with client:
        yield client


@asynccontextmanager
async def placing(options: dict[str, Any], client: AsyncQmcClient | None) -> AsyncGenerator[None]:
    """Place the calls that the process is told of, while the block goes on."""
    if client is None or not options["calls"]:
        yield
        return
    task = asyncio.create_task(_place(options, client))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _place(options: dict[str, Any], client: AsyncQmcClient) -> None:
    called = os.open(options["called"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    left = iter(_read_calls(options["calls"]))

    async def place_some() -> None:
        for out_call_id, callee in left:
            outcome = await _call(client, out_call_id, callee)
            os.write(called, f"{outcome} {out_call_id}\n".encode())

    try:
        await asyncio.gather(*(place_some() for _ in range(options["calls_at_once"])))
    except Exception:
        logger.exception("the calls could not be placed")
        raise
    with suppress(FileNotFoundError):
        os.unlink(options["calls"])  # noqa: PTH108 - in a coroutine, a path's methods are not allowed


def _read_calls(file: str) -> list[tuple[str, str]]:
    if not Path(file).exists():  # the process before this one came to the end
        return []
    return [(out_call_id, callee) for out_call_id, callee in json.loads(Path(file).read_text())]


async def _call(client: AsyncQmcClient, out_call_id: str, callee: str) -> str:
    try:
        await client.call(_CALLER, callee, out_call_id=out_call_id)
    except DuplicateCall:
        return "known"
    except CallOutcomeUnknown:
        return "unknown"
    return "placed"
