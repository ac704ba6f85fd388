"""The file behind a store: durable, on a fit place, ours; else an error before the port opens."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from callback_peer import body_of, select_in, url_in
from sqlalchemy import Engine, NullPool, create_engine, event
from sqlalchemy.exc import OperationalError
from store_support import in_thread, keep, names_in, store_in

from qmc_async import CallbackServer, ConfigError
from qmc_async.store import Store, sqlite_file

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import Connection


async def _refusal(store: Store | str) -> str:
    """Why a server does not start; its port stays free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConfigError) as caught:
        await CallbackServer(store=store, host="127.0.0.1", port=port).start()
    with socket.create_server(("127.0.0.1", port)):
        pass  # nobody listens there
    assert caught.value.setting == "store"
    assert str(caught.value).startswith("store: ")
    assert caught.value.__cause__ is None
    return str(caught.value)


class _Busy(sqlite3.Cursor):
    """A cursor of a file that another process opens or ends too, now and then."""

    results: ClassVar[list[int]]

    def execute(self, statement: str, *arguments: Any) -> _Busy:  # noqa: ANN401 - as it is called
        if "journal_mode" in statement and (code := self.results.pop(0)):
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = code
            raise error
        return super().execute(statement, *arguments)


class _Connection(sqlite3.Connection):
    def cursor(self, *_: object) -> _Busy:  # type: ignore[override]  # as SQLAlchemy calls it
        return super().cursor(_Busy)


@pytest.mark.parametrize(
    ("results", "fails"),
    [
        ([sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY, 0], False),
        ([sqlite3.SQLITE_IOERR, 0], True),
        ([sqlite3.SQLITE_BUSY] * 1000, True),
    ],
    ids=["for a moment", "something else", "for too long"],
)
def test_a_file_that_others_open_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    results: list[int],
    fails: bool,  # noqa: FBT001 - a column
) -> None:
    """SQLite does not wait when it switches its log on, so that we must."""
    monkeypatch.setattr(sqlite_file, "_BUSY", 0.1)
    monkeypatch.setattr(_Busy, "results", results, raising=False)
    engine = create_engine(
        url_in(tmp_path), poolclass=NullPool, connect_args={"factory": _Connection}
    )
    sqlite_file.use_immediate_transactions(engine)
    if fails:
        with pytest.raises(OperationalError, match="locked"):
            engine.connect()
    else:
        engine.connect().close()
        assert not results


# --- durable -----------------------------------------------------------------------------------


async def test_a_commit_is_on_the_disk(tmp_path: Path) -> None:
    """The store's own connection says so: a write-ahead log, synced at every commit."""

    def pragmas(connection: Connection) -> tuple[object, ...]:
        return tuple(
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "application_id", "busy_timeout")
        )

    async with store_in(tmp_path) as store:
        assert await in_thread(store, pragmas) == ("wal", 2, 0x514D4361, 5000)


