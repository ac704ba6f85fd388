"""A whole callback server on each database: handlers, their errors, and several on one store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from callback_peer import SOON, Seen, body_of, hurry, post_to, until
from conformance import deliveries_in, ids_in, replica, rows_in
from store_support import keep

from qmc_async import CallbackServer, Conflict, Delivery, Disconnected, Reject, UnknownNotification
from qmc_async.store import Kind, Store

if TYPE_CHECKING:
    from pathlib import Path

    from database_servers import TestDatabase


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hurry(monkeypatch)
    monkeypatch.setenv("QMC_SPOOL", str(tmp_path / "spool"))


def _server(store: Store | str) -> CallbackServer:
    return CallbackServer(store=store, port=0, shutdown_timeout=0.2)


async def test_each_sort_of_event(database: TestDatabase) -> None:
    """Each goes to the handlers of its sort, and what is done is written down."""
    seen = Seen()
    server = _server(database.url)
    server.on_disconnected(name="ended")(seen.handler("ended"))
    server.on_unknown(name="unknown")(seen.handler("unknown"))
    server.on_conflict(name="conflict")(seen.handler("conflict"))
    async with server:
        for body in (body_of(), body_of(), body_of(reason="Other"), b"\xff\0", body_of()):
            assert (await post_to(server, body)).status == 200
        await until(lambda: {row[2] for row in deliveries_in(database)} == {"done"})
        assert (await server.wait_for("4711", timeout=0)).reason == "HangUp"
    assert sorted(seen.names) == ["conflict", "ended", "unknown"]
    events = dict(seen.all)
    assert isinstance(events["ended"], Disconnected)
    assert isinstance(events["conflict"], Conflict)
    assert isinstance(events["unknown"], UnknownNotification)
    assert events["unknown"].body == b"\xff\0"
    assert len(deliveries_in(database)) == 3


ERRORS = {
    "emoji 😀": "emoji 😀",
    "a\0b": "a\\0b",
    "half \ud83d": "half \\ud83d",
    "北京 é": "北京 é",
    "'; DROP TABLE qmc_events; -- %s :x \\": "'; DROP TABLE qmc_events; -- %s :x \\",
    "x" * 5000: "x" * 1988,
    "😀" * 5000: "😀" * 1988,
    "\0" * 5000: "\\0" * 1988,
}


async def test_what_handlers_say_of_their_failures(database: TestDatabase) -> None:
    """Whatever it is, it is written down as far as there is room, and comes back as it was."""
    errors = {str(number): error for number, error in enumerate(ERRORS)}
    rejected: set[str] = set()
    server = _server(database.url)

    @server.on_disconnected(name="again", retry=SOON)
    async def again(event: Disconnected, delivery: Delivery) -> None:
        if delivery.attempt < 3:
            raise ValueError(errors[event.call_id])

    @server.on_disconnected(name="rejects")
    async def rejects(event: Disconnected) -> None:
        if event.call_id not in rejected:
            rejected.add(event.call_id)
            raise Reject(errors[event.call_id])

    async with server:
        for number in errors:
            await post_to(server, body_of(number))
        ends = [("done", 2), ("dead", 1)]
        await until(lambda: [row[2:4] for row in deliveries_in(database)] == ends * len(errors))
        for letter in await server.dead_letters():
            expected = ERRORS[errors[letter.event_id]][:1988]
            assert letter.error.removeprefix("Reject: ")[:1988] == expected
            assert await server.replay(letter) == ["rejects"]
        await until(lambda: {row[2] for row in deliveries_in(database)} == {"done"})


async def test_names_of_handlers_that_are_alike(database: TestDatabase) -> None:
    """Each has deliveries of its own, however little it differs from another one's name."""
    names = ["crm", "CRM", "crm ", " crm", "crḿ", "crm\u0301", "客户", "😀", "x" * 200, "x" * 199]
    seen = Seen()
    server = _server(database.url)
    for name in names:
        server.on_disconnected(name=name)(seen.handler(name))
    async with server:
        await post_to(server, body_of())
        await until(lambda: {row[2] for row in deliveries_in(database)} == {"done"})
    assert sorted(seen.names) == sorted(names)
    assert sorted(row[1] for row in deliveries_in(database)) == sorted(names)


# --- one store, several servers ----------------------------------------------------------------


