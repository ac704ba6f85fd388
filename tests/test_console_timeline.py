"""A call's timeline: what happened, how well, and what is still to come."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from test_sandbox_support import CALLER, meeting

from qmc_async.models import BEIJING
from qmc_async.sandbox import Attempt, VirtualClock
from qmc_async.sandbox.console.timeline import Line, timeline_of

if TYPE_CHECKING:
    from test_sandbox_support import Peer

    from qmc_async.sandbox import SimulatedCall

START = datetime(2026, 8, 3, 9, 0, 0, tzinfo=BEIJING)


def lines_of(peer: Peer, call: SimulatedCall) -> list[Line]:
    """The timeline at this moment."""
    platform = peer.platform
    return timeline_of(call, platform.clock.now(), platform.assumed.recording_delay)


async def test_a_call_is_told() -> None:
    """From the placing to the deletion of the recording, which is still to come."""
    async with meeting(VirtualClock(START)) as peer:
        call = peer.platform.calls[await peer.call()]
        await peer.record(call.call_id)
        await peer.platform.advance(seconds=25)
        before = lines_of(peer, call)
        await peer.platform.advance(seconds=5)
        url = (await peer.record(call.call_id)).json["data"]["fileUrl"]
        await peer.request("GET", url)
        after = lines_of(peer, call)
        await peer.platform.advance(days=3)
        await peer.request("GET", url)
        at_last = lines_of(peer, call)
    assert [(line.offset, line.tone, line.text) for line in before] == [
        (0, "plain", "placed: the caller's telephone rings"),
        (0, "bad", "record: the recording's address is asked for"),
        (3, "plain", "caller answers"),
        (7, "plain", "callee answers"),
        (19, "plain", "callee hangs up"),
        (19, "good", "notification"),
        (29, "coming", "the recording is ready"),
        (19 + 3 * 86400, "coming", "the recording is deleted"),
    ]
    assert before[1].note == "通话未结束"
    assert [(line.offset, line.tone, line.text) for line in after[6:]] == [
        (29, "good", "the recording is ready"),
        (30, "good", "record: the recording's address is asked for"),
        (30, "good", "the recording is fetched"),
        (19 + 3 * 86400, "coming", "the recording is deleted"),
    ]
    assert [(line.tone, line.text, line.note) for line in at_last[-2:]] == [
        ("bad", "the recording is deleted", ""),
        ("bad", "the recording is fetched", "404"),
    ]


async def test_who_acted_and_what_went_wrong_is_told() -> None:
    """A person, the application, a lost reply and a notification that is not sent."""
    async with meeting() as peer:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await peer.try_call("13900000031")
        (call,) = peer.platform.calls.values()
        assert [line.text for line in lines_of(peer, call)] == [
            "placed: the caller's telephone rings",
            "the reply to call is lost: a fault",
        ]
        peer.platform.drop_next_notification()
        await peer.platform.hang_up(call)
        told = [(line.text, line.tone, line.note) for line in lines_of(peer, call)]
        assert ("callee hangs up", "plain", "by hand") in told
        assert ("the notification is not sent: a fault", "bad", "") in told
        ended = peer.platform.place(CALLER, "13900000010")
        await peer.end(ended.call_id)
        await peer.platform.resend(ended)
        texts = [line.text for line in lines_of(peer, ended)]
    assert texts[1:3] == ["endCall", "endCall"]
    assert texts[-1] == "notification, by hand"


@pytest.mark.parametrize(
    ("answer", "tone"),
    [
        ({"http_status": 200, "reply": b'{"code": "200"}'}, "good"),
        ({"http_status": 200, "reply": b'{"code": "200"}', "elapsed": 0.8}, "bad"),
        ({"http_status": 200, "reply": b'{"code": "500"}'}, "bad"),
        ({"http_status": 200, "reply": b'{"code": ["200"]}'}, "bad"),
        ({"http_status": 200, "reply": b'{"msg": "200"}'}, "bad"),
        ({"http_status": 200, "reply": b'["200"]'}, "bad"),
        ({"http_status": 200, "reply": b"200"}, "bad"),
        ({"http_status": 200, "reply": b"\xff"}, "bad"),
        ({"http_status": 200, "reply": b""}, "bad"),
        ({"http_status": 200}, "bad"),
        ({"http_status": 500, "reply": b'{"code": "200"}'}, "bad"),
        ({"error": "TimeoutError", "elapsed": 5.0}, "bad"),
    ],
)
async def test_a_notification_is_good_or_bad(answer: dict[str, Any], tone: str) -> None:
    """Good is the documented answer, as soon as comparable platforms want it."""
    async with meeting(VirtualClock(START)) as peer:
        call = peer.platform.place(CALLER, "13900000001")
        call.history.append(Attempt(call_id=call.call_id, at=START, body=b"", **answer))
        line = lines_of(peer, call)[-1]
    assert (line.text, line.tone) == ("notification", tone)
    what = answer.get("http_status") or answer["error"]
    assert line.note == f"{what}, {answer.get('elapsed', 0) * 1000:.0f} ms"
    assert line.at - call.placed_at == timedelta(0)
