"""Spools of several processes: whose file is whose, and who inherits from the dead."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from callback_peer import body_of
from store_support import Process

from qmc_async.store import spool_file
from qmc_async.store.records import Put, Receipt
from qmc_async.store.spool_file import Spool

if TYPE_CHECKING:
    import pytest


def _call_ids(spool: Spool, path: Path) -> list[str | None]:
    return [put.receipt.event.call_id for put in spool.read(path, 0).puts]


PROCESS = """
import sys
from pathlib import Path
from qmc_async.store.records import Put, Receipt
from qmc_async.store.spool_file import Spool, append

spool = Spool(Path(sys.argv[1]), sys.argv[2])
spool.open()
body = b'{"callidentifier":"' + sys.argv[2].encode() + b'"}'
append(spool, [Put(Receipt.read(body), None, "")])
print("kept", flush=True)
input()
append(spool, [Put(Receipt.read(b"later"), None, "")])
print("again", flush=True)
input()
"""


def test_a_dead_process_is_inherited_from_and_a_live_one_is_not(tmp_path: Path) -> None:
    """A lock that the system lets go with the process tells the one from the other."""
    live, dead = (Process(PROCESS, str(tmp_path), name) for name in ("live", "dead"))
    assert live.line() == dead.line() == "kept"
    spool = Spool(tmp_path, "us")
    spool.open()
    try:
        assert spool.adopt() == []
        dead.kill()
        assert spool.adopt() == ["dead"]
        assert spool.adopt() == []
        assert [path.stem for path in spool.files] == ["dead", "us"]
        path = tmp_path / "dead.spool"
        assert _call_ids(spool, path) == ["dead"]
        assert spool.clear(path, path.stat().st_size)
        assert not path.exists()
        live.say()
        assert live.line() == "again"
        assert _call_ids(spool, tmp_path / "live.spool") == ["live", None]
    finally:
        live.kill()
        dead.kill()
    assert spool.adopt() == ["live"]
    assert spool.clear(tmp_path / "live.spool", (tmp_path / "live.spool").stat().st_size)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_just_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file was there a moment ago: nothing is taken over, and nothing is left behind."""
    spool = Spool(tmp_path, "us")
    spool.open()
    found = [tmp_path / "gone.spool"]

    def glob(*_: object) -> list[Path]:
        return found

    monkeypatch.setattr(Path, "glob", glob)
    assert spool.adopt() == []
    assert [path.stem for path in spool.files] == ["us"]
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_dead_process_that_is_removed(tmp_path: Path) -> None:
    """Nobody waits for ever for what somebody has tidied up: it is done with."""
    other = Spool(tmp_path, "other")
    other.open()
    spool_file.append(other, [Put(Receipt.read(body_of()), None, "")])
    other.close()
    spool = Spool(tmp_path, "us")
    spool.open()
    assert spool.adopt() == ["other"]
    path = tmp_path / "other.spool"
    path.unlink()
    assert spool.read(path, 0).end == 0
    assert spool.clear(path, 0)
    assert [one.stem for one in spool.files] == ["us"]
    spool.close()
