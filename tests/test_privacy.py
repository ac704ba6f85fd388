"""No secret, number, signature or recording's address in a log, a repr, an exception or a pickle.

They are planted, every operation is run through success and every kind of fault on both
transports with all logs at DEBUG, and then everything that came out is searched for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import pickle
import re
import traceback
from typing import TYPE_CHECKING

import orjson
import pytest
from faulty_platform import (
    APP_ID,
    CALLEE,
    CALLER,
    SECRET,
    TRANSPORTS,
    Connection,
    FaultyPlatform,
    always,
    close_after_reading,
    close_before_reading,
    connect,
    half_a_chunk,
    half_a_reply,
    http,
    keeps_time,
    never_answer,
    no_http,
    no_tls,
    reset_after_reading,
    reset_in_the_reply,
    unreachable,
)

from qmc_async.client import AsyncQmcClient
from qmc_async.errors import ConfigError, QmcError, RecordingError
from qmc_async.models import Recording

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator
    from pathlib import Path

    from faulty_platform import Behaviour

RECORDING = "rec-token-9f8e7d"
DATA = {"callidentifier": "c-1", "fileUrl": f"http://127.0.0.1:1/{RECORDING}/1.wav"}
SUCCESS = http(orjson.dumps({"code": 200, "data": DATA}))
# As the platform might write them: tidy, with a country code, apart.
QUOTED_NUMBERS = "主叫13987654321、+86 139-8765-4321与被叫0755-1234 3388、075512343388不可用"
FORBIDDEN_FOR_CALL = {"secret": SECRET, "caller": CALLER, "callee": CALLEE, "recording": RECORDING}


def leaks(text: str, platform: FaultyPlatform | None = None) -> set[str]:
    """The names of what is found in a text, however its digits are set apart."""
    planted = dict(FORBIDDEN_FOR_CALL)
    for n, request in enumerate(platform.seen if platform else []):
        if "authorization" in request.headers:  # not where a recording is fetched
            planted[f"Authorization {n}"] = request.headers["authorization"]
            planted[f"sign {n}"] = request.signed[2]
    forms = (text, re.sub(r"[\s\-()]", "", text))
    return {name for name, value in planted.items() if any(value in form for form in forms)}


def everything_in(error: BaseException) -> Iterator[str]:
    """All that a log, a debugger or another process could show of an exception."""
    yield from traceback.format_exception(error)
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        chain += [link.__cause__, link.__context__]
        yield from (str(link), repr(link), repr(link.args), repr(vars(link)))
        yield from getattr(link, "__notes__", [])
        if isinstance(link, QmcError):
            yield pickle.dumps(link).decode("latin-1")
            yield pickle.dumps(link, protocol=0).decode("latin-1")


def assert_private(texts: Iterator[str], platform: FaultyPlatform | None = None) -> None:
    """Nothing planted is in any of the texts."""
    for text in texts:
        assert leaks(text, platform) == set(), text


# --- The search itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"x{SECRET}y", {"secret"}),
        ('{"caller":"13987654321"}', {"caller"}),
        ("+86 139-8765-4321", {"caller"}),
        ("(0755) 1234\t3388", {"callee"}),
        (f"GET http://h/{RECORDING}/1.wav", {"recording"}),
        ("139****4321 0755****3388", set[str]()),
        ("nothing", set[str]()),
    ],
)
def test_search_finds(text: str, found: set[str]) -> None:
    """The search finds each planted string, so that the tests below can fail."""
    assert leaks(text) == found


async def test_search_finds_signatures() -> None:
    """The search finds every header that was sent, and the sign alone."""
    async with FaultyPlatform(always(SUCCESS)) as platform, connect(platform.url) as client:
        await client.call(CALLER, CALLEE)
        await client.end_call("c-1")
    second = platform.seen[1]
    assert leaks(f"<{second.headers['authorization']}>", platform) == {"Authorization 1"}
    assert leaks(f"<{second.signed[2]}>", platform) == {"sign 1"}


def test_search_looks_into_exceptions() -> None:
    """The search sees messages, fields, notes, and the whole chain, suppressed or not."""
    for at in ("message", "field", "note", "cause", "context"):
        error = QmcError(SECRET if at == "message" else "harmless")
        if at == "field":
            vars(error)["url"] = SECRET
        elif at == "note":
            error.add_note(SECRET)
        elif at == "cause":
            error.__cause__ = KeyError(SECRET)
        elif at == "context":
            error.__context__ = KeyError(SECRET)
            error.__suppress_context__ = True
        with pytest.raises(AssertionError):
            assert_private(everything_in(error))


async def test_search_reads_the_logs(caplog: pytest.LogCaptureFixture) -> None:
    """The captured logs do hold what httpx, httpcore, asyncio and we write."""
    with all_logs(caplog):
        for transport in TRANSPORTS:
            async with (
                FaultyPlatform(close_after_reading, always(SUCCESS)) as platform,
                connect(platform.url, transport) as client,
            ):
                await client.end_call("c-1")
    assert {"httpx", "httpcore.http11", "asyncio", "qmc_async.client"} <= {
        record.name for record in caplog.records
    }


@contextlib.contextmanager
def all_logs(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Capture every logger at DEBUG, and let asyncio tell about each slow step."""
    names = [None, *logging.Logger.manager.loggerDict]
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(caplog.at_level(logging.DEBUG, name))
        loop.set_debug(True)
        loop.slow_callback_duration = 0.001
        try:
            yield
        finally:
            loop.set_debug(False)


