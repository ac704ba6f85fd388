"""What each outcome means for each operation: the table that keeps a telephone from ringing twice.

The rules are numbered in the module's docstring.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmc_async.errors import (
    ApiError,
    AuthenticationError,
    CallOutcomeUnknown,
    RateLimited,
    TransportError,
)
from qmc_async.models import CallResult, FileResult
from qmc_async.verdict import CALL, END_CALL, RECORD, Failure, NoReply, Reply, Success, judge

if TYPE_CHECKING:
    from qmc_async.errors import ExchangeError
    from qmc_async.verdict import Endpoint

ENDPOINTS: dict[str, Endpoint[Any]] = {"call": CALL, "endCall": END_CALL, "record": RECORD}
REPEATABLE = ["endCall", "record"]
GOOD = b'{"code": 200, "data": {"callidentifier": "c-1", "fileUrl": "http://f/1.wav"}}'

each = pytest.mark.parametrize("endpoint", ENDPOINTS)


def fail(endpoint: str, outcome: Reply | NoReply) -> Failure:
    """The failure that an outcome is judged to be."""
    verdict = judge(ENDPOINTS[endpoint], outcome)
    assert isinstance(verdict, Failure)
    return verdict


@pytest.mark.parametrize(
    ("endpoint", "result"),
    [
        ("call", CallResult(call_id="c-1")),
        ("endCall", None),
        ("record", FileResult(file_url="http://f/1.wav")),
    ],
)
def test_success(endpoint: str, result: object) -> None:
    """Code 200 with what the operation promises is success, and keeps the envelope."""
    verdict = judge(ENDPOINTS[endpoint], Reply(http_status=200, body=GOOD))
    assert isinstance(verdict, Success)
    assert verdict.result == result
    assert verdict.envelope.code == 200


@pytest.mark.parametrize("status", [200, 201, 202, 299])
@each
def test_success_with_any_2xx(endpoint: str, status: int) -> None:
    """The envelope decides, whichever 2xx carries it."""
    assert isinstance(judge(ENDPOINTS[endpoint], Reply(http_status=status, body=GOOD)), Success)


@pytest.mark.parametrize("data", ["", ', "data": null', ', "data": ""', ', "data": {"x": 1}'])
def test_end_call_has_no_data(data: str) -> None:
    """`endCall` succeeds whatever stands in `data`: the document gives it none."""
    body = f'{{"code": 200{data}}}'.encode()
    assert isinstance(judge(END_CALL, Reply(http_status=200, body=body)), Success)


@each
def test_nothing_left(endpoint: str) -> None:
    """Rule 1: what cannot have left may be sent again, whatever it was."""
    failure = fail(endpoint, NoReply(may_have_arrived=False, why="refused"))
    assert failure.error is TransportError
    assert failure.repeatable
    assert failure.why == "refused"


@pytest.mark.parametrize(
    "outcome",
    [
        NoReply(may_have_arrived=True, why="broke"),
        *(Reply(http_status=status, body=GOOD) for status in (300, 301, 302, 304, 307, 308)),
        *(
            Reply(http_status=200, body=body)
            for body in (b"", b"<html>", GOOD[:-1], b"[]", b"null", b"{}", b'{"code": "ok"}')
        ),
    ],
    ids=repr,
)
def test_no_clear_answer(outcome: Reply | NoReply) -> None:
    """Rules 2 and 3: without a clear answer `call` is unknown and final, the others go again."""
    failure = fail("call", outcome)
    assert (failure.error, failure.repeatable) == (CallOutcomeUnknown, False)
    for endpoint in REPEATABLE:
        failure = fail(endpoint, outcome)
        assert (failure.error, failure.repeatable) == (TransportError, True)
        assert failure.http_status == (outcome.http_status if isinstance(outcome, Reply) else None)


@pytest.mark.parametrize("data", [b"", b', "data": null', b', "data": {}', b', "data": "c-1"'])
@pytest.mark.parametrize("endpoint", ["call", "record"])
def test_success_without_result(endpoint: str, data: bytes) -> None:
    """Code 200 without the id or the address is no clear answer; the message names the place."""
    failure = fail(endpoint, Reply(http_status=200, body=b'{"code": 200' + data + b"}"))
    assert failure.error is (CallOutcomeUnknown if endpoint == "call" else TransportError)
    assert "$.data" in failure.why


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
@pytest.mark.parametrize("body", [b"", b"<html>", GOOD, b'{"code": 429}', b'{"code": 401}'])
def test_server_error(status: int, body: bytes) -> None:
    """Rule 2: a 5xx says nothing about the telephones, whatever its body says."""
    failure = fail("call", Reply(http_status=status, body=body))
    assert (failure.error, failure.repeatable) == (CallOutcomeUnknown, False)
    for endpoint in REPEATABLE:
        failure = fail(endpoint, Reply(http_status=status, body=body))
        assert (failure.error, failure.repeatable) == (ApiError, True)


@pytest.mark.parametrize(
    ("status", "body"),
    [*((status, GOOD) for status in (400, 401, 404, 429, 499)), (408, b""), (408, b"{}")],
)
def test_settles_nothing(status: int, body: bytes) -> None:
    """Rule 2: nor does a 408, or an HTTP 4xx around a success, say anything about them."""
    failure = fail("call", Reply(http_status=status, body=body))
    assert (failure.error, failure.repeatable) == (CallOutcomeUnknown, False)
    assert failure.http_status == status
    for endpoint in REPEATABLE:
        failure = fail(endpoint, Reply(http_status=status, body=body))
        assert (failure.error, failure.repeatable) == (TransportError, True)


AS_STATUS_AND_AS_CODE = pytest.mark.parametrize("as_code", [False, True], ids=["status", "code"])


def reply(number: int, as_code: bool, retry_after: float | None = None) -> Reply:  # noqa: FBT001 - from the table
    """A reply with the number as HTTP status, or as the envelope's code."""
    if as_code:
        body = f'{{"code": {number}}}'.encode()
        return Reply(http_status=200, body=body, retry_after=retry_after)
    return Reply(http_status=number, body=b"", retry_after=retry_after)


