"""`CallbackServer`: the receiver and the handlers, served in this process."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import asynccontextmanager
from contextvars import copy_context
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Self, cast

from aiohttp import web

from qmc_async.arguments import is_duration
from qmc_async.callback.address import CallbackAddress
from qmc_async.callback.aiohttp_shell import AiohttpShell
from qmc_async.callback.asgi import AsgiApplication
from qmc_async.callback.dispatcher import Dispatcher
from qmc_async.callback.edge import EdgeServer
from qmc_async.callback.guard import Guard
from qmc_async.callback.places import MAX_CONNECTIONS
from qmc_async.callback.receiver import Receiver
from qmc_async.callback.registration import Registration
from qmc_async.callback.waiting import Waiting
from qmc_async.callback.watchdog import Watchdog
from qmc_async.errors import ArgumentError, ConfigError
from qmc_async.listening import discreet_logger, listen
from qmc_async.models import BEIJING, Call, Disconnected
from qmc_async.signer import TOLERANCE
from qmc_async.store import DeadLetter, Kind
from qmc_async.telemetry import telemetry_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from types import TracebackType

    from qmc_async.callback.guard import Authorization, Networks
    from qmc_async.callback.watchdog import CallingClient
    from qmc_async.signer import Signer
    from qmc_async.store import Store
    from qmc_async.store.records import Kept, Put, Receipt

__all__ = ["CallbackServer"]

logger = logging.getLogger(__name__)
http_logger = discreet_logger(f"{__name__}.http")

_LINGERING = 1.0  # seconds that a refused body may still flow before the connection is closed


class CallbackServer(Registration):
    """Takes the platform's notifications (3.2) and hands them to coroutine handlers.

    It listens on its own (``async with server:``), in an aiohttp application (`attach`), or in any
    that speaks ASGI (`asgi`).

    Args:
        client: whose calls are reported. The server takes its signer and its store, and looks for
            what became of calls in the ledger whose notification does not come; it neither opens
            nor closes the client.
        signer: the client's, where there is no `client`. A token made of its secret ends the path,
            so that only who was told the address can post to it.
        store: where notifications are kept until they are handled, and after: a `Store`, or its
            URL. By default the client's, then ``QMC_STORE``, then ``sqlite:///qmc.db``, a file in
            the current folder.
        host: the address to listen on.
        port: 0 for a free one.
        path: what stands before the token.
        public_url: scheme and host as the platform sees them, such as
            ``https://crm.example.com``, where a proxy stands in front; a path prefix that the
            proxy takes away may follow.
        allowed_senders: networks and addresses that may post, such as ``"203.0.113.0/24"``, with
            commas or as a list; everybody else gets 403. By default ``QMC_ALLOWED_SENDERS``, else
            everybody who knows the path may.
        trusted_proxies: networks and addresses of proxies whose ``X-Forwarded-For`` or
            ``Forwarded`` is believed, and ``unix`` for who comes by a Unix socket. By default
            ``QMC_TRUSTED_PROXIES``, else none.
        authorization: the document does not say whether notifications have an ``Authorization``.
            ``checked``: one that has none is taken, one that has a wrong one is refused;
            ``required``: one that has none is refused too; ``ignored``: it is not looked at.
        replay_window: how far the timestamp in it may be from the platform's clock.
        rate_limit: how many requests of one sender that knows the path are taken in a second; what
            is beyond is refused, and does not come again. By default all.
        max_connections: how many connections may be open, on a port of our own, on which nothing
            is asked. For a new one, another one is closed.
        max_concurrency: how many runs of one handler may go on at once. As many again may be at
            hand in memory; what is beyond waits in the store, and takes none.
        shutdown_timeout: seconds that running handlers are given when the server stops.

    Raises:
        ConfigError: a setting is malformed.
    """

    def __init__(
        self,
        *,
        client: CallingClient | None = None,
        signer: Signer | None = None,
        store: Store | str | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        path: str = "/qmc/callback",
        public_url: str | None = None,
        allowed_senders: Networks | None = None,
        trusted_proxies: Networks | None = None,
        authorization: Authorization = "checked",
        replay_window: timedelta = TOLERANCE,
        rate_limit: float | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_concurrency: int = 100,
        shutdown_timeout: float = 30.0,
    ) -> None:
        for setting, count in (
            ("max_concurrency", max_concurrency),
            ("max_connections", max_connections),
        ):
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
                raise ConfigError(
                    f"{setting}: it must be a whole number, 1 or more", setting=setting
                )
        if not is_duration(shutdown_timeout) or shutdown_timeout == math.inf:
            raise ConfigError(
                "shutdown_timeout: it must be a number of seconds, 0 or more",
                setting="shutdown_timeout",
            )
        if client is not None:
            signer = signer or client.signer
            store = _store_of(client, store)
        self._client = client
        self._signer = signer
        token = "" if signer is None else signer.callback_token
        self._address = CallbackAddress.read(host, port, path, token, public_url)
        self._port = port
        self._guard = Guard(
            self._address.path,
            signer,
            allowed_senders=allowed_senders,
            trusted_proxies=trusted_proxies,
            authorization=authorization,
            replay_window=replay_window,
            rate_limit=rate_limit,
        )
        self._max_connections = max_connections
        self._shutdown_timeout = shutdown_timeout
        self._store = _to_store(store)
        super().__init__()
        self._telemetry = telemetry = telemetry_for(self._store.trace_of)
        self._dispatcher = Dispatcher(
            self._handlers, self._store, max_concurrency=max_concurrency, telemetry=telemetry
        )
        self._waiting = Waiting(self._store)
        self._watchdog = None
        if client is not None:
            self._watchdog = Watchdog(self._store, client, self._dispatcher.look, telemetry)
        self._receiver = Receiver(self._guard, self._accept, telemetry)
        self._shell = AiohttpShell(self._guard, self._receiver, lambda: self.problems)
        self._asgi: AsgiApplication | None = None
        self._is_mounted = False
        self._is_ready = False
        self._has_begun = False
        self._is_finishing = False
        self._stopped: asyncio.Event | None = None
        self._runner: web.ServerRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<CallbackServer on {self._address.host}:{self._port}>"

    @property
    def client(self) -> CallingClient | None:
        """Whose calls are reported, as it was given."""
        return self._client

    @property
    def signer(self) -> Signer | None:
        """Whose secret ends the path, and checks ``Authorization``: as given, or the client's."""
        return self._signer

    @property
    def store(self) -> Store:
        """Where notifications are kept, and what handlers have made of them."""
        return self._store

    @property
    def url(self) -> str:
        """The whole address to enter on the platform's console. Keep it secret.

        Raises:
            RuntimeError: the port is not known yet, or outsiders' view of it never will be.
        """
        return self._address.url(self._port, is_mounted=self._is_mounted)

    @property
    def refused(self) -> Mapping[str, int]:
        """How many requests were refused so far, by the reason.

        ``sender``: not among `allowed_senders`. ``rate``: beyond `rate_limit`. ``path``,
        ``method``, ``length``: not a notification's. ``authorization``: missing, wrong or too old.
        ``probe``: of who has another secret.
        """
        return self._guard.refused

    @property
    def asgi(self) -> AsgiApplication:
        """The same as an ASGI application, such as FastAPI and Starlette mount.

        Start the server in your application's lifespan, with ``async with server.asgi:``: that of a
        mounted application does not run. The path is taken with the prefix that it is mounted at,
        or without it, and `url` needs `public_url`.
        """
        self._is_mounted = True
        if self._asgi is None:
            self._asgi = AsgiApplication(
                self._lifetime, self._guard, self._receiver, lambda: self.problems
            )
        return self._asgi

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

    async def start(self) -> None:
        """Open the store, then the port.

        Raises:
            RuntimeError: it is running already.
            ConfigError: the store is not fit for keeping anything; the port was not opened.
            OSError: the port is taken, or the address is none of this machine's.
        """
        await self._begin()
        # No access log: it would show the path, and it halves the throughput.
        runner = web.ServerRunner(
            EdgeServer(
                self._shell.serve,
                max_connections=self._max_connections,
                access_log=None,
                logger=http_logger,
                lingering_time=_LINGERING,
                auto_decompress=False,  # it would lose what is not compressed as it says
            ),
            shutdown_timeout=max(self._shutdown_timeout, 0.001),  # to aiohttp 0 is for ever
        )
        try:
            self._port = await asyncio.create_task(self._listen(runner))
        except BaseException:
            await self._finish(0.0)
            raise
        if not self._has_begun:
            await runner.cleanup()
            raise RuntimeError("this CallbackServer was stopped as it started")
        self._runner = runner
        logger.info("the callback server listens on %s port %d", self._address.host, self._port)

    async def _listen(self, runner: web.ServerRunner) -> int:
        # In a task of its own: each connection inherits what is current where the port is opened.
        self._telemetry.begin_anew()
        return await listen(runner, self._address.host, self._port)

    async def stop(self) -> None:
        """Close the port, let the handlers end, and let nobody wait any longer.

        Where it is cancelled, what still runs is cancelled too.
        """
        if self._stopped is not None:  # somebody else is at it
            if not self._dispatcher.is_running(asyncio.current_task()):
                await self._stopped.wait()
            return
        stopped = self._stopped = asyncio.Event()
        runner, self._runner = self._runner, None
        self._is_ready = False
        end = time.monotonic() + self._shutdown_timeout
        try:
            if runner is not None:
                await runner.cleanup()
        except asyncio.CancelledError:
            end = 0.0
            raise
        finally:
            try:
                await self._finish(end)
            finally:
                self._stopped = None
                stopped.set()

    def attach(self, app: web.Application) -> None:
        """Take the notifications in an aiohttp application, at the same path.

        It starts and stops with the application. `url` needs `public_url`, and, in a
        sub-application, its prefix there.

        The application's access log shows the secret path, and aiohttp logs what it cannot read of
        a request: switch off the one, and give ``discreet_logger`` of `qmc_async.listening` to the
        server as the other. Deadlines for heads, and places for connections, are the application's
        server's. aiohttp unpacks bodies before we see them, and loses one that is not compressed as
        it says, unless the server has ``auto_decompress=False``.

        Raises:
            RuntimeError: the application is running already.
        """

        async def serve(request: web.Request) -> web.StreamResponse:
            # In a sub-application the path stands behind a prefix, which the router has compared.
            ours, path = self._address.path, request.rel_url.raw_path
            return await self._shell.serve_at(ours if path.endswith(ours) else path, request)

        app.router.add_route("*", self._address.path, serve)
        self._is_mounted = True

        async def lifetime(_: web.Application) -> AsyncIterator[None]:
            async with self._lifetime():
                yield

        app.cleanup_ctx.append(lifetime)

    @asynccontextmanager
    async def _lifetime(self) -> AsyncGenerator[None]:
        """Run without a port."""
        await self._begin()
        try:
            yield
        finally:
            self._is_ready = False
            await self._finish(time.monotonic() + self._shutdown_timeout)

    async def wait_for(
        self,
        call: Call | str | None = None,
        *,
        out_call_id: str | None = None,
        timeout: float,  # noqa: ASYNC109 - the error says which call it was
    ) -> Disconnected:
        """Wait for a call's end, whether it has been reported already or is yet to be.

        Args:
            call: what `AsyncQmcClient.call` returned, or its call id.
            out_call_id: instead of `call`; it settles a `CallOutcomeUnknown`.
            timeout: seconds.

        Raises:
            ArgumentError: not exactly one of the two ids is given.
            TimeoutError: no notification came in time; it may yet come.
            NotificationMissing: none came by the call's deadline, and the watchdog gave it up.
            RuntimeError: the server is not running, stopped meanwhile, or runs on another event
                loop.
        """
        call_id = call.call_id if isinstance(call, Call) else call
        for argument, value in (("call", call_id), ("out_call_id", out_call_id)):
            if not isinstance(value, str | None):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
                raise ArgumentError(
                    f"{argument} must be a str or a Call, not {type(value).__name__}",
                    argument=argument,
                )
        if (call is None) == (out_call_id is None):
            raise ArgumentError("give either call or out_call_id", argument="call")
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("wait_for needs the server to be running, on this event loop")
        return await self._waiting.wait(
            call_id=call_id,
            out_call_id=out_call_id,
            timeout=timeout,
        )

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """What handlers gave up, the latest first.

        Raises:
            StoreError: the store did not answer, or the server is not running.
        """
        return await self._store.dead_letters(limit)

    async def replay(self, letter: DeadLetter | str, *, handler: str | None = None) -> list[str]:
        """Give a dead letter to its handler again, as if it had never been tried.

        Args:
            letter: from `dead_letters`, or an event's id: then all handlers that gave it up get it.
                An event that could not be decoded is decoded again first.
            handler: with an event's id: only this one.

        Returns:
            The handlers' names; ``*`` where the event can be decoded now, and goes to whom it
            concerns. Empty where there was nothing to replay.

        Raises:
            StoreError: the store did not answer, or the server is not running.
        """
        if isinstance(letter, DeadLetter):
            names = await self._store.replay(letter.event_id, letter.handler)
        else:
            names = await self._store.replay(letter, handler)
        self._dispatcher.look()
        return names

    async def purge(self, older_than: timedelta) -> int:
        """Delete finished events that came longer ago; those with dead letters stay.

        Calls that were placed longer ago, and are settled, are struck out of the ledger: then their
        `out_call_id` can be used again.

        A notification that was purged and comes again would be new. The platform sends none twice.

        Returns:
            How many.

        Raises:
            StoreError: the store did not answer, or the server is not running.
        """
        return await self._store.purge(datetime.now(BEIJING) - older_than)

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong, each with what it means, as ``/readyz`` has it; empty while all is well.

        ``stopped``: it does not run. ``store``: notifications go to the spool. ``spool``: they
        cannot be kept at all. ``set_aside``: the store's file was broken. ``handlers``: deliveries
        wait for handlers that this server does not have, and that nobody seems to run.
        """
        found = {} if self._is_ready else {"stopped": "the server does not run"}
        if left_over := self._dispatcher.left_over:
            found["handlers"] = f"nobody seems to run the handlers {', '.join(sorted(left_over))}"
        return found | dict(self._store.problems)

    async def _begin(self) -> None:
        if self._loop is not None:
            raise RuntimeError("this CallbackServer is running already")
        if self._is_finishing:
            raise RuntimeError("this CallbackServer is still stopping")
        if self._handlers.of_missing and (self._client is None or self._client.store is None):
            raise ConfigError(
                "client: on_missing handlers need a client with a ledger: "
                "CallbackServer(client=AsyncQmcClient(store=...))",
                setting="client",
            )
        self._handlers.freeze()
        loop = self._loop = asyncio.get_running_loop()
        try:
            await self._store.open()
        except BaseException:
            self._loop = None
            raise
        if self._loop is not loop:
            await self._store.close()
            raise RuntimeError("this CallbackServer was stopped as it started")
        self._dispatcher.start()
        self._waiting.start()
        if self._watchdog is not None:
            self._watchdog.start()
        self._has_begun = self._is_ready = True

    async def _finish(self, end: float) -> None:
        """Let what has begun come to its end, until `time.monotonic()` is `end`."""
        has_begun, self._has_begun = self._has_begun, False
        self._loop = None  # who is just starting sees it
        if not has_begun:
            return
        self._is_ready = False
        self._is_finishing = True
        try:
            if self._watchdog is not None:
                await self._watchdog.stop()
            await self._receiver.finish(max(0.0, end - time.monotonic()))
            await self._waiting.stop()
        except BaseException:
            end = 0.0
            raise
        finally:
            # Each of them also where it, or the one before, is cancelled.
            try:
                await self._dispatcher.stop(end)
            finally:
                self._is_finishing = False
                await self._store.close()

    def _accept(self, receipt: Receipt, then: Callable[[BaseException | None], None]) -> None:
        put = self._dispatcher.prepare(receipt)
        # Handlers are part of what the notification is part of, such as a trace.
        run = cast("Callable[..., None]", copy_context().run)
        try:
            self._store.begin_to_keep(
                put, partial(run, self._accepted, put, then), partial(run, self._dispatcher.deliver)
            )
        except Exception as error:  # noqa: BLE001 - a store may raise anything, and be answered for
            self._accepted(put, then, error)

    def _accepted(
        self,
        put: Put,
        then: Callable[[BaseException | None], None],
        kept: Kept | BaseException | None,
    ) -> None:
        # First: who waits for the answer goes before the handlers, that begin in the event loop's
        # next round.
        then(kept if isinstance(kept, BaseException) else None)
        self._dispatcher.cancel(put)
        if isinstance(kept, BaseException):
            # It will not come again: what can be done without the store is done.
            self._wake(put.receipt)
            self._dispatcher.deliver_unkept(put.receipt)
        else:
            self._hand_on(put, kept)

    def _hand_on(self, put: Put, kept: Kept | None) -> None:
        self._dispatcher.remember(put, kept)
        if kept is None:  # it is in the spool, and its handlers get it from the store
            return
        if kept.kind is None:
            logger.info("the notification of call %.64s came again", put.receipt.event.call_id)
        elif kept.kind is Kind.CONFLICT:
            logger.warning(
                "the notification of call %.64s came again with other content; both are kept",
                put.receipt.event.call_id,
            )
        self._dispatcher.deliver(kept)

    def _wake(self, receipt: Receipt) -> None:
        if isinstance(receipt.event, Disconnected):
            self._waiting.wake(receipt.event)


def _store_of(client: CallingClient, store: Store | str | None) -> Store | str | None:
    if client.store is None or client.store is store:
        return store
    if store is not None:
        raise ConfigError(
            "store: the client has its own, and the ledger in it: leave this one out",
            setting="store",
        )
    return client.store


def _to_store(store: Store | str | None) -> Store:
    # SQLAlchemy is the larger part of its import, and a client alone needs no store.
    from qmc_async.store import Store  # noqa: PLC0415

    return store if isinstance(store, Store) else Store(store)