@pytest.mark.parametrize("pragma", ["journal_mode", "synchronous"])
async def test_a_file_system_without_durability(
    pragma: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SQLite does not confirm is not believed: it may silently use something less."""

    def lessen(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver's
        connection.execute(f"PRAGMA {pragma} = OFF")

    wrapped = sqlite_file.use_immediate_transactions

    def use(engine: Engine) -> None:
        wrapped(engine)
        event.listen(engine, "connect", lessen)  # after ours, as a file system that takes no WAL

    monkeypatch.setattr("qmc_async.store.sqlite_database.use_immediate_transactions", use)
    why = await _refusal(f"sqlite:///{tmp_path / 'qmc.db'}")
    assert "not WAL and FULL" in why


# --- the place ---------------------------------------------------------------------------------


async def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    """Nobody's database appears in a folder that was mistyped."""
    why = await _refusal(f"sqlite:///{tmp_path / 'missing' / 'qmc.db'}")
    assert str(tmp_path / "missing") in why
    assert not names_in(tmp_path)


async def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    """A folder, or a pipe, which would hang."""
    assert "is no file" in await _refusal(f"sqlite:///{tmp_path}")
    os.mkfifo(tmp_path / "qmc.db")
    assert "is no file" in await _refusal(url_in(tmp_path))


@contextmanager
def as_nobody() -> Generator[None]:
    """Without the superuser's rights, to whom permissions mean nothing."""
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


@pytest.fixture
def public() -> Generator[Path]:
    """A folder that others can find, unlike the tests' own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["folder", "file", "entry"])
async def test_a_place_without_the_right_to_write(what: str, public: Path) -> None:
    """It is found out at start, and not at the first notification."""
    place = public / "place"
    place.mkdir()
    if what == "file":
        (place / "qmc.db").touch()
        (place / "qmc.db").chmod(0o444)
    place.chmod({"folder": 0o555, "file": 0o755, "entry": 0o600}[what])
    with as_nobody():
        why = await _refusal(url_in(place))
    assert "cannot be " in why
    assert "Permission denied" in why


async def test_a_symbolic_link(tmp_path: Path) -> None:
    """The store stands where the link points, and so does everything beside it."""
    for name in ("real", "link"):
        (tmp_path / name).mkdir()
    (tmp_path / "link" / "qmc.db").symlink_to(tmp_path / "real" / "qmc.db")
    async with store_in(tmp_path / "link") as store:
        await keep(store, body_of())
        assert store.place == str(tmp_path / "real" / "qmc.db")
        assert [path.name for path in (tmp_path / "link").iterdir()] == ["qmc.db"]
    assert select_in(tmp_path / "real", "SELECT event_id FROM qmc_events") == [("4711",)]


# --- the file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"x", b"SQLite format 4\0" + bytes(4096), bytes(4096), "订单".encode() * 1000],
    ids=["short", "magic", "zeros", "text"],
)
async def test_a_file_that_is_no_database(content: bytes, tmp_path: Path) -> None:
    """Somebody's file is refused, and stays as it is."""
    (tmp_path / "qmc.db").write_bytes(content)
    assert "is no database of qmc-async" in await _refusal(url_in(tmp_path))
    assert (tmp_path / "qmc.db").read_bytes() == content
    assert names_in(tmp_path) == ["qmc.db"]


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE theirs (x)", "PRAGMA application_id = 1", "CREATE TABLE qmc_events (x)"],
)
async def test_the_database_of_another_program(statement: str, tmp_path: Path) -> None:
    """It is refused, and not a byte of it is changed."""
    with closing(sqlite3.connect(tmp_path / "qmc.db")) as file, file:
        file.execute(statement)
    before = (tmp_path / "qmc.db").read_bytes()
    assert before
    assert "another program" in await _refusal(url_in(tmp_path))
    assert (tmp_path / "qmc.db").read_bytes() == before
    assert names_in(tmp_path) == ["qmc.db"]


async def test_the_database_of_another_program_with_a_log(tmp_path: Path) -> None:
    """One that could be ours by its first bytes is refused for what is in it."""
    with closing(sqlite3.connect(tmp_path / "qmc.db")) as file, file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("CREATE TABLE theirs (x)")
    assert "another program" in await _refusal(url_in(tmp_path))
    assert select_in(tmp_path, "SELECT name FROM sqlite_schema") == [("theirs",)]


async def test_an_empty_file_is_taken(tmp_path: Path) -> None:
    """One that was made beforehand, to give it an owner and a mode."""
    (tmp_path / "qmc.db").touch(mode=0o600)
    async with store_in(tmp_path) as store:
        await keep(store, body_of())
    assert (tmp_path / "qmc.db").stat().st_mode & 0o777 == 0o600
    assert select_in(tmp_path, "SELECT event_id FROM qmc_events") == [("4711",)]


async def test_a_file_that_another_program_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, and then it is a clear error, in SQLite's own words."""
    monkeypatch.setattr(sqlite_file, "_BUSY", 0.05)
    async with store_in(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "qmc.db", isolation_level=None)) as file:
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        file.execute("BEGIN IMMEDIATE")
        assert "SQLITE_BUSY: database is locked" in await _refusal(url_in(tmp_path))


# --- network file systems ----------------------------------------------------------------------


def _mounts(path: Path, *lines: str) -> str:
    head = "22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/root rw"
    path.write_text("\n".join([head, *lines]) + "\n")
    return str(path)