@each
@AS_STATUS_AND_AS_CODE
@pytest.mark.parametrize("number", [401, 403])
def test_credentials_refused(endpoint: str, number: int, as_code: bool) -> None:  # noqa: FBT001 - from the table
    """Rule 4: a refusal of the credentials is never repeated."""
    failure = fail(endpoint, reply(number, as_code))
    assert (failure.error, failure.repeatable) == (AuthenticationError, False)


@each
@AS_STATUS_AND_AS_CODE
def test_too_many(endpoint: str, as_code: bool) -> None:  # noqa: FBT001 - from the table
    """429 keeps the platform's wish; `call` leaves it to the caller to come back."""
    failure = fail(endpoint, reply(429, as_code, retry_after=7.0))
    assert (failure.error, failure.repeatable) == (RateLimited, endpoint in REPEATABLE)
    assert failure.retry_after == 7.0


@each
@pytest.mark.parametrize(
    ("number", "as_code"),
    [*itertools.product([400, 404, 409, 418, 499], [False, True])]
    + [(number, True) for number in (0, 1, -1, 100, 199, 201, 408, 500, 503, 10_001)],
)
def test_refused(endpoint: str, number: int, as_code: bool) -> None:  # noqa: FBT001 - from the table
    """Any other 4xx, or code that is not 200, is a clear no: final for every operation."""
    failure = fail(endpoint, reply(number, as_code))
    assert (failure.error, failure.repeatable) == (ApiError, False)
    assert failure.code == (number if as_code else None)
    assert failure.http_status == (200 if as_code else number)


@each
def test_status_is_stronger_than_code(endpoint: str) -> None:
    """Where HTTP says 404 and the envelope 401, the server before the platform has spoken."""
    failure = fail(endpoint, Reply(http_status=404, body=b'{"code": 401, "msg": "no"}'))
    assert failure.error is ApiError
    assert (failure.http_status, failure.code, failure.msg) == (404, 401, "no")


@each
def test_numbers_are_masked(endpoint: str) -> None:
    """The platform's `msg` is shown with telephone numbers masked, in the text and the field."""
    body = '{"code": 500, "msg": "主叫13987654321与被叫0755-1234 3388冲突"}'.encode()
    failure = fail(endpoint, Reply(http_status=200, body=body))
    for text in (failure.msg, failure.why):
        assert "139****4321" in text
        assert "0755****3388" in text
        assert "87654321" not in text


@each
def test_quoted_secrets_are_masked(endpoint: str) -> None:
    """A `msg` that quotes what we signed with, or the header, is shown without it."""
    body = b'{"code": 401, "msg": "header aGVhZGVy, expected s3cr3t"}'
    reply = Reply(http_status=200, body=body, private=("aGVhZGVy", "s3cr3t"))
    failure = fail(endpoint, reply)
    assert failure.msg == "header ****, expected ****"
    assert failure.why.endswith("header ****, expected ****")
    assert "s3cr3t" not in repr(reply)


def test_reply_does_not_print_its_body() -> None:
    """A reply's repr leaves out the body, which may hold a recording's address."""
    assert "f/1.wav" not in repr(Reply(http_status=200, body=GOOD))


@given(
    status=st.integers(100, 599),
    body=st.binary(max_size=40) | st.sampled_from([GOOD, b'{"code": 200, "data": {}}']),
)
def test_call_is_never_repeated_after_a_reply(status: int, body: bytes) -> None:
    """No reply at all makes `call` repeatable: it came, so the request had arrived."""
    verdict = judge(CALL, Reply(http_status=status, body=body))
    assert isinstance(verdict, Success) or not verdict.repeatable


@given(status=st.integers(100, 599), code=st.integers(-(10**6), 10**6))
def test_call_error_says_whether_it_may_ring(status: int, code: int) -> None:
    """`call` raises a plain `ApiError` only for a clear no; a `TransportError` only if unknown."""
    verdict = judge(CALL, Reply(http_status=status, body=f'{{"code": {code}}}'.encode()))
    assert isinstance(verdict, Failure)
    clear_no = code != 200 and (status < 300 or (400 <= status < 500 and status != 408))
    kind: type[ExchangeError] = ApiError if clear_no else CallOutcomeUnknown
    assert issubclass(verdict.error, kind)
