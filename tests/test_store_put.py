"""Keeping notifications: what is new, what is known, what contradicts, and the bytes on disk."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, select_in, until
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from store_support import held_up, in_thread, keep, never_late, put_of, store_in, waiting

from qmc_async.store import Kind, Store
from qmc_async.store.events import put
from qmc_async.store.records import Receipt, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy import Connection

    from qmc_async.store.records import Kept


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An open store in a file."""
    async with store_in(tmp_path) as store:
        yield store


# --- new, known, in conflict -------------------------------------------------------------------


async def test_what_is_new(store: Store, tmp_path: Path) -> None:
    """The row has the body as it came, when it came, and its deliveries with their leases."""
    before = now()
    body = body_of(outCallId="order-42")
    kept = await keep(store, body, {"at once": True, "later": False}, "somebody")
    assert kept.kind is Kind.DISCONNECTED
    [claim] = kept.claims
    assert (claim.event_id, claim.handler, claim.fence, claim.attempts) == (
        "4711",
        "at once",
        1,
        0,
    )
    [row] = select_in(
        tmp_path,
        "SELECT event_id, kind, out_call_id, problem, body, routed, received_at, receipt_id"
        " FROM qmc_events",
    )
    assert row[:6] == ("4711", "disconnected", "order-42", "", body, 1)
    assert before <= row[6] <= now()
    assert row[7] == claim.receipt.receipt_id
    deliveries = select_in(
        tmp_path,
        "SELECT handler, state, attempts, fence, owner, due_at - ?, error"
        " FROM qmc_deliveries ORDER BY handler",
        row[6],
    )
    assert [one[:5] + one[6:] for one in deliveries] == [
        ("at once", "pending", 0, 1, "somebody", ""),
        ("later", "pending", 0, 0, None, ""),
    ]
    assert 60_000 <= deliveries[0][5] <= 90_000  # a lease; the machine may be slow
    assert deliveries[1][5] <= 30_000


async def test_an_event_without_handlers_known_is_not_routed(store: Store, tmp_path: Path) -> None:
    """Whoever knows the handlers finds it; with none that want it, it is routed and finished."""
    await keep(store, body_of("1"), None)
    await keep(store, body_of("2"), {})
    rows = select_in(tmp_path, "SELECT event_id, routed FROM qmc_events ORDER BY seq")
    assert rows == [("1", 0), ("2", 1)]


SAME = [
    body_of(),
    body_of().replace(b'": "', b'":"'),
    json.dumps(dict(reversed(json.loads(body_of()).items()))).encode(),
    body_of().replace(b"HangUp", b"\\u0048angUp"),
    b"\n" + body_of() + b" \t\r\n",
    b"\xef\xbb\xbf" + body_of(),
]


@pytest.mark.parametrize("again", SAME, ids=["bytes", "spaces", "order", "escape", "ends", "mark"])
async def test_the_same_again_is_known(store: Store, tmp_path: Path, again: bytes) -> None:
    """The same JSON, however it is written, is not kept a second time, nor handled."""
    await keep(store, body_of(), {"handler": True})
    kept = await keep(store, again, {"handler": True})
    assert kept.kind is None
    assert not kept.claims
    assert select_in(tmp_path, "SELECT body FROM qmc_events") == [(body_of(),)]
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_deliveries") == [(1,)]


OTHER = [
    body_of(reason="Other"),
    body_of(more=1),
    body_of(reason="hangup"),
    body_of(reason="HangUp "),
]


@pytest.mark.parametrize("other", OTHER)
async def test_other_content_is_a_conflict(store: Store, tmp_path: Path, other: bytes) -> None:
    """It is kept beside the first, once, for the handlers of conflicts; the first stays."""
    await keep(store, body_of(), {"handler": True})
    kept = await keep(store, other, {"handler": True})
    assert kept.kind is Kind.CONFLICT
    assert not kept.claims
    again = await keep(store, other, {"handler": True})
    assert again.kind is None
    rows = select_in(tmp_path, "SELECT event_id, kind, body, routed FROM qmc_events ORDER BY seq")
    assert rows == [
        ("4711", "disconnected", body_of(), 1),
        (Receipt.read(other).variant_id, "conflict", other, 0),
    ]
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_deliveries") == [(1,)]


