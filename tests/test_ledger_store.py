"""The ledger: the store that it is in, what it is set to, and who else reads it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import body_of, post_to, select_in, until, url_in
from faulty_platform import (
    APP_ID,
    SECRET,
    FaultyPlatform,
    always,
    close_after_reading,
    http,
)
from ledger_support import (
    NUMBERS,
    call,
    calling,
    client_of,
    entry_of,
    place,
    states_in,
    store_of,
)
from store_support import names_in, store_in

from qmc_async import (
    AsyncQmcClient,
    CallbackServer,
    CallOutcomeUnknown,
    CallState,
    ConfigError,
    DuplicateCall,
)
from qmc_async.store.ledger import CallListing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qmc_async import Conflict, Delivery, Disconnected, LedgerEntry, UnknownNotification


@pytest.fixture
async def platform() -> AsyncIterator[FaultyPlatform]:
    """A platform that places every call."""
    async with FaultyPlatform(always(http())) as platform:
        yield platform


# --- which store -------------------------------------------------------------------------------


async def test_a_store_by_its_url(platform: FaultyPlatform, tmp_path: Path) -> None:
    """The client opens it, at the first call at the latest, and closes it."""
    client = client_of(platform.url, url_in(tmp_path))
    assert names_in(tmp_path) == []
    await call(client)
    assert "qmc.db-wal" in names_in(tmp_path)
    await client.aclose()
    assert "qmc.db-wal" not in names_in(tmp_path), "SQLite takes it away when nobody has it open"
    await client.aclose()


async def test_a_store_that_is_open(platform: FaultyPlatform, tmp_path: Path) -> None:
    """The client leaves it open for who has opened it."""
    async with store_in(tmp_path) as store:
        async with client_of(platform.url, store) as client:
            await call(client)
        entry = await store.ledger_entry(out_call_id="order-1")
    assert entry is not None
    assert entry.state is CallState.PLACED


async def test_a_client_that_is_never_used(tmp_path: Path) -> None:
    """It opens nothing, and closes nothing of anybody else's."""
    async with store_in(tmp_path) as store:
        await client_of("http://127.0.0.1:1", store).aclose()
        assert await store.ledger_entry(out_call_id="order-1") is None


