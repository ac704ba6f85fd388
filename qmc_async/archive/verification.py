"""Whether what is archived is still what was fetched."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from attrs import frozen

from qmc_async.archive.destination import hash_of
from qmc_async.archive.sidecar import Sidecar
from qmc_async.audio_format import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from qmc_async.archive.destination import Destination

__all__ = ["Verified", "list_archived", "verify"]

_JSON = ".json"


@frozen
class Verified:
    """What became of one look.

    Attributes:
        key: of the recording; of its JSON, where that does not tell of one.
        problem: what is wrong with it, empty where nothing is.
    """

    key: str
    problem: str


async def list_archived(destination: Destination) -> list[str]:
    """The keys that `verify` is to look at: of each recording's JSON, or else of the recording."""
    keys = set(await destination.keys())
    alone = {
        key for key in keys if PurePosixPath(key).suffix in SUFFIXES and _beside(key) not in keys
    }
    return sorted({key for key in keys if key.endswith(_JSON)} | alone)


async def verify(destination: Destination, keys: list[str]) -> AsyncGenerator[Verified]:
    """Read each recording again, and compare it with the JSON beside it.

    Args:
        destination: where they are.
        keys: of `list_archived`.
    """
    for key in keys:
        yield await _verify(destination, key)


async def _verify(destination: Destination, key: str) -> Verified:
    try:
        return await _compare(destination, key)
    except OSError as error:
        return _unreadable(key, error)


def _unreadable(key: str, error: OSError) -> Verified:
    # A disk goes bad piece by piece, and the others are to be read.
    return Verified(key, f"it cannot be read: {error.strerror or error}")


async def _compare(destination: Destination, key: str) -> Verified:
    if not key.endswith(_JSON):
        # A server may have finished it since the keys were listed.
        if await destination.read(_beside(key)) is None:
            return Verified(key, "it was never finished: there is no JSON beside it")
        key = _beside(key)
    data = await destination.read(key)
    if data is None:
        return Verified(key, "it has gone meanwhile")
    try:
        sidecar = Sidecar.read(data)
    except ValueError as error:
        return Verified(key, str(error))
    # Not the key in it: an archive that was moved, or a part of it, can be verified too.
    sound = str(PurePosixPath(key).with_suffix(PurePosixPath(sidecar.key).suffix))
    try:
        digest, length = await hash_of(destination, sound)
    except OSError as error:
        return _unreadable(sound, error)
    problem = ""
    if not length:
        problem = "it is not there, or empty"
    elif length != sidecar.length:
        problem = f"it has {length} bytes, not {sidecar.length}"
    elif digest != sidecar.sha256:
        problem = "its bytes have changed"
    return Verified(sound, problem)


def _beside(key: str) -> str:
    return str(PurePosixPath(key).with_suffix(_JSON))