VALUES = [("1", "true"), ("0", "false"), ("1", "1.0"), ("1", '"1"'), ("null", "0"), ("[]", "{}")]


@pytest.mark.parametrize(("one", "other"), VALUES)
async def test_values_that_python_holds_equal_differ(store: Store, one: str, other: str) -> None:
    """JSON's ``1`` is not its ``true``: nothing that was sent is thrown away as known."""
    first, second = (body_of()[:-1] + f', "x": {value}}}'.encode() for value in (one, other))
    assert (await keep(store, first)).kind is Kind.DISCONNECTED
    assert (await keep(store, second)).kind is Kind.CONFLICT


async def test_nesting_that_no_comparison_survives(store: Store, tmp_path: Path) -> None:
    """Bodies too deep to be compared are taken for different: both are kept."""
    deep = b"[" * 1000 + b"]" * 1000
    first, second = (body_of()[:-1] + b',"x":' + space + deep + b"}" for space in (b"", b" "))
    assert (await keep(store, first)).kind is Kind.DISCONNECTED
    assert (await keep(store, second)).kind is Kind.CONFLICT
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(2,)]


async def test_several_conflicts(store: Store, tmp_path: Path) -> None:
    """Each other content is kept, and each once."""
    kinds = [
        (await keep(store, body_of(reason=reason))).kind
        for reason in ("A", "B", "C", "B", "A", "C")
    ]
    conflict = Kind.CONFLICT
    assert kinds == [Kind.DISCONNECTED, conflict, conflict, None, None, None]
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(3,)]


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"{}", b"[1]", b"nonsense"])
async def test_what_names_no_call_is_kept_each_time(
    store: Store, tmp_path: Path, body: bytes
) -> None:
    """Two undecodable requests may be two things: both stay, byte for byte."""
    for _ in range(2):
        assert (await keep(store, body)).kind is Kind.UNKNOWN
    assert select_in(tmp_path, "SELECT kind, body FROM qmc_events") == [("unknown", body)] * 2


async def test_an_unknown_status_is_no_end(store: Store, tmp_path: Path) -> None:
    """It neither hides the report of the call's end nor contradicts it; a copy of it is known."""
    ringing = body_of(status="Ringing")
    kinds = [(await keep(store, body)).kind for body in (ringing, body_of(), ringing, body_of())]
    assert kinds == [Kind.UNKNOWN, Kind.DISCONNECTED, None, None]
    rows = select_in(tmp_path, "SELECT kind, body FROM qmc_events ORDER BY seq")
    assert rows == [("unknown", ringing), ("disconnected", body_of())]


async def test_a_body_that_was_cut_off_keeps_its_problem(store: Store, tmp_path: Path) -> None:
    """Why it may not be whole stands beside it, whether it could be read or not."""
    await store.keep(put_of(body_of()[:-3], problem="cut off"), never_late)
    await store.keep(put_of(body_of(), problem="too late"), never_late)
    rows = select_in(tmp_path, "SELECT kind, problem FROM qmc_events ORDER BY seq")
    assert rows == [("unknown", "cut off"), ("disconnected", "too late")]


# --- many at once ------------------------------------------------------------------------------


async def _in_one_go(store: Store, bodies: list[bytes]) -> list[Kept]:
    async with held_up(store):
        keeping = [asyncio.ensure_future(keep(store, body, {"h": True})) for body in bodies]
        await until(lambda: waiting(store) >= len(bodies))
    return await asyncio.gather(*keeping)


