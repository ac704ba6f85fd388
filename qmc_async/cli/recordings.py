"""`qmc recordings`: an archive of recordings, filled and verified."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Final

import click
from attrs import define

from qmc_async.archive import RecordingArchive
from qmc_async.archive.destination import destination_at
from qmc_async.archive.key import DEFAULT_KEY
from qmc_async.archive.verification import list_archived, verify
from qmc_async.cli.progress import progress_of, say
from qmc_async.cli.running import FAILED, running
from qmc_async.cli.shown import one_line, printable
from qmc_async.cli.visit import store_option, visit
from qmc_async.client import AsyncQmcClient
from qmc_async.errors import AuthenticationError, QmcError, RateLimited
from qmc_async.recordings import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Progress, TaskID

    from qmc_async.models import Disconnected, Overdue

__all__ = ["recordings"]

_AT_ONCE: Final = 4  # recordings; a server may be fetching beside it


@click.group()
def recordings() -> None:
    """Fill an archive of recordings, and see whether it is whole.

    DESTINATION is a folder, or a URL such as s3://bucket/prefix (with the extra archive).

    Example: qmc recordings verify recordings
    """


@recordings.command()
@click.argument("destination")
@click.option(
    "--key",
    default=DEFAULT_KEY,
    show_default=True,
    metavar="TEMPLATE",
    help="The same as the server's RecordingArchive has.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    default=MAX_BYTES,
    show_default=True,
    help="How long a recording may be.",
)
@store_option
@running
async def backfill(destination: str, key: str, max_bytes: int, url: str) -> None:
    """Fetch recordings that are not in DESTINATION yet, and that the platform still has.

    Those are of calls that ended within three days, as the store knows. A running server's archive
    does the same by itself, as long as it runs. Exit status 1: one or more could not be fetched.

    Example: qmc recordings backfill recordings
    """
    from qmc_async.archive.backfill import recorded_calls  # noqa: PLC0415 - see `visit`

    async with visit(url) as store, AsyncQmcClient() as client:
        archive = RecordingArchive(destination, client=client, key=key, max_bytes=max_bytes)
        with progress_of() as progress:
            filling = _Backfill(archive, progress, progress.add_task("", total=0))
            async for calls in recorded_calls(store, client.signer.clock.datetime(time.time())):
                await filling.fetch(calls)
    click.echo(f"{filling.fetched} fetched, {filling.there} were there, {filling.failed} failed")
    if filling.failed:
        sys.exit(FAILED)


@define
class _Backfill:
    """Fetches some recordings at a time, and counts.

    Attributes:
        fetched: how many.
        there: how many were archived already.
        failed: how many could not be fetched.
    """

    _archive: RecordingArchive
    _progress: Progress
    _task: TaskID
    fetched: int = 0
    there: int = 0
    failed: int = 0
    _known: int = 0
    _stopped_by: QmcError | None = None

    async def fetch(self, calls: Sequence[Disconnected | Overdue]) -> None:
        """Fetch what is not archived.

        Raises:
            AuthenticationError, RateLimited: the platform does not want to be asked any more.
        """
        self._known += len(calls)
        rest = iter(calls)
        # Alone, until the platform has answered: one that does not accept us is asked once.
        for call in rest:
            await self._fetch(call)
            if self.fetched or self.failed:
                break
        await asyncio.gather(*(self._work(rest) for _ in range(_AT_ONCE)))
        if self._stopped_by is not None:
            raise self._stopped_by

    async def _work(self, rest: Iterator[Disconnected | Overdue]) -> None:
        for call in rest:
            if self._stopped_by is not None:
                return
            try:
                await self._fetch(call)
            except (AuthenticationError, RateLimited) as error:
                self._stopped_by = error

    async def _fetch(self, call: Disconnected | Overdue) -> None:
        self._show()
        try:
            is_new = await self._archive.archive(call)
        except (AuthenticationError, RateLimited):
            raise
        except (QmcError, OSError) as error:
            self.failed += 1
            line = f"{printable(call.call_id or '')}  {one_line(str(error))}"
            self._progress.console.print(line, markup=False, soft_wrap=True)
        else:
            self.fetched += is_new
            self.there += not is_new
        self._show()

    def _show(self) -> None:
        done = self.fetched + self.there + self.failed
        self._progress.update(
            self._task,
            description=f"{done} of {self._known} recordings",
            completed=done,
            total=self._known,
        )


@recordings.command("verify")
@click.argument("destination")
@running
async def verify_all(destination: str) -> None:
    """Read every recording in DESTINATION again, and compare its SHA-256.

    What is wrong is listed. Exit status 1: one or more are not as they were fetched, or there are
    none at all.

    Example: qmc recordings verify recordings
    """
    archive = destination_at(destination)
    keys = await list_archived(archive)
    wrong = count = 0
    with progress_of() as progress:
        task = progress.add_task("", total=len(keys))
        async for verified in verify(archive, keys):
            count += 1
            progress.update(task, description=f"{count} of {len(keys)} recordings", completed=count)
            if verified.problem:
                wrong += 1
                say(f"{printable(verified.key)}  {one_line(verified.problem)}", progress)
    if not keys:
        click.echo(f"there is no recording in {archive.place}: is it another's?", err=True)
    else:
        click.echo(f"{count - wrong} as they were fetched, {wrong} wrong", err=True)
    if wrong or not keys:
        sys.exit(FAILED)
