"""The pytest plugin, in projects of its users: each a folder and a pytest of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmc_async import Reason
from qmc_async.models import BEIJING
from qmc_async.sandbox import Assumed
from qmc_async.sandbox.console.snippet import as_pytest
from qmc_async.sandbox.engine import Engine

if TYPE_CHECKING:
    from qmc_async.sandbox import SimulatedCall

EXAMPLE = Path(__file__).parents[1] / "examples" / "tested_service"

pytest_plugins = ["pytester"]

# A handler of the user's, and that it runs: what all the projects have in common.
STARTS = """
import pytest
from qmc_async import Reason
from qmc_async.testing import handled

reasons = []

async def my_handler(event):
    reasons.append(event.reason)

async def use(qmc_sandbox, qmc_client, callback_server):
    callback_server.on_disconnected(name="mine")(my_handler)
    call = await qmc_client.call("13987654321", "13912345678")
    await qmc_sandbox.hang_up(call, reason=Reason.CALLEE_BUSY)
    await handled(callback_server)
    assert reasons.pop() is Reason.CALLEE_BUSY
"""
TEST = """
async def test_{name}(qmc_sandbox, qmc_client, callback_server):
    await use(qmc_sandbox, qmc_client, callback_server)
"""
NOW = datetime(2026, 1, 31, 18, 0, 0, tzinfo=BEIJING)
STRICT = "[pytest]\nasyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n"
AUTO = STRICT.replace("strict", "auto")
# They take long to import, and no project here needs them.
WITHOUT = [f"-pno:{name}" for name in ("anyio", "hypothesispytest", "respx", "pytest_respx")]


def project(pytester: pytest.Pytester, settings: str, tests: str) -> None:
    """Write what a user has: settings and one test module."""
    pytester.makefile(".ini", pytest=settings)
    pytester.makepyfile(STARTS + tests)


def busy_call() -> SimulatedCall:
    """A call that a person has ended, and that has an id of the application's."""
    engine = Engine(assumed=Assumed())
    call = engine.place(NOW, "13987654321", "13912345678", "order-42")
    engine.hang_up(NOW + timedelta(seconds=8.5), call.call_id, Reason.CALLEE_BUSY)
    return call


