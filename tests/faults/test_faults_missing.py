"""Thousands of calls, of which some are never reported: those are noticed, and no others."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from fault_calls import write_calls
from fault_load import Replica
from fault_scene import FULL, until
from fault_switchboard import Switchboard

from qmc_async import CallState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from database_servers import TestDatabase
    from fault_scene import Scene

pytest_plugins = ["fault_plugin"]

CALLS: Final = 10_000 if FULL else 1_000
REPLICAS: Final = 3
SILENT: Final = 20  # one call in so many is never reported
# Seconds. A machine that stands still for as long would have the others overdue as well.
DEADLINE: Final = 10.0
OUTCOMES: Final = (CallState.INFERRED, CallState.MISSING)
_DUE: Final = "SELECT count(*) FROM qmc_calls WHERE due_at IS NOT NULL"
_STATES: Final = "SELECT out_call_id, state, call_id FROM qmc_calls"
_LEASES: Final = "SELECT out_call_id, fence FROM qmc_calls"
_REPORTS: Final = "SELECT kind, out_call_id FROM qmc_events"


def _told_of(scene: Scene) -> Counter[tuple[str, str]]:
    """What on_missing handlers were told: the outcome and our id, and how many times."""
    return Counter({one: count for one, count in scene.handled().items() if one[0] in OUTCOMES})


def _replicas(scene: Scene, switchboard: Switchboard, names: Sequence[str]) -> list[Replica]:
    return [
        Replica(
            scene,
            str(one),
            handlers="calls",
            takes=0.0,
            lease=5.0,
            patience=20.0,
            platform=switchboard.url,
            missing_after=DEADLINE,
            calls=write_calls(
                scene.folder / f"calls-{one}",
                ((name, "13912345678") for name in names[one::REPLICAS]),
            ),
            calls_at_once=32,
            # It counts only what it finds: it dies with leases on calls in its hands.
            kill="" if one else "after look",
            after=1,
        )
        for one in range(REPLICAS)
    ]


def _check(
    scene: Scene,
    switchboard: Switchboard,
    ends: Mapping[str, CallState],
    pending: set[tuple[str, str]],
) -> int:
    """Compare all with what each call must end as; how much was handled more than once."""
    assert scene.called() == Counter(("placed", name) for name in ends)
    assert switchboard.placed == len(ends), "no telephone rings twice"
    handled = scene.handled()
    assert set(handled) == {(end.value, name) for name, end in ends.items()}
    repeated = {one for one, count in handled.items() if count > 1}
    in_flight = {(ends[name].value, name) for _, name in pending}
    assert repeated <= in_flight, "only what was in flight as the replica died is told of twice"
    assert sorted(scene.query(_REPORTS)) == sorted(
        ("disconnected" if end is CallState.ENDED else "missing", name)
        for name, end in ends.items()
    )
    assert sorted(scene.query(_STATES)) == sorted(
        (name, end.value, switchboard.call_ids[name]) for name, end in ends.items()
    )
    silent = {name for name, end in ends.items() if end is not CallState.ENDED}
    assert set(switchboard.asked) == silent, "of no other a recording is asked for"
    leases = dict(scene.query(_LEASES))
    assert all(count <= leases[name] for name, count in switchboard.asked.items())
    return len(repeated)


@pytest.mark.timeout(420)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_thousands(
    scene: Scene, database: TestDatabase, figure: Callable[[str], None]
) -> None:
    """Three replicas, one killed as it looks: each call that is not reported is told of, once."""
    scene.store = database
    names = [f"call-{number}" for number in range(CALLS)]
    silent = {name: OUTCOMES[one % 2] for one, name in enumerate(names[::SILENT])}
    async with Switchboard(silent).listening() as switchboard:
        replicas = switchboard.replicas = _replicas(scene, switchboard, names)
        began = time.monotonic()
        await asyncio.gather(*(replica.start() for replica in replicas))
        # What the notes tell is looked at rarely: they are long, and the machine is the replicas'.
        await until(
            lambda: scene.called().total() == CALLS, "all are placed", seconds=300, every=0.5
        )
        placed = time.monotonic() - began
        await until(lambda: len(switchboard.statuses) == CALLS - len(silent), "all are reported")
        assert set(switchboard.statuses.values()) == {200}
        await until(
            lambda: len(_told_of(scene)) > len(silent) // 3, "a third is told of", every=0.2
        )
        replicas[0].server.arm()
        assert await replicas[0].server.ends() == -signal.SIGKILL
        pending = scene.pending()
        told_then = len(_told_of(scene))
        await replicas[0].start()
        await until(lambda: scene.query(_DUE) == [(0,)], "all are settled", seconds=60, every=0.2)
        settled = time.monotonic() - began
        await until(lambda: len(_told_of(scene)) >= len(silent), "all are told of", every=0.2)
        await scene.settled()
        for replica in replicas:
            await replica.server.stop()
    ends = dict.fromkeys(names, CallState.ENDED) | silent
    repeated = _check(scene, switchboard, ends, pending)
    figure(
        f"{CALLS} calls by {REPLICAS} replicas on one {database.kind} in {placed:.1f} s, "
        f"{len(silent)} of them never reported, the others at most {switchboard.slowest:.2f} s "
        f"after; a replica killed while it looks, after {told_then} are told of: each told of "
        f"once, all settled after {settled:.1f} s ({DEADLINE:g} s of them the deadline), 0 others "
        f"told of; {repeated} handled more than once (in flight as it died), "
        f"{sum(switchboard.asked.values())} questions for recordings"
    )
