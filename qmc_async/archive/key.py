"""Under which name a call's recording is archived."""

from __future__ import annotations

import hashlib
from datetime import datetime
from string import Formatter
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from qmc_async.errors import ConfigError
from qmc_async.models import BEIJING, Disconnected

if TYPE_CHECKING:
    from qmc_async.models import Overdue

__all__ = ["DEFAULT_KEY", "KeyTemplate"]

DEFAULT_KEY: Final = "{end_time:%Y/%m/%d}/{call_id}"

_FIELDS: Final = ("call_id", "out_call_id", "end_time")
# File systems take 255 bytes, with what is put behind it. What is cut is longer than this again, so
# that it is nobody else's whole name.
_LONGEST_NAME: Final = 164
_SAMPLE: Final = "128754716574532539-" * 3  # as long as an id of the document may be
_SAMPLE_TIME: Final = datetime(2026, 1, 31, 23, 59, 59, tzinfo=BEIJING)


class KeyTemplate:
    """Makes keys of events.

    Args:
        template: for `str.format`, with ``call_id``, ``out_call_id`` (``-`` where there is none)
            and ``end_time``, a datetime in UTC+8: of a call whose end nobody reported, the time
            when it was placed. ``/`` makes folders.

    Raises:
        ConfigError: two calls could share a key, or it would lead out of the destination.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        problem = self._problem()
        if problem:
            raise ConfigError(f"key: {template!r} {problem}", setting="key")

    def of(self, event: Disconnected | Overdue) -> str:
        """The key of a call's recording, without a suffix."""
        end = event.end_time if isinstance(event, Disconnected) else event.placed_at
        return self._fill(event.call_id or "-", event.out_call_id or "-", end)

    def _fill(self, call_id: str, out_call_id: str, end_time: datetime) -> str:
        return self._template.format(
            call_id=_quoted(call_id), out_call_id=_quoted(out_call_id), end_time=end_time
        )

    def _problem(self) -> str:
        """What is wrong with it, empty where nothing is."""
        try:
            problem = _problem_of_fields(self._template)
            if problem:
                return problem
            key = self._fill(_SAMPLE, _SAMPLE, _SAMPLE_TIME)
        except (ValueError, LookupError, TypeError) as error:
            return f"is no template: {error}"
        if "\\" in key or not key.isprintable():
            return "must have neither backslashes nor control characters"
        if any(not part or part.startswith(".") for part in key.split("/")):
            return (
                "must stay in the destination: it must not begin or end with /, and no part of it "
                "may be empty or begin with a dot"
            )
        return ""


def _problem_of_fields(template: str) -> str:
    names: list[str] = []
    for _, name, form, conversion in Formatter().parse(template):
        if name is None:  # the text after the last field
            continue
        if name not in _FIELDS:
            return f"has {{{name}}}; there are {', '.join(f'{{{one}}}' for one in _FIELDS)}"
        # An id that is cut or filled up may be another's, and so may one within a time.
        if conversion or "{" in (form or "") or (form and name != "end_time"):
            return "may have a format for {end_time} only, without fields in it"
        names.append(name)
    if "call_id" not in names:
        return "must have the whole {call_id}, or two calls would share a file"
    return ""


def _quoted(identifier: str) -> str:
    # It came from outside: quoted, and without a dot at its beginning, it can name no other folder.
    name = quote(identifier, safe="", errors="replace")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()}"
    return name
