"""The stream that keeps a page of the console up to date."""

from __future__ import annotations

import asyncio
import html
import logging
import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from console_document import Document
from console_support import ask, page
from test_sandbox_support import CALLER, meeting

from qmc_async.sandbox import Action, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from test_sandbox_support import Peer

CALLEE = "13900000010"  # endless
PARTS = ["counts", "list", "call", "timeline", "player", "exchanges", "pytest"]


class Reader:
    """A browser that listens to a stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def block(self) -> str:
        """The next event or comment."""
        async with asyncio.timeout(5):
            return (await self._response.content.readuntil(b"\n\n")).decode()

    async def event(self) -> tuple[str, str]:
        """The name and the text of the next event."""
        # The clock is a part of every page, and goes on with everything.
        while (block := await self.block()).startswith((":", "event: clock\n")):
            pass
        first, *lines = block.removesuffix("\n\n").split("\n")
        assert all(line.startswith("data: ") for line in lines)
        return first.removeprefix("event: "), "\n".join(line[6:] for line in lines)

    async def events(self, *names: str) -> dict[str, str]:
        """The next events; they must have these names."""
        found = dict([await self.event() for _ in names])
        assert list(found) == list(names)
        return found

    async def until(self, name: str) -> str:
        """The text of the next event with that name."""
        while (event := await self.event())[0] != name:
            pass
        return event[1]

    async def ended(self) -> bool:
        """Whether the stream ends."""
        async with asyncio.timeout(5):
            await self._response.read()
        return True


@asynccontextmanager
async def reading(platform: Sandbox, address: str) -> AsyncGenerator[Reader]:
    """Listen at that address until the end of the block."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(platform.base_url + address, headers={"Accept-Language": "en"}) as response,
    ):
        assert response.content_type == "text/event-stream"
        yield Reader(response)


async def stream_of(peer: Peer, path: str) -> str:
    """The address of the stream that the page itself opens."""
    (found,) = re.findall(r'sse-connect="([^"]+)"', await page(peer, path))
    return html.unescape(found)


async def test_a_change_is_shown_at_once() -> None:
    """The page's own stream says nothing that the page has shown, then what has changed."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, "13912345678")
        async with reading(
            peer.platform, await stream_of(peer, f"/calls/{call.call_id}")
        ) as reader:
            began = time.monotonic()
            peer.platform.act(call.call_id, Action.CALLER_ANSWERS)
            events = await reader.events("list", "call", "timeline", "pytest")
            assert time.monotonic() - began < 1
            assert "callee ringing" in events["list"]
            await peer.record(call.call_id)
            assert "通话未结束" in (await reader.events("timeline", "exchanges"))["exchanges"]
            await peer.platform.advance(seconds=30)
            assert "<audio" in await reader.until("player")


async def test_a_part_is_what_the_page_would_have() -> None:
    """What is sent is what the page, loaded again, has there, and is well-formed by itself."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, "13912345678", out_call_id="<order>\u2028\r\n\x85")
        await peer.platform.advance(seconds=30)
        address = f"/calls/{call.call_id}"
        stream = (await stream_of(peer, address)).replace("since=", "since=9")
        async with reading(peer.platform, stream) as reader:
            events = await reader.events(*PARTS)
        whole = re.sub(r"\s+", " ", await page(peer, address))
    for text in events.values():
        assert re.sub(r"\s+", " ", text) in whole
        assert "script" not in [tag for tag, _ in Document(text).tags]


async def test_only_what_has_changed_is_sent() -> None:
    """A fault that is switched on changes neither the rules nor the counts."""
    async with (
        meeting(console=True) as peer,
        reading(peer.platform, await stream_of(peer, "/rules")) as reader,
    ):
        await ask(peer, "PUT", "/faults/lose_reply", {"probability": 1})
        await reader.events("faults")
        await ask(peer, "POST", "/rules", {"callee": "*5678"})
        assert "*5678" in (await reader.events("rules"))["rules"]
        await peer.try_call("1")
        await reader.events("counts")


