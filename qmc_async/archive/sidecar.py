"""The JSON beside each archived recording: what it is, and of which call.

It is written last: where it is, the recording is whole.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import asdict, frozen

from qmc_async.audio_format import SUFFIXES
from qmc_async.numbers import mask_in_text

if TYPE_CHECKING:
    from pathlib import Path

    from qmc_async.models import Disconnected, Overdue
    from qmc_async.recordings import RecordingFile

__all__ = ["Sidecar", "seconds_of_wav", "sidecar_of"]

_LEFT_OUT: Final = ("raw", "problems")  # they may hold telephone numbers
_IDENTIFIERS: Final = ("call_id", "out_call_id")
_MOST_CHUNKS: Final = 100


@frozen
class Sidecar:
    """What is needed to tell whether a recording is still what was archived.

    Attributes:
        key: of the recording, with its suffix.
        sha256: in lower-case hex.
        length: in bytes.
    """

    key: str
    sha256: str
    length: int

    @classmethod
    def read(cls, data: bytes) -> Sidecar:
        """Read what `sidecar_of` wrote.

        Raises:
            ValueError: it is something else.
        """
        found = orjson.loads(data)
        match found:
            case {"key": str(key), "sha256": str(sha256), "length": int(length)} if (
                PurePosixPath(key).suffix in SUFFIXES
            ):
                return cls(key, sha256, length)
            case _:
                raise ValueError("it is no JSON of this archive")


def sidecar_of(
    event: Disconnected | Overdue, file: RecordingFile, key: str, fetched_at: datetime
) -> bytes:
    """Describe a recording.

    Identifiers are whole; any other text from outside has its telephone numbers masked. The
    recording's address is left out.

    Args:
        event: of the call.
        file: as it was fetched.
        key: of the recording, with its suffix.
        fetched_at: when that was.
    """
    document = {
        "key": key,
        "format": file.format,
        "length": file.length,
        "duration": seconds_of_wav(file.path) if file.format == "wav" else None,
        "sha256": file.sha256,
        "fetched_at": fetched_at.isoformat(timespec="seconds"),
        "event": {
            name: _plain(name, value)
            for name, value in asdict(event, recurse=False).items()
            if name not in _LEFT_OUT
        },
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _plain(name: str, value: Any) -> Any:  # noqa: ANN401 - any field's value, and JSON
    if isinstance(value, timedelta):
        return int(value.total_seconds())
    if isinstance(value, str):
        # JSON has no place for half of a surrogate pair.
        value = value.encode(errors="backslashreplace").decode()
        return value if name in _IDENTIFIERS else mask_in_text(value)
    return value


def seconds_of_wav(path: Path) -> float | None:
    """How long a WAV file plays; None where that cannot be told.

    The standard library's `wave` reads PCM only, and telephone sound often is not.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(0)
        if file.read(12)[:4] != b"RIFF":
            return None
        bytes_per_second = 0
        for _ in range(_MOST_CHUNKS):
            head = file.read(8)
            if len(head) < 8:  # noqa: PLR2004 - the file has ended
                return None
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                left = end - file.tell()
                # Who writes to a pipe does not know the length: 0, or about the most there is.
                length = size if 0 < size <= left else left
                return round(length / bytes_per_second, 3) if bytes_per_second else None
            start = file.tell()
            if head[:4] == b"fmt ":
                bytes_per_second = int.from_bytes(file.read(12)[8:], "little")
            file.seek(start + size + size % 2)
    return None
