"""What the README says of the platform's document is what the code does."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import attrs
import pytest
from readme_support import README, anchor_of, links_of, section_of, sections_of, spans_of, tables_of

from qmc_async import (
    ApiError,
    AsyncQmcClient,
    Call,
    Credentials,
    Disconnected,
    Reason,
    Recording,
    RecordingFile,
    Signer,
)
from qmc_async.callback.reply import RECEIVED
from qmc_async.codec import decode_notification
from qmc_async.sandbox import SCENARIOS_BY_DIGITS, Assumed, Sandbox, VirtualClock
from qmc_async.settings import BASE_URL, RECORD_BASE_URL, RECORD_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCUMENT = section_of(README, "From the document to this library")
OPERATIONS, PARAMETERS, AUTHORIZATION, FIELDS, REASONS = tables_of(DOCUMENT.text)
ASSUMED = section_of(README, "What is documented, and what is assumed")
NOTIFICATION = {
    "callidentifier": "4711",
    "status": "Disconnected",
    "endTime": "2026-01-31 12:00:19",
    "startTime": "2026-01-31 12:00:03",
    "answerTime": "2026-01-31 12:00:07",
    "reason": "HangUp",
    "callDuration": "12",
    "recordingResult": "success",
    "outCallId": "order-42",
}
CLASSES: Mapping[str, type] = {
    "ApiError": ApiError,
    "Call": Call,
    "Credentials": Credentials,
    "Disconnected": Disconnected,
    "Recording": Recording,
}


async def test_the_operations_go_where_the_table_says() -> None:
    """Each operation of the client posts to the address beside it, by default and otherwise."""
    (call,), (end_call,), (record, argument, other) = (spans_of(row[2]) for row in OPERATIONS[:3])
    assert (record, argument) == (RECORD_BASE_URL + RECORD_PATH, "record_path")
    async with Sandbox(clock=VirtualClock()) as platform:
        here = platform.base_url
        credentials = platform.credentials
        async with AsyncQmcClient(
            credentials.app_id,
            credentials.app_secret,
            base_url=here,
            record_base_url=here,
            record_path=other,
        ) as client:
            placed = await client.call("13987654321", "13912340010")
            await platform.advance(seconds=30)
            await client.end_call(placed)
            await platform.advance(minutes=1)
            assert await client.recording(placed)
        assert [one.path for one in platform.received] == [
            call.removeprefix(BASE_URL),
            end_call.removeprefix(BASE_URL),
            other,
        ]


def test_the_operations_return_what_the_table_says() -> None:
    """The methods exist, and the classes beside them are what they return."""
    returned = {
        name: str(signature(getattr(AsyncQmcClient, name)).return_annotation)
        for name in ("call", "end_call", "recording", "download")
    }
    assert returned == {
        "call": Call.__name__,
        "end_call": "None",
        "recording": Recording.__name__,
        "download": RecordingFile.__name__,
    }
    ours = " ".join(row[3] for row in OPERATIONS)
    for name, result in returned.items():
        assert f"`client.{name}(…)`, {'nothing' if result == 'None' else f'a `{result}`'}" in ours


def test_the_parameters_are_those_of_the_client() -> None:
    """Each name of ours in the table exists: arguments of the operations, attributes of results."""
    arguments = [span for row in PARAMETERS if "argument" in row[3] for span in spans_of(row[3])]
    expected = {"caller", "callee", "out_call_id", "call"}
    assert expected <= set(arguments)
    assert {"caller", "callee", "out_call_id"} <= set(signature(AsyncQmcClient.call).parameters)
    for operation in (AsyncQmcClient.end_call, AsyncQmcClient.recording):
        assert "call" in signature(operation).parameters
    for row in (*PARAMETERS, *AUTHORIZATION):
        for span in spans_of(row[-1]):
            name, _, attribute = span.partition(".")
            if attribute and name in CLASSES:
                fields = get_type_hints(CLASSES[name]) | signature(CLASSES[name]).parameters
                assert attribute in fields, span


def test_the_header_is_made_as_the_table_says() -> None:
    """The formulas of the table, worked out, are what the signer makes."""
    (formula,), (plain,) = (spans_of(AUTHORIZATION[row][1]) for row in (0, 4))
    values = {"APPID": "1696054309969104898", "APPSECRET": "secret", "timestamp": "1693270226642"}

    def put_in(formula: str) -> str:
        return ":".join(values[name] for name in formula.split(":"))

    values["sign"] = hashlib.md5(put_in(plain).encode()).hexdigest()  # noqa: S324 - the platform's choice
    header = base64.b64encode(put_in(formula).encode()).decode()
    assert Signer(Credentials(values["APPID"], "secret")).sign(1693270226.642) == header


def test_the_fields_of_a_notification_are_all_there() -> None:
    """Each field of the document becomes the attribute and the type beside it; two are ours."""
    assert sorted(spans_of(row[0])[0] for row in FIELDS) == sorted(NOTIFICATION)
    whole = decode(NOTIFICATION)
    hints = get_type_hints(Disconnected)
    attributes = {"problems", "raw"}
    for name, required, _, attribute, types, _ in FIELDS:
        (field,) = spans_of(name)
        without = {key: value for key, value in NOTIFICATION.items() if key != field}
        if field == "status":
            assert type(decode_notification(json.dumps(without).encode())).__name__ in attribute
            continue
        (ours,) = spans_of(attribute)
        attributes.add(ours)
        of_class = get_args(hints[ours]) or (hints[ours],)
        assert {one.__name__ for one in of_class} - {"NoneType"} == set(spans_of(types))
        assert (type(None) in of_class) == (required == "条件必选")
        assert getattr(whole, ours) is not None
        if required == "条件必选":
            assert getattr(decode(without), ours) is None
    assert attributes == {field.name for field in attrs.fields(Disconnected)}
    assert f"The answer is `{RECEIVED.body.decode()}`" in DOCUMENT.text


def decode(wire: Mapping[str, str]) -> Disconnected:
    """Read a notification that ends a call."""
    event = decode_notification(json.dumps(wire).encode())
    assert isinstance(event, Disconnected)
    return event


async def test_the_reasons_are_all_there() -> None:
    """The nine members, and the fields that the sandbox sends with each of them."""
    members = [(spans_of(row[0])[0], spans_of(row[2])[0]) for row in REASONS]
    assert members == [(Reason[name].value, name) for _, name in members]
    assert {value for value, _ in members} == set(Reason)
    digits = {scenario.summary: digits for digits, scenario in SCENARIOS_BY_DIGITS.items()}
    async with Sandbox(clock=VirtualClock()) as platform:
        for value, _ in members:
            await place(platform, f"1391234{digits[value]}")
        await platform.advance(minutes=2)
        events = {call.reason: call for call in platform.calls.values()}
    for reason, _, _, started, connected in REASONS:
        event = events[Reason(spans_of(reason)[0])]
        for said, time in ((started, event.start_time), (connected, event.answer_time)):
            assert said == "perhaps" or (said == "yes") == (time is not None)


async def place(platform: Sandbox, callee: str) -> None:
    """Have a call placed."""
    credentials = platform.credentials
    async with AsyncQmcClient(
        credentials.app_id, credentials.app_secret, base_url=platform.base_url
    ) as client:
        await client.call("13987654321", callee)


def said_of(default: Any) -> str:  # noqa: ANN401 - of any field
    """How the README writes a default."""
    return f"{default.total_seconds():g} s" if isinstance(default, timedelta) else str(default)


@pytest.mark.parametrize("field", attrs.fields(Assumed), ids=lambda field: field.name)
def test_each_assumption_is_told(field: attrs.Attribute[Any]) -> None:
    """Every setting of `Assumed` stands in the table, with its default."""
    (table,) = tables_of(ASSUMED.text)
    (row,) = (row for row in table if field.name in spans_of(row[2]))
    assert f"`{field.name}` {said_of(field.default)}" in row[2]


def test_no_assumption_is_told_that_is_none() -> None:
    """The table's last column has nothing but settings of `Assumed`."""
    (table,) = tables_of(ASSUMED.text)
    told = [span for row in table for span in spans_of(row[2])]
    assert sorted(told) == sorted(field.name for field in attrs.fields(Assumed))


def test_the_contents_have_every_section() -> None:
    """The links under the title lead to each section, in their order, but to the licence."""
    title, *others = sections_of(README)
    sections = [f"#{anchor_of(one.heading)}" for one in others if one.level == 2]
    assert [link for link in links_of(title.text) if link.startswith("#")] == sections[:-1]
