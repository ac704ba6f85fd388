"""What the sandbox writes down about each call, in order and with simulated times."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from test_sandbox_support import CALL, CALLER, END_CALL, meeting

from qmc_async.models import BEIJING
from qmc_async.sandbox import (
    Action,
    Actor,
    Assumed,
    Attempt,
    Entry,
    Exchange,
    Faults,
    Move,
    RealClock,
    Rule,
    Scenario,
    SimulatedCall,
    VirtualClock,
    Withheld,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

START = datetime(2026, 8, 3, 9, 0, 0, tzinfo=BEIJING)


def told(
    call: SimulatedCall, kinds: tuple[type, ...] = (Move, Exchange, Attempt, Withheld)
) -> list[Any]:
    """A history in short: seconds after the placing, and what is said of it."""
    return [
        ((entry.at - call.placed_at).total_seconds(), *_short(entry))
        for entry in call.history
        if isinstance(entry, kinds)
    ]


def _short(entry: Entry) -> tuple[Any, ...]:
    match entry:
        case Move():
            return entry.action, entry.actor
        case Exchange():
            return entry.received.endpoint, entry.http_status
        case Attempt():
            return "notification", entry.http_status
        case Withheld():
            return ("withheld",)


def attempts(call: SimulatedCall) -> list[Attempt]:
    """The notifications in a history."""
    return [entry for entry in call.history if isinstance(entry, Attempt)]


def exchanges(entries: Iterable[Entry]) -> list[Exchange]:
    """The requests in a history."""
    return [entry for entry in entries if isinstance(entry, Exchange)]


async def test_a_script_is_written_down() -> None:
    """Request, moves, notification, request for the recording and download, each at its time."""
    async with meeting(VirtualClock(START)) as peer:
        call = peer.platform.calls[await peer.call()]
        await peer.platform.advance(seconds=30)
        url = (await peer.record(call.call_id)).json["data"]["fileUrl"]
        await peer.request("GET", url)
    assert told(call) == [
        (0, "call", 200),
        (3, Action.CALLER_ANSWERS, Actor.SCRIPT),
        (7, Action.CALLEE_ANSWERS, Actor.SCRIPT),
        (19, Action.CALLEE_HANGS_UP, Actor.SCRIPT),
        (19, "notification", 200),
        (30, "record", 200),
        (30, "recording", 200),
    ]
    (attempt,) = attempts(call)
    assert peer.platform.notifications == [attempt]
    assert attempt.headers == (("Content-Type", "application/json;charset=utf-8"),)
    assert dict(attempt.reply_headers)["Content-Type"] == "application/json; charset=utf-8"
    assert not attempt.by_hand


async def test_people_and_the_application_are_told_apart() -> None:
    """A move says whether the script, a person or the application made it."""
    async with meeting(VirtualClock(START)) as peer:
        call = peer.platform.calls[await peer.call("13900000010")]
        await peer.platform.advance(seconds=1)
        peer.platform.act(call.call_id, Action.CALLER_ANSWERS)
        await peer.platform.advance(seconds=9)
        await peer.end(call.call_id)
        await peer.platform.settled()
    assert told(call, (Move,)) == [
        (1, Action.CALLER_ANSWERS, Actor.PERSON),
        (7, Action.CALLEE_ANSWERS, Actor.SCRIPT),
        (10, Action.END_CALL, Actor.APPLICATION),
    ]


async def test_what_is_refused_stays_with_its_call() -> None:
    """EndCall of an ended call, a recording too soon, and a bad signature, with what was said."""
    async with meeting() as peer:
        call = peer.platform.calls[await peer.call()]
        await peer.record(call.call_id)
        await peer.platform.advance(seconds=20)
        await peer.end(f" {call.call_id} ")
        await peer.post(END_CALL, {"callidentifier": call.call_id}, app_id="1")
        assert not peer.platform.refused
    written = exchanges(call.history)[1:]
    assert [one.call_id for one in written] == [call.call_id] * 3
    assert [one.error for one in written] == [
        "通话未结束",
        "呼叫已结束",
        "鉴权失败: its APPID is not ours",
    ]
    assert all(one.error in one.reply.decode() for one in written if one.error)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CALL, {"caller": "1", "callee": "1"}),
        (END_CALL, {"callidentifier": "1"}),
        (END_CALL, {"callidentifier": 1}),
        (END_CALL, {}),
    ],
)
async def test_what_is_about_no_call_is_refused_elsewhere(path: str, body: dict[str, Any]) -> None:
    """`refused` keeps the requests that name no call of the sandbox, with status and reply."""
    async with meeting(assumed=Assumed(http_status_of_errors=422)) as peer:
        reply = await peer.post(path, body)
        (refused,) = peer.platform.refused
        assert refused.received is peer.platform.received[0]
    assert (refused.call_id, refused.http_status, refused.reply) == (None, 422, reply.body)
    assert refused.error is not None
    assert refused.error in reply.json["msg"]
    assert refused.elapsed >= 0


async def test_a_refused_call_is_not_another_calls_matter() -> None:
    """A request to place a call is about no older call, whatever it holds."""
    async with meeting() as peer:
        rule = Rule(faults=Faults(lose_reply=True))
        peer.platform.rules.append(rule)
        older = peer.platform.place(CALLER, "13912345678")
        await peer.post(CALL, {"caller": "1", "callidentifier": older.call_id})
        (refused,) = peer.platform.refused
    assert older.history == []
    assert refused.http_status == 200


async def test_a_lost_reply_is_written_down() -> None:
    """It has no status, and what would have been said."""
    async with meeting() as peer:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await peer.try_call("13900000031")
        (call,) = peer.platform.calls.values()
        (lost,) = exchanges(call.history)
    assert (lost.http_status, lost.error) == (None, None)
    assert call.call_id in lost.reply.decode()


async def test_downloads_are_written_down() -> None:
    """Range, HEAD and a download after the expiry, each with its status; others' are not."""
    async with meeting() as peer:
        call = peer.platform.calls[await peer.call()]
        await peer.platform.advance(seconds=30)
        url = (await peer.record(call.call_id)).json["data"]["fileUrl"]
        await peer.request("GET", url, {"Range": "bytes=10-20"})
        await peer.request("GET", url, {"Range": "bytes=99999999-"})
        await peer.request("HEAD", url)
        await peer.platform.advance(days=3)
        await peer.request("GET", url)
        await peer.request("GET", url[:-9])
    downloads = [one for one in exchanges(call.history) if one.received.endpoint == "recording"]
    assert [one.http_status for one in downloads] == [206, 416, 200, 404]
    assert {one.received.path for one in downloads} == {url.removeprefix(peer.platform.base_url)}
    assert ("Range", "bytes=10-20") in downloads[0].received.headers
    assert {one.reply for one in downloads} == {b""}
    assert downloads[-1].at == call.placed_at + timedelta(days=3, seconds=30)
    assert not peer.platform.refused


