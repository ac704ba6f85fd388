"""A client that is closed while its calls are under way."""

from __future__ import annotations

import asyncio

import httpx
from faulty_platform import CALLEE, CALLER, SECRET, FaultyPlatform, never_answer

from qmc_async import AsyncQmcClient, CallOutcomeUnknown


async def test_nobody_is_cancelled_by_a_close() -> None:
    """Calls in flight, and calls that wait for a connection, end with an error of ours.

    aiohttp cancels who waits for a connection; passed on, that would end tasks without a word.
    """
    async with FaultyPlatform(never_answer) as platform:
        client = AsyncQmcClient(
            1, SECRET, base_url=platform.url, limits=httpx.Limits(max_connections=1)
        )
        calls = [asyncio.ensure_future(client.call(CALLER, CALLEE)) for _ in range(3)]
        await platform.received(1)
        await client.aclose()
        endings = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(ending) for ending in endings] == [CallOutcomeUnknown] * 3
    assert len(platform.requests) == 1
