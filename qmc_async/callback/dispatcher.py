"""Deliveries: each event to each handler that wants it, until it is done or given up.

1. What is delivered is leased: by us, until it is settled, for as long as we live and renew.
2. An event that was just kept goes to its handlers from memory, as far as they have room, or will
   have soon. What they have no room for stays in the store, and is fetched when they have.
3. A handler that fails is tried again later; its siblings do not notice.
4. An attempt that was cut short from outside is no failure: its lease is given back.
5. A slot is free again once the handler is done. What waits for a slot, and what waits to be
   written down, is bounded too: there is no more room while there is too much of it.
6. What a handler has made of an event is written down until that succeeds, and held until then.
7. What could not be kept is delivered from memory, and not again by us where it is kept after all.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from attrs import evolve

from qmc_async.callback.delivery import Delivery, Postpone, Reject
from qmc_async.callback.patience import Patience
from qmc_async.errors import StoreError
from qmc_async.models import ids_of
from qmc_async.numbers import mask_in_text
from qmc_async.store.records import LEASE, Claim, Kind, Outcome, Poll, Put, State, from_milliseconds
from qmc_async.telemetry import SILENT

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from qmc_async.callback.handlers import Handler, Handlers
    from qmc_async.models import Event, LedgerEntry
    from qmc_async.store import Store
    from qmc_async.store.records import Kept, Receipt
    from qmc_async.telemetry import Handling, Telemetry

__all__ = ["Dispatcher"]

logger = logging.getLogger(__name__)

R = TypeVar("R")

_POLLED_EVERY: Final = 1.0  # seconds
_RENEWED_EVERY: Final = LEASE / 3
_CHECKED_EVERY: Final = 60.0  # seconds
_CANCELLED_DELAY: Final = 60.0  # seconds
_UNSETTLED: Final = 1000  # outcomes of one handler that wait to be written down
_REMEMBERED: Final = 10_000  # deliveries that are not done, and not under way
_LONGEST_REMEMBERED: Final = 4096  # bytes of a body; the platform's have less than 1000
_NEVER_SETTLED: Final = 2  # a fence: leased, and once more when that ended; settling raises it too
_UNWINDING: Final = 1.0  # seconds that a cancelled handler has for its clean-up
_LONGEST_ERROR: Final = 2000  # characters that a dead letter keeps


class Dispatcher:
    """Runs the handlers of one server.

    Args:
        handlers: of the server.
        store: where events and deliveries are.
        max_concurrency: how many runs of one handler may go on at once.
        telemetry: is told of each run.
    """

    def __init__(
        self,
        handlers: Handlers,
        store: Store,
        *,
        max_concurrency: int,
        telemetry: Telemetry = SILENT,
    ) -> None:
        self._handlers = handlers
        self._store = store
        self._telemetry = telemetry
        self._slots = max_concurrency
        self._booked: Counter[str] = Counter()
        self._bookings: dict[int, Put] = {}
        self._taken: Counter[str] = Counter()
        self._settling: Counter[str] = Counter()
        self._ready: dict[str, deque[Claim]] = defaultdict(deque)
        self._behind: set[str] = set()
        self._held: dict[tuple[str, str], Claim] = {}
        self._unsettled: list[Outcome] = []
        self._writing: dict[int, Outcome] = {}
        self._written_all = asyncio.Event()
        self._waiting: OrderedDict[tuple[str, str], Outcome] = OrderedDict()
        self._unkept: OrderedDict[tuple[str, str], asyncio.Task[Outcome]] = OrderedDict()
        """By receipt and handler: what it has done already, where the event is kept after all."""
        self._files_lost = 0
        self._running: dict[asyncio.Task[Any], Claim | None] = {}
        """Each handler's run, with what is to be given back if nothing comes of it."""
        self._numbers = itertools.count()
        self._patience = Patience()
        self._polling: asyncio.Task[None]  # since the start
        self._renewing: asyncio.Task[None]
        self._look = asyncio.Event()
        self._looked_until = 0
        self._stopping = True
        self.left_over: frozenset[str] = frozenset()
        """Handlers that others have registered, and that nobody runs any more."""

    def start(self) -> None:
        """Begin to look for what an earlier process has left, and for what is due again."""
        self._stopping = False
        self._written_all = asyncio.Event()
        self._patience = Patience()  # its timer is the event loop's
        # What an earlier run has asked for, and was never told, as its event loop had ended.
        self._unsettled += self._writing.values()
        self._writing.clear()
        self._bookings.clear()
        self._booked.clear()
        self._waiting.clear()
        self._unkept = OrderedDict((key, task) for key, task in self._unkept.items() if task.done())
        self.left_over = frozenset()
        self._files_lost = self._store.files_lost
        self._look = asyncio.Event()
        self._polling = asyncio.create_task(self._poll_for_ever(), name="qmc poll")
        self._renewing = asyncio.create_task(self._renew_for_ever(), name="qmc leases")

    def look(self) -> None:
        """Look for deliveries that are due now, not only at the next tick."""
        self._look.set()

    def prepare(self, receipt: Receipt) -> Put:
        """Book a slot at each handler that wants what came, where there is one.

        The slots are booked until `cancel`.
        """
        room = {name: self._room(name) > 0 for name in self._handlers.wanting(receipt.event)}
        for name, has_room in room.items():
            if has_room:
                self._booked[name] += 1
            else:
                self._behind.add(name)
        put = Put(receipt, room, self._store.owner, self._handlers.of_conflicts)
        self._bookings[id(put)] = put
        return put

    def cancel(self, put: Put) -> None:
        """Give the slots of a `Put` back."""
        if self._bookings.pop(id(put), None) is None:  # of before the last start
            return
        for name, booked in (put.handlers or {}).items():
            if booked:
                self._booked[name] -= 1

    def _room(self, name: str) -> int:
        """How many more deliveries a handler may be given."""
        if self._stopping or self._settling[name] >= _UNSETTLED:
            return 0
        return self._slots - self._taken[name] - self._booked[name] - len(self._ready[name])

    def _has_much_room(self, name: str) -> bool:
        return self._room(name) >= (self._slots + 1) // 2

    def deliver(self, kept: Kept) -> None:
        """Start the handlers of an event that was kept."""
        for claim in kept.claims:
            self._begin(claim)
        if kept.kind is Kind.CONFLICT:
            self._look.set()

    def remember(self, put: Put, kept: Kept | None) -> None:
        """Be able to write down again what was kept, and waits for its handlers in the store.

        Args:
            put: what was kept.
            kept: what became of it; None where it is in the spool.
        """
        receipt = put.receipt
        if kept is not None and kept.kind is not receipt.kind:
            return
        for name, leased in (put.handlers or {}).items():
            if kept is None or not leased:
                self._remember(Outcome(receipt.claim(name, fence=0), State.PENDING))

    def deliver_unkept(self, receipt: Receipt) -> None:
        """Start the handlers of an event that could not be kept, and may never be."""
        for name in self._handlers.wanting(receipt.event):
            work = self._attempt(self._handlers.by_name[name], receipt.claim(name, fence=0))
            task = self._run(work, name, None)
            _remember_among(self._unkept, (receipt.receipt_id, name), task, receipt)

    async def stop(self, end: float) -> None:
        """Let the running handlers end, and give back what they hold.

        Args:
            end: by `time.monotonic`; handlers that take longer are cancelled.
        """
        self._stopping = True
        self._look.set()
        # A handler that stops the server does not wait for itself.
        running = set(self._running) - {asyncio.current_task()}
        for claim in itertools.chain.from_iterable(self._ready.values()):
            self._held.pop(claim.key)
            self._unsettled.append(Outcome(claim, State.PENDING))
        self._ready.clear()
        loops = {self._polling, self._renewing}
        try:
            # It ends by itself, and gives back what it has just leased.
            await asyncio.wait({self._polling}, timeout=_UNWINDING)
            if running:
                await asyncio.wait(running, timeout=max(0.0, end - time.monotonic()))
        finally:
            # Also where stopping is cancelled: nothing of ours outlives it.
            late = {task for task in running if not task.done()}
            for task in late | loops:
                task.cancel()
        if late:
            # A handler that will not be cancelled must not keep the server from stopping.
            await asyncio.wait(late, timeout=max(_UNWINDING, end - time.monotonic()))
        await asyncio.gather(*loops, return_exceptions=True)
        self._settle_rest()
        if self._writing:
            self._written_all.clear()
            with suppress(TimeoutError):  # what is not given back expires by itself
                async with asyncio.timeout(max(_UNWINDING, end - time.monotonic())):
                    await self._written_all.wait()
        await self._telemetry.finish()

    def is_running(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a task is a handler's."""
        return task in self._running

    def _begin(self, claim: Claim) -> None:
        unkept = self._unkept.pop((claim.receipt.receipt_id, claim.handler), None)
        if unkept is not None and claim.fence <= _NEVER_SETTLED:
            self._held[claim.key] = claim
            if unkept.done():
                self._settle_unkept(claim, unkept)
            else:
                unkept.add_done_callback(partial(self._settle_unkept, claim))
            return
        # What was polled meets what came meanwhile, and the store may have kept it too late.
        ready = self._ready[claim.handler]
        if self._stopping or len(ready) >= self._slots:
            self._unsettled.append(Outcome(claim, State.PENDING))
            return
        self._held[claim.key] = claim
        self._waiting.pop(claim.key, None)
        if self._taken[claim.handler] < self._slots:
            self._start(claim)
        else:
            ready.append(claim)

    def _start(self, claim: Claim) -> None:
        handler = self._handlers.by_name[claim.handler]
        self._run(self._deliver(handler, claim), handler.name, claim)

    def _settle_unkept(self, claim: Claim, task: asyncio.Task[Outcome]) -> None:
        """Write down what became of an event that was kept after all."""
        if task.cancelled() or task.exception() is not None:
            del self._held[claim.key]
            self._unsettled.append(Outcome(claim, State.PENDING))
        else:
            self._settling[claim.handler] += 1
            self._settle(evolve(task.result(), claim=claim))

    def _run(self, work: Coroutine[Any, Any, R], name: str, claim: Claim | None) -> asyncio.Task[R]:
        self._taken[name] += 1
        task = asyncio.create_task(work, name=f"qmc handler {name}")
        self._running.setdefault(task, claim)  # an eager task may have done its work already
        task.add_done_callback(partial(self._ended, name))
        return task

    def _ended(self, name: str, task: asyncio.Task[Any]) -> None:
        claim = self._running.pop(task)
        if not task.cancelled():
            task.exception()  # or asyncio complains of what goes through the loop anyway
        if claim is not None:
            # Whoever cancels it may go on doing so.
            delay = 0.0 if self._stopping else _CANCELLED_DELAY
            self._held.pop(claim.key, None)
            self._unsettled.append(Outcome(claim, State.PENDING, delay=delay))
        self._taken[name] -= 1
        if self._ready[name] and not self._stopping:
            self._start(self._ready[name].popleft())
        # Not one by one: what is fetched together costs one transaction.
        elif name in self._behind and self._has_much_room(name):
            self._look.set()

    async def _deliver(self, handler: Handler, claim: Claim) -> None:
        outcome = await self._attempt(handler, claim)
        # Also where the task ends as cancelled: a handler may cancel it as the last that it does.
        self._running[cast("asyncio.Task[Any]", asyncio.current_task())] = None
        self._settling[handler.name] += 1
        self._settle(outcome)

    async def _attempt(self, handler: Handler, claim: Claim) -> Outcome:
        attempt = claim.attempts + 1
        delivery: Delivery | None = None
        if handler.takes_delivery:
            delivery = Delivery(
                attempt=attempt,
                first_seen=from_milliseconds(claim.receipt.received_at),
                idempotency_key=f"{claim.event_id}:{handler.name}",
                body=b"" if claim.kind is Kind.MISSING else claim.receipt.body,
                find_entry=partial(self._find_entry, claim.event),
            )
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        patience = self._patience
        with self._telemetry.handling(handler.name, claim.event, attempt) as run:
            is_late = False
            try:
                if handler.timeout is not None:
                    patience.begin(task, handler.timeout)
                try:
                    await handler.handle(claim.event, delivery)
                finally:
                    is_late = patience.end(task)
            except (KeyboardInterrupt, GeneratorExit):
                raise  # it is the program's, not the handler's
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and task.cancelling():
                    logger.warning(
                        "the handler %s was cancelled at event %s, which it gets again",
                        handler.name,
                        claim.event_id,
                    )
                    raise
                return _outcome_of(error, handler, claim, run, is_late=is_late)
            run.ends("done")
            return Outcome(claim, State.DONE)

    async def _find_entry(self, event: Event) -> LedgerEntry | None:
        call_id, out_call_id = ids_of(event)
        return await self._store.ledger_entry(call_id=call_id, out_call_id=out_call_id)

    def _settle(self, outcome: Outcome) -> None:
        number = next(self._numbers)
        self._writing[number] = outcome
        written = partial(self._written, number)
        try:
            self._store.begin_to_settle(outcome, written)
        except StoreError as error:
            written(error)

    def _written(self, number: int, answer: bool | BaseException) -> None:  # noqa: FBT001 - the store's
        outcome = self._writing.pop(number, None)
        if outcome is None:  # of before the last start, which has put it back
            return
        if not self._writing:
            self._written_all.set()
        is_error = isinstance(answer, BaseException)
        if is_error and not self._stopping and getattr(answer, "temporary", True):
            self._unsettled.append(outcome)  # it is tried again at the next look
            return
        claim = outcome.claim
        if self._held.get(claim.key) is not claim:  # it is given back
            if is_error and not self._stopping:  # by then it expires by itself
                logger.error("event %s could not be given back: %s", claim.event_id, answer)
            return
        del self._held[claim.key]
        self._settling[claim.handler] -= 1
        if is_error:
            logger.error(
                "what the handler %s made of event %s could not be written down (%s): it may get "
                "it again",
                claim.handler,
                claim.event_id,
                answer,
            )
        elif not answer:
            logger.warning(
                "the handler %s took so long over event %s that another process has it too",
                claim.handler,
                claim.event_id,
            )
        elif outcome.state is not State.DONE:
            self._remember(outcome)

    def _remember(self, outcome: Outcome) -> None:
        """Be able to write it down again, where the file that it stands in is lost."""
        claim = outcome.claim
        _remember_among(self._waiting, claim.key, outcome, claim.receipt)

    def _settle_rest(self) -> None:
        rest, self._unsettled = self._unsettled, []
        for outcome in rest:  # to settle one twice changes nothing
            self._settle(outcome)

    async def _poll_for_ever(self) -> None:
        checked = -math.inf
        self._telemetry.begin_anew()
        while not self._stopping:
            self._look.clear()
            try:
                if time.monotonic() - checked > _CHECKED_EVERY:
                    await self._store.undo_clock_steps(list(self._handlers.by_name))
                    await self._look_for_left_over()
                    checked = time.monotonic()
                if self._files_lost != self._store.files_lost:
                    self._files_lost = self._store.files_lost
                    self._unsettled += self._waiting.values()
                self._settle_rest()
                await self._poll()
                if self._telemetry.wants_backlog():
                    waiting = await self._store.count_waiting(list(self._handlers.by_name))
                    self._telemetry.backlog(waiting)
            except StoreError as error:
                level = logging.DEBUG if error.temporary else logging.ERROR
                logger.log(level, "the store cannot be looked through: %s", error)
            except Exception:
                # Whatever it is: without this loop nothing would be tried again.
                logger.exception("looking through the store failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLLED_EVERY):
                    await self._look.wait()

    async def _look_for_left_over(self) -> None:
        left_over = frozenset(await self._store.left_over(self._handlers.by_name))
        if new := left_over - self.left_over:
            logger.error(
                "deliveries have been waiting for a quarter of an hour for handlers that this "
                "server does not have: %s. Start a server that has them, or register one under "
                "that name=",
                ", ".join(sorted(new)),
            )
        self.left_over = left_over

    async def _poll(self) -> None:
        wanted = {name: room for name in self._handlers.by_name if (room := self._room(name)) > 0}
        self._behind -= set(wanted)
        polled = await self._store.poll(
            Poll(self._store.owner, wanted, frozenset(self._held), self._looked_until)
        )
        self._looked_until = polled.looked_until
        found = Counter(claim.handler for claim in polled.claims)
        self._behind |= {name for name, limit in wanted.items() if found[name] == limit}
        for claim in polled.claims:
            self._begin(claim)
        # What came while it was polled may have found no room.
        if any(self._has_much_room(name) for name in self._behind):
            self._look.set()
        # What nobody here wants is left to a process that has a handler for it.
        routes = {
            event_id: names
            for event_id, event in polled.unrouted.items()
            if (names := self._handlers.wanting(event))
        }
        if routes:
            await self._store.route(routes)
            self._look.set()

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_RENEWED_EVERY)
            try:
                await self._store.renew(list(self._held.values()))
            except Exception as error:  # noqa: BLE001 - without this loop leases would end
                logger.warning("leases could not be renewed: %s", error)


def _remember_among(
    those: OrderedDict[tuple[str, str], R], key: tuple[str, str], one: R, receipt: Receipt
) -> None:
    """Remember one more, and no long one: the oldest is forgotten where they are too many."""
    if len(receipt.body) > _LONGEST_REMEMBERED:
        return
    those[key] = one
    if len(those) > _REMEMBERED:
        those.popitem(last=False)


def _outcome_of(
    error: BaseException, handler: Handler, claim: Claim, run: Handling, *, is_late: bool
) -> Outcome:
    """What becomes of a delivery whose handler has raised something."""
    if isinstance(error, Postpone):
        logger.debug(
            "the handler %s postponed event %s by %.0f s", handler.name, claim.event_id, error.delay
        )
        run.ends("postponed")
        why = _told(error) if error.why else ""
        return Outcome(claim, State.PENDING, delay=error.delay, error=why)
    if isinstance(error, Reject):
        logger.warning("the handler %s rejected event %s", handler.name, claim.event_id)
        run.ends("rejected", error)
        return Outcome(claim, State.DEAD, failed=True, error=_told(error))
    if is_late:
        error = TimeoutError(f"it took longer than {handler.timeout:g} s")
    outcome = _failed(handler, claim, error)
    retry = "timeout" if is_late else "retry"
    run.ends("dead_letter" if outcome.state is State.DEAD else retry, error)
    return outcome


def _failed(handler: Handler, claim: Claim, error: BaseException) -> Outcome:
    failures = claim.attempts + 1
    told = _told(error)
    if failures >= handler.retry.attempts:
        logger.error(
            "the handler %s gave up event %s after %d attempts: it is a dead letter now",
            handler.name,
            claim.event_id,
            failures,
            exc_info=error,
        )
        return Outcome(claim, State.DEAD, failed=True, error=told)
    delay = handler.retry.delay(failures)
    logger.warning(
        "the handler %s failed at event %s, attempt %d; it gets it again in %.0f s",
        handler.name,
        claim.event_id,
        failures,
        delay,
        exc_info=error,
    )
    return Outcome(claim, State.PENDING, delay=delay, failed=True, error=told)


def _told(error: BaseException) -> str:
    name = type(error).__qualname__
    try:
        told = f"{name}: {mask_in_text(str(error))}"[:_LONGEST_ERROR]
        # No database takes half a character, and PostgreSQL no NUL.
        return told.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    except BaseException:  # noqa: BLE001 - what an exception says of itself may be broken too
        return name
