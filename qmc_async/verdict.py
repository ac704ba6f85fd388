"""What a reply, or the want of one, means: the rules that keep a telephone from ringing twice.

1. A request that cannot have left this machine may be sent again, whatever it was.
2. ``call`` is never sent again otherwise. Where the platform did not clearly answer, the outcome
   is unknown: a 5xx or a page of HTML says nothing about the telephones, nor does 408, which a
   gateway may send after it has passed the request on, or a reply that contradicts itself. The
   documented way to say no is a ``code`` other than 200; it is believed, whatever the code.
3. ``endCall`` and ``record`` may be sent again after a time-out, a broken connection, an unusable
   reply, 429 and 5xx: ending twice and looking twice are harmless.
4. A refusal of the credentials is never repeated: platforms ban addresses for it. The one
   exception is ``endCall`` or ``record`` once the clock has just been found wrong.

The document has no error codes. That 401, 403 and 429 mean in ``code`` what they mean in HTTP is
assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Generic, TypeVar

from attrs import field, frozen

from qmc_async.codec import decode_envelope, decode_result
from qmc_async.errors import (
    ApiError,
    AuthenticationError,
    CallOutcomeUnknown,
    DecodeError,
    ExchangeError,
    RateLimited,
    TransportError,
)
from qmc_async.models import CallResult, Envelope, FileResult
from qmc_async.numbers import mask_in_text

__all__ = [
    "CALL",
    "END_CALL",
    "RECORD",
    "Endpoint",
    "Failure",
    "NoReply",
    "Reply",
    "Success",
    "judge",
    "to_error",
]

T = TypeVar("T")

SUCCESS: Final = 200
"""The one ``code`` that the document has (3.1)."""


@frozen
class Endpoint(Generic[T]):
    """One operation of the platform.

    Attributes:
        name: the document's name of it.
        read: makes the result of the reply's ``data``, or raises `DecodeError`.
        repeatable: whether a request that may have arrived may be sent again (rules 2 and 3).
    """

    name: str
    read: Callable[[object], T]
    repeatable: bool


def _call_result(data: object) -> CallResult:
    return decode_result(data, CallResult, path="$.data")


def _file_result(data: object) -> FileResult:
    return decode_result(data, FileResult, path="$.data")


def _no_result(_: object) -> None:
    """The document gives ``endCall`` no ``data`` (3.4)."""


CALL: Final = Endpoint("call", _call_result, repeatable=False)
END_CALL: Final = Endpoint("endCall", _no_result, repeatable=True)
RECORD: Final = Endpoint("record", _file_result, repeatable=True)


@frozen(kw_only=True)
class Reply:
    """A whole HTTP reply.

    Attributes:
        http_status: of the reply.
        body: of the reply.
        private: what must not be shown if the platform quotes it: the secret, the header.
        clock_was_wrong: whether the request was signed with a time that is now known to be wrong.
        retry_after: seconds that the platform asks us to wait, None where it does not say.
    """

    http_status: int
    body: bytes = field(repr=False)
    private: tuple[str, ...] = field(default=(), repr=False)
    clock_was_wrong: bool = False
    retry_after: float | None = None


@frozen(kw_only=True)
class NoReply:
    """What is known where no whole reply came.

    Attributes:
        may_have_arrived: False only where nothing of the request can have left this machine.
        why: for people; no address beyond the host, no number, no header.
    """

    may_have_arrived: bool
    why: str


@frozen(kw_only=True)
class Success(Generic[T]):
    """The platform did it."""

    result: T
    envelope: Envelope


@frozen(kw_only=True)
class Failure:
    """The platform did not do it, or nobody knows.

    Attributes:
        error: what to raise.
        why: for people.
        repeatable: whether it may be tried again.
        retry_after: seconds that the platform asks us to wait.
    """

    error: type[ExchangeError]
    why: str
    repeatable: bool
    http_status: int | None = None
    code: int | None = None
    msg: str = ""
    retry_after: float | None = None


def judge(  # noqa: PLR0911 - one for each of the rules
    endpoint: Endpoint[T], outcome: Reply | NoReply
) -> Success[T] | Failure:
    """Say what an attempt came to."""
    if isinstance(outcome, NoReply):
        return _unusable(endpoint, outcome.why, nothing_left=not outcome.may_have_arrived)
    status = outcome.http_status
    if status >= HTTPStatus.BAD_REQUEST:
        said = _envelope_if_any(outcome.body)
        contradicts_itself = said is not None and said.code == SUCCESS
        if status == HTTPStatus.REQUEST_TIMEOUT or (
            contradicts_itself and status < HTTPStatus.INTERNAL_SERVER_ERROR
        ):
            return _unusable(endpoint, f"HTTP {status}, which settles nothing", http_status=status)
        return _refusal(endpoint, outcome, said)
    if status >= HTTPStatus.MULTIPLE_CHOICES:
        return _unusable(endpoint, f"HTTP {status}, a redirect", http_status=status)
    try:
        envelope = decode_envelope(outcome.body)
        if envelope.code != SUCCESS:
            return _refusal(endpoint, outcome, envelope)
        return Success(result=endpoint.read(envelope.data), envelope=envelope)
    except DecodeError as problem:
        why = f"HTTP {status} without the documented JSON ({problem})"
        return _unusable(endpoint, why, http_status=status)


def _unusable(
    endpoint: Endpoint[T], why: str, *, nothing_left: bool = False, http_status: int | None = None
) -> Failure:
    repeatable = nothing_left or endpoint.repeatable
    return Failure(
        error=TransportError if repeatable else CallOutcomeUnknown,
        why=why,
        repeatable=repeatable,
        http_status=http_status,
    )


def _envelope_if_any(body: bytes) -> Envelope | None:
    try:
        return decode_envelope(body)
    except DecodeError:
        return None  # the status alone says enough


def _refusal(endpoint: Endpoint[T], reply: Reply, envelope: Envelope | None) -> Failure:
    status = reply.http_status
    code = None if envelope is None else envelope.code
    decisive = status if status >= HTTPStatus.BAD_REQUEST else code
    error: type[ExchangeError] = ApiError
    repeatable = False
    if decisive in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        error = AuthenticationError
    elif decisive == HTTPStatus.TOO_MANY_REQUESTS:
        error, repeatable = RateLimited, endpoint.repeatable
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # It may have failed after it began to dial.
        error = ApiError if endpoint.repeatable else CallOutcomeUnknown
        repeatable = endpoint.repeatable
    msg = "" if envelope is None else _discreet(envelope.msg, reply.private)
    said = "" if code is None else f", code {code}"
    return Failure(
        error=error,
        why=f"the platform answered HTTP {status}{said}{f': {msg}' if msg else ''}",
        repeatable=repeatable,
        http_status=status,
        code=code,
        msg=msg,
        retry_after=reply.retry_after,
    )


def _discreet(msg: str, private: tuple[str, ...]) -> str:
    for secret in private:
        msg = msg.replace(secret, "****")
    return mask_in_text(msg)


def to_error(
    failure: Failure,
    *,
    endpoint: str,
    attempts: int,
    elapsed: float,
    out_call_id: str | None,
    clock_was_wrong: bool,
) -> ExchangeError:
    """Make the exception that a failure amounts to, with what to do about it.

    Args:
        failure: of the last attempt.
        endpoint: its name.
        attempts: how many there were.
        elapsed: seconds, from the first one on.
        out_call_id: of the call that was to be placed.
        clock_was_wrong: whether the last attempt's reply has shown that.
    """
    message = f"{endpoint}: {failure.why}"
    if attempts > 1:
        message += f", in the last of {attempts} attempts"
    if failure.error is CallOutcomeUnknown:
        message += (
            ". The call may have been placed: do not place it again; "
            f"its notification, with out_call_id {out_call_id}, will tell"
        )
    elif endpoint == END_CALL.name and failure.error is ApiError and attempts > 1:
        message += ". An earlier attempt may have ended the call"
    elif endpoint == CALL.name and failure.error is TransportError:
        message += "; nothing left this machine, so no call was placed"
    elif failure.error is AuthenticationError and clock_was_wrong:
        message += (
            ". This machine's clock is wrong; requests are signed with the platform's time from "
            "now on, so try again, and set the clock right"
        )
    elif failure.error is AuthenticationError:
        message += (
            ". Check APPID, APPSECRET, and that this machine's public address is on the "
            "platform's white list"
        )
    error = failure.error(
        message,
        endpoint=endpoint,
        attempts=attempts,
        elapsed=elapsed,
        http_status=failure.http_status,
        code=failure.code,
        msg=failure.msg,
        out_call_id=out_call_id,
    )
    if isinstance(error, RateLimited):
        error.retry_after = failure.retry_after
    return error
