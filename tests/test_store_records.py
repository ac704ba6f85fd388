"""Records: identifiers that every database can compare, and receipts that are told apart."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from callback_peer import NUMBERS, body_of
from hypothesis import example, given
from hypothesis import strategies as st
from store_support import put_of

from qmc_async.models import Conflict
from qmc_async.store.group_commit import Job
from qmc_async.store.records import (
    Claim,
    Kept,
    Kind,
    Outcome,
    Polled,
    Receipt,
    State,
    exact_key,
    from_milliseconds,
    now,
)

ANY_TEXT = st.text(st.characters(exclude_categories=[]))
"""Lone surrogates too: an application may ask for anything."""


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- exact keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        "4711",
        "A-b_C",
        "a",
        "A",
        "a ",
        " a",
        "é",
        "e\u0301",
        "订单-42",
        "😀",
        "x" * 200,
        "é" * 100,
    ],
)
def test_an_ordinary_identifier_is_its_own_key(identifier: str) -> None:
    """Case, spaces at the end and the way that an accent is written all stay as they are."""
    assert exact_key(identifier) == identifier


@pytest.mark.parametrize("identifier", ["a~b", "~", "a\0b", "\0", "x" * 201, "é" * 101, "😀" * 51])
def test_an_awkward_identifier_gets_a_key_of_ours(identifier: str) -> None:
    """A NUL, the mark that is ours, or more than 200 bytes: then it is known by its hash."""
    assert exact_key(identifier) == f"~~{_sha256(identifier)}"


@given(ANY_TEXT, ANY_TEXT)
@example("\ud800", "\ud801")
@example("a~\udfff", "a~")
def test_two_identifiers_have_two_keys(one: str, other: str) -> None:
    """Each key fits an indexed column, is UTF-8 without NUL, and stands for one identifier."""
    keys = exact_key(one), exact_key(other)
    assert (keys[0] == keys[1]) == (one == other)
    for key in keys:
        assert len(key.encode()) <= 200
        assert "\0" not in key


@given(ANY_TEXT)
def test_a_key_is_not_an_identifier(identifier: str) -> None:
    """Whoever sends our own key of something as an identifier does not get that thing."""
    key = exact_key(identifier)
    assert key == identifier or exact_key(key) != key


# --- receipts ----------------------------------------------------------------------------------


def test_the_end_of_a_call_is_known_by_its_call_id() -> None:
    """Whatever else it says, a call ends once."""
    one, other = Receipt.read(body_of()), Receipt.read(body_of(reason="Other"))
    assert one.event_id == other.event_id == "4711"
    assert one.kind is other.kind is Kind.DISCONNECTED
    assert one.variant_id != other.variant_id


def test_something_else_about_a_call_is_known_by_its_bytes() -> None:
    """An unknown status, or a body that lacks a field: the same bytes are the same thing."""
    one, same, other = (
        Receipt.read(body)
        for body in (body_of(status="A"), body_of(status="A"), body_of(status="B"))
    )
    digest = hashlib.sha256(body_of(status="A")).hexdigest()[:32]
    assert one.event_id == same.event_id == one.variant_id == f"4711~{digest}"
    assert other.event_id != one.event_id
    assert one.kind is Kind.UNKNOWN


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"callidentifier":""}'])
def test_what_names_no_call_is_never_the_same(body: bytes) -> None:
    """Two requests that cannot be read may be two things, even if their bytes are the same."""
    one, other = Receipt.read(body), Receipt.read(body)
    assert one.event_id == f"~{one.receipt_id}"
    assert one.event_id != other.event_id
    assert one.kind is Kind.UNKNOWN


def test_a_receipt_that_is_read_again_is_the_same() -> None:
    """From the spool or from the database it comes back with its own time and id."""
    first = Receipt.read(b"\xff", "cut off")
    again = Receipt.read(
        first.body, first.problem, received_at=first.received_at, receipt_id=first.receipt_id
    )
    assert again == first
    assert Receipt.read(b"", received_at=0).received_at == 0


@given(st.text(min_size=1, max_size=300), st.binary(max_size=50))
def test_every_event_id_fits_its_column(call_id: str, body: bytes) -> None:
    """An id has at most 255 characters, whatever the platform sends as ``callidentifier``."""
    for receipt in (
        Receipt.read(body_of(call_id)),
        Receipt.read(body_of(call_id, status="A")),
        Receipt.read(body),
    ):
        assert len(receipt.event_id.encode()) <= 255
        assert len(receipt.variant_id.encode()) <= 255


def test_times() -> None:
    """Milliseconds since 1970 become aware times of Beijing."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    time = from_milliseconds(now())
    assert before <= time <= datetime.now(UTC)
    assert time.utcoffset() == timedelta(hours=8)


# --- what they show of themselves --------------------------------------------------------------


def test_no_record_shows_what_came() -> None:
    """A repr holds no telephone number, and nothing of the body."""
    body = body_of(outCallId=NUMBERS[0], reason=f"to {NUMBERS[1]}", fileUrl="https://r/secret.wav")
    put = put_of(body, {"handler": True})
    receipt = put.receipt
    unknown = put_of(body_of(status=NUMBERS[0], secret="secret")).receipt
    assert receipt.kind is Kind.DISCONNECTED
    claim = Claim(
        event_id="4711",
        handler="handler",
        fence=1,
        attempts=0,
        event=Conflict(call_id="4711", first=None, second=receipt.event),  # type: ignore[arg-type]  # it is one
        receipt=receipt,
        kind=Kind.CONFLICT,
    )
    shown = repr(
        [
            put,
            unknown,
            claim,
            Outcome(claim, State.DONE),
            Kept(Kind.DISCONNECTED, [claim]),
            Polled([claim], {"4711": unknown.event}),
            Job(print, put, None),  # type: ignore[arg-type]  # it is not shown
        ]
    )
    for secret in (*NUMBERS, "secret"):
        assert secret not in shown
    assert "4711" in shown
