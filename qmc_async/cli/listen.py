"""`qmc listen`: a receiver that shows what comes, and passes it on."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import stat
import sys
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click
import orjson
from attrs import asdict, define, field, fields
from rich.text import Text

from qmc_async.callback import CallbackServer
from qmc_async.callback.delivery import Retry
from qmc_async.cli.findings import fit_for
from qmc_async.cli.posting import place_of, post, service_url
from qmc_async.cli.running import CALLBACK_PORT, console_for, running
from qmc_async.cli.shown import Shown, as_talk
from qmc_async.models import BEIJING, Conflict, Disconnected, Reason
from qmc_async.settings import Settings
from qmc_async.signer import Signer
from qmc_async.store.records import Kind, StoredEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rich.console import Console

    from qmc_async.callback.delivery import Delivery
    from qmc_async.cli.posting import Answer
    from qmc_async.models import Event, UnknownNotification

__all__ = ["listen"]

_RETRY: Final = Retry()
_TIMEOUT: Final = 10.0  # seconds that the service may take to answer
_SHUTDOWN: Final = 3.0  # seconds that is waited for it at the end
_LONGEST_ID: Final = 64  # characters: what the document allows
_STYLES: Final = {Kind.DISCONNECTED: "yellow", Kind.UNKNOWN: "magenta", Kind.CONFLICT: "bold red"}


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen on this address.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=CALLBACK_PORT,
    show_default=True,
    help="Listen on this port; 0 for a free one.",
)
@click.option(
    "--public-url", metavar="URL", help="Scheme and host as the platform sees them: to be shown."
)
@click.option(
    "--forward",
    "forward_to",
    type=service_url,
    metavar="URL",
    help="Pass each notification on to this address, as it came.",
)
@click.option(
    "--store",
    "store_url",
    metavar="URL",
    default="sqlite://",
    show_default="memory",
    help="Keep what comes, such as in sqlite:///listen.db: no server's own, whose handlers would "
    "be passed by.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@running
async def listen(
    host: str,
    port: int,
    public_url: str | None,
    forward_to: str | None,
    store_url: str,
    *,
    as_json: bool,
) -> None:
    """Take notifications, and print each in a line, until Ctrl-C.

    The address to enter on the platform's console is shown first; `qmc sandbox` and `qmc trigger`
    send to it as it is. Telephone numbers are masked.

    With --forward each notification goes on to another service, byte for byte. One that is not
    answered with HTTP 2xx is tried again, for about a day: the platform has had its answer, and
    sends it to nobody else. Without --store what was not forwarded is gone when this ends; with it,
    the next `qmc listen` with the same --store, and with --forward, goes on.

    Exit status: 0 it was stopped by a signal; 1 the port is taken, or nobody reads what it prints
    any more; 130 Ctrl-C.

    Example: qmc listen --forward http://127.0.0.1:8000/qmc/callback --store sqlite:///listen.db
    """
    server = CallbackServer(
        signer=Signer(Settings.load().credentials),
        store=store_url,
        host=host,
        port=port,
        public_url=public_url,
        shutdown_timeout=_SHUTDOWN,
    )
    listener = _Listener(console_for(), as_json=as_json, forward_to=forward_to)
    listener.register_in(server)
    with suppress(RuntimeError):  # its address is not known yet, and so to nobody
        if (forward_to or "").replace("//localhost:", "//127.0.0.1:") == server.url:
            raise click.UsageError("--forward leads back to where this listens")
    with _log_on_stderr(), listener.summed_up(is_kept=store_url != "sqlite://"):
        async with server:
            listener.greet(server)
            with _ended_by(listener.end):
                await listener.ended.wait()
    if listener.problem is not None:
        raise listener.problem


class _NotForwarded(Exception):  # noqa: N818 - what became of the notification
    """To be tried again. It is shown already."""


@define
class _Listener:
    """What is done with notifications.

    Attributes:
        console: to show them on.
        as_json: whether for programs.
        forward_to: where to pass them on, None for nowhere.
        ended: set when there is to be no more.
        problem: why, where it was not a signal.
    """

    console: Console
    as_json: bool = field(kw_only=True)
    forward_to: str | None = field(kw_only=True)
    ended: asyncio.Event = field(factory=asyncio.Event, init=False)
    problem: OSError | None = field(default=None, init=False)
    _has_begun: bool = field(default=False, init=False)
    _came: int = field(default=0, init=False)
    _forwarded: int = field(default=0, init=False)
    _not_forwarded: set[str] = field(factory=set[str], init=False)

    def register_in(self, server: CallbackServer) -> None:
        """Become the server's only handler of each kind."""
        # Under other names where nothing is passed on: what is to be passed on must wait for it.
        does = "show" if self.forward_to is None else "forward"
        server.on_disconnected(name=f"{does}-disconnected", retry=_RETRY)(self.take)
        server.on_unknown(name=f"{does}-unknown", retry=_RETRY)(self.take)
        server.on_conflict(name=f"{does}-conflict", retry=_RETRY)(self.take)

    def greet(self, server: CallbackServer) -> None:
        """Say where it listens, and where to it forwards."""
        self._has_begun = True
        try:
            click.echo(f"listening at {server.url}", err=True)
        except RuntimeError:
            click.echo("listening on every address: --public-url has it shown", err=True)
        if self.forward_to is not None:
            click.echo(f"forwarding to {place_of(self.forward_to)}", err=True)

    def end(self, problem: OSError | None = None) -> None:
        """Have no more."""
        self.problem = self.problem or problem
        self.ended.set()

    async def take(
        self, event: Disconnected | UnknownNotification | Conflict, delivery: Delivery
    ) -> None:
        """Show an event, and pass it on."""
        if delivery.attempt == 1:
            self._came += 1
            self._show(_shown(event, delivery))
        if self.forward_to is None:
            return
        self._not_forwarded.add(delivery.idempotency_key)
        answer = await post(self.forward_to, delivery.body, timeout=_TIMEOUT)
        is_good = answer.status is not None and 200 <= answer.status < 300  # noqa: PLR2004 - HTTP's success
        self._show_forward(event.call_id, delivery, answer, self.forward_to, is_good=is_good)
        if not is_good:
            raise _NotForwarded(answer.error or f"HTTP {answer.status}")
        self._forwarded += 1
        self._not_forwarded.discard(delivery.idempotency_key)

    @contextmanager
    def summed_up(self, *, is_kept: bool) -> Generator[None]:
        """Say at the end what it came to."""
        try:
            yield
        finally:
            if self._has_begun:
                told = f"{self._came} came"
                if self.forward_to is not None:
                    told += f", {self._forwarded} forwarded, {len(self._not_forwarded)} not"
                click.echo(told, err=True)
            if self._not_forwarded:
                kept = "the next qmc listen with this --store and --forward tries again"
                gone = "what was not forwarded is gone: see --store"
                click.echo(f"hint: {kept if is_kept else gone}", err=True)

    def _show(self, shown: Shown) -> None:
        if self.as_json:
            left_out = (fields(Shown).routed, fields(Shown).deliveries)
            self._print(asdict(shown, filter=lambda one, _: one not in left_out))
            return
        is_end = shown.kind is Kind.DISCONNECTED
        style = "green" if is_end and shown.reason == Reason.HANG_UP else _STYLES[shown.kind]
        details = {
            "talk": as_talk(shown.call_duration),
            "recording": shown.recording_result,
            "out call id": shown.out_call_id,
            "differs in": ", ".join(shown.differs_in),
            "problem:": "; ".join(shown.problems),
        }
        self._print_line(
            shown.received_at,
            shown.call_id,
            Text(shown.outcome if is_end else f"{shown.kind}: {shown.outcome}", style),
            *(f"{name} {value}" for name, value in details.items() if value),
        )

    def _show_forward(
        self, call_id: str | None, delivery: Delivery, answer: Answer, url: str, *, is_good: bool
    ) -> None:
        now = datetime.now(BEIJING)
        is_tried_again = not is_good and delivery.attempt < _RETRY.attempts
        if self.as_json:
            self._print(
                {
                    "kind": "forward",
                    "event_id": _event_id(delivery),
                    "call_id": call_id,
                    "answered_at": now,
                    "to": place_of(url),
                    "forwarded": is_good,
                    "tried_again": is_tried_again,
                    "attempt": delivery.attempt,
                    "http_status": answer.status,
                    "error": answer.error,
                    "milliseconds": round(answer.milliseconds, 1),
                }
            )
            return
        what = Text("forwarded:", "green") if is_good else Text("not forwarded:", "bold red")
        then = "" if is_good else "; tried again" if is_tried_again else "; given up"
        self._print_line(now, call_id, what, f"{answer.told()}{then}")

    def _print_line(self, when: datetime, call_id: str | None, what: Text, *rest: str) -> None:
        shown_id = fit_for(self.console, (call_id or "-")[:_LONGEST_ID])
        line = Text(f"{when:%H:%M:%S}  {shown_id}  ")
        line.append(fit_for(self.console, what.plain), what.style)
        for detail in rest:
            line.append(f"  {fit_for(self.console, detail)}")
        self._print(line)

    def _print(self, told: Text | dict[str, object]) -> None:
        try:
            if isinstance(told, dict):
                click.echo(orjson.dumps(told))
            elif self.console.is_terminal:
                self.console.print(told, soft_wrap=True)
            else:
                click.echo(told.plain)
        except OSError as error:  # nobody can read it any more
            self.end(error)


