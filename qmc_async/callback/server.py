"""`CallbackServer`: the receiver and the handlers, served by aiohttp in this process."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from aiohttp import web

from qmc_async.callback.body import read_body
from qmc_async.callback.dispatcher import Dispatcher, to_reasons
from qmc_async.callback.receiver import CONTENT_TYPE, Receiver
from qmc_async.callback.waiting import Waiting
from qmc_async.errors import ArgumentError, ConfigError
from qmc_async.listening import discreet_logger, listen
from qmc_async.models import Call, Disconnected, UnknownNotification
from qmc_async.settings import whole_url
from qmc_async.store import EventStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
    from types import TracebackType

    from qmc_async.callback.dispatcher import Predicate
    from qmc_async.callback.receiver import Reply
    from qmc_async.models import Notification, Reason
    from qmc_async.signer import Signer

__all__ = ["CallbackServer"]

logger = logging.getLogger(__name__)
http_logger = discreet_logger(f"{__name__}.http")

_LAST_PORT = 65535
_LINGERING = 1.0  # seconds that a refused body may still flow before the connection is closed
# Clients rewrite other characters, and dot segments, and then never find the address.
_PATH = re.compile(r"(?!.*/\.{1,2}(?:/|$))/[A-Za-z0-9._~:@/-]*")

OnDisconnected = TypeVar(
    "OnDisconnected", bound="Callable[[Disconnected], Coroutine[Any, Any, object]]"
)
OnUnknown = TypeVar(
    "OnUnknown", bound="Callable[[UnknownNotification], Coroutine[Any, Any, object]]"
)


class CallbackServer:
    """Takes the platform's notifications (3.2) and hands them to coroutine handlers.

    It listens on its own (``async with server:``), or in an aiohttp application (`attach`).

    Args:
        signer: the client's. A token made of its secret ends the path, so that only who was told
            the address can post to it.
        store: where notifications are kept. By default in memory: a restart forgets them.
        host: the address to listen on.
        port: 0 for a free one.
        path: what stands before the token.
        public_url: scheme and host as the platform sees them, such as
            ``https://crm.example.com``, where a proxy stands in front; a path prefix that the
            proxy takes away may follow.
        shutdown_timeout: seconds that running handlers are given when the server stops.

    Raises:
        ConfigError: a setting is malformed.
    """

    def __init__(
        self,
        *,
        signer: Signer | None = None,
        store: EventStore | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        path: str = "/qmc/callback",
        public_url: str | None = None,
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
        if not 0 <= shutdown_timeout < math.inf:
            raise ConfigError(
                "shutdown_timeout: it must be a number of seconds, 0 or more",
                setting="shutdown_timeout",
            )
        self._host = host
        self._port = port
        token = "" if signer is None else f"/{signer.callback_token}"
        self._path = path.rstrip("/") + token or "/"
        self._public_url = public_url
        self._shutdown_timeout = shutdown_timeout
        self._store = MemoryStore() if store is None else store  # an empty one may be false
        self._dispatcher = Dispatcher()
        self._waiting = Waiting(self._store)
        self._receiver = Receiver(self._path, self._accept)
        self._accepting: set[asyncio.Task[Reply]] = set()
        self._attached = False
        self._runner: web.ServerRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<CallbackServer on {self._host}:{self._port}>"

    @overload
    def on_disconnected(self, handler: OnDisconnected, /) -> OnDisconnected: ...

    @overload
    def on_disconnected(
        self,
        /,
        *,
        reason: Reason | str | Iterable[Reason | str] | None = None,
        where: Predicate | None = None,
        name: str | None = None,
    ) -> Callable[[OnDisconnected], OnDisconnected]: ...

    def on_disconnected(
        self,
        handler: OnDisconnected | None = None,
        /,
        *,
        reason: Reason | str | Iterable[Reason | str] | None = None,
        where: Predicate | None = None,
        name: str | None = None,
    ) -> OnDisconnected | Callable[[OnDisconnected], OnDisconnected]:
        """Register a coroutine function for calls that have ended; several may want one event.

        A handler that fails is logged with the call id; the others neither notice nor run again.

        Args:
            handler: takes a `Disconnected`.
            reason: only calls that ended so; one `Reason` or several.
            where: only events for which this returns something true.
            name: the handler's lasting name; by default its module and qualified name.

        Raises:
            TypeError: the handler is no coroutine function, or `where` is no plain one.
            ValueError: the name is taken, or the document has no such reason.
            RuntimeError: the server has started.
        """
        reasons = to_reasons(reason)

        def register(run: OnDisconnected) -> OnDisconnected:
            self._dispatcher.register(run, Disconnected, name=name, reasons=reasons, where=where)
            return run

        return register if handler is None else register(handler)

    @overload
    def on_unknown(self, handler: OnUnknown, /) -> OnUnknown: ...

    @overload
    def on_unknown(self, /, *, name: str | None = None) -> Callable[[OnUnknown], OnUnknown]: ...

    def on_unknown(
        self, handler: OnUnknown | None = None, /, *, name: str | None = None
    ) -> OnUnknown | Callable[[OnUnknown], OnUnknown]:
        """Register a coroutine function for notifications that are no `Disconnected`.

        That is another ``status`` than the document's, or a body that cannot be decoded.

        Args:
            handler: takes an `UnknownNotification`.
            name: as for `on_disconnected`.

        Raises:
            TypeError, ValueError, RuntimeError: as `on_disconnected`.
        """

        def register(run: OnUnknown) -> OnUnknown:
            self._dispatcher.register(run, UnknownNotification, name=name)
            return run

        return register if handler is None else register(handler)

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
        """Open the port.

        Raises:
            RuntimeError: it is running already.
            OSError: the port is taken, or the address is none of this machine's.
        """
        self._bind()
        # No access log: it would show the path, and it halves the throughput.
        runner = web.ServerRunner(
            web.Server(self._serve, access_log=None, logger=http_logger, lingering_time=_LINGERING),
            shutdown_timeout=max(self._shutdown_timeout, 0.001),  # to aiohttp 0 is for ever
        )
        try:
            self._port = await listen(runner, self._host, self._port)
        except BaseException:
            self._loop = None
            raise
        self._runner = runner
        logger.info("the callback server listens on %s port %d", self._host, self._port)

    async def stop(self) -> None:
        """Close the port, let the handlers end, and let nobody wait any longer.

        Where it is cancelled, what still runs is cancelled too.
        """
        runner, self._runner = self._runner, None
        end = time.monotonic() + self._shutdown_timeout
        try:
            if runner is not None:
                await runner.cleanup()
        except asyncio.CancelledError:
            end = 0.0
            raise
        finally:
            await self._finish(end)

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
            self._bind()
            yield
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
            RuntimeError: the server is not running, stopped meanwhile, or runs on another event
                loop.
        """
        if (call is None) == (out_call_id is None):
            raise ArgumentError("give either call or out_call_id", argument="call")
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("wait_for needs the server to be running, on this event loop")
        return await self._waiting.wait(
            call_id=call.call_id if isinstance(call, Call) else call,
            out_call_id=out_call_id,
            timeout=timeout,
        )

    def _bind(self) -> None:
        if self._loop is not None:
            raise RuntimeError("this CallbackServer is running already")
        self._dispatcher.freeze()
        self._loop = asyncio.get_running_loop()

    async def _finish(self, end: float) -> None:
        """Let what has begun come to its end, until `time.monotonic()` is `end`."""
        if self._accepting:
            await asyncio.wait(self._accepting, timeout=max(0.0, end - time.monotonic()))
        self._loop = None
        self._waiting.give_up()
        await self._dispatcher.drain(max(0.0, end - time.monotonic()))

    async def _accept(self, event: Notification, body: bytes) -> None:
        try:
            new = await self._store.put(event, body)
        except Exception:
            # It will not come again: what can be done without the store is done.
            self._deliver(event)
            raise
        if new:
            self._deliver(event)
        else:
            logger.info("the notification of call %s came again", event.call_id)

    def _deliver(self, event: Notification) -> None:
        if isinstance(event, Disconnected):
            self._waiting.wake(event)
        self._dispatcher.dispatch(event)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._serve_at(request.rel_url.raw_path, request)

    async def _serve_at(self, path: str, request: web.BaseRequest) -> web.StreamResponse:
        reply = self._receiver.refuse(request.method, path, request.content_length)
        if reply is None:
            body = await read_body(request)
            # In a task of its own: from here on, neither a sender that goes away nor a stop of
            # the server comes between keeping the notification and handing it on.
            task = asyncio.create_task(self._receiver.receive(body.content, body.problem))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)
            reply = await asyncio.shield(task)
        return web.Response(
            status=reply.status, body=reply.body, headers={"Content-Type": CONTENT_TYPE}
        )
