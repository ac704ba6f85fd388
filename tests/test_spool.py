"""The spool: lines that are on the disk before anybody is answered, and survive their process."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmc_async.store import spool_file
from qmc_async.store.group_commit import Job
from qmc_async.store.records import Put, Receipt
from qmc_async.store.spool_file import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An open spool."""
    spool = Spool(tmp_path / "spool", "us")
    spool.open()
    yield spool
    spool.close()


def _puts(*call_ids: str) -> list[Put]:
    return [
        Put(Receipt.read(body_of(call_id)), {"handler": False}, "", ["of conflicts"])
        for call_id in call_ids
    ]


def _all(spool: Spool, path: Path) -> list[Put]:
    found: list[Put] = []
    end = 0
    while chunk := spool.read(path, end):
        if chunk.end == end:
            return found
        found += chunk.puts
        end = chunk.end
    return found


def _own(spool: Spool) -> Path:
    return spool.folder / "us.spool"


# --- what is acknowledged is on the disk -------------------------------------------------------


def test_the_order_of_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synced once the file is in it, and each append after it was written."""
    done: list[tuple[str, bool]] = []
    fsync, write = os.fsync, os.write

    def noted_fsync(file: int) -> None:
        fsync(file)
        done.append(("fsync", os.path.isdir(f"/proc/self/fd/{file}")))  # noqa: PTH112 - a link of the system's

    def noted_write(file: int, data: bytes) -> int:
        done.append(("write", False))
        return write(file, data)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "write", noted_write)
    spool = Spool(tmp_path, "us")
    spool.open()
    assert done == [("fsync", True)] * 3  # the folder, and those that it was made in
    done.clear()
    jobs = [Job(spool_file.append, one, None) for one in _puts("1", "2")]  # type: ignore[arg-type]  # nobody waits
    spool.commit(jobs)
    assert done == [("write", False), ("fsync", False)]
    assert [job.error for job in jobs] == [None, None]
    spool.close()


def test_only_its_owner_may_read_it(spool: Spool) -> None:
    """There are telephone numbers in it."""
    assert spool.folder.stat().st_mode & 0o777 == 0o700
    assert _own(spool).stat().st_mode & 0o777 == 0o600


@settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.lists(st.tuples(st.binary(max_size=200), st.text(st.characters(codec="utf-8")))))
def test_anything_comes_back_as_it_was(spool: Spool, what: list[tuple[bytes, str]]) -> None:
    """Any bytes, line ends and NULs among them, with their time, id and problem."""
    puts = [Put(Receipt.read(body, problem), None, "") for body, problem in what]
    spool_file.append(spool, puts)
    assert _all(spool, _own(spool)) == puts
    assert spool.clear(_own(spool), _own(spool).stat().st_size)


def test_who_is_to_handle_it_comes_back_too(spool: Spool) -> None:
    """The handlers of the process that took it, whatever the next one has; but no lease."""
    receipt = Receipt.read(body_of())
    spool_file.append(spool, [Put(receipt, {"one": True, "two": False}, "us", ["three"])])
    [put] = _all(spool, _own(spool))
    assert put == Put(receipt, {"one": False, "two": False}, "", ["three"])


def test_more_than_one_chunk(spool: Spool) -> None:
    """A long file is read a piece at a time, in order, and whole."""
    puts = [Put(Receipt.read(body_of(str(n), x="x" * 60_000)), {}, "") for n in range(40)]
    spool_file.append(spool, puts)
    assert 1 < len(spool.read(_own(spool), 0).puts) < 40
    assert _all(spool, _own(spool)) == puts


# --- damage ------------------------------------------------------------------------------------


def test_a_torn_last_line(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    """What a killed process has half written is set apart; the lines before it are read."""
    puts = _puts("1", "2", "3")
    spool_file.append(spool, puts)
    whole = _own(spool).read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in (1, len(last) // 2, len(last) - 1):
        _own(spool).write_bytes(whole[:-cut])
        found = _all(spool, _own(spool))
        # The line's end alone may be missing: then the checksum tells that it is whole.
        assert found == (puts if cut == 1 else puts[:-1])
    kept = _own(spool).with_suffix(".damaged").read_bytes()
    assert kept == last[: len(last) // 2 + len(last) % 2] + last[:1]
    assert "cannot be used" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.CRITICAL}


def test_any_flipped_bit(spool: Spool) -> None:
    """A line is taken as it was written, or not at all; its neighbours are not touched."""
    puts = _puts("1", "2", "3")
    spool_file.append(spool, puts)
    whole = _own(spool).read_bytes()
    start = whole.index(b"\n") + 1
    end = whole.index(b"\n", start)
    expected = [puts[0], puts[2]]
    for place in range(start, end):
        for bit in range(0, 8, 3):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            _own(spool).write_bytes(flipped)
            assert _all(spool, _own(spool)) == expected, (place, bit)


@pytest.mark.parametrize("junk", [b"\n", bytes(5000), b"00000000 \n", b"00000000", b"\xff" * 99])
def test_junk_between_lines(spool: Spool, junk: bytes) -> None:
    """Zeros that a power failure left, or anything else, cost no line that is whole."""
    puts = _puts("1", "2")
    spool_file.append(spool, puts)
    first, second = _own(spool).read_bytes().splitlines(keepends=True)
    _own(spool).write_bytes(first + junk.rstrip(b"\n") + b"\n" + second)
    assert _all(spool, _own(spool)) == puts
    assert _own(spool).with_suffix(".damaged").read_bytes() == junk.rstrip(b"\n") + b"\n"


# --- a disk that fails -------------------------------------------------------------------------


def _append(spool: Spool, *puts: Put) -> BaseException | None:
    jobs = [Job(spool_file.append, one, None) for one in puts]  # type: ignore[arg-type]  # nobody waits
    spool.commit(jobs)
    return jobs[0].error


def test_a_disk_that_fills_up(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line is taken back; what comes before and after, once there is room, is whole."""
    first, lost, last = _puts("1", "2", "3")
    assert _append(spool, first) is None
    before = _own(spool).read_bytes()
    write = os.write

    def half(file: int, data: Any) -> int:  # noqa: ANN401 - a buffer
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        error = _append(spool, lost)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert _own(spool).read_bytes() == before
    assert _append(spool, last) is None
    assert _all(spool, _own(spool)) == [first, last]


