"""What the sandbox reports about calls, and what goes wrong with the reports, on real sockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from test_sandbox_support import APP_ID, CALL, CALLER, SECRET, meeting

from qmc_async.models import BEIJING, Reason
from qmc_async.sandbox import Action, Assumed, Faults, Rule, Scenario, VirtualClock

START = datetime(2026, 8, 3, 23, 59, 50, tzinfo=BEIJING)

CALLER_NEVER_ANSWERED: set[str] = set()
NEVER_CONNECTED = {"startTime"}
CONNECTED = {"startTime", "answerTime", "callDuration", "recordingResult"}
ALWAYS = {"callidentifier", "status", "endTime", "reason"}

# The callee's last digits, the reason, and the conditional fields of the platform README's table.
TABLE = [
    ("0001", "CallerBusy", CALLER_NEVER_ANSWERED),
    ("0002", "CallerNoAnswer", CALLER_NEVER_ANSWERED),
    ("0003", "CallerFailure", CALLER_NEVER_ANSWERED),
    ("0004", "CallerAbandon", NEVER_CONNECTED),
    ("0005", "CalleeBusy", NEVER_CONNECTED),
    ("0006", "CalleeNoAnswer", NEVER_CONNECTED),
    ("0007", "CalleeFailure", NEVER_CONNECTED),
    ("0008", "Other", NEVER_CONNECTED),
    ("0009", "HangUp", CONNECTED),
    ("0011", "HangUp", CONNECTED),
    ("5678", "HangUp", CONNECTED),
]


async def test_a_notification_is_the_documents() -> None:
    """All nine fields have the documented names, types and formats, in Beijing time (3.2)."""
    async with meeting(VirtualClock(START)) as peer:
        call_id = await peer.call(outCallId="order-42")
        await peer.platform.advance(minutes=1)
    ((headers, _),) = peer.posted
    assert peer.events == [
        {
            "callidentifier": call_id,
            "status": "Disconnected",
            "answerTime": "2026-08-03 23:59:57",
            "endTime": "2026-08-04 00:00:09",
            "startTime": "2026-08-03 23:59:53",
            "reason": "HangUp",
            "callDuration": "12",
            "recordingResult": "success",
            "outCallId": "order-42",
        }
    ]
    assert headers["Content-Type"] == "application/json;charset=utf-8"
    assert headers["Connection"] == "close"
    assert "Authorization" not in headers
    (attempt,) = peer.platform.notifications
    assert (attempt.call_id, attempt.http_status, attempt.error) == (call_id, 200, None)
    assert attempt.body == peer.posted[0][1]
    assert json.loads(attempt.reply or b"")["code"] == "200"
    assert 0 < attempt.elapsed < 5


@pytest.mark.parametrize(("digits", "reason", "fields"), TABLE)
async def test_the_last_digits_choose_the_reason(
    digits: str, reason: str, fields: set[str]
) -> None:
    """The callee's last digits end the call with the reason, and its conditional fields."""
    async with meeting() as peer:
        await peer.call(f"1390000{digits}")
        await peer.platform.advance(minutes=2)
    (event,) = peer.events
    assert event["reason"] == reason
    assert set(event) == ALWAYS | fields
    if "recordingResult" in fields:
        assert event["recordingResult"] == ("fail" if digits == "0011" else "success")


@pytest.mark.parametrize("reason", Reason)
async def test_a_rule_chooses_the_reason(reason: Reason) -> None:
    """`Scenario.for_reason` by rule goes before the last digits, for all nine reasons."""
    rules = [Rule(callee="13900000005", scenario=Scenario.for_reason(reason))]
    async with meeting(rules=rules) as peer:
        await peer.call("13900000005")
        await peer.platform.advance(minutes=2)
    assert [event["reason"] for event in peer.events] == [reason.value]


async def test_a_call_that_fails_while_connected_reports_its_talk() -> None:
    """Other may come with every conditional field."""
    async with meeting(VirtualClock(START)) as peer:
        call_id = await peer.call("13900000010")
        await peer.platform.advance(seconds=10)
        peer.platform.act(call_id, Action.PLATFORM_FAILS)
        await peer.platform.settled()
    assert set(peer.events[0]) == ALWAYS | CONNECTED
    assert (peer.events[0]["reason"], peer.events[0]["callDuration"]) == ("Other", "3")


