"""A port of our own: it is given back, and nothing of a request is quoted."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from aiohttp import web
from aiohttp.http import HttpProcessingError

from qmc_async.listening import discreet_logger, listen


async def _never(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError


def _runner() -> web.ServerRunner:
    return web.ServerRunner(web.Server(_never))


async def test_listen_tells_the_port() -> None:
    """Port 0 is a free one, and the number that comes back is where it listens."""
    runner = _runner()
    port = await listen(runner, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
    await runner.cleanup()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_taken_port_leaves_nothing_behind() -> None:
    """The operating system's refusal comes through, and the runner is cleaned up."""
    runner = _runner()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            await listen(runner, "127.0.0.1", taken.getsockname()[1])
    assert runner.server is None


@pytest.mark.parametrize("steps", range(8))
async def test_cancelled_after_any_step_the_port_is_free(steps: int, unused_tcp_port: int) -> None:
    """Wherever a start is cancelled, another can have the port."""
    task = asyncio.create_task(listen(_runner(), "127.0.0.1", unused_tcp_port))
    for _ in range(steps):
        await asyncio.sleep(0)
    if not task.cancel():
        pytest.skip("it was faster")
    with pytest.raises(asyncio.CancelledError):
        await task
    with socket.socket() as other:
        other.bind(("127.0.0.1", unused_tcp_port))


@pytest.mark.parametrize(
    "error", [HttpProcessingError(message="13912345678"), web.RequestPayloadError("13912345678")]
)
def test_a_request_is_not_quoted(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Of what cannot be read, the log has the error's name and nothing else."""
    discreet_logger(f"qmc.test.{type(error)}").error("Error handling request", exc_info=error)
    assert f"Error handling request: {type(error).__name__}" in caplog.text
    assert "13912345678" not in caplog.text


def test_bad_requests_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a line a minute, with how many there were; nothing else waits for it."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr("qmc_async.listening._QUIET", 60.0)
    log = discreet_logger("qmc.test.flood")
    assert discreet_logger("qmc.test.flood") is log
    for _ in range(500):
        log.error("bad", exc_info=HttpProcessingError(message="13912345678"))
    log.error("ours", exc_info=ValueError("by a mistake"))
    now += 61
    log.error("bad", exc_info=HttpProcessingError(message="13912345678"))
    first, ours, last = caplog.records
    assert first.getMessage() == "bad: HttpProcessingError (1 so far)"
    assert ours.exc_info is not None
    assert last.getMessage() == "bad: HttpProcessingError (501 so far)"


def test_everything_else_is_logged_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake in our own code keeps its traceback."""
    caplog.set_level("INFO")
    log = discreet_logger("qmc.test")
    log.info("quiet")
    log.error("broken", exc_info=ValueError("by a mistake"))
    assert "quiet" in caplog.text
    assert "ValueError: by a mistake" in caplog.text
