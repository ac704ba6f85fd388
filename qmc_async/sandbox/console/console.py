"""The console's pages, and the stream that keeps them up to date."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, cast
from urllib.parse import quote, urlencode

from aiohttp import web
from attrs import evolve, frozen
from jinja2 import Environment, PackageLoader, StrictUndefined

from qmc_async.models import Reason
from qmc_async.sandbox.clock import VirtualClock
from qmc_async.sandbox.console.gate import HEADERS, guarded
from qmc_async.sandbox.console.json_api import JsonApi, call_named, found_calls
from qmc_async.sandbox.console.shown import (
    call_members,
    messages_of,
    rule_members,
    short_address,
)
from qmc_async.sandbox.console.snippet import as_pytest
from qmc_async.sandbox.console.timeline import timeline_of
from qmc_async.sandbox.console.words import language_of, translator
from qmc_async.sandbox.history import Attempt, Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from qmc_async.sandbox.recordings import Recordings
    from qmc_async.sandbox.server import Sandbox

__all__ = ["Console"]

_ROWS: Final = 50
_EXCHANGES: Final = 100
_PAGES: Final = ("rules", "requests")
_LONGEST_SEARCH: Final = 200
_MOST_DIGITS: Final = 16
_PAUSE: Final = 0.1  # seconds between two looks, however much happens
_SIGN_OF_LIFE: Final = 15.0  # seconds; a proxy, or a laptop that slept, must notice a dead stream
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_STATIC: Final = files("qmc_async.sandbox.console").joinpath("static")

_Context: TypeAlias = dict[str, Any]


@frozen(kw_only=True)
class _View:
    """What one reader looks at.

    Attributes:
        page: ``calls``, ``rules`` or ``requests``.
        call_id: the call that is shown beside the list, None where none is.
        search: words that each call of the list has.
        skip: how many calls stand before the first of the list.
        run: which console's page it is, None where that is not said.
        since: what the stream's reader has seen already; see `Sandbox.changed`.
    """

    page: str
    call_id: str | None
    search: str
    skip: int
    run: str | None
    since: int

    @classmethod
    def of(cls, request: web.Request) -> Self:
        """Read it off the address of a page, or of the stream."""
        query = request.query
        call_id = request.match_info.get("call_id", query.get("call"))
        page = query.get("page", request.path.strip("/"))
        return cls(
            page=page if page in _PAGES else "calls",
            call_id=call_id,
            search=query.get("search", "")[:_LONGEST_SEARCH],
            skip=_whole(query.get("skip", "")),
            run=query.get("run"),
            since=_whole(query.get("since", "")),
        )

    def query(self, run: str, since: int) -> dict[str, str]:
        """The same as the stream's query."""
        given = {"page": self.page, "call": self.call_id, "search": self.search}
        return {
            **{name: value for name, value in given.items() if value},
            "skip": str(self.skip),
            "run": run,
            "since": str(since),
        }

    def link(self, call_id: str | None = None, skip: int | None = None) -> str:
        """The address of a page with the same search, and perhaps of one of its calls."""
        given = {"search": self.search, "skip": self.skip if skip is None else skip}
        query = urlencode({name: value for name, value in given.items() if value})
        return f"/{'' if call_id is None else f'calls/{call_id}'}{'?' if query else ''}{query}"


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < _MOST_DIGITS else 0