@pytest.mark.parametrize("since", ["0", "1", "999999", "", "x"])
async def test_whoever_comes_late_is_shown_all(since: str) -> None:
    """A browser that was away, or asked another sandbox, gets every part at once."""
    async with meeting(console=True) as peer:
        for _ in range(3):
            peer.platform.place(CALLER, CALLEE)
        async with reading(peer.platform, f"/stream?call=latest&since={since}") as reader:
            await reader.events(*PARTS)
        async with reading(peer.platform, f"/stream?page=requests&since={since}") as reader:
            await reader.events("counts", "refusals")


async def test_the_latest_call_is_followed() -> None:
    """A page of the latest call shows the next one as soon as it is placed."""
    async with meeting(console=True) as peer:
        peer.platform.place(CALLER, CALLEE)
        async with reading(peer.platform, await stream_of(peer, "/calls/latest")) as reader:
            call = peer.platform.place(CALLER, CALLEE)
            events = await reader.events("counts", "list", "call")
            assert call.call_id in events["call"]


async def test_a_burst_is_few_events() -> None:
    """However fast calls come, a reader is told a few times, and of the last of them."""
    async with (
        meeting(console=True) as peer,
        reading(peer.platform, await stream_of(peer, "/")) as reader,
    ):
        for _ in range(199):
            peer.platform.place(CALLER, CALLEE)
            await asyncio.sleep(0)
        call = peer.platform.place(CALLER, CALLEE)
        count = 0
        while call.call_id not in (await reader.event())[1]:
            count += 1
    assert count < 40


@pytest.mark.parametrize("path", ["/", "/rules"])
async def test_who_goes_away_leaves_nothing(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """No task and no line in the log, be it that the next change is shown on that page or not."""
    caplog.set_level(logging.DEBUG)
    async with meeting(console=True) as peer:
        address = await stream_of(peer, path)
        before = len(asyncio.all_tasks())
        for _ in range(3):
            async with reading(peer.platform, address):
                pass
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > before:
                peer.platform.place(CALLER, CALLEE)
                await asyncio.sleep(0.01)
    assert [one for one in caplog.records if one.name != "asyncio"] == []


async def test_who_is_there_hears_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing happens, a comment; a proxy would take silence for a dead connection."""
    monkeypatch.setattr("qmc_async.sandbox.console.console._SIGN_OF_LIFE", 0.05)
    async with (
        meeting(console=True) as peer,
        reading(peer.platform, await stream_of(peer, "/rules")) as reader,
    ):
        assert [await reader.block() for _ in range(2)] == [": still here\n\n"] * 2
        peer.platform.drop_next_notification()
        assert "to be dropped" in (await reader.events("faults"))["faults"]


@pytest.mark.parametrize("busy", [False, True])
async def test_a_stop_ends_the_stream(busy: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """At once, and not after the second that slow answers have; it can be opened again then."""
    async with meeting(console=True) as peer:
        async with (
            reading(peer.platform, await stream_of(peer, "/")) as first,
            reading(peer.platform, await stream_of(peer, "/rules")) as second,
        ):
            if busy:
                peer.platform.place(CALLER, CALLEE)
                await first.events("counts", "list")
            began = time.monotonic()
            await peer.platform.stop()
            assert time.monotonic() - began < 0.8
            assert await first.ended()
            assert await second.ended()
        await peer.platform.start()
        async with reading(peer.platform, "/stream") as reader:
            await reader.events("counts", "list")


async def test_a_forgotten_call_leaves_the_list() -> None:
    """Whoever looks at it sees it go, keeps what was shown of it, and hears of others."""
    async with meeting(console=True) as peer:
        call = peer.platform.place(CALLER, CALLEE)
        await peer.platform.hang_up(call)
        stream = await stream_of(peer, f"/calls/{call.call_id}")
        async with reading(peer.platform, stream) as reader:
            await ask(peer, "DELETE", "/calls")
            events = await reader.events("counts", "list")
            assert "No call yet." in events["list"]
            other = peer.platform.place(CALLER, CALLEE)
            events = await reader.events("counts", "list")
            assert other.call_id in events["list"]
        async with reading(peer.platform, stream) as reader:  # as a browser does by itself
            await reader.events("counts", "list")


async def test_a_stream_is_no_answer_to_head() -> None:
    """It has no end, so that who asks for its head alone would wait for ever."""
    async with meeting(console=True) as peer:
        assert (await peer.request("HEAD", "/stream")).status == 405
