"""Decoding one notification: the bytes that came to an event, as the receiver has it done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from bench import OURS
from machine import is_installed
from notifications import bodies
from rival_models import Notification, hand_written, msgspec_decoder

from qmc_async.codec import read_notification

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench import Bench, Measure

__all__ = ["PYDANTIC", "SCENARIO", "SECTION", "measure"]

SECTION: Final = "decode"
SCENARIO: Final = "one notification"
PYDANTIC: Final = "pydantic"


def measure(bench: Bench) -> None:
    """All that decode, in this process."""
    decoders: dict[str, Callable[[bytes], Any]] = {
        OURS: read_notification,
        PYDANTIC: Notification.model_validate_json,
        "hand-written": hand_written,
    }
    if is_installed("msgspec"):
        decoders["msgspec"] = msgspec_decoder()
    else:
        bench.note("decode: msgspec is not installed, and left out")
    received = bodies(500)

    def timed(decode: Callable[[bytes], Any]) -> Measure:
        def one_round(seconds: float) -> Mapping[str, float]:
            count, begin = 0, time.process_time()
            while (taken := time.process_time() - begin) < seconds / 2:
                for body in received:
                    decode(body)
                count += len(received)
            return {"throughput": count / taken, "cpu": taken / count}

        return one_round

    bench.compare(SECTION, SCENARIO, {name: timed(decode) for name, decode in decoders.items()})
