"""The spool: where notifications go while the store cannot take them.

Each process appends to a file of its own. A line is one notification: a checksum, and JSON. A
file is locked while its process lives; what a dead one has left behind is taken by the next that
starts.
"""

from __future__ import annotations

import base64
import logging
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
from attrs import frozen
from filelock import FileLock, Timeout

from qmc_async.files import sync_folder
from qmc_async.store.group_commit import grouped
from qmc_async.store.records import Put, Receipt

if TYPE_CHECKING:
    from qmc_async.store.group_commit import Job

__all__ = ["Chunk", "Spool", "adopt", "append", "clear", "files", "read", "set_apart"]

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".spool"
_DAMAGED: Final = ".damaged"
_CHUNK: Final = 1 << 20  # bytes that are read at once


@frozen
class Chunk:
    """Some lines of a spool file.

    Attributes:
        puts: what came, and who is to handle it.
        end: where in the file the next chunk begins.
    """

    puts: Sequence[Put]
    end: int


class Spool:
    """The spool of one process, and what others have left behind.

    Its methods are called in its own thread.

    Args:
        folder: of the spool files; it is made if need be. Another volume than the store's
            survives that one's filling up.
        owner: names this process's file.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self.folder = folder.absolute()
        self._path = self.folder / f"{owner}{_SUFFIX}"
        self._file = -1
        self._size = 0
        self._locks: dict[Path, FileLock] = {}

    def open(self) -> None:
        """Begin a file.

        Raises:
            OSError: nothing can be kept there.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock(self._path)  # first, or another process could take it for a dead one's
        self._begin()

    def adopt(self) -> list[str]:
        """Take over the files of processes that are dead; their owners."""
        return [
            path.stem
            for path in self.folder.glob(f"*{_SUFFIX}")
            if path not in self._locks and self._lock(path)
        ]

    def close(self) -> None:
        """End the file; it stays where it holds something.

        The folder stays: another process may be about to use it.
        """
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        for path in self.files:
            with suppress(OSError):  # what cannot be tidied up stays
                if path.exists() and not path.stat().st_size:
                    path.unlink()
                self._unlock(path)

    def commit(self, jobs: Sequence[Job]) -> None:
        """Do jobs; what is to be appended shares one fsync."""
        for group in grouped(jobs):
            try:
                results = group[0].operation(self, [job.argument for job in group])
            except OSError as error:
                for job in group:
                    job.error = type(error)(error.errno, error.strerror)
            else:
                for job, result in zip(group, results, strict=True):
                    job.result = result

    def _lock(self, path: Path) -> bool:
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False  # its process lives
        self._locks[path] = lock
        if path != self._path and not path.exists():  # its process has just ended
            self._unlock(path)
        return path in self._locks

    def _begin(self) -> None:
        self._file = os.open(
            self._path,
            # Windows would else write other line ends than those that were summed up.
            os.O_CREAT | os.O_APPEND | os.O_WRONLY | getattr(os, "O_BINARY", 0),
            0o600,
        )
        self._size = os.fstat(self._file).st_size
        sync_folder(self.folder)
        sync_folder(self.folder.parent)
        with suppress(PermissionError):  # then it was not made by us
            sync_folder(self.folder.parent.parent)

    def write(self, data: bytes) -> None:
        """Append, and return once it is on the disk.

        Raises:
            OSError: it is not, and nothing of it stays.
        """
        if not self._path.exists():  # somebody has tidied up
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._file >= 0:
                os.close(self._file)
                self._file = -1  # beginning may fail, and the number soon is somebody else's
            # Else the file would be locked by a lock that nobody else finds.
            self._locks[self._path].release()
            self._locks[self._path].acquire(timeout=0)
            self._begin()
        if os.fstat(self._file).st_size != self._size:
            data = b"\n" + data  # half a line stayed, and must not spoil this one
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size = os.fstat(self._file).st_size

    @property
    def files(self) -> list[Path]:
        """What is to be forwarded, that of others first."""
        return sorted(self._locks, key=lambda path: path == self._path)

    def read(self, path: Path, start: int) -> Chunk:
        """The next lines of a file; none at its end."""
        puts: list[Put] = []
        damaged: list[bytes] = []
        try:
            with path.open("rb") as file:
                file.seek(start)
                lines = file.readlines(_CHUNK)
        except FileNotFoundError:  # somebody has tidied up
            lines = []
        for line in lines:
            start += len(line)
            put = _from_line(line)
            if put is None:
                damaged.append(line)
            else:
                puts.append(put)
        if damaged:
            self.set_apart(path, damaged)
        return Chunk(puts, start)

    def set_apart(self, path: Path, lines: Sequence[bytes]) -> None:
        """Keep what the store will never take, out of the way of what it will."""
        apart = path.with_suffix(_DAMAGED)
        with apart.open("ab") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        logger.critical(
            "%d lines of a spool file cannot be used; they are kept in %s. The last line of a "
            "process that was killed may be one that it never answered for",
            len(lines),
            apart,
        )

    def clear(self, path: Path, end: int) -> bool:
        """Empty a file that has been read to its end; False where more has come meanwhile."""
        if path.exists() and path.stat().st_size != end:
            return False
        if path == self._path:
            os.ftruncate(self._file, 0)
            os.fsync(self._file)
            self._size = 0
        else:
            path.unlink(missing_ok=True)
            self._unlock(path)
        return True

    def _unlock(self, path: Path) -> None:
        lock = self._locks.pop(path)
        if not path.exists():
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def append(spool: Spool, puts: Sequence[Put]) -> list[None]:
    """Keep notifications in the spool."""
    spool.write(b"".join(_to_line(put) for put in puts))
    return [None] * len(puts)


