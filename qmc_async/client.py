"""`AsyncQmcClient`: place a call, end it, fetch its recording."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from typing import TYPE_CHECKING, Self, TypeVar

import orjson

from qmc_async.arguments import (
    call_id_of,
    check_max_bytes,
    check_out_call_id,
    check_text,
    is_duration,
)
from qmc_async.errors import (
    ApiError,
    ArgumentError,
    AuthenticationError,
    CallOutcomeUnknown,
    ConfigError,
    ExchangeError,
    RateLimited,
    RecordingError,
)
from qmc_async.models import RECORDING_LIFETIME, Call, CallState, Disconnected, Recording
from qmc_async.numbers import normalise
from qmc_async.recording_address import RecordingHosts
from qmc_async.recordings import MAX_BYTES, fetch
from qmc_async.retry import back_off
from qmc_async.settings import Settings
from qmc_async.signer import Signer
from qmc_async.telemetry import telemetry_for
from qmc_async.transport import DEFAULT_LIMITS, Transport
from qmc_async.verdict import CALL, END_CALL, RECORD, NoReply, Reply, Success, judge, to_error

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from datetime import datetime
    from types import TracebackType

    import httpx

    from qmc_async.ledger import Ledger
    from qmc_async.models import FileResult
    from qmc_async.numbers import NumberMode
    from qmc_async.recordings import Progress, RecordingFile
    from qmc_async.settings import LedgerNumbers, Network
    from qmc_async.store import Store
    from qmc_async.telemetry import Placing, Span
    from qmc_async.verdict import Endpoint

__all__ = ["AsyncQmcClient"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CALL_PATH = "/api/qmc-call/openapi/v1/call"
_END_CALL_PATH = "/api/qmc-call/openapi/v1/endCall"
_FIRST_POLL = 0.5
_LONGEST_POLL = 10.0
# With less time than this an attempt would end in doubt, where the one before may have been clear.
_SHORTEST_ATTEMPT = 0.25


def _ledger_in(store: Store | str, settings: Settings) -> Ledger:
    # SQLAlchemy is the larger part of their import, and a client without a ledger needs none.
    from qmc_async.ledger import Ledger  # noqa: PLC0415
    from qmc_async.store import Store  # noqa: PLC0415

    return Ledger(
        store if isinstance(store, Store) else Store(store),
        missing_after=settings.missing_after,
        whole_numbers=settings.ledger_numbers == "whole",
    )


def _expiry_of(call: Call | Disconnected | str) -> datetime | None:
    match call:
        case Disconnected():
            end = call.end_time
        case Call():
            end = call.placed_at
        case _:
            return None
    try:
        return end + RECORDING_LIFETIME
    except OverflowError:  # whatever the platform says: it must not keep its recording from us
        return None


class AsyncQmcClient:
    """The platform's three operations, for one event loop.

    What is not given comes from the environment; see `qmc_async.settings` for the variables and
    the defaults. Use it as ``async with AsyncQmcClient() as client:``, or call `aclose`.

    Args:
        app_id: APPID.
        app_secret: APPSECRET.
        base_url: where ``call`` and ``endCall`` are.
        record_base_url: where ``record`` is.
        record_path: the document (3.3) gives two paths, and its example this one.
        timeout: seconds that one attempt waits for a piece of the reply.
        deadline: seconds for one operation, with all its attempts and waits.
        max_retries: attempts after the first. `call` uses them only when nothing can have left.
        numbers: how telephone numbers are checked: ``lenient`` tidies, ``strict`` also refuses
            what is not in China's numbering plan, ``off`` sends what it is given.
        store: where the ledger is, a `Store` or its URL: each call is written down before it is
            placed. A `CallbackServer` that is given the client has the same store. By default
            there is no ledger.
        missing_after: seconds from when a call is placed until its notification is overdue, and a
            `CallbackServer` looks for what became of it. Longer than your longest call.
        ledger_numbers: how the ledger has telephone numbers: ``masked`` or ``whole``.
        recording_networks: where `download` may fetch from besides the internet and the hosts of
            the base addresses: networks such as ``10.0.0.0/8``. A recording's URL comes from
            outside, and must not make this machine ask others in your network.
        limits: of the connection pool. By default 100 connections, each idle for 5 s at most.
            Of `max_keepalive_connections` only 0 has a meaning: none is kept.
        http_client: your own `httpx.AsyncClient`, for a proxy or TLS of your own. It stays
            yours to close, and its limits are its own. It must not send a request again by
            itself: `httpx.AsyncHTTPTransport(retries=...)` does not, a transport that retries
            after the connection was made would ring twice. `download` does not use it.

    Attributes:
        signer: signs the requests; a `CallbackServer` shares it.
        settings: what the client is set to.

    Raises:
        ConfigError: a setting is missing or malformed.
    """

    def __init__(
        self,
        app_id: int | str | None = None,
        app_secret: str | None = None,
        *,
        base_url: str | None = None,
        record_base_url: str | None = None,
        record_path: str | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        max_retries: int | None = None,
        numbers: NumberMode | None = None,
        store: Store | str | None = None,
        missing_after: float | None = None,
        ledger_numbers: LedgerNumbers | None = None,
        recording_networks: str | Iterable[str | Network] | None = None,
        limits: httpx.Limits | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self.settings = Settings.load(
            app_id=app_id,
            app_secret=app_secret,
            base_url=base_url,
            record_base_url=record_base_url,
            record_path=record_path,
            timeout=timeout,
            deadline=deadline,
            max_retries=max_retries,
            numbers=numbers,
            missing_after=missing_after,
            ledger_numbers=ledger_numbers,
            recording_networks=recording_networks,
        )
        if limits is not None and http_client is not None:
            raise ConfigError(
                "limits: an http_client has its own; give them to it", setting="limits"
            )
        if limits is not None and limits.max_connections == 0:
            raise ConfigError("limits: max_connections=0 would let nothing out", setting="limits")
        self.signer = Signer(self.settings.credentials)
        self._transport = Transport(
            self.signer,
            http_client,
            limits or DEFAULT_LIMITS,
            RecordingHosts(
                (self.settings.base_url, self.settings.record_base_url),
                self.settings.recording_networks,
            ),
        )
        self._owns_transport = True
        self._ledger = None if store is None else _ledger_in(store, self.settings)
        self._telemetry = telemetry_for()

    def __repr__(self) -> str:
        app_id = self.settings.credentials.app_id
        return f"AsyncQmcClient(app_id={app_id}, base_url={self.settings.base_url!r})"

    @property
    def store(self) -> Store | None:
        """Where the ledger is; None where there is none."""
        return None if self._ledger is None else self._ledger.store

    async def __aenter__(self) -> Self:
        self._transport.check_usable()
        if self._ledger is not None:
            await self._ledger.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections and the ledger.

        A client made by `with_options` leaves them to its original.
        """
        if not self._owns_transport:
            return
        try:
            await self._transport.aclose()
        finally:
            # After it, so that what becomes of calls that are being placed is written down.
            if self._ledger is not None:
                await self._ledger.aclose()

    def with_options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        max_retries: int | None = None,
        numbers: NumberMode | None = None,
    ) -> Self:
        """A client with other options on the same connections; what is None stays as it is.

        Raises:
            ConfigError: an option is malformed.
        """
        other = copy.copy(self)
        other.settings = self.settings.changed(
            timeout=timeout, deadline=deadline, max_retries=max_retries, numbers=numbers
        )
        other._owns_transport = False  # noqa: SLF001 - of the same class
        return other

    async def call(
        self, caller: str, callee: str, *, out_call_id: str | None = None, again: bool = False
    ) -> Call:
        """Ring the caller, then the callee, and connect them (3.1).

        It is sent again only when nothing of it can have left this machine; otherwise a phone
        could ring twice.

        Args:
            caller: who is rung first.
            callee: who is rung once the caller has answered.
            out_call_id: your name for the call, 1 to 64 characters, which the notification
                repeats. One is made up when none is given, so that every call can be settled by
                its notification. Do not put a telephone number into it: it is logged. With a
                ledger it can be used once, unless the platform refused that call.
            again: ring although the ledger has a call under this `out_call_id`. To wait for the
                new one, give `wait_for` the `Call`: under the id the earlier one may be found.

        Raises:
            ArgumentError: before anything is sent.
            DuplicateCall: the ledger has a call under this `out_call_id`; nothing was sent.
            StoreError: the call could not be written down in the ledger; nothing was sent.
            ConfigError: the ledger's store cannot be opened; nothing was sent.
            CallOutcomeUnknown: the call may have been placed, and nobody can tell. Do not place
                it again; the notification that carries its `out_call_id` tells.
            AuthenticationError: credentials, clock or address are not accepted.
            RateLimited: not placed; `retry_after` says when to try again, if the platform does.
            ApiError: the platform refused the call.
            TransportError: the platform could not be reached; nothing was placed.
        """
        mode = self.settings.numbers
        out_call_id = check_out_call_id(out_call_id)
        caller = check_text(normalise(caller, mode, argument="caller"), "caller")
        callee = check_text(normalise(callee, mode, argument="callee"), "callee")
        with self._telemetry.placing(self.settings.base_url, out_call_id) as span:
            if self._ledger is None:
                return await self._place(caller, callee, out_call_id, span)
            return await self._place_by(
                self._ledger, caller, callee, out_call_id, span, again=again
            )

    async def _place_by(
        self,
        ledger: Ledger,
        caller: str,
        callee: str,
        out_call_id: str,
        span: Placing,
        *,
        again: bool,
    ) -> Call:
        self._transport.check_usable()
        entry = await ledger.write_down(
            out_call_id, caller, callee, again=again, traceparent=span.traceparent
        )
        try:
            call = await self._place(caller, callee, out_call_id, span)
        except CallOutcomeUnknown as error:
            await ledger.settle(entry, CallState.UNKNOWN, error=str(error))
            raise
        except ExchangeError as error:
            await ledger.settle(entry, CallState.REFUSED, error=str(error))
            raise
        except BaseException as error:
            ledger.settle_soon(entry, CallState.UNKNOWN, error=type(error).__name__)
            raise
        await ledger.settle(entry, CallState.PLACED, call_id=call.call_id)
        return call

    async def _place(self, caller: str, callee: str, out_call_id: str, span: Placing) -> Call:
        body = {"caller": caller, "callee": callee, "outCallId": out_call_id}
        url = self.settings.base_url + _CALL_PATH
        span.sends()
        placed = await self._exchange(CALL, url, body, span, out_call_id)
        span.placed(placed.result.call_id)
        return Call(
            call_id=placed.result.call_id,
            out_call_id=out_call_id,
            placed_at=self.signer.clock.datetime(time.time()),
            raw=placed.envelope.data,
        )

    async def end_call(self, call: Call | str) -> None:
        """End a call, whatever state it is in (3.4). Ending it twice is harmless.

        Args:
            call: what `call` returned, or its call id.

        Raises:
            ArgumentError: before anything is sent.
            ApiError: the platform refused; what it answers for a call that has ended already, or
                that it does not know, is not documented.
            TransportError: no usable reply came in any attempt.
        """
        call_id, base_url = call_id_of(call), self.settings.base_url
        with self._telemetry.operation("end_call", base_url, call_id) as span:
            body = {"callidentifier": call_id}
            await self._exchange(END_CALL, base_url + _END_CALL_PATH, body, span)

    async def recording(self, call: Call | Disconnected | str, *, wait: float = 0.0) -> Recording:
        """Look up where a call's recording is (3.3). It is gone three days after the call.

        Args:
            call: the `Disconnected` (best: the expiry is exact then), the `Call` or the call id.
            wait: seconds to keep asking while the platform says no, ever more slowly: a recording
                is not ready at once, and the document has no code for that.

        Raises:
            ArgumentError: before anything is sent.
            ApiError: there is none, or not yet, or no more: the document does not tell these
                apart.
            TransportError: no usable reply came in any attempt.
        """
        call_id = call_id_of(call)
        if not is_duration(wait):
            raise ArgumentError("wait must be a number of seconds, 0 or more", argument="wait")
        with self._telemetry.operation("recording", self.settings.record_base_url, call_id) as span:
            found = await self._look_for(call_id, wait, span)
        return Recording(
            call_id=call_id,
            file_url=found.result.file_url,
            expires_at=_expiry_of(call),
            raw=found.envelope.data,
        )

    async def _look_for(self, call_id: str, wait: float, span: Span) -> Success[FileResult]:
        url = self.settings.record_base_url + self.settings.record_path
        give_up = time.monotonic() + wait
        poll = _FIRST_POLL
        while True:
            try:
                return await self._exchange(RECORD, url, {"callidentifier": call_id}, span)
            except (AuthenticationError, RateLimited):
                raise
            except ApiError:
                left = give_up - time.monotonic()
                if left <= 0:
                    raise
            await asyncio.sleep(min(poll, left))
            poll = min(poll * 2, _LONGEST_POLL)

    async def download(
        self,
        recording: Recording | Call | Disconnected | str,
        destination: str | os.PathLike[str],
        *,
        wait: float = 0.0,
        max_bytes: int = MAX_BYTES,
        on_progress: Progress | None = None,
    ) -> RecordingFile:
        """Save a recording: whole under its final name, or not at all.

        It goes straight to the recording's host, also where the client was given an `http_client`:
        httpx would log the URL, and who has that can listen. It goes neither to loopback nor into
        a private network, and no redirect leads it there: see `recording_networks`.

        Args:
            recording: what `recording` returned; of anything else its argument, it is looked up.
            destination: a file, which is replaced if it exists; or a folder that exists, where
                the file is named after the call id.
            wait: seconds to keep trying while there is no recording, or not a whole one.
            max_bytes: how long it may be; by default 1 GiB.
            on_progress: called with the bytes written so far and the bytes expected (or None).

        Returns:
            The file: its path, length, SHA-256 and format.

        Raises:
            ArgumentError: before anything is sent.
            RecordingError: it could not be fetched whole, or what came is no audio; `temporary`
                says whether it may be there later.
            OSError: the file cannot be written.
            QmcError: as `recording`, where it had to be looked up.
        """
        if not is_duration(wait):
            raise ArgumentError("wait must be a number of seconds, 0 or more", argument="wait")
        check_max_bytes(max_bytes)
        call_id = recording.call_id if isinstance(recording, Recording) else call_id_of(recording)
        # Not the recording's host: who has its address can listen.
        with self._telemetry.operation("download", None, call_id):
            return await self._fetch(recording, destination, wait, max_bytes, on_progress)

    async def _fetch(
        self,
        recording: Recording | Call | Disconnected | str,
        destination: str | os.PathLike[str],
        wait: float,
        max_bytes: int,
        on_progress: Progress | None,
    ) -> RecordingFile:
        give_up = time.monotonic() + wait
        poll = _FIRST_POLL
        while True:
            left = max(0.0, give_up - time.monotonic())
            # Looked up every time: an address may expire before its file is there.
            found = (
                recording
                if isinstance(recording, Recording)
                else await self.recording(recording, wait=left)
            )
            try:
                return await fetch(
                    self._transport.download_session,
                    found,
                    destination,
                    timeout=self.settings.timeout,
                    max_retries=self.settings.max_retries,
                    max_bytes=max_bytes,
                    on_progress=on_progress,
                )
            except RecordingError as error:
                left = give_up - time.monotonic()
                if not error.temporary or left <= 0:
                    raise
            await asyncio.sleep(min(poll, left))
            poll = min(poll * 2, _LONGEST_POLL)

    async def _exchange(
        self,
        endpoint: Endpoint[T],
        url: str,
        payload: dict[str, str],
        span: Span,
        out_call_id: str | None = None,
    ) -> Success[T]:
        """Send, and send again where the rules of `qmc_async.verdict` allow it."""
        settings = self.settings
        body = orjson.dumps(payload)
        started = time.monotonic()
        left = settings.deadline
        attempts = 0
        signed_anew = False
        while True:
            attempts += 1
            try:
                outcome = await self._attempt(url, body, left)
            except asyncio.CancelledError:
                if out_call_id is not None:
                    logger.warning(
                        "the call with out_call_id %s was cancelled while it was being placed: it "
                        "may ring all the same, and its notification will tell",
                        out_call_id,
                    )
                raise
            span.attempted(attempts, outcome.http_status if isinstance(outcome, Reply) else None)
            verdict = judge(endpoint, outcome)
            if isinstance(verdict, Success):
                return verdict
            elapsed = time.monotonic() - started
            clock_was_wrong = isinstance(outcome, Reply) and outcome.clock_was_wrong
            if (
                verdict.error is AuthenticationError
                and clock_was_wrong
                and endpoint.repeatable
                and not signed_anew
            ):
                signed_anew = True
                left = max(settings.deadline - elapsed, _SHORTEST_ATTEMPT)
                continue
            wait = back_off(attempts, verdict.retry_after)
            if (
                not verdict.repeatable
                or attempts > settings.max_retries
                or elapsed + wait + _SHORTEST_ATTEMPT > settings.deadline
            ):
                break
            logger.info(
                "%s: attempt %d: %s; trying again in %.2f s",
                endpoint.name,
                attempts,
                verdict.why,
                wait,
            )
            await asyncio.sleep(wait)
            left = max(settings.deadline - (time.monotonic() - started), _SHORTEST_ATTEMPT)
        raise to_error(
            verdict,
            endpoint=endpoint.name,
            attempts=attempts,
            elapsed=elapsed,
            out_call_id=out_call_id,
            clock_was_wrong=clock_was_wrong,
        )

    async def _attempt(self, url: str, body: bytes, left: float) -> Reply | NoReply:
        # Each phase ends a little before the deadline does, so that a connection that never came
        # about is known as one. aiohttp rounds what is longer than 5 s up to a whole second.
        timeout = min(self.settings.timeout, left * 0.95 if left < 5 else left - 1.1)  # noqa: PLR2004 - see above
        try:
            async with asyncio.timeout(left):
                return await self._transport.post(url, body, timeout)
        except TimeoutError:
            return NoReply(may_have_arrived=True, why="no whole reply within the deadline")
