"""No password and nothing that came stands in a log line, an exception or a repr."""

# pyright: reportPrivateUsage=false
# (a fault is put where it hurts)
from __future__ import annotations

import gc
import logging
import os
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import alone, body_of, hurry, until
from conformance import ids_in, on_servers_themselves
from sqlalchemy import insert, make_url, text
from store_support import hurry_spool, in_thread, keep

from qmc_async import StoreError
from qmc_async.store import State, Store, schema
from qmc_async.store.events import Listing
from qmc_async.store.records import Outcome, Poll

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from database_servers import TestDatabase
    from sqlalchemy import Connection

PASSWORD = "pa55-w0rd"
SECRETS = ("13987654321", "13912345678", "s3cr3t", "https://rec.example/9.wav", PASSWORD)
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


def _is_clean(shown: str) -> None:
    for secret in SECRETS:
        assert secret not in shown, shown[max(0, shown.index(secret) - 300) :][:600]


def _shown(error: BaseException) -> str:
    """An exception as a log shows it, its whole chain, and its fields."""
    chain = "".join(traceback.format_exception(error))
    return f"{chain} {error!r} {error.args} {vars(error)}"


@pytest.fixture(autouse=True)
def _everything_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """As with `logging.basicConfig(level=logging.DEBUG)`, and nothing secret may come of it."""
    for name in ("", "sqlalchemy", "sqlalchemy.pool", "asyncio", "psycopg", "pymysql"):
        caplog.set_level(logging.DEBUG, name)
    hurry_spool(monkeypatch)
    hurry(monkeypatch)
    yield
    records = caplog.get_records("call")
    assert records
    for record in records:
        _is_clean(f"{record.getMessage()} {record.args!r} {record.exc_text}")


@pytest.fixture
def url(database: TestDatabase) -> Iterator[str]:
    """The database, as a user with a password."""
    if database.kind == "mariadb":
        database.server.execute(f"CREATE USER private IDENTIFIED BY '{PASSWORD}'")
        database.server.execute("GRANT ALL ON qmc.* TO private")
    else:
        database.server.execute(f"CREATE ROLE private LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    made = make_url(database.url).set(username="private", password=PASSWORD)
    try:
        yield made.render_as_string(hide_password=False)
    finally:
        if database.kind == "mariadb":
            database.server.execute("DROP USER private")
        else:
            database.execute("DROP SCHEMA public CASCADE")
            database.execute("CREATE SCHEMA public")
            database.server.execute("DROP ROLE private")


@pytest.fixture
async def store(url: str, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store."""
    async with Store(url, spool=tmp_path / "spool", patience=30) as store:
        yield store


@on_servers_themselves
async def test_while_all_is_well(store: Store) -> None:
    """Keeping, asking, listing and conflicts, at the lowest level of every logger."""
    for body in (BODY, OTHER, UNKNOWN, NONSENSE):
        _is_clean(repr(await keep(store, body, {"handler": False})))
    polled = await store.poll(Poll("us", {"handler": 10}))
    _is_clean(repr(polled))
    for claim in polled.claims:
        await store.settle(Outcome(claim, State.DEAD, failed=True, error="why"))
    _is_clean(repr(await store.dead_letters()))
    _is_clean(repr(await store.find(["4711"], ["order-42"])))
    listed, _ = await store.list_events(Listing(limit=10))
    assert len(listed) == 4
    _is_clean(repr(listed))
    for one in (store, vars(store), store._database, store._database.bell):
        _is_clean(repr(one))


def _twice(connection: Connection) -> None:
    for _ in range(2):
        connection.execute(insert(schema.events), [_row(event_id=SECRETS[0])])


def _too_long(connection: Connection) -> None:
    connection.execute(insert(schema.events), [_row(receipt_id=SECRETS[3] * 9)])


def _of_a_wrong_type(connection: Connection) -> None:
    connection.execute(insert(schema.events), [_row(received_at=SECRETS[0] * 9)])


def _half(connection: Connection) -> None:
    connection.execute(insert(schema.events), [_row(event_id=f"{SECRETS[0]}\ud800")])


def _nul(connection: Connection) -> None:
    connection.execute(insert(schema.events), [_row(problem=f"{SECRETS[0]}\0"), {"x": SECRETS[1]}])


def _missing(connection: Connection) -> None:
    connection.execute(text("SELECT * FROM nothing WHERE x = :x"), {"x": SECRETS[0]})


def _mistaken(_: Connection) -> None:
    raise ValueError(BODY)


def _row(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any of the columns'
    row = {"event_id": "1", "kind": "unknown", "received_at": 1, "receipt_id": "", "problem": ""}
    return row | {"body": BODY, "routed": True} | fields


FAULTS = [_twice, _too_long, _of_a_wrong_type, _half, _nul, _missing, _mistaken]


@on_servers_themselves
async def test_statements_that_fail(store: Store) -> None:
    """The error says what the database says of itself, and holds nothing of the parameters."""
    for number, work in enumerate(FAULTS):
        with pytest.raises(StoreError) as caught:
            await in_thread(store, work)
        _is_clean(_shown(caught.value))
        assert (await keep(store, body_of(str(number)))).kind


def _broken(*_: object) -> int:
    raise RuntimeError(SECRETS[0])


@on_servers_themselves
async def test_up_and_down_the_ladder(
    url: str,
    database: TestDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Through a server: the database killed, the spool failing, and back."""
    store = Store(url, spool=tmp_path / "spool", patience=0.2)
    async with alone(store=store) as there:
        database.server.kill()
        for body in (BODY, OTHER, UNKNOWN, NONSENSE):
            assert (await there.post(body)).status == 200
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", _broken)
            assert (await there.post(BODY)).status == 500
        _is_clean(repr(there.server.problems))
        database.server.start()
        await until(lambda: not there.server.problems)
    gc.collect()
    assert "could not be kept" in caplog.text
    assert len(ids_in(database, "SELECT event_id FROM qmc_events")) == 4
