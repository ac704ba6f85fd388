"""The address that is entered on the platform's console."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from callback_peer import SIGNER, SUCCESS, TOKEN, alone, body_of, port_of
from callback_shells import an_application

from qmc_async import (
    AsyncQmcClient,
    CallbackServer,
    ConfigError,
    Credentials,
    Signer,
)


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "http://127.0.0.1:8080/qmc/callback"),
        ({"port": 9000, "path": "/in"}, "http://127.0.0.1:9000/in"),
        ({"host": "crm.local", "path": "/in/"}, "http://crm.local:8080/in"),
        ({"host": "::1"}, "http://[::1]:8080/qmc/callback"),
        ({"path": "/"}, "http://127.0.0.1:8080/"),
        ({"path": "/", "signer": SIGNER}, f"http://127.0.0.1:8080/{TOKEN}"),
        ({"signer": SIGNER}, f"http://127.0.0.1:8080/qmc/callback/{TOKEN}"),
        ({"path": "/in/", "signer": SIGNER}, f"http://127.0.0.1:8080/in/{TOKEN}"),
        (
            {"public_url": "https://crm.example.com", "signer": SIGNER, "host": "0.0.0.0"},  # noqa: S104 - never started
            f"https://crm.example.com/qmc/callback/{TOKEN}",
        ),
        (
            {"public_url": "http://crm.example.com:81/prefix/", "path": "/in", "port": 0},
            "http://crm.example.com:81/prefix/in",
        ),
        ({"public_url": "https://crm.example.com/", "path": "/"}, "https://crm.example.com/"),
    ],
)
def test_url(options: dict[str, Any], url: str) -> None:
    """The whole address to enter on the console: the outside's view, with path and token."""
    assert CallbackServer(**options).url == url


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("signer", [None, SIGNER])
@pytest.mark.parametrize("path", ["/", "/qmc/callback", "/a-b/c_d.e~f/", "//x", "/a/b:c@d"])
async def test_what_is_posted_to_the_url_arrives(
    host: str, signer: Signer | None, path: str
) -> None:
    """The address that `url` tells is the address that is listened on."""
    async with (
        alone(host=host, signer=signer, path=path) as there,
        aiohttp.ClientSession() as session,
        session.post(there.server.url, data=body_of()) as reply,
    ):
        assert await reply.read() == SUCCESS


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])  # noqa: S104 - never started
def test_url_of_every_address(host: str) -> None:
    """Who listens everywhere must say how it is reached."""
    with pytest.raises(RuntimeError, match="public_url="):
        _ = CallbackServer(host=host).url


async def test_url_before_the_port_is_known() -> None:
    """A free port is known once it is open."""
    server = CallbackServer(port=0)
    with pytest.raises(RuntimeError, match="before the server has started"):
        _ = server.url
    async with server:
        assert server.url == f"http://127.0.0.1:{port_of(server)}/qmc/callback"


async def test_url_in_an_application() -> None:
    """The port is the application's: a guess at it would lose every notification."""
    server = CallbackServer()
    server.attach(an_application())
    with pytest.raises(RuntimeError, match="public_url="):
        _ = server.url
    server = CallbackServer(public_url="https://crm.example.com", signer=SIGNER)
    server.attach(an_application())
    assert server.url == f"https://crm.example.com/qmc/callback/{TOKEN}"


@pytest.mark.parametrize(
    "path",
    [
        *("", "qmc", "/a/./b", "/../a", "/a|b", "/a^b", "/a\\b", "/a<b>", " /qmc"),
        *("/a b", "/a?b", "/a#b", "/a%20b", "/{a}", "/a}", "/回呼", "/a\n", "/\x00"),
    ],
)
def test_a_path_that_is_none(path: str) -> None:
    """A path that HTTP or a router would read in another way is refused at once."""
    with pytest.raises(ConfigError, match=r"^path: ") as caught:
        CallbackServer(path=path)
    assert caught.value.setting == "path"


@pytest.mark.parametrize(
    "public_url",
    [
        "",
        "crm.example.com",
        "//crm.example.com",
        "ftp://crm.example.com",
        "https://crm.example.com?a=1",
        "https://crm.example.com#a",
        "https://crm.example.com\n",
        " https://crm.example.com",
        "https://crm example.com",
        "https://",
        "https:///x",
        "https://u:p@crm.example.com",
        "https://crm.example.com:0",
        "https://1.2.3.256",
        "https://crm..example.com",
        "https://[::1",
    ],
)
def test_a_public_url_that_is_none(public_url: str) -> None:
    """An address that nothing could be posted to is refused at once."""
    with pytest.raises(ConfigError, match=r"^public_url: ") as caught:
        CallbackServer(public_url=public_url)
    assert caught.value.setting == "public_url"


@pytest.mark.parametrize("port", [-1, 65536, True])
def test_a_port_that_is_none(port: int) -> None:
    """A port that nobody could listen on is refused at once."""
    with pytest.raises(ConfigError, match=r"^port: ") as caught:
        CallbackServer(port=port)
    assert caught.value.setting == "port"


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_shutdown_timeout_that_is_none(seconds: float) -> None:
    """A stop that never ends, or is over before it begins, is refused at once."""
    with pytest.raises(ConfigError, match=r"^shutdown_timeout: ") as caught:
        CallbackServer(shutdown_timeout=seconds)
    assert caught.value.setting == "shutdown_timeout"


async def test_what_it_was_given() -> None:
    """A server says whose notifications it takes, and where they are kept."""
    client = AsyncQmcClient(1, "secret", store="sqlite://")
    server = CallbackServer(client=client)
    assert (server.client, server.signer, server.store) == (client, client.signer, client.store)
    other = Signer(Credentials(2, "other"))
    assert CallbackServer(client=client, signer=other).signer is other
    assert CallbackServer().signer is None
    assert CallbackServer().store is not CallbackServer().store
    await client.aclose()


async def test_refusals_are_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong address on the platform's console shows in the log, and cannot fill it."""
    async with alone(signer=SIGNER) as there:
        for _ in range(3):
            assert (await there.post(body_of(), target="/qmc/callback/old")).status == 404
    [record] = [record for record in caplog.records if "refused" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert "HTTP 404" in record.getMessage()
    assert "old" not in record.getMessage()