@pytest.mark.parametrize(
    ("digits", "shown"),
    [
        ("0021", [(19, "withheld")]),
        ("0022", [(79, "notification", 200)]),
        ("0023", [(19, "notification", 200)] * 2),
        ("0024", [(19, "notification", 200)]),
        ("0025", [(0, "notification", 200)]),
    ],
)
async def test_faulty_notifications_are_written_down(digits: str, shown: list[Any]) -> None:
    """Each notification stands there as it was sent, when it was; or that it was withheld."""
    async with meeting() as peer:
        call = peer.platform.calls[await peer.call(f"1390000{digits}")]
        await peer.platform.advance(minutes=2)
    assert told(call, (Attempt, Withheld)) == shown
    assert [one.body for one in attempts(call)] == [body for _, body in peer.posted]


async def test_an_early_notification_comes_before_the_exchange() -> None:
    """The reply to call was the last that happened."""
    async with meeting() as peer:
        call = peer.platform.calls[await peer.call("13900000025")]
    assert [type(entry) for entry in call.history] == [Move, Move, Move, Attempt, Exchange]


async def test_failed_notifications_are_written_down() -> None:
    """No address, nobody there, no answer in time: each with its reason."""
    async with meeting(assumed=Assumed(patience=timedelta(seconds=0.05))) as peer:
        release = asyncio.Event()

        async def never(_: web.Request) -> web.Response:
            await release.wait()
            return web.Response()

        peer.answer = never
        errors: list[str | None] = []
        for url in (None, "http://127.0.0.1:1/x", peer.platform.callback_url):
            peer.platform.callback_url = url
            call = peer.platform.place(CALLER, "13900000001")
            await peer.platform.hang_up(call)
            (attempt,) = attempts(call)
            assert (attempt.url, attempt.http_status, attempt.reply) == (url, None, None)
            errors.append(attempt.error)
        release.set()
    assert errors[:2] == ["no callback_url", "ClientConnectorError"]
    assert "Timeout" in str(errors[2])


async def test_what_one_request_does_has_its_time() -> None:
    """On a real clock too, nothing stands before the placing, and an end is when it was asked."""
    async with meeting(RealClock(speed=1000), rules=[Rule(scenario=Scenario.endless())]) as peer:
        call = peer.platform.calls[await peer.call()]
        await peer.end(call.call_id)
        await peer.platform.settled()
    placing, ending = exchanges(call.history)
    assert placing.at == call.placed_at
    assert ending.at == call.end_time


async def test_nothing_secret_stands_in_a_repr() -> None:
    """Numbers, bodies, Authorization, the callback's and the recording's path are not shown."""
    async with meeting(assumed=Assumed(notification_authorization=True)) as peer:
        platform = peer.platform
        assert platform.callback_url is not None
        call = platform.calls[await peer.call(outCallId="order-42")]
        await platform.advance(minutes=1)
        await platform.resend(call)
        url = (await peer.record(call.call_id)).json["data"]["fileUrl"]
        await peer.request("GET", url)
        await peer.post(CALL, {"caller": CALLER, "callee": "13912345678", "outCallId": 7})
        shown = repr([platform, platform.calls, call.history, platform.refused, platform.received])
        shown += repr([platform.notifications, platform.rules, platform.fault_rates])
        authorizations = [
            value
            for one in platform.received
            for name, value in one.headers
            if name == "Authorization"
        ]
        (headers, *_) = (headers for headers, _ in peer.posted)
    planted = [CALLER, "13912345678", url.rpartition("/")[2], "/callback", "sandbox-secret"]
    assert len(authorizations) == 3
    for secret in (*planted, *authorizations, headers["Authorization"]):
        assert secret not in shown
    assert call.call_id in shown
