"""The models: frozen, slotted, discreet in their repr, and equal by what the call was."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest

from qmc_async import models
from qmc_async.models import (
    BEIJING,
    RECORDING_LIFETIME,
    Call,
    CallResult,
    CallState,
    Conflict,
    Disconnected,
    Envelope,
    FileResult,
    LedgerEntry,
    Overdue,
    Reason,
    Recording,
    RecordingResult,
    UnknownNotification,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_NOW = datetime(2023, 8, 29, 8, 50, 26, tzinfo=BEIJING)
# Planted where the repr must not look.
_HIDDEN = "planted-13912345678"


def _call(**changes: Any) -> Call:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {"call_id": "1", "out_call_id": "order-42", "placed_at": _NOW}
    return Call(**fields | changes)


def _recording(**changes: Any) -> Recording:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {"call_id": "1", "file_url": f"http://x/{_HIDDEN}"}
    return Recording(**fields | changes)


def _disconnected(**changes: Any) -> Disconnected:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {"call_id": "1", "end_time": _NOW}
    return Disconnected(**fields | changes)


def _unknown(**changes: Any) -> UnknownNotification:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {"status": "Ringing", "body": _HIDDEN.encode()}
    return UnknownNotification(**fields | changes)


_WITH_RAW: list[Callable[..., Any]] = [_call, _recording, _disconnected, _unknown]
_ALL: list[Any] = [
    _call(raw={"x": _HIDDEN}),
    _recording(raw={"x": _HIDDEN}),
    _disconnected(raw={"x": _HIDDEN}),
    _unknown(raw={"x": _HIDDEN}),
    Conflict(call_id="1", first=None, second=_disconnected(raw={"x": _HIDDEN})),
    Envelope(code=500, msg=_HIDDEN, data={"x": _HIDDEN}),
    CallResult(call_id="1"),
    FileResult(file_url=f"http://x/{_HIDDEN}"),
    LedgerEntry(
        out_call_id="order-42",
        call_id="1",
        caller=_HIDDEN,
        callee=_HIDDEN,
        state=CallState.PLACED,
        placed_at=_NOW,
        changed_at=_NOW,
    ),
    Overdue(out_call_id="order-42", call_id="1", placed_at=_NOW, outcome=CallState.MISSING),
]


def _name(model: object) -> str:
    return type(model).__name__


def test_samples_cover_all() -> None:
    """The tests below leave no exported model out."""
    exported = {getattr(models, name) for name in models.__all__}
    classes = {cls for cls in exported if isinstance(cls, type) and attrs.has(cls)}
    assert {type(model) for model in _ALL} == classes


@pytest.mark.parametrize("model", _ALL, ids=_name)
def test_frozen(model: Any) -> None:  # noqa: ANN401 - any model
    """No field can be set, or deleted, after the model was made."""
    for attribute in attrs.fields(cast("type[attrs.AttrsInstance]", type(model))):
        before = getattr(model, attribute.name)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(model, attribute.name, "other")
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            delattr(model, attribute.name)
        assert getattr(model, attribute.name) is before


@pytest.mark.parametrize("model", _ALL, ids=_name)
def test_slotted(model: object) -> None:
    """A model has no `__dict__`: a mistyped attribute cannot hide in it, and it is small."""
    assert not hasattr(model, "__dict__")


@pytest.mark.parametrize("model", _ALL, ids=_name)
def test_keywords_only(model: object) -> None:
    """Fields are given by name, so that a new one can go anywhere."""
    with pytest.raises(TypeError, match="positional"):
        type(model)("1")  # type: ignore[call-arg]


@pytest.mark.parametrize("model", _ALL, ids=_name)
def test_repr_is_discreet(model: object) -> None:
    """No repr shows file_url, raw, body, msg or data, where numbers and recordings are."""
    assert _HIDDEN not in repr(model)
    assert repr(model).startswith(_name(model) + "(")


@pytest.mark.parametrize("model", _ALL, ids=_name)
def test_survives_copying(model: object) -> None:
    """Every model crosses to another process whole, `raw` included."""
    for twin in (
        pickle.loads(pickle.dumps(model)),  # noqa: S301 - our own bytes
        copy.copy(model),
        copy.deepcopy(model),
    ):
        assert twin == model
        assert attrs.asdict(twin) == attrs.asdict(model)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", _WITH_RAW)
def test_equal_whatever_raw_holds(make: Callable[..., Any]) -> None:
    """Two reports of the same are equal and have one hash, whatever else the JSON held."""
    one, other = make(raw={"x": [1]}), make(raw={"y": {}})
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_call(), _call(call_id="2")),
        (_call(), _call(out_call_id="order-43")),
        (_recording(), _recording(file_url="http://x/other")),
        (_recording(), _recording(expires_at=_NOW)),
        (_disconnected(), _disconnected(reason=Reason.OTHER)),
        (_disconnected(), _disconnected(call_duration=timedelta(0))),
        (_unknown(), _unknown(body=b"other")),
        (_unknown(), _unknown(problem="$.endTime: is missing")),
    ],
)
def test_differ(one: object, other: object) -> None:
    """What tells two calls apart makes two models differ, hidden from the repr or not."""
    assert one != other
    assert len({one, other}) == 2


@pytest.mark.parametrize("make", _WITH_RAW)
def test_raw_is_not_shared(make: Callable[..., Any]) -> None:
    """A model that was made without `raw` has an empty one of its own."""
    one, other = make(), make()
    assert one.raw == {}
    assert one.raw is not other.raw


def test_conditional_fields_default_to_none() -> None:
    """What the document (3.2) calls conditional need not be given; the rest must."""
    event = _disconnected()
    given = {name for name, value in attrs.asdict(event).items() if value is not None}
    assert given == {"call_id", "end_time", "problems", "raw"}
    required = {a.name for a in attrs.fields(Disconnected) if a.default is attrs.NOTHING}
    assert required == {"call_id", "end_time"}


def test_reasons() -> None:
    """`Reason` has the document's nine values (3.2), letter by letter."""
    assert [reason.value for reason in Reason] == [
        "HangUp",
        "CallerBusy",
        "CallerNoAnswer",
        "CallerFailure",
        "CallerAbandon",
        "CalleeBusy",
        "CalleeNoAnswer",
        "CalleeFailure",
        "Other",
    ]
    assert str(Reason.CALLEE_NO_ANSWER) == "CalleeNoAnswer"


def test_recording_results() -> None:
    """`RecordingResult` has the document's two values (3.2)."""
    assert [result.value for result in RecordingResult] == ["success", "fail"]


def test_beijing_time() -> None:
    """Beijing is eight hours ahead of UTC, in summer as in winter."""
    winter = datetime(2023, 1, 1, 8, 0, tzinfo=BEIJING)
    summer = datetime(1990, 7, 1, 8, 0, tzinfo=BEIJING)
    assert winter.isoformat() == "2023-01-01T08:00:00+08:00"
    assert summer.isoformat() == "1990-07-01T08:00:00+08:00"


def test_recording_lifetime() -> None:
    """A recording can be fetched for three days (3.3)."""
    assert RECORDING_LIFETIME.total_seconds() == 3 * 24 * 60 * 60
