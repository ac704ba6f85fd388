"""The receiver mounted in FastAPI, as the README has it: ``serve_qmc_asgi.py PORT STORE``."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import uvicorn
from account import SIGNER
from fastapi import FastAPI
from lifetime import end_with_parent, freeze_imports

from qmc_async import CallbackServer, Disconnected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

server = CallbackServer(signer=SIGNER, store=sys.argv[2], public_url="https://crm.example.com")


@server.on_disconnected
async def ignore(event: Disconnected) -> None:
    """Do nothing: what the library itself takes is measured."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Start the receiver with the application."""
    async with server.asgi:
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/qmc", server.asgi)
end_with_parent()
freeze_imports()
uvicorn.run(
    app,
    port=int(sys.argv[1]),
    http="qmc_async.callback.uvicorn_edge:EdgeProtocol",
    access_log=False,
    log_level="warning",
)
