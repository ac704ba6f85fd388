"""Everything that this library raises on purpose.

::

    QmcError
    ├── ConfigError               a setting is missing or malformed: nothing was sent
    ├── ArgumentError             an argument is no good: nothing was sent (also a ValueError)
    │   └── DuplicateCall            its out_call_id was used before
    ├── ExchangeError             a request to the platform did not end well
    │   ├── TransportError        no usable reply came
    │   │   └── CallOutcomeUnknown   ... to `call`: the telephones may ring all the same
    │   └── ApiError              the platform answered, and said no
    │       ├── AuthenticationError
    │       └── RateLimited
    ├── DecodeError               what came is not what the document describes
    ├── StoreError                the store of notifications did not do what it was asked
    ├── NotificationMissing       a call will not be reported any more, as far as can be told
    └── RecordingError            a recording could not be fetched whole

Using a client after it was closed, or on a second event loop, is a mistake in the program and
raises `RuntimeError`, as it does in asyncio and httpx.

Every exception pickles, holds plain values only, and chains no exception of an HTTP library:
those carry the request, and with it the ``Authorization`` header and the telephone numbers.
"""

from __future__ import annotations

__all__ = [
    "ApiError",
    "ArgumentError",
    "AuthenticationError",
    "CallOutcomeUnknown",
    "ConfigError",
    "DecodeError",
    "DuplicateCall",
    "ExchangeError",
    "NotificationMissing",
    "QmcError",
    "RateLimited",
    "RecordingError",
    "StoreError",
    "TransportError",
]


class QmcError(Exception):
    """The base of every exception of this library."""


class ConfigError(QmcError):
    """A setting is missing or malformed.

    Attributes:
        setting: the environment variable or the parameter that is meant, such as ``QMC_APP_ID``.
    """

    def __init__(self, message: str, *, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class ArgumentError(QmcError, ValueError):
    """An argument is no good; nothing was sent. A telephone number is never shown whole.

    Attributes:
        argument: the parameter's name.
    """

    def __init__(self, message: str, *, argument: str = "") -> None:
        super().__init__(message)
        self.argument = argument


class DuplicateCall(ArgumentError):  # noqa: N818 - it names what the call would have been
    """A call under this `out_call_id` is in the ledger already; nothing was sent.

    Attributes:
        out_call_id: ours.
        call_id: of the call that is there, None where it is not known.
        state: what the ledger knows of that one: a `CallState`'s value, such as ``placed``.
    """

    def __init__(
        self, message: str, *, out_call_id: str = "", call_id: str | None = None, state: str = ""
    ) -> None:
        super().__init__(message, argument="out_call_id")
        self.out_call_id = out_call_id
        self.call_id = call_id
        self.state = state


class ExchangeError(QmcError):
    """A request to the platform did not end well.

    Attributes:
        endpoint: ``call``, ``endCall`` or ``record``: the document's name of the operation.
        attempts: how many requests were tried, the last one included.
        elapsed: seconds from the first attempt to this exception, waits included.
        http_status: of the last reply, None where none came.
        code: the envelope's ``code``, None where there was no envelope.
        msg: the envelope's ``msg``, with telephone numbers masked.
        out_call_id: of the call that was to be placed, None for other operations.
    """

    def __init__(
        self,
        message: str,
        *,
        endpoint: str = "",
        attempts: int = 0,
        elapsed: float = 0.0,
        http_status: int | None = None,
        code: int | None = None,
        msg: str = "",
        out_call_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.endpoint = endpoint
        self.attempts = attempts
        self.elapsed = elapsed
        self.http_status = http_status
        self.code = code
        self.msg = msg
        self.out_call_id = out_call_id


class TransportError(ExchangeError):
    """No usable reply came: connection refused, cut or too slow, or the reply made no sense."""


class CallOutcomeUnknown(TransportError):  # noqa: N818 - it names an outcome; the call may be fine
    """The request to place a call may have arrived, but no answer says so.

    The telephones may be ringing. Calling again could ring a stranger twice; the notification
    that carries ``out_call_id`` settles the matter.
    """


class ApiError(ExchangeError):
    """The platform answered and refused: ``code`` is not 200, or the HTTP status is 4xx."""


class AuthenticationError(ApiError):
    """The platform does not accept the credentials, the clock or the sender's address.

    The document gives no error codes: 401 and 403, as HTTP status or as ``code``, are assumed.
    """


class RateLimited(ApiError):  # noqa: N818 - the field's own term
    """Too many requests: 429, as HTTP status or as ``code`` (assumed).

    Attributes:
        retry_after: seconds that the platform asks us to wait, None where it does not say.
    """

    retry_after: float | None = None


class DecodeError(QmcError):
    """A message is not what the platform's document describes.

    The message says where and what was expected, never the value that came.

    Attributes:
        path: the place in the JSON, such as ``$.endTime``; ``$`` is the whole message.
    """

    def __init__(self, message: str, *, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class StoreError(QmcError):
    """The store of notifications did not do what it was asked, or not in time.

    The message holds what the database says of itself, never what it was to keep.

    Attributes:
        temporary: whether trying again later may help.
    """

    def __init__(self, message: str, *, temporary: bool = True) -> None:
        super().__init__(message)
        self.temporary = temporary


class NotificationMissing(QmcError):  # noqa: N818 - it names what became of the notification
    """No notification of the call came by its deadline, and the watchdog has given it up.

    One that comes later all the same is kept and handled, and then `wait_for` returns it.

    Attributes:
        call_id: the platform's, None where it is not known.
        out_call_id: ours.
        outcome: ``inferred`` where the call has a recording, and so was connected and has ended;
            ``missing`` where nothing is known of it.
    """

    def __init__(
        self,
        message: str,
        *,
        call_id: str | None = None,
        out_call_id: str | None = None,
        outcome: str = "",
    ) -> None:
        super().__init__(message)
        self.call_id = call_id
        self.out_call_id = out_call_id
        self.outcome = outcome


class RecordingError(QmcError):
    """A recording could not be fetched whole. Nothing was left under the file's final name.

    Attributes:
        temporary: whether it may be there later: it is not ready at once. False where the file is
            too long, or at an address that no recording belongs to.
    """

    def __init__(self, message: str, *, temporary: bool = True) -> None:
        super().__init__(message)
        self.temporary = temporary
