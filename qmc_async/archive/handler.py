"""`RecordingArchive`: a handler that keeps each recording before the platform deletes it (3.3).

1. A recording that is not there yet, or cannot be fetched or stored now, is no failure: it is
   tried again, ever more slowly, until the three days are nearly over. Then it is a loud dead
   letter.
2. What must not be fetched is one at once: a file that is too long, an address in our network.
3. The JSON beside a recording is written last. Where it is, nothing is fetched again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from pathlib import PurePosixPath
from random import uniform
from typing import TYPE_CHECKING, Final

from qmc_async.archive.destination import destination_at, hash_of
from qmc_async.archive.key import DEFAULT_KEY, KeyTemplate
from qmc_async.archive.sidecar import Sidecar, sidecar_of
from qmc_async.arguments import check_max_bytes
from qmc_async.callback.delivery import Postpone, Reject
from qmc_async.errors import (
    ApiError,
    ArgumentError,
    AuthenticationError,
    QmcError,
    RateLimited,
    RecordingError,
)
from qmc_async.files import for_us_alone
from qmc_async.models import RECORDING_LIFETIME, CallState, Disconnected, RecordingResult
from qmc_async.recordings import MAX_BYTES
from qmc_async.store.examination import of_missing
from qmc_async.store.records import LONGEST_DELAY

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from qmc_async.archive.destination import Destination, GivenDestination
    from qmc_async.callback import CallbackServer
    from qmc_async.callback.delivery import Delivery
    from qmc_async.client import AsyncQmcClient
    from qmc_async.models import Overdue
    from qmc_async.recordings import Progress

__all__ = ["NEARLY_OVER", "RecordingArchive", "end_of", "is_recorded"]

logger = logging.getLogger(__name__)

NEARLY_OVER: Final = timedelta(hours=1)
"""How long before the platform deletes a recording it is given up: somebody is told while it can
still be fetched by hand."""

_LONGEST_ATTEMPT: Final = 3600.0  # seconds; an unfinished file of a killed process is kept longer
_FIRST_DELAY: Final = 2.0  # seconds
_LONGEST_WAIT: Final = 1800.0  # seconds
_LEFT_ALONE: Final = 600.0  # seconds, where the platform does not accept us: it bans for less
_READY_WITHIN: Final = timedelta(hours=1)  # until then a recording that is not there is no news


class RecordingArchive:
    """A handler that keeps recordings in a folder or an object store.

    A call that was recorded becomes two files under a key: the sound as it came, and a JSON that
    tells of which call it is, its SHA-256, length, duration and format.

    Args:
        destination: a folder, which is made if only itself is missing; a URL such as
            ``s3://bucket/prefix``, ``az://…`` or ``gs://…``; or a store of `obstore.store`. For
            object stores install the extra ``archive``. Alibaba's OSS speaks S3: give an
            `obstore.store.S3Store` its ``endpoint``, and ``virtual_hosted_style_request=True``.
        client: looks recordings up, and fetches them.
        key: a template of the key; see `KeyTemplate`.
        max_bytes: how long a recording may be.

    Raises:
        ConfigError: the destination cannot be written to, or the key is no good.
        ArgumentError: `max_bytes` is no length.
    """

    def __init__(
        self,
        destination: GivenDestination,
        *,
        client: AsyncQmcClient,
        key: str = DEFAULT_KEY,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._key = KeyTemplate(key)
        self._max_bytes = check_max_bytes(max_bytes)
        self._client = client
        self._destination = destination_at(destination)
        self._destination.prepare()
        self._left_alone_until = 0.0  # by `time.monotonic`

    def __repr__(self) -> str:
        return f"RecordingArchive({self._destination.place!r})"

    @property
    def destination(self) -> Destination:
        """Where recordings are kept."""
        return self._destination

    def attach(self, server: CallbackServer, *, name: str = "archive") -> None:
        """Register this as a handler of recorded calls, reported or not.

        Calls that nobody reported, but that have a recording, are archived too if the server has a
        `client`: by a handler named ``NAME of missing``.

        Args:
            server: which has not started yet.
            name: under which the store knows what was archived; `qmc doctor` looks for it.

        Raises:
            ValueError: the name is taken.
            RuntimeError: the server has started.
        """
        server.on_disconnected(name=name, timeout=_LONGEST_ATTEMPT)(self)
        if server.client is not None:
            server.on_missing(name=of_missing(name), timeout=_LONGEST_ATTEMPT)(self)

    async def __call__(self, event: Disconnected | Overdue, delivery: Delivery) -> None:
        """Archive an event's recording, if it has one.

        Raises:
            Postpone: it is not there yet, or something keeps us from it.
            Reject: it will not be there any more, or must not be fetched.
        """
        if not is_recorded(event):
            return
        end = min(end_of(event), delivery.first_seen)  # whoever says when may be far ahead
        alone = self._left_alone_until - time.monotonic()
        if 0 < alone < self._left(end):
            # Not each call asks a platform that does not accept us, nor all of them at once later.
            delay = min(alone * uniform(1.0, 1.1), LONGEST_DELAY)  # noqa: S311 - jitter
            raise Postpone(delay, "the platform does not accept us, and is left alone")
        pause = 0.0
        try:
            await self.archive(event)
        except (AuthenticationError, RateLimited) as error:
            problem: Exception = error
            pause = min(getattr(error, "retry_after", None) or _LEFT_ALONE, LONGEST_DELAY)
            self._left_alone_until = time.monotonic() + pause
        except (QmcError, OSError) as error:
            problem = error
        else:
            return
        age = self._age(end)
        left = self._left(end)
        is_hopeless = isinstance(problem, ArgumentError) or not getattr(problem, "temporary", True)
        if is_hopeless or left <= 0:
            logger.critical(
                "the recording of call %s is not archived, and is gone three days after the call "
                "ended: %s",
                event.call_id,
                problem,
            )
            raise Reject(f"not archived: {problem}")
        is_news = age > _READY_WITHIN or type(problem) not in (ApiError, RecordingError)
        logger.log(
            logging.WARNING if is_news else logging.INFO,
            "the recording of call %s is not archived yet: %s",
            event.call_id,
            problem,
        )
        # Twice as long after each time, without anybody who counts: it has taken so long already.
        delay = min(max(age.total_seconds(), _FIRST_DELAY), _LONGEST_WAIT) * uniform(0.5, 1.0)  # noqa: S311 - jitter
        raise Postpone(min(max(delay, pause), left), str(problem))

    def _age(self, end: datetime) -> timedelta:
        return self._client.signer.clock.datetime(time.time()) - end

    def _left(self, end: datetime) -> float:
        """Seconds until it is given up."""
        return (RECORDING_LIFETIME - NEARLY_OVER - self._age(end)).total_seconds()

    async def archive(
        self, event: Disconnected | Overdue, *, on_progress: Progress | None = None
    ) -> bool:
        """Fetch a recording and keep it, unless that is done.

        Args:
            event: of the call; `is_recorded` is true of it.
            on_progress: see `AsyncQmcClient.download`.

        Returns:
            Whether it was fetched; False where it was archived already.

        Raises:
            RecordingError: it could not be fetched whole.
            OSError: it could not be stored.
            QmcError: the platform did not say where it is.
        """
        key = self._key.of(event)
        if await self._is_archived(key):
            return False
        with self._destination.scratch() as folder:
            file = await self._client.download(
                event.call_id or "",  # not the event: three days after its end may be no date
                folder,
                max_bytes=self._max_bytes,
                on_progress=on_progress,
            )
            sound = key + file.path.suffix
            described = folder / "beside"
            fetched_at = self._client.signer.clock.datetime(time.time())
            data = await asyncio.to_thread(sidecar_of, event, file, sound, fetched_at)
            await asyncio.to_thread(_write, described, data)
            if await self._is_archived(key):  # another process was quicker
                return False
            # Of a recording that is not there any more. Who may not delete can archive all others.
            if await self._destination.stat(_beside(key)) is not None:
                await self._destination.delete(_beside(key))
            version = await self._destination.put(sound, file.path)
            describing = asyncio.ensure_future(self._describe(key, described, data, version))
            try:
                await asyncio.shield(describing)
            except asyncio.CancelledError:
                # No JSON is left that nobody has compared with its sound.
                await asyncio.wait([describing])
                describing.exception()
                raise
        logger.info("the recording of call %s is archived as %s", event.call_id, key)
        return True

    async def _is_archived(self, key: str) -> bool:
        data = await self._destination.read(_beside(key))
        if data is None:
            return False
        try:
            sidecar = Sidecar.read(data)
        except ValueError:
            return False
        # Not the key in it, which may be of an archive that was moved, or lead anywhere.
        sound = key + PurePosixPath(sidecar.key).suffix
        found = await self._destination.stat(sound)
        return found is not None and found.length == sidecar.length

    async def _describe(self, key: str, described: Path, data: bytes, version: str | None) -> None:
        """Put the JSON beside a sound, and see that it is of that very sound."""
        await self._destination.put(_beside(key), described)
        sidecar = Sidecar.read(data)
        found = await self._destination.stat(sidecar.key)
        if version is not None and found is not None and found.version == version:
            return
        # Or the file server, or the object store, has no versions that one can rely on.
        digest, _ = await hash_of(self._destination, sidecar.key)
        if digest != sidecar.sha256:
            # Another process has fetched it too, and of the two JSONs the wrong one may be there.
            if await self._destination.read(_beside(key)) == data:
                await self._destination.delete(_beside(key))
            raise OSError("it was replaced while it was being archived")


def is_recorded(event: Disconnected | Overdue) -> bool:
    """Whether there is something to archive, as far as the event tells."""
    if isinstance(event, Disconnected):
        return event.recording_result == RecordingResult.SUCCESS
    return event.outcome is CallState.INFERRED


def end_of(event: Disconnected | Overdue) -> datetime:
    """When a call ended, in UTC+8; of one that nobody reported, when it was placed."""
    return event.end_time if isinstance(event, Disconnected) else event.placed_at


def _beside(key: str) -> str:
    return f"{key}.json"


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb", opener=for_us_alone) as file:
        file.write(data)
