"""The store in memory: what is new, what is found again, and what is forgotten."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from qmc_async.codec import unknown_notification
from qmc_async.models import Disconnected
from qmc_async.store import EventStore, MemoryStore

if TYPE_CHECKING:
    from qmc_async.models import Notification


def _event(call_id: str, out_call_id: str | None = None) -> Disconnected:
    end = datetime(2023, 8, 29, 0, 52, 10, tzinfo=UTC)
    return Disconnected(call_id=call_id, end_time=end, out_call_id=out_call_id)


async def _put(store: EventStore, event: Notification, body: bytes = b"{}") -> bool:
    return await store.put(event, body)


async def _put_unknown(store: EventStore, body: bytes) -> bool:
    return await store.put(unknown_notification(body), body)


async def test_first_put_is_new_and_the_second_is_not() -> None:
    """A call ends once: its second report is known already, whatever its body is."""
    store = MemoryStore()
    first = _event("1")
    assert await _put(store, first, b"one") is True
    assert await _put(store, _event("1", "order"), b"another") is False
    assert await store.find(call_id="1") is first


async def test_find_by_either_id() -> None:
    """A report is found by the platform's id and by ours; one without ours only by theirs."""
    store = MemoryStore()
    ours, theirs = _event("1", "order-1"), _event("2")
    await _put(store, ours)
    await _put(store, theirs)
    assert await store.find(call_id="1") is ours
    assert await store.find(out_call_id="order-1") is ours
    assert await store.find(call_id="2") is theirs


@pytest.mark.parametrize(
    ("call_id", "out_call_id"),
    [("9", None), (None, "order-9"), ("order-1", None), (None, "1"), ("", None), (None, "")],
)
async def test_find_nothing(call_id: str | None, out_call_id: str | None) -> None:
    """What is not there is None; the two kinds of id are not mixed up, and no id is none."""
    store = MemoryStore()
    await _put(store, _event("1", "order-1"))
    await _put(store, _event("2"))
    assert await store.find(call_id=call_id, out_call_id=out_call_id) is None


async def test_find_without_an_id() -> None:
    """No id at all finds nothing, not any report that has no id of ours."""
    store = MemoryStore()
    await _put(store, _event("2"))
    assert await store.find() is None


async def test_the_latest_report_of_an_out_call_id_is_found() -> None:
    """Two calls under one id of ours: the later report is what is found."""
    store = MemoryStore()
    first, second = _event("1", "order"), _event("2", "order")
    await _put(store, first)
    await _put(store, second)
    assert await store.find(out_call_id="order") is second
    assert await store.find(call_id="1") is first


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"status":"Ringing"}', b"\xff"])
async def test_what_has_no_call_id_is_always_new(body: bytes) -> None:
    """Nothing tells two such bodies apart, and handling one twice is better than losing one."""
    store = MemoryStore()
    assert await _put_unknown(store, body) is True
    assert await _put_unknown(store, body) is True


async def test_an_unknown_notification_again() -> None:
    """The same bytes with a call id are known the second time, and find no `Disconnected`."""
    store = MemoryStore()
    body = b'{"callidentifier":"1","status":"Ringing"}'
    assert await _put_unknown(store, body) is True
    assert await _put_unknown(store, body) is False
    assert await store.find(call_id="1") is None


@pytest.mark.parametrize(
    "other",
    [
        b'{"callidentifier":"1"}',
        b'{"callidentifier":"1","status":null}',
        b'{"callidentifier":"1","status":""}',
        b'{"callidentifier":"1","status":7}',
        b'{"callidentifier":"1","status":"Ringing"}',
        b'{"callidentifier":"1","status":"Disconnected","endTime":"soon"}',
    ],
)
async def test_an_unknown_notification_hides_no_report(other: bytes) -> None:
    """Whatever else came about a call, and in whatever order, its end is new, and is found."""
    before = MemoryStore()
    event = _event("1", "order")
    assert await _put_unknown(before, other) is True
    assert await _put(before, event) is True
    assert await before.find(call_id="1") is event
    after = MemoryStore()
    assert await _put(after, event) is True
    assert await _put_unknown(after, other) is True
    assert await after.find(call_id="1") is event


async def test_unknown_notifications_that_differ_are_both_new() -> None:
    """Two bodies that cannot be decoded say different things of one call: neither is dropped."""
    store = MemoryStore()
    assert await _put_unknown(store, b'{"callidentifier":"1","status":"Moved","to":1}') is True
    assert await _put_unknown(store, b'{"callidentifier":"1","status":"Moved","to":2}') is True


async def test_capacity() -> None:
    """The oldest goes when there are more than `capacity`; it is new again then."""
    store = MemoryStore(capacity=2)
    for call_id in ("1", "2", "3"):
        assert await _put(store, _event(call_id, f"order-{call_id}")) is True
    assert await store.find(call_id="1") is None
    assert await store.find(out_call_id="order-1") is None
    assert await store.find(call_id="2") is not None
    assert await store.find(out_call_id="order-3") is not None
    assert await _put(store, _event("1")) is True


async def test_default_capacity() -> None:
    """Ten thousand are kept, and not one more."""
    store = MemoryStore()
    for number in range(10_001):
        await _put(store, _event(str(number)))
    assert await store.find(call_id="0") is None
    assert await store.find(call_id="1") is not None
    assert await store.find(call_id="10000") is not None


async def test_being_known_is_no_reason_to_stay() -> None:
    """A report that comes again does not get younger, and takes no room of its own."""
    store = MemoryStore(capacity=2)
    for call_id in ("1", "2", "1", "3"):
        await _put(store, _event(call_id))
    assert await store.find(call_id="1") is None
    assert await store.find(call_id="2") is not None


async def test_forgetting_leaves_the_later_owner_of_an_out_call_id() -> None:
    """The older of two calls under one id of ours goes; the id still finds the younger."""
    store = MemoryStore(capacity=2)
    second = _event("2", "order")
    await _put(store, _event("1", "order"))
    await _put(store, second)
    await _put(store, _event("3"))
    assert await store.find(out_call_id="order") is second


async def test_forgetting_leaves_nothing() -> None:
    """Memory does not grow with what went by: nothing is kept of what is forgotten."""
    store = MemoryStore(capacity=3)
    for number in range(50):
        await _put(store, _event(f"a{number}", f"order-{number}"))
        await _put(store, _event(f"b{number}"))
        await _put_unknown(store, b'{"callidentifier":"%d"}' % number)
    sizes = {name: len(kept) for name, kept in vars(store).items() if hasattr(kept, "__len__")}
    assert sizes
    assert max(sizes.values()) <= 3


async def test_stores_are_apart() -> None:
    """Two stores share nothing."""
    one, other = MemoryStore(), MemoryStore()
    await _put(one, _event("1"))
    assert await other.find(call_id="1") is None


async def test_another_report_of_the_same_call_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The platform sends each once: a second one that says something else is worth a warning."""
    store = MemoryStore()
    await _put(store, _event("1"))
    await _put(store, _event("1"))
    assert not caplog.records
    await _put(store, _event("1", "order"))
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "call 1 came again with other content" in record.getMessage()
