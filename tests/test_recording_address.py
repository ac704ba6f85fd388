"""A recording's URL comes from outside: it leads to the internet, and nowhere inside."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from faulty_platform import APP_ID, SECRET, FaultyPlatform, always, connect, http, in_turn
from recording_host import AUDIO, AUDIO_REPLY, LOOPBACK, PATH, at, left_in

from qmc_async.client import AsyncQmcClient
from qmc_async.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

SPELT = [
    "127.0.0.1",
    "127.8.9.10",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "127.1",
    "0.0.0.0",  # noqa: S104 - the machine itself, for who connects
    "0",
    "[::]",
]
"""Loopback, as the system's own `connect` takes it."""

INSIDE = [
    "192.0.0.8",
    "[3fff::1]",
    "[2002:c000:8::1]",
    "169.254.169.254",  # where clouds give out credentials
    "100.100.100.200",  # the same, of the cloud that is near the platform
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[fe80::1]",
    "[fd00::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[::ffff:10.0.0.1]",
    "[64:ff9b::a00:1]",
    "[2002:a00:1::1]",
    "[2001:0:a00:1::1]",
    "[::a00:1]",
]


NOBODY = "http://127.0.0.1:9"


class Listener:
    """Counts who connects to a port of this machine, by whichever address, and lets them wait."""

    def __init__(self) -> None:
        self._socket = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100
        )
        self._socket.setblocking(False)  # noqa: FBT003 - its only argument
        self.port: int = self._socket.getsockname()[1]
        self._accepted: list[socket.socket] = []

    def connections(self) -> int:
        """How many there have been."""
        while True:
            try:
                self._accepted.append(self._socket.accept()[0])
            except BlockingIOError:
                return len(self._accepted)

    def close(self) -> None:
        """Close all of it."""
        for each in (self._socket, *self._accepted):
            each.close()


@pytest.fixture
def listener() -> Generator[Listener]:
    """One that listens while the test runs."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    listening = Listener()
    yield listening
    listening.close()


async def refused(client: AsyncQmcClient, url: str, folder: Path) -> RecordingError:
    """What is raised where a recording is at this address, or is led to it."""
    with pytest.raises(RecordingError) as caught:
        await client.download(at("", path=url), folder)
    assert left_in(folder) == []
    assert caught.value.__context__ is None
    return caught.value


# --- On the wire --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", SPELT)
async def test_loopback(host: str, listener: Listener, tmp_path: Path) -> None:
    """However loopback is spelt, and also by a redirect, nobody connects to it."""
    try:
        with socket.create_connection((host.strip("[]"), listener.port), timeout=5):
            assert listener.connections() == 1  # it is there
    except socket.gaierror:
        pytest.skip("this machine does not know the name")
    inside = f"http://{host}:{listener.port}{PATH}"
    redirect = always(http(b"", "302 Found", f"Location: {inside}\r\n"))
    async with (
        FaultyPlatform(redirect) as platform,
        connect(platform.url, timeout=2, max_retries=0) as client,
    ):
        for url in (inside, platform.url):
            error = await refused(client, url, tmp_path)
            assert "rec-token" not in str(error)
            # aiohttp does not take all spellings for an address.
            assert ("QMC_RECORDING_NETWORKS" in str(error)) is not error.temporary
            assert error.temporary is ("no address of the web" in str(error))
        assert len(platform.requests) == 1
    assert listener.connections() == 1


@pytest.mark.parametrize("host", INSIDE)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_inside(scheme: str, host: str, tmp_path: Path) -> None:
    """What is within a network is refused for what it is, and not asked for again."""
    inside = f"{scheme}://{host}{PATH}"
    redirect = always(http(b"", "302 Found", f"Location: {inside}\r\n"))
    async with (
        FaultyPlatform(redirect) as platform,
        connect(platform.url, max_retries=5) as client,
    ):
        for url in (inside, platform.url):
            error = await refused(client, url, tmp_path)
            assert f"leads to {host.strip('[]')}, where no recording belongs" in str(error)
            assert not error.temporary
        assert len(platform.requests) == 1


async def test_not_waited_for(tmp_path: Path) -> None:
    """An address that is not allowed will not be later: `wait=` does not help it."""
    async with (
        FaultyPlatform(always(AUDIO_REPLY)) as files,
        connect(NOBODY) as client,
    ):
        with pytest.raises(RecordingError, match="no recording belongs"):
            await client.download(at(files.url), tmp_path, wait=50)
        assert files.connections == 0


@pytest.mark.parametrize("networks", [["127.0.0.0/8"], ["10.0.0.0/8", "127.0.0.1/32"]])
async def test_allowed(networks: list[str], tmp_path: Path) -> None:
    """What `recording_networks` has is fetched, also by a redirect."""
    async with (
        FaultyPlatform(
            in_turn(http(b"", "302 Found", "Location: /2.wav\r\n"), AUDIO_REPLY)
        ) as files,
        connect(NOBODY, recording_networks=networks) as client,
    ):
        saved = await client.download(at(files.url), tmp_path)
    assert saved.path.read_bytes() == AUDIO


async def test_allowed_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable reaches the connections."""
    monkeypatch.setenv("QMC_RECORDING_NETWORKS", "10.0.0.0/8,127.0.0.0/8")
    async with (
        FaultyPlatform(always(AUDIO_REPLY)) as files,
        AsyncQmcClient(APP_ID, SECRET) as client,
    ):
        saved = await client.download(at(files.url), tmp_path)
    assert saved.path.read_bytes() == AUDIO