def _when(time: datetime) -> str:
    return f"{time:%H:%M:%S}"


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _seconds(seconds: float) -> str:
    """A length of time for a reader, such as ``7 s``, ``4:32``, ``1:00:05`` or ``3 d``."""
    whole = int(seconds)
    if whole < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:  # noqa: PLR2004 - hours of a day
        return f"{hours // 24} d"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _quoted(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _real(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


class Console:
    """The console of one sandbox.

    Each page is whole without a script. A page's parts, by name, are what the stream sends again
    when they have changed.

    Args:
        sandbox: what is shown.
        on_change: called after the page has changed something.
    """

    def __init__(self, sandbox: Sandbox, on_change: Callable[[], None]) -> None:
        self._sandbox = sandbox
        self._run = secrets.token_hex(4)  # one that went before has counted from 0 too
        self._json = JsonApi(sandbox, on_change)
        self._recordings: Recordings  # of the run that `add_to` was last called for
        self._templates = Environment(
            loader=PackageLoader("qmc_async.sandbox.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        filters = cast("dict[str, Any]", self._templates.filters)  # type: ignore[redundant-cast]  # not for pyright
        filters.update(when=_when, milliseconds=_milliseconds, seconds=_seconds, real=_real)
        filters.update(quoted=_quoted)
        self._static = {
            entry.name: entry.read_bytes() for entry in _STATIC.iterdir() if entry.is_file()
        }

    def add_to(self, application: web.Application, recordings: Recordings) -> None:
        """Add the console's routes to the application of one run of the sandbox."""
        self._recordings = recordings
        router = application.router
        for path, handler in (
            ("/", self._page),
            ("/calls/{call_id}", self._page),
            ("/rules", self._page),
            ("/requests", self._page),
            ("/latest", self._latest),
            ("/static/{name}", self._file),
            ("/sandbox/calls/{call_id}/recording", self._recording),
        ):
            router.add_get(path, guarded(handler))
        router.add_get("/stream", guarded(self._stream), allow_head=False)  # it would not end
        self._json.add_to(router)

    async def _page(self, request: web.Request) -> web.Response:
        view = _View.of(request)
        context = self._context(view, request.headers.get("Accept-Language", ""))
        context["stream"] = f"/stream?{urlencode(view.query(self._run, self._sandbox.changes))}"
        text = self._templates.get_template("page.html").render(context)
        return web.Response(text=text, content_type="text/html")

    async def _latest(self, _: web.Request) -> web.Response:
        call = next(reversed(self._sandbox.calls), None)
        raise web.HTTPSeeOther("/" if call is None else f"/calls/{call}")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._static:
            raise web.HTTPNotFound
        kind = _TYPES.get(name[name.rfind(".") :], "text/plain")
        return web.Response(body=self._static[name], content_type=kind, charset="utf-8")

    async def _recording(self, request: web.Request) -> web.StreamResponse:
        """The sound, without a trace in the call's history: the application did not fetch it."""
        call = call_named(self._sandbox, request.match_info["call_id"])
        now = self._sandbox.clock.now()
        path = None
        if call_members(call, now, self._sandbox.assumed.recording_delay)["can_play"]:
            path = self._recordings.file(self._recordings.name(call), now)
        if path is None:
            raise web.HTTPNotFound(text="there is no recording, not yet or no more")
        return web.FileResponse(path, headers={"Content-Type": "audio/wav"})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        view = _View.of(request)
        language = request.headers.get("Accept-Language", "")
        response = web.StreamResponse(headers=HEADERS)
        response.content_type = "text/event-stream"
        await response.prepare(request)
        sent: dict[str, str] = {}
        seen = view.since if view.run in (None, self._run) else -1
        if seen == self._sandbox.changes:  # the page shows it all
            sent = dict(self._parts(view, language))
        while request.transport is not None:  # the reader has not gone
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_SIGN_OF_LIFE):
                        seen = await self._sandbox.changed(seen)
            except RuntimeError:  # the sandbox stops
                break
            events = "".join(self._events(view, language, sent))
            try:
                await response.write(events.encode() or b": still here\n\n")
            except ConnectionResetError:  # the reader has gone just now
                break
            await asyncio.sleep(_PAUSE)
        return response

    def _events(self, view: _View, language: str, sent: dict[str, str]) -> Iterator[str]:
        """Those parts that are not as they were `sent`."""
        for name, text in self._parts(view, language):
            if sent.get(name) != text:
                sent[name] = text
                lines = "".join(f"data: {line}\n" for line in text.splitlines())
                yield f"event: {name}\n{lines}\n"

    def _parts(self, view: _View, language: str) -> Iterator[tuple[str, str]]:
        try:
            context = self._context(view, language)
        except web.HTTPNotFound:  # the call was forgotten; what was shown of it stays
            context = self._context(evolve(view, call_id=None), language)
        still = ["clock"] if context["speed"] == 0 else []  # the others tick by themselves
        for name in (*still, *context["parts"]):
            yield name, self._templates.get_template(f"{name}.html").render(context)

    def _context(self, view: _View, language: str) -> _Context:
        sandbox, clock = self._sandbox, self._sandbox.clock
        now = clock.now()
        lang = language_of(language)
        url = sandbox.callback_url
        context: _Context = {
            "t": translator(lang),
            "lang": lang,
            "view": view,
            "now": now,
            "speed": 0 if isinstance(clock, VirtualClock) else clock.speed,
            "callback": None if url is None else short_address(url),
            "refused": len(sandbox.refused),
            "reasons": list(Reason),
            "to_drop": sandbox.notifications_to_drop,
        }
        if view.page == "rules":
            rules = [rule_members(rule) for rule in sandbox.rules]
            return {
                **context,
                "rules": rules,
                "rates": dict(sandbox.fault_rates.rates),
                "parts": ("counts", "rules", "faults"),
            }
        if view.page == "requests":
            latest = islice(reversed(sandbox.refused), _ROWS)
            exchanges = [(exchange, *messages_of(exchange)) for exchange in latest]
            return {**context, "exchanges": exchanges, "parts": ("counts", "refusals")}
        return {**context, **self._calls(view, now)}

    def _calls(self, view: _View, now: datetime) -> _Context:
        sandbox = self._sandbox
        delay = sandbox.assumed.recording_delay
        found = list(islice(found_calls(sandbox, view.search), view.skip, view.skip + _ROWS + 1))
        context: _Context = {
            "rows": [call_members(call, now, delay) | {"call": call} for call in found[:_ROWS]],
            "has_more": len(found) > _ROWS,
            "rows_each": _ROWS,
            "total": len(sandbox.calls),
            "selected": None,
            "parts": ("counts", "list"),
        }
        if view.call_id is None:
            return context
        call = call_named(sandbox, view.call_id)
        context["selected"] = call
        context["shown"] = call_members(call, now, delay)
        context["lines"] = timeline_of(call, now, delay)
        entries = [entry for entry in call.history if isinstance(entry, Exchange | Attempt)]
        numbered = list(enumerate(entries, start=1))[-_EXCHANGES:]
        context["exchanges"] = [(number, one, *messages_of(one)) for number, one in numbered]
        context["snippet"] = as_pytest(call)
        context["parts"] = ("counts", "list", "call", "timeline", "player", "exchanges", "pytest")
        return context
