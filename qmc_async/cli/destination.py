"""The file that a command writes."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from qmc_async.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["destination"]


@contextmanager
def destination(output: str) -> Generator[BinaryIO]:
    """Where to write: a file has its name once it is whole, and nobody else may read it.

    Args:
        output: its path, or ``-`` for the standard output.

    Raises:
        ConfigError: its folder is not there.
    """
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output).resolve()
    if path.exists() and not path.is_file():  # a pipe, for one, which must stay one
        with path.open("wb") as file:
            yield file
        return
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}: make it, or choose another")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    unfinished = Path(name)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a handle has no path
            yield file
            file.flush()
            os.fsync(handle)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink()
        raise
