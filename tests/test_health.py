"""`/healthz` and `/readyz`: what a load balancer is told."""

from __future__ import annotations

import asyncio
import errno
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from callback_peer import (
    NUMBERS,
    SIGNER,
    TOKEN,
    Reply,
    Store,
    alone,
    body_of,
    port_of,
    post_to,
    request_bytes,
    until,
    url_in,
)
from callback_shells import attached

from qmc_async import CallbackServer, ConfigError
from qmc_async.callback.health import health_reply

if TYPE_CHECKING:
    from pathlib import Path

HEALTHZ = request_bytes(method="GET", target="/healthz")
READYZ = request_bytes(method="GET", target="/readyz")


async def test_a_server_that_is_well() -> None:
    """It lives and is ready; the answers are JSON, and need no token."""
    async with alone(signer=SIGNER) as there:
        alive, ready = await there.send(HEALTHZ), await there.send(READYZ)
        assert there.server.problems == {}
    assert (alive.status, alive.body) == (200, b'{"alive":true}')
    assert (ready.status, ready.body) == (200, b'{"ready":true,"problems":[]}')
    for reply in (alive, ready):
        assert reply.headers["Content-Type"] == "application/json;charset=utf-8"
        assert TOKEN.encode() not in reply.whole


@pytest.mark.parametrize("target", ["/healthz?verbose=1", "/readyz?", "/readyz?a=/healthz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_however_it_is_asked(target: str, method: str) -> None:
    """A query changes nothing, and HEAD is answered as HTTP wants it."""
    async with alone() as there:
        reply = await there.send(request_bytes(method=method, target=target))
    assert reply.status == 200
    assert bool(reply.body) is (method == "GET")


@pytest.mark.parametrize("target", ["/healthz/", "/readyz/x", "/Healthz", "//readyz", "/x/healthz"])
async def test_any_other_address(target: str) -> None:
    """Only the two addresses are answered."""
    async with alone(signer=SIGNER) as there:
        assert (await there.send(request_bytes(method="GET", target=target))).status == 404


async def test_in_an_application() -> None:
    """An application tells of its own health; `problems` is there for it."""
    async with attached() as there:
        assert (await there.send(HEALTHZ)).status == 404
        assert (await there.send(READYZ)).status == 404
        assert there.server.problems == {}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz/"])
def test_the_addresses_are_taken(path: str) -> None:
    """Notifications posted there would be answered and lost: such a path is refused at once."""
    with pytest.raises(ConfigError, match=r"^path: ") as caught:
        CallbackServer(path=path)
    assert caught.value.setting == "path"
    assert CallbackServer(path=path, signer=SIGNER).url.endswith(TOKEN)


async def test_a_store_that_is_away(tmp_path: Path) -> None:
    """The spool takes notifications meanwhile: still ready, and the problem is named."""
    store = Store(url_in(tmp_path), patience=0.1)
    async with CallbackServer(port=0, store=store) as server:
        with closing(sqlite3.connect(tmp_path / "qmc.db", isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            assert (await post_to(server, body_of(caller=NUMBERS[0]))).status == 200
            ready = await _ask(server, READYZ)
            assert list(server.problems) == ["store"]
            blocker.execute("ROLLBACK")
        assert (ready.status, ready.body) == (200, b'{"ready":true,"problems":["store"]}')
        await until(lambda: not server.problems)
        assert json.loads((await _ask(server, READYZ)).body) == {"ready": True, "problems": []}


def _full(_: int) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


async def test_nowhere_to_keep_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the spool takes them, it is not ready, and still alive."""
    store = Store(url_in(tmp_path), patience=0.1)
    async with CallbackServer(port=0, store=store) as server:
        with closing(sqlite3.connect(tmp_path / "qmc.db", isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            monkeypatch.setattr("os.fsync", _full)
            assert (await post_to(server, body_of())).status == 500
            ready, alive = await _ask(server, READYZ), await _ask(server, HEALTHZ)
            monkeypatch.undo()
            blocker.execute("ROLLBACK")
    assert ready.status == 503
    assert json.loads(ready.body) == {"ready": False, "problems": ["store", "spool"]}
    assert alive.status == 200


async def test_a_store_that_was_broken(tmp_path: Path) -> None:
    """A file that was set aside is somebody's to look at: not ready, though all goes on."""
    async with CallbackServer(port=0, store=url_in(tmp_path)):
        pass
    with (tmp_path / "qmc.db").open("r+b") as file:
        file.seek(100)  # behind the head, by which the file is known to be ours
        file.write(b"\xff" * 8000)
    async with CallbackServer(port=0, store=url_in(tmp_path)) as server:
        ready = await _ask(server, READYZ)
        assert (await post_to(server, body_of())).status == 200
        assert "corrupt" in server.problems["set_aside"]
    assert ready.status == 503
    assert json.loads(ready.body) == {"ready": False, "problems": ["set_aside"]}
    assert b"corrupt" not in ready.whole  # strangers learn no path


async def test_a_server_that_does_not_run() -> None:
    """Before the start and after the stop it says so."""
    server = CallbackServer(port=0)
    assert set(server.problems) == {"stopped"}
    async with server:
        assert server.problems == {}
    assert set(server.problems) == {"stopped"}


@pytest.mark.parametrize(
    ("problems", "status"),
    [({}, 200), ({"store": "x"}, 200), ({"spool": "x"}, 503), ({"stopped": "x"}, 503)],
)
def test_readiness(problems: dict[str, str], status: int) -> None:
    """Each problem but a store that is away takes the server out of the balancer's list."""
    reply = health_reply("/readyz", lambda: problems)
    assert reply is not None
    assert reply.status == status
    assert json.loads(reply.body)["problems"] == list(problems)
    alive = health_reply("/healthz", lambda: problems)
    assert alive is not None
    assert alive.status == 200
    assert health_reply("/", lambda: problems) is None


async def _ask(server: CallbackServer, data: bytes) -> Reply:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    try:
        async with asyncio.timeout(20):
            writer.write(data)
            return Reply(await reader.read())
    finally:
        writer.close()
        await writer.wait_closed()
