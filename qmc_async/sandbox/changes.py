"""How whoever watches a sandbox hears that something has happened."""

from __future__ import annotations

import asyncio

__all__ = ["Changes"]


class Changes:
    """A count of what happened, to be waited for on one event loop.

    Attributes:
        count: how often something has happened.
    """

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def renew(self) -> None:
        """Begin anew on the running event loop; the count goes on."""
        self._changed = asyncio.Event()

    def notice(self) -> None:
        """Something has happened: let those who wait look."""
        self.count += 1
        self._changed.set()

    async def wait(self) -> None:
        """Wait until something happens from now on."""
        self._changed.clear()
        await self._changed.wait()
