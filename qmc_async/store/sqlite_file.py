"""A database in a file: what it must stand on, and what is done when it breaks."""

from __future__ import annotations

import glob
import os
import re
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from qmc_async.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["SqliteFile", "check_durability", "is_corrupt", "use_immediate_transactions"]

APPLICATION_ID: Final = 0x514D4361
"""Stands in the file's head, and tells our databases from anybody else's."""

_MAGIC: Final = b"SQLite format 3\0"
_BUSY: Final = 5.0  # seconds that another process may hold the file
_BREATH: Final = 0.01  # seconds between two tries to get it
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SHORT_READ: Final = sqlite3.SQLITE_IOERR_SHORT_READ
_FULL_SYNCHRONOUS: Final = 2
# Where a lock or an fsync of one machine means nothing to another, or to the disk.
_NETWORK: Final = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|smb3|ncpfs|afs|9p|ceph|glusterfs|lustre|beegfs|gpfs|ocfs2|gfs2|davfs"
    r"|fuse\.(?:sshfs|glusterfs|ceph|s3fs|rclone|davfs2?|goofys|gcsfuse|juicefs)"
)
_COPIED: Final = ".copied"
_ASIDE: Final = re.compile(r"\.corrupt-[0-9]{8}T[0-9]{6}Z-[0-9]{3}\Z")
_MOUNTS: Final = Path("/proc/self/mountinfo")


class SqliteFile:
    """The file behind a store, by its absolute path.

    Args:
        path: as it stands in the URL.

    Raises:
        ConfigError: nothing can be kept there.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(os.path.realpath(path))  # where SQLite puts what belongs to it
        self._inode: tuple[int, int] | None = None

    def check(self) -> None:
        """See that the place is fit for keeping what will not come again.

        Raises:
            ConfigError: it is not; the message says why, and what to do.
        """
        folder = self.path.parent
        try:
            if not folder.is_dir():
                raise _unfit(f"there is no folder {folder}: make it, or choose another")
            if kind := _network_file_system(folder):
                raise _unfit(
                    f"{folder} is on a network file system ({kind}), where SQLite's locks and "
                    "fsync cannot be relied on: choose a local disk, or use PostgreSQL or MySQL"
                )
            if self.path.exists() and not self.path.is_file():
                raise _unfit(f"{self.path} is no file")
            # Nobody else may read it: there may be telephone numbers in it.
            self.path.touch(mode=0o600)
            with self.path.open("r+b") as file:
                head = file.read(100)
        except OSError as error:
            raise _unfit(
                f"{self.path} cannot be written ({error.strerror}): give this user the right to, "
                "or choose another place"
            ) from None
        if head and not _may_be_ours(head):
            raise _unfit(
                f"{self.path} is no database of qmc-async, but another program's: choose another "
                "file"
            )

    def remember(self) -> None:
        """Take the file that is there now for the one that is open."""
        self._inode = self._identity()

    def forget(self) -> None:
        """Take whatever file is there next."""
        self._inode = None

    def is_replaced(self) -> bool:
        """Whether another file, or none, stands where the open one was."""
        return self._inode is not None and self._identity() != self._inode

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def set_aside(self) -> Path | None:
        """Give a broken file another name, so that a fresh one can take its place.

        Returns:
            The new name; None where another process was faster.

        Raises:
            OSError: it cannot be renamed.
        """
        with FileLock(f"{self.path}.lock", timeout=_BUSY):
            if self.is_replaced():
                return None
            aside = self.free_name()
            log = Path(f"{self.path}-wal")
            if log.exists():  # it holds what was committed last, and goes by the file's name
                log.replace(f"{aside}-wal")
            Path(f"{self.path}-shm").unlink(missing_ok=True)
            if self.path.exists():
                self.path.replace(aside)
            self._inode = None
            return aside

    def not_copied(self) -> list[Path]:
        """Files that were set aside, and whose copying did not come to its end."""
        return [
            path
            for path in sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.corrupt-*"))
            if _ASIDE.search(path.name) and not path.with_name(path.name + _COPIED).exists()
        ]

    def note_copied(self, aside: Path) -> None:
        """Remember that nothing more can be had from a file that was set aside."""
        aside.with_name(aside.name + _COPIED).touch()

    def free_name(self) -> Path:
        """A name beside the file's own that nothing has yet."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for number in range(1000):
            aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}-{number:03}")
            if not aside.exists():
                return aside
        raise FileExistsError(f"too many files were set aside beside {self.path}")


def _unfit(problem: str) -> ConfigError:
    return ConfigError(f"store: {problem}", setting="store")


def _may_be_ours(head: bytes) -> bool:
    """Whether a file may be opened, which would give it a write-ahead log, by its first bytes."""
    application_id = int.from_bytes(head[68:72])
    # Ours has that log before anything is in it, and its id may be in the log still.
    is_young = not application_id and head[18:19] == b"\2"
    return head.startswith(_MAGIC) and (application_id == APPLICATION_ID or is_young)


def _network_file_system(folder: Path) -> str:
    """The kind of network file system that a folder is on; empty where it is none, or unknown."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""  # not Linux
    place = os.path.realpath(folder)
    longest, kind = "", ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), left.split(" ")[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(longest):
            longest, kind = point, right.split(" ")[0]
    return kind if _NETWORK.fullmatch(kind) else ""


def use_immediate_transactions(engine: Engine) -> None:
    """Have each transaction take the write lock as it begins, and every commit reach the disk."""

    @event.listens_for(engine, "connect")
    def set_up(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:  # pyright: ignore[reportUnusedFunction] - the event's
        # The driver must not begin and end transactions as it sees fit.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(_BUSY * 1000)}")
        _use_write_ahead_log(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA wal_autocheckpoint = 4000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction] - the event's
        driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]  # the only driver here
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def _use_write_ahead_log(cursor: DBAPICursor) -> None:
    end = time.monotonic() + _BUSY
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # The one statement that does not wait for another process that opens or ends it too.
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > end:
                raise
            time.sleep(_BREATH)
        else:
            return


def check_durability(connection: Connection, *, in_memory: bool) -> None:
    """Read back what makes a commit durable, and whose file it is.

    Raises:
        ConfigError: a commit would not be durable, or the file is somebody else's.
    """
    journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
    if not in_memory and (journal != "wal" or synchronous != _FULL_SYNCHRONOUS):
        raise _unfit(
            f"SQLite uses journal_mode={journal} and synchronous={synchronous} here, not WAL and "
            "FULL: the file system cannot keep what is committed; choose a local disk"
        )
    application_id = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    if application_id == APPLICATION_ID:
        return
    tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_schema").scalar_one()
    if application_id or tables:
        raise _unfit("the file is the database of another program: choose one of its own")
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def is_corrupt(error: BaseException) -> bool:
    """Whether the file itself is broken, and no second try will help."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0)
    return code & 0xFF in _CORRUPT or code == _SHORT_READ
