"""What `qmc doctor` finds in stores, and in what stands for one."""

from __future__ import annotations

import asyncio
import errno
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of, select_in, url_in
from store_support import keep, locked, names_in, store_in

from qmc_async.doctor import Finding, Status
from qmc_async.doctor.storage import examine_store
from qmc_async.models import BEIJING, CallState, Overdue
from qmc_async.store import Store
from qmc_async.store.ledger import Opening
from qmc_async.store.rows import write_overdue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from postgres_server import PostgresServer

from doctor_support import NAMES, PATIENCE, Setting, statuses


async def look_into(url: str | None, timeout: float = PATIENCE) -> Mapping[str, Finding]:  # noqa: ASYNC109 - as `examine_store` takes it
    """The findings by name."""
    findings = await examine_store(url, "archive", timeout)
    assert tuple(finding.name for finding in findings) == NAMES[7:]
    return {finding.name: finding for finding in findings}


REST = set(NAMES[9:])


@pytest.mark.parametrize(
    ("url", "status", "found"),
    [
        ("sqlite://", Status.WARNING, "it is memory"),
        ("sqlite:///{}/qmc.db", Status.WARNING, "there is none at {}/qmc.db yet"),
        ("sqlite:///{}/no/qmc.db", Status.FAILED, "there is no store at {}/no/qmc.db"),
        ("oracle://there", Status.FAILED, "oracle is not supported"),
        ("{}", Status.FAILED, "it must be a URL such as"),
        ("postgresql://127.0.0.1:1/qmc", Status.FAILED, "postgresql://127.0.0.1:1/qmc: "),
    ],
)
async def test_a_store_that_cannot_be_looked_into(
    url: str, status: Status, found: str, tmp_path: Path
) -> None:
    """Why is said, and the rest is skipped; nothing is made."""
    findings = await look_into(url.format(tmp_path))
    assert findings["store"].status is status
    assert findings["store"].found.startswith(found.format(tmp_path))
    assert statuses(findings, Status.SKIPPED) - {"disk"} == REST
    assert names_in(tmp_path) == []


async def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    """It is left alone."""
    (tmp_path / "qmc.db").write_text("somebody's letters to somebody else, long enough for a head")
    findings = await look_into(url_in(tmp_path))
    assert findings["store"].status is Status.FAILED
    assert "another program's" in findings["store"].found


async def test_a_store_of_an_older_version(tmp_path: Path) -> None:
    """That is for a server to change."""
    async with store_in(tmp_path):
        pass
    select_in(tmp_path, "UPDATE qmc_schema SET version = 1")
    findings = await look_into(url_in(tmp_path))
    assert findings["store"].status is Status.WARNING
    assert "start a server" in findings["store"].advice


async def test_a_store_that_does_not_keep_what_it_commits(tmp_path: Path) -> None:
    """A file that somebody has taken the write-ahead log from is told."""
    async with store_in(tmp_path):
        pass
    select_in(tmp_path, "PRAGMA journal_mode = DELETE")
    findings = await look_into(url_in(tmp_path))
    assert findings["store"].status is Status.FAILED
    assert findings["store"].found.startswith("SQLite uses journal_mode=delete")
    assert statuses(findings, Status.OK) >= {"overdue_calls", "dead_letters"}


async def test_a_store_that_does_not_answer(tmp_path: Path, monkeypatch: Setting) -> None:
    """The timeout ends it."""

    async def stand_still(*_: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(Store, "examine", stand_still)
    async with store_in(tmp_path):
        findings = await look_into(url_in(tmp_path), timeout=0.5)
    assert findings["store"].status is Status.FAILED
    assert findings["store"].found == f"no answer from {tmp_path / 'qmc.db'} in 0.5 s"
    assert statuses(findings, Status.SKIPPED) == REST


async def test_a_store_that_is_written_to(tmp_path: Path) -> None:
    """Whoever writes does not have to wait for it, nor it for them."""
    async with store_in(tmp_path):
        with locked(tmp_path):
            findings = await look_into(url_in(tmp_path))
    assert findings["store"].status is Status.OK


async def test_little_room(tmp_path: Path, monkeypatch: Setting) -> None:
    """The fuller one of the store's and the spool's volumes is told."""

    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free[folder])

    free = {tmp_path: 5 * 1024**3, tmp_path / "spool": 100 * 1024**2}
    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setenv("QMC_SPOOL", str(tmp_path / "spool"))
    roomy = (await look_into(url_in(tmp_path)))["disk"]
    (tmp_path / "spool").mkdir()
    tight = (await look_into(url_in(tmp_path)))["disk"]
    assert (roomy.status, roomy.found) == (Status.OK, f"5.0 GiB are free in {tmp_path}")
    assert (tight.status, tight.found) == (
        Status.WARNING,
        f"0.1 GiB are free in {tmp_path / 'spool'}",
    )


async def test_what_waits(tmp_path: Path) -> None:
    """Overdue calls are counted, and dead letters, with the handlers that gave up last."""
    async with store_in(tmp_path) as store:
        for missing_after, ours in ((-1000, "late"), (-5000, "later"), (3_600_000, "not yet")):
            opening = Opening(
                token=ours.rjust(32, "0"),
                out_call_id=ours,
                caller="139****5678",
                callee="139****5678",
                again=False,
                missing_after=missing_after,
            )
            assert await store.open_entry(opening) is None
        for number in range(5):
            handlers = {f"h{number}": False, "crm": False}
            await keep(store, body_of(str(number)), handlers)
        query = "UPDATE qmc_deliveries SET state = 'dead', due_at = NULL, changed_at = event_id"
        select_in(tmp_path, query)
        select_in(tmp_path, "UPDATE qmc_deliveries SET state = 'done' WHERE handler = 'h4'")
    findings = await look_into(url_in(tmp_path))
    overdue, dead = findings["overdue_calls"], findings["dead_letters"]
    assert overdue.status is dead.status is Status.WARNING
    assert overdue.found.startswith("2 are past their deadline")
    assert dead.found == "9, of the handlers crm, h3, h2, and others"
    assert "qmc events dead" in dead.advice


