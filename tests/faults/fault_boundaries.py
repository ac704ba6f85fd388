"""Where a process kills itself: at one of its steps, and not a moment before or after."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from functools import wraps
from typing import TYPE_CHECKING, Any
from unittest import mock

from sqlalchemy import Engine, event

from qmc_async.store import deliveries, events, ledger, overdue
from qmc_async.store.database import Database
from qmc_async.store.records import Found, State
from qmc_async.store.server_database import ServerDatabase
from qmc_async.store.spool_file import Spool
from qmc_async.store.sqlite_database import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sqlalchemy import Connection

    from qmc_async.store.group_commit import Job, Operation

__all__ = ["BOUNDARIES", "CALL_BOUNDARIES", "Boundary"]

BOUNDARIES = {
    "before the commit": ("before put",),
    "after the commit, before the answer": ("after put",),
    "in the middle of a handler": ("handler begun", "handler done"),
    "while a dead letter is written": ("before dead", "after dead"),
    "while the spool is forwarded": (
        "before forward",
        "after forward",
        "before clear",
        "after clear",
    ),
}
"""The steps, by what a test calls them."""

CALL_BOUNDARIES = {
    "before what is decided is committed": ("before open", "before verdict"),
    "after it is committed": ("after open", "after verdict"),
    "before what was learnt is committed": ("before outcome", "before look"),
    "after that": ("after outcome", "after look"),
}
"""The steps of a call: one as it is placed, and one as what became of it is looked for."""

_KINDS: dict[Operation[Any, Any, Any], str] = {
    ledger.open_entries: "open",  # a call is written down
    ledger.settle_entries: "outcome",  # of the request to place it
    overdue.look_for_overdue: "look",
    overdue.settle_overdue: "verdict",
    deliveries.poll: "poll",
}


class Boundary:
    """Counts down a step, once armed, and kills the process at zero, or freezes it.

    Args:
        step: one of `BOUNDARIES` or `CALL_BOUNDARIES`, or nothing.
        after: how many times it is to be reached.
        commits: a file that gets a line for each commit of notifications, or nothing.
        number: of the signal that it gets.
    """

    def __init__(self, step: str, after: int, commits: str, number: int = signal.SIGKILL) -> None:
        self._step = step
        self._left = after
        self._number = number
        self._armed = False
        self._jobs: Sequence[Job] = ()
        self._commits = -1
        if commits:
            self._commits = os.open(commits, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        if step or commits:
            self._watch_commits()
            self._watch_spool()

    def arm(self) -> None:
        """Begin to count."""
        self._armed = True

    def reach(self, step: str, times: int = 1) -> None:
        """Be at a step; return only if this is not the one."""
        if self._armed and step == self._step:
            self._left -= times
            if times and self._left <= 0:
                self._armed = False  # a frozen process goes on one day
                # Sent to the process, another thread may take it, and this one goes on a little.
                signal.pthread_kill(threading.get_ident(), self._number)

    def _reach_with(self, when: str, jobs: Sequence[Job]) -> None:
        kinds = Counter[str]()
        for job in jobs:
            kinds[_kind(job)] += len(job.result.looks) if isinstance(job.result, Found) else 1
        for kind, times in kinds.items():
            self.reach(f"{when} {kind}", times)
        if self._commits >= 0 and when == "after" and kinds["put"]:
            os.write(self._commits, b"%d\n" % kinds["put"])

    def _watch_commits(self) -> None:
        commit = Database.commit

        @wraps(commit)
        def watched(database: Database, jobs: Sequence[Job]) -> None:
            self._jobs = jobs
            commit(database, jobs)
            self._reach_with("after", [job for job in jobs if job.error is None])

        def before_commit(_: object) -> None:
            self._reach_with("before", self._jobs)

        commit_in_sqlite = SqliteDatabase._commit  # pyright: ignore[reportPrivateUsage] - a step of its own

        @wraps(commit_in_sqlite)
        def committing(database: SqliteDatabase, connection: Connection) -> None:
            before_commit(connection)
            commit_in_sqlite(database, connection)

        connect = ServerDatabase._connect  # pyright: ignore[reportPrivateUsage] - a step of its own

        @wraps(connect)
        def connecting(database: ServerDatabase) -> Connection:
            jobs, self._jobs = self._jobs, ()  # its transactions are not theirs
            try:
                return connect(database)
            finally:
                self._jobs = jobs

        mock.patch.object(Database, "commit", watched).start()
        mock.patch.object(ServerDatabase, "_connect", connecting).start()
        mock.patch.object(SqliteDatabase, "_commit", committing).start()
        event.listen(Engine, "commit", before_commit)  # of the servers

    def _watch_spool(self) -> None:
        clear: Callable[[Spool, Path, int], bool] = Spool.clear

        @wraps(clear)
        def watched(spool: Spool, path: Path, end: int) -> bool:
            self.reach("before clear", end > 0)
            cleared = clear(spool, path, end)
            self.reach("after clear", cleared and end > 0)
            return cleared

        mock.patch.object(Spool, "clear", watched).start()


def _kind(job: Job) -> str:
    argument: Any = job.argument
    if job.operation is events.put:
        return "put" if argument.owner else "forward"  # who forwards takes no lease
    if job.operation is deliveries.settle:
        return "dead" if argument.state is State.DEAD else "settle"
    return _KINDS.get(job.operation, "")
