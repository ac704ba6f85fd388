"""What a check comes to."""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen

__all__ = ["Finding", "Status", "amount", "skipped"]


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@frozen
class Finding:
    """What one check has found.

    Attributes:
        name: of the check, such as ``record_base_url``.
        status: how bad it is.
        found: what was found, for people.
        advice: what to do, empty where there is nothing to be done.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def skipped(name: str, why: str, advice: str = "") -> Finding:
    """A check that could not be made."""
    return Finding(name, Status.SKIPPED, f"not checked: {why}", advice)


def amount(seconds: float) -> str:
    """A length of time.

    >>> amount(12.4), amount(540)
    ('12 s', '9 min')
    """
    return f"{seconds:.0f} s" if abs(seconds) < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004 - seconds
