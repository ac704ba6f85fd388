"""`qmc doctor`: what is wrong, told before a customer does."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import click
from attrs import asdict

from qmc_async.cli.findings import MARKS, show_findings
from qmc_async.cli.quantity import Quantity
from qmc_async.cli.running import FAILED, console_for, running
from qmc_async.cli.visit import identifier, store_option

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from qmc_async.doctor import Finding

__all__ = ["doctor"]


@click.command()
@click.option(
    "--callback-url",
    envvar="QMC_CALLBACK_URL",
    show_envvar=True,
    metavar="URL",
    help="The address on the platform's console, whole, as the server's url says it.",
)
@click.option(
    "--public-url",
    metavar="URL",
    help="Instead: scheme and host, as the server has it; path and token are added.",
)
@click.option(
    "--archive-handler",
    default="archive",
    show_default=True,
    metavar="NAME",
    type=identifier,
    help="The handler that archives recordings.",
)
@click.option(
    "--timeout",
    type=Quantity(min=0, min_open=True, max=600),
    default=5.0,
    show_default=True,
    help="Seconds for each check; they go on at the same time.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@store_option
@click.pass_context
@running
async def doctor(
    context: click.Context,
    *,
    callback_url: str | None,
    public_url: str | None,
    archive_handler: str,
    timeout: float,  # noqa: ASYNC109 - an option of the command line
    url: str,
    as_json: bool,
) -> None:
    """Tell what is wrong, before a customer does: settings, platform, callback address, store.

    It places no call and changes nothing. To see whether the platform accepts the signature, it
    asks for the recording of a call that does not exist; to see where the callback address leads,
    it posts a signed probe there, which no handler sees. Whoever stands between the address and the
    server can pass that on, and learns the address.

    Exit status: 0 all is well, or there are only warnings; 1 something failed.

    Example: qmc doctor --public-url https://crm.example.com
    """
    if public_url is not None:
        source = context.get_parameter_source("callback_url")
        if source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError("--callback-url and --public-url are two ways to say the same")
        callback_url = None
    from qmc_async.doctor import diagnose  # noqa: PLC0415 - see `visit`

    waiting = console_for(stderr=True)
    # Not the usual spinner, which is no ASCII.
    status = waiting.status("looking", spinner="line") if waiting.is_terminal else nullcontext()
    with _quiet(), status:
        findings = await diagnose(
            url,
            callback_url=callback_url,
            public_url=public_url,
            archive_handler=archive_handler,
            timeout=timeout,
        )
    has_failed = any(finding.status == "failed" for finding in findings)
    if as_json:
        listed = [asdict(finding) for finding in findings]
        # In ASCII: the platform speaks Chinese, and not every terminal does.
        click.echo(json.dumps({"ok": not has_failed, "findings": listed}))
    else:
        show_findings(findings, _summary(findings))
    if has_failed:
        sys.exit(FAILED)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the library's own log out of what is shown: it says the same in other words."""
    logger, handler = logging.getLogger("qmc_async"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(str(finding.status) for finding in findings)
    counted = (
        f"{counts[status]} {status}{'s' if status == 'warning' and counts[status] > 1 else ''}"
        for status in MARKS
        if counts[status]
    )
    return ", ".join(counted)
