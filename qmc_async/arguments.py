"""What callers pass, checked before anything is sent."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from qmc_async.errors import ArgumentError

if TYPE_CHECKING:
    from qmc_async.models import Call, Disconnected

__all__ = ["call_id_of", "check_max_bytes", "check_out_call_id", "check_text", "is_duration"]

_OUT_CALL_ID_LENGTH: Final = 64


def check_out_call_id(given: object) -> str:
    """The ``outCallId`` to send (3.1): what is given, or one that is made up.

    Raises:
        ArgumentError: it would be refused, or come back changed.
    """
    if given is None:
        return uuid.uuid4().hex
    if isinstance(given, str):
        problem = _out_call_id_problem(given)
        if not problem:
            return given
    else:
        problem = f"be a str, not {type(given).__name__}"
    raise ArgumentError(f"out_call_id must {problem}", argument="out_call_id")


def _out_call_id_problem(out_call_id: str) -> str:
    if not 0 < len(out_call_id) <= _OUT_CALL_ID_LENGTH:
        return f"have 1 to {_OUT_CALL_ID_LENGTH} characters, not {len(out_call_id)}"
    if out_call_id != out_call_id.strip() or not out_call_id.isprintable():
        return "be printable and have no white space around it, or it would come back changed"
    if out_call_id == "0":
        return 'not be "0": comparable platforms send that for no id at all'
    return ""


def call_id_of(call: Call | Disconnected | str) -> str:
    """The ``callidentifier`` of a call.

    Raises:
        ArgumentError: there is none.
    """
    call_id = call if isinstance(call, str) else getattr(call, "call_id", None)
    if not isinstance(call_id, str) or not call_id.strip():
        raise ArgumentError(
            "call must be a Call, a Disconnected or a call id that is not empty", argument="call"
        )
    return check_text(call_id.strip(), "call")


def check_text(text: str, argument: str) -> str:
    """The text, which can be sent.

    Raises:
        ArgumentError: it cannot.
    """
    # JSON has no place for them, and the error of the encoder names no argument.
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ArgumentError(f"{argument} has a lone surrogate: it is no text", argument=argument)
    return text


def is_duration(seconds: object) -> bool:
    """Whether it is a number of seconds, from 0 to for ever."""
    return isinstance(seconds, int | float) and seconds >= 0  # which NaN is not


def check_max_bytes(length: object) -> int:
    """How long a file may be.

    Raises:
        ArgumentError: it is no length.
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ArgumentError("max_bytes must be a whole number above 0", argument="max_bytes")
    return length
