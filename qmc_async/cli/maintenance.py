"""`qmc events replay` and `qmc events purge`: what changes a store."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

from qmc_async.cli.quantity import Quantity
from qmc_async.cli.running import FAILED, fail, reporting
from qmc_async.cli.shown import as_time, printable
from qmc_async.cli.visit import PAGE, identifier, pages, store_option, visit
from qmc_async.models import BEIJING
from qmc_async.store.records import Kind, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmc_async.store import Store, StoredEvent

__all__ = ["purge", "replay"]

_AT_ONCE: Final = 100  # events of one transaction: a server's notifications come in between
_BREATH: Final = 0.03  # seconds; a server that waits for the file looks as often as that
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def _ask(question: str, *, yes: bool) -> None:
    # Not in a coroutine: there, Ctrl-C would wait for the answer.
    if yes:
        return
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        agreed = False
    if not agreed:
        fail("nothing was changed; --yes does it without asking")


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=identifier)
@click.option("--handler", metavar="NAME", type=identifier, help="Only what this one gave up.")
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@_yes_option
@store_option
@reporting
def replay(
    ids: tuple[str, ...], handler: str | None, url: str, *, everything: bool, yes: bool
) -> None:
    """Give dead letters to their handlers again, as if they had never been tried.

    ID is an event id, a call id or an out call id. An event that could not be decoded is decoded
    again. A running server begins within a second. Exit status 1: for one ID or more there was
    nothing to replay.

    Example: qmc events replay 128754716574532539 --handler crm
    """
    if everything == bool(ids):
        raise click.UsageError("give either IDs or --all")
    if everything:
        dead = asyncio.run(_find_dead(url, handler))
        if not dead:
            fail("there are no dead letters" + _of(handler))
        _ask(f"Replay the dead letters of {len(dead)} events?", yes=yes)
        asyncio.run(_replay_all(url, dead, handler))
    elif not asyncio.run(_replay_each(url, ids, handler)):
        sys.exit(FAILED)


def _of(handler: str | None) -> str:
    return "" if handler is None else f" of the handler {printable(handler)}"


async def _find_dead(url: str, handler: str | None) -> list[str]:
    from qmc_async.store.events import Listing  # noqa: PLC0415 - see `visit`

    async with visit(url) as store:
        return [
            stored.event_id
            async for found, _ in pages(store, Listing(limit=PAGE, state=State.DEAD))
            for stored in found
            if _is_dead(stored, handler)
        ]


def _is_dead(stored: StoredEvent, handler: str | None) -> bool:
    return any(
        delivery.state is State.DEAD and handler in (None, delivery.handler)
        for delivery in stored.deliveries
    )


async def _replay_all(url: str, event_ids: Sequence[str], handler: str | None) -> None:
    async with visit(url) as store:
        for start in range(0, len(event_ids), _AT_ONCE):
            some = event_ids[start : start + _AT_ONCE]
            done = await asyncio.gather(*(store.replay(one, handler) for one in some))
            for event_id, names in zip(some, done, strict=True):
                click.echo(_told(event_id, names))
            await asyncio.sleep(_BREATH)


async def _replay_each(url: str, ids: Sequence[str], handler: str | None) -> bool:
    async with visit(url) as store:
        return all([await _replay_one(store, one, handler) for one in dict.fromkeys(ids)])


async def _replay_one(store: Store, wanted: str, handler: str | None) -> bool:
    from qmc_async.store.events import Listing  # noqa: PLC0415 - see `visit`

    found, _ = await store.list_events(Listing(limit=PAGE, identifier=wanted))
    done = False
    for stored in found:
        if names := await store.replay(stored.event_id, handler):
            click.echo(_told(stored.event_id, names))
            done = True
    if not done:
        if not found:
            why = "there is no such event"
        elif any(stored.kind is Kind.UNKNOWN for stored in found):
            why = f"it is no dead letter{_of(handler)}, and still cannot be decoded"
        else:
            why = f"it is no dead letter{_of(handler)}"
        click.echo(f"{printable(wanted)}  nothing to replay: {why}", err=True)
    return done


def _told(event_id: str, names: Sequence[str]) -> str:
    if names == ["*"]:
        return f"{printable(event_id)}  can be decoded now, and goes to whom it concerns"
    if not names:
        return f"{printable(event_id)}  was replayed meanwhile"
    return f"{printable(event_id)}  again to {', '.join(map(printable, names))}"


@click.command()
@click.option(
    "--older-than",
    "days",
    type=Quantity(0, 36500),
    metavar="DAYS",
    required=True,
    help="Only what came longer ago.",
)
@_yes_option
@store_option
@reporting
def purge(days: float, url: str, *, yes: bool) -> None:
    """Delete finished events for good.

    Events with dead letters stay, and so do those that are still to be handled.

    Example: qmc events purge --older-than 90
    """
    before = datetime.now(BEIJING) - timedelta(days=days)
    place = asyncio.run(_find(url))
    _ask(f"Delete what is finished and came before {as_time(before)} from {place}?", yes=yes)
    count = asyncio.run(_purge(url, before))
    click.echo(f"{count} event{'' if count == 1 else 's'} deleted")


async def _find(url: str) -> str:
    async with visit(url) as store:
        return store.place


async def _purge(url: str, before: datetime) -> int:
    async with visit(url) as store:
        return await store.purge(before)
