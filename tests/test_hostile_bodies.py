"""Hostile bodies and requests: each is kept byte for byte or refused, and says nothing of us."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
from callback_peer import SIGNER, SUCCESS, TOO_LARGE, path_of, select_in, until, url_in
from hostile_sender import Answer, Sender
from malformed_bodies import GROUPS, LONGEST, notification
from malformed_requests import REQUESTS
from shells import SHELLS, WAITING, serving

from qmc_async import CallbackServer, Disconnected, UnknownNotification
from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from malformed_bodies import Named
    from malformed_requests import Request

logger = logging.getLogger("an.application")

_REFUSALS = {400, 403, 411, 413, 415, 417, 431, 501}
_LONGEST_LINE = 400  # characters, of what the log says of one notification
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# That a request could not be read is an error to aiohttp, though not to us.
_BY_THE_LIBRARY = re.compile(
    r"(Error handling request from 127\.0\.0\.1|Unhandled exception): \w+ \(\d+ so far\)"
)
_OURS = re.compile(
    r"Traceback|\bFile \"|\.py\b|site-packages|Error\b|Exception|0x[0-9a-f]{6}"
    r"|aiohttp|uvicorn|starlette"
)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """What the server stands in."""
    name: str = request.param
    return name


class Service:
    """A server with a store in a file, and what its handlers got."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.handled = 0
        self.server = CallbackServer(
            store=Store(url_in(folder), patience=30),  # on an overloaded machine too
            signer=SIGNER,
            port=0,
            shutdown_timeout=5,
        )
        self.server.on_disconnected(name="ended")(self.note)
        self.server.on_unknown(name="unknown")(self.note)

    async def note(self, event: Disconnected | UnknownNotification) -> None:
        """Log it, as applications do."""
        self.handled += 1
        logger.info("handled %r", event)

    def kept(self) -> list[bytes]:
        """All bodies that are in the file, in the order in which they came."""
        return [
            body for (body,) in select_in(self.folder, "SELECT body FROM qmc_events ORDER BY seq")
        ]

    def count(self, what: str) -> int:
        """How many events are of a sort."""
        [(count,)] = select_in(self.folder, f"SELECT count(*) FROM qmc_events WHERE {what}")  # noqa: S608 - our own words
        return int(count)


@asynccontextmanager
async def _service(
    shell: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> AsyncGenerator[tuple[Service, Sender]]:
    """A service that is alive at the end, has handled what it kept, and has logged with care."""
    caplog.set_level(logging.DEBUG)
    service = Service(folder)
    async with serving(shell, service.server) as base:
        sender = Sender(base, path_of(service.server))
        yield service, sender
        last = await sender.post(notification("the last"))
        assert (last.status, last.body) == (200, SUCCESS)
        # A conflict has no handler here.
        await until(lambda: service.handled == service.count("kind <> 'conflict'"))
        alive = await sender.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert alive.status == 200
    assert service.kept()[-1] == notification("the last")
    assert not service.count("NOT routed")
    assert not select_in(folder, "SELECT * FROM qmc_deliveries WHERE state <> 'done'")
    _assert_discreet_log(caplog)


def _assert_discreet_log(caplog: pytest.LogCaptureFixture) -> None:
    for record in caplog.records:
        if record.name == "asyncio":
            continue
        line = record.getMessage()
        assert record.levelno < logging.ERROR or _BY_THE_LIBRARY.fullmatch(line), line
        assert record.exc_info is None, line
        assert not _CONTROL.search(line), repr(line)
        assert len(line) < _LONGEST_LINE or record.name == logger.name, line[:200]
    assert "Traceback" not in caplog.text


def _assert_discreet_answer(name: str, answer: Answer, sent: int) -> None:
    """Our small JSON, or a word of the HTTP library's; nothing of this machine or this program."""
    if answer.body.startswith(b"{"):
        assert set(orjson.loads(answer.body)) == {"code", "msg", "data"}, name
    # Who was cut off in the middle has the head of the answer as well.
    text = re.sub(r"(?im)^server: .*$", "", (answer.body + answer.rest).decode())
    # aiohttp quotes to the sender what it cannot read, each byte with up to four characters.
    assert len(text) < 500 + 4 * sent, name
    assert not _OURS.search(text), (name, text)
    for place in (str(Path(__file__).parent.parent), sys.prefix, tempfile.gettempdir(), os.sep * 2):
        assert place not in text, (name, text)


@pytest.mark.parametrize("group", GROUPS)
async def test_a_body_is_kept_as_it_came(
    group: str, shell: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A body of up to 64 KiB is answered with success and kept as it came, a longer one refused."""
    bodies: list[Named] = list(GROUPS[group]())
    if shell != "aiohttp" and len(bodies) > 200:
        bodies = bodies[::4]  # what decodes them is the same, and this shell is slower
    async with _service(shell, tmp_path, caplog) as (service, sender):
        answers = await sender.post_all(bodies)
        for name, body in bodies:
            answer = answers[name]
            expected = (413, TOO_LARGE) if len(body) > LONGEST else (200, SUCCESS)
            assert (answer.status, answer.body) == expected, name
        kept = service.kept()
    expected_bodies = {body: name for name, body in bodies if len(body) <= LONGEST}
    assert sorted(expected_bodies[body] for body in kept) == sorted(expected_bodies.values())


def test_no_two_bodies_are_the_same() -> None:
    """Each has a name and bytes of its own, and they are the same in every run."""
    for made in GROUPS.values():
        bodies = list(made())
        assert len(dict(bodies)) == len({body for _, body in bodies}) == len(bodies)
        assert bodies == list(made())
    assert sum(len(list(made())) for made in GROUPS.values()) > 4000


@pytest.mark.parametrize("group", REQUESTS)
async def test_a_request_is_kept_or_refused(
    group: str, shell: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What came of a request's body is kept and answered for, or it is refused, and is not."""
    requests = list(REQUESTS[group]())
    async with _service(shell, tmp_path, caplog) as (service, sender):

        async def send(request: Request) -> Answer:
            sent = sender.head(*request.head) + request.sent
            return await (sender.send_and_end if request.is_cut else sender.send)(sent)

        answers = await asyncio.gather(*map(send, requests))
    # The server has stopped: all that was to be kept is.
    kept = service.kept()[:-1]
    for request, answer in zip(requests, answers, strict=True):
        _assert_discreet_answer(
            request.name, answer, len(request.sent) + sum(map(len, request.head))
        )
        _assert_fair(request, answer, kept, shell)
    statuses = [answer.status for answer in answers]
    # Where no answer came, it may have been kept.
    perhaps = {0} if shell in WAITING else {0, 400}
    assert statuses.count(200) <= len(kept) <= sum(one in {200, *perhaps} for one in statuses)
    contents = [one for request in requests for one in (request.content, *request.others)]
    for body in kept:
        assert any(content.startswith(body) for content in contents), body


def _assert_fair(request: Request, answer: Answer, kept: list[bytes], shell: str) -> None:
    assert answer.status in ({200} if request.is_whole else {0, 200} | _REFUSALS), request.name
    named = request.content[: request.content.index(b",")]
    ours = [body for body in kept if body.startswith(named)]
    assert len(ours) <= 1, request.name
    if answer.status in _REFUSALS:
        assert not ours or (shell not in WAITING and ours != [request.content]), request.name
    if request.is_whole:
        assert ours == [request.content], request.name