def test_a_write_in_several_pieces(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take less than it is given; the rest follows."""
    puts = _puts("1", "2")
    write = os.write
    with monkeypatch.context() as patch:

        def some(file: int, data: Any) -> int:  # noqa: ANN401 - a buffer
            return write(file, data[:7])

        patch.setattr(os, "write", some)
        assert _append(spool, *puts) is None
    assert _all(spool, _own(spool)) == puts


def test_a_sync_that_fails(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may not be on the disk was not kept, and does not come up later."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        assert isinstance(_append(spool, *_puts("1")), OSError)
    [put] = _puts("2")
    assert _append(spool, put) is None
    assert _all(spool, _own(spool)) == [put]


def test_half_a_line_that_cannot_be_taken_back(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set apart later; the lines before and after it are whole."""
    first, lost, last = _puts("1", "2", "3")
    assert _append(spool, first) is None
    write = os.write

    def half(file: int, data: Any) -> int:  # noqa: ANN401 - a buffer
        if len(data) < 50:
            raise OSError(errno.EIO, "Input/output error")
        return write(file, data[: len(data) // 2])

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        patch.setattr(os, "ftruncate", fail)
        assert isinstance(_append(spool, lost), OSError)
    assert _append(spool, last) is None
    assert _all(spool, _own(spool)) == [first, last]
    assert _own(spool).with_suffix(".damaged").exists()


def test_where_a_folder_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Unix the file alone is."""
    monkeypatch.delattr(os, "O_DIRECTORY")
    spool = Spool(tmp_path, "us")
    spool.open()
    assert _append(spool, *_puts("1")) is None
    spool.close()


# --- tidying from outside ----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_or_folder_that_is_removed(spool: Spool, what: str) -> None:
    """The next notification begins a new one."""
    puts = _puts("1", "2")
    spool_file.append(spool, puts[:1])
    paths = [_own(spool)] if what == "file" else list(spool.folder.iterdir())
    for path in paths:
        path.unlink()
    if what == "folder":
        spool.folder.rmdir()
    assert _all(spool, _own(spool)) == []
    assert spool.clear(_own(spool), 0)
    assert _append(spool, puts[1]) is None
    assert _all(spool, _own(spool)) == puts[1:]
    other = Spool(spool.folder, "other")
    other.open()
    assert other.adopt() == []
    other.close()


def test_a_folder_that_cannot_be_made_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails as long as it must, closes no file of somebody else's, and then goes on."""
    _own(spool).unlink()
    number: int = vars(spool)["_file"]
    closed: list[int] = []
    close, opened = os.close, os.open

    def refuse(path: Any, *rest: Any) -> int:  # noqa: ANN401 - as `os.open`
        if str(path).endswith(".spool"):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, *rest)

    def noted(file: int) -> None:
        closed.append(file)
        close(file)

    [put] = _puts("1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        patch.setattr(os, "close", noted)
        errors = [_append(spool, put) for _ in range(3)]
    assert [getattr(error, "errno", None) for error in errors] == [errno.EROFS] * 3
    assert closed.count(number) == 1
    assert _append(spool, put) is None
    assert _all(spool, _own(spool)) == [put]


def test_only_what_was_read_is_cleared(spool: Spool) -> None:
    """What has come since stays."""
    first, second = _puts("1", "2")
    spool_file.append(spool, [first])
    end = spool.read(_own(spool), 0).end
    spool_file.append(spool, [second])
    assert not spool.clear(_own(spool), end)
    assert _all(spool, _own(spool)) == [first, second]
    assert spool.clear(_own(spool), _own(spool).stat().st_size)
    assert _own(spool).read_bytes() == b""
    spool_file.append(spool, [second])
    assert _all(spool, _own(spool)) == [second]


def test_close_leaves_what_holds_something(tmp_path: Path) -> None:
    """An empty file goes, one that was not forwarded stays for the next process."""
    for puts in ([], _puts("1")):
        spool = Spool(tmp_path / "spool", "us")
        spool.open()
        spool_file.append(spool, puts)
        spool.close()
        assert bool(list(spool.folder.iterdir())) == bool(puts)
    names = sorted(path.name for path in (tmp_path / "spool").iterdir())
    assert names in (["us.spool"], ["us.spool", "us.spool.lock"])
    again = Spool(tmp_path / "spool", "others")
    again.open()
    assert again.adopt() == ["us"]
    [path] = [path for path in again.files if path != again.folder / "others.spool"]
    assert [put.receipt.event_id for put in _all(again, path)] == ["1"]
    assert again.clear(path, path.stat().st_size)
    again.close()
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_the_thread_calls(spool: Spool) -> None:
    """Each operation does for many what its method does for one."""
    puts = _puts("1", "2")
    assert spool_file.append(spool, puts) == [None, None]
    [found] = spool_file.files(spool, [None])
    assert found == [_own(spool)]
    [chunk] = spool_file.read(spool, [(_own(spool), 0)])
    assert chunk.puts == puts
    assert spool_file.set_apart(spool, [(_own(spool), puts[0])]) == [None]
    assert _own(spool).with_suffix(".damaged").read_bytes() in _own(spool).read_bytes()
    assert spool_file.adopt(spool, [None]) == [[]]
    assert spool_file.clear(spool, [(_own(spool), chunk.end)]) == [True]
