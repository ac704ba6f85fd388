"""The console's pages: well-formed, whole without a script, and safe from what they show."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from aiohttp import web
from console_document import Document
from console_support import ask, page
from test_sandbox_support import CALLER, Peer, meeting

from qmc_async.models import Reason
from qmc_async.sandbox import (
    Action,
    Assumed,
    Faults,
    RealClock,
    Rule,
    Scenario,
    VirtualClock,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALLEE = "13900000010"  # endless
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</pre></div></body></html>",
    "{{ 7 * 7 }}{% include 'x' %}",
    "&lt;b&gt; &amp; &#0; &nbsp;",
    "\u202eright to left\u2066",
    "nul\0line\r\nnext\u2028\u0085\x1b[31m",
    "--><!-- ]]> <![CDATA[",
    "javascript:alert(1)",
    "%00%ff%2e%2e%2f?a=1&b=2#c",
]
LOCATIONS = ["/", "/calls/latest", "/rules", "/requests"]


def padded(text: str) -> str:
    """The text, as 64 characters."""
    return (text + "x" * 64)[:64]


def read(text: str) -> str:
    """What a parser makes of a text: NUL and lone line ends are not what they were."""
    return text.replace("\0", "\ufffd").replace("\r\n", "\n")


def answering(text: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """An answer of the user's server, with the text wherever it can stand."""

    async def answer(_: web.Request) -> web.Response:
        header = re.sub(r"[\0\r\n\x1b]", "", text)
        return web.Response(text=text, headers={"X-Answer": header}, status=500, reason="No")

    return answer


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_values_are_text(text: str) -> None:
    """Whatever was sent, answered, asked for or named is shown as it is, and is no markup."""
    whole = padded(text)
    assumed = Assumed(numbers="off")
    async with meeting(console=True, assumed=assumed) as peer:
        platform = peer.platform
        peer.answer = answering(text)
        caller, callee = whole, f"{text}0009"
        if not text.isprintable():  # which no number may be
            caller, callee = CALLER, CALLEE
        reply = await peer.post(
            "/api/qmc-call/openapi/v1/call",
            {"caller": caller, "callee": callee, "outCallId": whole},
        )
        assert reply.code == 200
        await platform.hang_up(reply.json["data"]["callidentifier"])
        platform.rules.append(
            Rule(name=text, caller=text, callee=text, out_call_id=text, scenario=Scenario.endless())
        )
        await peer.request(
            "POST", "/api/qmc-call/openapi/v1/call", {"X-Told": "<b>"}, whole.encode()
        )
        platform.callback_url = f"http://127.0.0.1:1/{text}"
        for location in [*LOCATIONS, f"/?search={quote(text)}"]:
            document = Document(await page(peer, location))
            assert len(document.all("script")) == 3
            assert len(document.all("img")) == 1
            if location == "/calls/latest":
                assert read(document.text).count(read(whole)) >= 2
                assert [given for given in document.all("button") if given.get("id") == "resend"]
            elif location == "/rules":
                assert read(document.text).count(read(text)) >= 3
        status, shown = await ask(peer, "GET", "/calls/latest")
        assert (status, shown["out_call_id"], shown["callee"]) == (200, whole, callee)


async def test_a_rules_buttons_find_it() -> None:
    """Whatever a program has named it, the page's own addresses lead to the rule."""
    async with meeting(console=True) as peer:
        peer.platform.rules.extend(Rule(name=name) for name in [*HOSTILE, "a/b c"])
        document = Document(await page(peer, "/rules"))
        for given in document.all("button"):
            if "/rules/" in given.get("hx-delete", ""):
                reply = await peer.request("DELETE", given["hx-delete"])
                assert reply.status == 200, given
        assert peer.platform.rules == []


async def test_a_megabyte_of_bytes_is_cut() -> None:
    """The page shows the beginning of a long answer, whatever bytes it is made of."""
    async with meeting(console=True) as peer:

        async def answer(_: web.Request) -> web.Response:
            return web.Response(body=bytes(range(256)) * 4096)

        peer.answer = answer
        call = peer.platform.place(CALLER, CALLEE)
        await peer.platform.hang_up(call)
        attempt = peer.platform.notifications[0]
        text = await page(peer, "/calls/latest")
        _, shown = await ask(peer, "GET", "/calls/latest")
    assert len(attempt.reply or b"") == 2**16
    assert len(text) < 200_000
    Document(text)
    assert shown["history"][-1]["reply"]["body"].endswith("…")


@pytest.mark.parametrize("url", [None, "no address at all", "http://[/", "http:///", "\udcff", ""])
async def test_any_callback_can_be_shown(url: str | None) -> None:
    """A program may have set anything; the page says what came of it."""
    async with meeting(console=True) as peer:
        peer.platform.callback_url = url
        call = peer.platform.place(CALLER, CALLEE)
        await peer.platform.hang_up(call)
        for location in LOCATIONS:
            Document(await page(peer, location))
        assert (await ask(peer, "GET", "/calls/latest"))[0] == 200


async def every_kind(peer: Peer) -> None:
    """Let the sandbox hold all that a page can show."""
    platform = peer.platform
    if isinstance(platform.clock, RealClock):  # nobody listens any more when the last calls end
        platform.callback_url = None
    for digits in (*range(1, 12), *range(21, 26)):
        await peer.call(f"1390000{digits:04}", outCallId=f"order-{digits}")
    with pytest.raises(Exception, match="disconnected"):
        await peer.try_call("13900000031")
    if isinstance(platform.clock, VirtualClock):
        await platform.advance(minutes=1)
    await peer.end(next(reversed(platform.calls)))
    await peer.end("1")
    platform.drop_next_notification()
    platform.fault_rates.set("lose_reply", 0.25)
    for reason in Reason:
        platform.rules.append(
            Rule(
                scenario=Scenario.for_reason(reason),
                faults=Faults(recording_fails=True, duplicate_notification=True),
                probability=0.5,
                enabled=reason is Reason.OTHER,
            )
        )