# --- Everything that can happen -----------------------------------------------------------------


async def echo_all(connection: Connection) -> None:
    """Refuse, and quote the request and the numbers wherever a reply has room."""
    while True:
        request = await connection.read_request()
        seen = connection.platform.seen[-1]
        quote = {
            "code": 500,
            "msg": f"{QUOTED_NUMBERS} {seen.headers.get('authorization')}",
            "data": request.decode(),
        }
        connection.writer.write(http(orjson.dumps(quote), "400 Bad Request"))


async def echo_as_html(connection: Connection) -> None:
    """Answer 200 with a page that quotes the request."""
    while True:
        request = await connection.read_request()
        connection.writer.write(http(b"<pre>" + request))


async def echo_as_json(connection: Connection) -> None:
    """Answer 200 with the request's own body in the `msg`, and the numbers as keys and values."""
    while True:
        await connection.read_request()
        body = connection.platform.seen[-1].body.decode()
        connection.writer.write(
            http(orjson.dumps({"code": 1, "msg": body, CALLEE: CALLER, "data": body}))
        )


async def echo_as_redirect(connection: Connection) -> None:
    """Redirect to an address that quotes the request."""
    while True:
        await connection.read_request()
        seen = connection.platform.seen[-1]
        target = f"http://127.0.0.1:1/{CALLER}/{CALLEE}/{seen.headers.get('authorization')}"
        connection.writer.write(http(b"", "307 To", f"Location: {target}\r\n"))


async def echo_as_status(connection: Connection) -> None:
    """Quote the request in the reason and in the headers that we read."""
    while True:
        await connection.read_request()
        seen = connection.platform.seen[-1]
        quote = f"{CALLER} {CALLEE} {seen.headers.get('authorization')}"
        headers = f"Date: {quote}\r\nRetry-After: {CALLER}\r\nX-Quote: {quote}\r\n"
        connection.writer.write(http(b"", f"400 {quote}", headers))


async def echo_as_head(connection: Connection) -> None:
    """Answer with a header line that is none, and quotes the request."""
    request = await connection.read_request()
    connection.writer.write(b"HTTP/1.1 200 OK\r\n" + request.replace(b"\r\n", b" ") + b"\r\n\r\n")


# httpx writes the reason of every reply into its log at INFO, and httpcore the whole head of it at
# DEBUG. Where the platform quotes us in there, that is between those loggers and who turns them on.
QUOTED_IN_THE_HEAD = {"echo as status", "echo as redirect", "echo as headers"}


async def trickle_and_stop(connection: Connection) -> None:
    """Send the reply slowly, and never the end of it."""
    await connection.read_request()
    for byte in SUCCESS[:11]:
        connection.writer.write(bytes([byte]))
        await asyncio.sleep(0.02)
    await asyncio.sleep(3600)


MISBEHAVIOURS: dict[str, Behaviour] = {
    "success": always(SUCCESS),
    "echo in a refusal": echo_all,
    "echo as HTML": echo_as_html,
    "echo as JSON": echo_as_json,
    "echo as redirect": echo_as_redirect,
    "echo as status": echo_as_status,
    "echo as headers": echo_as_head,
    "echo instead of HTTP": no_http,
    "half a JSON": always(http(SUCCESS.split(b"\r\n\r\n")[1][:-3])),
    "500": always(http(QUOTED_NUMBERS.encode(), "500 Oops")),
    "401": always(http(b"", "401 No")),
    "429": always(http(b"", "429 Slow", "Retry-After: 0\r\n")),
    "code 500": always(http(orjson.dumps({"code": 500, "msg": QUOTED_NUMBERS}))),
    "wrong clock": keeps_time(540),
    "closed before reading": close_before_reading,
    "closed after reading": close_after_reading,
    "reset after reading": reset_after_reading,
    "reset in the reply": reset_in_the_reply,
    "closed in the reply": half_a_reply,
    "closed in a chunk": half_a_chunk,
    "no reply": never_answer,
    "trickle": trickle_and_stop,
    "no TLS": no_tls,
    "refused": close_before_reading,  # with the address of nobody
}


_formatter = logging.Formatter()  # with the exceptions that a record carries


