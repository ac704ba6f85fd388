"""Three replicas behind nginx, one PostgreSQL, and the sandbox that they place calls at.

In a checkout, with nginx installed (Debian's package nginx), and nothing else::

    uv run examples/replicas/run.py

Nobody's telephone rings. Type commands under the table, and see that nothing is lost::

    kill 2      replica 2 dies in the middle of what it does (1 to 3, or db)
    start 2     it comes back
    load 50     calls per second, 0 for none
    quit        waits until all calls have ended, and prints a summary as JSON

With curl, the address above the table shows the counters of one replica, in turn.

Without a terminal: ``--seconds 10 --kill`` kills two replicas and the database by itself. The exit
status is 0 if every call rang once, was handled, and its end was told to who waited for it.

service.py is the service, nginx.conf its load balancer; both are worth a look.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import termios
import time
import tty
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from processes import HOST, Database, Machines, Process, StartError, free_ports, nginx
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qmc_async import CallbackServer, Signer
from qmc_async.sandbox import RealClock, Sandbox

if TYPE_CHECKING:
    from collections.abc import Generator

HERE: Final = Path(__file__).resolve().parent
SPEED: Final = 20.0  # a call of 19 seconds ends after one
SETTLING: Final = 15.0  # seconds, at the end, for what is under way
AGENT: Final = "13987654321"
CUSTOMERS: Final = [f"1391234000{digit}" for digit in range(1, 10)]  # each ends in its own way


class Ledger:
    """What can be seen from outside: by the platform, by the shop, and on the replicas' output."""

    def __init__(self, platform: Sandbox) -> None:
        self.platform = platform
        self.handled: dict[str, list[str]] = {}
        """By order: the replicas whose handler got the end of its call."""
        self.answered: dict[str, str] = {}
        """By order: the replica that told the shop how its call ended."""

    @property
    def placed(self) -> Counter[str]:
        """Orders, and how often each rang."""
        return Counter(call.out_call_id or "" for call in self.platform.calls.values())

    @property
    def refused(self) -> list[str]:
        """Orders whose notification was not answered 200: the platform sends no second one."""
        calls = self.platform.calls
        return [
            calls[sent.call_id].out_call_id or ""
            for sent in self.platform.notifications
            if sent.http_status != 200  # noqa: PLR2004 - HTTP's
        ]

    @property
    def elsewhere(self) -> int:
        """How many ends were told by another replica than the one whose handler got them first."""
        return sum(
            order in self.handled and self.handled[order][0] != replica
            for order, replica in self.answered.items()
        )

    async def settle(self) -> None:
        """Wait until the handlers have run, as long as there is hope."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLING):
                while self.placed.keys() - self.handled.keys():  # noqa: ASYNC110 - pipes are read
                    await asyncio.sleep(0.1)

    def summary(self) -> dict[str, Any]:
        """The outcome, once everything has settled."""
        placed = self.placed
        slowest = max((sent.elapsed for sent in self.platform.notifications), default=0.0)
        return {
            "placed": len(placed),
            "rang_twice": sum(rang > 1 for rang in placed.values()),
            "handled": len(placed.keys() & self.handled.keys()),
            "handled_twice": sum(len(replicas) > 1 for replicas in self.handled.values()),
            "lost": len(placed.keys() - self.handled.keys()),
            "resolved": len(placed.keys() & self.answered.keys()),
            "resolved_elsewhere": self.elsewhere,
            "unresolved": len(placed.keys() - self.answered.keys()),
            "slowest_answer_ms": round(slowest * 1000),
        }


class Shop:
    """Places orders at the front door, and asks how their calls ended."""

    def __init__(self, session: aiohttp.ClientSession, ledger: Ledger, rate: float) -> None:
        self.rate = rate
        self._session = session
        self._ledger = ledger
        self._name = f"{time.time():.0f}"
        self._orders: dict[str, asyncio.Task[None]] = {}

    async def keep_ordering(self) -> None:
        """Place orders at the rate of the moment, until cancelled."""
        while True:
            await asyncio.sleep(1 / self.rate if self.rate else 0.1)
            if self.rate:
                order = f"{self._name}-{len(self._orders)}"
                self._orders[order] = asyncio.create_task(self._order(order))

    async def settle(self) -> None:
        """Wait for the end of all calls that were placed, as long as there is hope."""
        placed = self._ledger.placed
        open_orders = [task for order, task in self._orders.items() if order in placed]
        if open_orders:
            await asyncio.wait(open_orders, timeout=SETTLING)
        for task in self._orders.values():
            task.cancel()  # what a replica took with it before it dialled
        await asyncio.gather(*self._orders.values(), return_exceptions=True)

    async def _order(self, order: str) -> None:
        wanted = {"id": order, "agent": AGENT, "customer": random.choice(CUSTOMERS)}  # noqa: S311
        is_told = await self._ask(order, "POST", "/calls", json=wanted)
        # Where nobody knows whether it rang, it is not placed again: any replica can tell.
        while not is_told:
            await asyncio.sleep(0.5)
            is_told = await self._ask(order, "GET", f"/calls/{order}")

    async def _ask(self, order: str, method: str, path: str, **content: Any) -> bool:  # noqa: ANN401 - aiohttp's
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.request(method, path, **content) as response:
                if response.status == 200:  # noqa: PLR2004 - HTTP's
                    self._ledger.answered[order] = (await response.json())["replica"]
                    return True
        return False


class Show:
    """Obeys commands, and shows what comes of them."""

    def __init__(self, machines: Machines, ledger: Ledger, shop: Shop, console: Console) -> None:
        self.quit = asyncio.Event()
        self._machines = machines
        self._ledger = ledger
        self._shop = shop
        self._console = console
        self._typed = ""
        self._said = ""

    async def obey(self, command: str) -> None:
        """Do what was typed."""
        self._say(f"> {command}")
        match command.split():
            case ["quit"]:
                self.quit.set()
            case ["load", rate] if rate.replace(".", "", 1).isdigit():
                self._shop.rate = float(rate)
            case ["kill" | "start" as verb, name] if machine := self._machines.find(name):
                try:
                    await (machine.kill() if verb == "kill" else machine.start())
                except StartError as error:
                    self._say(str(error))
            case _:
                self._say("kill 1, start 1, kill db, start db, load 50, or quit")

    async def kill_in_turn(self) -> None:
        """Kill one replica; then the database, and another replica that spools meanwhile."""
        for pause, command in (
            (1.0, "kill 1"),
            (0.5, "start 1"),
            (1.0, "kill db"),
            (0.5, "kill 3"),
            (0.5, "start db"),
            (0.0, "start 3"),
        ):
            await asyncio.sleep(pause)
            await self.obey(command)

    @contextlib.contextmanager
    def shown(self) -> Generator[None]:
        """Draw the table, if this is a terminal, and take commands under it."""
        with contextlib.ExitStack() as stack:
            if self._console.is_terminal:
                live = Live(console=self._console, get_renderable=self._table, refresh_per_second=5)
                stack.enter_context(live)
            if sys.stdin.isatty():
                stack.enter_context(self._reading())
            yield

    def _say(self, text: str) -> None:
        self._said = text
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False)

    @contextlib.contextmanager
    def _reading(self) -> Generator[None]:
        # Letter by letter: the terminal's own echo would be written across the table.
        before = termios.tcgetattr(sys.stdin)
        commands: set[asyncio.Task[None]] = set()

        def read() -> None:
            for letter in os.read(sys.stdin.fileno(), 1024).decode(errors="ignore"):
                if letter == "\n":
                    task = asyncio.create_task(self.obey(self._typed))
                    commands.add(task)
                    task.add_done_callback(commands.discard)
                    self._typed = ""
                elif letter == "\x7f":
                    self._typed = self._typed[:-1]
                else:
                    self._typed += letter

        tty.setcbreak(sys.stdin)
        asyncio.get_running_loop().add_reader(sys.stdin, read)
        try:
            yield
        finally:
            asyncio.get_running_loop().remove_reader(sys.stdin)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)

    def _table(self) -> Group:
        table = Table("", "state", box=box.SIMPLE_HEAD)
        table.add_column("placed", justify="right")
        table.add_column("handled", justify="right")
        for name, replica in self._machines.replicas.items():
            report = self._machines.reports.get(name, {})
            problems = ", ".join(report.get("problems", ()))
            state = problems.replace("store", "no database: spooling") or "up"
            table.add_row(
                f"replica {name}",
                _state(state, is_alive=replica.is_alive),
                str(report.get("placed", "")),
                str(report.get("handled", "")),
            )
        if (database := self._machines.database) is not None:
            table.add_row("db", _state("up", is_alive=database.is_alive))
        ledger = self._ledger
        placed = ledger.placed
        told = {
            "calls per second": f"{self._shop.rate:g}",
            "calls placed": len(placed),
            "ended and handled": len(ledger.handled),
            "waits resolved": len(ledger.answered),
            "of them on another replica": ledger.elsewhere,
            "rang twice": sum(rang > 1 for rang in placed.values()),
            "lost": len(set(ledger.refused) - ledger.handled.keys()),
        }
        totals = Table.grid(padding=(0, 2))
        for what, count in told.items():
            totals.add_row(f" {what}", str(count))
        return Group(
            table, totals, Text(f"\n {self._said}", style="dim"), Text(f" > {self._typed}▏")
        )


def _state(state: str, *, is_alive: bool) -> Text:
    if not is_alive:
        return Text("dead", style="red")
    return Text(state, style="green" if state == "up" else "yellow")


def make_replicas(ports: list[int], folder: Path, store: str, ledger: Ledger) -> dict[str, Process]:
    """Replicas that share a store, each with a spool of its own, as on machines of their own."""
    credentials = ledger.platform.credentials
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QMC_")} | {
        "QMC_APP_ID": str(credentials.app_id),
        "QMC_APP_SECRET": credentials.app_secret,
        "QMC_BASE_URL": ledger.platform.base_url,
        "QMC_RECORD_BASE_URL": ledger.platform.base_url,
        "QMC_STORE": store,
    }

    def make(name: str, port: int) -> Process:
        return Process(
            f"replica {name}",
            [sys.executable, str(HERE / "service.py"), f"--name={name}", f"--port={port}"],
            port,
            folder,
            environ=environ | {"QMC_SPOOL": str(folder / f"spool-{name}")},
            on_line=lambda order: ledger.handled.setdefault(order, []).append(name),
        )

    return {str(number): make(str(number), port) for number, port in enumerate(ports, 1)}


async def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start everything, let it run until it is to end, stop it; what came of it."""
    console = Console(stderr=True)
    front_port, database_port, *ports = free_ports(5)
    front = f"http://{HOST}:{front_port}"
    database = None if options.store else Database(folder / "postgresql", database_port)
    store = database.url if database else options.store
    async with contextlib.AsyncExitStack() as stack:
        platform = await stack.enter_async_context(Sandbox(clock=RealClock(speed=SPEED)))
        signer = Signer(platform.credentials)
        # Never started: it knows the address that the replicas take notifications at.
        server = CallbackServer(signer=signer, store="sqlite://", public_url=front)
        platform.callback_url = server.url
        ledger = Ledger(platform)
        machines = Machines(make_replicas(ports, folder, store, ledger), database)
        proxy = nginx(folder, HERE / "nginx.conf", front_port, list(machines.replicas.values()))
        connector = aiohttp.TCPConnector(limit=0)
        session = aiohttp.ClientSession(front, connector=connector)
        shop = Shop(await stack.enter_async_context(session), ledger, options.load)
        show = Show(machines, ledger, shop, console)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, show.quit.set)
        stack.push_async_callback(machines.stop)
        await machines.start()
        stack.push_async_callback(proxy.stop)
        await proxy.start()
        console.print(f"the service: {front}   logs: {folder}", highlight=False, soft_wrap=True)
        with show.shown():
            await play(machines, ledger, shop, show, options)
    return ledger.summary()


