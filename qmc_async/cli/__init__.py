"""`qmc`: the platform, or a sandbox of it, from a terminal; and what a server has kept.

What each exit status means, `qmc_async.cli.running.EXIT_STATUSES` says.
"""

from __future__ import annotations

import click

from qmc_async.cli.authorization import sign, verify
from qmc_async.cli.calls import call, end, recording
from qmc_async.cli.completion import completion
from qmc_async.cli.doctor import doctor
from qmc_async.cli.events import events
from qmc_async.cli.listen import listen
from qmc_async.cli.recordings import recordings
from qmc_async.cli.report import report
from qmc_async.cli.running import EXIT_STATUSES
from qmc_async.cli.simulation import demo, narrate, sandbox
from qmc_async.cli.trigger import trigger

__all__ = ["cli", "narrate"]


_EPILOG = "\n".join(
    [
        "Settings come from QMC_APP_ID, QMC_APP_SECRET, QMC_BASE_URL, QMC_RECORD_BASE_URL, ...",
        "",
        "\b",
        "Exit status:",
        *(f"{status:>5}  {meaning}" for status, meaning in EXIT_STATUSES.items()),
    ]
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(package_name="qmc-async")
def cli() -> None:
    """Quanmayun two-way callback: place calls, hear how they ended, keep their recordings.

    Example: qmc demo
    """


for _command in (
    *(call, completion, demo, doctor, end, events, listen, recording, recordings, report),
    *(sandbox, sign, trigger, verify),
):
    cli.add_command(_command)
