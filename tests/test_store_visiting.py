"""A store beside its server: what a visitor sees, and that it changes nothing by looking."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import sqlalchemy.event
from callback_peer import alone, body_of, deliveries_in, select_in, until, url_in
from events_store import fill, keep, qmc

from qmc_async.errors import ConfigError, StoreError
from qmc_async.store import Store
from qmc_async.store.events import Listing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOOKS = (
    ("list",),
    ("show", "1001"),
    ("dead",),
    ("export", "--format", "csv"),
    ("export", "--format", "jsonl"),
)
CHANGES = (
    ("replay", "1001"),
    ("replay", "--all", "--yes"),
    ("purge", "--older-than", "1", "--yes"),
)
ALL = (*LOOKS, *CHANGES)


def contents_of(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, with what is in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("words", ALL)
def test_no_store_is_made(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Where there is none, one line says where it was looked for, and nothing is written."""
    result = qmc(tmp_path, *words)
    assert result.exit_code == 2
    assert result.stderr == (
        f"qmc: there is no store at {tmp_path / 'qmc.db'}: pass --store or set QMC_STORE\n"
    )
    assert not list(tmp_path.iterdir())


def test_no_folder_is_made(tmp_path: Path) -> None:
    """The same where even the folder is missing."""
    result = qmc(tmp_path / "no", "list")
    assert result.exit_code == 2
    assert "there is no store at" in result.stderr
    assert not list(tmp_path.iterdir())


def another_programs(path: Path) -> None:
    """A database of somebody else."""
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE orders (id)")


def nothing(path: Path) -> None:
    """A file with nothing in it."""
    path.touch()


def a_diary(path: Path) -> None:
    """A text."""
    path.write_text("nothing happened today\n" * 99)


