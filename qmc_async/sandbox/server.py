"""The platform on loopback: the engine, its API and its notifications, in one running whole."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, Self

from aiohttp import web

from qmc_async.errors import ConfigError
from qmc_async.listening import discreet_logger, listen
from qmc_async.models import Reason
from qmc_async.sandbox.api import Api
from qmc_async.sandbox.assumed import Assumed
from qmc_async.sandbox.changes import Changes
from qmc_async.sandbox.clock import Clock, RealClock, VirtualClock
from qmc_async.sandbox.engine import Engine
from qmc_async.sandbox.machine import State
from qmc_async.sandbox.recordings import Recordings
from qmc_async.sandbox.scenario import reason_named
from qmc_async.sandbox.sender import Sender
from qmc_async.sandbox.wire import Refused, call_request
from qmc_async.signer import Credentials, Signer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from types import TracebackType

    from qmc_async.models import Call
    from qmc_async.sandbox.calls import SimulatedCall
    from qmc_async.sandbox.chances import FaultRates
    from qmc_async.sandbox.console import Console
    from qmc_async.sandbox.history import Attempt
    from qmc_async.sandbox.machine import Action
    from qmc_async.sandbox.scenario import Rule

__all__ = ["Sandbox"]

http_logger = discreet_logger(f"{__name__}.http")

_SHUTDOWN = 1.0  # seconds; nothing takes long once notifications are given up


class Sandbox:
    """The platform itself, on loopback, so that nobody's telephone rings.

    >>> async def main() -> None:
    ...     async with Sandbox(clock=VirtualClock()) as platform:
    ...         platform.callback_url = "http://127.0.0.1:8080/qmc/callback"
    ...         # Place calls at platform.base_url; then let them ring, talk, end and be reported.
    ...         await platform.advance(minutes=1)
    ...         print(len(platform.calls), "calls,", len(platform.notifications), "notifications")
    >>> asyncio.run(main())
    0 calls, 0 notifications

    It can be started again once it is stopped; calls stay, recordings do not.

    Attributes:
        CREDENTIALS: of every sandbox that is not given others; no secret at all.
        credentials: what requests must be signed with.
        clock: where the times of calls come from.
        rules: what is to happen to new calls; the first that matches decides, before the callee's
            last digits do. Change it at any time.
        fault_rates: how likely each fault befalls a new call, whatever its rule or its digits say.
        received: what arrived at the API, in order.
        refused: what was said to those requests that are about no call, in order.
        assumed: what the document does not say.

    Raises:
        ConfigError: the console is wanted, and Jinja2 is not installed.

    Args:
        host: to listen at. Anyone who reaches it and knows the credentials can use it.
        port: to listen at; 0 takes a free one.
        console: whether a browser finds the console at `base_url`; it needs Jinja2 (extra
            ``cli``). Anyone who reaches it can use it, so leave `host` as it is.
        callback_url: where notifications go; on the real platform its console sets this.
    """

    CREDENTIALS: ClassVar[Credentials] = Credentials(1696054309969104898, "sandbox-secret")

    def __init__(
        self,
        credentials: Credentials | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        console: bool = False,
        callback_url: str | None = None,
        clock: Clock | None = None,
        rules: Iterable[Rule] = (),
        assumed: Assumed = Assumed(),  # noqa: B008 - frozen
    ) -> None:
        self.credentials = credentials or self.CREDENTIALS
        self.clock: Clock = clock or RealClock()
        self.assumed = assumed
        self._host = host
        self._port = port
        self._changes = Changes()
        signer = Signer(self.credentials)
        self._engine = Engine(rules=rules, assumed=assumed)
        self.rules = self._engine.rules
        self.fault_rates: FaultRates = self._engine.fault_rates
        self._sender = Sender(signer, assumed, now=self.clock.now, on_ended=self._changes.notice)
        self._sender.url = callback_url
        self._api = Api(
            self._engine,
            signer,
            now=self.clock.now,
            pump=self._pump,
            on_change=self._changes.notice,
        )
        self.received = self._api.received
        self.refused = self._api.refused
        self._console = self._new_console() if console else None
        self._recordings: Recordings | None = None  # of the latest run
        self._base_url = ""
        self._stack: AsyncExitStack | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._advancing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def base_url(self) -> str:
        """``http://HOST:PORT``, of the API and of the recordings.

        Raises:
            RuntimeError: the sandbox was never started.
        """
        if not self._base_url:
            raise RuntimeError("the sandbox has no address before it is started")
        return self._base_url

    @property
    def callback_url(self) -> str | None:
        """Where notifications go from now on; None sends none."""
        return self._sender.url

    @callback_url.setter
    def callback_url(self, url: str | None) -> None:
        self._sender.url = url

    @property
    def calls(self) -> dict[str, SimulatedCall]:
        """All calls by ``callidentifier``, in the order of placing."""
        return self._engine.calls

    @property
    def notifications(self) -> list[Attempt]:
        """Every notification that was sent or could not be, in the order in which they ended."""
        return self._sender.attempts

    async def start(self) -> None:
        """Listen, and let time pass.

        Raises:
            RuntimeError: it has started already.
            OSError: it cannot listen at that address.
        """
        if self._stack is not None:
            raise RuntimeError("the sandbox has started already")
        self._changes.renew()
        self._advancing = asyncio.Lock()
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(TemporaryDirectory(prefix="qmc-sandbox-"))
            recordings = self._recordings = Recordings(Path(directory))
            self._sender.open()
            stack.push_async_callback(self._sender.close)
            application = self._api.application(recordings)
            if self._console is not None:
                self._console.add_to(application, recordings)
            runner = web.AppRunner(
                application,
                access_log=None,
                logger=http_logger,
                shutdown_timeout=_SHUTDOWN,
            )
            port = await listen(runner, self._host, self._port)
            stack.push_async_callback(runner.cleanup)
            host = f"[{self._host}]" if ":" in self._host else self._host
            self._base_url = f"http://{host}:{port}"
            # Before the server stops, so that no request waits for an early notification.
            stack.push_async_callback(self._sender.cancel)
            self._stack = stack.pop_all()
        self._pump()

    async def stop(self) -> None:
        """Stop listening, give up notifications that are on their way, and delete recordings.

        It may be called at any time, more than once.
        """
        stack, self._stack = self._stack, None
        if stack is None:
            return
        self._set_timer(None)
        self._changes.notice()
        await stack.aclose()

    async def advance(self, **by: float) -> None:
        """Let virtual time pass: all that falls due happens in order, each at its own time.

        Every notification that falls due is sent, and answered or given up, before the next thing
        happens.

        Args:
            by: as for `timedelta`, such as ``minutes=10``.

        Raises:
            RuntimeError: the clock is a `RealClock`, or the sandbox is not running.
            ValueError: it would be a step back.
        """
        clock = self.clock
        if not isinstance(clock, VirtualClock):
            raise RuntimeError("only a VirtualClock can be advanced; await settled() instead")  # noqa: TRY004 - no argument is of a wrong type
        if timedelta(**by) < timedelta(0):
            raise ValueError("time does not run backwards")
        self._check_running()
        async with self._advancing:
            target = clock.now() + timedelta(**by)
            await self._sender.wait()
            while (due := self._engine.next_due) is not None and due <= target:
                clock.move_to(due)
                for call in self._engine.run(due):
                    await asyncio.wait({self._sender.post(call)})
                    self._check_running()  # it may have been stopped meanwhile
            clock.move_to(target)
        self._changes.notice()

    async def settled(self) -> None:
        """Wait until no call is live, and every notification was sent and answered or given up.

        Somebody must move a `VirtualClock` meanwhile, and end calls that are endless.

        Raises:
            RuntimeError: the sandbox is not running.
        """
        while True:
            self._check_running()
            if self._engine.settled and self._sender.idle:
                return
            await self._changes.wait()

    @property
    def changes(self) -> int:
        """How often something has happened; see `changed`."""
        return self._changes.count

    async def changed(self, since: int) -> int:
        """Wait until something has happened, for whoever shows it.

        Args:
            since: what this returned the last time; 0 at first.

        Returns:
            How often something has happened. Ask again with it.

        Raises:
            RuntimeError: the sandbox is not running.
        """
        while True:
            self._check_running()
            if self._changes.count != since:
                return self._changes.count
            await self._changes.wait()

    def place(self, caller: str, callee: str, *, out_call_id: str | None = None) -> SimulatedCall:
        """Place a call without the API, as if somebody else's application had done it.

        Args:
            caller: rung first.
            callee: rung then.
            out_call_id: repeated in the notification.

        Raises:
            ValueError: the platform would refuse it.
            RuntimeError: the sandbox is not running.
        """
        self._check_running()
        body = {"caller": caller, "callee": callee, "outCallId": out_call_id}
        try:
            asked = call_request(body, self.assumed)
        except Refused as refused:
            raise ValueError(refused.msg) from None
        now = self.clock.now()
        call = self._engine.place(now, asked.caller, asked.callee, asked.out_call_id)
        self._pump(now)
        return call

    def act(self, call_id: str, action: Action) -> None:
        """Let a person act on a live call, now.

        Raises:
            KeyError: there is no such call.
            IllegalAction: it is not possible in the call's state.
            RuntimeError: the sandbox is not running.
        """
        self._check_running()
        now = self.clock.now()
        self._pump(now)
        self._engine.act(now, call_id, action)
        self._pump(now)

    async def hang_up(
        self, call: Call | SimulatedCall | str, *, reason: Reason | str = Reason.HANG_UP
    ) -> None:
        """Let a live call end now, and wait until its notification was answered or given up.

        Whoever must pick up before that does so at the same moment. A notification that a fault
        makes late is not waited for.

        Args:
            call: the call, or its ``callidentifier``.
            reason: why it ends (3.2); in `HANG_UP` the callee hangs up.

        Raises:
            KeyError: there is no such call.
            ValueError: there is no such reason.
            IllegalAction: in its state it can no longer end so.
            RuntimeError: the sandbox is not running.
        """
        self._check_running()
        reason = reason_named(reason)
        call_id = call if isinstance(call, str) else call.call_id
        now = self.clock.now()
        self._pump(now)
        self._engine.hang_up(now, call_id, reason)
        if (sending := self._pump(now).get(call_id)) is not None:
            await asyncio.wait({sending})

    async def resend(self, call: Call | SimulatedCall | str) -> Attempt:
        """Send the notification about a call that has ended once more.

        The platform never does. It is sent once and as it should be, whatever faults the call has.

        Args:
            call: the call, or its ``callidentifier``.

        Returns:
            How it went, once it was answered or given up.

        Raises:
            KeyError: there is no such call.
            ValueError: the call has not ended.
            RuntimeError: the sandbox is not running.
        """
        self._check_running()
        call_id = call if isinstance(call, str) else call.call_id
        self._pump()
        ended = self.calls[call_id]
        if ended.state is not State.ENDED:
            raise ValueError("the call has not ended: there is nothing to report yet")
        sending = self._sender.post(ended, by_hand=True)
        await asyncio.wait({sending})
        if sending.cancelled():
            raise RuntimeError("the sandbox was stopped before the notification was answered")
        return sending.result()

    def drop_next_notification(self) -> None:
        """Let the next notification that falls due, of whichever call, never be sent.

        Called twice, it is about the next two.
        """
        self._engine.withhold += 1

    @property
    def notifications_to_drop(self) -> int:
        """How many of the next notifications will not be sent."""
        return self._engine.withhold

    def forget(self) -> None:
        """Forget the calls that have ended and were reported, and what has arrived until now.

        Their recordings are deleted.
        """
        forgotten = self._engine.forget(reporting=self._sender.reporting)
        if self._recordings is not None:
            for call_id in forgotten:
                self._recordings.forget(call_id)
        for record in (self.notifications, self.received, self.refused):
            record.clear()
        self._changes.notice()

    def _new_console(self) -> Console:
        try:
            from qmc_async.sandbox.console import Console  # noqa: PLC0415 - needs an extra
        except ModuleNotFoundError as error:
            if error.name != "jinja2":
                raise
            raise ConfigError(
                "console: it needs Jinja2: pip install 'qmc-async[cli]'", setting="console"
            ) from None
        return Console(self, on_change=self._changes.notice)

    def _check_running(self) -> None:
        if self._stack is None:
            raise RuntimeError("the sandbox is not running")

    def _pump(self, now: datetime | None = None) -> dict[str, asyncio.Task[Attempt]]:
        """Let happen what is due, and set the timer for what comes next.

        Returns:
            The notifications that are now on their way, by ``callidentifier``.
        """
        posted = {
            call.call_id: self._sender.post(call)
            for call in self._engine.run(now or self.clock.now())
        }
        self._set_timer(self._engine.next_due)
        self._changes.notice()
        return posted

    def _set_timer(self, due: datetime | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = None if due is None else self.clock.seconds_until(due)
        if delay is None or self._stack is None:
            self._timer = None
        else:
            self._timer = asyncio.get_running_loop().call_later(delay, self._pump)
