"""One POST of a notification, as the platform makes it, and what was answered (3.2)."""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import click
from attrs import field, frozen

from qmc_async.settings import whole_url

__all__ = ["Answer", "place_of", "post", "service_url"]

_LONGEST_REPLY: Final = 64 * 1024  # bytes
_HEADERS: Final = {"Content-Type": "application/json;charset=utf-8", "User-Agent": "qmc-async"}


@frozen(kw_only=True)
class Answer:
    """What became of a POST.

    Attributes:
        status: HTTP's, None where no answer came.
        reply: the answer's body, 64 KiB of it at most.
        error: why no answer came: the exception's name. Its text may hold the address.
        milliseconds: from the first byte to the last.
    """

    status: int | None = None
    reply: bytes = field(default=b"", repr=False)
    error: str | None = None
    milliseconds: float

    def told(self, *said: object) -> str:
        """In words, with what else is to be said of it."""
        what = f"HTTP {self.status}" if self.error is None else _in_words(self.error)
        return ", ".join([what, *map(str, said), f"in {self.milliseconds:.0f} ms"])


async def post(
    url: str,
    body: bytes,
    *,
    timeout: float,  # noqa: ASYNC109 - it becomes an `Answer`
    authorization: str | None = None,
) -> Answer:
    """Post a body once, on a connection of its own; redirects are not followed.

    Args:
        url: where to. Its path may be secret: nothing of it is in the answer.
        body: any bytes.
        timeout: seconds for all of it.
        authorization: the header's value, if it is to have one.
    """
    headers = _HEADERS | ({} if authorization is None else {"Authorization": authorization})
    status = error = None
    reply = b""
    began = time.monotonic()
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            while len(reply) < _LONGEST_REPLY:
                part = await response.content.read(_LONGEST_REPLY - len(reply))
                if not part:
                    break
                reply += part
            status = response.status
    except (aiohttp.ClientError, OSError, ValueError) as problem:
        error = type(problem).__name__
    milliseconds = (time.monotonic() - began) * 1000
    return Answer(status=status, reply=reply, error=error, milliseconds=milliseconds)


def _in_words(error: str) -> str:
    if error.startswith("ClientConnector"):
        return "no connection"
    return "no answer in time" if "Timeout" in error else f"no answer ({error})"


def service_url(value: str) -> str:
    """Take where a service takes notifications: http or https, with a query if need be."""
    address, _, query = value.partition("?")
    try:
        whole_url(address)
        whole_url(f"http://query/{query.replace('?', '')}")  # for what it is made of
    except ValueError as error:
        # Which quotes nothing of it: its path may be secret.
        raise click.BadParameter(f"{error}.") from None
    return value


def place_of(url: str) -> str:
    """What of an address may be shown: scheme, host and port.

    >>> place_of("https://crm.example.com:8443/qmc/callback/token?key=1")
    'https://crm.example.com:8443'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
