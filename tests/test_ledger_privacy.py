"""What the ledger, the watchdog and the archive keep and tell of a call holds nothing private.

As in `test_privacy`, everything private is planted, and then all that was written is searched.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import datetime
from typing import TYPE_CHECKING

import orjson
import pytest
from callback_peer import body_of, post_to, until, url_in
from faulty_platform import (
    APP_ID,
    CALLEE,
    CALLER,
    SECRET,
    Connection,
    FaultyPlatform,
    http,
)
from ledger_support import client_of, states_in
from test_privacy import (
    MISBEHAVIOURS,
    QUOTED_NUMBERS,
    RECORDING,
    all_logs,
    assert_private,
    everything_in,
    leaks,
)

from qmc_async import CallbackServer, Overdue, QmcError, RecordingArchive
from qmc_async.models import BEIJING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOUND = b"RIFF\x24\0\0\0WAVE" + bytes(32)


def files_in(folder: Path) -> Iterator[str]:
    """The contents of all files, as text that can be searched, and their names."""
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder))
        if path.is_file():
            yield path.read_bytes().decode("latin-1")


def told_by(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """All log records, with the exceptions that they carry."""
    formatter = logging.Formatter()
    return (f"{formatter.format(record)} {record.args!r}" for record in caplog.records)


@pytest.mark.parametrize("name", set(MISBEHAVIOURS) - {"no TLS", "refused"})
async def test_the_ledger(name: str, tmp_path: Path) -> None:
    """Whatever the platform answers, the ledger has masked numbers, and why it ended, masked."""
    async with (
        FaultyPlatform(MISBEHAVIOURS[name]) as platform,
        client_of(
            platform.url, url_in(tmp_path), timeout=0.05, deadline=0.2, max_retries=1
        ) as client,
    ):
        for again in (False, False, True):
            calling = client.call(CALLER, CALLEE, out_call_id="order-42", again=again)
            [result] = await asyncio.gather(calling, return_exceptions=True)
            if isinstance(result, QmcError):
                assert_private(everything_in(result), platform)
        assert client.store is not None
        entry = await client.store.ledger_entry(out_call_id="order-42")
    assert entry is not None
    assert (entry.caller, entry.callee) == ("139****4321", "0755****3388")
    assert states_in(tmp_path)
    assert_private(files_in(tmp_path), platform)
    assert_private(iter([repr(entry), str(entry)]), platform)


async def test_whole_numbers_are_masked_where_they_are_shown(tmp_path: Path) -> None:
    """Who keeps whole numbers finds them in the entry, and still not in its repr."""
    async with (
        FaultyPlatform(MISBEHAVIOURS["success"]) as platform,
        client_of(platform.url, url_in(tmp_path), ledger_numbers="whole") as client,
    ):
        await client.call(CALLER, CALLEE, out_call_id="order-42")
        assert client.store is not None
        entry = await client.store.ledger_entry(out_call_id="order-42")
    assert entry is not None
    assert (entry.caller, entry.callee) == (CALLER, CALLEE)
    assert leaks("".join(files_in(tmp_path))) == {"caller", "callee"}
    assert_private(iter([repr(entry), str(entry), f"{entry}"]))


async def place_and_record(connection: Connection) -> None:
    """Place calls, and have recordings of them at a secret address."""
    while True:
        await connection.read_request()
        url = f"{connection.platform.url}/{RECORDING}/1.wav"
        last = connection.platform.seen[-1]
        if RECORDING in last.line:
            reply = http(SOUND)
        elif "record" in last.line:
            found = {"code": 200, "msg": QUOTED_NUMBERS, "data": {"fileUrl": url}}
            reply = http(orjson.dumps(found))
        else:
            reply = http(
                orjson.dumps(
                    {"code": 200, "data": {"callidentifier": f"c-{last.json['outCallId']}"}}
                )
            )
        connection.writer.write(reply)


async def test_the_watchdog_and_the_archive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is reported and one that is not, archived: nothing private is told or kept."""
    monkeypatch.setattr("qmc_async.callback.watchdog._LOOKED_EVERY", 0.02)
    overdue: list[Overdue] = []
    with all_logs(caplog):
        async with (
            FaultyPlatform(place_and_record) as platform,
            client_of(platform.url, url_in(tmp_path), missing_after=0.5) as client,
        ):
            server = CallbackServer(client=client, port=0)
            archive = RecordingArchive(tmp_path / "archive", client=client)
            archive.attach(server)

            @server.on_missing
            async def note(event: Overdue) -> None:
                overdue.append(event)

            async with server:
                await client.call(CALLER, CALLEE, out_call_id="told")
                await client.call(CALLER, CALLEE, out_call_id="untold")
                body = body_of(
                    "c-told",
                    outCallId="told",
                    recordingResult="success",
                    reason=f"HangUp by {CALLER}",
                    caller=CALLER,
                )
                assert (await post_to(server, body)).status == 200
                kept = tmp_path / "archive"
                await until(lambda: len(list(kept.rglob("*.json"))) == 2)
                await until(lambda: overdue)
    assert [event.call_id for event in overdue] == ["c-untold"]
    assert_private(files_in(kept), platform)
    assert_private(iter([repr(archive), repr(server), repr(overdue)]), platform)
    assert_private(told_by(caplog), platform)


async def test_the_commands(tmp_path: Path) -> None:
    """What doctor, report and recordings print of such a store and platform is private, too."""
    async with FaultyPlatform(place_and_record) as platform:
        async with client_of(platform.url, url_in(tmp_path)) as client:
            server = CallbackServer(client=client, port=0)
            async with server:
                await client.call(CALLER, CALLEE, out_call_id="told")
                end = f"{datetime.now(BEIJING):%Y-%m-%d %H:%M:%S}"
                body = body_of("c-told", endTime=end, recordingResult="success", reason=CALLER)
                assert (await post_to(server, body)).status == 200
        printed = [
            await _run(platform.url, tmp_path, *words)
            for words in (
                ("doctor", "--public-url", platform.url),
                ("doctor", "--json"),
                ("report", "--since", "2020-01-01", "--html", "page.html"),
                ("report", "--since", "2020-01-01", "--json"),
                ("recordings", "backfill", "archive"),
                ("recordings", "verify", "archive"),
                ("events", "list"),
            )
        ]
    assert "1 fetched" in printed[4]
    assert all(printed)
    (tmp_path / "qmc.db").unlink()  # which has the notification as it came
    assert_private(iter(printed), platform)
    assert_private(files_in(tmp_path), platform)


async def _run(url: str, folder: Path, *words: str) -> str:
    environment = {
        "QMC_APP_ID": str(APP_ID),
        "QMC_APP_SECRET": SECRET,
        "QMC_BASE_URL": url,
        "QMC_RECORD_BASE_URL": url,
        "QMC_STORE": "sqlite:///qmc.db",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmc_async", *words),
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    return printed.decode()