@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize("speed", [None, 1, 50])
async def test_pages_are_well_formed(language: str, speed: float | None) -> None:
    """Each page of each call, in both languages: ids are unique, controls have names."""
    clock = None if speed is None else RealClock(speed=speed)
    async with meeting(clock, console=True) as peer:
        for location in ("/", "/rules", "/requests"):
            Document(await page(peer, location, language))
        await every_kind(peer)
        calls = [f"/calls/{call_id}" for call_id in peer.platform.calls]
        for location in (*LOCATIONS, *calls, "/?search=nothing", "/?search=order&skip=3"):
            document = Document(await page(peer, location, language))
            assert document.all("html") == [{"lang": language}]
            assert len(document.all("title")) == 1


async def test_a_page_can_do_what_the_sandbox_can() -> None:
    """A live call's page has a button for each action, an ended one's a player and a resend."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, "13912345678")
        document = Document(await page(peer, f"/calls/{call.call_id}"))
        offered = [given["hx-vals"] for given in document.all("button") if "hx-vals" in given]
        assert offered == [
            f'{{"action": "{action}"}}'
            for action in (
                Action.CALLER_ANSWERS,
                Action.CALLER_BUSY,
                Action.CALLER_NO_ANSWER,
                Action.CALLER_FAILURE,
                Action.PLATFORM_FAILS,
            )
        ]
        await peer.platform.advance(seconds=30)
        document = Document(await page(peer, f"/calls/{call.call_id}"))
        assert document.all("audio")[0]["src"] == f"/sandbox/calls/{call.call_id}/recording"
        assert not [given for given in document.all("button") if "hx-vals" in given]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (2e5, "2 d")],
)
async def test_times_are_readable(seconds: float, shown: str) -> None:
    """How long a call has been going on."""
    async with meeting(console=True) as peer:
        peer.platform.place(CALLER, CALLEE)
        await peer.platform.advance(seconds=seconds)
        assert f">{shown}</td>" in await page(peer, "/")


async def test_five_thousand_calls() -> None:
    """A page shows the latest fifty, leads to the others, and is no longer for all of them."""
    async with meeting(console=True) as peer:
        for number in range(5000):
            peer.platform.place(CALLER, CALLEE, out_call_id=f"order-{number}")
        text = await page(peer, "/")
        assert len(text) < 70_000
        document = Document(text)
        links = [given["href"] for given in document.all("a") if "skip" in given["href"]]
        assert (len(document.all("tr")), links) == (51, ["/?skip=50"])
        document = Document(await page(peer, "/?search=order-49&skip=100"))
        links = [given["href"] for given in document.all("a") if "skip" in given["href"]]
        # order-49, order-490 to 499 and order-4900 to 4999; the rows keep the search and the place
        assert len(document.all("tr")) == 1 + 11
        assert "/?search=order-49&skip=50" in links
        assert links[0].startswith("/calls/")
        assert "order-4999" in text
        assert "5,000" in text
        assert len((await ask(peer, "GET", "/calls"))[1]) == 100
        assert len((await ask(peer, "GET", "/calls?limit=1000"))[1]) == 1000


async def test_a_call_that_is_asked_about_all_the_time() -> None:
    """Its page shows the latest hundred requests, each under the id that it keeps."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, CALLEE)
        await peer.record(call.call_id)
        early = Document(await page(peer, "/calls/latest"))
        for _ in range(100):
            await peer.record(call.call_id)
        late = Document(await page(peer, "/calls/latest"))
        await peer.record(call.call_id)
        later = Document(await page(peer, "/calls/latest"))
        (first,) = (one["id"] for one in early.all("details") if "id" in one)
        kept = [one["id"] for one in late.all("details") if "id" in one]
        still = [one["id"] for one in later.all("details") if "id" in one]
    assert (len(kept), len(still)) == (100, 100)
    assert first not in kept
    assert kept[1:] == still[:-1]
    assert "The earlier ones are left out." in late.text
    assert "The earlier ones are left out." not in early.text


@pytest.mark.parametrize("skip", ["-1", "x", "9" * 20, "²", "1e3", ""])
async def test_a_wrong_address_shows_something(skip: str) -> None:
    """A number that is none counts as nothing; no address of a page fails."""
    async with meeting(console=True) as peer:
        peer.platform.place(CALLER, CALLEE)
        assert len(Document(await page(peer, f"/?skip={quote(skip)}")).all("tr")) == 2
        Document(await page(peer, f"/?search={'x' * 5000}&page=none"))


async def test_files_and_the_latest_call() -> None:
    """Assets have their types, what is not there is 404, and /latest leads to the last call."""
    async with meeting(console=True) as peer:
        types = {
            "console.js": "text/javascript",
            "console.css": "text/css",
            "icon.svg": "image/svg+xml",
            "LICENSE-htmx.txt": "text/plain",
        }
        for name, kind in types.items():
            reply = await peer.request("GET", f"/static/{name}")
            assert reply.headers["Content-Type"] == f"{kind}; charset=utf-8"
        for location in ("/static/none", "/static/..%2fwords.py", "/calls/1", "/calls/latest"):
            assert (await peer.request("GET", location)).status == 404
        assert "No call yet." in (await peer.request("GET", "/latest")).body.decode()
        peer.platform.place(CALLER, CALLEE)
        assert f"<h1><span>{CALLER}</span>" in (await peer.request("GET", "/latest")).body.decode()
