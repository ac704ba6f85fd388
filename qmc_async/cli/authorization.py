"""`qmc sign` and `qmc verify`: the ``Authorization`` header (2)."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click
from attrs import asdict

from qmc_async.cli.findings import show_findings
from qmc_async.cli.moment import moment
from qmc_async.cli.running import FAILED, reporting
from qmc_async.models import BEIJING
from qmc_async.settings import Settings
from qmc_async.signer import Signer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from qmc_async.signer import Credentials

__all__ = ["sign", "verify"]

_SETTINGS: Final = ("QMC_APP_ID", "QMC_APP_SECRET")
_LONGEST: Final = 64 * 1024  # bytes of a pasted header
_ACCEPTED: Final = {
    True: "it would be accepted",
    False: "it would not be accepted",
    None: "its form is good; whether it would be accepted is told with QMC_APP_ID and "
    "QMC_APP_SECRET only",
}


@click.command()
@click.option(
    "--at",
    type=moment,
    metavar="TIME",
    help="Instead of now: milliseconds since 1970, or a time in Beijing such as "
    "'2026-01-31 18:00:00'.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the parts.")
@reporting
def sign(at: datetime | None, *, as_json: bool) -> None:
    """Print an Authorization header: its value, and nothing else.

    It is made of QMC_APP_ID and QMC_APP_SECRET, for a command such as

    curl -H "Authorization: $(qmc sign)" ...

    The platform takes it for five minutes. Whoever sees it can use it meanwhile, for any call.

    Example: qmc sign --json
    """
    credentials = _credentials(_environment())
    value = Signer(credentials).sign(time.time() if at is None else at.timestamp())
    if not as_json:
        click.echo(value)
        return
    app_id, timestamp, signed = base64.b64decode(value).decode().split(":")
    time_of_it = datetime.fromtimestamp(int(timestamp) / 1000, BEIJING).isoformat()
    # As texts: a Long is more than a number of JSON is to many programs.
    parts = {"app_id": app_id, "timestamp": timestamp, "time": time_of_it, "sign": signed}
    click.echo(json.dumps({"authorization": value} | parts))


@click.command()
@click.argument("header", nargs=-1, required=True)
@click.option(
    "--at",
    type=moment,
    metavar="TIME",
    help="As if it were then: milliseconds since 1970, or a time in Beijing.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@reporting
def verify(header: tuple[str, ...], at: datetime | None, *, as_json: bool) -> None:
    """Explain an Authorization HEADER, part by part.

    It may be pasted with its name, with white space and with line breaks in it; - reads it from the
    standard input. Without QMC_APP_ID and QMC_APP_SECRET only its form is checked. No secret is
    shown, and no sign.

    Exit status: 0 it would be accepted; 1 it would not, or that cannot be told.

    Example: qmc verify "Authorization: MTY5NjA1NDMwOTk2OTEwNDg5ODoxNjkzMjcwMjI2NjQyOmFhNzI="
    """
    from qmc_async.cli.header import Known, explain, unwrapped  # noqa: PLC0415 - it needs the doctor

    given = _environment()
    credentials = _credentials({"QMC_APP_ID": "1", "QMC_APP_SECRET": "none"} | given)
    known = Known(
        app_id=credentials.app_id if "QMC_APP_ID" in given else None,
        app_secret=credentials.app_secret if "QMC_APP_SECRET" in given else None,
        now=time.time() if at is None else at.timestamp(),
    )
    pasted = "".join(header)
    if pasted == "-":
        pasted = sys.stdin.buffer.read(_LONGEST).decode(errors="replace")
    findings = explain(unwrapped(pasted), known)
    accepted = _accepted([str(finding.status) for finding in findings])
    if as_json:
        listed = [asdict(finding) for finding in findings]
        click.echo(json.dumps({"accepted": accepted, "findings": listed}))
    else:
        show_findings(findings, _ACCEPTED[accepted])
    if not accepted:
        sys.exit(FAILED)


def _environment() -> dict[str, str]:
    """What is set of the two: other settings have no say in a signature."""
    return {name: os.environ[name] for name in _SETTINGS if os.environ.get(name, "").strip()}


def _credentials(environ: Mapping[str, str]) -> Credentials:
    return Settings.load(environ=environ).credentials


def _accepted(statuses: Collection[str]) -> bool | None:
    return False if "failed" in statuses else None if "skipped" in statuses else True
