"""The platform loses, delays and hurries notifications, and the service is killed: the ledger."""

from __future__ import annotations

import signal
from collections import Counter
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest
from fault_boundaries import CALL_BOUNDARIES
from fault_calls import CREDENTIALS, callback_url, write_calls
from fault_scene import ROUNDS, until
from server_process import free_port

from qmc_async import CallState, Reason
from qmc_async.models import RecordingResult
from qmc_async.sandbox import Faults, Rule, Sandbox, Scenario, VirtualClock
from qmc_async.store import Store
from qmc_async.store.ledger import CallListing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fault_scene import Scene, Server

    from qmc_async.sandbox.calls import SimulatedCall

pytest_plugins = ["fault_plugin"]

EACH: Final = 6  # calls of each kind
AT_ONCE: Final = 16
KINDS: Final = {
    "told": "0009",
    "told-busy": "0005",
    "dropped": "0021",
    "dropped-busy": "0121",
    "late": "0022",
    "late-busy": "0122",
    "twice": "0023",
    "half": "0024",
    "before-the-reply": "0025",
    "reply-lost": "0031",
    "reply-lost-dropped": "0131",
    "reply-lost-late": "0231",
}
"""The last digits of the callee, by what happens to the call."""

_BUSY: Final = Scenario.for_reason(Reason.CALLEE_BUSY)
_HANG_UP: Final = Scenario.for_reason(Reason.HANG_UP)
_LATE: Final = timedelta(minutes=1)
RULES: Final = (
    Rule(callee="*0121", scenario=_BUSY, faults=Faults(drop_notification=True)),
    Rule(callee="*0122", scenario=_BUSY, faults=Faults(delay_notification=_LATE)),
    Rule(
        callee="*0131",
        scenario=_HANG_UP,
        faults=Faults(lose_reply=True, drop_notification=True),
    ),
    Rule(
        callee="*0231",
        scenario=_HANG_UP,
        faults=Faults(lose_reply=True, delay_notification=_LATE),
    ),
)
"""What the sandbox's own table of digits does not have."""

_STATES: Final = "SELECT out_call_id, state FROM qmc_calls"
_DUE: Final = "SELECT count(*) FROM qmc_calls WHERE due_at IS NOT NULL"
_KEPT: Final = "SELECT event_id FROM qmc_events WHERE kind = 'disconnected'"
_OVERDUE: Final = "SELECT out_call_id FROM qmc_events WHERE kind = 'missing'"


class _Service:
    """A service, killed and started again on one store and one port, and what it must end with.

    Attributes:
        scene: where it plays.
        names: our ids of all calls.
        calls: the file that tells the service of them, until all are placed.
        in_flight: calls of which the first process had not written down what the platform said.
        early: calls whose notification was in the store before any deadline was looked at.
        pending: what handlers had not been done with as a process died.
    """

    def __init__(self, scene: Scene, sandbox: Sandbox, prefix: str) -> None:
        self.scene = scene
        self._sandbox = sandbox
        self._port = free_port()
        wanted = [
            (f"{prefix}-{kind}-{number}", f"1391234{digits}")
            for number in range(EACH)
            for kind, digits in KINDS.items()
        ]
        self.names = {name for name, _ in wanted}
        self.calls = scene.folder / f"calls-{prefix}"
        write_calls(self.calls, wanted)
        self.in_flight: set[str] = set()
        self.early: set[str] = set()
        self.pending: set[tuple[str, str]] = set()
        sandbox.callback_url = callback_url(self._port)

    async def start(self, **options: Any) -> Server:  # noqa: ANN401 - see `Scene.options`
        """Start the service in the place of the one before."""
        return await self.scene.start(
            handlers="calls",
            platform=self._sandbox.base_url,
            port=self._port,
            patience=20.0,
            calls=str(self.calls),
            calls_at_once=AT_ONCE,
            missing_after=0.2,
            **options,
        )

    def note_pending(self) -> None:
        """Note what may be handled again, because its process is dead."""
        self.pending |= self.scene.pending()

    def states(self) -> dict[str, str]:
        """The states of all calls, as they stand in the file."""
        rows = self.scene.query(_STATES)
        return {name: state for name, state in rows if name in self.names}

    def kept(self) -> set[str]:
        """Of which calls the notification is in the file, by our ids."""
        ids = {row[0] for row in self.scene.query(_KEPT)}
        return {name for name, call in self.placed().items() if call.call_id in ids}

    def placed(self) -> dict[str, SimulatedCall]:
        """The platform's calls, by our ids."""
        calls = self._sandbox.calls.values()
        return {str(one.out_call_id): one for one in calls if one.out_call_id in self.names}

    def reported(self) -> set[str]:
        """Of which calls a whole notification must have been answered for, by our ids."""
        cut_off = {one.call_id for one in self._sandbox.notifications if one.http_status is None}
        return {
            name
            for name, call in self.placed().items()
            if call.call_id not in cut_off
            and not call.behaviour.faults.malformed_notification
            and not call.behaviour.faults.drop_notification
        }

    def is_settled(self) -> bool:
        """Whether nobody is to look for any call again."""
        return bool(self.scene.query(_DUE) == [(0,)])

    def taken_for(self, name: str) -> CallState:
        """What a call must be taken for at its deadline."""
        if name in self.early:
            return CallState.ENDED
        call = self.placed().get(name)
        if call is None or name in self.in_flight or call.behaviour.faults.lose_reply:
            return CallState.MISSING  # nobody has its id, so its recording cannot be asked for
        is_recorded = call.recording is RecordingResult.SUCCESS
        return CallState.INFERRED if is_recorded else CallState.MISSING

    def ends_as(self, name: str) -> CallState:
        """What it must be in the end: a notification wins, whenever it comes."""
        return CallState.ENDED if name in self.kept() else self.taken_for(name)

    def to_be_told(self) -> set[tuple[str, str]]:
        """What handlers must be told, and which call it is about."""
        ended = {("ended", name) for name in self.kept()}
        overdue = {(self.taken_for(name).value, name) for name in self.names - self.early}
        return ended | overdue

    def told(self) -> Counter[tuple[str, str]]:
        """What they were told, and how often."""
        told = self.scene.handled()
        return Counter({one: count for one, count in told.items() if one[1] in self.names})

    def repeated(self) -> set[tuple[str, str]]:
        """What they were told more than once."""
        return {one for one, count in self.told().items() if count > 1}