@pytest.mark.parametrize("make", [another_programs, nothing, a_diary])
@pytest.mark.parametrize("words", [("list",), ("purge", "--older-than", "1", "--yes")])
def test_what_is_no_store_is_left_alone(
    tmp_path: Path, make: Callable[[Path], object], words: tuple[str, ...]
) -> None:
    """Another program's file is refused with status 2, and is afterwards what it was."""
    make(tmp_path / "qmc.db")
    before = contents_of(tmp_path)
    result = qmc(tmp_path, *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("qmc: ")
    assert "is no database of qmc-async" in result.stderr
    assert result.stderr.count("\n") == 1
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize("url", ["sqlite://", "postgresql://db/qmc", "qmc.db"])
def test_what_cannot_be_visited(tmp_path: Path, url: str) -> None:
    """A store in memory ends with its process, and a path is no URL: status 2."""
    result = qmc(tmp_path, "list", "--store", url)
    assert result.exit_code == 2
    assert result.stderr.startswith("qmc: ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("version", "says"), [(0, "start a server"), (99, "update it")])
def test_tables_of_another_version(tmp_path: Path, version: int, says: str) -> None:
    """A visitor upgrades nothing under a running server; it says what would."""
    fill(tmp_path)
    select_in(tmp_path, "UPDATE qmc_schema SET version = ?", version)
    result = qmc(tmp_path, "list")
    assert result.exit_code == 2
    assert says in result.stderr
    assert select_in(tmp_path, "SELECT version FROM qmc_schema") == [(version,)]


@pytest.mark.parametrize("words", ALL)
def test_a_spool_is_not_touched(tmp_path: Path, words: tuple[str, ...]) -> None:
    """What a dead server has left in its spool waits for a server, and no file is added."""
    fill(tmp_path)
    spool = tmp_path / "qmc.db-spool"
    spool.mkdir(exist_ok=True)
    (spool / "0123456789abcdef0123456789abcdef.spool").write_bytes(b"00000000 {}\n")
    before = contents_of(spool)
    assert qmc(tmp_path, *words).exit_code == 0
    assert contents_of(spool) == before


@pytest.mark.parametrize("words", LOOKS)
def test_a_look_changes_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Beside a running server, no row and no file is other than before."""

    async def look() -> None:
        async with alone(store=url_in(tmp_path)) as listening:
            await listening.post(body_of("1001"))
            await until(lambda: {one[0] for one in deliveries_in(tmp_path).values()} == {"done"})
            before = contents_of(tmp_path)
            result = await asyncio.to_thread(qmc, tmp_path, *words)
            assert result.exit_code == 0, result.output
            after = contents_of(tmp_path)
            # The shared memory file has the readers' marks.
            assert after.keys() == before.keys()
            assert {name for name in after if after[name] != before[name]} <= {"qmc.db-shm"}
            assert (await listening.post(body_of("1002"))).status == 200

    asyncio.run(look())


@pytest.mark.parametrize("words", LOOKS)
def test_a_look_does_not_wait_for_a_writer(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Reading takes no lock, so neither of the two waits for the other."""
    fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "qmc.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert qmc(tmp_path, *words).exit_code == 0
        writer.execute("ROLLBACK")


async def test_a_look_does_not_stop_a_writer(tmp_path: Path) -> None:
    """While a page is read, another connection can commit."""
    await keep(tmp_path, body_of("1"), calls=2)
    committed: list[object] = []

    def commit(_: object, __: object, statement: str, *___: object) -> None:
        if "qmc_deliveries" in statement and not committed:  # after the read has begun
            committed.append(select_in(tmp_path, "UPDATE qmc_events SET routed = 0"))

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", commit)
    try:
        async with Store(url_in(tmp_path), visiting=True) as store:
            found, position = await store.list_events(Listing(limit=2))
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", commit)
    assert committed
    assert [one.event_id for one in found] == ["1"]
    assert position == 0


@pytest.mark.parametrize("words", [("replay", "1001"), ("purge", "--older-than", "0", "--yes")])
def test_a_locked_store_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """What would change something waits for a writer, and gives up with status 1."""
    monkeypatch.setattr("qmc_async.store.visited._BUSY", 0.01)
    fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "qmc.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        result = qmc(tmp_path, *words)
        writer.execute("ROLLBACK")
    assert result.exit_code == 1
    assert result.stderr == (
        "qmc: the store did not answer (SQLITE_BUSY: database is locked): try again\n"
    )


def damage(folder: Path, start: int) -> None:
    """Overwrite a store's file from some page on."""
    with closing(sqlite3.connect(folder / "qmc.db")) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = folder / "qmc.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + b"\xa5" * (len(whole) - start))


@pytest.mark.parametrize("start", [100, 4096 * 2])
def test_a_broken_file_is_left_to_the_server(tmp_path: Path, start: int) -> None:
    """A visitor says that it is broken, and neither sets it aside nor begins another."""
    fill(tmp_path)
    damage(tmp_path, start)
    before = (tmp_path / "qmc.db").read_bytes()
    result = qmc(tmp_path, "list")
    assert result.exit_code == 1
    assert "the store's file is broken (SQLITE_" in result.stderr
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "qmc.db").read_bytes() == before
    assert not list(tmp_path.glob("*corrupt*"))


async def test_a_file_that_was_replaced_is_told(tmp_path: Path) -> None:
    """Positions in the old file mean nothing in the new one, so the visit ends there."""
    await keep(tmp_path, body_of("1"), calls=2)
    async with Store(url_in(tmp_path), visiting=True) as store:
        await store.list_events(Listing(limit=1))
        (tmp_path / "qmc.db").rename(tmp_path / "old")
        with pytest.raises(StoreError, match="another file has taken the place"):
            await store.list_events(Listing(limit=1))
    assert not [name for name in contents_of(tmp_path) if name == "qmc.db" or "corrupt" in name]
    with pytest.raises(ConfigError, match="there is no store"):
        await Store(url_in(tmp_path), visiting=True).open()


def test_a_row_that_makes_no_sense_is_one_line(tmp_path: Path) -> None:
    """What a flipped bit has made of a time is no traceback."""
    fill(tmp_path)
    select_in(tmp_path, "UPDATE qmc_events SET received_at = ?", 1 << 62)
    result = qmc(tmp_path, "list")
    assert result.exit_code == 1
    assert result.stderr == "qmc: the store failed (ValueError)\n"
