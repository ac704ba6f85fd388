"""`RecordingArchive` where a recording is not there yet, is given up, or cannot be kept now."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from archive_support import (
    DAY,
    HOUR,
    MINUTE,
    NO_ACCESS,
    NOT_READY,
    NUMBER,
    READY,
    SOUND,
    Keeper,
    archiving,
    at_address,
    files_in,
    recorded,
    waits_in,
)
from callback_peer import (
    deliveries_in,
    hurry,
    make_due,
    messages,
    select_in,
    until,
)
from events_store import qmc
from faulty_platform import FaultyPlatform, http
from watchdog_support import hurry_watchdog

from qmc_async.models import RECORDING_LIFETIME

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

WAITS = ("pending", 0, None)
DONE = ("done", 0, None)
DEAD = ("dead", 1, None)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    hurry_watchdog(monkeypatch)
    hurry(monkeypatch)
    caplog.set_level(logging.INFO)


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged above INFO."""
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


def state_in(folder: Path) -> tuple[str, int, str | None] | None:
    """State, attempts and owner of the archive's delivery."""
    return deliveries_in(folder).get("archive")


# --- what is not there yet ---------------------------------------------------------------------


async def test_not_ready_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No attempt is counted, nothing is logged above INFO, and `qmc events show` tells why."""
    keeper = Keeper(NOT_READY)
    async with FaultyPlatform(keeper) as platform, archiving(tmp_path, platform.url) as there:
        await there.post(recorded())
        for tries in (1, 2, 3):
            await until(lambda: len(keeper.asked) == tries and there.has_tried())  # noqa: B023 - awaited here
            assert state_in(tmp_path) == WAITS
            make_due(tmp_path)
        shown = await asyncio.to_thread(qmc, tmp_path, "show", "4711")
        assert "archive: pending" in shown.stdout
        assert "0 failed" not in shown.stdout
        assert "code 40902: not ready: 139****5678" in shown.stdout
        assert files_in(tmp_path / "kept") == {}
        keeper.answers = [READY]
        make_due(tmp_path)
        await until(lambda: state_in(tmp_path) == DONE)
    assert SOUND in files_in(tmp_path / "kept").values()
    assert problems(caplog) == []
    assert NUMBER not in caplog.text


@pytest.mark.parametrize(
    "file",
    [
        http(b"", "404 Not Found"),
        http(b"<html>not yet</html>", headers="Content-Type: text/html\r\n"),
        http(SOUND[:-9], headers="Content-Type: audio/wav\r\n"),
    ],
)
async def test_a_file_that_is_not_there_yet(
    file: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An address that leads to nothing, or to half a file, is "not ready" too."""
    keeper = Keeper()
    whole, keeper.file = keeper.file, file
    async with FaultyPlatform(keeper) as platform, archiving(tmp_path, platform.url) as there:
        await there.post(recorded())
        await until(there.has_tried)
        assert files_in(tmp_path / "kept") == {}
        assert problems(caplog) == []
        keeper.file = whole
        make_due(tmp_path)
        await until(lambda: state_in(tmp_path) == DONE)
    assert "rec-sign" not in caplog.text