async def test_no_store(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Nothing is written down, and an id is the caller's own business."""
    async with client_of(platform.url, None) as client:
        assert client.store is None
        for _ in range(2):
            await call(client)
    assert len(platform.requests) == 2
    assert names_in(tmp_path) == []


async def test_a_store_that_cannot_be_opened(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Nothing is sent, also by who did not look whether it can be."""
    client = client_of(platform.url, url_in(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="there is no folder"):
        await client.__aenter__()
    with pytest.raises(ConfigError, match="there is no folder"):
        await call(client)
    await client.aclose()
    assert platform.requests == []


SETTINGS: list[tuple[dict[str, Any], dict[str, str], int, str]] = [
    ({}, {}, 7_200_000, "139****4321"),
    ({"missing_after": 90, "ledger_numbers": "whole"}, {}, 90_000, NUMBERS[0]),
    ({}, {"QMC_MISSING_AFTER": "1.5", "QMC_LEDGER_NUMBERS": "whole"}, 1500, NUMBERS[0]),
    (
        {"missing_after": 3, "ledger_numbers": "masked"},
        {"QMC_MISSING_AFTER": "1.5", "QMC_LEDGER_NUMBERS": "whole"},
        3000,
        "139****4321",
    ),
]


@pytest.mark.parametrize("number", range(len(SETTINGS)))
async def test_settings_reach_the_database(
    number: int, platform: FaultyPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By argument, by variable, or by default: when a call is overdue, and how numbers look."""
    options, environment, missing_after, caller = SETTINGS[number]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with calling(platform, tmp_path, **options) as client:
        await call(client)
    assert select_in(
        tmp_path, "SELECT missing_after, due_at - placed_at, caller FROM qmc_calls"
    ) == [(missing_after, missing_after, caller)]


BAD: list[dict[str, Any]] = [
    {"missing_after": 0},
    {"missing_after": 200_000},
    {"ledger_numbers": "half"},
]


@pytest.mark.parametrize("options", BAD, ids=str)
def test_settings_that_are_no_good(options: dict[str, Any]) -> None:
    """Each is refused by its name."""
    with pytest.raises(ConfigError) as caught:
        AsyncQmcClient(APP_ID, SECRET, **options)
    assert caught.value.setting == next(iter(options))


# --- who else reads it -------------------------------------------------------------------------


async def test_a_handler_gets_the_entry(tmp_path: Path) -> None:
    """By the platform's id or, where the answer was lost, by ours; None for what is not there."""
    entries: dict[str, LedgerEntry | None] = {}
    async with FaultyPlatform(always(http()), close_after_reading) as platform:
        client = client_of(platform.url, url_in(tmp_path))
        server = CallbackServer(client=client, port=0, shutdown_timeout=0.2)

        @server.on_disconnected(name="ended")
        async def _(event: Disconnected, delivery: Delivery) -> None:
            entries[event.call_id] = await delivery.entry()

        @server.on_conflict(name="conflict")
        async def _(event: Conflict, delivery: Delivery) -> None:
            entries[f"conflict of {event.call_id}"] = await delivery.entry()

        @server.on_unknown(name="unknown")
        async def _(_: UnknownNotification, delivery: Delivery) -> None:
            entries["unknown"] = await delivery.entry()

        async with client, server:
            await call(client, "placed")
            platform.current[0].writer.close()
            with pytest.raises(CallOutcomeUnknown):
                await call(client, "unknown")
            await post_to(server, body_of("c-1"))
            await post_to(server, body_of("c-1", reason="Other"))
            await post_to(server, body_of("c-2", outCallId="unknown"))
            await post_to(server, body_of("c-3", outCallId="of somebody else"))
            await post_to(server, b"nonsense")
            await until(lambda: len(entries) == 5)
    assert entries["c-3"] is entries["unknown"] is None
    found = [entries[name] for name in ("c-1", "conflict of c-1", "c-2")]
    assert [(one and one.out_call_id, one and one.state) for one in found] == [
        ("placed", CallState.ENDED),
        ("placed", CallState.ENDED),
        ("unknown", CallState.ENDED),
    ]


async def test_purging(platform: FaultyPlatform, tmp_path: Path) -> None:
    """What has ended is struck out, and its id can be used again; what is waited for stays."""
    client = client_of(platform.url, url_in(tmp_path))
    server = CallbackServer(client=client, port=0, shutdown_timeout=0.2)
    async with client, server:
        await call(client, "ended")
        await post_to(server, body_of("c-1", outCallId="ended"))
        await place(store_of(client), "waited for", "waited for", missing_after=60_000)
        await server.purge(timedelta(days=1))
        assert len(states_in(tmp_path)) == 2
        select_in(tmp_path, "UPDATE qmc_calls SET placed_at = 1")
        select_in(tmp_path, "UPDATE qmc_events SET received_at = 1")
        await server.purge(timedelta(days=1))
        assert states_in(tmp_path) == {"waited for": "placed"}
        await call(client, "ended")
        with pytest.raises(DuplicateCall):
            await call(client, "waited for")


async def test_listing(platform: FaultyPlatform, tmp_path: Path) -> None:
    """Newest first, in parts, each call once."""
    async with calling(platform, tmp_path) as client:
        for number in range(5):
            await call(client, f"order-{number}")
        names: list[str] = []
        before: int | None = None
        while before != 0:
            part, before = await store_of(client).list_calls(CallListing(limit=2, before=before))
            names.extend(one.out_call_id for one in part)
        assert names == [f"order-{number}" for number in reversed(range(5))]
        assert (await entry_of(client, "order-4")).call_id == "c-1"


def test_two_stores(tmp_path: Path) -> None:
    """A server looks for its client's calls where the ledger is: another store is a mistake."""
    client = client_of("http://127.0.0.1:9", url_in(tmp_path))
    with pytest.raises(ConfigError, match="the client has its own") as caught:
        CallbackServer(client=client, store="sqlite://")
    assert caught.value.setting == "store"
    assert CallbackServer(client=client, store=client.store).client is client