@pytest.mark.parametrize("other", ["127.0.0.2", "[::1]"])
async def test_allowed_is_no_more_than_that(other: str, listener: Listener, tmp_path: Path) -> None:
    """An allowed host leads to no other one."""
    redirect = http(b"", "302 Found", f"Location: http://{other}:{listener.port}/\r\n")
    async with (
        FaultyPlatform(always(redirect)) as files,
        connect(NOBODY, recording_networks=["127.0.0.1/32", "::2/128"]) as client,
    ):
        await refused(client, files.url + PATH, tmp_path)
    assert listener.connections() == 0


@pytest.mark.parametrize("which", ["base_url", "record_base_url"])
async def test_the_platforms_own_host(which: str, tmp_path: Path) -> None:
    """Our side named it: recordings may be there, and anybody may lead to it."""
    async with FaultyPlatform(always(AUDIO_REPLY)) as own:
        redirect = http(b"", "302 Found", f"Location: {own.url}/2.wav\r\n")
        options: dict[str, Any] = dict.fromkeys(("base_url", "record_base_url"), NOBODY)
        options[which] = own.url + "/prefix"
        async with (
            FaultyPlatform(always(redirect)) as first,
            AsyncQmcClient(APP_ID, SECRET, **options) as client,
            AsyncQmcClient(APP_ID, SECRET, **options, recording_networks=LOOPBACK) as wider,
        ):
            saved = await client.download(at(own.url), tmp_path)
            assert saved.path.read_bytes() == AUDIO
            saved = await wider.download(at(first.url), tmp_path)
            assert saved.path.read_bytes() == AUDIO
            with pytest.raises(RecordingError, match="no recording belongs"):
                await client.download(at(first.url), tmp_path)  # another port
            assert first.connections == 1


async def test_a_name(listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of the internet's that resolves to addresses inside leads to none of them."""
    found = {
        "mixed.example": ["127.0.0.1", "10.0.0.1", "::1"],
        "metadata.example": ["169.254.169.254"],
    }
    real = socket.getaddrinfo

    def resolve(host: str, *args: Any, **kwargs: Any) -> list[Any]:  # noqa: ANN401 - what it takes
        return [info for name in found.get(host, [host]) for info in real(name, *args, **kwargs)]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    async with connect(NOBODY, max_retries=0, timeout=2) as client:
        for name in found:
            error = await refused(client, f"http://{name}:{listener.port}/1.wav", tmp_path)
            assert "where no recording belongs" in str(error)
    assert listener.connections() == 0


async def test_a_name_of_which_one_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name's addresses only those are tried that are allowed."""
    real = socket.getaddrinfo

    def resolve(host: str, *args: Any, **kwargs: Any) -> list[Any]:  # noqa: ANN401 - what it takes
        names = ["127.0.0.2", "127.0.0.1"] if host == "two.example" else [host]
        return [info for name in names for info in real(name, *args, **kwargs)]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    async with (
        FaultyPlatform(always(AUDIO_REPLY)) as files,
        connect(NOBODY, recording_networks=["127.0.0.1/32"]) as client,
    ):
        url = files.url.replace("127.0.0.1", "two.example")
        saved = await client.download(at(url), tmp_path)
    assert saved.path.read_bytes() == AUDIO


async def test_environment_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy is between us and the host, who would ask it for us, nor is a password sent."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login planted password planted\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with (
        FaultyPlatform(always(http(b"", "502 Proxy"))) as proxy,
        FaultyPlatform(always(AUDIO_REPLY)) as files,
        connect(NOBODY, recording_networks=LOOPBACK) as client,
    ):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        await client.download(at(files.url), tmp_path)
    assert (len(files.requests), proxy.connections) == (1, 0)
    assert "authorization" not in files.seen[0].headers
