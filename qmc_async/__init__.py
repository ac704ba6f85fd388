"""asyncio client and callback server for the Quanmayun two-way callback platform."""

from __future__ import annotations

from qmc_async.archive import RecordingArchive
from qmc_async.callback import CallbackServer
from qmc_async.callback.delivery import Delivery, Postpone, Reject, Retry
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
