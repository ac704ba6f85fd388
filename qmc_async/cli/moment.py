"""A time of the command line."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import click

from qmc_async.models import BEIJING

__all__ = ["moment"]

_MILLISECONDS: Final = re.compile(r"[0-9]{1,15}")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T][0-9]{2}:[0-9]{2}:[0-9]{2})?")
_FIRST: Final = "1970-01-02"  # in Beijing the first day begins before 1970 does


def moment(value: str) -> datetime:
    """Take milliseconds since 1970, as in an Authorization, or a time in Beijing.

    >>> moment("1693270226642").isoformat(), moment("2023-08-29 08:50:26").isoformat()
    ('2023-08-29T08:50:26.642000+08:00', '2023-08-29T08:50:26+08:00')

    Returns:
        An aware time in UTC+8.
    """
    try:
        if _MILLISECONDS.fullmatch(value):
            return datetime.fromtimestamp(int(value) / 1000, BEIJING)
        if _TIME.fullmatch(value) and value >= _FIRST:
            return datetime.fromisoformat(value).replace(tzinfo=BEIJING)
    except (ValueError, OverflowError):  # such as the 31st of February
        pass
    raise click.BadParameter(
        f"{value!r} is neither milliseconds since 1970 nor a time such as '2026-01-31 18:00:00'."
    )
