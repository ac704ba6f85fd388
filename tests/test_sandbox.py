"""The sandbox's API on real sockets: call, endCall, and what is refused."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from test_sandbox_support import CALL, CALLER, END_CALL, RECORD, authorization, meeting

from qmc_async.models import BEIJING, Reason
from qmc_async.sandbox import Action, Assumed, Rule, Scenario, State, VirtualClock

START = datetime(2026, 8, 3, 9, 0, 0, tzinfo=BEIJING)
UNKNOWN = "128754716574532539"

STATES = {
    State.CALLER_RINGING: (0, "Other"),
    State.CALLEE_RINGING: (5, "Other"),
    State.CONNECTED: (10, "HangUp"),
}


async def test_a_reply_is_the_documents_example() -> None:
    """The reply to call has the example's members, types and headers (3.1)."""
    async with meeting() as peer:
        reply = await peer.try_call()
        call_id = reply.json["data"]["callidentifier"]
    assert reply.status == 200
    assert reply.json == {
        "code": 200,
        "success": True,
        "data": {"callidentifier": call_id},
        "msg": "操作成功",
    }
    assert list(reply.json) == ["code", "success", "data", "msg"]
    assert isinstance(call_id, str)
    assert len(call_id) <= 64
    assert reply.headers["Content-Type"] == "application/json;charset=utf-8"
    assert reply.headers["Connection"] == "close"


@pytest.mark.parametrize("version", ["v1", "api/v1"])
async def test_both_path_variants_are_served(version: str) -> None:
    """Every operation answers on both of the paths that the document writes."""
    async with meeting() as peer:
        call_id = await peer.call("13900000010")
        await peer.platform.advance(seconds=10)
        call = await peer.post(
            f"/api/qmc-call/openapi/{version}/call", {"caller": CALLER, "callee": "13912345678"}
        )
        end = await peer.post(
            f"/api/qmc-call/openapi/{version}/endCall", {"callidentifier": call_id}
        )
        await peer.platform.advance(minutes=1)
        record = await peer.post(
            f"/api/qmc-cdr/openapi/{version}/record", {"callidentifier": call_id}
        )
        paths = [(one.endpoint, one.path) for one in peer.platform.received[1:]]
    assert [call.code, end.code, record.code] == [200, 200, 200]
    assert paths == [
        ("call", f"/api/qmc-call/openapi/{version}/call"),
        ("endCall", f"/api/qmc-call/openapi/{version}/endCall"),
        ("record", f"/api/qmc-cdr/openapi/{version}/record"),
    ]


async def test_a_call_goes_through_its_states() -> None:
    """By default the caller answers after 3 s, the callee after 7 s, and it ends at 19 s."""
    seen: list[State] = []
    async with meeting(VirtualClock(START)) as peer:
        call = peer.platform.calls[await peer.call(outCallId="order-42")]
        for seconds in (0, 2.999, 0.001, 4, 11.999, 0.001):
            await peer.platform.advance(seconds=seconds)
            seen.append(call.state)
    assert seen == [
        State.CALLER_RINGING,
        State.CALLER_RINGING,
        State.CALLEE_RINGING,
        State.CONNECTED,
        State.CONNECTED,
        State.ENDED,
    ]
    assert (call.caller, call.callee, call.out_call_id) == (CALLER, "13912345678", "order-42")
    assert call.placed_at == START
    assert call.start_time == START + timedelta(seconds=3)
    assert call.answer_time == START + timedelta(seconds=7)
    assert call.end_time == START + timedelta(seconds=19)
    assert call.reason is Reason.HANG_UP
    assert call.duration == timedelta(seconds=12)


@pytest.mark.parametrize(("state", "after"), [(s, after) for s, (after, _) in STATES.items()])
async def test_end_call_ends_a_call_in_every_state(state: State, after: float) -> None:
    """EndCall succeeds in each live state, at once, and the notification says why (3.2, 3.4)."""
    async with meeting() as peer:
        call_id = await peer.call("13900000010")
        await peer.platform.advance(seconds=after)
        assert peer.platform.calls[call_id].state is state
        reply = await peer.end(call_id)
        assert peer.platform.calls[call_id].state is State.ENDED
        await peer.platform.settled()
    assert reply.json == {"code": 200, "success": True, "msg": "操作成功"}
    assert [event["reason"] for event in peer.events] == [STATES[state][1]]


