"""What the tests of the store share: notifications to keep, and the ways to stand in its way."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from callback_peer import until, url_in
from sqlalchemy.exc import OperationalError

from qmc_async import StoreError
from qmc_async.store import Store
from qmc_async.store.records import Put, Receipt

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from qmc_async.store.group_commit import Operation
    from qmc_async.store.records import Kept


A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


def put_of(
    body: bytes,
    handlers: Mapping[str, bool] | None = None,
    owner: str = "us",
    **fields: Any,  # noqa: ANN401 - as `Receipt.read` takes it
) -> Put:
    """A body as the server hands it to the store."""
    return Put(Receipt.read(body, **fields), handlers, owner)


def never_late(_: Kept) -> None:
    """For `keep` where the database is quick: nothing may be told later."""
    raise AssertionError("the database was late")


async def keep(
    store: Store, body: bytes, handlers: Mapping[str, bool] | None = None, owner: str = "us"
) -> Kept:
    """Keep a body in the database."""
    kept = await store.keep(put_of(body, handlers, owner), never_late)
    assert kept is not None, "it went to the spool"
    return kept


@asynccontextmanager
async def store_in(folder: Path, **options: Any) -> AsyncGenerator[Store]:  # noqa: ANN401 - any of the store's
    """An open store in a folder, which waits long for its database: the machine may be busy."""
    with_defaults: dict[str, Any] = {"patience": 30.0} | options
    async with Store(url_in(folder), **with_defaults) as store:
        yield store


def hurry_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look every few milliseconds, not every half second, whether the database is back."""
    monkeypatch.setattr("qmc_async.store.ladder._TRIED_EVERY", 0.01)
    monkeypatch.setattr("qmc_async.store.ladder._ADOPTED_EVERY", 0.05)
    monkeypatch.setattr("qmc_async.store.store._TRIED_EVERY", 0.01)
    monkeypatch.setattr("qmc_async.store.ladder._SPOOL_PATIENCE", 30.0)


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the database's write lock, as another program would."""
    with closing(sqlite3.connect(folder / "qmc.db", timeout=30, isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        yield
        file.execute("ROLLBACK")


def engine_of(store: Store) -> Engine:
    """The engine behind an open store."""
    database = database_of(store)
    engine: Engine = database._engine
    return engine


def driver_of(store: Store) -> sqlite3.Connection:
    """SQLite's own connection behind an open store, which passes all of its statements."""
    driver: sqlite3.Connection = database_of(store)._connection.connection.driver_connection
    return driver


def database_of(store: Store) -> Any:  # noqa: ANN401 - faults are put into it
    """The database behind a store."""
    return vars(store)["_database"]


def names_in(folder: Path) -> list[str]:
    """What is there."""
    return sorted(path.name for path in folder.iterdir())


def spool_files(folder: Path) -> list[Path]:
    """The spool files beside a store."""
    return sorted((folder / "qmc.db-spool").glob("*.spool"))


async def in_thread(store: Store, work: Callable[[Connection], T]) -> T:
    """Do something with the store's own connection, in a transaction."""

    def operation(connection: Connection, asked: Sequence[None]) -> Sequence[T]:
        return [work(connection) for _ in asked]

    return await ask(store, operation, None)


def ask(store: Store, operation: Operation[Connection, A, B], argument: A) -> asyncio.Future[B]:
    """Have the store's thread do an operation."""
    return store._submit(operation, argument)  # pyright: ignore[reportPrivateUsage] - as the store's own methods


async def let_go(store: Store) -> None:
    """Have the store let go of its file, as it does when a transaction fails."""

    def fail(_: Connection) -> None:
        raise OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error"))

    with pytest.raises(StoreError):
        await in_thread(store, fail)


def waiting(store: Store) -> int:
    """How many jobs wait for the store's thread."""
    rows: Any = vars(store)["_rows"]
    size: int = len(rows._kept_back) + rows._jobs.qsize()
    return size


@asynccontextmanager
async def held_up(store: Store) -> AsyncGenerator[None]:
    """Have the store's thread busy with a transaction of its own, in which nothing is done."""
    begun, go_on = threading.Event(), threading.Event()

    def dawdle(_: Connection) -> None:
        begun.set()
        go_on.wait(60)

    asked = asyncio.ensure_future(in_thread(store, dawdle))
    await until(begun.is_set)
    try:
        yield
    finally:
        go_on.set()
        await asked


class Process:
    """Another Python process that says when it is ready, and ends when told."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Tell it to end, and wait."""
        self.process.communicate("\n", timeout=30)

    def kill(self) -> None:
        """Kill it, and wait."""
        self.process.kill()
        self.process.communicate(timeout=30)
