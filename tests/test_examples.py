"""The programs in examples/ are run as a user runs them: as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from qmc_async.sandbox import RealClock, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

EXAMPLES = Path(__file__).parents[1] / "examples"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def click_to_call(
    folder: Path, program: str = "click_to_call.py", *arguments: str
) -> AsyncGenerator[tuple[Sandbox, str]]:
    """A service as a process, and a sandbox that calls it back."""
    port = free_port()
    async with Sandbox(clock=RealClock(speed=40)) as platform:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(EXAMPLES / program),
            f"--port={port}",
            *(arguments or [f"--folder={folder}"]),
            stdout=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "QMC_APP_ID": str(platform.credentials.app_id),
                "QMC_APP_SECRET": platform.credentials.app_secret,
                "QMC_BASE_URL": platform.base_url,
                "QMC_RECORD_BASE_URL": platform.base_url,
            },
        )
        try:
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
            platform.callback_url = line.split()[-1]
            await _listening(port)
            yield platform, f"http://127.0.0.1:{port}/calls"
        finally:
            process.terminate()
            # uvicorn stops in order, and then dies of the signal all the same.
            assert await process.wait() in (0, -signal.SIGTERM)


async def _listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


async def _until(session: aiohttp.ClientSession, url: str, key: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            async with session.get(url) as response:
                known: dict[str, Any] = await response.json()
            if key in known:
                return known
            await asyncio.sleep(0.05)


async def test_click_to_call_keeps_the_recording(tmp_path: Path) -> None:
    """The service places the call, hears of its end, and has the whole recording on disk."""
    async with click_to_call(tmp_path) as (platform, url), aiohttp.ClientSession() as session:
        order = {"id": "order-1", "agent": "13987654321", "customer": "139 1234 5678"}
        async with session.post(url, json=order) as response:
            assert response.status == 201
            assert (await response.json())["state"] == "placed"
        known = await _until(session, f"{url}/order-1", "recording")
        assert known["state"] == "ended"
        assert known["reason"] == "HangUp"
        [call] = platform.calls.values()
        assert call.callee == "13912345678"
    with wave.open(str(tmp_path / known["recording"])) as audio:
        assert audio.getnframes() / audio.getframerate() == 12


async def test_click_to_call_rings_nobody_twice(tmp_path: Path) -> None:
    """A second click on one order places no second call, also when the reply was lost."""
    async with click_to_call(tmp_path) as (platform, url), aiohttp.ClientSession() as session:
        order = {"id": "order-2", "agent": "13987654321", "customer": "13912340031"}
        async with session.post(url, json=order) as response:
            assert (await response.json())["state"] in ("unknown", "ended")
        async with session.post(url, json=order) as response:
            assert response.status == 200
        known = await _until(session, f"{url}/order-2", "reason")
        assert known["state"] == "ended"
        assert len(platform.calls) == 1


@pytest.mark.parametrize(("customer", "status"), [("not a number", 400), ("13912345678" * 2, 400)])
async def test_click_to_call_refuses_what_cannot_be_dialled(
    customer: str, status: int, tmp_path: Path
) -> None:
    """A wrong number is the customer's to correct, and reaches no platform."""
    async with click_to_call(tmp_path) as (platform, url), aiohttp.ClientSession() as session:
        order = {"id": "order-3", "agent": "13987654321", "customer": customer}
        async with session.post(url, json=order) as response:
            assert response.status == status
        async with session.get(f"{url}/order-3") as response:
            assert response.status == 404
        assert not platform.received


async def test_with_fastapi(tmp_path: Path) -> None:
    """The same in FastAPI: placed once, waited for by the order, and stopped in order."""
    store = f"--store=sqlite:///{tmp_path}/qmc.db"
    service = click_to_call(tmp_path, "fastapi_service.py", store)
    async with service as (platform, url), aiohttp.ClientSession() as session:
        order = f"{url}/order-1?agent=13987654321&customer="
        for customer, status in (("13912340005", 201), ("13912340005", 409), ("nobody", 400)):
            async with session.post(order + customer) as response:
                assert response.status == status
        async with session.get(f"{url}/order-1") as response:
            assert (await response.json())["reason"] == "CalleeBusy"
        assert len(platform.calls) == 1
