"""The console's JSON API: each route does to the sandbox what it says."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from console_support import ask, bytes_answered, do
from multidict import CIMultiDict
from test_sandbox_support import CALL, CALLER, authorization, meeting

from qmc_async.models import BEIJING
from qmc_async.sandbox import (
    Action,
    Assumed,
    Exchange,
    Faults,
    RealClock,
    Rule,
    State,
    VirtualClock,
)

START = datetime(2026, 8, 3, 9, 0, 0, tzinfo=BEIJING)
CALLEE = "13900000010"  # endless
BOTH_KINDS = pytest.mark.parametrize("kind", ["json", "form"])


async def test_the_state_of_the_sandbox() -> None:
    """Its time, its clock's speed, how many calls there are, and where notifications go."""
    async with meeting(VirtualClock(START), console=True) as peer:
        peer.platform.callback_url = "http://127.0.0.1:8080/a-secret-path"
        peer.platform.place(CALLER, CALLEE)
        assert await ask(peer, "GET", "") == (
            200,
            {
                "now": START.isoformat(),
                "speed": 0,
                "calls": 1,
                "callback": "http://127.0.0.1:8080/a-secret…",
            },
        )
        peer.platform.callback_url = None
        assert (await ask(peer, "GET", ""))[1]["callback"] is None
    async with meeting(RealClock(speed=20), console=True) as peer:
        assert (await ask(peer, "GET", ""))[1]["speed"] == 20


@BOTH_KINDS
async def test_a_call_is_placed(kind: str) -> None:
    """As the members say; the answer is the call."""
    async with meeting(VirtualClock(START), console=True) as peer:
        status, shown = await do(
            peer,
            kind,
            "POST",
            "/calls",
            caller=CALLER,
            callee="+86 13900000005",
            out_call_id="订单 42",
        )
        (call,) = peer.platform.calls.values()
        assert (call.caller, call.callee, call.out_call_id) == (CALLER, "13900000005", "订单 42")
        assert (status, shown["call_id"]) == (200, call.call_id)
        assert (await ask(peer, "GET", f"/calls/{call.call_id}"))[1] == {**shown, "history": []}
        assert shown["actions"] == [
            "caller answers",
            "caller is busy",
            "caller does not answer",
            "caller cannot be reached",
            "platform fails",
            "endCall",
        ]


@BOTH_KINDS
async def test_a_person_acts(kind: str) -> None:
    """Each action that is possible is done, and answered with what the call then is."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, CALLEE)
        path = f"/calls/{call.call_id}/actions"
        for action, state in (
            (Action.CALLER_ANSWERS, State.CALLEE_RINGING),
            (Action.CALLEE_ANSWERS, State.CONNECTED),
            (Action.CALLER_HANGS_UP, State.ENDED),
        ):
            status, shown = await do(peer, kind, "POST", path, action=action.value)
            assert (status, shown["state"]) == (200, call.state) == (200, state)
        status, shown = await do(peer, kind, "POST", path, action="caller answers")
        assert status == 409
        assert shown == {"error": "caller answers: not possible while the call is ended"}


@BOTH_KINDS
async def test_a_call_is_hung_up(kind: str) -> None:
    """With a reason, or as usual; answered once the notification is; 409 when it cannot end so."""
    async with meeting(console=True) as peer:
        calls = [peer.platform.place(CALLER, CALLEE) for _ in range(2)]
        paths = [f"/calls/{call.call_id}/hang-up" for call in calls]
        status, shown = await do(peer, kind, "POST", paths[0], reason="CalleeBusy")
        assert (status, shown["reason"], len(peer.events)) == (200, "CalleeBusy", 1)
        assert shown["notification"]["http_status"] == 200
        assert shown["notification"]["is_taken"]
        status, shown = await ask(peer, "POST", paths[1])
        assert (status, shown["reason"], len(peer.events)) == (200, "HangUp", 2)
        status, shown = await do(peer, kind, "POST", paths[1], reason="Other")
        assert (status, shown) == (
            409,
            {"error": "Other: not possible while the call is ended"},
        )


async def test_a_notification_is_sent_again() -> None:
    """The answer is the attempt; 409 while the call goes on."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, CALLEE)
        path = f"/calls/{call.call_id}/resend"
        assert (await ask(peer, "POST", path))[0] == 409
        await peer.platform.hang_up(call)
        status, shown = await ask(peer, "POST", path)
        assert (status, shown["what"], shown["by_hand"]) == (200, "notification", True)
        assert shown["request"]["first"].startswith("POST http://127.0.0.1:")
        assert shown["request"]["body"] == peer.posted[0][1].decode()
        assert json.loads(shown["reply"]["body"])["code"] == "200"
        assert len(peer.posted) == 2