def ended(ago: timedelta, **fields: str) -> dict[str, str]:
    """The fields of a recorded call that ended so long ago."""
    end = datetime.now(BEIJING) - ago
    return {"endTime": f"{end:%Y-%m-%d %H:%M:%S}", "recordingResult": "success"} | fields


DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("ago", "fields", "count"),
    [
        (2 * DAY + MINUTE, {}, 4),
        (3 * DAY - MINUTE, {}, 4),
        (2 * DAY - MINUTE, {}, 0),
        (3 * DAY + MINUTE, {}, 0),
        (2.5 * DAY, {"recordingResult": "fail"}, 0),
        (2.5 * DAY, {"recordingResult": ""}, 0),
    ],
)
async def test_recordings_that_are_about_to_expire(
    ago: timedelta, fields: dict[str, str], count: int, tmp_path: Path
) -> None:
    """Those that are gone within a day, and that the archive has not kept, or was never given."""
    received_at = int((datetime.now(BEIJING) - ago).timestamp() * 1000)
    async with store_in(tmp_path) as store:
        for state in ("pending", "dead", "done"):
            body = body_of(state, **ended(ago, **fields))
            await keep(store, body, {"archive": False, "crm": False})
        await keep(store, body_of("unrouted", **ended(ago, **fields)))
        body = body_of("before there was an archive", **ended(ago, **fields))
        await keep(store, body, {"crm": False})
        await keep(store, b"?", {"archive": False})
        select_in(tmp_path, "UPDATE qmc_events SET received_at = ?", received_at)
        select_in(tmp_path, "UPDATE qmc_events SET routed = (event_id <> 'unrouted')")
        query = (
            "UPDATE qmc_deliveries SET state = event_id, due_at = NULL WHERE handler = 'archive'"
        )
        select_in(tmp_path, f"{query} AND event_id IN ('dead', 'done')")
    check_expiring((await look_into(url_in(tmp_path)))["recordings"], count)


def check_expiring(finding: Finding, count: int) -> None:
    """Of so many recordings it is told."""
    if count:
        assert finding.status is Status.FAILED
        assert finding.found.startswith(f"{count} expire within a day, and the archive's handlers")
    else:
        assert (finding.status, finding.found) == (Status.OK, "none is about to expire")


@pytest.mark.parametrize(
    ("ago", "outcome", "state", "count"),
    [
        (2.5 * DAY, CallState.INFERRED, "pending", 1),
        (2.5 * DAY, CallState.INFERRED, "dead", 1),
        (2.5 * DAY, CallState.INFERRED, "done", 0),
        (2.5 * DAY, CallState.MISSING, "pending", 0),
        (1.5 * DAY, CallState.INFERRED, "pending", 0),
        (3 * DAY + MINUTE, CallState.INFERRED, "pending", 0),
    ],
)
async def test_recordings_of_calls_that_nobody_reported(
    ago: timedelta, outcome: CallState, state: str, count: int, tmp_path: Path
) -> None:
    """They are gone three days after the call was placed, however late they were noticed."""
    event = Overdue(
        out_call_id="order-1",
        call_id="lost",
        placed_at=datetime.now(BEIJING) - ago,
        outcome=outcome,
    )
    async with store_in(tmp_path) as store:
        await keep(store, body_of("lost"), {"archive of missing": False})
        select_in(
            tmp_path, "UPDATE qmc_events SET kind = 'missing', body = ?", write_overdue(event)
        )
        select_in(tmp_path, "UPDATE qmc_deliveries SET state = ?", state)
    check_expiring((await look_into(url_in(tmp_path)))["recordings"], count)


async def test_a_missing_call_that_cannot_be_read(tmp_path: Path) -> None:
    """It is passed over, as nobody can tell when it was."""
    async with store_in(tmp_path) as store:
        await keep(store, body_of("lost"), {"archive of missing": False})
        select_in(tmp_path, "UPDATE qmc_events SET kind = 'missing', body = ?", b"?")
    check_expiring((await look_into(url_in(tmp_path)))["recordings"], 0)


@pytest.mark.parametrize("call", ["is_dir", "exists"])
async def test_a_folder_that_one_may_not_look_into(
    call: str, tmp_path: Path, monkeypatch: Setting
) -> None:
    """It is told, with what to do (Python before 3.12 raises where the path may not be seen)."""

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, call, refuse)
    findings = await look_into(url_in(tmp_path))
    assert findings["store"].status is Status.FAILED
    assert findings["store"].found == f"{tmp_path / 'qmc.db'}: Permission denied"
    if call == "is_dir":
        assert findings["disk"].status is Status.WARNING
        assert findings["disk"].found == f"{tmp_path}: Permission denied"


async def test_on_postgresql(postgres_server: PostgresServer) -> None:
    """Without tables; then as it should be; then with a setting that loses commits."""
    postgres_server.start()
    url = postgres_server.empty_database("doctor")
    early = await look_into(url)
    async with Store(url):
        pass
    well = await look_into(url)
    postgres_server.execute("ALTER DATABASE doctor SET synchronous_commit = off")
    careless = await look_into(url)
    assert early["store"].status is Status.WARNING
    assert "start a server" in early["store"].advice
    assert statuses(well, Status.OK) == {"store", "overdue_calls", "dead_letters"}
    assert well["disk"].status is Status.SKIPPED
    assert careless["store"].status is Status.FAILED
    assert "synchronous_commit=off" in careless["store"].found
