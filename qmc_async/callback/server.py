"""`CallbackServer`: the receiver and the handlers, served by aiohttp in this process."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Self

from aiohttp import web

from qmc_async.callback.body import read_body
from qmc_async.callback.dispatcher import Dispatcher
from qmc_async.callback.health import HEALTHZ, READYZ, health_reply
from qmc_async.callback.receiver import CONTENT_TYPE, PROBE, Receiver
from qmc_async.callback.registration import Registration
from qmc_async.callback.waiting import Waiting
from qmc_async.callback.watchdog import Watchdog
from qmc_async.errors import ArgumentError, ConfigError
from qmc_async.listening import discreet_logger, listen
from qmc_async.models import BEIJING, Call, Disconnected
from qmc_async.settings import whole_url
from qmc_async.store import DeadLetter, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import timedelta
    from types import TracebackType

    from qmc_async.callback.receiver import Reply
    from qmc_async.callback.watchdog import CallingClient
    from qmc_async.signer import Signer
    from qmc_async.store import Store
    from qmc_async.store.records import Receipt

__all__ = ["CallbackServer"]

logger = logging.getLogger(__name__)
http_logger = discreet_logger(f"{__name__}.http")

_LAST_PORT = 65535
_LINGERING = 1.0  # seconds that a refused body may still flow before the connection is closed
# Clients rewrite other characters, and dot segments, and then never find the address.
_PATH = re.compile(r"(?!.*/\.{1,2}(?:/|$))/[A-Za-z0-9._~:@/-]*")


class CallbackServer(Registration):
    """Takes the platform's notifications (3.2) and hands them to coroutine handlers.

    It listens on its own (``async with server:``), or in an aiohttp application (`attach`).

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
        max_concurrency: how many runs of one handler may go on at once. What is beyond waits in
            the store, and takes no memory.
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
        max_concurrency: int = 100,
        shutdown_timeout: float = 30.0,
    ) -> None:
        if not _PATH.fullmatch(path):
            raise ConfigError(
                "path: it must start with / and hold letters, digits, and . _ ~ : @ - only",
                setting="path",
            )
        if public_url is not None:
            try:
                public_url = whole_url(public_url)
            except ValueError as error:
                raise ConfigError(f"public_url: {error}", setting="public_url") from None
        if isinstance(port, bool) or not 0 <= port <= _LAST_PORT:
            raise ConfigError(f"port: it must be between 0 and {_LAST_PORT}", setting="port")
        if isinstance(max_concurrency, bool) or max_concurrency < 1:
            raise ConfigError(
                "max_concurrency: it must be a whole number, 1 or more", setting="max_concurrency"
            )
        if not 0 <= shutdown_timeout < math.inf:
            raise ConfigError(
                "shutdown_timeout: it must be a number of seconds, 0 or more",
                setting="shutdown_timeout",
            )
        if client is not None:
            signer = signer or client.signer
            store = _store_of(client, store)
        self._client = client
        self._host = host
        self._port = port
        token = "" if signer is None else f"/{signer.callback_token}"
        self._path = path.rstrip("/") + token or "/"
        if self._path in (HEALTHZ, READYZ):
            raise ConfigError(f"path: {path} is taken: it tells how the server is", setting="path")
        self._public_url = public_url
        self._shutdown_timeout = shutdown_timeout
        self._store = _to_store(store)
        super().__init__()
        self._dispatcher = Dispatcher(self._handlers, self._store, max_concurrency=max_concurrency)
        self._waiting = Waiting(self._store)
        self._watchdog = None
        if client is not None:
            self._watchdog = Watchdog(self._store, client, self._dispatcher.look)
        self._receiver = Receiver(self._path, self._accept, signer)
        self._accepting: set[asyncio.Task[Reply]] = set()
        self._attached = False
        self._is_ready = False
        self._has_begun = False
        self._is_finishing = False
        self._stopped: asyncio.Event | None = None
        self._runner: web.ServerRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<CallbackServer on {self._host}:{self._port}>"

    @property
    def client(self) -> CallingClient | None:
        """Whose calls are reported, as it was given."""
        return self._client

    @property
    def url(self) -> str:
        """The whole address to enter on the platform's console. Keep it secret.

        Raises:
            RuntimeError: the port is not known yet, or outsiders' view of it never will be.
        """
        if self._public_url:
            return self._public_url + self._path
        if self._attached:
            raise RuntimeError("the application knows its address: pass public_url=")
        if self._host in ("", "0.0.0.0", "::"):  # noqa: S104 - nothing is bound here
            raise RuntimeError("the server listens on every address: pass public_url=")
        if not self._port:
            raise RuntimeError("the port is not known before the server has started")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}{self._path}"

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
            web.Server(self._serve, access_log=None, logger=http_logger, lingering_time=_LINGERING),
            shutdown_timeout=max(self._shutdown_timeout, 0.001),  # to aiohttp 0 is for ever
        )
        try:
            self._port = await listen(runner, self._host, self._port)
        except BaseException:
            await self._finish(0.0)
            raise
        if not self._has_begun:
            await runner.cleanup()
            raise RuntimeError("this CallbackServer was stopped as it started")
        self._runner = runner
        logger.info("the callback server listens on %s port %d", self._host, self._port)

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
        server as the other.

        Raises:
            RuntimeError: the application is running already.
        """

        async def serve(request: web.Request) -> web.StreamResponse:
            # In a sub-application the path stands behind a prefix, which the router has compared.
            path = request.rel_url.raw_path
            return await self._serve_at(self._path if path.endswith(self._path) else path, request)

        app.router.add_route("*", self._path, serve)
        self._attached = True

        async def lifetime(_: web.Application) -> AsyncIterator[None]:
            await self._begin()
            yield
            self._is_ready = False
            await self._finish(time.monotonic() + self._shutdown_timeout)

        app.cleanup_ctx.append(lifetime)

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
            if self._accepting:
                await asyncio.wait(self._accepting, timeout=max(0.0, end - time.monotonic()))
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

    async def _accept(self, receipt: Receipt) -> None:
        put = self._dispatcher.prepare(receipt)
        try:
            kept = await self._store.keep(put, self._dispatcher.deliver)
        except Exception:
            # It will not come again: what can be done without the store is done.
            self._wake(receipt)
            self._dispatcher.deliver_unkept(receipt)
            raise
        finally:
            self._dispatcher.cancel(put)
        self._dispatcher.remember(put, kept)
        if kept is None:  # it is in the spool, and its handlers get it from the store
            return
        if kept.kind is None:
            logger.info("the notification of call %s came again", receipt.event.call_id)
        elif kept.kind is Kind.CONFLICT:
            logger.warning(
                "the notification of call %s came again with other content; both are kept",
                receipt.event.call_id,
            )
        self._dispatcher.deliver(kept)

    def _wake(self, receipt: Receipt) -> None:
        if isinstance(receipt.event, Disconnected):
            self._waiting.wake(receipt.event)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if health := health_reply(path, self.problems):
            return _response(health)
        return await self._serve_at(path, request)

    async def _serve_at(self, path: str, request: web.BaseRequest) -> web.StreamResponse:
        probe = request.headers.get(PROBE)
        reply = self._receiver.refuse(request.method, path, request.content_length, probe)
        if reply is None:
            body = await read_body(request)
            # In a task of its own: from here on, neither a sender that goes away nor a stop of
            # the server comes between keeping the notification and handing it on.
            task = asyncio.create_task(self._receiver.receive(body.content, body.problem))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)
            reply = await asyncio.shield(task)
        return _response(reply)


def _response(reply: Reply) -> web.Response:
    return web.Response(
        status=reply.status, body=reply.body, headers={"Content-Type": CONTENT_TYPE}
    )


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
