"""PostgreSQL's bell: what one process has kept, the others hear at once.

It only hastens: whoever waits looks into the store as well. Nothing is heard behind a PgBouncer
that pools transactions, because it takes the ear away with the transaction.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from qmc_async.store.transaction import CHANNEL

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from sqlalchemy import Engine

__all__ = ["Bell"]

logger = logging.getLogger(__name__)

_TRIED_EVERY: Final = 1.0  # seconds


class Bell:
    """A connection of its own that listens.

    Args:
        engine: knows where to connect.
        options: for the connection, beside and before what the engine's URL says.
    """

    def __init__(self, engine: Engine, options: Mapping[str, Any]) -> None:
        _, named = engine.dialect.create_connect_args(engine.url)
        self._named: dict[str, Any] = {**named, **options}
        self.is_heard = False
        """Whether anything was heard since it last connected; also what this process rang."""

    async def listen_for_ever(self, on_names: Callable[[Collection[str] | None], None]) -> None:
        """Listen, and connect again whenever the connection is lost; never returns.

        Args:
            on_names: told the keys of the ids of calls that have ended; None where some may have
                been missed.
        """
        import psycopg  # noqa: PLC0415 - it is there only where it is needed

        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    **self._named, autocommit=True
                ) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    on_names(None)
                    async for heard in connection.notifies():
                        self.is_heard = True
                        on_names(_names(heard.payload))
            except (psycopg.Error, OSError) as error:
                logger.debug("the database is not heard: %s", type(error).__name__)
            finally:
                self.is_heard = False
            await asyncio.sleep(_TRIED_EVERY)


def _names(payload: str) -> list[str] | None:
    """What was told; None where it is nothing of ours: anybody can ring."""
    try:
        told: object = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    names = cast("list[object]", told) if isinstance(told, list) else [None]
    found = [name for name in names if isinstance(name, str)]
    return found if len(found) == len(names) else None