@pytest.mark.parametrize("state", [State.CALLER_RINGING, State.CALLEE_RINGING])
async def test_the_reason_of_a_deleted_call_is_assumed(state: State) -> None:
    """`reason_of_deletion` says what endCall before the connection is reported as."""
    async with meeting(assumed=Assumed(reason_of_deletion=Reason.CALLER_ABANDON)) as peer:
        call_id = await peer.call()
        await peer.platform.advance(seconds=STATES[state][0])
        await peer.end(call_id)
        await peer.platform.settled()
    assert peer.events[0]["reason"] == "CallerAbandon"


@pytest.mark.parametrize(
    ("assumed", "code"),
    [(Assumed(), 40901), (Assumed(code_call_ended=200), 200), (Assumed(code_call_ended=7), 7)],
)
async def test_ending_an_ended_call_is_assumed(assumed: Assumed, code: int) -> None:
    """`code_call_ended` answers endCall of an ended call; nothing is reported a second time."""
    async with meeting(assumed=assumed) as peer:
        call_id = await peer.call()
        await peer.platform.advance(minutes=1)
        reply = await peer.end(call_id)
        await peer.platform.advance(minutes=1)
    assert reply.code == code
    assert len(peer.events) == 1


async def test_endless_calls_talk_until_they_are_ended() -> None:
    """The digits 0010 connect, and nothing but endCall ends it."""
    async with meeting() as peer:
        call_id = await peer.call("13900000010")
        await peer.platform.advance(hours=5)
        assert peer.platform.calls[call_id].state is State.CONNECTED
        await peer.end(call_id)
        await peer.platform.settled()
    assert peer.events[0]["callDuration"] == str(5 * 3600 - 7)


async def test_rules_can_be_changed_at_any_time() -> None:
    """A rule added to a running sandbox decides the next call, by its outCallId too."""
    async with meeting() as peer:
        peer.platform.rules.append(
            Rule(out_call_id="order-43", scenario=Scenario.for_reason(Reason.CALLEE_BUSY))
        )
        await peer.call(outCallId="order-42")
        await peer.call(outCallId="order-43")
        await peer.platform.advance(minutes=1)
    reasons = {event["outCallId"]: event["reason"] for event in peer.events}
    assert reasons == {"order-42": "HangUp", "order-43": "CalleeBusy"}


async def test_a_person_can_act() -> None:
    """`act` does at once what a person does, and what the rules forbid raises."""
    async with meeting() as peer:
        call_id = await peer.call()
        peer.platform.act(call_id, Action.CALLER_BUSY)
        await peer.platform.settled()
        with pytest.raises(RuntimeError, match="caller answers: not possible"):
            peer.platform.act(call_id, Action.CALLER_ANSWERS)
        with pytest.raises(KeyError):
            peer.platform.act(UNKNOWN, Action.CALLER_ANSWERS)
    assert peer.events[0]["reason"] == "CallerBusy"


@pytest.mark.parametrize(
    ("auth", "why"),
    [
        ({"secret": "another-secret"}, "its sign does not fit"),
        ({"seconds_off": -540}, "too far from the clock"),
        ({"seconds_off": 540}, "too far from the clock"),
        ({"app_id": "1"}, "its APPID is not ours"),
    ],
)
@pytest.mark.parametrize("path", [CALL, END_CALL, RECORD])
async def test_a_wrong_authorization_is_refused(path: str, auth: dict[str, Any], why: str) -> None:
    """Another secret, nine minutes off, or another APPID: refused, and nobody is rung (2)."""
    async with meeting() as peer:
        body = {"caller": CALLER, "callee": "13912345678", "callidentifier": UNKNOWN}
        reply = await peer.post(path, body, **auth)
        assert not peer.platform.calls
        assert len(peer.platform.received) == 1
    assert (reply.status, reply.code, reply.json["success"]) == (200, 401, False)
    assert why in reply.json["msg"]
    assert reply.json["msg"].endswith("(assumed)")


@pytest.mark.parametrize("off", [-240, 240])
async def test_four_minutes_off_is_accepted(off: float) -> None:
    """A timestamp within five minutes is good (2)."""
    async with meeting() as peer:
        reply = await peer.post(CALL, {"caller": CALLER, "callee": "13912345678"}, seconds_off=off)
    assert reply.code == 200


async def test_a_missing_authorization_is_refused_with_the_assumed_codes() -> None:
    """`code_unauthorized` and `http_status_of_refusals` reach the wire."""
    assumed = Assumed(code_unauthorized=10001, http_status_of_refusals=403)
    async with meeting(assumed=assumed) as peer:
        headers = {"Content-Type": "application/json"}
        reply = await peer.request("POST", CALL, headers, b"{}")
    assert (reply.status, reply.code) == (403, 10001)


