"""What the tests of `qmc doctor` share: set-ups, good and bad, and the findings by name."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from callback_peer import SIGNER, url_in
from faulty_platform import APP_ID, SECRET, FaultyPlatform

from qmc_async import CallbackServer, Credentials, Disconnected, Reject, Signer
from qmc_async.doctor import Finding, Status, diagnose

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from faulty_platform import Behaviour, Connection

PATIENCE = 30.0  # seconds: the machine may be busy
NAMES = (
    *("settings", "base_url", "record_base_url", "clock", "signature"),
    *("callback", "callback_address"),
    *("store", "disk", "overdue_calls", "dead_letters", "recordings"),
)
GUESS = "a guess, as the document has no codes: this machine's public address is not on"
UNKNOWN_CALL = orjson.dumps({"code": 404, "msg": "no such call", "data": None})
Setting = pytest.MonkeyPatch


def set_to(monkeypatch: Setting, url: str, credentials: Credentials, secret: str = "") -> None:
    """Have the QMC_* variables lead to a platform."""
    monkeypatch.setenv("QMC_APP_ID", str(credentials.app_id))
    monkeypatch.setenv("QMC_APP_SECRET", secret or credentials.app_secret)
    monkeypatch.setenv("QMC_BASE_URL", url)
    monkeypatch.setenv("QMC_RECORD_BASE_URL", url)


async def look(*store: str, **options: Any) -> Mapping[str, Finding]:  # noqa: ANN401 - any of `diagnose`'s
    """The findings by name."""
    findings = await diagnose(*store, **{"timeout": PATIENCE, **options})
    assert tuple(finding.name for finding in findings) == NAMES
    for finding in findings:
        assert finding.found
        assert bool(finding.advice) or finding.status in (Status.OK, Status.SKIPPED)
    return {finding.name: finding for finding in findings}


def statuses(findings: Mapping[str, Finding], status: Status) -> set[str]:
    """The names of those that came to it."""
    return {name for name, finding in findings.items() if finding.status is status}


@asynccontextmanager
async def platform_that(monkeypatch: Setting, *behave: Behaviour) -> AsyncGenerator[FaultyPlatform]:
    """A platform that misbehaves, to which the settings lead."""
    async with FaultyPlatform(*behave) as platform:
        set_to(monkeypatch, platform.url, Credentials(APP_ID, SECRET))
        yield platform


@asynccontextmanager
async def server_in(folder: Path, signer: Signer = SIGNER) -> AsyncGenerator[CallbackServer]:
    """A callback server that archives, and gives one call up."""
    server = CallbackServer(signer=signer, store=url_in(folder), port=0)

    @server.on_disconnected(name="archive")
    async def archive(_: Disconnected) -> None:
        pass

    @server.on_disconnected(name="crm")
    async def crm(event: Disconnected) -> None:
        if event.call_id == "bad":
            raise Reject("no such order")

    async with server:
        yield server


async def reset(connection: Connection) -> None:
    """Reset the connection as soon as it is there."""
    connection.reset()
