"""asyncio client and callback server for the Quanmayun two-way callback platform."""

from __future__ import annotations

from qmc_async.callback import CallbackServer
from qmc_async.client import AsyncQmcClient
from qmc_async.errors import (
    ApiError,
    ArgumentError,
    AuthenticationError,
    CallOutcomeUnknown,
    ConfigError,
    DecodeError,
    ExchangeError,
    QmcError,
    RateLimited,
    RecordingError,
    TransportError,
)
from qmc_async.models import (
    Call,
    Disconnected,
    Reason,
    Recording,
    RecordingResult,
    UnknownNotification,
)
from qmc_async.numbers import mask, normalise
from qmc_async.signer import Credentials, Refusal, Signer

__all__ = [
    "ApiError",
    "ArgumentError",
    "AsyncQmcClient",
    "AuthenticationError",
    "Call",
    "CallOutcomeUnknown",
    "CallbackServer",
    "ConfigError",
    "Credentials",
    "DecodeError",
    "Disconnected",
    "ExchangeError",
    "QmcError",
    "RateLimited",
    "Reason",
    "Recording",
    "RecordingError",
    "RecordingResult",
    "Refusal",
    "Signer",
    "TransportError",
    "UnknownNotification",
    "mask",
    "normalise",
]
