"""What stands between the platform and the replicas: it sends to any of them, as nginx does."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from fault_platform import BROKEN, Connection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fault_load import Replica
    from fault_scene import Server

__all__ = ["Balancer"]


class Balancer:
    """Keeps connections to the processes of replicas."""

    def __init__(self) -> None:
        self._idle: dict[Server, list[Connection]] = {}

    async def post(self, replicas: Iterable[Replica], body: bytes) -> int | None:
        """Send a notification to the first of the replicas that listens.

        Returns:
            The answer's HTTP status; None where the process has died before it answered.
        """
        for replica in replicas:
            # As nginx does: another one, as long as nothing was sent.
            with suppress(ConnectionRefusedError):
                return await self._post_to(replica.server, body)
        raise AssertionError("no replica listens")

    async def _post_to(self, server: Server, body: bytes) -> int | None:
        idle = self._idle.setdefault(server, [])
        connection = idle.pop() if idle else Connection(server.url)
        try:
            status = await connection.post(body)
        except ConnectionRefusedError:
            raise
        except BROKEN:
            connection.close()
            return None
        idle.append(connection)
        return status

    def close(self) -> None:
        """Let go of the sockets."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
