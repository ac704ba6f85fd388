"""Where OpenTelemetry is missing, too old, silent or broken, everything works as it did."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import SOON, Seen, alone, body_of, post_to, select_in, until, url_in
from faulty_platform import FaultyPlatform, always, connect, http
from ledger_support import NUMBERS, call, calling
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from telemetry_support import PROVIDERS, Recorded, attributes_of

from qmc_async import AsyncQmcClient, CallbackServer
from qmc_async.telemetry import SILENT, telemetry_for

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

    from qmc_async.telemetry import Telemetry

BLOCKED = """
import sys

class Block:
    asked = 0

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            Block.asked += 1
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
"""
WORKS = """
import asyncio
from qmc_async import AsyncQmcClient, CallbackServer
from qmc_async.sandbox import Sandbox, VirtualClock

async def main():
    async with Sandbox(clock=VirtualClock()) as platform:
        client = AsyncQmcClient(
            platform.credentials.app_id,
            platform.credentials.app_secret,
            base_url=platform.base_url,
            record_base_url=platform.base_url,
            store="sqlite://",
        )
        server = CallbackServer(client=client, port=0)
        seen = asyncio.Event()

        @server.on_disconnected
        async def note(event):
            await client.download(event, "call.wav")
            seen.set()

        async with client, server:
            made = Block.asked
            platform.callback_url = server.url
            call = await client.call("13987654321", "13912345678")
            await platform.advance(seconds=10)
            await client.end_call(call)
            await platform.advance(minutes=1)
            await seen.wait()
        assert made, "it was looked for as the client was made"
        assert Block.asked == made, "and never after"
        assert "opentelemetry.trace" not in sys.modules

asyncio.run(main())
print("done")
"""


def _run(program: str, folder: Path | None = None) -> str:
    done = subprocess.run(  # noqa: S603 - our own lines
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_does_not_import_it() -> None:
    """Who uses neither client nor server does not pay for it."""
    program = "import qmc_async, sys; print([n for n in sys.modules if n.startswith('opentel')])"
    assert _run(program) == "[]\n"


def test_it_is_missing(tmp_path: Path) -> None:
    """Everything works, and it is not looked for while it does."""
    assert _run(BLOCKED + WORKS, tmp_path) == "done\n"


async def test_silence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same, with all that happens in it measured."""

    def silent(*_: object) -> Telemetry:
        return SILENT

    for where in ("client", "callback.server"):
        monkeypatch.setattr(f"qmc_async.{where}.telemetry_for", silent)
    async with FaultyPlatform(always(http())) as platform, calling(platform, tmp_path) as client:
        server = CallbackServer(client=client, port=0)
        seen = Seen()
        server.on_disconnected(name="log", retry=SOON)(seen.handler("log", ValueError()))
        async with server:
            await call(client)
            await client.end_call("c-1")
            assert (await post_to(server, body_of("c-1"))).status == 200
            await until(lambda: len(seen.all) == 2)
            SILENT.backlog({})
            SILENT.overdue("missing")
    assert select_in(tmp_path, "SELECT traceparent FROM qmc_calls") == [(None,)]