async def _place(service: _Service, step: str, after: int) -> Server:
    """Place the calls: one process dies over it, and the next one tries all of them again."""
    # Neither looks for overdue calls: which notifications are in time is the test's to say.
    first = await service.start(watchdog=False, kill=step, after=after, armed=True)
    assert await first.ends() == -signal.SIGKILL, first.log.read_text()
    service.note_pending()
    service.in_flight = {name for name, state in service.states().items() if state == "placing"}
    assert len(service.in_flight) <= AT_ONCE
    second = await service.start(watchdog=False)
    await until(lambda: not service.calls.exists(), "all are placed")
    return second


async def _look(service: _Service, step: str, after: int) -> Server:
    """Look for the overdue calls: one process dies over it, and the next one comes to the end."""
    third = await service.start(kill=step, after=after, armed=True)
    assert await third.ends() == -signal.SIGKILL, third.log.read_text()
    service.note_pending()
    fourth = await service.start()
    await until(service.is_settled, "no call is overdue")
    await until(lambda: service.to_be_told() <= set(service.told()), "all are told of")
    return fourth


async def _check(service: _Service, sandbox: Sandbox) -> None:
    told, kept = service.told(), service.kept()
    assert set(told) == service.to_be_told(), "nobody is told of anything else"
    pending = {
        (service.taken_for(name) if handler == "overdue" else handler, name)
        for handler, name in service.pending
    }
    assert service.repeated() <= pending, "only what a process died over is told of twice"
    overdue = [row[0] for row in service.scene.query(_OVERDUE) if row[0] in service.names]
    assert sorted(overdue) == sorted(service.names - service.early), "each is noticed once"
    assert service.reported() <= kept, "no notification that was answered for is lost"
    assert service.states() == {name: service.taken_for(name) for name in service.names}
    rung = Counter(call.out_call_id for call in sandbox.calls.values())
    assert set(rung.values()) == {1}, "no telephone rings twice"
    store = Store(f"sqlite:///{service.scene.database}", spool=service.scene.spool)
    async with store:
        entries, _ = await store.list_calls(CallListing(limit=10_000))
        found = {entry.out_call_id: entry for entry in entries}
        for name in service.names:
            entry = found[name]
            assert entry == await store.ledger_entry(out_call_id=name)
            assert entry.state is service.ends_as(name), name
            call = service.placed().get(name)
            if name in kept or entry.call_id is not None:
                assert call is not None
                assert entry == await store.ledger_entry(call_id=call.call_id)


async def _play(service: _Service, sandbox: Sandbox, steps: Sequence[str], chance: Random) -> None:
    """Let it all happen."""
    placing, looking = steps
    # Each step comes at least so often.
    second = await _place(service, placing, chance.randint(1, len(service.names) - AT_ONCE))
    await sandbox.advance(seconds=40)  # there are recordings, and the late are yet to be reported
    await second.kill()
    service.note_pending()
    service.early = service.kept()
    # How much a look finds is known once it has looked.
    after = 1 if looking == "before look" else chance.randint(1, 3 * EACH)
    fourth = await _look(service, looking, after)
    await sandbox.advance(minutes=2)
    await until(lambda: service.to_be_told() <= set(service.told()), "the late are told of")
    await until(lambda: not service.scene.pending(), "that is written down")
    await fourth.stop()


@pytest.mark.timeout(60 + 10 * ROUNDS)
@pytest.mark.parametrize("boundary", CALL_BOUNDARIES)
async def test_killed(scene: Scene, figure: Callable[[str], None], boundary: str) -> None:
    """Each call is in the ledger as what it is, and handlers were told so, whatever went wrong."""
    chance = Random(boundary)  # noqa: S311 - the same each time
    count: Counter[str] = Counter()
    for number in range(max(1, ROUNDS // 2)):
        async with Sandbox(CREDENTIALS, clock=VirtualClock(), rules=RULES) as sandbox:
            service = _Service(scene, sandbox, str(number))
            await _play(service, sandbox, CALL_BOUNDARIES[boundary], chance)
            await _check(service, sandbox)
        count.update(service.ends_as(name) for name in service.names)
        count["late"] += len(service.kept() - service.early)
        count["in flight"] += len(service.in_flight)
        count["repeated"] += len(service.repeated())
    figure(
        f"the ledger, SIGKILL {boundary}: {count['in flight']} calls in flight as they were "
        f"placed; {count['ended']} ended ({count['late']} of them after they were overdue), "
        f"{count['inferred']} inferred, {count['missing']} missing, no telephone rang twice; "
        f"handlers told of each, of {count['repeated']} more than once"
    )
