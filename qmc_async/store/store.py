"""`Store`: keeps every notification, and knows what is still to be done."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

from sqlalchemy import Connection

from qmc_async.errors import ConfigError, StoreError
from qmc_async.models import Disconnected
from qmc_async.store import deliveries, events, examination, ledger, overdue, spool_file
from qmc_async.store.database import MEMORY
from qmc_async.store.database_url import database_at
from qmc_async.store.group_commit import GroupCommit
from qmc_async.store.ladder import Ladder
from qmc_async.store.records import Kept, Kind, exact_key
from qmc_async.store.salvage import Salvage
from qmc_async.store.sqlite_database import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from qmc_async.models import LedgerEntry, Overdue
    from qmc_async.store.database import Database
    from qmc_async.store.events import Listing, Reading
    from qmc_async.store.examination import Examined
    from qmc_async.store.group_commit import Operation
    from qmc_async.store.ladder import Then
    from qmc_async.store.ledger import CallListing, Opening, Settlement
    from qmc_async.store.records import (
        Claim,
        DeadLetter,
        Found,
        Outcome,
        Poll,
        Polled,
        Put,
        StoredEvent,
        Verdict,
    )

__all__ = ["DEFAULT_URL", "Store"]

logger = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")

DEFAULT_URL: Final = "sqlite:///qmc.db"
_LONGEST_PATIENCE: Final = 60.0
_TRIED_EVERY: Final = 1.0  # seconds
_LONGEST_CLOSE: Final = 10.0  # seconds
_BREATH: Final = 0.03  # seconds; a process that waits for SQLite's lock looks that often at first


class Hearer(Protocol):
    """Who is told of calls that have ended."""

    def wake(self, event: Disconnected) -> None:
        """Take what this process has kept."""
        ...

    def look_for(self, names: Collection[str] | None) -> None:
        """Look for what has come into the store in other ways.

        Args:
            names: `records.exact_key` of the calls' ids; None where they are not known.
        """
        ...


class Store:
    """Where notifications are kept until their handlers have run, and after.

    It is given to a `CallbackServer`, which opens and closes it; several may share one. It belongs
    to the event loop that opened it.

    Args:
        url: SQLAlchemy's; by default ``QMC_STORE``, then ``sqlite:///qmc.db``: a file in the
            current folder. ``sqlite://`` keeps everything in memory, where a restart forgets it.
        spool: the folder for what the database does not take; by default ``QMC_SPOOL``, then a
            folder beside the database's file. On another volume it survives a full disk.
        patience: seconds that a notification waits for the database before it goes to the spool.
            The platform does not say how long it waits for our answer: comparable ones, from 0.7.
        allow_data_loss: use a database server even where its settings may lose what it has
            committed, such as PostgreSQL's ``fsync=off``.
        visiting: for a program that looks into the store of a server, which may have it open. The
            store must be there already; it is not repaired, and there is no spool.

    Raises:
        ConfigError: a setting is malformed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        spool: str | os.PathLike[str] | None = None,
        patience: float = 0.4,
        allow_data_loss: bool = False,
        visiting: bool = False,
    ) -> None:
        if not 0 < patience <= _LONGEST_PATIENCE:
            raise ConfigError(
                f"patience: it must be a number of seconds above 0, at most {_LONGEST_PATIENCE:g}",
                setting="patience",
            )
        chosen_url = url or os.environ.get("QMC_STORE", "").strip() or DEFAULT_URL

        def make() -> Database:  # not a `partial`, which would show the password
            return database_at(
                chosen_url, self._on_set_aside, allow_data_loss=allow_data_loss, visiting=visiting
            )

        self._make_database = make
        self._database = self._make_database()
        chosen = spool or os.environ.get("QMC_SPOOL", "").strip()
        self._chosen_spool = Path(chosen).absolute() if chosen else None
        self._visiting = visiting
        self._patience = patience
        self.owner = ""
        """Who holds the leases; anew each time it is opened."""
        self._users = 0
        self._opening = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[GroupCommit[Any]] = []
        self._rows: GroupCommit[Connection] | None = None
        self._ladder: Ladder | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._set_aside: list[Path] = []
        self._copied_over = 0
        self._hearers: set[Hearer] = set()

    def __repr__(self) -> str:
        return f"<Store in {self.place}>"

    @property
    def place(self) -> str:
        """The absolute path of the file, the server's URL without a password, or ``memory``."""
        return self._database.place

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong, each with what it means; empty while all is well.

        ``store``: notifications go to the spool. ``spool``: they cannot even go there.
        ``set_aside``: the file was broken, and a fresh one has taken its place.
        """
        found = {} if self._ladder is None else dict(self._ladder.problems)
        if self._set_aside:
            found["set_aside"] = f"a broken file was set aside as {self._set_aside[-1]}"
        return found

    @property
    def files_lost(self) -> int:
        """How often a fresh file has taken the place of a broken one since it was opened."""
        return len(self._set_aside)

    @property
    def is_copying(self) -> bool:
        """Whether a broken file has not been copied over yet."""
        return self._copied_over < len(self._set_aside)

    @property
    def is_catching_up(self) -> bool:
        """Whether notifications may be on this machine that the database does not have yet."""
        return self.is_copying or (self._ladder is not None and self._ladder.is_forwarding)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the database and the spool; each `open` needs its `close`.

        Raises:
            ConfigError: nothing can be kept there; the message says why.
            RuntimeError: it is open on another event loop.
        """
        loop = asyncio.get_running_loop()
        if not self._users and self._loop is not loop:
            self._loop = loop
            self._opening = asyncio.Lock()  # it is bound to the loop on which it was waited for
        async with self._opening:
            if not self._users:
                await self._open()
            elif self._loop is not asyncio.get_running_loop():
                raise RuntimeError("the store is open on another event loop")
            self._users += 1

    async def close(self) -> None:
        """Commit what waits, and close; as often as it was opened."""
        async with self._opening:
            if not self._users:
                return
            self._users -= 1
            if not self._users:
                await self._close()

    async def _open(self) -> None:
        self.owner = uuid.uuid4().hex
        self._set_aside.clear()
        self._copied_over = 0
        try:
            self._rows = await self._open_database()
            self._ladder = Ladder(
                self._rows,
                await self._open_spool(),
                self._patience,
                on_kept=self._on_kept,
                on_forwarded=lambda: self._tell(None),
            )
        except BaseException:
            await self._close()
            raise
        self._start(self._ladder.forward_for_ever())
        if self._database.bell is not None:
            self._start(self._database.bell.listen_for_ever(self._tell))
        if self.place == MEMORY:
            logger.info("notifications are kept in memory: a restart forgets them")
        else:
            logger.info("notifications are kept in %s", self.place)

    async def _open_database(self) -> GroupCommit[Connection]:
        rows = GroupCommit[Connection](
            "qmc store",
            start=self._database.open,
            commit=self._database.commit,
            stop=self._database.close,
        )
        # Before it is open: what it sets aside as it opens is copied by a task that asks for it.
        self._rows = rows
        self._threads.append(rows)
        await rows.open()
        return rows

    async def _open_spool(self) -> GroupCommit[spool_file.Spool] | None:
        folder = None if self._visiting else self._database.spool_folder(self._chosen_spool)
        if folder is None:
            return None
        spool = spool_file.Spool(folder, self.owner)
        lines = GroupCommit[spool_file.Spool](
            "qmc spool", start=spool.open, commit=spool.commit, stop=spool.close
        )
        try:
            await lines.open()
        except OSError as error:
            raise ConfigError(
                f"spool: nothing can be written in {spool.folder} ({error.strerror}): choose "
                "another folder",
                setting="spool",
            ) from None
        self._threads.append(lines)
        return lines

    async def _close(self) -> None:
        for task in self._background:
            task.cancel()
        threads, self._threads = self._threads, []
        try:
            if background := set(self._background):
                # Whatever does not take its cancellation must not keep the rest from closing.
                ended, _ = await asyncio.wait(background, timeout=_LONGEST_CLOSE)
                await asyncio.gather(*ended, return_exceptions=True)
        finally:
            for thread in threads:
                thread.end()  # all of them, also where this is cancelled
            self._rows = self._ladder = None
        for thread in threads:
            try:
                async with asyncio.timeout(_LONGEST_CLOSE):
                    await thread.close()
            except TimeoutError:
                # A frozen server's connection stays open, and its thread with it, until the end.
                logger.error("the store did not close in %g s, and is left alone", _LONGEST_CLOSE)  # noqa: TRY400 - its traceback says no more
                self._database = self._make_database()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def keep(self, put: Put, on_late: Callable[[Kept], None]) -> Kept | None:
        """Keep a notification: once this returns, it is on the disk.

        Args:
            put: what came.
            on_late: told what became of it in the database, where that took longer than the
                patience, or than the caller.

        Returns:
            What became of it in the database; None where it is in the spool.

        Raises:
            StoreError: it could not be kept at all.
        """
        future: asyncio.Future[Kept | None] = asyncio.get_running_loop().create_future()

        def then(answer: Kept | BaseException | None) -> None:
            if not future.done():
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            elif isinstance(answer, Kept):
                on_late(answer)

        self.begin_to_keep(put, then, on_late)
        return await future

    def begin_to_keep(self, put: Put, then: Then, on_late: Callable[[Kept], None]) -> None:
        """Keep a notification: see `Ladder.keep`."""
        if self._ladder is None:
            raise StoreError("the store is not open")
        self._ladder.keep(put, then, on_late)

    def _on_kept(self, put: Put, kept: Kept | None) -> None:
        event = put.receipt.event
        if isinstance(event, Disconnected) and (kept is None or kept.kind is Kind.DISCONNECTED):
            for hearer in list(self._hearers):
                hearer.wake(event)

    def _on_set_aside(self, path: Path) -> None:
        """In the store's thread."""
        assert self._loop is not None  # noqa: S101 - the thread runs while the store is open
        self._set_aside.append(path)
        self._loop.call_soon_threadsafe(lambda: self._start(self._copy_over(path)))

    async def _copy_over(self, path: Path) -> None:
        salvage = Salvage(path)
        below: int | None = None
        try:
            while below != 0:
                below = await self._copy_some(salvage, below)
        except StoreError as error:
            logger.critical("copying from %s was given up: %s", path, error)
        else:
            assert isinstance(self._database, SqliteDatabase)  # noqa: S101 - no other has files
            self._database.note_copied(path)
        finally:
            self._copied_over += 1
            logger.critical(
                "%d events and calls were copied from %s; %d could not be read",
                salvage.copied,
                path,
                salvage.unread,
            )

    async def _copy_some(self, salvage: Salvage, below: int | None) -> int | None:
        # Not in one go: other processes must get the database's lock as well.
        await asyncio.sleep(_BREATH)
        try:
            below, copied = await self._submit(salvage.copy_some, below)
        except StoreError as error:
            if not error.temporary:
                raise
            await asyncio.sleep(_TRIED_EVERY)
        else:
            salvage.copied += copied
            self._tell(None)
        return below

    async def poll(self, poll: Poll) -> Polled:
        """Lease deliveries that are due, and find events that nobody has routed.

        Raises:
            StoreError: as every method from here on, where the database does not do it.
        """
        return await self._submit(deliveries.poll, poll)

    async def undo_clock_steps(self, handlers: Sequence[str]) -> None:
        """Make due what a wrong clock has put off."""
        await self._submit(deliveries.undo_clock_steps, handlers)

    async def left_over(self, handlers: Collection[str]) -> list[str]:
        """Other handlers than these, whose deliveries have been due for a quarter of an hour."""
        return await self._submit(deliveries.left_over, handlers)

    async def route(self, handlers: Mapping[str, Sequence[str]]) -> None:
        """Make the deliveries of events that had none: handlers' names by event id."""
        await self._submit(deliveries.route, handlers)

    def begin_to_settle(
        self, outcome: Outcome, then: Callable[[bool | BaseException], None]
    ) -> None:
        """Write down how a claim ended.

        Args:
            outcome: how.
            then: told once it is done: False where the lease was lost to another.
        """
        self._open_rows().begin(deliveries.settle, outcome, then, can_wait=True)

    async def settle(self, outcome: Outcome) -> bool:
        """The same, for who has time."""
        return await self._submit(deliveries.settle, outcome)

    async def renew(self, claims: Sequence[Claim]) -> None:
        """Hold claims for longer."""
        await self._submit(deliveries.renew, claims)

    async def find(
        self, call_ids: Collection[str] = (), out_call_ids: Collection[str] = ()
    ) -> tuple[Mapping[str, Disconnected | Overdue], Mapping[str, Disconnected | Overdue]]:
        """How calls ended, or that it will not be known, by call id and by `out_call_id`."""
        by_call_id = self._submit(events.find_by_call_id, call_ids)
        return await by_call_id, await self._submit(events.find_by_out_call_id, out_call_ids)

    async def changes(self) -> object:
        """See `events.changes`."""
        return await self._submit(events.changes, None)

    def hear(self, hearer: Hearer) -> None:
        """Have somebody told of the calls that have ended."""
        self._hearers.add(hearer)

    def unhear(self, hearer: Hearer) -> None:
        """End `hear`."""
        self._hearers.discard(hearer)

    @property
    def is_heard(self) -> bool:
        """Whether the database tells what other processes keep, so that nobody needs to look."""
        return self._database.bell is not None and self._database.bell.is_heard

    def _tell(self, names: Collection[str] | None) -> None:
        for hearer in list(self._hearers):
            hearer.look_for(names)

    async def list_events(self, listing: Listing) -> tuple[Sequence[StoredEvent], int]:
        """Events with their deliveries, and the position to go on from; 0 where these are all."""
        return await self._submit(events.list_events, listing)

    async def read_reports(self, reading: Reading) -> tuple[Sequence[Disconnected], Reading | None]:
        """Reports of calls' ends, as they came, and how to go on; None where these are all."""
        return await self._submit(events.read_reports, reading)

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """What was given up, the latest first."""
        return await self._submit(deliveries.dead_letters, limit)

    async def replay(self, event_id: str, handler: str | None = None) -> list[str]:
        """Try an event's dead letters again; an undecodable one is decoded again first.

        Returns:
            The handlers that get it again; ``*`` for those that want what it turned out to be.
        """
        if await self._submit(events.read_again, event_id):
            self._tell(None)
            return ["*"]
        return await self._submit(deliveries.replay, (event_id, handler))

    async def purge(self, before: datetime) -> int:
        """Delete finished events that came before a time; those with dead letters stay.

        The ledger's settled calls that were placed before it are deleted as well.

        Returns:
            How many events.
        """
        # That a call has ended stands in the events: without them it would seem to be missing.
        looked_until: int | None = 0
        while looked_until is not None:
            looked_until = await self._submit(overdue.end_reported, looked_until)
            await asyncio.sleep(_BREATH)
        part = events.Purge(int(before.timestamp() * 1000))
        purged = 0
        while part.after is not None:
            part = await self._submit(events.purge, part)
            purged += part.deleted
            # Not in one go: notifications wait for the same thread, and others for the rows.
            await asyncio.sleep(_BREATH)
        struck_out = 1
        while struck_out:
            struck_out = await self._submit(ledger.purge_calls, int(before.timestamp() * 1000))
            await asyncio.sleep(_BREATH)
        return purged

    async def ledger_entry(
        self, *, call_id: str | None = None, out_call_id: str | None = None
    ) -> LedgerEntry | None:
        """What the ledger knows of a call, by the platform's id or by ours; None if nothing.

        Where several calls had one `out_call_id`, it is the last of them; where both ids are given,
        the call that has both, or has only ours.
        """
        return await self._submit(ledger.find_entries, (call_id, out_call_id))

    async def list_calls(self, listing: CallListing) -> tuple[Sequence[LedgerEntry], int]:
        """The ledger, newest first, and the position to go on from; 0 where these are all."""
        return await self._submit(ledger.list_calls, listing)

    async def count_overdue(self) -> int:
        """How many calls are past their deadline, and neither reported nor settled."""
        return await self._submit(ledger.count_overdue, None)

    def open_entry(self, opening: Opening) -> asyncio.Future[LedgerEntry | None]:
        """Write a call down before it is placed: None, or who has its `out_call_id` already.

        It goes on where the future is cancelled, and what is asked for later comes after it.
        """
        return self._submit(ledger.open_entries, opening)

    async def settle_entry(self, settlement: Settlement) -> None:
        """Write down what became of a call that was to be placed."""
        await self._submit(ledger.settle_entries, settlement)

    async def withdraw_entry(self, opening: Opening) -> None:
        """Strike out a call of which nothing was sent."""
        await self._submit(ledger.withdraw_entries, opening)

    async def undo_clock_steps_of_calls(self) -> None:
        """Make due in time what a wrong clock has put off."""
        await self._submit(overdue.undo_clock_steps_of_calls, None)

    async def look_for_overdue(self, limit: int) -> Found:
        """Lease calls whose deadline has passed."""
        return await self._submit(overdue.look_for_overdue, limit)

    async def settle_overdue(self, verdict: Verdict) -> bool:
        """Write down what became of a call whose deadline had passed; who waits is told.

        Returns:
            Whether there is an event of it now. There is none where the call is to be looked for
            again, where its notification has come meanwhile, and where others have its lease.
        """
        is_settled = await self._submit(overdue.settle_overdue, verdict)
        if is_settled:
            entry = verdict.look.entry
            self._tell([exact_key(one) for one in (entry.out_call_id, entry.call_id) if one])
        return is_settled

    async def examine(self, archive: str) -> Examined:
        """Look at what may be wrong; `archive` is the name of the handler of recordings."""
        return await self._submit(examination.examine, archive)

    def trace_of(self, call_id: str | None, out_call_id: str | None) -> asyncio.Future[str | None]:
        """The ``traceparent`` of the span by which a call was placed: see `ledger_entry`.

        Raises:
            StoreError: at once also where the database does not even take notifications.
        """
        if self._ladder is not None and self._ladder.problems:
            raise StoreError("the store has other worries")
        return self._submit(ledger.find_traces, (call_id, out_call_id))

    async def count_waiting(self, handlers: Collection[str]) -> Mapping[str, int]:
        """How many deliveries are not settled, for each of some handlers: see `deliveries`."""
        return await self._submit(deliveries.count_waiting, handlers)

    async def count_pending(self) -> int:
        """How many deliveries are not settled."""
        return await self._submit(deliveries.count_pending, None)

    def _submit(self, operation: Operation[Connection, A, B], argument: A) -> asyncio.Future[B]:
        return self._open_rows().submit(operation, argument)

    def _open_rows(self) -> GroupCommit[Connection]:
        if self._rows is None:
            raise StoreError("the store is not open")
        return self._rows
