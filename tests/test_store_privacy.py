"""Nothing that came stands in a log line, an exception or a repr of the store, whatever fails."""

from __future__ import annotations

import gc
import logging
import os
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import alone, body_of, hurry, select_in, until, url_in
from sqlalchemy import insert
from store_support import database_of, hurry_spool, in_thread, keep, locked, put_of, store_in

from qmc_async import StoreError
from qmc_async.store import Store, schema, sqlite_file
from qmc_async.store.events import Listing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

SECRETS = ("13987654321", "13912345678", "s3cr3t", "https://rec.example/9.wav")
BODY = body_of(
    caller=SECRETS[0],
    callee=SECRETS[1],
    token=SECRETS[2],
    fileUrl=SECRETS[3],
    outCallId="order-42",
    reason=f"called {SECRETS[0]}",
)
OTHER = BODY.replace(b"called", b"rang")
UNKNOWN = BODY.replace(b"Disconnected", b"Ringing")
NONSENSE = b"{" + BODY


def _is_clean(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text, text[max(0, text.index(secret) - 300) :][:600]


@pytest.fixture(autouse=True)
def _everything_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """As with `logging.basicConfig(level=logging.DEBUG)`, and nothing secret may come of it."""
    for name in ("", "sqlalchemy", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    hurry_spool(monkeypatch)
    hurry(monkeypatch)
    yield
    records = caplog.get_records("call")
    assert records
    for record in records:
        _is_clean(f"{record.getMessage()} {record.args!r} {record.exc_text}")


def _broken(*_: object) -> int:
    raise RuntimeError(SECRETS[0])


def _shown(error: BaseException) -> str:
    """An exception as a log shows it, its whole chain, and its fields."""
    chain = "".join(traceback.format_exception(error))
    return f"{chain} {error!r} {error.args} {vars(error)}"


async def test_while_all_is_well(tmp_path: Path) -> None:
    """Keeping, asking, listing and conflicts, at the lowest level of every logger."""
    async with store_in(tmp_path) as store:
        for body in (BODY, OTHER, UNKNOWN, NONSENSE):
            kept = await keep(store, body, {"handler": True})
            _is_clean(repr(kept))
        found = await store.find(["4711"], ["order-42"])
        assert len(found[1]) == 1
        _is_clean(repr(found))
        listed, _ = await store.list_events(Listing(limit=10))
        assert len(listed) == 4
        _is_clean(repr(listed))
        _is_clean(repr(store))
        _is_clean(repr(vars(store)))


def _refused(connection: Connection) -> None:
    rows = [{"event_id": "4711", "body": BODY, "error": SECRETS[0]}] * 2
    connection.execute(insert(schema.events), rows)


def _mistaken(_: Connection) -> None:
    raise ValueError(BODY)


def _malformed(connection: Connection) -> None:
    connection.execute(insert(schema.events), [{"event_id": "1", "body": BODY.decode()}])


@pytest.mark.parametrize("work", [_refused, _mistaken, _malformed])
async def test_a_statement_that_fails(tmp_path: Path, work: Any) -> None:  # noqa: ANN401 - one of the three
    """The error says what the database says of itself, and holds nothing of the parameters."""
    async with store_in(tmp_path) as store:
        with pytest.raises(StoreError) as caught:
            await in_thread(store, work)
        _is_clean(_shown(caught.value))


async def test_up_and_down_the_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Through a server: slow, failing, the spool failing, and back; also what asyncio would log."""
    monkeypatch.setattr(sqlite_file, "_BUSY", 0.05)
    store = Store(url_in(tmp_path), patience=0.02)
    async with alone(store=store) as there:
        with locked(tmp_path):
            for body in (BODY, OTHER, UNKNOWN, NONSENSE):
                assert (await there.post(body)).status == 200
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", _broken)
                await there.post(BODY)
            with monkeypatch.context() as patch:

                def fail(_: int) -> None:
                    raise OSError(5, SECRETS[0], SECRETS[1])

                patch.setattr(os, "fsync", fail)
                assert (await there.post(BODY)).status == 500
        await until(lambda: not there.server.problems)
    gc.collect()
    assert "could not be kept" in caplog.text


async def test_what_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken file, and a spool line that cannot be read."""
    folder = tmp_path / "qmc.db-spool"
    folder.mkdir()
    (folder / "dead.spool").write_bytes(b"00000000 " + BODY + b"\n")
    async with store_in(tmp_path) as store:
        await keep(store, BODY, {"handler": True})
        await until(lambda: "cannot be used" in caplog.text)
        database = database_of(store)
        transact, broken = database._transact, [True]

        def fail(jobs: Any) -> None:  # noqa: ANN401 - of the database's own
            if broken:
                broken.clear()
                (tmp_path / "qmc.db").unlink()
            transact(jobs)

        database._transact = fail
        assert await store.keep(put_of(UNKNOWN), lambda _: None)
        await until(lambda: "1 events and calls were copied from" in caplog.text)
    assert select_in(tmp_path, "SELECT count(*) FROM qmc_events")[0][0] >= 1
    assert (folder / "dead.damaged").exists()


async def test_a_password_in_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the error nor its chain shows it."""
    monkeypatch.setenv("QMC_STORE", f"postgresql://user:{SECRETS[2]}@host:x:{SECRETS[2]}/db")
    with pytest.raises(Exception, match=r"^store: ") as caught:
        Store()
    shown = "".join(traceback.format_exception_only(caught.value))
    _is_clean(shown)
    assert caught.value.__suppress_context__
    logging.getLogger("test").debug("something is logged")
