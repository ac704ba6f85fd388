"""Fetch a recording: whole under its final name, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias
from urllib.parse import quote

import aiohttp

from qmc_async.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmc_async.models import Recording

__all__ = ["Progress", "fetch"]

Progress: TypeAlias = "Callable[[int, int | None], object]"
"""Called with the bytes written so far and the bytes expected, None where that is not known."""

_PIECE = 256 * 1024
_LONGEST_NAME = 200  # file systems take 255 bytes
_FORMATS = (".wav", ".mp3", ".amr", ".ogg", ".m4a")
_BROKEN = (aiohttp.ClientError, TimeoutError)
_NO_AUDIO = (
    "text/",
    "image/",
    "application/json",
    "application/pdf",
    "application/xml",
    "application/xhtml",
)


async def fetch(
    session: aiohttp.ClientSession,
    recording: Recording,
    destination: str | os.PathLike[str],
    *,
    timeout: float,  # noqa: ASYNC109 - between pieces; how long the whole takes is the caller's matter
    on_progress: Progress | None = None,
) -> Path:
    """Write the recording to a temporary name beside its destination, then rename it.

    Args:
        session: without ``Authorization``: the URL belongs to another host.
        recording: what `AsyncQmcClient.recording` returned.
        destination: the file, which is replaced if it exists; or a folder that exists, where the
            file is named after the call id.
        timeout: seconds to wait for a connection, and for each piece.
        on_progress: see `Progress`.

    Returns:
        The file's path.

    Raises:
        RecordingError: it could not be fetched whole, or what came is no audio.
        OSError: the file cannot be written.
    """
    path = _file(recording, Path(destination))
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(partial, "xb", opener=_for_us_alone) as file:  # noqa: ASYNC230 - opening is quick
            problem = await _transfer(session, recording.file_url, file, timeout, on_progress)
            if not problem:
                await asyncio.to_thread(_sync, file.fileno(), file.flush)
        if not problem:
            partial.replace(path)
            return path
    finally:
        partial.unlink(missing_ok=True)
    raise RecordingError(f"the recording of call {recording.call_id} was not fetched: {problem}")


def _file(recording: Recording, destination: Path) -> Path:
    if not destination.is_dir():
        return destination
    # Not `urlsplit`: it raises on some addresses, and quotes them.
    suffix = Path(re.split(r"[?#]", recording.file_url, maxsplit=1)[0]).suffix.lower()
    # The id came from outside: quoted, it can name no other folder.
    name = quote(recording.call_id, safe="", errors="replace")
    if len(name) > _LONGEST_NAME:
        name = f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()}"
    return destination / f"{name}{suffix if suffix in _FORMATS else '.wav'}"


def _refuse(response: aiohttp.ClientResponse) -> str:
    if response.status != 200:  # noqa: PLR2004 - OK; a 206 was not asked for
        return f"its address answered HTTP {response.status}"
    if response.content_type.startswith(_NO_AUDIO):
        return f"its address leads to {response.content_type}, not to audio"
    return ""


async def _transfer(
    session: aiohttp.ClientSession,
    url: str,
    file: BinaryIO,
    timeout: float,  # noqa: ASYNC109 - for each piece
    on_progress: Progress | None,
) -> str:
    """Write what the address leads to; what kept it from being whole, empty where nothing did."""
    try:
        response = await session.get(
            url,
            headers={"Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout),
        )
    except (*_BROKEN, ValueError) as error:
        return _broke(error)
    async with response:
        return _refuse(response) or await _save(response, file, on_progress)


async def _save(
    response: aiohttp.ClientResponse, file: BinaryIO, on_progress: Progress | None
) -> str:
    head = b""
    written = 0
    pieces = aiter(response.content.iter_chunked(_PIECE))
    while True:
        try:
            piece = await anext(pieces, b"")
        except _BROKEN as error:
            return _broke(error)
        if not piece:
            break
        await asyncio.to_thread(file.write, piece)
        head = head or piece[:8]
        written += len(piece)
        if on_progress is not None:
            on_progress(written, response.content_length)
    if not written:
        return "the file is empty"
    if response.content_length is None and "chunked" not in response.headers.getall(
        "Transfer-Encoding", []
    ):
        # The connection's end is the file's end, or was cut: only a WAV file tells which.
        riff, length = head[:4], int.from_bytes(head[4:8], "little")
        if riff != b"RIFF" or written < length + 8:
            return "its length was not given, so that nobody can tell whether it is whole"
    return ""


def _broke(error: BaseException) -> str:
    # The message quotes the URL, and who has that can listen; the class's name says enough.
    return f"the transfer broke ({type(error).__name__})"


def _for_us_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)