def _event_id(delivery: Delivery) -> str:
    return delivery.idempotency_key.rpartition(":")[0]


def _shown(event: Disconnected | UnknownNotification | Conflict, delivery: Delivery) -> Shown:
    kinds: dict[type[Event], Kind] = {
        Disconnected: Kind.DISCONNECTED,
        Conflict: Kind.CONFLICT,
    }
    stored = StoredEvent(
        event_id=_event_id(delivery),
        kind=kinds.get(type(event), Kind.UNKNOWN),
        event=event,
        body=delivery.body,
        problem="",
        first_seen=delivery.first_seen,
        routed=True,
        deliveries=(),
    )
    return Shown.of(stored)


@contextmanager
def _ended_by(end: Callable[..., None]) -> Generator[None]:
    """End at SIGTERM, and as soon as nobody reads the standard output any more."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        # Not every system and not every thread has them.
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGTERM, end)
            stack.callback(loop.remove_signal_handler, signal.SIGTERM)
        with suppress(NotImplementedError, AttributeError, OSError, ValueError):
            output = sys.stdout.fileno()
            if stat.S_ISFIFO(os.fstat(output).st_mode):
                # There is nothing to be read from this end, but that the other one is closed.
                loop.add_reader(output, end, BrokenPipeError(errno.EPIPE, "nobody reads it"))
                stack.callback(loop.remove_reader, output)
        yield


class _OnStderr(logging.Handler):
    """The library's own log, a line each, without what is shown already."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        is_refusal = record.name == "qmc_async.callback.guard"
        is_shown = record.exc_info is not None and isinstance(record.exc_info[1], _NotForwarded)
        if (is_refusal or record.levelno >= logging.ERROR) and not is_shown:
            click.echo(f"qmc: {fit_for(console_for(stderr=True), record.getMessage())}", err=True)


@contextmanager
def _log_on_stderr() -> Generator[None]:
    logger, handler = logging.getLogger("qmc_async"), _OnStderr(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
