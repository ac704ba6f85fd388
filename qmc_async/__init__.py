"""asyncio client and callback server for the Quanmayun two-way callback platform.

What only a server needs is imported as it is first asked for: SQLAlchemy is most of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from qmc_async.client import AsyncQmcClient
from qmc_async.errors import (
    ApiError,
    ArgumentError,
    AuthenticationError,
    CallOutcomeUnknown,
    ConfigError,
    DecodeError,
    DuplicateCall,
    ExchangeError,
    NotificationMissing,
    QmcError,
    RateLimited,
    RecordingError,
    StoreError,
    TransportError,
)
from qmc_async.models import (
    Call,
    CallState,
    Conflict,
    Disconnected,
    LedgerEntry,
    Overdue,
    Reason,
    Recording,
    RecordingResult,
    UnknownNotification,
)
from qmc_async.numbers import mask, normalise
from qmc_async.recordings import RecordingFile
from qmc_async.signer import Credentials, Refusal, Signer

if TYPE_CHECKING:
    from qmc_async.archive import RecordingArchive
    from qmc_async.callback import CallbackServer
    from qmc_async.callback.delivery import Delivery, Postpone, Reject, Retry

__all__ = [
    "ApiError",
    "ArgumentError",
    "AsyncQmcClient",
    "AuthenticationError",
    "Call",
    "CallOutcomeUnknown",
    "CallState",
    "CallbackServer",
    "ConfigError",
    "Conflict",
    "Credentials",
    "DecodeError",
    "Delivery",
    "Disconnected",
    "DuplicateCall",
    "ExchangeError",
    "LedgerEntry",
    "NotificationMissing",
    "Overdue",
    "Postpone",
    "QmcError",
    "RateLimited",
    "Reason",
    "Recording",
    "RecordingArchive",
    "RecordingError",
    "RecordingFile",
    "RecordingResult",
    "Refusal",
    "Reject",
    "Retry",
    "Signer",
    "StoreError",
    "TransportError",
    "UnknownNotification",
    "mask",
    "normalise",
]

_LATER: Final = {
    "CallbackServer": "qmc_async.callback",
    "Delivery": "qmc_async.callback.delivery",
    "Postpone": "qmc_async.callback.delivery",
    "RecordingArchive": "qmc_async.archive",
    "Reject": "qmc_async.callback.delivery",
    "Retry": "qmc_async.callback.delivery",
}


if not TYPE_CHECKING:  # pragma: no branch - or a type checker would take every name for a good one

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_LATER[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
