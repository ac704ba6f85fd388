"""Notifications that nobody's call has caused (3.2): for a handler, or for a server."""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from qmc_async.callback import CallbackServer
from qmc_async.codec import decode_result, encode
from qmc_async.models import Disconnected, Reason
from qmc_async.sandbox import Assumed, Sandbox
from qmc_async.sandbox.invented import invented_call
from qmc_async.sandbox.wire import notification, read_object
from qmc_async.signer import Signer

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from qmc_async.models import RecordingResult

__all__ = ["Answer", "disconnected", "post_disconnected"]

_LONGEST: Final = 30.0  # seconds


class Answer(NamedTuple):
    """What a server said to a notification.

    Attributes:
        status: of the HTTP reply.
        body: the same; the document (3.2) wants ``{"code": "200", ...}``.
    """

    status: int
    body: bytes


def disconnected(
    reason: Reason | str = Reason.HANG_UP,
    *,
    call_id: str | None = None,
    out_call_id: str | None = None,
    talk: timedelta | None = None,
    end_time: datetime | None = None,
    recording: RecordingResult | str | None = None,
) -> Disconnected:
    """Make up the report of a call's end, as it would be read from the wire (3.2).

    It has what a call has that ends for this reason: a `start_time` where the caller picked up, a
    `call_duration` where the two talked, and so on. No server and no sandbox is needed.

    >>> from datetime import timedelta
    >>> event = disconnected("HangUp", talk=timedelta(minutes=2), out_call_id="order-42")
    >>> event.call_duration == event.end_time - event.answer_time == timedelta(minutes=2)
    True
    >>> disconnected(Reason.CALLER_BUSY).start_time is None
    True

    Args:
        reason: any of the document's nine.
        call_id: by default a new one of 18 digits.
        out_call_id: None where the call was given none.
        talk: how long the parties talked, in whole seconds, 12 by default. Only for
            `Reason.HANG_UP`.
        end_time: the hang-up, an aware datetime, taken to the second; by default now.
        recording: ``success``, the default, or ``fail``. Only for `Reason.HANG_UP`.

    Raises:
        ValueError: no call ends so.
        DecodeError: `call_id` is empty or has control characters.
    """
    call = invented_call(
        reason,
        call_id=call_id,
        out_call_id=out_call_id,
        talk=talk,
        end_time=end_time,
        recording=recording,
    )
    return decode_result(read_object(notification(call, Assumed())), Disconnected)


async def post_disconnected(
    to: CallbackServer | str,
    event: Disconnected | Reason | str = Reason.HANG_UP,
    *,
    signer: Signer | None = None,
    signed: bool = True,
) -> Answer:
    """Post the report of a call's end over HTTP, as the platform does (3.2).

    The document does not say whether the platform signs its notifications; this one is signed, as a
    server with ``authorization="required"`` wants it.

    Args:
        to: a running server of this process, or an address, such as that of an application in
            which one is mounted.
        event: the report, or a reason, of which `disconnected` makes one.
        signer: who signs; by default the server's, and at an address the sandboxes'.
        signed: False leaves the signature out.

    Returns:
        The answer. Handlers may still run: `handled` waits for them.

    Raises:
        ValueError: no call ends for that reason; or the server's own address is not of this
            machine, because it has a `public_url`.
        ConnectionError: there was no answer.
        RuntimeError: the server has no address yet, or cannot know it: give the address.
    """
    url = to if isinstance(to, str) else _address_here(to)
    if not isinstance(event, Disconnected):
        event = disconnected(event)
    headers = {"Content-Type": "application/json;charset=utf-8"}
    if signed:
        if signer is None and isinstance(to, CallbackServer):
            signer = to.signer
        headers["Authorization"] = (signer or Signer(Sandbox.CREDENTIALS)).sign(time.time())
    timeout = aiohttp.ClientTimeout(total=_LONGEST)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=encode(event), headers=headers, allow_redirects=False) as reply,
        ):
            return Answer(reply.status, await reply.read())
    except (aiohttp.ClientError, TimeoutError) as problem:
        # Only its name: the text may hold the address, whose path is a secret.
        raise ConnectionError(f"no answer: {type(problem).__name__}") from None


def _address_here(server: CallbackServer) -> str:
    host = urlsplit(server.url).hostname
    if host != "localhost" and not _is_loopback(host or ""):
        raise ValueError(
            "to: this server's own address leads elsewhere (public_url?), and a made-up "
            "notification must not: give the address at which it listens on this machine"
        )
    return server.url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
