"""`qmc events`: what a server has kept, and what has become of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
import orjson
from attrs import asdict, fields
from rich.text import Text

from qmc_async.cli.export import export
from qmc_async.cli.maintenance import purge, replay
from qmc_async.cli.running import fail, running
from qmc_async.cli.shown import Shown, as_talk, as_time, body_of, one_line, printable
from qmc_async.cli.table import Column, is_wide, show_rows
from qmc_async.cli.visit import identifier, store_option, visit
from qmc_async.store.records import DeadLetter, Kind, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmc_async.store import StoredDelivery, StoredEvent

__all__ = ["events"]

_STYLES: Final = {State.DONE: "green", State.PENDING: "yellow", State.DEAD: "bold red"}
# The platform's ids have up to 19 digits; those of ours are longer than a terminal has room for.
_EVENT_ID: Final = Column("event id", longest=33, whole=19)
_limit_option = click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="How many at most.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.group()
def events() -> None:
    """Look at what a server has kept, and at what its handlers gave up.

    The server may be running. Times are Beijing time.

    Example: qmc events list
    """


@events.command("list")
@_limit_option
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Only this kind.")
@click.option(
    "--state",
    type=click.Choice([state.value for state in State]),
    help="Only events that a handler has in this state.",
)
@click.option("--call", type=identifier, metavar="ID", help="Only this call id or out call id.")
@_json_option
@store_option
@running
async def list_events(
    limit: int, kind: str | None, state: str | None, call: str | None, url: str, *, as_json: bool
) -> None:
    """List events, the newest first.

    Example: qmc events list --state dead --limit 10
    """
    from qmc_async.store.events import Listing  # noqa: PLC0415 - see `visit`

    listing = Listing(
        limit=limit + 1,
        identifier=call,
        kind=None if kind is None else Kind(kind),
        state=None if state is None else State(state),
    )
    async with visit(url) as store:
        found, _ = await store.list_events(listing)
        place = store.place
    shown = [Shown.of(stored) for stored in found[:limit]]
    if as_json:
        for event in shown:
            click.echo(event.to_json({}))
    elif shown:
        _show_events(shown)
    else:
        click.echo(f"no such events in {place}", err=True)
    if len(found) > limit:
        click.echo(f"there are more than {limit}: see --limit", err=True)


def _show_events(shown: Sequence[Shown]) -> None:
    wide = is_wide()
    columns = [
        _EVENT_ID,
        Column("received", fixed=True),
        *([Column("kind", fixed=True)] if wide else []),
        Column("reason", longest=24, whole=14),
        Column("talk", fixed=True),
        Column("out call id"),
        Column("deliveries", fixed=True),
    ]
    rows: list[list[Text | str]] = []
    for event in shown:
        received, reason = as_time(event.received_at), one_line(event.outcome)
        kind = [Text(event.kind, "" if event.kind is Kind.DISCONNECTED else "yellow")]
        if not wide:
            received = received.partition("-")[2]  # the year can be missed most easily
            # What became of a call that nobody reported can be told from a reason as it is.
            is_plain = event.kind in (Kind.DISCONNECTED, Kind.MISSING)
            reason = reason if is_plain else f"{event.kind}: {reason}"
            kind.clear()
        progress = Text(event.progress if wide else event.progress.replace(", ", "\n"))
        for state, style in _STYLES.items():
            progress.highlight_words([state], style)
        rows.append(
            [
                printable(event.event_id),
                received,
                *kind,
                reason,
                as_talk(event.call_duration),
                one_line(event.out_call_id or ""),
                progress,
            ]
        )
    show_rows(columns, rows)


@events.command()
@click.argument("id_", metavar="ID", type=identifier)
@click.option("--body", is_flag=True, help="Also the bodies as they came: numbers in them whole.")
@_json_option
@store_option
@running
async def show(id_: str, url: str, *, body: bool, as_json: bool) -> None:
    """Show everything about an event: ID is its event id, its call id or its out call id.

    Telephone numbers are masked, but in identifiers, and with --body.

    Example: qmc events show 128754716574532539
    """
    from qmc_async.store.events import Listing  # noqa: PLC0415 - see `visit`

    async with visit(url) as store:
        found, _ = await store.list_events(Listing(limit=1000, identifier=id_))
        place = store.place
    if not found:
        fail(f"no event in {place} has this event id, call id or out call id: see qmc events list")
    for number, stored in enumerate(found):
        if as_json:
            click.echo(Shown.of(stored).to_json(body_of(stored) if body else {}))
            continue
        if number:
            click.echo()
        for name, value in _lines(stored, body=body):
            first, *others = value.split("\n")
            click.echo(f"{name:<14} {printable(first)}".rstrip())
            for line in others:
                click.echo(f"{'':<14} {printable(line)}".rstrip())


def _lines(stored: StoredEvent, *, body: bool) -> Iterator[tuple[str, str]]:
    event = Shown.of(stored)
    named = {
        "event id": event.event_id,
        "kind": event.kind,
        "received": as_time(event.received_at),
        "call id": event.call_id,
        "out call id": event.out_call_id,
        "status": event.status,
        "reason": event.reason,
        "placed": as_time(event.placed_at),
        "picked up": as_time(event.start_time),
        "connected": as_time(event.answer_time),
        "ended": as_time(event.end_time),
        "talk": as_talk(event.call_duration),
        "recording": event.recording_result,
        "differs in": ", ".join(event.differs_in),
        "unreadable": "\n".join(event.problems),
        "also says": event.rest,
        "handlers": "" if event.deliveries else event.progress,
    }
    for name, value in named.items():
        if value:
            yield name, value
    for delivery in event.deliveries:
        yield "handler", _told(delivery)
    if body:
        yield next(iter(body_of(stored).items()))


def _told(delivery: StoredDelivery) -> str:
    failed = f"{delivery.attempts} failed attempt{'s' if delivery.attempts != 1 else ''}"
    told = f"{delivery.handler}: {delivery.state}"
    match delivery.state:
        case State.PENDING:
            told += f", next due {as_time(delivery.due_at)}"
        case _:
            told += f" {as_time(delivery.changed_at)}"
    if delivery.attempts:
        told += f", {failed}"
    return f"{told}\n{delivery.error}" if delivery.error else told


@events.command()
@_limit_option
@_json_option
@store_option
@running
async def dead(limit: int, url: str, *, as_json: bool) -> None:
    """List dead letters: what handlers gave up, the latest first.

    Example: qmc events dead --json
    """
    async with visit(url) as store:
        letters = await store.dead_letters(limit + 1)
        place = store.place
    if as_json:
        for letter in letters[:limit]:
            click.echo(_letter_to_json(letter))
    elif letters:
        show_rows(
            [
                _EVENT_ID,
                Column("handler"),
                Column("attempts", fixed=True),
                Column("died", fixed=is_wide(), longest=None if is_wide() else 10),
                Column("error"),
            ],
            [
                [
                    printable(letter.event_id),
                    printable(letter.handler),
                    str(letter.attempts),
                    as_time(letter.died_at),
                    one_line(letter.error),
                ]
                for letter in letters[:limit]
            ],
        )
    else:
        click.echo(f"no dead letters in {place}", err=True)
    if len(letters) > limit:
        click.echo(f"there are more than {limit}: see --limit", err=True)


def _letter_to_json(letter: DeadLetter) -> str:
    known = fields(DeadLetter)
    record = asdict(letter, filter=lambda one, _: one not in (known.event, known.body))
    return orjson.dumps(record).decode()


for _command in (export, purge, replay):
    events.add_command(_command)
