"""`qmc`: the platform, or a sandbox of it, from a terminal; and what a server has kept.

Exit status: 0 it was done; 1 it failed, at the platform, on the way to it, or on this machine (a
taken port, a full disk), or what was asked for is not there; 2 the command or a setting is wrong,
and nothing was done; 3 nobody knows whether the call was placed; 4 no notification came in time.
"""

from __future__ import annotations

import click

from qmc_async.cli.calls import call, end, recording
from qmc_async.cli.doctor import doctor
from qmc_async.cli.events import events
from qmc_async.cli.recordings import recordings
from qmc_async.cli.report import report
from qmc_async.cli.simulation import demo, narrate, sandbox

__all__ = ["cli", "narrate"]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from QMC_APP_ID, QMC_APP_SECRET, QMC_BASE_URL, QMC_RECORD_BASE_URL, ...",
)
@click.version_option(package_name="qmc-async")
def cli() -> None:
    """Quanmayun two-way callback: place calls, hear how they ended, keep their recordings."""


for _command in (call, demo, doctor, end, events, recording, recordings, report, sandbox):
    cli.add_command(_command)
