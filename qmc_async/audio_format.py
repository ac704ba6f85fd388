"""What a file is, by its first bytes: a sound, or an error page that came in its place."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["HEAD", "SUFFIXES", "claimed_length", "is_refused", "recognise"]

HEAD: Final = 512
"""How many of a file's first bytes `recognise` wants to see, where it has so many."""

SUFFIXES: Final = (".wav", ".mp3", ".amr", ".ogg", ".m4a", ".aac", ".flac", ".au", ".webm")
"""The names that a recording's file may end in; without the dot, what `recognise` says."""

_REFUSED = (
    "text/",
    "image/",
    "application/json",
    "application/pdf",
    "application/xml",
    "application/xhtml",
)
_MAGIC = (
    ("wav", re.compile(rb"RI(?:FF|FX)....WAVE|RF64....WAVE", re.DOTALL)),
    # A tag, or a frame of layer II or III.
    ("mp3", re.compile(rb"ID3[\x02-\x04]|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]")),
    ("aac", re.compile(rb"\xff[\xf0\xf1\xf8\xf9]|ADIF")),
    ("amr", re.compile(rb"#!AMR(?:-WB)?(?:_MC1\.0)?\n")),
    ("ogg", re.compile(rb"OggS\0")),
    ("m4a", re.compile(rb"....ftyp", re.DOTALL)),
    ("flac", re.compile(rb"fLaC[\x00\x80]")),
    ("au", re.compile(rb"\.snd\0")),
    ("webm", re.compile(rb"\x1a\x45\xdf\xa3")),
)
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")
# What a host may send in place of a sound and still call one; and a page in UTF-16. None is so
# short that a sound of a format unknown here is likely to begin with it.
_NO_SOUND = re.compile(
    rb"\x1f\x8b\x08|PK\x03\x04|\x89PNG|\xff\xd8\xff|GIF8|%PDF|\0?<\0?(?:[!?]|h\0?t\0?m\0?l)",
    re.IGNORECASE,
)
# Which no text has, in any of the encodings that an error page comes in: ESC is of one of them.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_SHORTEST_WAV = 44
# Who writes a WAV file to a pipe does not know its length: 0, or about the most there could be.
_NO_LENGTH = 0x7FFF0000


def is_refused(content_type: str) -> bool:
    """Whether this type says of itself that it is no sound."""
    return content_type.startswith(_REFUSED)


def recognise(head: bytes, content_type: str) -> str:
    """What the file is.

    Args:
        head: its first `HEAD` bytes; all of them where it is shorter.
        content_type: what the server calls it, in lower case.

    Returns:
        Its format, such as ``wav``; ``unknown`` for what the server calls audio, and what is no
        text, picture or archive; empty for what is no audio.
    """
    for name, magic in _MAGIC:
        if magic.match(head):
            return name
    if not content_type.startswith("audio/") or _NO_SOUND.match(head):
        return ""
    text = head.startswith(_BYTE_ORDER_MARKS) or not _CONTROL.search(head)
    return "" if text else "unknown"


def claimed_length(head: bytes) -> int | None:
    """How many bytes a WAV file says it has; None for another file, or where it does not say."""
    if head[:4] != b"RIFF":
        return None
    length = int.from_bytes(head[4:8], "little") + 8
    return length if _SHORTEST_WAV <= length < _NO_LENGTH else None