@pytest.mark.parametrize("skew", [timedelta(minutes=-9), timedelta(minutes=9)])
async def test_the_platforms_clock_may_be_wrong(skew: timedelta) -> None:
    """`clock_skew` moves both the check of Authorization and the Date header."""
    async with meeting(assumed=Assumed(clock_skew=skew)) as peer:
        refused = await peer.try_call()
        accepted = await peer.post(
            CALL,
            {"caller": CALLER, "callee": "13912345678"},
            seconds_off=skew.total_seconds(),
        )
    date = parsedate_to_datetime(refused.headers["Date"])
    assert abs(date - datetime.now(BEIJING) - skew) < timedelta(seconds=5)
    assert (refused.code, accepted.code) == (401, 200)


async def test_replies_may_lack_a_date() -> None:
    """`date_header` takes Date away, and leaves the rest."""
    async with meeting(assumed=Assumed(date_header=False)) as peer:
        reply = await peer.try_call()
    assert "Date" not in reply.headers
    assert reply.code == 200


async def test_connections_may_be_kept() -> None:
    """`keep_alive` leaves out the examples' `Connection: close`."""
    async with meeting(assumed=Assumed(keep_alive=True)) as peer:
        reply = await peer.try_call()
    assert "Connection" not in reply.headers


@pytest.mark.parametrize("name", ["caller", "callee"])
@pytest.mark.parametrize("number", ["", "123", "12012345678", "139123456789", "abc", None, 139])
async def test_bad_numbers_are_refused(name: str, number: object) -> None:
    """A number that cannot be dialled is refused with the assumed code, and is not repeated."""
    async with meeting() as peer:
        body = {"caller": CALLER, "callee": "13912345678", name: number}
        reply = await peer.post(CALL, body)
        assert not peer.platform.calls
    assert (reply.status, reply.code) == (200, 40001)
    assert name in reply.json["msg"]
    assert not number or str(number) not in reply.json["msg"]


@pytest.mark.parametrize("name", ["caller", "callee"])
async def test_a_missing_number_is_a_bad_request(name: str) -> None:
    """Both numbers are required (3.1)."""
    body = {"caller": CALLER, "callee": "13912345678"}
    del body[name]
    async with meeting() as peer:
        reply = await peer.post(CALL, body)
    assert reply.code == 400
    assert name in reply.json["msg"]


@pytest.mark.parametrize(
    ("assumed", "number", "code"),
    [
        (Assumed(), "075512343388", 200),
        (Assumed(landlines=False), "075512343388", 40001),
        (Assumed(landlines=False), "13912345678", 200),
        (Assumed(), "+8613912345678", 200),
        (Assumed(country_code=False), "+8613912345678", 40001),
        (Assumed(country_code=False), "008613912345678", 40001),
        (Assumed(country_code=False), "13912345678", 200),
        (Assumed(), "0009", 40001),
        (Assumed(numbers="lenient"), "0009", 200),
        (Assumed(numbers="off"), "anything", 200),
        (Assumed(code_bad_number=9), "0009", 9),
    ],
)
async def test_which_numbers_are_taken_is_assumed(assumed: Assumed, number: str, code: int) -> None:
    """`numbers`, `landlines`, `country_code` and `code_bad_number` decide about a number."""
    async with meeting(assumed=assumed) as peer:
        reply = await peer.try_call(number)
    assert reply.code == code


async def test_numbers_are_dialled_as_within_china() -> None:
    """A number with +86 is the same callee as one without."""
    async with meeting() as peer:
        call_id = await peer.call("+86 139-0000-0005")
        assert peer.platform.calls[call_id].callee == "13900000005"
        await peer.platform.advance(minutes=1)
    assert peer.events[0]["reason"] == "CalleeBusy"


@pytest.mark.parametrize(
    ("out_call_id", "code"),
    [("x" * 64, 200), ("号" * 64, 200), ("x" * 65, 40002), (42, 40002), ("", 200), (None, 200)],
)
async def test_out_call_ids_have_64_characters_at_most(out_call_id: object, code: int) -> None:
    """64 characters, of any script, come back in the notification; 65 are refused (3.1)."""
    async with meeting() as peer:
        reply = await peer.try_call(outCallId=out_call_id)
        await peer.platform.advance(minutes=1)
    assert reply.code == code
    if code == 200:
        assert peer.events[0].get("outCallId") == (out_call_id or None)
    else:
        assert not peer.events


