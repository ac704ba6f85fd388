"""The exceptions: the tree as its docstring draws it, pickling, and plain fields."""

from __future__ import annotations

import copy
import pickle
import re
from typing import TYPE_CHECKING

import pytest

from qmc_async import errors
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

if TYPE_CHECKING:
    from collections.abc import Callable

_BRANCH = re.compile(r"^ {4}(?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+)")
_EXCHANGE = {
    "endpoint": "call",
    "attempts": 3,
    "elapsed": 1.25,
    "http_status": 502,
    "code": 500,
    "msg": "号码139****5678不存在",
    "out_call_id": "order-42",
}


def _drawn() -> dict[str, set[str]]:
    """Each class that the module's docstring draws, with the classes above it."""
    ancestors: dict[str, set[str]] = {}
    line_of_descent: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := _BRANCH.match(line):
            depth = len(found["indent"]) // 4
            del line_of_descent[depth:]
            ancestors[found["name"]] = set(line_of_descent)
            line_of_descent.append(found["name"])
    return ancestors


def _samples() -> list[QmcError]:
    """One of every class, each field set to what is not its default."""
    limited = RateLimited("slow down", endpoint="record", attempts=2, code=429)
    limited.retry_after = 2.5
    return [
        QmcError("any"),
        ConfigError("is not set", setting="QMC_APP_ID"),
        ArgumentError("is empty", argument="callee"),
        DuplicateCall("was used", out_call_id="order-42", call_id="1", state="placed"),
        ExchangeError("ended badly", **_EXCHANGE),  # type: ignore[arg-type]
        TransportError("no reply", **_EXCHANGE),  # type: ignore[arg-type]
        CallOutcomeUnknown("may ring", **_EXCHANGE),  # type: ignore[arg-type]
        ApiError("refused", **_EXCHANGE),  # type: ignore[arg-type]
        AuthenticationError("401", **_EXCHANGE),  # type: ignore[arg-type]
        limited,
        DecodeError("$.endTime: is missing", path="$.endTime"),
        StoreError("the store failed", temporary=False),
        NotificationMissing("is overdue", call_id="1", out_call_id="order-42", outcome="missing"),
        RecordingError("too long", temporary=False),
    ]


def _by_pickle(error: QmcError) -> QmcError:
    again: QmcError = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    return again


def _by_oldest_pickle(error: QmcError) -> QmcError:
    again: QmcError = pickle.loads(pickle.dumps(error, protocol=0))  # noqa: S301 - our own bytes
    return again


def test_tree_is_drawn_whole() -> None:
    """The docstring draws every exported exception, and no other."""
    assert set(_drawn()) == set(errors.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_tree_is_as_drawn(name: str) -> None:
    """A class is a subclass of exactly those that are drawn above it."""
    cls: type[Exception] = getattr(errors, name)
    is_a = {other for other in errors.__all__ if issubclass(cls, getattr(errors, other))}
    assert is_a == _drawn()[name] | {name}


def test_samples_cover_all() -> None:
    """The pickling tests below leave no exported exception out."""
    assert {type(sample).__name__ for sample in _samples()} == set(errors.__all__)


@pytest.mark.parametrize("again", [_by_pickle, _by_oldest_pickle, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", _samples(), ids=lambda error: type(error).__name__)
def test_survives_copying(error: QmcError, again: Callable[[QmcError], QmcError]) -> None:
    """Every exception crosses to another process with its class, message and all its fields."""
    twin = again(error)
    assert twin is not error
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert vars(twin) == vars(error)


def test_retry_after_survives_pickling() -> None:
    """`RateLimited.retry_after` is None until it is set, and is pickled like the other fields."""
    error = RateLimited("slow down", endpoint="record", http_status=429)
    assert error.retry_after is None
    error.retry_after = 2.5
    again = _by_pickle(error)
    assert isinstance(again, RateLimited)
    assert again.retry_after == 2.5
    assert again.http_status == 429
    assert RateLimited("another").retry_after is None


@pytest.mark.parametrize("cls", [ExchangeError, CallOutcomeUnknown, AuthenticationError])
def test_exchange_fields(cls: type[ExchangeError]) -> None:
    """What is known of an exchange stands in the fields of that name."""
    error = cls("ended badly", **_EXCHANGE)  # type: ignore[arg-type]
    assert vars(error) == _EXCHANGE
    assert str(error) == "ended badly"


def test_exchange_defaults() -> None:
    """A field that nobody filled says so: no status, no code, no call."""
    error = ExchangeError("ended badly")
    assert (error.endpoint, error.attempts, error.elapsed, error.msg) == ("", 0, 0.0, "")
    assert (error.http_status, error.code, error.out_call_id) == (None, None, None)


def test_argument_error_is_a_value_error() -> None:
    """Who catches `ValueError` for a bad argument catches ours; no other of ours is one."""
    assert issubclass(ArgumentError, ValueError)
    for cls in {type(sample) for sample in _samples()}:
        assert issubclass(cls, ValueError) is issubclass(cls, ArgumentError)


@pytest.mark.parametrize(
    ("error", "field", "value"),
    [
        (ConfigError("m"), "setting", ""),
        (ConfigError("m", setting="QMC_APP_ID"), "setting", "QMC_APP_ID"),
        (ArgumentError("m"), "argument", ""),
        (ArgumentError("m", argument="callee"), "argument", "callee"),
        (DecodeError("m"), "path", "$"),
        (DecodeError("m", path="$.data.fileUrl"), "path", "$.data.fileUrl"),
    ],
)
def test_place_of_the_mistake(error: QmcError, field: str, value: str) -> None:
    """An exception about one thing names that thing in a field, and keeps its message as it is."""
    assert getattr(error, field) == value
    assert str(error) == "m"