async def test_two_servers_on_one_store(database: TestDatabase) -> None:
    """Each takes notifications, both know of all, and the store is open until both have ended."""
    store = Store(database.url)
    one, other = _server(store), _server(store)
    seen = Seen()
    for server in (one, other):
        server.on_disconnected(name="ended")(seen.handler("ended"))
    async with one:
        async with other:
            waiting = asyncio.ensure_future(one.wait_for("2", timeout=30))
            await post_to(one, body_of("1"))
            await post_to(other, body_of("2"))
            assert (await waiting).call_id == "2"
            assert (await other.wait_for("1", timeout=30)).call_id == "1"
            await until(lambda: len(seen.all) == 2)
        assert (await post_to(one, body_of("3"))).status == 200
        await until(lambda: len(seen.all) == 3)
    assert sorted(event.call_id or "" for _, event in seen.all) == ["1", "2", "3"]
    assert ids_in(database, "SELECT event_id FROM qmc_events ORDER BY 1") == ["1", "2", "3"]


async def test_two_replicas_with_the_same_handlers(database: TestDatabase, tmp_path: Path) -> None:
    """Whichever takes a notification, and however often it comes, each is handled once."""
    seen = Seen()
    async with (
        replica(database, tmp_path, "one") as first,
        replica(database, tmp_path, "other") as second,
    ):
        servers = [_server(first), _server(second)]
        for server in servers:
            server.on_disconnected(name="ended")(seen.handler("ended"))
        async with servers[0], servers[1]:
            ids = [str(number) for number in range(40)]
            await asyncio.gather(
                *(post_to(server, body_of(one)) for one in ids for server in servers)
            )
            done = "SELECT count(*) FROM qmc_deliveries WHERE state = 'done'"
            await until(lambda: database.select(done) == [(40,)])
            found = await asyncio.gather(
                *(server.wait_for(one, timeout=30) for one in ids for server in servers)
            )
    assert len(found) == 80
    assert sorted(event.call_id or "" for _, event in seen.all) == sorted(ids)


async def test_a_handler_that_only_one_replica_has(database: TestDatabase, tmp_path: Path) -> None:
    """Its delivery waits for that one, as in a rolling deployment."""
    seen = Seen()
    async with (
        replica(database, tmp_path, "old") as old,
        replica(database, tmp_path, "new") as new,
    ):
        olds, news = _server(old), _server(new)
        for server, names in ((olds, ["crm"]), (news, ["crm", "sms"])):
            for name in names:
                server.on_disconnected(name=name)(seen.handler(name))
        await keep(new, body_of("1"), {"crm": False, "sms": False})
        async with olds:
            await until(lambda: deliveries_in(database)[0][2] == "done")
            await post_to(olds, body_of("2"))
            await until(lambda: seen.names == ["crm", "crm"])
        async with news:
            await until(lambda: "sms" in seen.names)
    assert rows_in(database, "SELECT event_id, handler FROM qmc_deliveries ORDER BY 1, 2") == [
        ("1", "crm"),
        ("1", "sms"),
        ("2", "crm"),
    ]


# --- open and closed ---------------------------------------------------------------------------


async def test_a_store_that_is_opened_again(database: TestDatabase, tmp_path: Path) -> None:
    """It has what it had, under another owner; nothing of the first time is left open."""
    store = Store(database.url, spool=tmp_path / "spool", patience=30)
    owners: set[str] = set()
    for number in range(3):
        async with store:
            owners.add(store.owner)
            await keep(store, body_of(str(number)))
            assert len((await store.find(["0", "1", "2"]))[0]) == number + 1
    assert len(owners) == 3


def test_a_store_on_a_second_event_loop(database: TestDatabase, tmp_path: Path) -> None:
    """One after the other, a store serves any number of event loops."""
    store = Store(database.url, spool=tmp_path / "spool", patience=30)

    async def use(call_id: str) -> Kind | None:
        server = _server(store)
        async with server:
            kept = await keep(store, body_of(call_id))
            assert (await server.wait_for(call_id, timeout=30)).call_id == call_id
            return kept.kind

    assert asyncio.run(use("1")) is Kind.DISCONNECTED
    assert asyncio.run(use("2")) is Kind.DISCONNECTED
    assert asyncio.run(use("1")) is None
