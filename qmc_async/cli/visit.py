"""A store, as the commands open it while a server may have it open too."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from attrs import evolve

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from qmc_async.store import Store, StoredEvent
    from qmc_async.store.events import Listing
    from qmc_async.store.ledger import CallListing

__all__ = ["PAGE", "identifier", "pages", "pages_of", "store_option", "visit"]

F = TypeVar("F", bound="Callable[..., Any]")
L = TypeVar("L", "Listing", "CallListing")
T = TypeVar("T")

PAGE: Final = 500
"""How many events are in memory at once."""


def store_option(command: F) -> F:
    """Give a command the option `--store`, as its parameter ``url``."""
    return click.option(
        "--store",
        "url",
        metavar="URL",
        envvar="QMC_STORE",
        default="sqlite:///qmc.db",
        show_default=True,
        show_envvar=True,
        help="The store of a server, which may be running.",
    )(command)


@asynccontextmanager
async def visit(url: str) -> AsyncGenerator[Store]:
    """Open a store that is there."""
    # SQLAlchemy takes a tenth of a second, which the other commands need not pay.
    from qmc_async.store import Store  # noqa: PLC0415

    async with Store(url, visiting=True) as store:
        yield store


async def pages(
    store: Store, listing: Listing
) -> AsyncGenerator[tuple[Sequence[StoredEvent], int]]:
    """All events of a listing, newest first, and after each page the position in the store."""
    async for page in pages_of(store.list_events, listing):
        yield page


async def pages_of(
    read: Callable[[L], Awaitable[tuple[Sequence[T], int]]], listing: L
) -> AsyncGenerator[tuple[Sequence[T], int]]:
    """The same of anything that a store lists so."""
    while True:
        found, position = await read(listing)
        yield found, position
        if not position:
            return
        listing = evolve(listing, before=position)


def identifier(value: str) -> str:
    """Take an event id, a call id or an `out_call_id`; a terminal may send bytes that are none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is no text in UTF-8") from None
    return value