async def test_calls_are_found() -> None:
    """The latest first; all words must be there; skip and limit cut a piece out."""
    async with meeting(console=True) as peer:
        ids = [
            peer.platform.place(CALLER, f"139000000{n:02}", out_call_id=f"Order-{n}").call_id
            for n in (1, 5, 10, 11)
        ]
        newest = ids[::-1]

        async def found(query: str) -> list[str]:
            status, calls = await ask(peer, "GET", f"/calls{query}")
            assert status == 200
            return [call["call_id"] for call in calls]

        assert await found("") == await found("?limit=1000&skip=0") == newest
        assert await found("?limit=2") == newest[:2]
        assert await found("?skip=3") == newest[3:]
        assert await found("?skip=9") == []
        assert await found("?search=order-1") == [ids[3], ids[2], ids[0]]
        assert await found("?search=order-1+recording_fails") == [ids[3]]
        assert await found("?search=ORDER-5&limit=1") == [ids[1]]
        assert await found(f"?search={ids[2]}") == [ids[2]]
        assert await found("?search=no+such+thing") == []
        assert await found("?search=%FF%00") == []
        await peer.platform.advance(minutes=1)
        assert await found("?search=CalleeBusy+ended") == [ids[1]]
        assert (await ask(peer, "GET", "/calls/latest"))[1]["call_id"] == newest[0]


@pytest.mark.parametrize(
    "path",
    ["/calls/latest", "/calls/1", "/calls/1/pytest", "/calls/1/recording"],
)
async def test_there_is_no_such_call(path: str) -> None:
    """404, as a sentence."""
    async with meeting(console=True) as peer:
        reply = await peer.request("GET", f"/sandbox{path}")
    assert reply.status == 404
    assert b"there is no such call; it may have been forgotten" in reply.body


async def test_a_history_is_json() -> None:
    """Every kind of entry, with what is secret cut short, and bytes that are no text replaced."""
    rule = Rule(callee="*0009", faults=Faults(drop_notification=True))
    async with meeting(rules=[rule], console=True) as peer:

        async def answer(_: web.Request) -> web.Response:
            headers = [("Set-Cookie", "session=of-ours"), ("X-Told", "1"), ("X-Told", "2")]
            return web.Response(body=b"\xff\x00ok", headers=CIMultiDict(headers))

        peer.answer = answer
        call_id = await peer.call()
        await peer.platform.advance(seconds=30)
        url = (await peer.record(call_id)).json["data"]["fileUrl"]
        await peer.request("GET", url)
        await peer.end(call_id)
        status, shown = await ask(peer, "GET", f"/calls/{call_id}")
        dropped = await peer.call("13900000009")
        await peer.platform.advance(minutes=1)
        _, other = await ask(peer, "GET", f"/calls/{dropped}")
    assert status == 200
    history: list[dict[str, Any]] = shown["history"]
    assert [one["what"] for one in history] == [
        "request",
        *["move"] * 3,
        "notification",
        *["request"] * 3,
    ]
    assert history[1] == {
        "what": "move",
        "at": history[1]["at"],
        "action": "caller answers",
        "actor": "script",
    }
    assert [one["what"] for one in other["history"]][-1] == "withheld"
    assert other["notification_withheld"]
    assert history[4]["reply"]["body"] == "\ufffd\x00ok"
    assert history[4]["reply"]["headers"]["Set-Cookie"] == "session=…"
    assert history[4]["reply"]["headers"]["X-Told"] == "1, 2"
    placing, recording, download, ending = history[0], *history[5:]
    assert placing["request"]["headers"]["Authorization"].endswith("…")
    assert len(placing["request"]["headers"]["Authorization"]) == 9
    assert placing["request"]["first"] == f"POST {CALL}"
    assert ending["error"] == "呼叫已结束"
    assert download["endpoint"] == "recording"
    name = url.rpartition("/")[2]
    assert name not in json.dumps(shown)
    assert f"/recordings/{name[:8]}…" in recording["reply"]["body"]
    assert download["request"]["first"] == f"GET /recordings/{name[:8]}…"


async def test_a_lost_reply_is_json() -> None:
    """There was none."""
    async with meeting(console=True) as peer:
        with pytest.raises(Exception, match="disconnected"):
            await peer.try_call("13900000031")
        _, shown = await ask(peer, "GET", "/calls/latest")
    assert (shown["history"][0]["reply"], shown["history"][0]["http_status"]) == (None, None)


async def test_headers_that_are_no_text_are_shown() -> None:
    """Bytes that are no UTF-8 are replaced, in JSON and on the page."""
    async with meeting(console=True) as peer:
        await bytes_answered(
            peer,
            f"POST {CALL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n".encode()
            + b"X-Caller: \xff!\r\nConnection: close\r\n\r\n",
        )
        status, refused = await ask(peer, "GET", "/requests")
        reply = await peer.request("GET", "/requests")
    assert (status, refused[0]["request"]["headers"]["X-Caller"]) == (200, "\ufffd!")
    assert reply.status == 200
    assert "X-Caller: \ufffd!" in reply.body.decode()


