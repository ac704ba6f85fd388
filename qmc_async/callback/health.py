"""What a load balancer asks: does the process live, and is it well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from qmc_async.callback.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["HEALTHZ", "READYZ", "health_reply"]

HEALTHZ: Final = "/healthz"
READYZ: Final = "/readyz"

# A database that is away is no reason to send notifications elsewhere: the spool takes them. Nor
# is what other servers have left.
_HARMLESS: Final = frozenset({"store", "handlers"})


def health_reply(path: str, problems: Callable[[], Mapping[str, str]]) -> Reply | None:
    """Answer the two addresses; None where it is another.

    Strangers may ask, so the answer has the problems' names only.

    Args:
        path: of the request.
        problems: tells the server's.
    """
    if path == HEALTHZ:
        return Reply(200, b'{"alive":true}')
    if path == READYZ:
        found = problems()
        is_ready = _HARMLESS.issuperset(found)
        body = orjson.dumps({"ready": is_ready, "problems": list(found)})
        return Reply(200 if is_ready else 503, body)
    return None