def test_it_is_too_old(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An application that pins an old one for reasons of its own has no traces from us."""

    def create_histogram(*_: object) -> None:
        """As it was before 1.30."""

    with monkeypatch.context() as patch:
        patch.setattr(metrics.Meter, "create_histogram", create_histogram)
        for name in ("metrics", "recorder", "spans"):
            patch.delitem(sys.modules, f"qmc_async.telemetry.{name}", raising=False)
        with caplog.at_level(logging.DEBUG, "qmc_async"):
            assert telemetry_for() is SILENT
    assert "too old: qmc-async needs 1.30" in caplog.text
    importlib.import_module("qmc_async.telemetry.recorder")
    assert telemetry_for() is not SILENT


async def test_nobody_has_set_a_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is recorded, nor looked up, and no span is the current one."""
    for where in PROVIDERS.values():
        monkeypatch.setattr(where, None)
    current: list[trace.Span] = []
    async with FaultyPlatform(always(http())) as platform, calling(platform, tmp_path) as client:
        server = CallbackServer(client=client, port=0)

        @server.on_disconnected(name="log")
        async def log(_: object) -> None:
            current.append(trace.get_current_span())

        async with server:
            await call(client)
            await post_to(server, body_of("c-1"))
            await until(lambda: current)
    assert current == [trace.INVALID_SPAN]


async def test_a_provider_that_is_set_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients and servers that are there already tell it from then on."""
    monkeypatch.setattr("qmc_async.telemetry.recorder._LOOKED_EVERY", 0.0)
    for where in PROVIDERS.values():
        monkeypatch.setattr(where, None)
    proxies: Any = type(metrics.get_meter_provider())()  # that no other test has told of anything
    monkeypatch.setattr("opentelemetry.metrics._internal._PROXY_METER_PROVIDER", proxies)
    recorded = Recorded()
    async with FaultyPlatform(always(http())) as platform, connect(platform.url) as client:
        await client.call(*NUMBERS)
        recorded.use(monkeypatch)
        proxies.on_set_meter_provider(recorded.meters)  # as `set_meter_provider` does
        await client.call(*NUMBERS)
    assert len(recorded.named("qmc.call")) == 1
    assert recorded.values("qmc.calls") == {("placed",): 1}


class Broken(TracerProvider):
    """A provider in which something of the user's goes wrong."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def get_tracer(self, *_: object, **__: object) -> Any:  # noqa: ANN401 - it stands for a tracer
        """A tracer that fails at one step."""
        return self

    def start_span(self, *_: object, **__: object) -> trace.Span:
        """A span that fails at one step."""
        if self.where == "start_span":
            raise ValueError("planted 13987654321")
        return BrokenSpan(self.where)


class BrokenSpan(NonRecordingSpan):
    """A span of which one method fails."""

    def __init__(self, where: str) -> None:
        super().__init__(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(1)))
        self._where = where

    def is_recording(self) -> bool:
        """Whether what is told is taken."""
        return True

    def set_attributes(self, attributes: object) -> None:  # noqa: ARG002 - as it is called
        """Fail, if told so."""
        self._fail("set_attributes")

    def set_attribute(self, key: str, value: object) -> None:  # noqa: ARG002 - as it is called
        """Fail, if told so."""
        self._fail("set_attribute")

    def end(self, end_time: int | None = None) -> None:  # noqa: ARG002 - as it is called
        """Fail, if told so."""
        self._fail("end")

    def _fail(self, where: str) -> None:
        if self._where == where:
            raise ValueError("planted 13987654321")


@pytest.mark.parametrize("where", ["start_span", "set_attributes", "set_attribute", "end"])
async def test_a_provider_that_is_broken(
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The call is placed, its end is taken, its handler runs: and the log says what is wrong."""
    monkeypatch.setattr(PROVIDERS["tracer"], Broken(where))
    async with FaultyPlatform(always(http())) as platform, calling(platform, tmp_path) as client:
        server = CallbackServer(client=client, port=0)
        seen = Seen()
        server.on_disconnected(name="log")(seen.handler("log"))
        async with server:
            assert (await call(client)).call_id == "c-1"
            assert (await post_to(server, body_of("c-1"))).status == 200
            await until(lambda: seen.all)
    assert "nothing is recorded of" in caplog.text
    assert "ValueError" in caplog.text
    assert "planted" not in caplog.text


async def test_metrics_that_are_broken(recorded: Recorded) -> None:
    """The spans end all the same."""
    async with alone() as there:
        vars(there.server)["_telemetry"].instruments = None
        assert (await there.post(body_of())).status == 200
        spans: list[ReadableSpan] = await recorded.ended("qmc.notification")
    assert attributes_of(spans[0])["http.response.status_code"] == 200


def test_what_is_made_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry keeps each meter for ever: clients that come and go must not make more."""
    monkeypatch.setattr(PROVIDERS["meter"], None)
    proxies: Any = metrics.get_meter_provider()
    telemetry_for()
    before = len(proxies._meters)
    for _ in range(10):
        AsyncQmcClient(1, "secret")
        CallbackServer(store=url_in(tmp_path))
    assert len(proxies._meters) == before