async def play(
    machines: Machines, ledger: Ledger, shop: Shop, show: Show, options: argparse.Namespace
) -> None:
    """Place calls until it is to end; then wait until nothing is under way any longer."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(machines.keep_asking())
        ordering = group.create_task(shop.keep_ordering())
        killing = group.create_task(show.kill_in_turn()) if options.kill else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(options.seconds):
                await show.quit.wait()
        if killing is not None:
            await killing
        ordering.cancel()
        await machines.start()  # a dead replica may have notifications in its spool
        await ledger.platform.settled()
        await shop.settle()
        await ledger.settle()
        asking.cancel()


def main() -> int:
    """Run it, and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--load", type=float, default=20.0, help="calls per second")
    parser.add_argument("--seconds", type=float, help="how long; without it, until `quit`")
    parser.add_argument("--kill", action="store_true", help="kill and start, without being told")
    parser.add_argument("--store", help="URL of an empty database of yours, not one of its own")
    options = parser.parse_args()
    folder = Path(mkdtemp(prefix="qmc-replicas-"))
    folder.chmod(0o711)  # PostgreSQL's own account passes through it
    summary: dict[str, Any] = {}
    try:
        summary = asyncio.run(run(options, folder))
    except* StartError as problems:
        for problem in problems.exceptions:
            print(problem, file=sys.stderr)
    if summary:
        print(json.dumps(summary, indent=2))
    if any(summary.get(bad) for bad in ("rang_twice", "lost", "unresolved")):
        print(f"what went wrong may be in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0 if summary else 1


if __name__ == "__main__":
    sys.exit(main())
