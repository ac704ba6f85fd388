"""Fetch a recording: whole under its final name, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from attrs import frozen

from qmc_async.audio_format import SUFFIXES
from qmc_async.errors import RecordingError
from qmc_async.files import for_us_alone, sync_folder
from qmc_async.recording_transfer import Progress, Transfer, TransferError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmc_async.models import Recording
    from qmc_async.recording_transfer import SessionFor

__all__ = ["MAX_BYTES", "Progress", "RecordingFile", "fetch"]

MAX_BYTES: Final = 1 << 30
"""How long a recording may be by default: as much as 18 hours of uncompressed telephone sound."""

_LONGEST_NAME = 200  # file systems take 255 bytes


@frozen
class RecordingFile(os.PathLike[str]):
    """A recording that was saved. Wherever a path is wanted, it is the file's.

    Attributes:
        path: the file.
        sha256: of its bytes, in lower-case hex.
        length: in bytes.
        format: ``wav``, ``mp3``, ``amr``, ``ogg``, ``m4a``, ``aac``, ``flac``, ``au`` or
            ``webm``, by the file's first bytes; ``unknown`` for any other sound.
    """

    path: Path
    sha256: str
    length: int
    format: str

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


async def fetch(
    session_for: SessionFor,
    recording: Recording,
    destination: str | os.PathLike[str],
    *,
    timeout: float,  # noqa: ASYNC109 - between pieces; how long the whole takes is the caller's matter
    max_retries: int,
    max_bytes: int = MAX_BYTES,
    on_progress: Progress | None = None,
) -> RecordingFile:
    """Write the recording to a temporary name beside its destination, then rename it.

    Args:
        session_for: `Transport.download_session`.
        recording: what `AsyncQmcClient.recording` returned.
        destination: the file, which is replaced if it exists; or a folder that exists, where the
            file is named after the call id.
        timeout: seconds to wait for a connection, and for each piece.
        max_retries: how often in a row an attempt may bring nothing new.
        max_bytes: how long the file may be.
        on_progress: see `Progress`.

    Raises:
        RecordingError: it could not be fetched whole, or what came is no audio.
        OSError: the file cannot be written.
    """
    target = Path(destination)
    into_folder = await asyncio.to_thread(target.is_dir)
    folder = target if into_folder else target.parent
    partial = folder / f".{secrets.token_hex(8)}.part"
    try:
        with open(partial, "xb", opener=for_us_alone) as file:  # noqa: ASYNC230 - opening is quick
            transfer = Transfer(
                file,
                session_for,
                recording,
                timeout=timeout,
                max_bytes=max_bytes,
                on_progress=on_progress,
            )
            await transfer.run(max_retries)
            await asyncio.to_thread(_sync, file.fileno(), file.flush)
        path = folder / _name(recording, transfer.format) if into_folder else target
        partial.replace(path)
        await asyncio.to_thread(sync_folder, folder)
        return RecordingFile(path, transfer.sha256, transfer.written, transfer.format)
    except TransferError as error:
        why, temporary = error.why, error.temporary
    finally:
        partial.unlink(missing_ok=True)
    raise RecordingError(
        f"the recording of call {recording.call_id} was not fetched: {why}", temporary=temporary
    )


def _name(recording: Recording, audio_format: str) -> str:
    # Not `urlsplit`: it raises on some addresses, and quotes them.
    suffix = Path(re.split(r"[?#]", recording.file_url, maxsplit=1)[0]).suffix.lower()
    if suffix not in SUFFIXES:
        suffix = f".{audio_format}" if f".{audio_format}" in SUFFIXES else ".wav"
    # The id came from outside: quoted, it can name no other folder.
    name = quote(recording.call_id, safe="", errors="replace")
    if len(name) > _LONGEST_NAME:
        name = f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()}"
    return name + suffix


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)
