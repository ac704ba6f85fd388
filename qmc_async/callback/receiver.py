"""A request to a reply, without a web framework: what the platform posts, and what we answer (3.2).

A notification that got here is answered with success, whatever is in it: the platform does not
send it again, so refusing what cannot be decoded would only lose it. It becomes an
`UnknownNotification` that holds the whole body.
"""

from __future__ import annotations

import hmac
import logging
import time
from typing import TYPE_CHECKING, Final

import orjson
from attrs import field, frozen

from qmc_async.models import UnknownNotification
from qmc_async.store.records import Receipt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qmc_async.signer import Signer

__all__ = ["CONTENT_TYPE", "LONGEST_BODY", "PROBE", "Receiver", "Reply"]

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/json;charset=utf-8"
LONGEST_BODY: Final = 64 * 1024
"""Bytes. The longest notification that the document allows is under one thousand."""
PROBE: Final = "Qmc-Probe"
"""The header by which `qmc doctor` asks who listens here: see `Signer.probe`."""

_QUIET = 60.0  # seconds between two lines about refusals: strangers must not fill the log


@frozen
class Reply:
    """What to answer: an HTTP status and a body of `CONTENT_TYPE`."""

    status: int
    body: bytes = field(repr=False)


def _reply(status: int, msg: str, data: str = "") -> Reply:
    # Here `code` and `data` are Strings, unlike in the platform's own replies.
    return Reply(status, orjson.dumps({"code": str(status), "msg": msg, "data": data}))


RECEIVED: Final = _reply(200, "success")
NOT_KEPT: Final = _reply(500, "the notification could not be kept")
NOT_FOUND: Final = _reply(404, "not found")
NOT_ALLOWED: Final = _reply(405, "method not allowed")
TOO_LARGE: Final = _reply(413, "content too large")


class Receiver:
    """Answers the requests of one address.

    Args:
        path: where notifications are taken; the token in it is compared in constant time.
        accept: keeps a notification; once it returns, the notification is answered for.
        signer: whose probes are answered; without one none is.
    """

    def __init__(
        self,
        path: str,
        accept: Callable[[Receipt], Awaitable[None]],
        signer: Signer | None = None,
    ) -> None:
        self._path = path.encode()
        self._accept = accept
        self._signer = signer
        self._refused = 0
        self._quiet_until = 0.0

    def refuse(
        self, method: str, path: str, length: int | None, probe: str | None = None
    ) -> Reply | None:
        """What to answer before the body is read, None to go on to it with `receive`.

        Args:
            method: of the request.
            path: of the request, percent-encoded as it came, without the query.
            length: of the body in bytes, None where it is not declared.
            probe: the value of the header `PROBE`, None where it is not there. A request that has
                one is no notification, and is never kept.
        """
        if not hmac.compare_digest(path.encode("utf-8", "surrogateescape"), self._path):
            return self._refuse(NOT_FOUND)
        if method != "POST":
            return self._refuse(NOT_ALLOWED)
        if length is not None and length > LONGEST_BODY:
            return self._refuse(TOO_LARGE)
        return None if probe is None else self._answer(probe)

    def _answer(self, probe: str) -> Reply:
        answer = None if self._signer is None else self._signer.answer_probe(probe, time.time())
        return self._refuse(NOT_FOUND) if answer is None else _reply(200, "probe", answer)

    def _refuse(self, reply: Reply) -> Reply:
        self._refused += 1
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _QUIET
            logger.warning(
                "requests refused so far: %d, the last with HTTP %d. If they are the platform's, "
                "compare the address on its console with the server's url: a new APPSECRET, for "
                "one, makes a new address",
                self._refused,
                reply.status,
            )
        return reply

    async def receive(self, body: bytes, problem: str = "") -> Reply:
        """Take one notification.

        Args:
            body: any bytes.
            problem: why they may not be all that was sent. What can be decoded is taken all the
                same.
        """
        if len(body) > LONGEST_BODY:
            return self._refuse(TOO_LARGE)
        receipt = Receipt.read(body, problem)
        event = receipt.event
        if isinstance(event, UnknownNotification):
            if event.problem:
                logger.warning(
                    "a notification cannot be decoded, and is kept as it came: %s", event.problem
                )
        elif event.problems:
            logger.warning(
                "parts of the notification of call %s cannot be read: %s",
                event.call_id,
                "; ".join(event.problems),
            )
        try:
            await self._accept(receipt)
        except Exception as error:  # noqa: BLE001 - a store may raise anything, and be answered for
            # Databases quote in their errors what they were to keep, so that is left out.
            logger.critical(
                "the notification of call %s could not be kept (%s), and will not come again",
                event.call_id,
                type(error).__name__,
            )
            return NOT_KEPT
        return RECEIVED
