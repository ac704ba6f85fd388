"""The console's JSON API: all that the page can do. The page itself does it by this API."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from attrs import evolve

from qmc_async.errors import ArgumentError
from qmc_async.models import Reason
from qmc_async.sandbox.chances import FAULT_NAMES, ONCE_BEFALLEN
from qmc_async.sandbox.clock import VirtualClock
from qmc_async.sandbox.console.gate import guarded
from qmc_async.sandbox.console.shown import (
    call_members,
    entry_members,
    matches,
    rule_members,
    short_address,
)
from qmc_async.sandbox.console.snippet import as_pytest
from qmc_async.sandbox.machine import Action
from qmc_async.sandbox.scenario import Faults, Rule, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qmc_async.sandbox.calls import SimulatedCall
    from qmc_async.sandbox.server import Sandbox

__all__ = ["JsonApi", "call_named", "found_calls"]

E = TypeVar("E", bound=enum.StrEnum)
_Command: TypeAlias = Callable[[web.Request, "Mapping[str, Any]"], Awaitable[object]]

_MOST: Final = 1000
_ENDLESS: Final = "endless"
_OF_A_RULE: Final = frozenset({"callee", "caller", "ends", "faults", "out_call_id", "probability"})
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


class _Wrong(Exception):  # noqa: N818 - an answer, not a failure
    """What was asked for is malformed; the text says which member."""


class JsonApi:
    """Routes below ``/sandbox``. Each answers with one JSON object, or list.

    A body is a JSON object, or a form as the page sends it. What cannot be done is answered with
    ``{"error": "..."}``: 400 it is malformed, 404 there is no such call, rule or fault, 409 it is
    not possible now.

    Args:
        sandbox: all that is done is done to it.
        on_change: called after whatever may have changed something.
    """

    def __init__(self, sandbox: Sandbox, on_change: Callable[[], None]) -> None:
        self._sandbox = sandbox
        self._on_change = on_change

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        routes: tuple[tuple[str, str, _Command], ...] = (
            ("GET", "", self._state),
            ("GET", "/calls", self._calls),
            ("POST", "/calls", self._place),
            ("DELETE", "/calls", self._forget),
            ("GET", "/calls/{call_id}", self._call),
            ("GET", "/calls/{call_id}/pytest", self._pytest),
            ("POST", "/calls/{call_id}/actions", self._act),
            ("POST", "/calls/{call_id}/hang-up", self._hang_up),
            ("POST", "/calls/{call_id}/resend", self._resend),
            ("GET", "/requests", self._requests),
            ("GET", "/rules", self._rules),
            ("POST", "/rules", self._add_rule),
            ("PATCH", "/rules/{name:[^/]+}", self._change_rule),
            ("DELETE", "/rules/{name:[^/]+}", self._remove_rule),
            ("GET", "/faults", self._faults),
            ("POST", "/faults/drop-next", self._drop_next),
            ("PUT", "/faults/{name}", self._set_fault),
            ("PUT", "/callback", self._set_callback),
            ("POST", "/advance", self._advance),
        )
        for method, path, command in routes:
            router.add_route(method, f"/sandbox{path}", guarded(self._answering(command)))

    async def _state(self, _: web.Request, __: Mapping[str, Any]) -> object:
        sandbox = self._sandbox
        clock = sandbox.clock
        url = sandbox.callback_url
        return {
            "now": clock.now().isoformat(),
            "speed": 0 if isinstance(clock, VirtualClock) else clock.speed,
            "calls": len(sandbox.calls),
            "callback": None if url is None else short_address(url),
        }

    async def _calls(self, request: web.Request, _: Mapping[str, Any]) -> object:
        limit = _number(request.query, "limit", 100, least=1, most=_MOST)
        skip = _number(request.query, "skip", 0, least=0)
        found = found_calls(self._sandbox, request.query.get("search", ""))
        return [self._members(call) for call in islice(found, int(skip), int(skip + limit))]

    async def _call(self, request: web.Request, _: Mapping[str, Any]) -> object:
        call = call_named(self._sandbox, request.match_info["call_id"])
        return {
            **self._members(call),
            "history": [entry_members(entry) for entry in call.history],
        }

    async def _pytest(self, request: web.Request, _: Mapping[str, Any]) -> object:
        return {"pytest": as_pytest(call_named(self._sandbox, request.match_info["call_id"]))}

    async def _place(self, _: web.Request, given: Mapping[str, Any]) -> object:
        call = self._sandbox.place(
            _text(given, "caller") or "",
            _text(given, "callee") or "",
            out_call_id=_text(given, "out_call_id"),
        )
        return self._members(call)

    async def _act(self, request: web.Request, given: Mapping[str, Any]) -> object:
        call = call_named(self._sandbox, request.match_info["call_id"])
        self._sandbox.act(call.call_id, _one_of(Action, given, "action"))
        return self._members(call)

    async def _hang_up(self, request: web.Request, given: Mapping[str, Any]) -> object:
        call = call_named(self._sandbox, request.match_info["call_id"])
        reason = _one_of(Reason, {"reason": Reason.HANG_UP, **given}, "reason")
        await self._sandbox.hang_up(call, reason=reason)
        return self._members(call)

    async def _resend(self, request: web.Request, _: Mapping[str, Any]) -> object:
        call = call_named(self._sandbox, request.match_info["call_id"])
        try:
            return entry_members(await self._sandbox.resend(call))
        except ValueError as error:
            raise web.HTTPConflict(text=str(error)) from None

    async def _forget(self, _: web.Request, __: Mapping[str, Any]) -> object:
        self._sandbox.forget()
        return {"calls": len(self._sandbox.calls)}

    async def _requests(self, _: web.Request, __: Mapping[str, Any]) -> object:
        return [entry_members(exchange) for exchange in reversed(self._sandbox.refused)]

    async def _rules(self, _: web.Request, __: Mapping[str, Any]) -> object:
        return [rule_members(rule) for rule in self._sandbox.rules]

    async def _add_rule(self, _: web.Request, given: Mapping[str, Any]) -> object:
        rule = _rule(given)
        self._sandbox.rules.append(rule)
        return rule_members(rule)

    async def _change_rule(self, request: web.Request, given: Mapping[str, Any]) -> object:
        place = self._place_of_rule(request)
        rule = self._sandbox.rules[place]
        rule = evolve(
            rule,
            enabled=_flag(given, "enabled", rule.enabled),
            probability=_probability(given, rule.probability),
        )
        self._sandbox.rules[place] = rule
        return rule_members(rule)

    async def _remove_rule(self, request: web.Request, _: Mapping[str, Any]) -> object:
        rule = self._sandbox.rules.pop(self._place_of_rule(request))
        return rule_members(rule)

    async def _faults(self, _: web.Request, __: Mapping[str, Any]) -> object:
        return dict(self._sandbox.fault_rates.rates)

    async def _set_fault(self, request: web.Request, given: Mapping[str, Any]) -> object:
        name = request.match_info["name"]
        if name not in FAULT_NAMES:
            raise web.HTTPNotFound(
                text=f"there is no such fault; there are {', '.join(FAULT_NAMES)}"
            )
        self._sandbox.fault_rates.set(name, _probability(given, 1.0))
        return dict(self._sandbox.fault_rates.rates)

    async def _drop_next(self, _: web.Request, __: Mapping[str, Any]) -> object:
        self._sandbox.drop_next_notification()
        return {"to_drop": self._sandbox.notifications_to_drop}

    async def _set_callback(self, _: web.Request, given: Mapping[str, Any]) -> object:
        url = _text(given, "url")
        if "url" not in given:
            raise _Wrong("url: it must be given; it may be empty")
        if url is not None and not _is_address(url):
            raise _Wrong(
                "url: it must be an address that begins with http:// or https://, or empty"
            )
        self._sandbox.callback_url = url
        return {"callback": None if url is None else short_address(url)}

    async def _advance(self, _: web.Request, given: Mapping[str, Any]) -> object:
        seconds = _number(given, "seconds", None, least=0)
        try:
            await self._sandbox.advance(seconds=seconds)
        except OverflowError:
            raise _Wrong("seconds: no calendar reaches so far") from None
        return {"now": self._sandbox.clock.now().isoformat()}

    def _answering(
        self, command: _Command
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            status = 200
            try:
                members = await command(request, await _given(request))
            except (_Wrong, ArgumentError, ValueError) as error:
                status, members = 400, {"error": str(error)}
            except RuntimeError as error:  # an IllegalAction too
                status, members = 409, {"error": str(error)}
            except web.HTTPClientError as error:
                status, members = error.status, {"error": error.text}
            if request.method != "GET":
                self._on_change()
            return web.Response(
                body=orjson.dumps(members), status=status, content_type="application/json"
            )

        return answer

    def _members(self, call: SimulatedCall) -> dict[str, Any]:
        sandbox = self._sandbox
        return call_members(call, sandbox.clock.now(), sandbox.assumed.recording_delay)

    def _place_of_rule(self, request: web.Request) -> int:
        for place, rule in enumerate(self._sandbox.rules):
            if rule.name == request.match_info["name"]:
                return place
        raise web.HTTPNotFound(text="there is no such rule; somebody may have removed it")


def found_calls(sandbox: Sandbox, words: str) -> Iterator[SimulatedCall]:
    """The calls that match all of the words, the latest first."""
    newest_first = reversed(sandbox.calls.values())
    return (call for call in newest_first if matches(call, words)) if words else newest_first


def call_named(sandbox: Sandbox, call_id: str) -> SimulatedCall:
    """The call of that ``callidentifier``; the last one that was placed for ``latest``.

    Where there is none, the request is answered with 404.
    """
    if call_id == "latest":
        call = next(reversed(sandbox.calls.values()), None)
    else:
        call = sandbox.calls.get(call_id)
    if call is None:
        raise web.HTTPNotFound(text="there is no such call; it may have been forgotten")
    return call


async def _given(request: web.Request) -> Mapping[str, Any]:
    if not request.can_read_body:
        return {}
    if request.content_type in _FORMS:
        try:
            form = await request.post()
        except (LookupError, RuntimeError, ValueError):  # whatever the body says of itself
            raise _Wrong("the body is no form that can be read") from None
        given: dict[str, Any] = {}
        for name in form:
            values = form.getall(name)
            given[name] = values if name == "faults" else values[-1]
        return given
    if request.content_type != "application/json":
        raise _Wrong("Content-Type: it must be application/json, or a form's")
    try:
        body: object = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        raise _Wrong("the body is no JSON") from None
    if not isinstance(body, dict):
        raise _Wrong("the body must be a JSON object")
    return cast("dict[str, Any]", body)


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise _Wrong(f"{name}: it must be text")
    return (value or "").strip() or None


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _flag(given: Mapping[str, Any], name: str, default: bool) -> bool:  # noqa: FBT001 - like dict.get
    value = given.get(name, default)
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise _Wrong(f"{name}: it must be true or false")
    return bool(value == "true")


def _number(
    given: Mapping[str, Any],
    name: str,
    default: float | None,
    *,
    least: float,
    most: float = 10**9,
) -> float:
    value = given.get(name, default)
    try:
        if isinstance(value, bool):
            raise TypeError  # noqa: TRY301 - as all that is no number
        number = float(value)  # pyright: ignore[reportArgumentType] - None is a TypeError
    except (TypeError, ValueError):
        number = least - 1
    if not least <= number <= most:
        raise _Wrong(f"{name}: it must be a number from {least:g} to {most:g}")
    return number


def _probability(given: Mapping[str, Any], default: float) -> float:
    return _number(given, "probability", default, least=0, most=1)


def _one_of(kind: type[E], given: Mapping[str, Any], name: str) -> E:
    try:
        return kind(str(given.get(name)))
    except ValueError:
        raise _Wrong(f"{name}: it must be one of {', '.join(kind)}") from None


def _faults(given: Mapping[str, Any]) -> Faults | None:
    names = cast("list[object]", given.get("faults", []))
    if not isinstance(names, list) or any(name not in FAULT_NAMES for name in names):  # pyright: ignore[reportUnnecessaryIsInstance] - it came as JSON
        raise _Wrong(f"faults: it must be a list of some of {', '.join(FAULT_NAMES)}")
    return Faults(**{str(name): ONCE_BEFALLEN[str(name)] for name in names}) if names else None


def _rule(given: Mapping[str, Any]) -> Rule:
    if unknown := sorted(set(given) - _OF_A_RULE):  # else a slip of the pen is a rule for all calls
        raise _Wrong(f"{unknown[0]}: a rule has only {', '.join(sorted(_OF_A_RULE))}")
    ends = _text(given, "ends")
    scenario = None
    if ends is not None:
        scenario = (
            Scenario.endless()
            if ends == _ENDLESS
            else Scenario.for_reason(_one_of(Reason, given, "ends"))
        )
    return Rule(
        callee=_text(given, "callee"),
        caller=_text(given, "caller"),
        out_call_id=_text(given, "out_call_id"),
        scenario=scenario,
        faults=_faults(given),
        probability=_probability(given, 1.0),
    )
