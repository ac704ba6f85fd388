"""What the console shows of a call: the same members on the page and in the JSON API.

Numbers are whole, since whoever develops must find their own. ``Authorization``, the callback
address and the address of a recording open something, and are cut short.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import orjson
from attrs import fields_dict, frozen

from qmc_async.models import RecordingResult
from qmc_async.sandbox.history import Attempt, Exchange, Headers, Move, Withheld
from qmc_async.sandbox.machine import legal_actions
from qmc_async.sandbox.scenario import Faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime, timedelta

    from qmc_async.sandbox.calls import SimulatedCall
    from qmc_async.sandbox.history import Entry
    from qmc_async.sandbox.scenario import Rule

__all__ = [
    "Message",
    "call_members",
    "entry_members",
    "faults_of",
    "is_taken",
    "matches",
    "messages_of",
    "ready_at",
    "rule_members",
    "short_address",
]

_LONGEST_BODY: Final = 20_000  # characters; nobody reads more of it on a page
_KEPT: Final = 8
_OK: Final = 200
_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})
_NO_TEXT: Final = re.compile("[\ud800-\udfff]")
_RECORDING: Final = re.compile(r'(/recordings/[^"]{8})[^"]+')


@frozen(kw_only=True)
class Message:
    """A request or a reply, as lines of text.

    Attributes:
        first: ``POST /path``, or the status.
        headers: names and values.
        body: text; bytes that are no UTF-8 are shown as U+FFFD.
    """

    first: str
    headers: Headers
    body: str

    def members(self) -> dict[str, Any]:
        """As JSON has it; a header that came more than once stands once, with all its values."""
        headers: dict[str, str] = {}
        for name, value in self.headers:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return {"first": self.first, "headers": headers, "body": self.body}


def call_members(call: SimulatedCall, now: datetime, recording_delay: timedelta) -> dict[str, Any]:
    """A call as a JSON object, without its history.

    Args:
        call: the call.
        now: the simulated time.
        recording_delay: how long after the call its recording can be had.
    """
    ready = ready_at(call, recording_delay)
    expires = None if ready is None else call.recording_expires_at
    return {
        "call_id": call.call_id,
        "out_call_id": call.out_call_id,
        "caller": call.caller,
        "callee": call.callee,
        "state": call.state,
        "reason": call.reason,
        "placed_at": call.placed_at.isoformat(),
        "start_time": _iso(call.start_time),
        "answer_time": _iso(call.answer_time),
        "end_time": _iso(call.end_time),
        "elapsed": ((call.end_time or now) - call.placed_at).total_seconds(),
        "call_duration": None if call.duration is None else call.duration.total_seconds(),
        "recording_result": call.recording,
        "recording_ready_at": _iso(ready),
        "recording_expires_at": _iso(expires),
        "can_play": ready is not None and expires is not None and ready <= now < expires,
        "behaviour": call.behaviour.summary,
        "faults": list(faults_of(call.behaviour.faults)),
        "actions": list(legal_actions(call.state)),
        "notification": _notified(call),
        "notification_withheld": any(isinstance(entry, Withheld) for entry in call.history),
    }


def ready_at(call: SimulatedCall, recording_delay: timedelta) -> datetime | None:
    """When the recording can be had; None where there will be none, or the call goes on."""
    if call.end_time is None or call.recording is not RecordingResult.SUCCESS:
        return None
    return call.end_time + recording_delay


def faults_of(faults: Faults) -> Iterator[str]:
    """The names of the faults that are not as they are by default."""
    for name, attribute in fields_dict(Faults).items():
        if getattr(faults, name) != attribute.default:
            yield name


def rule_members(rule: Rule) -> dict[str, Any]:
    """A rule as a JSON object."""
    scenario = rule.scenario
    return {
        "name": rule.name,
        "callee": rule.callee,
        "caller": rule.caller,
        "out_call_id": rule.out_call_id,
        "steps": None
        if scenario is None
        else [
            {"after": step.after.total_seconds(), "action": step.action} for step in scenario.steps
        ],
        "faults": None if rule.faults is None else list(faults_of(rule.faults)),
        "probability": rule.probability,
        "enabled": rule.enabled,
    }


def matches(call: SimulatedCall, words: str) -> bool:
    """Tell whether each of the words stands somewhere in what the list shows of the call."""
    text = (
        f"{call.call_id} {call.out_call_id or ''} {call.caller} {call.callee} {call.state} "
        f"{call.reason or ''} {' '.join(faults_of(call.behaviour.faults))}"
    ).lower()
    return all(word in text for word in words.lower().split())


def entry_members(entry: Entry) -> dict[str, Any]:
    """One entry of a history as a JSON object; `what` tells them apart."""
    at = {"at": entry.at.isoformat()}
    about: dict[str, Any]
    match entry:
        case Move():
            return {"what": "move", **at, "action": entry.action, "actor": entry.actor}
        case Withheld():
            return {"what": "withheld", **at}
        case Exchange():
            about = {"what": "request", "endpoint": entry.received.endpoint}
        case _:
            about = {"what": "notification", "by_hand": entry.by_hand}
    request, reply = messages_of(entry)
    return {
        **about,
        **at,
        "request": request.members(),
        "reply": reply and reply.members(),
        "http_status": entry.http_status,
        "error": entry.error,
        "elapsed": entry.elapsed,
    }


def messages_of(entry: Exchange | Attempt) -> tuple[Message, Message | None]:
    """A request, and its reply where there was one."""
    if isinstance(entry, Exchange):
        received = entry.received
        is_download = received.endpoint == "recording"
        request = Message(
            first=f"{'GET' if is_download else 'POST'} "
            f"{short_address(received.path) if is_download else received.path}",
            headers=_shown(received.headers),
            body=_text(received.raw),
        )
        if entry.http_status is None:
            return request, None
        body = _RECORDING.sub(r"\1…", _text(entry.reply))
        return request, Message(first=str(entry.http_status), headers=(), body=body)
    address = "-" if entry.url is None else short_address(entry.url)
    request = Message(
        first=f"POST {address}", headers=_shown(entry.headers), body=_text(entry.body)
    )
    if entry.reply is None:
        return request, None
    return request, Message(
        first=str(entry.http_status),
        headers=_shown(entry.reply_headers),
        body=_text(entry.reply),
    )


def short_address(url: str) -> str:
    """An address without what is secret in it: the end of its path, a query, and a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    before, _, last = parts.path.rstrip("/").rpartition("/")
    host = parts.netloc.rpartition("@")[2]
    start = f"{parts.scheme}://{host}" if parts.scheme else ""
    return _readable(f"{start}{before}/{_cut(last)}")


