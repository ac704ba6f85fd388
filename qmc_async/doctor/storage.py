"""The store: whether it keeps what it is given, and what waits in it."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qmc_async.doctor.finding import Finding, Status, skipped
from qmc_async.errors import ConfigError, StoreError
from qmc_async.store import Store
from qmc_async.store.database import MEMORY

if TYPE_CHECKING:
    from qmc_async.store.examination import Examined

__all__ = ["examine_store"]

_GIB: Final = 1024**3
_LITTLE: Final = 1 * _GIB
_NAMED: Final = 3  # handlers
_NAMES: Final = ("overdue_calls", "dead_letters", "recordings")
_ANOTHER: Final = "put it right, or name another store (--store, QMC_STORE)"


async def examine_store(
    url: str | None,
    archive_handler: str,
    timeout: float,  # noqa: ASYNC109 - it becomes a finding
) -> list[Finding]:
    """Look into it as a visitor does, who changes nothing."""
    try:
        store = Store(url, visiting=True)
    except ConfigError as error:
        return _unseen(Finding("store", Status.FAILED, _told(error), _ANOTHER), [])
    place = store.place
    path = None if place == MEMORY or "://" in place else Path(place)
    folders = _folders(path)
    if place == MEMORY:
        advice = "set QMC_STORE: in memory, a restart loses what is not handled"
        return _unseen(Finding("store", Status.WARNING, "it is memory", advice), folders)
    if path is not None and (not_there := _not_there(path)) is not None:
        return _unseen(not_there, folders)
    try:
        async with asyncio.timeout(timeout), store:
            examined = await store.examine(archive_handler)
    except TimeoutError:
        advice = "see that the database runs, and that nothing keeps it locked"
        slow = Finding("store", Status.FAILED, f"no answer from {place} in {timeout:g} s", advice)
        return _unseen(slow, folders)
    except (ConfigError, StoreError) as error:
        told = _told(error)
        # Its tables are not there, or older than this version: that is for a server to change.
        is_early = isinstance(error, ConfigError) and "start a server" in told
        failed = Finding("store", Status.FAILED, told, _ANOTHER)
        return _unseen(_not_begun(told) if is_early else failed, folders)
    if examined.problem:
        kept = Finding("store", Status.FAILED, _told(ConfigError(examined.problem)), _ANOTHER)
    else:
        kept = Finding("store", Status.OK, f"{place} keeps what it has committed")
    return [kept, _disk(folders), _overdue(examined), _dead(examined), _expiring(examined)]


def _not_there(path: Path) -> Finding | None:
    try:
        if path.parent.is_dir() and not path.exists():
            return _not_begun(f"there is none at {path} yet")
    except OSError as error:
        return Finding("store", Status.FAILED, f"{path}: {error.strerror}", _ANOTHER)
    return None


def _told(error: Exception) -> str:
    return str(error).removeprefix("store: ")


def _not_begun(told: str) -> Finding:
    advice = "start a server with it, which makes its tables; or name another (--store, QMC_STORE)"
    return Finding("store", Status.WARNING, told, advice)


def _unseen(store: Finding, folders: list[Path]) -> list[Finding]:
    rest = [skipped(name, "the store cannot be looked into") for name in _NAMES]
    return [store, _disk(folders), *rest]


def _folders(path: Path | None) -> list[Path]:
    spool = os.environ.get("QMC_SPOOL", "").strip()
    return [*([] if path is None else [path.parent]), *([Path(spool)] if spool else [])]


def _disk(folders: list[Path]) -> Finding:
    try:
        free = [(shutil.disk_usage(folder).free, folder) for folder in folders if folder.is_dir()]
    except OSError as error:
        advice = "run qmc doctor as the user that the server runs as"
        return Finding("disk", Status.WARNING, f"{error.filename}: {error.strerror}", advice)
    if not free:
        return skipped("disk", "the store has no folder on this machine")
    least, folder = min(free)
    found = f"{least / _GIB:.1f} GiB are free in {folder}"
    if least >= _LITTLE:
        return Finding("disk", Status.OK, found)
    advice = "make room: what cannot be kept does not come again"
    return Finding("disk", Status.WARNING, found, advice)


def _overdue(examined: Examined) -> Finding:
    count = examined.overdue
    if not count:
        return Finding("overdue_calls", Status.OK, "none")
    return Finding(
        "overdue_calls",
        Status.WARNING,
        f"{count} are past their deadline, and nobody has looked what became of them",
        "run a CallbackServer(client=client) with this store, and see what its log says",
    )


def _dead(examined: Examined) -> Finding:
    dead = examined.dead
    if not dead:
        return Finding("dead_letters", Status.OK, "none")
    names = ", ".join(list(dead)[:_NAMED])
    more = ", and others" if len(dead) > _NAMED else ""
    return Finding(
        "dead_letters",
        Status.WARNING,
        f"{sum(dead.values())}, of the handlers {names}{more}",
        "qmc events dead says why; qmc events replay gives them to their handlers again",
    )


def _expiring(examined: Examined) -> Finding:
    if not examined.has_archive:
        return skipped("recordings", "the store knows no archive: see --archive-handler")
    if not examined.expiring:
        return Finding("recordings", Status.OK, "none is about to expire")
    return Finding(
        "recordings",
        Status.FAILED,
        f"{examined.expiring} expire within a day, and the archive's handlers have not kept them",
        "see what keeps them from it (qmc events list --state pending, or dead); or fetch them "
        "with qmc recordings backfill, which is not seen here",
    )