async def run_all(client: AsyncQmcClient, folder: Path) -> list[object]:
    """Run every operation to its end, good or bad, and cancel one of each."""
    operations: list[Callable[[], Awaitable[object]]] = [
        lambda: client.call(CALLER, CALLEE, out_call_id="order-42"),
        lambda: client.end_call("c-1"),
        lambda: client.recording("c-1"),
        lambda: client.download("c-1", folder),
        lambda: client.download(
            Recording(call_id="c-1", file_url=f"http://[::1/{RECORDING}/1.wav"), folder
        ),
        lambda: client.download(
            Recording(call_id="c-1", file_url=f"{client.settings.base_url}/{RECORDING}"), folder
        ),
        lambda: client.with_options(numbers="strict").call(CALLER + "1", CALLEE),
    ]
    results: list[object] = []
    for operation in operations:
        results += await asyncio.gather(operation(), return_exceptions=True)
    for operation in operations[:4]:
        task = asyncio.ensure_future(operation())
        await asyncio.sleep(0.005)
        task.cancel()
        results += await asyncio.gather(task, return_exceptions=True)
    return results


# A plain httpx client drops a connection whose making was cancelled without closing it.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", MISBEHAVIOURS)
async def test_private(
    name: str,
    transport: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever happens, nothing planted comes out: not by logs, results, errors or pickles."""
    monkeypatch.setattr("qmc_async.retry.FIRST_WAIT", 0.001)
    with all_logs(caplog):
        await run_and_search(name, transport, tmp_path, caplog)
        # What the records and errors held is let go of while the warning above is ignored.
        caplog.clear()
        gc.collect()


async def run_and_search(
    name: str, transport: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Run everything against one misbehaviour, and search all that came out."""
    async with contextlib.AsyncExitStack() as stack:
        platform = await stack.enter_async_context(FaultyPlatform(MISBEHAVIOURS[name]))
        url = platform.url
        if name == "no TLS":
            url = url.replace("http", "https")
        elif name == "refused":
            url = await stack.enter_async_context(unreachable())
        client = await stack.enter_async_context(
            connect(url, transport, timeout=0.05, deadline=0.2, max_retries=1)
        )
        results = await run_all(client, folder)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        assert_private(everything_in(error), platform)
        # These hold the request, and any handler of errors may print it.
        assert not isinstance(error, QmcError) or error.__context__ is error.__cause__ is None
    assert any(isinstance(error, QmcError) for error in errors)
    objects = [client, client.signer, client.settings, client.settings.credentials, *results]
    assert_private((f"{thing!r} {thing!s}" for thing in objects), platform)
    records = [
        record
        for record in caplog.records
        if name not in QUOTED_IN_THE_HEAD or not record.name.startswith(("httpx", "httpcore"))
    ]
    assert len(records) > 3
    assert_private((f"{_formatter.format(record)} {record.args!r}" for record in records), platform)


async def test_unwritable(tmp_path: Path) -> None:
    """A file that cannot be written is told without the recording's address."""
    async with connect("http://127.0.0.1:1") as client:
        recording = Recording(call_id="c-1", file_url=f"http://127.0.0.1:1/{RECORDING}/1.wav")
        with pytest.raises(OSError, match="missing") as caught:
            await client.download(recording, tmp_path / "missing" / "x.wav")
    assert_private(everything_in(caught.value))


async def test_full_disk_after_the_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full is told without the recording's address."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    sound = always(http(b"RIFF\x24\0\0\0WAVE" + bytes(32)))
    async with FaultyPlatform(sound) as files, connect(files.url) as client:
        recording = Recording(call_id="c-1", file_url=f"{files.url}/{RECORDING}/1.wav")
        with pytest.raises(OSError, match="No space") as caught:
            await client.download(recording, tmp_path)
    assert_private(everything_in(caught.value))


@pytest.mark.parametrize(
    "options",
    [
        {"app_secret": SECRET + " "},
        {"app_secret": SECRET.encode()},
        {"app_id": SECRET},
        {"app_id": SECRET, "app_secret": ""},
        {"base_url": f"http://{SECRET}@host"},
        {"base_url": f"http://user:{SECRET}@host"},
        {"base_url": f"http://host?{SECRET}"},
    ],
)
def test_configuration(options: dict[str, str]) -> None:
    """A malformed setting does not show the secret, nor what was put where it does not belong."""
    with pytest.raises(ConfigError) as caught:
        AsyncQmcClient(**{"app_id": "1", "app_secret": SECRET, **options})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert_private(everything_in(caught.value))


def test_objects() -> None:
    """Client, signer, settings and recording show no secret in their repr."""
    client = AsyncQmcClient(APP_ID, SECRET)
    recording = Recording(call_id="c-1", file_url=DATA["fileUrl"], raw=DATA)
    objects = [client, client.signer, client.settings, client.settings.credentials, recording]
    assert_private(f"{thing!r} {thing!s} {thing}" for thing in objects)
    assert str(APP_ID) in repr(client.settings)


async def test_recording_error_is_ours(tmp_path: Path) -> None:
    """A recording that cannot be fetched is told by the call's id, and by no other name."""
    async with unreachable() as url, connect(url) as client:
        with pytest.raises(RecordingError, match="call c-1") as caught:
            await client.download(Recording(call_id="c-1", file_url=f"{url}/{RECORDING}"), tmp_path)
    assert_private(everything_in(caught.value))
