"""Injected clients whose transport does more than to send once."""

from __future__ import annotations

import httpx
import pytest
from faulty_platform import CALLEE, CALLER, SECRET, FaultyPlatform, close_after_reading, unreachable

from qmc_async import AsyncQmcClient, CallOutcomeUnknown, TransportError


class Failover(httpx.AsyncBaseTransport):
    """Sends to one address, and on any failure to another."""

    def __init__(self, second: str) -> None:
        self.inner = httpx.AsyncHTTPTransport()
        self.second = second

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, and send elsewhere."""
        try:
            return await self.inner.handle_async_request(request)
        except httpx.TransportError:
            request.url = httpx.URL(self.second)
        return await self.inner.handle_async_request(request)


async def test_a_second_address_proves_nothing_about_the_first() -> None:
    """What was cut off at the first address may ring, though the second one refused."""
    async with FaultyPlatform(close_after_reading) as platform, unreachable() as nowhere:
        async with (
            httpx.AsyncClient(transport=Failover(nowhere), trust_env=False) as plain,
            AsyncQmcClient(1, SECRET, base_url=platform.url, http_client=plain) as client,
        ):
            with pytest.raises(CallOutcomeUnknown):
                await client.call(CALLER, CALLEE)
        assert len(platform.requests) == 1


async def test_a_transport_may_try_to_connect_again() -> None:
    """Httpx's own `retries` are about connections, and change nothing: nothing has left."""
    async with (
        unreachable() as nowhere,
        httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=1), trust_env=False) as plain,
        AsyncQmcClient(1, SECRET, base_url=nowhere, http_client=plain, max_retries=0) as client,
    ):
        with pytest.raises(TransportError, match="nothing left this machine") as caught:
            await client.call(CALLER, CALLEE)
    assert type(caught.value) is TransportError