async def test_the_same_several_times_in_one_go(store: Store, tmp_path: Path) -> None:
    """Within one transaction too, the first is new, its copies are known, others contradict."""
    other = body_of(reason="Other")
    bodies = [body_of(), SAME[1], body_of(), other, other, b"{}", b"{}", body_of("1", status="A")]
    kept = await _in_one_go(store, [*bodies, bodies[-1]])
    assert [one.kind for one in kept] == [
        Kind.DISCONNECTED,
        None,
        None,
        Kind.CONFLICT,
        None,
        Kind.UNKNOWN,
        Kind.UNKNOWN,
        Kind.UNKNOWN,
        None,
    ]
    assert [len(one.claims) for one in kept] == [1, 0, 0, 0, 0, 1, 1, 1, 0]
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(5,)]


async def test_more_than_one_statement_takes(store: Store, tmp_path: Path) -> None:
    """Twelve hundred in one call, half of them known: beyond every limit on parameters."""
    known = [put_of(body_of(str(number))) for number in range(0, 1200, 2)]
    every = [put_of(body_of(str(number))) for number in range(1200)]

    def work(connection: Connection) -> list[Kept]:
        put(connection, known)
        return put(connection, every)

    kept = await in_thread(store, work)
    expected = [None if number % 2 == 0 else Kind.DISCONNECTED for number in range(1200)]
    assert [one.kind for one in kept] == expected
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(1200,)]


# --- any content -------------------------------------------------------------------------------


async def test_the_longest_body(store: Store, tmp_path: Path) -> None:
    """64 KiB, which is as much as the receiver takes, come back byte for byte."""
    body = body_of(x="")
    body = body_of(x="x" * (65_536 - len(body)))
    assert len(body) == 65_536
    await keep(store, body)
    await keep(store, bytes(range(256)) * 256)
    rows = select_in(tmp_path, "SELECT body FROM qmc_events ORDER BY seq")
    assert rows == [(body,), (bytes(range(256)) * 256,)]


JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
async def test_naughty_strings(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever stands in any field is kept as it came, and found again by both ids."""
    async with store_in(tmp_path) as store:
        for _ in range(5):
            fields = {
                name: data.draw(JSON_TEXT) for name in ("reason", "outCallId", "recordingResult")
            }
            body = body_of(data.draw(JSON_TEXT), **fields)
            receipt = Receipt.read(body)
            kept = await keep(store, body)
            if kept.kind is Kind.DISCONNECTED:
                query = "SELECT body FROM qmc_events WHERE event_id = ?"
                assert select_in(tmp_path, query, receipt.event_id) == [(body,)]
                ours = getattr(receipt.event, "out_call_id", None)
                found = await store.find(
                    [receipt.event.call_id or ""], [] if ours is None else [ours]
                )
                assert list(found[0].values()) == [receipt.event]
                assert len(found[1]) == (ours is not None)


@pytest.mark.parametrize(
    "ours", ["a\0b", "😀", "x" * 500, "a~b", "' OR 1=1 --", "%", "\ufeff", "ÀÈ", "\u202e", "0042"]
)
async def test_an_awkward_id_of_ours(store: Store, ours: str) -> None:
    """Any `out_call_id` finds its call, and no other one's."""
    await keep(store, body_of("1", outCallId=ours))
    await keep(store, body_of("2", outCallId=ours + "x"))
    _, found = await store.find([], [ours, "%", "a"])
    assert {name: event.call_id for name, event in found.items()} == {ours: "1"}


@given(st.binary(max_size=200))
@example(b'{"callidentifier":"4711","outCallId":"\\ud800"}')
@example(b'{"callidentifier":"\xed\xa0\x80","status":"Disconnected"}')
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_bytes(tmp_path: Path, body: bytes) -> None:
    """Bytes that are no JSON, nor even text, come back as they came."""
    async with store_in(tmp_path) as store:
        put = put_of(body)
        assert await store.keep(put, never_late)
        query = "SELECT body FROM qmc_events WHERE event_id = ?"
        assert select_in(tmp_path, query, put.receipt.event_id) == [(body,)]