@pytest.mark.parametrize(
    ("past", "level"), [(59 * MINUTE, logging.INFO), (61 * MINUTE, logging.WARNING)]
)
async def test_after_an_hour_it_is_news(
    past: timedelta, level: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A recording that is not ready for so long is a warning, with the reason."""
    async with (
        FaultyPlatform(Keeper(NOT_READY)) as platform,
        archiving(tmp_path, platform.url) as there,
    ):
        await there.post(recorded(past=past))
        await until(there.has_tried)
    told = messages(caplog, level)
    [line] = [one for one in told if "not archived yet" in one]
    assert "call 4711" in line
    assert "40902" in line


@pytest.mark.parametrize(
    ("past", "least", "most"),
    [
        (MINUTE / 60, 1, 2),
        (10 * MINUTE, 300, 610),
        (HOUR, 900, 1800),
        (2 * DAY, 900, 1800),
        # Not a moment longer than until it is given up.
        (RECORDING_LIFETIME - HOUR - MINUTE, 1, 60),
    ],
)
async def test_it_is_asked_ever_more_slowly(
    past: timedelta, least: float, most: float, tmp_path: Path
) -> None:
    """After about as long as it has taken so far, and half an hour at most."""
    async with (
        FaultyPlatform(Keeper(NOT_READY)) as platform,
        archiving(tmp_path, platform.url) as there,
    ):
        await there.post(recorded(past=past))
        await until(there.has_tried)
        [wait] = waits_in(tmp_path)
    assert least * 0.99 <= wait <= most


# --- what is given up --------------------------------------------------------------------------


@pytest.mark.parametrize("past", [RECORDING_LIFETIME - HOUR + MINUTE, 400 * DAY])
async def test_given_up_when_the_three_days_are_nearly_over(
    past: timedelta, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line at level CRITICAL, and a dead letter: a replay gives it to the archive again."""
    keeper = Keeper(NOT_READY)
    async with FaultyPlatform(keeper) as platform, archiving(tmp_path, platform.url) as there:
        await there.post(recorded(past=past))
        await until(lambda: state_in(tmp_path) == DEAD)
        [line] = messages(caplog, logging.CRITICAL)
        assert "call 4711" in line
        assert "40902" in line
        assert NUMBER not in line
        keeper.answers = [READY]
        [letter] = await there.server.dead_letters()
        assert letter.error.startswith("Reject: not archived: record: ")
        assert await there.server.replay(letter) == ["archive"]
        await until(lambda: state_in(tmp_path) == DONE)
    assert SOUND in files_in(tmp_path / "kept").values()


@pytest.mark.parametrize(
    ("answer", "options", "why"),
    [
        (at_address("http://10.1.2.3/1.wav"), {}, "leads to 10.1.2.3"),
        (READY, {"max_bytes": len(SOUND) - 1}, "longer than"),
    ],
)
async def test_what_must_not_be_fetched_is_given_up_at_once(
    answer: bytes,
    options: dict[str, Any],
    why: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An address in our network, and a file that is too long: no later time makes them better."""
    keeper = Keeper(answer)
    async with (
        FaultyPlatform(keeper) as platform,
        archiving(tmp_path, platform.url, **options) as there,
    ):
        await there.post(recorded())
        await until(lambda: state_in(tmp_path) == DEAD)
        [letter] = await there.server.dead_letters()
    assert why in letter.error
    assert len(messages(caplog, logging.CRITICAL)) == len(keeper.asked) == 1
    assert files_in(tmp_path / "kept") == {}


# --- who does not want to be asked --------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "least", "most"),
    [
        (NO_ACCESS, 600, 600),
        (http(b"", "403 Forbidden"), 600, 600),
        (http(b"", "429 Too Many Requests"), 600, 600),
        (http(b"", "429 Too Many Requests", "Retry-After: 1200\r\n"), 1199, 1201),
        # Longer than a delivery may wait.
        (http(b"", "429 Too Many Requests", "Retry-After: 999999\r\n"), 21_600, 21_600),
    ],
)
async def test_a_platform_that_does_not_accept_us_is_left_alone(
    answer: bytes,
    least: float,
    most: float,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is asked once, and then not for a long time: it bans whom it knows to loop."""
    keeper = Keeper(answer)
    async with FaultyPlatform(keeper) as platform, archiving(tmp_path, platform.url) as there:
        await there.post(recorded())
        await until(there.has_tried)
        assert state_in(tmp_path) == WAITS
        [wait] = waits_in(tmp_path)
    assert least <= wait <= most
    assert keeper.asked == ["4711"]
    assert len([line for line in problems(caplog) if "not archived yet" in line]) == 1


async def test_it_is_not_asked_for_each_call(tmp_path: Path) -> None:
    """All calls leave it alone together, and do not come back together; the last moment counts."""
    keeper = Keeper(NO_ACCESS)
    waiting = "SELECT count(*) FROM qmc_deliveries WHERE owner IS NULL AND error != ''"
    async with FaultyPlatform(keeper) as platform, archiving(tmp_path, platform.url) as there:
        await there.post(recorded("first"))
        await until(there.has_tried)
        for number in range(20):
            await there.post(recorded(str(number)))
        await there.post(recorded("last", RECORDING_LIFETIME - HOUR - 5 * MINUTE))
        await until(lambda: select_in(tmp_path, waiting) == [(22,)])
        assert keeper.asked == ["first", "last"]
        assert there.waits_for("is left alone")
        waits = sorted(waits_in(tmp_path))[1:]  # without the last one's
        assert waits[0] > 500
        assert waits[-1] <= 660
        assert waits[-1] - waits[0] > 10
        keeper.answers = [READY]
        vars(there.archive)["_left_alone_until"] = 0.0
        make_due(tmp_path)
        done = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
        await until(lambda: select_in(tmp_path, done) == [(22,)])
    assert len(files_in(tmp_path / "kept")) == 44


# --- where it goes -----------------------------------------------------------------------------


async def test_a_disk_that_is_away_or_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, with a warning, and no half of a file is left."""
    kept = tmp_path / "kept"
    async with FaultyPlatform(Keeper()) as platform, archiving(tmp_path, platform.url) as there:
        kept.rename(tmp_path / "unmounted")
        await there.post(recorded())
        await until(lambda: there.waits_for("No such file or directory"))
        (tmp_path / "unmounted").rename(kept)
        with monkeypatch.context() as patch:
            patch.setattr("qmc_async.archive.handler._write", _full)
            make_due(tmp_path)
            await until(lambda: there.waits_for("No space left on device"))
        assert state_in(tmp_path) == WAITS
        assert files_in(kept) == {}
        make_due(tmp_path)
        await until(lambda: state_in(tmp_path) == DONE)
    assert SOUND in files_in(kept).values()
    assert len([line for line in problems(caplog) if "not archived yet" in line]) >= 2


def _full(path: Path, _: bytes) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device, not a path of ours
        full.write(path.name.encode())


# --- whoever reports may have a wrong clock ----------------------------------------------------


@pytest.mark.parametrize("ahead", [2 * DAY, 7000 * 365 * DAY])
async def test_an_end_that_is_still_to_come(tmp_path: Path, ahead: timedelta) -> None:
    """Its age is counted from when the report came: it is asked for ever more slowly."""
    async with (
        FaultyPlatform(Keeper(NOT_READY)) as platform,
        archiving(tmp_path, platform.url) as there,
    ):
        await there.post(recorded(past=-ahead))
        await until(there.has_tried)
        hour = int(HOUR.total_seconds() * 1000)
        select_in(tmp_path, "UPDATE qmc_events SET received_at = received_at - ?", hour)
        make_due(tmp_path)
        query = "SELECT due_at - changed_at FROM qmc_deliveries WHERE owner IS NULL"
        await until(lambda: [one for (one,) in select_in(tmp_path, query) if one and one > 60_000])
        [(delay,)] = select_in(tmp_path, query)
    assert delay >= hour / 4 - 1000
