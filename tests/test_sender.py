"""Who has sent a request: peers, proxies, and what strangers write into headers."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qmc_async.callback.sender import Proxies, read_address, read_networks

PROXIES = Proxies.read("10.0.0.0/8, fd00::/8")
PEER = "10.0.0.1"
STRANGER = ipaddress.ip_address("203.0.113.9")


def sender(
    peer: str | None,
    forwarded_for: str | list[str] = (),  # type: ignore[assignment] # pyright: ignore[reportArgumentType] - none
    forwarded: str | list[str] = (),  # type: ignore[assignment] # pyright: ignore[reportArgumentType] - none
    proxies: Proxies = PROXIES,
) -> str | None:
    """Who it is, as a text."""
    headers = {
        name: [value] if isinstance(value, str) else value
        for name, value in (("X-Forwarded-For", forwarded_for), ("Forwarded", forwarded))
    }
    found = proxies.sender(peer, lambda name: headers[name])
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        # A peer that is no proxy of ours speaks for itself.
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("::ffff:203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("2001:db8::1", "198.51.100.1", "2001:db8::1"),
        ("fe80::1%eth0", "198.51.100.1", "fe80::1%eth0"),
        ("testclient", "198.51.100.1", None),
        # One that is names who came to it.
        (PEER, [], PEER),
        (PEER, "203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("fd00::1", "203.0.113.9", "203.0.113.9"),
        (PEER, "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (PEER, "198.51.100.1,203.0.113.9,10.0.0.3 ,\t10.0.0.2", "203.0.113.9"),
        (PEER, ["198.51.100.1", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        (PEER, "10.0.0.4, 10.0.0.3", "10.0.0.4"),
        # With a port, in IPv6, and both.
        (PEER, "203.0.113.9:54321", "203.0.113.9"),
        (PEER, "2001:db8::1", "2001:db8::1"),
        (PEER, "[2001:db8::1]", "2001:db8::1"),
        (PEER, "[2001:db8::1]:54321", "2001:db8::1"),
        (PEER, "::ffff:203.0.113.9", "203.0.113.9"),
        (PEER, "[::ffff:203.0.113.9]:1", "203.0.113.9"),
        (PEER, "198.51.100.1, ::ffff:10.0.0.2", "198.51.100.1"),
        # What cannot be read is nobody's address, wherever it is reached.
        (PEER, "", None),
        (PEER, "203.0.113.9,", None),
        (PEER, "203.0.113.9, , 10.0.0.2", None),
        (PEER, "203.0.113.9, unknown", None),
        (PEER, "203.0.113.9, localhost", None),
        (PEER, "203.0.113.9:http", None),
        (PEER, "203.0.113.9:123456", None),
        (PEER, "[2001:db8::1", None),
        (PEER, "[2001:db8::1]x", None),
        (PEER, "[[2001:db8::1]]", None),
        (PEER, "203.0.113.09", None),
        (PEER, "203.0.113", None),
        (PEER, "3405803785", None),
        (PEER, "0xcb007109", None),
        (PEER, "203.0.113.9/32", None),
        (PEER, "203.0.113.9 198.51.100.1", None),
        (PEER, "203.0.113.９", None),
        (PEER, '"203.0.113.9"', None),
        (PEER, "203.0.113.9\x00", None),
        # And is not reached behind a stranger.
        (PEER, "garbage, 203.0.113.9", "203.0.113.9"),
        (PEER, "'; DROP TABLE, , 203.0.113.9, 10.0.0.2", "203.0.113.9"),
    ],
)
def test_x_forwarded_for(peer: str, forwarded_for: str | list[str], expected: str | None) -> None:
    """Read from its end, by the addresses of proxies that are trusted."""
    assert sender(peer, forwarded_for) == expected


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ("For=203.0.113.9;proto=https;by=10.0.0.1", "203.0.113.9"),
        ("proto=https ; for=203.0.113.9", "203.0.113.9"),
        ('for="203.0.113.9:54321"', "203.0.113.9"),
        ('for="[2001:db8::1]"', "2001:db8::1"),
        ('for="[2001:db8::1]:54321"', "2001:db8::1"),
        ("for=203.0.113.9;;", "203.0.113.9"),  # pairs may be left out
        ("for=2001:db8::1", "2001:db8::1"),  # no token, but what proxies are told to write
        ('for="\\2\\03.0.113.9"', "203.0.113.9"),
        ("for=198.51.100.1, for=203.0.113.9", "203.0.113.9"),
        ("for=198.51.100.1,for=203.0.113.9, for=10.0.0.2", "203.0.113.9"),
        (["for=198.51.100.1", "for=203.0.113.9"], "203.0.113.9"),
        ('for="a, for=198.51.100.1", for=203.0.113.9', "203.0.113.9"),
        ("for=unknown, for=203.0.113.9", "203.0.113.9"),
        (['for="never closed', "for=203.0.113.9"], "203.0.113.9"),
        # Nobody's.
        ("", None),
        ("for=", None),
        ("for=unknown", None),
        ("for=_gazonk", None),
        ('for="_gazonk"', None),
        ("proto=https", None),
        ("by=203.0.113.9", None),
        ("for=203.0.113.9, proto=https", None),
        ("for=203.0.113.9,", None),
        ("203.0.113.9", None),
        ("for 203.0.113.9", None),
        ("for=203.0.113.9 198.51.100.1", None),
        ('for="203.0.113.9', None),
        ('for="203.0.113.9"x', None),
        # A stranger's quote does not swallow what our proxy has appended.
        ('for=198.51.100.1;by=", for=203.0.113.9', None),
        ('for=198.51.100.1;by=", for="[2001:db8::1]"', None),
        ('for=198.51.100.1;by="\\, for="[2001:db8::1]"', None),
    ],
)
def test_forwarded(forwarded: str | list[str], expected: str | None) -> None:
    """RFC 7239, from its end; a line that is malformed anywhere names nobody."""
    assert sender(PEER, forwarded=forwarded) == expected
    assert sender("198.51.100.7", forwarded=forwarded) == "198.51.100.7"


def test_more_proxies_than_there_are() -> None:
    """Only so many hops are looked at, and none behind the first stranger."""
    assert sender(PEER, ", ".join([str(STRANGER), *["10.0.0.2"] * 49])) == str(STRANGER)
    assert sender(PEER, ", ".join([str(STRANGER), *["10.0.0.2"] * 50])) == "10.0.0.2"
    read: list[str] = []

    def note(text: str) -> Any:  # noqa: ANN401 - an address or none
        read.append(text)
        return read_address(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qmc_async.callback.sender.read_address", note)
        assert sender(PEER, f"{'1,' * 30_000}{STRANGER}, 10.0.0.2") == str(STRANGER)
    assert read == [PEER, "10.0.0.2", str(STRANGER)]


def test_both_headers() -> None:
    """A proxy writes one of them, and may pass a stranger's other one on: they must agree."""
    assert sender(PEER, "203.0.113.9", "for=203.0.113.9") == "203.0.113.9"
    assert sender(PEER, "203.0.113.9", "for=198.51.100.1") is None
    assert sender(PEER, "203.0.113.9", "nonsense") is None
    assert sender(PEER, "nonsense", "for=203.0.113.9") is None