def _notified(call: SimulatedCall) -> dict[str, Any] | None:
    """How the last notification went; None where none was sent."""
    for entry in reversed(call.history):
        if isinstance(entry, Attempt):
            return {
                "http_status": entry.http_status,
                "is_taken": is_taken(entry),
                "error": entry.error,
                "elapsed": entry.elapsed,
            }
    return None


def is_taken(attempt: Attempt) -> bool:
    """Whether the answer to a notification is the document's, whose ``code`` is ``"200"`` (3.2)."""
    try:
        answer: object = orjson.loads(attempt.reply or b"")
    except orjson.JSONDecodeError:
        return False
    code = cast("dict[str, object]", answer).get("code") if isinstance(answer, dict) else None
    return attempt.http_status == _OK and str(code) == str(_OK)


def _shown(headers: Iterable[tuple[str, str]]) -> Headers:
    return tuple(
        (_readable(name), _readable(_cut(value) if name.lower() in _SECRET_HEADERS else value))
        for name, value in headers
    )


def _cut(text: str) -> str:
    return text if len(text) <= _KEPT else f"{text[:_KEPT]}…"


def _readable(value: str) -> str:
    """The same without the stand-ins for bytes that are no UTF-8."""
    return _NO_TEXT.sub("\ufffd", value)


def _text(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    return text if len(text) <= _LONGEST_BODY else f"{text[:_LONGEST_BODY]}…"


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
