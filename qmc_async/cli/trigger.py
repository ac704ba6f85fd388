"""`qmc trigger`: one notification, to a service that runs."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

import click
import orjson
from rich.text import Text

from qmc_async.callback import CallbackServer
from qmc_async.cli.findings import MARKS, fit_for
from qmc_async.cli.moment import moment
from qmc_async.cli.posting import place_of, post, service_url
from qmc_async.cli.quantity import Quantity
from qmc_async.cli.running import CALLBACK_PORT, FAILED, console_for, fail, running
from qmc_async.cli.shown import one_line, printable
from qmc_async.cli.visit import identifier
from qmc_async.models import Reason, RecordingResult
from qmc_async.numbers import mask_in_text
from qmc_async.sandbox import Assumed
from qmc_async.sandbox.invented import invented_call
from qmc_async.sandbox.wire import notification
from qmc_async.settings import Settings
from qmc_async.signer import Signer

if TYPE_CHECKING:
    from qmc_async.cli.posting import Answer

__all__ = ["trigger"]

_LONGEST_MSG: Final = 200  # characters
_HINTS: Final = {
    401: "it wants an Authorization: see --signed",
    403: "either this machine is not among its allowed_senders, or it wants an Authorization: see "
    "--signed",
    404: "it takes notifications elsewhere: give its whole address, as server.url says it; another "
    "APPSECRET makes another address",
    405: "it takes no POST there: give its whole address, as server.url says it",
    429: "it takes fewer requests in a second: see its rate_limit",
    500: "it could not keep it: see its log",
    502: "the proxy in front of it does not reach it: is it running?",
    503: "it is not ready: see its log",
    504: "the proxy in front of it does not reach it: is it running?",
}
_NO_ANSWER: Final = "nothing listens there: start the service, or qmc listen"
_TOO_SLOW: Final = "it answered too late, or never: the platform may not wait as long"
_REDIRECTED: Final = (
    "nothing says that the platform follows redirects: give the address it leads to"
)
_NOT_AS_DOCUMENTED: Final = 'the document wants {"code": "200", "msg": "...", "data": ""}'


def _reason(value: str) -> Reason:
    for reason in Reason:
        if reason.lower() == value.lower():
            return reason
    raise click.BadParameter(f"the document has {', '.join(Reason)}.")


def _reasons(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    # Not a `click.Choice`: some versions of it complete in lower case.
    return [reason.value for reason in Reason if reason.lower().startswith(incomplete.lower())]


@click.command()
@click.argument("reason", type=_reason, shell_complete=_reasons)
@click.option(
    "--to",
    "url",
    type=service_url,
    metavar="URL",
    help="Where the service takes notifications.  [default: where `qmc listen` listens]",
)
@click.option(
    "--call-id", type=identifier, metavar="ID", help="The platform's id.  [default: a new one]"
)
@click.option("--out-call-id", type=identifier, metavar="ID", help="Your own name for the call.")
@click.option(
    "--talk",
    type=Quantity(min=0, max=86_400),
    metavar="SECONDS",
    help="With HangUp: how long they talked.  [default: 12]",
)
@click.option(
    "--recording",
    type=click.Choice([result.value for result in RecordingResult]),
    help="With HangUp: whether it was recorded.  [default: success]",
)
@click.option(
    "--end",
    type=moment,
    metavar="TIME",
    help="When it ended, in Beijing, such as '2026-01-31 18:00:00'.  [default: now]",
)
@click.option("--signed", is_flag=True, help="With an Authorization of the current credentials.")
@click.option(
    "--timeout",
    type=Quantity(min=0, min_open=True, max=600),
    default=5.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with what was sent.")
@running
async def trigger(
    reason: Reason,
    *,
    url: str | None,
    call_id: str | None,
    out_call_id: str | None,
    talk: float | None,
    recording: str | None,
    end: datetime | None,
    signed: bool,
    timeout: float,  # noqa: ASYNC109 - an option of the command line
    as_json: bool,
) -> None:
    """Send a service one notification, of a call that ended with REASON.

    REASON is HangUp, CallerBusy, CallerNoAnswer, CallerFailure, CallerAbandon, CalleeBusy,
    CalleeNoAnswer, CalleeFailure or Other. There was no such call. The notification has the fields
    that the platform's would have, and the service does with it what it always does.

    Exit status: 0 it was answered as the document wants; 1 it was not.

    Example: qmc trigger HangUp --talk 75 --to http://127.0.0.1:8080/qmc/callback/TOKEN
    """
    try:
        made_up = invented_call(
            reason,
            call_id=call_id,
            out_call_id=out_call_id,
            talk=None if talk is None else timedelta(seconds=talk),
            recording=recording,
            end_time=end,
        )
        body = notification(made_up, Assumed())
    except ValueError as error:
        raise click.UsageError(f"--{error}") from None
    signer = None if url and not signed else Signer(Settings.load().credentials)
    if url is None:
        url = CallbackServer(signer=signer, store="sqlite://", port=CALLBACK_PORT).url
    authorization = signer.sign(time.time()) if signer is not None and signed else None
    answer = await post(url, body, timeout=timeout, authorization=authorization)
    code, msg = _read(answer)
    is_good = (answer.status, code) == (200, "200")
    hint = "" if is_good else _hint(answer)
    if as_json:
        told = {
            "ok": is_good,
            "to": place_of(url),
            "http_status": answer.status,
            "code": code,
            "msg": msg,
            "error": answer.error,
            "hint": hint or None,
            "milliseconds": round(answer.milliseconds, 1),
            "sent": orjson.loads(body),
        }
        click.echo(orjson.dumps(told))
        if not is_good:
            sys.exit(FAILED)
        return
    said = [*([] if code is None else [f"code {code}"]), *([msg] if msg else [])]
    outcome = one_line(answer.told(*said))
    if not is_good:
        fail(f"{place_of(url)}: {outcome}", hint=hint)
    console = console_for()
    mark, ascii_mark, style = MARKS["ok"]
    mark = ascii_mark if console.options.ascii_only else mark
    sent = f"{made_up.reason} of call {printable(made_up.call_id)}"
    line = Text(f"{mark} ", style).append(fit_for(console, f"{sent}: {outcome}"), "default")
    console.print(line, soft_wrap=True)


def _read(answer: Answer) -> tuple[str | int | None, str]:
    """Code and msg of an answer; what a stranger says is cut, and its numbers are masked."""
    try:
        said = orjson.loads(answer.reply)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        return None, ""
    envelope = cast("dict[str, object]", said)
    code, msg = envelope.get("code"), envelope.get("msg")
    shown = _cut(code) if isinstance(code, str) else code if isinstance(code, int) else None
    return shown, _cut(msg) if isinstance(msg, str) else ""


def _cut(text: str) -> str:
    return mask_in_text(text)[:_LONGEST_MSG]


def _hint(answer: Answer) -> str:
    if answer.error is not None:
        return _TOO_SLOW if "Timeout" in answer.error else _NO_ANSWER
    is_redirect = answer.status is not None and 300 <= answer.status < 400  # noqa: PLR2004 - HTTP's
    return _REDIRECTED if is_redirect else _HINTS.get(answer.status or 0, _NOT_AS_DOCUMENTED)