@pytest.mark.parametrize("path", [END_CALL, RECORD])
async def test_an_unknown_call_is_refused(path: str) -> None:
    """A callidentifier that was never given out has its assumed code."""
    async with meeting() as peer:
        reply = await peer.post(path, {"callidentifier": UNKNOWN})
    assert (reply.status, reply.code, reply.json["data"]) == (200, 404, None)


@pytest.mark.parametrize("body", [{}, {"callidentifier": 128754716574532539}])
@pytest.mark.parametrize("path", [END_CALL, RECORD])
async def test_a_missing_call_id_is_a_bad_request(path: str, body: dict[str, Any]) -> None:
    """Callidentifier is required, and is a String (3.3, 3.4)."""
    async with meeting() as peer:
        reply = await peer.post(path, body)
    assert reply.code == 400


@pytest.mark.parametrize("data", [b"", b"caller=1", b"[]", b'"text"', b'{"caller":', b"\xff{}"])
async def test_what_is_no_json_object_is_a_bad_request(data: bytes) -> None:
    """The body must be a JSON object, whatever else is right (1)."""
    async with meeting() as peer:
        headers = {"Content-Type": "application/json", "Authorization": authorization()}
        reply = await peer.request("POST", CALL, headers, data)
        assert peer.platform.received[0].body is None
    assert (reply.status, reply.code) == (200, 400)


@pytest.mark.parametrize(("checked", "code"), [(True, 400), (False, 200)])
async def test_the_content_type_is_required(checked: bool, code: int) -> None:  # noqa: FBT001 - a parameter of the test
    """Content-Type is required (3.1); that another one is refused is assumed."""
    async with meeting(assumed=Assumed(content_type_checked=checked)) as peer:
        headers = {"Content-Type": "text/plain", "Authorization": authorization()}
        data = b'{"caller": "13987654321", "callee": "13912345678"}'
        reply = await peer.request("POST", CALL, headers, data)
    assert reply.code == code


@pytest.mark.parametrize("path", [CALL, END_CALL, RECORD])
async def test_everything_is_a_post(path: str) -> None:
    """All operations are POST (1); a GET is 405 and does not count as received."""
    async with meeting() as peer:
        reply = await peer.request("GET", path, {"Authorization": authorization()})
        assert not peer.platform.received
    assert reply.status == 405


@pytest.mark.parametrize(
    ("knob", "code", "path", "body"),
    [
        ("code_bad_request", 11, CALL, {}),
        ("code_bad_number", 12, CALL, {"caller": "1", "callee": "1"}),
        ("code_bad_out_call_id", 13, CALL, {"outCallId": "x" * 65}),
        ("code_unknown_call", 14, END_CALL, {"callidentifier": UNKNOWN}),
        ("code_unknown_call", 15, RECORD, {"callidentifier": UNKNOWN}),
    ],
)
async def test_error_codes_are_assumed(
    knob: str, code: int, path: str, body: dict[str, Any]
) -> None:
    """Each code is a setting, and so is the HTTP status that it comes under."""
    codes: dict[str, Any] = {knob: code}
    async with meeting(assumed=Assumed(http_status_of_errors=422, **codes)) as peer:
        reply = await peer.post(path, body)
    assert (reply.status, reply.code) == (422, code)


async def test_nothing_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """No repr and no log holds a secret, an Authorization, a whole number or a recording's URL."""
    caplog.set_level(logging.DEBUG)
    async with meeting() as peer:
        call_id = await peer.call()
        await peer.platform.advance(minutes=1)
        url = (await peer.record(call_id)).json["data"]["fileUrl"]
        await peer.request("GET", url)
        platform = peer.platform
        shown = repr([platform, platform.calls, platform.received, platform.notifications])
        port = int(platform.base_url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nAuthorization: 13912345678\x00\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 400")
        writer.close()
        await writer.wait_closed()
    assert "139****5678" in shown
    assert "Error handling request" in caplog.text
    for secret in ("sandbox-secret", CALLER, "13912345678", url.rpartition("/")[2]):
        assert secret not in shown
        assert secret not in caplog.text


async def test_a_reason_of_a_hang_up_may_be_a_text() -> None:
    """One that the document does not have is named, and is not taken for a missing call."""
    async with meeting() as peer:
        call_id = await peer.call()
        with pytest.raises(ValueError, match="reason: it must be one of HangUp, "):
            await peer.platform.hang_up(call_id, reason="hangup")
        await peer.platform.hang_up(call_id, reason="CalleeBusy")
    assert peer.events[0]["reason"] == "CalleeBusy"
