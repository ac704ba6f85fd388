"""A compressed body is unpacked, and kept as it came where it cannot be."""

from __future__ import annotations

import gzip
import zlib

import pytest

from qmc_async.callback.body import Body, unpacked
from qmc_async.callback.guard import LONGEST_BODY

PLAIN = b'{"callidentifier":"4711","status":"Disconnected"}' * 3
PACKED = gzip.compress(PLAIN)
NOT_PACKED = "the body is not compressed as its header says"


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", PACKED),
        ("x-gzip", PACKED),
        (" GZIP ", PACKED),
        ("deflate", zlib.compress(PLAIN)),
        ("gzip", gzip.compress(PLAIN[:50]) + gzip.compress(PLAIN[50:])),
        ("gzip", gzip.compress(PLAIN, 0)),
        ("gzip", zlib.compress(PLAIN)),
    ],
)
def test_what_is_compressed(encoding: str, content: bytes) -> None:
    """Either format is read, whichever of the two the header names, and all members of gzip."""
    assert unpacked(Body(content), encoding) == Body(PLAIN)


@pytest.mark.parametrize("encoding", ["", "identity", "br", "zstd", "gzip, gzip", "nothing"])
def test_what_is_not_known(encoding: str) -> None:
    """Another encoding, or none, is left alone."""
    assert unpacked(Body(PLAIN), encoding) == Body(PLAIN)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PACKED[:-8] + b"\0" * 8,
        zlib.compress(PLAIN)[2:-4],
        bytes(255 - byte for byte in PACKED),
    ],
    ids=["plain", "a wrong checksum", "without a head", "changed"],
)
def test_what_is_not_compressed_as_it_says(content: bytes) -> None:
    """It will not come again: all of its bytes are kept, and read if they are JSON."""
    assert unpacked(Body(content), "gzip") == Body(content, NOT_PACKED)


@pytest.mark.parametrize("behind", [b"more", b"\0" * 8, b"\r\n"])
def test_padding(behind: bytes) -> None:
    """A member that is whole is read, whatever follows it."""
    assert unpacked(Body(PACKED + behind), "gzip, identity") == Body(PLAIN, NOT_PACKED)


@pytest.mark.parametrize("length", [0, 5, 30, len(PACKED) - 12, len(PACKED) - 1])
def test_what_was_cut_off(length: int) -> None:
    """What came of it is kept."""
    body = unpacked(Body(PACKED[:length]), "gzip")
    assert PLAIN.startswith(body.content)
    assert body.problem == "the compressed body was cut off"


def test_what_would_burst() -> None:
    """No more than one byte too many is unpacked; the longest body is."""
    for length in (LONGEST_BODY, LONGEST_BODY + 1, 10_000_000):
        body = unpacked(Body(gzip.compress(b"0" * length)), "gzip")
        assert len(body.content) == min(length, LONGEST_BODY + 1)
        assert not body.problem
