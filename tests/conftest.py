"""What many tests share."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

import pytest

from qmc_async.sandbox import RealClock, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["database_servers", "telemetry_support"]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own QMC_* variables change no test, and no test writes where it is run."""
    for name in list(os.environ):
        if name.startswith("QMC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("QMC_STORE", "sqlite://")


@pytest.fixture(autouse=True)
def _a_busy_machine_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk or thread that stands still for a moment fails no test of something else.

    Tests of this very limit set it, and the faults are injected into processes of their own.
    """
    monkeypatch.setattr("qmc_async.store.ladder._SPOOL_PATIENCE", 20.0)
    # The log of one test must not be silent because of another's.
    monkeypatch.setattr("qmc_async.listening._QUIET", 0.0)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox on a thread of its own, 50 times faster than life; QMC_* variables lead to it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    sandbox = Sandbox(clock=RealClock(speed=50))
    asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result(10)
    monkeypatch.setenv("QMC_APP_ID", str(sandbox.credentials.app_id))
    monkeypatch.setenv("QMC_APP_SECRET", sandbox.credentials.app_secret)
    monkeypatch.setenv("QMC_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("QMC_RECORD_BASE_URL", sandbox.base_url)
    try:
        yield sandbox
    finally:
        asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