def _mount(point: object, kind: str, *optional: str) -> str:
    shown = str(point).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
    return " ".join(["36 22 98:0 /", shown, "rw,noatime", *optional, "-", kind, "somewhere rw"])


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Have the system say what is mounted where."""

    def mount(*lines: str) -> Path:
        path = tmp_path / "mountinfo"
        _mounts(path, *lines)
        monkeypatch.setattr(sqlite_file, "_MOUNTS", path)
        return path

    return mount


NETWORK = ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.s3fs", "glusterfs"]


@pytest.mark.parametrize("kind", NETWORK)
async def test_a_network_file_system(
    kind: str, tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    """Its locks and its fsync cannot be relied on: refused, with a way out."""
    place = tmp_path / "a place"
    place.mkdir()
    mounted(_mount(place, kind, "shared:2", "master:1"))
    why = await _refusal(url_in(place))
    assert f"on a network file system ({kind})" in why
    assert str(place) in why
    assert not list(place.iterdir())


async def test_below_a_mount_point_with_odd_characters(
    tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    """The system escapes spaces, tabs and backslashes; a folder below is on it too."""
    place = tmp_path / "a b\tc\\d" / "below"
    place.mkdir(parents=True)
    mounted(_mount(place.parent, "nfs4"))
    assert "nfs4" in await _refusal(url_in(place))


async def test_what_lies_over_decides(tmp_path: Path, mounted: Callable[..., Path]) -> None:
    """The nearest mount counts, of two at one place the later; not one that only begins alike."""
    for name in ("one", "two", "three", "threefold"):
        (tmp_path / name).mkdir()
    mounted(
        _mount(tmp_path, "nfs4"),
        _mount(tmp_path / "one", "ext4"),
        _mount(tmp_path / "two", "ext4"),
        _mount(tmp_path / "two", "cifs"),
        _mount(tmp_path / "threefold", "ext4"),
    )
    async with store_in(tmp_path / "one"):
        pass
    assert "cifs" in await _refusal(url_in(tmp_path / "two"))
    assert "nfs4" in await _refusal(url_in(tmp_path / "three"))


async def test_a_link_to_a_network_file_system(
    tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    """Where the file really is counts, whether the folder is the link or the file."""
    far = tmp_path / "far"
    far.mkdir()
    (tmp_path / "folder").symlink_to(far)
    (tmp_path / "qmc.db").symlink_to(far / "qmc.db")
    mounted(_mount(far, "nfs4"))
    assert "nfs4" in await _refusal(url_in(tmp_path / "folder"))
    assert "nfs4" in await _refusal(url_in(tmp_path))


async def test_mounts_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux nothing is known of them, and nothing is refused."""
    monkeypatch.setattr(sqlite_file, "_MOUNTS", tmp_path / "missing")
    async with store_in(tmp_path) as store:
        await keep(store, body_of())


async def test_mounts_with_any_bytes(tmp_path: Path, mounted: Callable[..., Path]) -> None:
    """A mount point whose name is no text keeps nobody from starting."""
    path = mounted()
    path.write_bytes(path.read_bytes() + b"36 22 98:0 / /mnt/\xff rw - ext4 /dev/x rw\n")
    async with store_in(tmp_path) as store:
        await keep(store, body_of())


# --- what is broken ----------------------------------------------------------------------------


def _error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError()
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (_error(sqlite3.SQLITE_CORRUPT), True),
        (_error(sqlite3.SQLITE_CORRUPT_INDEX), True),
        (_error(sqlite3.SQLITE_NOTADB), True),
        (_error(sqlite3.SQLITE_IOERR_SHORT_READ), True),
        (OperationalError("", None, _error(sqlite3.SQLITE_CORRUPT)), True),
        (_error(sqlite3.SQLITE_IOERR_FSYNC), False),
        (_error(sqlite3.SQLITE_FULL), False),
        (_error(sqlite3.SQLITE_BUSY), False),
        (_error(sqlite3.SQLITE_READONLY), False),
        (OSError(), False),
    ],
)
def test_what_no_second_try_will_help(error: Exception, broken: bool) -> None:  # noqa: FBT001 - a column
    """Only what says that the file's content is wrong has it set aside, not what may pass."""
    assert sqlite_file.is_corrupt(error) is broken


def test_names_for_what_is_set_aside(tmp_path: Path) -> None:
    """Each is new; once there are a thousand of one second, something else is wrong."""
    file = sqlite_file.SqliteFile(str(tmp_path / "qmc.db"))
    names: set[Path] = set()
    for _ in range(3):
        names.add(file.free_name())
        file.free_name().touch()
    assert all(re.fullmatch(r"qmc\.db\.corrupt-\d{8}T\d{6}Z-\d{3}", one.name) for one in names)
    assert all(one.exists() for one in names)


def test_a_file_that_another_process_has_set_aside(tmp_path: Path) -> None:
    """Of several who find it broken one sets it aside; the fresh file of that one stays."""
    path = tmp_path / "qmc.db"
    path.touch()
    ours, theirs = (sqlite_file.SqliteFile(str(path)) for _ in range(2))
    for file in (ours, theirs):
        file.remember()
    assert theirs.set_aside() is not None
    path.write_bytes(b"fresh")
    assert ours.set_aside() is None
    assert path.read_bytes() == b"fresh"


def test_only_a_log_is_there(tmp_path: Path) -> None:
    """Whatever there is goes aside, so that nothing of it gets into the fresh file."""
    (tmp_path / "qmc.db-wal").write_bytes(b"log")
    aside = sqlite_file.SqliteFile(str(tmp_path / "qmc.db")).set_aside()
    assert aside is not None
    assert not aside.exists()
    assert (tmp_path / f"{aside.name}-wal").read_bytes() == b"log"


def test_too_many_were_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error, and overwrites none of them."""

    def yes(_: object) -> bool:
        return True

    monkeypatch.setattr(Path, "exists", yes)
    with pytest.raises(FileExistsError, match="too many"):
        sqlite_file.SqliteFile(str(tmp_path / "qmc.db")).free_name()
