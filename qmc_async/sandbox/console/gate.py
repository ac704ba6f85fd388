"""Who may see and use the console: browsers on this machine, and pages of the console itself.

A page of a stranger, in the same browser, can send requests here. It cannot read the answers,
unless its own name leads to this machine (DNS rebinding): then ``Host`` has that name. An address
in numbers leads nobody astray, and ``localhost`` is nobody's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HEADERS", "guarded", "refusal"]

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer: nothing is kept, and a page loads nothing but what lies here."""

_HOST: Final = re.compile(
    r"(\[[0-9a-f:.]+\]|[^\[\]:@/?#]+)(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE
)
_SAFE: Final = frozenset({"GET", "HEAD"})


def guarded(handler: _Handler) -> _Handler:
    """Let only those requests through that `refusal` has nothing against."""

    async def handle(request: web.Request) -> web.StreamResponse:
        reason = refusal(request.method, request.headers)
        if reason is not None:
            return web.json_response({"error": reason}, status=403, headers=HEADERS)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    return handle


def refusal(method: str, headers: Mapping[str, str]) -> str | None:
    """Why a request is not answered; None where it is.

    Args:
        method: of the request.
        headers: of the request; they are found whatever their case is.
    """
    host = headers.get("Host", "")
    if not _is_nobody_elses(host):
        return "Host: open the console as localhost, or by an address in numbers"
    if method in _SAFE:
        return None
    site = headers.get("Sec-Fetch-Site", "same-origin")
    origin = headers.get("Origin", f"http://{host}")
    if site not in ("same-origin", "none") or origin.partition("://")[2] != host:
        return "Origin: only the console's own pages, and programs, may change anything"
    return None


def _is_nobody_elses(host: str) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1]
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name.lower() == "localhost"
    return True
