"""A load on replicas at a steady rate, as a load balancer spreads it, and who waits meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen
from fault_balancer import Balancer
from fault_platform import OK, body_of
from fault_scene import Server, until
from fault_waits import Asker, read_waits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from fault_scene import Scene
    from server_process import ServerProcess

__all__ = ["Load", "Replica", "replicas_of"]

# Seconds, longer than a database is away: what was done meanwhile is written down before it ends.
_LEASE: Final = 8.0
_AWAITED: Final = 0.5  # of the calls are waited for, on another replica than they are reported to
_DUPLICATES: Final = 0.1  # of the calls are reported twice
_DELAYS: Final = (0.0, 0.05, 0.5)  # seconds between a notification and its copy
_REASONS: Final = ("HangUp", "HangUp", "HangUp", "HangUp", "CalleeNoAnswer")


class Replica:
    """A machine with a disk of its own, whose service is started again when it has ended.

    Args:
        scene: where it plays.
        name: of the machine.
        options: of the process, see `Scene.options`.
    """

    def __init__(self, scene: Scene, name: str, **options: Any) -> None:  # noqa: ANN401 - JSON
        self.spool = scene.folder / f"spool-{name}"
        self._scene = scene
        self._options: dict[str, Any] = {"spool": str(self.spool)} | options
        self.server: Server

    def launch(self) -> None:
        """Start it, and do not wait for it."""
        self.server = self._scene.launch(**self._options)

    async def start(self) -> None:
        """Start it as an init system does: again, until it runs."""
        while True:
            server = self._scene.launch(**self._options)
            if await server.comes_up():
                self.server = server  # from now on; the one before refuses all until then
                return


async def replicas_of(scene: Scene, number: int, *, lease: float = _LEASE) -> list[Replica]:
    """Start replicas that note what `Load` wants to know."""
    notes = {"runs": str(scene.runs), "waits": str(scene.waits)}
    replicas = [Replica(scene, str(one), lease=lease, **notes) for one in range(number)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    return replicas


@frozen
class _Wait:
    call_id: str
    server: Server


@frozen(kw_only=True)
class _Killing:
    """Something that was killed.

    Attributes:
        what: it was.
        name: of the process, where it was a replica's.
        done: by then, as it stands in the database: handlers and calls.
        ended: when it was back, by the monotonic clock.
    """

    what: str
    name: str | None
    done: frozenset[tuple[str, str]]
    ended: float

    def explains(self, work: tuple[str, str], at: float, name: str) -> bool:
        """Whether work that a process did may have to be done again."""
        is_its_own = name == self.name if self.name else at <= self.ended
        return is_its_own and work not in self.done


class Load:
    """Posts to replicas at random, and has others wait for what was posted.

    Args:
        scene: its `platform` is told what was answered.
        replicas: at least two.
        rate: calls in a second.

    Attributes:
        statuses: of all answers.
    """

    def __init__(self, scene: Scene, replicas: Sequence[Replica], *, rate: float) -> None:
        self._scene = scene
        self._replicas = replicas
        self._rate = rate
        self._chance = random.Random(str(rate))  # noqa: S311 - the same each time
        self._balancer = Balancer()
        self._askers: dict[Server, Asker] = {}
        self._waits: set[_Wait] = set()
        self._killings: list[_Killing] = []
        self._begun = 0
        self._posted = 0
        self._unanswered = 0
        self.statuses: Counter[int] = Counter()

    async def report(self, prefix: str, number: int) -> None:
        """Report so many calls, one after another, whatever becomes of the ones before."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        reports: set[asyncio.Task[None]] = set()
        for one in range(number):
            await asyncio.sleep(began + one / self._rate - loop.time())
            reason = _REASONS[one % len(_REASONS)]
            reports.add(asyncio.create_task(self._report(f"{prefix}-{one}", reason)))
            self._begun += 1
        await asyncio.gather(*reports)

    async def until(self, number: int) -> None:
        """Wait until so many calls have been reported in all."""
        await until(lambda: self._begun >= number, f"{number} calls are reported", seconds=600)

    async def _report(self, call_id: str, reason: str) -> None:
        self._scene.platform.reasons[call_id] = reason
        replicas = list(self._replicas)
        self._chance.shuffle(replicas)
        waits = self._chance.random() < _AWAITED
        waits_before = self._chance.random() < 1 / 2
        has_copy = self._chance.random() < _DUPLICATES
        delay = self._chance.choice(_DELAYS)
        if waits and waits_before:
            await self._wait_on(replicas[-1].server, call_id)
        posts = [self._post(replicas, call_id, reason, 0)]
        if has_copy:
            posts.append(self._post(replicas[::-1], call_id, reason, delay))
        await asyncio.gather(*posts)
        if waits and not waits_before:
            await self._wait_on(replicas[-1].server, call_id)

    async def _wait_on(self, server: Server, call_id: str) -> None:
        if server not in self._askers:
            self._askers[server] = Asker(server.address)
        if await self._askers[server].ask(call_id):
            self._waits.add(_Wait(call_id, server))

    async def _post(
        self, replicas: Sequence[Replica], call_id: str, reason: str, delay: float
    ) -> None:
        await asyncio.sleep(delay)
        platform = self._scene.platform
        began = time.monotonic()
        status = await self._balancer.post(replicas, body_of(call_id, reason))
        if status is None:
            self._unanswered += 1
        else:
            self.statuses[status] += 1
            if platform.answered.get(call_id) != OK:
                platform.answered[call_id] = status
        self._posted += 1
        platform.slowest = max(platform.slowest, time.monotonic() - began)

    async def kill_replica(self, replica: Replica) -> None:
        """Kill a replica's process, and start another one at once."""
        async with self.watched("a replica", replica.server.name):
            await replica.server.kill()
            await replica.start()

    async def kill_server(self, server: ServerProcess, seconds: float = 0) -> None:
        """Kill a server, and start it again after some time."""
        async with self.watched(server.name):
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(server.start)

    @asynccontextmanager
    async def watched(self, what: str, name: str | None = None) -> AsyncGenerator[None]:
        """Know what was done by the time that something is killed in this block.

        Args:
            what: it is.
            name: of the process, where it is a replica's.
        """
        done = await self._done()
        yield
        killing = _Killing(what=what, name=name, done=done, ended=time.monotonic())
        self._killings.append(killing)

    async def _done(self) -> frozenset[tuple[str, str]]:
        query = "SELECT handler, event_id FROM qmc_deliveries WHERE state = 'done'"
        return frozenset(await asyncio.to_thread(self._scene.query, query))

    async def end(self) -> str:
        """See that nothing is lost, and all is done and written down; the figures."""
        scene, platform = self._scene, self._scene.platform
        await scene.all_handled(seconds=60)
        await scene.settled()
        await until(lambda: not self._unresolved(), "all waits end")
        waits = sum(wait.server.is_alive for wait in self._waits)
        await self._stop()
        assert not scene.not_in_store()
        kept = [row[0] for row in scene.query("SELECT event_id FROM qmc_events")]
        assert len(kept) == len(set(kept))
        assert set(kept) <= set(platform.reasons), "what is kept has been reported"
        assert self.statuses.keys() == {OK}
        repeated = self._repeated()
        assert "nothing" not in repeated, "what is written down as done is never done again"
        assert sum(repeated.values()) == scene.repeated()
        why = [f"{count} in flight at the loss of {what}" for what, count in repeated.items()]
        reasons = f" ({', '.join(why)})" if why else ""
        return (
            f"{len(platform.reasons)} calls in {self._posted} notifications, {len(platform.kept)} "
            f"answered 200, {self._unanswered} requests cut off; 0 lost, 0 stored twice; {waits} "
            f"waits on another replica, 0 without an end; {scene.repeated()} handled more than "
            f"once{reasons}; slowest answer {platform.slowest:.2f} s"
        )

    async def _stop(self) -> None:
        for asker in self._askers.values():
            await asker.close()
        self._balancer.close()
        for replica in self._replicas:
            await replica.server.stop()
            assert not list(replica.spool.rglob("*.spool")), "nothing stays behind"

    def _unresolved(self) -> set[str]:
        """Calls in the database for which living processes wait still."""
        ended = read_waits(self._scene.waits)
        stored = {row[0] for row in self._scene.query("SELECT event_id FROM qmc_events")}
        return {
            wait.call_id
            for wait in self._waits
            if wait.server.is_alive
            and wait.call_id in stored
            and (wait.call_id, wait.server.name) not in ended
        }

    def _repeated(self) -> Counter[str]:
        """Why work was done more than once: who was killed before it could be written down."""
        runs: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
        for line in self._scene.runs.read_text().split("\n")[:-1]:
            handler, call_id, name, at = line.rsplit(" ", 3)
            runs[handler, call_id].append((float(at), name))
        reasons: Counter[str] = Counter()
        for work, times in runs.items():
            for began, server in sorted(times)[:-1]:
                causes = [one for one in self._killings if one.explains(work, began, server)]
                # A replica that lives writes it down once the database is back.
                causes.sort(key=lambda one: not one.name)
                reasons[causes[0].what if causes else "nothing"] += 1
        return reasons