@pytest.mark.parametrize(
    ("how", "value"), [("empty", ""), ("null", None), ("zero", "0"), ("missing", KeyError)]
)
async def test_how_fields_are_absent_is_assumed(how: Any, value: object) -> None:  # noqa: ANN401 - a literal of four
    """`absent_fields` writes each absent conditional field in its own way, and no other."""
    async with meeting(assumed=Assumed(absent_fields=how)) as peer:
        await peer.call("13900000005")
        await peer.platform.advance(minutes=1)
    (event,) = peer.events
    absent = {"answerTime", "callDuration", "recordingResult", "outCallId"}
    assert {name: event.get(name, KeyError) for name in absent} == dict.fromkeys(absent, value)
    assert event["reason"] == "CalleeBusy"
    assert event["startTime"]


async def test_an_unconnected_call_may_have_a_duration() -> None:
    """`zero_duration` reports "0" seconds of talk where there was none."""
    async with meeting(assumed=Assumed(zero_duration=True)) as peer:
        await peer.call("13900000005")
        await peer.platform.advance(minutes=1)
    assert peer.events[0]["callDuration"] == "0"
    assert "answerTime" not in peer.events[0]


@pytest.mark.parametrize("skew", [0, 3600])
async def test_the_notification_may_be_signed(skew: int) -> None:
    """`notification_authorization` signs with the credentials and the platform's clock (2)."""
    assumed = Assumed(notification_authorization=True, clock_skew=timedelta(seconds=skew))
    async with meeting(assumed=assumed) as peer:
        await peer.post(CALL, {"caller": CALLER, "callee": "13900000001"}, seconds_off=skew)
        await peer.platform.advance(minutes=1)
    plain = base64.b64decode(peer.posted[0][0]["Authorization"]).decode()
    app_id, timestamp, sign = plain.split(":")
    assert app_id == APP_ID
    assert abs(int(timestamp) / 1000 - skew - time.time()) < 5
    assert sign == hashlib.md5(f"{APP_ID}:{SECRET}:{timestamp}".encode()).hexdigest()  # noqa: S324 - the document's own choice


async def test_a_notification_can_be_dropped() -> None:
    """The digits 0021: the call ends, and nothing is ever sent."""
    async with meeting() as peer:
        call_id = await peer.call("13900000021")
        await peer.platform.advance(days=7)
        await peer.platform.settled()
        assert peer.platform.calls[call_id].reason is Reason.HANG_UP
    assert not peer.posted
    assert not peer.platform.notifications


async def test_a_notification_can_be_late() -> None:
    """The digits 0022: it is sent a minute after the hang-up, and says when that was."""
    async with meeting(VirtualClock(START)) as peer:
        await peer.call("13900000022")
        await peer.platform.advance(seconds=19 + 59)
        assert not peer.posted
        await peer.platform.advance(seconds=1)
    assert [event["endTime"] for event in peer.events] == ["2026-08-04 00:00:09"]


async def test_a_notification_can_come_twice() -> None:
    """The digits 0023: the same bytes are sent a second time."""
    async with meeting() as peer:
        await peer.call("13900000023")
        await peer.platform.advance(minutes=1)
    first, second = (body for _, body in peer.posted)
    assert first == second
    assert [one.http_status for one in peer.platform.notifications] == [200, 200]


async def test_a_notification_can_be_malformed() -> None:
    """The digits 0024: the first half of a body is sent, once."""
    async with meeting() as peer:
        call_id = await peer.call("13900000024")
        await peer.platform.advance(minutes=1)
    ((_, body),) = peer.posted
    assert call_id.encode() in body
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(body)


async def test_a_notification_can_come_before_the_reply() -> None:
    """The digits 0025: the notification is answered before call is, without any time passing."""
    order: list[str] = []
    async with meeting() as peer:

        async def slow(_: web.Request) -> web.Response:
            await asyncio.sleep(0.05)
            order.append("notified")
            return web.Response()

        peer.answer = slow
        call_id = await peer.call("13900000025")
        order.append("replied")
        assert peer.platform.calls[call_id].duration == timedelta(0)
    assert order == ["notified", "replied"]
    assert [event["callidentifier"] for event in peer.events] == [call_id]


async def test_an_endless_call_has_nothing_to_report_early() -> None:
    """The early fault does not keep the reply waiting for a call that goes on."""
    rule = Rule(scenario=Scenario.endless(), faults=Faults(early_notification=True))
    async with meeting(rules=[rule]) as peer:
        call_id = await peer.call()
        assert not peer.posted
        await peer.end(call_id)
        await peer.platform.settled()
    assert len(peer.events) == 1


