"""The process under test: a callback server that others kill, block and starve.

Where there is a platform for it, it has a client too, which places calls. It is given a file of
options in JSON, and writes its address into the file that they name. What its handlers have done
stands in another file, line by line, which no crash takes back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from fault_boundaries import Boundary
from fault_calls import client_in, placing
from fault_clock import bend_time
from fault_waits import take_questions

from qmc_async import CallbackServer, Delivery, Disconnected, Overdue, Reason, Retry
from qmc_async.callback import dispatcher, watchdog
from qmc_async.store import Store, deliveries, ladder, overdue

logger = logging.getLogger(__name__)


class RudeError(BaseException):
    """What no `except Exception` sees."""


INTERRUPTED = 130
RUDE = (SystemExit, GeneratorExit, asyncio.CancelledError, RudeError)


class Handlers:
    """The handlers, each for calls that ended for another reason."""

    def __init__(self, server: CallbackServer, options: dict[str, Any], boundary: Boundary) -> None:
        self._handled = os.open(options["handled"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._runs = -1
        if options["runs"]:
            self._runs = os.open(options["runs"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._options = options
        self._boundary = boundary
        self._rude = 0
        if options["handlers"] == "none":
            return
        if options["handlers"] == "noop":
            server.on_disconnected(name="good")(self.noop)
            return
        if options["handlers"] == "calls":
            server.on_disconnected(name="ended")(self.ended)
            server.on_missing(name="overdue")(self.overdue)
            return
        quick = Retry(attempts=2, first_delay=0.02, longest_delay=0.02)
        later = Retry(attempts=9, first_delay=options["later"], longest_delay=options["later"])
        by = server.on_disconnected
        by(name="good")(self.good)
        if options["handlers"] == "good":
            return
        by(name="failing", reason=Reason.CALLEE_BUSY, retry=quick)(self.failing)
        by(name="later", reason=Reason.CALLEE_NO_ANSWER, retry=later)(self.later)
        by(name="hanging", reason=Reason.OTHER, timeout=None)(self.hanging)
        by(name="rude", reason=Reason.CALLER_FAILURE, retry=quick)(self.rude)
        by(name="interrupting", reason=Reason.CALLER_ABANDON)(self.interrupting)

    def _note(self, handler: str, event: Disconnected) -> None:
        os.write(self._handled, f"{handler} {event.call_id}\n".encode())
        if self._runs >= 0:
            name = self._options["name"]
            told = f"{handler} {event.call_id} {name} {time.monotonic()}\n"
            os.write(self._runs, told.encode())

    async def ended(self, event: Disconnected) -> None:
        """Take a moment, and note our id of the call."""
        await asyncio.sleep(self._options["takes"])
        os.write(self._handled, f"ended {event.out_call_id}\n".encode())

    async def overdue(self, event: Overdue) -> None:
        """The same, and what the call is taken for."""
        await asyncio.sleep(self._options["takes"])
        os.write(self._handled, f"{event.outcome} {event.out_call_id}\n".encode())

    async def noop(self, _: Disconnected) -> None:
        """Do nothing."""

    async def good(self, event: Disconnected) -> None:
        """Take a moment, and note it."""
        await asyncio.sleep(self._options["takes"])
        self._boundary.reach("handler begun")
        self._note("good", event)
        self._boundary.reach("handler done")

    async def failing(self, event: Disconnected) -> None:
        """Fail for ever."""
        self._note("failing", event)
        raise ValueError("never")

    async def later(self, event: Disconnected, delivery: Delivery) -> None:
        """Fail once."""
        if delivery.attempt == 1:
            raise ValueError("not yet")
        self._note("later", event)

    async def hanging(self, event: Disconnected) -> None:
        """Take very long."""
        self._note("hanging begun", event)
        await asyncio.sleep(self._options["hangs"])
        self._note("hanging", event)

    async def rude(self, event: Disconnected) -> None:
        """Raise what few expect, a different thing each time."""
        self._note("rude", event)
        self._rude += 1
        raise RUDE[self._rude % len(RUDE)]

    async def interrupting(self, event: Disconnected, delivery: Delivery) -> None:
        """End the program as Ctrl-C does, unless it is let off."""
        if delivery.attempt == 1 and not self._options["released"]:
            raise KeyboardInterrupt
        self._note("interrupting", event)


def hasten(options: dict[str, Any]) -> None:
    """Make leases short, and a slow disk no reason for an answer other than success."""
    if not options["watchdog"]:
        mock.patch.object(watchdog.Watchdog, "start").start()
    if patience := options["spool_patience"]:
        mock.patch.object(ladder, "_SPOOL_PATIENCE", patience).start()
    if lease := options["lease"]:
        mock.patch.object(deliveries, "LEASE", lease).start()
        mock.patch.object(dispatcher, "_RENEWED_EVERY", lease / 3).start()
        mock.patch.object(dispatcher, "_POLLED_EVERY", 0.2).start()
        mock.patch.object(dispatcher, "_CHECKED_EVERY", 1.0).start()
        mock.patch.object(dispatcher, "_CANCELLED_DELAY", lease).start()
        mock.patch.object(overdue, "_LATER", int(lease * 1000)).start()
        mock.patch.object(overdue, "_PLACED_WITHIN", int(lease * 1000)).start()
        mock.patch.object(watchdog, "_LOOKED_EVERY", 0.1).start()
        mock.patch.object(watchdog, "_LONGEST_LOOK", lease * 0.4).start()
        mock.patch.object(watchdog, "_FIRST_DELAY", lease).start()


async def main(options: dict[str, Any]) -> None:
    """Serve until SIGTERM."""
    boundary = Boundary(options["kill"], options["after"], options["commits"], options["signal"])
    database = options["database"]
    store = Store(
        database if "://" in database else f"sqlite:///{database}",
        spool=options["spool"],
        patience=options["patience"],
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGUSR1, boundary.arm)
    if options["armed"]:
        boundary.arm()
    async with client_in(options, store) as client:
        server = CallbackServer(
            client=client,
            store=store,
            port=options["port"],
            shutdown_timeout=options["shutdown_timeout"],
        )
        Handlers(server, options, boundary)
        async with server, take_questions(server, options), placing(options, client):
            address = Path(options["address"])
            address.with_suffix(".part").write_text(server.url)
            address.with_suffix(".part").rename(address)
            await stopping.wait()


def run(options: dict[str, Any]) -> int:
    """Be the process under test; what it exits with."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", force=True)
    hasten(options)
    if options["clock"]:
        bend_time(options["clock"])
    try:
        asyncio.run(main(options))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        logger.exception("the server failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(json.loads(Path(sys.argv[1]).read_text())))
