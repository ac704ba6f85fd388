"""Where archived recordings go: a folder, or an object store through `obstore`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from attrs import frozen

from qmc_async.errors import ConfigError
from qmc_async.files import sync_folder
from qmc_async.numbers import mask_in_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from contextlib import AbstractContextManager

    from obstore.store import ObjectStore

__all__ = ["Destination", "GivenDestination", "Stat", "destination_at", "hash_of"]

T = TypeVar("T")

GivenDestination: TypeAlias = "str | os.PathLike[str] | ObjectStore"
"""A folder, a URL such as ``s3://bucket/prefix``, or a store of `obstore.store`."""

_SCRATCH: Final = ".qmc-"
_ABANDONED: Final = 2 * 3600.0  # seconds; no attempt takes so long
_PIECE: Final = 8 << 20
_LONGEST_ERROR: Final = 300
_QUERY: Final = re.compile(r"\?[^\s\"')]*")
# What a store answers may quote the signature that it got; its code says what is wrong.
_XML: Final = re.compile(r"<(?:.*?<Code>(\w*)</Code>)?.*")
_PASSWORD: Final = re.compile(r"//[^\s/\"']*@")


@frozen
class Stat:
    """What is known of a file without reading it.

    Attributes:
        length: in bytes.
        version: another one once it was replaced; None where the object store has none.
    """

    length: int
    version: str | None


class Destination(Protocol):
    """A place for files under keys; what is under one is whole, and replaced at once."""

    @property
    def place(self) -> str:
        """What a person calls it, without any password."""
        ...

    def prepare(self) -> None:
        """See that it can be written to, as far as that can be told at once.

        Raises:
            ConfigError: it cannot.
        """
        ...

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder for unfinished files, which is deleted afterwards."""
        ...

    async def put(self, key: str, file: Path) -> str | None:
        """Give a file of `scratch` its place under a key, for good, and return its version."""
        ...

    async def read(self, key: str) -> bytes | None:
        """What is under a key; None where nothing is."""
        ...

    async def stat(self, key: str) -> Stat | None:
        """What is known of it; None where nothing is there."""
        ...

    async def delete(self, key: str) -> None:
        """Delete what is under a key, if anything is."""
        ...

    def pieces(self, key: str) -> AsyncGenerator[bytes]:
        """What is under a key, piece by piece; nothing where nothing is."""
        ...

    async def keys(self) -> list[str]:
        """All keys, in no order."""
        ...


async def hash_of(destination: Destination, key: str) -> tuple[str, int]:
    """The SHA-256 of what is under a key, in lower-case hex, and its length."""
    digest, length = hashlib.sha256(), 0
    async for piece in destination.pieces(key):
        digest.update(piece)
        length += len(piece)
    return digest.hexdigest(), length


def destination_at(given: GivenDestination) -> Destination:
    """Find out what is meant.

    Raises:
        ConfigError: nothing that there is.
    """
    if isinstance(given, str) and "://" in given:
        return _at_url(given)
    if isinstance(given, str | os.PathLike):
        return _in_folder(os.fspath(given))
    _import_obstore()
    from obstore import store as stores  # noqa: PLC0415 - see `_import_obstore`

    if isinstance(given, stores.LocalStore):
        # It does not wait for the disk, so that a power cut loses what it has put.
        return Folder(given.prefix or Path("/"))
    classes = (
        stores.AzureStore,
        stores.GCSStore,
        stores.HTTPStore,
        stores.MemoryStore,
        stores.S3Store,
    )
    if isinstance(given, classes):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
        return Bucket(given, type(given).__name__)
    raise ConfigError(
        "destination: it must be a folder, a URL such as s3://bucket/prefix, or a store of "
        f"obstore.store, not {type(given).__name__}",
        setting="destination",
    )


def _in_folder(path: str) -> Folder:
    if not path:  # to `Path` that is the current one, which nobody who leaves it out means
        raise ConfigError("destination: it is empty: name a folder", setting="destination")
    return Folder(Path(path))


def _at_url(url: str) -> Destination:
    try:
        parts = urlsplit(url)
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        raise ConfigError("destination: it is no URL", setting="destination") from None
    if parts.scheme == "file":
        if parts.netloc:
            raise ConfigError(
                f"destination: {place} needs three slashes: file:///folder", setting="destination"
            )
        return _in_folder(url2pathname(parts.path))
    _import_obstore()
    from obstore.store import from_url  # noqa: PLC0415 - see `_import_obstore`

    try:
        return Bucket(from_url(url), place)
    except Exception as error:  # noqa: BLE001 - whatever it is, the URL or a setting is wrong
        problem = _told(error)
    raise ConfigError(f"destination: {place}: {problem}", setting="destination")


def _import_obstore() -> None:
    # It is an extra, and takes a while to import, which a folder need not pay.
    try:
        import obstore  # noqa: F401, PLC0415 # pyright: ignore[reportUnusedImport] - see above
    except ImportError:
        raise ConfigError(
            "destination: an object store needs obstore: pip install 'qmc-async[archive]'",
            setting="destination",
        ) from None


def _told(error: Exception) -> str:
    # The rest is for whoever wrote obstore, and a query may be a signature.
    first = _XML.sub(r"\1", _QUERY.sub("?...", str(error).partition("\n")[0]))
    first = _PASSWORD.sub("//", first)
    return f"{type(error).__name__}: {mask_in_text(first)}"[:_LONGEST_ERROR]


class Folder:
    """A folder of this machine, or of a file server that it has mounted.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self._root = path.absolute()

    @property
    def place(self) -> str:
        """Its path."""
        return str(self._root)

    def prepare(self) -> None:
        """Make it where only itself is missing, and delete what a killed process has left."""
        try:
            self._root.mkdir(exist_ok=True)
            with self.scratch():
                pass
            for folder in self._root.glob(f"{_SCRATCH}*"):
                with suppress(FileNotFoundError):  # another process has come to its end
                    if folder.stat().st_mtime < time.time() - _ABANDONED:
                        shutil.rmtree(folder, ignore_errors=True)  # it may be another user's
        except OSError as error:
            raise ConfigError(
                f"destination: nothing can be written into {self._root} ({error.strerror}): make "
                "the folder, or let this user write into it",
                setting="destination",
            ) from None

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """A folder in it, so that a file only needs to be renamed."""
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._root) as folder:
            yield Path(folder)

    async def put(self, key: str, file: Path) -> str | None:
        """Rename it, and wait for the disk."""
        return await asyncio.to_thread(self._put, self._root / key, file)

    def _put(self, path: Path, file: Path) -> str:
        with file.open("rb") as written:
            os.fsync(written.fileno())
            version = _version(os.fstat(written.fileno()))
        _make_folder(path.parent)
        file.replace(path)
        sync_folder(path.parent)
        return version

    async def read(self, key: str) -> bytes | None:
        """As `Destination`."""
        return await asyncio.to_thread(_if_there, (self._root / key).read_bytes)

    async def stat(self, key: str) -> Stat | None:
        """As `Destination`."""
        found = await asyncio.to_thread(_if_there, (self._root / key).stat)
        return None if found is None else Stat(found.st_size, _version(found))

    async def delete(self, key: str) -> None:
        """As `Destination`."""
        await asyncio.to_thread((self._root / key).unlink, missing_ok=True)

    async def pieces(self, key: str) -> AsyncGenerator[bytes]:
        """As `Destination`."""
        file = await asyncio.to_thread(_if_there, lambda: (self._root / key).open("rb"))
        if file is None:
            return
        with file:
            while piece := await asyncio.to_thread(file.read, _PIECE):
                yield piece

    async def keys(self) -> list[str]:
        """All keys; what is hidden is none."""
        return await asyncio.to_thread(self._keys)

    def _keys(self) -> list[str]:
        if not self._root.is_dir():
            raise ConfigError(
                f"destination: there is no folder {self._root}", setting="destination"
            )
        found: list[str] = []
        # Without `onerror`, a folder that cannot be read would count as empty.
        for folder, folders, files in os.walk(self._root, onerror=_give_up):
            folders[:] = [name for name in folders if not name.startswith(".")]
            at = Path(folder).relative_to(self._root)
            found += [(at / name).as_posix() for name in files if not name.startswith(".")]
        return found