@pytest.mark.parametrize("early", [False, True])
async def test_a_reply_can_be_lost(early: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The digits 0031: the connection closes without a byte, and the call takes place."""
    rules = [Rule(faults=Faults(lose_reply=True, early_notification=True))] if early else []
    async with meeting(rules=rules) as peer:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await peer.try_call("13900000031", outCallId="order-42")
        assert len(peer.posted) == early
        assert len(peer.platform.calls) == 1
        await peer.platform.advance(minutes=1)
    assert [event["outCallId"] for event in peer.events] == ["order-42"]


@pytest.mark.parametrize("status", [200, 302, 404, 500])
async def test_a_notification_is_sent_once(status: int) -> None:
    """Whatever the answer, nothing is sent again, and no redirect is followed (1)."""
    async with meeting() as peer:

        async def answer(request: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": str(request.url)}, text="so")

        peer.answer = answer
        await peer.call("13900000001")
        await peer.platform.advance(days=7)
    assert len(peer.posted) == 1
    (attempt,) = peer.platform.notifications
    assert (attempt.http_status, attempt.reply, attempt.error) == (status, b"so", None)


async def test_of_a_long_answer_the_beginning_is_kept() -> None:
    """A server that answers with megabytes takes none of the sandbox's memory for them."""
    async with meeting() as peer:

        async def answer(_: web.Request) -> web.Response:
            return web.Response(body=b"x" * 3_000_000)

        peer.answer = answer
        await peer.call("13900000001")
        await peer.platform.advance(minutes=1)
    (attempt,) = peer.platform.notifications
    assert (attempt.http_status, attempt.reply) == (200, b"x" * 64 * 1024)


async def test_notifications_have_nothing_in_common() -> None:
    """A cookie that one answer sets does not come with the next notification."""
    async with meeting() as peer:

        async def answer(_: web.Request) -> web.Response:
            return web.Response(headers={"Set-Cookie": "session=1; Path=/"})

        peer.answer = answer
        url = peer.platform.callback_url
        assert url is not None
        # By name, because aiohttp keeps no cookies of bare addresses in any case.
        peer.platform.callback_url = url.replace("127.0.0.1", "localhost")
        await peer.call("13900000001")
        await peer.call("13900000001")
        await peer.platform.advance(minutes=1)
    assert ["Cookie" in headers for headers, _ in peer.posted] == [False, False]


async def test_patience_is_limited() -> None:
    """`patience` gives up an answer that takes longer, in real time, and does not ask again."""
    async with meeting(assumed=Assumed(patience=timedelta(seconds=0.1))) as peer:

        async def never(_: web.Request) -> web.Response:
            await asyncio.sleep(2)
            return web.Response()

        peer.answer = never
        await peer.call("13900000001")
        await peer.platform.advance(hours=1)
    (attempt,) = peer.platform.notifications
    assert (attempt.http_status, attempt.reply) == (None, None)
    assert attempt.error is not None
    assert "Timeout" in attempt.error
    assert 0.1 <= attempt.elapsed < 1.9


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (None, "no callback_url"),
        ("http://127.0.0.1:1/secret-path", "ClientConnectorError"),
        ("no address at all", "InvalidUrlClientError"),
        ("http://[/", "InvalidUrlClientError"),
    ],
)
async def test_a_bad_address_is_written_down(url: str | None, error: str) -> None:
    """A callback that cannot be reached is an attempt with an error that hides the address."""
    async with meeting() as peer:
        peer.platform.callback_url = url
        assert peer.platform.callback_url == url
        await peer.call("13900000001")
        await peer.platform.advance(minutes=1)
        (attempt,) = peer.platform.notifications
    assert attempt.error == error
    assert json.loads(attempt.body)["reason"] == "CallerBusy"


async def test_notifications_come_in_the_order_of_the_calls_ends() -> None:
    """`advance` delivers one after another, each at its own time."""
    async with meeting(VirtualClock(START)) as peer:
        now: list[datetime] = []

        async def look(_: web.Request) -> web.Response:
            now.append(peer.platform.clock.now())
            return web.Response()

        peer.answer = look
        for digits in ("5678", "0001", "0005", "0003"):
            await peer.call(f"1390000{digits}")
        await peer.platform.advance(minutes=1)
    reasons = [event["reason"] for event in peer.events]
    assert reasons == ["CallerFailure", "CallerBusy", "CalleeBusy", "HangUp"]
    assert now == [START + timedelta(seconds=seconds) for seconds in (1, 2, 5, 19)]
