"""What a span or a metric says: ids, masked, and words of a few. Nothing else from outside."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from qmc_async.models import Conflict, Disconnected, Reason, ids_of
from qmc_async.numbers import mask_in_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

    from qmc_async.models import Event

__all__ = ["error_type", "kind_of", "of_event", "reason_of", "server_at", "told"]

_LONGEST: Final = 128  # characters of an id; the document's have at most 64


def error_type(kind: type[BaseException]) -> str:
    """The ``error.type`` of the semantic conventions."""
    where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return where + kind.__qualname__


def told(identifier: str) -> str:
    """An id that came from outside, or from a user."""
    # No exporter takes half a character, and one that fails drops the spans of others as well.
    text = mask_in_text(identifier)[:_LONGEST]
    return text.encode(errors="replace").decode()


@lru_cache(maxsize=16)
def server_at(base_url: str) -> Mapping[str, AttributeValue]:
    """The platform's address, which is a setting, and no secret."""
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}


def reason_of(event: Event) -> str:
    """The document's reasons, ``none``, and ``other`` for all else that the platform may say."""
    report = event.second if isinstance(event, Conflict) else event
    reason = report.reason if isinstance(report, Disconnected) else None
    if reason is None:
        return "none"
    return reason.value if isinstance(reason, Reason) else "other"


def of_event(event: Event) -> dict[str, AttributeValue]:
    """The attributes of a span that has to do with an event."""
    call_id, out_call_id = ids_of(event)
    found: dict[str, AttributeValue] = {"qmc.reason": reason_of(event)}
    if call_id is not None:
        found["qmc.call_id"] = told(call_id)
    if out_call_id is not None:
        found["qmc.out_call_id"] = told(out_call_id)
    return found


def kind_of(event: Event) -> str:
    """Whether a notification is of the document's only kind."""
    return "disconnected" if isinstance(event, Disconnected) else "unknown"