def test_a_unix_socket() -> None:
    """Who comes by one is a proxy where that is said, and nobody else."""
    by_socket = Proxies.read(["unix", "10.0.0.0/8"])
    for peer in ("", None):
        assert sender(peer, "203.0.113.9") is None
        assert sender(peer, "203.0.113.9, 10.0.0.2", proxies=by_socket) == "203.0.113.9"
        assert sender(peer, proxies=by_socket) is None
    assert sender("203.0.113.9", "198.51.100.1", proxies=by_socket) == "203.0.113.9"


def test_nobody_is_trusted() -> None:
    """Without proxies no header counts."""
    assert sender(PEER, "203.0.113.9", "for=203.0.113.9", Proxies()) == PEER


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("203.0.113.0/24", ["203.0.113.0/24"]),
        (" 203.0.113.9 ,, ::1 ", ["203.0.113.9/32", "::1/128"]),
        (["203.0.113.9", ipaddress.ip_network("::/0")], ["203.0.113.9/32", "::/0"]),
        ("::ffff:203.0.113.0/120", ["203.0.113.0/24"]),
        ("::ffff:0:0/96", ["0.0.0.0/0"]),
        ("::/64", ["::/64"]),
        ("", []),
    ],
)
def test_networks(value: Any, expected: list[str]) -> None:  # noqa: ANN401 - both forms
    """With commas or as a list; what IPv6 only carries is IPv4."""
    assert [str(network) for network in read_networks(value)] == expected


@given(st.text(max_size=60), st.text(max_size=60))
@example("203.0.113.9", 'for="')
def test_what_a_stranger_writes_does_not_matter(before: str, quoted: str) -> None:
    """Whatever stands before what our proxy appends, the sender is the appended one, or nobody."""
    assert sender(PEER, f"{before}, {STRANGER}") == str(STRANGER)
    assert sender(PEER, [before, str(STRANGER)]) == str(STRANGER)
    assert sender(PEER, forwarded=[quoted, f"for={STRANGER}"]) == str(STRANGER)
    assert sender(PEER, forwarded=f"{quoted}, for={STRANGER}") in (str(STRANGER), None)
    found = sender(PEER, forwarded=f'{quoted}, for="[2001:db8::1]:80"')
    assert found in ("2001:db8::1", None)


@given(st.text(max_size=40))
def test_any_address(text: str) -> None:
    """An address is what the standard library takes for one."""
    found = read_address(text)
    try:
        expected = ipaddress.ip_address(text)
    except ValueError:
        assert found is None
    else:
        assert found in (expected, getattr(expected, "ipv4_mapped", None))
