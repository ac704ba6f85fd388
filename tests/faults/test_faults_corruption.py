"""The database's file is broken from outside while notifications come in."""

from __future__ import annotations

import os
import random
from contextlib import closing
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from fault_platform import body_of
from fault_scene import ROUNDS, until

from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from fault_scene import Scene, Server

pytest_plugins = ["fault_plugin"]

REASONS = ["CalleeNoAnswer", "HangUp", "HangUp", "HangUp"]
OLD = 8000  # events
CACHE = 10  # pages that SQLite keeps in memory: few stand for a file too large to be kept there
BEFORE, AFTER = 100, 200  # answers
LATER = 1.0  # seconds between two tries, at most


async def _start(scene: Scene) -> Server:
    """A server on a store that has handled much already."""
    async with Store(f"sqlite:///{scene.database}", spool=scene.spool):
        pass
    ids = [f"{crc32(b'%d' % number):08x}-old-{number}" for number in range(OLD)]
    with closing(scene.connect()) as connection:
        connection.execute(f"PRAGMA default_cache_size = {CACHE}")
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO qmc_events (event_id, kind, received_at, receipt_id, problem, body, "
            "routed) VALUES (?, 'disconnected', 0, '', '', ?, 1)",
            [(one, body_of(one) + b" " * 300) for one in ids],
        )
        connection.executemany(
            "INSERT INTO qmc_deliveries (event_id, handler, state, attempts, fence, changed_at, "
            "error) VALUES (?, 'good', 'done', 0, 1, 0, '')",
            [(one,) for one in ids],
        )
        connection.execute("COMMIT")
    return await scene.start(later=LATER)


def _truncate(scene: Scene, _: random.Random) -> None:
    os.truncate(scene.database, 0)


def _halve(scene: Scene, _: random.Random) -> None:
    os.truncate(scene.database, scene.database.stat().st_size // 2 + 100)


def _overwrite(scene: Scene, chance: random.Random) -> None:
    with scene.database.open("r+b") as file:
        file.write(chance.randbytes(scene.database.stat().st_size))


def _overwrite_head(scene: Scene, chance: random.Random) -> None:
    with scene.database.open("r+b") as file:
        file.write(chance.randbytes(4096))


def _flip(scene: Scene, chance: random.Random) -> None:
    with scene.database.open("r+b") as file:
        place = chance.randrange(scene.database.stat().st_size)
        file.seek(place)
        [byte] = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))


async def _break(
    scene: Scene, server: Server, harm: Callable[[], None], patience: int
) -> tuple[int, int]:
    """Break the file under load; how many retries were waiting, and how many of them were lost."""
    platform = scene.platform
    known = set(scene.set_aside())
    before = len(platform.answered)
    async with platform.posting(server.url, f"broken-{before}", REASONS):
        await platform.until_answered(BEFORE)
        harm()
        # Some breaks are noticed late, and some never.
        await until(
            lambda: set(scene.set_aside()) - known or len(platform.answered) > before + patience,
            "so many answers come",
        )
        done = scene.handled()
        retried = {one for one, reason in platform.kept.items() if reason == "CalleeNoAnswer"}
        waiting = {one for one in retried if ("later", one) not in done}
        await platform.until_answered(AFTER)
    assert platform.statuses.keys() == {200}, "it goes on receiving"
    await scene.all_handled(good_only=True)
    await scene.settled()
    lost = {one for _, one in scene.missing()} - scene.given_up
    scene.given_up |= lost
    assert not lost, "what the process knows of is written down again"
    return len(waiting), len(lost)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("harm", [_truncate, _halve, _overwrite])
async def test_broken(
    scene: Scene,
    figure: Callable[[str], None],
    harm: Callable[[Scene, random.Random], None],
) -> None:
    """It is set aside, a fresh one takes its place, and all handlers see what was answered for."""
    chance = random.Random(4711)  # noqa: S311 - the same each time
    server = await _start(scene)
    waiting, lost = await _break(scene, server, lambda: harm(scene, chance), 800)
    assert scene.set_aside()
    status, problems = await server.ready()
    assert (status, "set_aside" in problems) == (503, True)
    # A copy that is not whole is gone on with after a restart.
    await until(lambda: "calls were copied from" in server.log.read_text(), "it is copied")
    await server.stop()
    [(old,)] = scene.query("SELECT count(*) FROM qmc_events WHERE event_id LIKE '%-old-%'")
    server = await scene.start()
    assert await server.ready() == (200, []), "after a restart it is well again"
    await server.stop()
    figure(
        f"file broken ({harm.__name__.strip('_')}): {len(scene.platform.kept)} answered 200, 0 of "
        f"them not handled at all; of {waiting} waiting for a retry {lost} LOST; of {OLD} old "
        f"events {old} copied; {scene.repeated()} handled more than once"
    )


@pytest.mark.timeout(120 + ROUNDS * 30)
@pytest.mark.parametrize("harm", [_flip, _overwrite_head])
async def test_hardly_broken(
    scene: Scene,
    figure: Callable[[str], None],
    harm: Callable[[Scene, random.Random], None],
) -> None:
    """Whether it is noticed or not, all handlers see what was answered for."""
    chance = random.Random(4711)  # noqa: S311 - the same each time
    server = await _start(scene)
    waiting = lost = 0
    for _ in range(ROUNDS):
        more = await _break(scene, server, lambda: harm(scene, chance), 300)
        waiting, lost = waiting + more[0], lost + more[1]
    status, problems = await server.ready()
    assert ("set_aside" in problems) == bool(scene.set_aside()) == (status == 503)
    await server.stop()
    figure(
        f"file broken {ROUNDS} times ({harm.__name__.strip('_')}): {len(scene.platform.kept)} "
        f"answered 200, 0 of them not handled at all; of {waiting} waiting for a retry {lost} "
        f"LOST; {len(scene.set_aside())} files set aside"
    )
