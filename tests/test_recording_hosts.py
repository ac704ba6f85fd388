"""Which addresses a recording may be at: against what `ipaddress` and the RFCs say of them."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from qmc_async.recording_address import ForbiddenAddressError, RecordingHosts


@pytest.mark.parametrize(
    "host",
    [
        "8.8.8.8",
        "47.96.1.1",
        "2606:4700:4700::1111",
        "2408:4000::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
def test_public(host: str) -> None:
    """The internet's addresses are allowed, in either version and in what carries them."""
    assert RecordingHosts().allows(host)


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "files.example", "2130706433", "0177.0.0.1", "127.1", "8.8.8", "08.8.8.8",
     "8.8.8.8.", " 8.8.8.8", "８.8.8.8", "8.8.8.8/32", "0x8.8.8.8", "[2606:4700::1]"],
)  # fmt: skip
def test_no_address(host: str) -> None:
    """What has still to be looked up, or is spelt so that readers differ, is not allowed."""
    assert not RecordingHosts(networks=[ipaddress.ip_network("0.0.0.0/0")]).allows(host)


def test_open_socket() -> None:
    """There is a socket for what is allowed, and none for anything else."""
    stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    hosts = RecordingHosts()
    with hosts.open_socket((socket.AF_INET, *stream, ("8.8.8.8", 80))) as opened:
        assert (opened.family, opened.type) == (socket.AF_INET, socket.SOCK_STREAM)
    with hosts.open_socket((socket.AF_INET6, *stream, ("2606:4700::1", 80, 0, 0))) as opened:
        assert opened.family == socket.AF_INET6
    with pytest.raises(ForbiddenAddressError) as caught:
        hosts.open_socket((socket.AF_INET, *stream, ("10.0.0.1", 80)))
    assert caught.value.address == "10.0.0.1"


@pytest.mark.parametrize(
    ("url", "owned"),
    [
        ("http://platform.example:9090/any/path?x", True),
        ("http://PLATFORM.example:9090", True),
        ("HTTP://platform.example:9090", True),
        ("http://platform.example", False),
        ("https://platform.example:9090", False),
        ("http://platform.example.evil:9090", False),
        ("http://evil.platform.example:9090", False),
        ("http://platform.example:9090@evil.example:9090", False),
        ("https://second.example", True),
        ("https://second.example:443", True),
        ("http://second.example:443", False),
        ("http://[::1]:8080/x", True),
        ("http://[0:0::1]:8081/x", False),
    ],
)
@pytest.mark.parametrize("as_it_is", [True, False])
def test_own(url: str, owned: bool, as_it_is: bool) -> None:  # noqa: FBT001 - parameters of the test
    """Scheme, host and port must be a base address's; a port may go without saying."""
    own = ["http://platform.example:9090/prefix", "https://second.example", "http://[::1]:8080"]
    assert RecordingHosts(own).owns(URL(url, encoded=as_it_is)) is owned


# Of `ipaddress`, and of RFC 6890's registry what that has no word for.
SPECIAL = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
]  # fmt: skip
SPECIAL_6 = ["::/128", "::1/128", "100::/64", "2001:db8::/32", "fc00::/7", "fe80::/10", "fec0::/10",
             "ff00::/8", "64:ff9b:1::/48", "2001::/32"]  # fmt: skip

inside_4 = st.sampled_from(SPECIAL).flatmap(lambda network: st.ip_addresses(network=network))
inside_6 = st.sampled_from(SPECIAL_6).flatmap(lambda network: st.ip_addresses(network=network))
numbers = st.integers(0, 2**32 - 1)


def carriers(inner: int, other: int) -> dict[str, int]:
    """The IPv6 addresses whose packets go to an IPv4 address in the end, as numbers."""
    return {
        "mapped (RFC 4291, 2.5.5.2)": 0xFFFF << 32 | inner,
        "compatible (RFC 4291, 2.5.5.1)": inner,
        "6to4 (RFC 3056, 2)": 0x2002 << 112 | inner << 80 | other,
        "NAT64 (RFC 6052, 2.1)": 0x0064FF9B << 96 | inner,
        "Teredo's client (RFC 4380, 4)": 0x20010000 << 96 | other << 64 | inner ^ 0xFFFFFFFF,
        "Teredo's server (RFC 4380, 4)": 0x20010000 << 96 | inner << 64 | other,
    }


@given(inside_4, numbers)
def test_no_address_inside(address: ipaddress.IPv4Address, other: int) -> None:
    """No IPv4 address of a special kind is allowed, whatever carries it and however it is spelt."""
    hosts = RecordingHosts()
    assert not hosts.allows(str(address))
    for kind, number in carriers(int(address), other).items():
        carrier = ipaddress.IPv6Address(number)
        for spelt in (str(carrier), carrier.exploded, str(carrier).upper()):
            assert not hosts.allows(spelt), (kind, spelt)


@given(inside_6)
def test_no_address_inside_6(address: ipaddress.IPv6Address) -> None:
    """No IPv6 address of a special kind is allowed."""
    assert not RecordingHosts().allows(str(address))
    assert not RecordingHosts().allows(address.exploded)


@given(st.ip_addresses())
def test_whatever_is_allowed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Whatever is allowed is the internet's, by every word that `ipaddress` has for it."""
    if RecordingHosts().allows(str(address)):
        kinds = ("private", "loopback", "link_local", "multicast", "reserved", "unspecified")
        is_mapped = address.version == 6 and int(address) >> 32 in {0xFFFF, 0x0064FF9B << 64}
        assert is_mapped or not [kind for kind in kinds if getattr(address, f"is_{kind}")]
        assert not getattr(address, "is_site_local", False)


@given(st.ip_addresses(v=4), numbers, st.integers(0, 32))
def test_networks(address: ipaddress.IPv4Address, other: int, length: int) -> None:
    """What is in an allowed network is allowed, whatever carries it; the rest is as without it."""
    network = ipaddress.ip_network((address, length), strict=False)
    hosts = RecordingHosts(networks=[network])
    assert hosts.allows(str(address))
    inside = carriers(int(address), other)
    for kind in inside:
        if kind.startswith(("mapped", "6to4", "NAT64")):
            assert hosts.allows(str(ipaddress.IPv6Address(inside[kind]))), kind
    outside = ipaddress.IPv4Address(other)
    if outside not in network:
        assert hosts.allows(str(outside)) is RecordingHosts().allows(str(outside))