def long_call() -> SimulatedCall:
    """A call that the application has ended."""
    engine = Engine(assumed=Assumed())
    call = engine.place(NOW, "13987654321", "13912340010")
    assert not list(engine.run(NOW + timedelta(hours=1)))
    engine.end(NOW + timedelta(hours=1), call.call_id)
    return call


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest there, as a process of its own, where warnings are errors."""
    return pytester.runpytest_subprocess("-Werror", "-pno:cacheprovider", *WITHOUT, *arguments)


def test_it_costs_nothing_where_nobody_uses_it() -> None:
    """What pytest imports in every run imports nothing of ours, and nothing of anybody's."""
    program = (
        "import sys, typing, pytest; before = set(sys.modules); import _qmc_async_pytest_plugin;"
        "print(*set(sys.modules) - before)"
    )
    done = subprocess.run(  # noqa: S603 - our own line
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.split() == ["_qmc_async_pytest_plugin"]


def test_strict_mode(pytester: pytest.Pytester) -> None:
    """Tests that say that they are async have the fixtures, in functions and in classes.

    The marker of the plugin is one that --strict-markers knows, and what it says reaches the
    sandbox; so do the markers of a class, of which the test's own are the last word. Where no loop
    would answer, the test says so, and does not hang. It is the same where plugins are named one by
    one.
    """
    project(
        pytester,
        STRICT,
        """
from qmc_async.sandbox import Assumed, RealClock, VirtualClock

pytestmark = pytest.mark.asyncio
"""
        + TEST.format(name="function")
        + """
@pytest.mark.qmc_sandbox(assumed=Assumed(date_header=False), host="localhost")
class TestMarkers:
    @pytest.mark.qmc_sandbox(assumed=Assumed(absent_fields="null"))
    async def test_method(self, qmc_sandbox, qmc_client, callback_server):
        await use(qmc_sandbox, qmc_client, callback_server)
        assert b'"answerTime":null' in qmc_sandbox.notifications[0].body
        assert qmc_sandbox.base_url.startswith("http://localhost:")
        assert isinstance(qmc_sandbox.clock, VirtualClock)

    @pytest.mark.qmc_sandbox(clock=RealClock(speed=1000))
    async def test_real_time(self, qmc_sandbox, qmc_client, callback_server):
        await qmc_client.call("13987654321", "13912345678")
        await qmc_sandbox.settled()
        assert qmc_sandbox.notifications[0].http_status == 200
        assert not qmc_sandbox.assumed.date_header

@pytest.mark.qmc_sandbox(Assumed())
async def test_not_by_name(qmc_sandbox):
    pass

def test_plain(callback_server):
    pass
""",
    )
    pytester.makepyfile(test_unmarked="async def test_unmarked(qmc_client): ...")
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "_qmc_async_pytest_plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        result = run(pytester, "--strict-markers", *plugins)
    result.assert_outcomes(passed=3, errors=3)
    result.stdout.fnmatch_lines(
        [
            "*@pytest.mark.qmc_sandbox takes options by name*",
            "*callback_server lives on the event loop of an async test*",
            "*qmc_client lives on the event loop of an async test*",
        ]
    )


def test_auto_mode(pytester: pytest.Pytester) -> None:
    """The same where all async functions are tests; one sandbox after another, each its own.

    The fixtures live on the loop of the test, whichever that is, and whatever others do. An
    application that reads the environment talks to the sandbox, a developer's own variables change
    nothing, nothing is written into the folder, and calls that have not ended do not matter.
    Whoever has a server overrides the fixture. What the console copies as a test is one.
    """
    project(
        pytester,
        AUTO + "asyncio_default_test_loop_scope = session\n",
        """
import os
import pytest_asyncio
from qmc_async import AsyncQmcClient, CallbackServer
from qmc_async.testing import HandlerFailed
"""
        + TEST.format(name="session")
        + "".join(
            f"@pytest.mark.asyncio(loop_scope={scope!r})" + TEST.format(name=scope)
            for scope in ("function", "module", "package")
        )
        + """
@pytest.mark.asyncio(loop_scope="class")
class TestClass:
    @pytest_asyncio.fixture(loop_scope="class")
    async def callback_server(self, qmc_sandbox, qmc_client):
        server = CallbackServer(signer=qmc_client.signer, port=0)
        @server.on_disconnected
        async def mine(event):
            raise ValueError("it is the user's")
        async with server:
            qmc_sandbox.callback_url = server.url
            yield server

    async def test_own(self, qmc_sandbox, qmc_client, callback_server):
        await qmc_sandbox.hang_up(await qmc_client.call("13987654321", "13912345678"))
        with pytest.raises(HandlerFailed, match="mine failed at event [0-9]{18}: ValueError: it"):
            await handled(callback_server)

async def test_unfinished(qmc_sandbox, callback_server, qmc_client):
    await qmc_client.call("13987654321", "13912345678")
    await qmc_client.call("13987654321", "13912340010")
    await qmc_sandbox.advance(seconds=4)

async def test_environment(qmc_sandbox, monkeypatch):
    there = set(os.listdir())
    async with AsyncQmcClient(store=os.environ["QMC_STORE"]) as client:
        async with CallbackServer(client=client, port=0) as callback_server:
            qmc_sandbox.callback_url = callback_server.url
            await client.call("13987654321", "13912340001")
            await qmc_sandbox.advance(minutes=1)
            assert await callback_server.wait_for(*qmc_sandbox.calls, timeout=5)
    monkeypatch.setenv("QMC_STORE", "sqlite:///other.db")
    assert set(os.listdir()) == there

def test_after():
    assert os.environ["QMC_STORE"] == "sqlite:///mine.db"
    assert os.environ["QMC_ALLOWED_SENDERS"] == "203.0.113.1"
    assert "QMC_APP_ID" not in os.environ
""",
    )
    pytester.makepyfile(test_copied_1=as_pytest(busy_call()), test_copied_2=as_pytest(long_call()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QMC_STORE", "sqlite:///mine.db")
        patch.setenv("QMC_ALLOWED_SENDERS", "203.0.113.1")
        run(pytester).assert_outcomes(passed=10)


def test_without_pytest_asyncio(pytester: pytest.Pytester) -> None:
    """Where it is not installed, or is switched off, the test says what to install."""
    pytester.makepyfile("def test_it(qmc_client): ...\ndef test_other(): ...")
    result = run(pytester, "-p", "no:asyncio")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("*qmc_client needs pytest-asyncio: pip install 'qmc-async[[]test*")


def test_the_example_in_many_processes(pytester: pytest.Pytester) -> None:
    """The project in examples/ passes its tests, with nothing else, and beside itself."""
    for name in ("pyproject.toml", "orders.py", "test_orders.py"):
        shutil.copy(EXAMPLE / name, pytester.path)
    result = run(pytester, "-n", "2")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines("*2 workers*")