def _if_there(work: Callable[[], T]) -> T | None:
    try:
        return work()
    except FileNotFoundError:
        return None


def _give_up(error: OSError) -> None:
    raise error


def _version(found: os.stat_result) -> str:
    return f"{found.st_ino}-{found.st_mtime_ns}"


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


class Bucket:
    """An object store.

    Its errors are `OSError`, as a disk's are: those of `obstore` may hold a signed address.

    Args:
        store: of `obstore.store`.
        place: what a person calls it.
    """

    def __init__(self, store: ObjectStore, place: str) -> None:
        self._store = store
        self._place = place

    @property
    def place(self) -> str:
        """What a person calls it."""
        return self._place

    def prepare(self) -> None:
        """Whether it can be written to shows only when it is."""

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """A folder of this machine, in ``TMPDIR``."""
        with tempfile.TemporaryDirectory(prefix="qmc-archive-") as folder:
            yield Path(folder)

    async def put(self, key: str, file: Path) -> str | None:
        """Upload it; in parts where it is long."""
        import obstore  # noqa: PLC0415 - see `_import_obstore`

        result = await self._plainly(lambda: obstore.put_async(self._store, key, file))
        return result["e_tag"]

    async def read(self, key: str) -> bytes | None:
        """As `Destination`."""
        found = [piece async for piece in self.pieces(key)]
        return b"".join(found) if found else None

    async def stat(self, key: str) -> Stat | None:
        """As `Destination`."""
        import obstore  # noqa: PLC0415 - see `_import_obstore`

        try:
            meta = await self._plainly(lambda: obstore.head_async(self._store, key))
        except FileNotFoundError:
            return None
        return Stat(meta["size"], meta["e_tag"])

    async def delete(self, key: str) -> None:
        """As `Destination`."""
        import obstore  # noqa: PLC0415 - see `_import_obstore`

        await self._plainly(lambda: obstore.delete_async(self._store, key))

    async def pieces(self, key: str) -> AsyncGenerator[bytes]:
        """As `Destination`."""
        import obstore  # noqa: PLC0415 - see `_import_obstore`

        found = await self.stat(key)
        length = 0 if found is None else found.length
        # Each a request of its own: one request for all of it may last longer than obstore waits.
        for start in range(0, length, _PIECE):
            end = min(start + _PIECE, length)
            part = partial(obstore.get_range_async, self._store, key, start=start, end=end)
            yield bytes(await self._plainly(part))

    async def keys(self) -> list[str]:
        """As `Destination`."""
        import obstore  # noqa: PLC0415 - see `_import_obstore`

        async def read() -> list[str]:
            found: list[str] = []
            async for page in obstore.list(self._store):  # pyright: ignore[reportUnknownMemberType] - of an overload that is not used
                found += [meta["path"] for meta in page]
            return found

        return await self._plainly(read)

    async def _plainly(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await work()
        except FileNotFoundError:
            problem: OSError = FileNotFoundError(f"nothing under that key in {self._place}")
        except Exception as error:  # noqa: BLE001 - see the class
            problem = OSError(f"the archive in {self._place}: {_told(error)}")
        raise problem  # here, so that it does not hold the error, which holds the address
