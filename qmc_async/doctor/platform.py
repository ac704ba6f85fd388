"""The platform: whether it can be reached, what time it has there, and whether it knows us."""

from __future__ import annotations

import asyncio
import re
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import orjson

from qmc_async.codec import decode_envelope
from qmc_async.doctor.asking import Answer, NoAnswer, Why, ask
from qmc_async.doctor.finding import Finding, Status, amount, skipped
from qmc_async.errors import AuthenticationError, DecodeError, RateLimited
from qmc_async.signer import TOLERANCE, PlatformClock, Signer
from qmc_async.transport import Transport
from qmc_async.verdict import RECORD, SUCCESS, NoReply, Reply, Success, judge

if TYPE_CHECKING:
    from qmc_async.models import Envelope
    from qmc_async.settings import Settings

__all__ = ["examine_platform"]

_GUESS: Final = (
    "a guess, as the document has no codes: this machine's public address is not on the platform's "
    "white list"
)
_ADVICE: Final = {
    Why.NO_NAME: "correct {setting}, or this machine's DNS",
    Why.REFUSED: "correct {setting}; or the platform is down: ask it",
    Why.NO_WAY: "correct {setting}, or open this network's firewall for its port",
    Why.TOO_SLOW: "open this network's firewall for its port; or (" + _GUESS + ")",
    Why.CERTIFICATE: "correct {setting}: the document's addresses are http, not https",
    Why.TLS: "correct {setting}: the document's addresses are http, not https",
    Why.CUT: _GUESS + "; have it put there, or correct {setting}",
    Why.NO_HTTP: "correct {setting}",
}
_LONGEST_MSG: Final = 100  # characters
# No code is documented but 200, so what is said in words may be all that there is.
_ABOUT_ADDRESS: Final = re.compile(
    r"(?<![a-z])ip(?![a-z])|白名单|white.?list|(?<!\d)\d+\.\d+\.\d+\.\d+(?!\d)", re.IGNORECASE
)
_ABOUT_CREDENTIALS: Final = re.compile(
    r"签名|验签|校验|鉴权|认证|授权|权限|密钥|时间戳|应用|账号|帐号|登录"
    r"|\bsign|auth|app.?id|application|account|log.?in|secret|token|timestamp|denied|permi",
    re.IGNORECASE,
)
# It was asked for the recording of a call. Who speaks of that has let us in.
_ABOUT_THE_CALL: Final = re.compile(r"录音|通话|话单|呼叫|记录|record|call", re.IGNORECASE)


async def examine_platform(
    settings: Settings,
    timeout: float,  # noqa: ASYNC109 - of each request
) -> list[Finding]:
    """Ask both hosts for any answer at all, and the second one something that must be signed."""
    calls, records, signed = await asyncio.gather(
        ask("GET", f"{settings.base_url}/", timeout),
        ask("GET", f"{settings.record_base_url}/", timeout),
        _ask_signed(settings, timeout),
    )
    clock = _clock([calls, records])
    return [
        _reached("base_url", settings.base_url, calls),
        _reached("record_base_url", settings.record_base_url, records),
        clock,
        _signature(signed, records, clock),
    ]


def _reached(name: str, url: str, answer: Answer | NoAnswer) -> Finding:
    setting = f"QMC_{name.upper()}"
    if isinstance(answer, NoAnswer):
        advice = _ADVICE[answer.why].format(setting=setting)
        return Finding(name, Status.FAILED, f"{url}: {answer.told}", advice)
    found = f"{url} answers HTTP {answer.status}"
    if answer.status == HTTPStatus.FORBIDDEN:
        return Finding(name, Status.WARNING, found, f"{_GUESS}; have it put there")
    if answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return Finding(name, Status.FAILED, found, "have the proxy between let requests through")
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        advice = f"the platform, or what stands before it, fails: ask it; or correct {setting}"
        return Finding(name, Status.FAILED, found, advice)
    if answer.status in range(HTTPStatus.MULTIPLE_CHOICES, HTTPStatus.BAD_REQUEST):
        advice = f"correct {setting}: this is another server's address, or a sign-in page's"
        return Finding(name, Status.WARNING, found, advice)
    return Finding(
        name, Status.OK, f"{url} answers"
    )  # of most addresses that there is no such page


def _clock(answers: list[Answer | NoAnswer]) -> Finding:
    known = [
        answer.ahead
        for answer in answers
        if isinstance(answer, Answer) and answer.ahead is not None
    ]
    if not known:
        return skipped("clock", "the platform does not say what time it is")
    ahead = max(known, key=abs)
    apart = abs(ahead)
    if apart <= PlatformClock().threshold:
        return Finding(
            "clock", Status.OK, f"this machine's and the platform's are {apart:.0f} s apart"
        )
    direction = "behind" if ahead > 0 else "ahead of"
    return Finding(
        "clock",
        Status.FAILED if apart >= TOLERANCE.total_seconds() else Status.WARNING,
        f"this machine's clock is {amount(apart)} {direction} the platform's",
        "set it right (NTP): the platform allows five minutes, and until then requests are "
        "accepted only because the client signs with the platform's time",
    )