async def test_refused_requests_are_listed() -> None:
    """The latest first."""
    async with meeting(console=True) as peer:
        await peer.try_call("1")
        await peer.record("1")
        status, refused = await ask(peer, "GET", "/requests")
    assert status == 200
    assert [one["endpoint"] for one in refused] == ["record", "call"]
    assert refused[1]["error"] == "callee号码格式不正确"


async def test_a_recording_is_played_while_it_is_there() -> None:
    """Not yet, then for three days, with Range; it is no download of the application's."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, "13912345678")
        path = f"/sandbox/calls/{call.call_id}/recording"
        statuses = [(await peer.request("GET", path)).status]
        await peer.platform.advance(seconds=19 + 9)
        statuses.append((await peer.request("GET", path)).status)
        await peer.platform.advance(seconds=1)
        before = list(call.history)
        whole = await peer.request("GET", "/sandbox/calls/latest/recording")
        part = await peer.request("GET", path, {"Range": "bytes=1000-1999"})
        head = await peer.request("HEAD", path)
        statuses += [whole.status, part.status, head.status]
        assert (whole.headers["Content-Type"], part.body) == ("audio/wav", whole.body[1000:2000])
        await peer.platform.advance(days=3)
        statuses.append((await peer.request("GET", path)).status)
        assert call.history == before
    assert statuses == [404, 404, 200, 206, 200, 404]


@pytest.mark.parametrize("callee", ["13900000005", "13900000011"])
async def test_what_was_not_recorded_is_not_played(callee: str) -> None:
    """A call without talk, or whose recording failed, has no sound at any time."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, callee)
        await peer.platform.advance(minutes=1)
        reply = await peer.request("GET", f"/sandbox/calls/{call.call_id}/recording")
        _, shown = await ask(peer, "GET", f"/calls/{call.call_id}")
    assert reply.status == 404
    assert (shown["can_play"], shown["recording_ready_at"]) == (False, None)


async def test_calls_are_forgotten() -> None:
    """As `Sandbox.forget` does; the answer says how many stay."""
    async with meeting(console=True) as peer:
        live = peer.platform.place(CALLER, CALLEE)
        await peer.platform.hang_up(peer.platform.place(CALLER, CALLEE))
        assert await ask(peer, "DELETE", "/calls") == (200, {"calls": 1})
        assert list(peer.platform.calls) == [live.call_id]


@BOTH_KINDS
async def test_time_is_advanced(kind: str) -> None:
    """On a virtual clock; on a real one it is not possible."""
    async with meeting(VirtualClock(START), console=True) as peer:
        peer.platform.place(CALLER, "13900000001")
        later = (START + timedelta(seconds=2.5)).isoformat()
        assert await do(peer, kind, "POST", "/advance", seconds=2.5) == (200, {"now": later})
        assert len(peer.events) == 1
    async with meeting(RealClock(), console=True) as peer:
        status, shown = await do(peer, kind, "POST", "/advance", seconds=1)
        assert status == 409
        assert "VirtualClock" in shown["error"]


async def test_the_calendar_ends() -> None:
    """A time that no date can say is refused, and nothing has moved."""
    late = datetime(9990, 1, 1, tzinfo=BEIJING)
    async with meeting(VirtualClock(late), console=True) as peer:
        status, shown = await ask(peer, "POST", "/advance", {"seconds": 10**9})
        assert (status, shown) == (400, {"error": "seconds: no calendar reaches so far"})
        assert peer.platform.clock.now() == late


async def test_whoever_waits_hears_of_the_stop() -> None:
    """What the stop gives up is answered as not possible, not as a failure."""
    async with meeting(assumed=Assumed(), console=True) as peer:
        call = peer.platform.place(CALLER, CALLEE)
        await peer.platform.hang_up(call)
        arrived, release = asyncio.Event(), asyncio.Event()

        async def never(_: web.Request) -> web.Response:
            arrived.set()
            await release.wait()
            return web.Response()

        peer.answer = never
        asking = asyncio.create_task(ask(peer, "POST", f"/calls/{call.call_id}/resend"))
        await arrived.wait()
        await peer.platform.stop()
        status, shown = await asking
        release.set()
    assert status == 409
    assert "was stopped" in shown["error"]


async def test_what_is_asked_for_by_hand_is_no_request() -> None:
    """Neither `received` nor a history has anything of what the console did."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, CALLEE)
        await ask(peer, "POST", f"/calls/{call.call_id}/hang-up")
        assert not peer.platform.received
        assert not [entry for entry in call.history if isinstance(entry, Exchange)]
        assert authorization() not in str(await ask(peer, "GET", "/requests"))