def adopt(spool: Spool, asked: Sequence[None]) -> list[list[str]]:
    """See `Spool.adopt`."""
    return [spool.adopt() for _ in asked]


def files(spool: Spool, asked: Sequence[None]) -> list[list[Path]]:
    """See `Spool.files`."""
    return [spool.files for _ in asked]


def read(spool: Spool, starts: Sequence[tuple[Path, int]]) -> list[Chunk]:
    """See `Spool.read`."""
    return [spool.read(path, start) for path, start in starts]


def set_apart(spool: Spool, refused: Sequence[tuple[Path, Put]]) -> list[None]:
    """See `Spool.set_apart`."""
    for path, put in refused:
        spool.set_apart(path, [_to_line(put)])
    return [None] * len(refused)


def clear(spool: Spool, ends: Sequence[tuple[Path, int]]) -> list[bool]:
    """See `Spool.clear`."""
    return [spool.clear(path, end) for path, end in ends]


def _to_line(put: Put) -> bytes:
    receipt = put.receipt
    record = orjson.dumps(
        {
            "receipt_id": receipt.receipt_id,
            "received_at": receipt.received_at,
            "problem": receipt.problem,
            "handlers": None if put.handlers is None else list(put.handlers),
            "conflict_handlers": put.conflict_handlers,
            "body": base64.b64encode(receipt.body).decode(),
        }
    )
    return b"%08x %s\n" % (zlib.crc32(record), record)


def _from_line(line: bytes) -> Put | None:
    checksum, _, record = line.removesuffix(b"\n").partition(b" ")
    if not record or checksum != b"%08x" % zlib.crc32(record):
        return None
    fields = orjson.loads(record)
    receipt = Receipt.read(
        base64.b64decode(fields["body"]),
        fields["problem"],
        received_at=fields["received_at"],
        receipt_id=fields["receipt_id"],
    )
    names: list[str] | None = fields["handlers"]
    return Put(
        receipt,
        None if names is None else dict.fromkeys(names, False),
        "",
        fields["conflict_handlers"],
    )