async def _ask_signed(settings: Settings, timeout: float) -> Reply | NoReply:  # noqa: ASYNC109 - it becomes an answer
    """Look for the recording of a call that there is not, as `AsyncQmcClient.recording` would."""
    url = settings.record_base_url + settings.record_path
    body = orjson.dumps({"callidentifier": f"qmc-doctor-{uuid.uuid4().hex}"})
    transport = Transport(Signer(settings.credentials))
    try:
        async with asyncio.timeout(timeout):
            reply = await transport.post(url, body, timeout)
            if isinstance(reply, Reply) and reply.clock_was_wrong:
                reply = await transport.post(url, body, timeout)
            return reply
    except TimeoutError:
        return NoReply(may_have_arrived=True, why="no whole reply within the timeout")
    finally:
        await transport.aclose()


def _signature(  # noqa: PLR0911 - one for each sort of answer
    outcome: Reply | NoReply, reached: Answer | NoAnswer, clock: Finding
) -> Finding:
    name = "signature"
    if isinstance(outcome, NoReply):
        if isinstance(reached, NoAnswer):
            return skipped(name, "the host of QMC_RECORD_BASE_URL does not answer")
        found = f"a signed request is not answered: {outcome.why}"
        return Finding(name, Status.FAILED, found, f"try again; if it stays so, {_GUESS}")
    envelope = _envelope_of(outcome)
    verdict = judge(RECORD, outcome)
    if isinstance(verdict, Success) or _is_success(outcome, envelope):
        return Finding(name, Status.OK, "the platform accepts it")
    said, words = f"HTTP {outcome.http_status}", ""
    if envelope is not None:
        said += f", code {envelope.code}"
        said += f": {verdict.msg[:_LONGEST_MSG]}" if verdict.msg else ""
        words = envelope.msg  # as it came: masked, an address would be none
    if _ABOUT_ADDRESS.search(words) or outcome.http_status == HTTPStatus.FORBIDDEN:
        advice = f"{_GUESS}; have it put there. If it is, compare QMC_APP_SECRET with the console"
        return Finding(name, Status.FAILED, f"this machine is turned away: {said}", advice)
    is_refused = verdict.error is AuthenticationError
    if is_refused or _ABOUT_CREDENTIALS.search(words):
        found = f"it {'is' if is_refused else 'seems to be'} refused: {said}"
        return Finding(name, Status.FAILED, found, _reasons(clock))
    if verdict.error is RateLimited:
        return Finding(name, Status.WARNING, f"not checked: {said}", "try again in a minute")
    if outcome.http_status < HTTPStatus.MULTIPLE_CHOICES and _ABOUT_THE_CALL.search(words):
        found = f"the platform accepts it, and says of a call that does not exist: {said}"
        return Finding(name, Status.OK, found)
    return _unclear(outcome.http_status, said, is_envelope=envelope is not None)


def _unclear(status: int, said: str, *, is_envelope: bool) -> Finding:
    """Of an answer that says nothing of the signature."""
    name = "signature"
    if not is_envelope:
        advice = (
            "correct QMC_RECORD_BASE_URL or QMC_RECORD_PATH, of which the document has two; or "
            f"({_GUESS})"
        )
        found = f"a page that is no answer of the platform's ({said})"
        return Finding(name, Status.FAILED, found, advice)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Finding(name, Status.FAILED, f"the platform fails: {said}", "ask the platform")
    advice = (
        "if this is about the recording of a call that does not exist, all is well; else compare "
        "QMC_APP_SECRET with the platform's console, and QMC_RECORD_PATH with the document"
    )
    return Finding(name, Status.WARNING, f"nobody can tell whether it is accepted: {said}", advice)


def _reasons(clock: Finding) -> str:
    reasons = ["QMC_APP_ID and QMC_APP_SECRET are not what the platform's console shows"]
    if clock.status is Status.SKIPPED:
        reasons.append("this machine's clock is wrong, which could not be checked")
    elif clock.status is not Status.OK:
        reasons.append("this machine's clock is off")
    reasons.append("this machine's public address is not on the platform's white list")
    return f"likely, in this order: {'; '.join(reasons)}"


def _envelope_of(reply: Reply) -> Envelope | None:
    try:
        return decode_envelope(reply.body)
    except DecodeError:
        return None


def _is_success(reply: Reply, envelope: Envelope | None) -> bool:
    """Whether the platform says yes, though without the recording's address, as there is none."""
    if reply.http_status >= HTTPStatus.MULTIPLE_CHOICES or envelope is None:
        return False
    return envelope.code == SUCCESS and orjson.loads(reply.body).get("success") is not False
