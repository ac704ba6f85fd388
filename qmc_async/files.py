"""Files that nobody else may read, and that a power cut does not take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["for_us_alone", "sync_folder"]


def for_us_alone(path: str, flags: int) -> int:
    """An opener for `open`: of a file that is made, only its owner may read."""
    return os.open(path, flags, 0o600)


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder; elsewhere than on POSIX that cannot be."""
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
