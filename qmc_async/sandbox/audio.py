"""Recordings that can be played: two tones in turn, for as long as the talk lasted.

The document (3.3) names no format; 16-bit PCM at 8 kHz, what a telephone line carries, is assumed.
"""

from __future__ import annotations

import math
import wave
from array import array
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SAMPLE_RATE", "TONES", "write_wav"]

SAMPLE_RATE = 8000
"""Samples per second, one channel of 16 bits."""

TONES = (440, 660)
"""Hertz, of each even and each odd second. In turn, they show at once whether a part is missing."""

_AMPLITUDE = 8000  # a quarter of full scale: nobody's ears suffer


@cache
def _second(tone: int) -> bytes:
    """One second of a tone. It holds whole waves, so that seconds join without a click."""
    turn = 2 * math.pi * tone / SAMPLE_RATE
    samples = (round(_AMPLITUDE * math.sin(turn * at)) for at in range(SAMPLE_RATE))
    return array("h", samples).tobytes()


def write_wav(path: Path, seconds: int) -> None:
    """Write a recording; the file appears whole or not at all.

    Args:
        path: of the file, which is replaced if it is there.
        seconds: its length; 0 makes a valid file without samples.
    """
    even, odd = map(_second, TONES)
    part = path.with_suffix(".part")
    with wave.open(str(part), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.setnframes(seconds * SAMPLE_RATE)
        both = even + odd
        for _ in range(seconds // 2):
            file.writeframesraw(both)
        file.writeframesraw(even * (seconds % 2))
    part.replace(path)
