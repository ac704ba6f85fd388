"""Who has sent a request: the peer of its connection, or whom a proxy of ours names.

1. A header is believed from a trusted proxy only.
2. It is read from its end. What stands before that was written by whoever likes.
3. The first address from the end that is no trusted proxy's is the sender's; where all of them
   are, it is the first of all.
4. What cannot be read there is nobody's address, and not the next one's.
5. Where there is both ``X-Forwarded-For`` and ``Forwarded`` (RFC 7239), they must agree: a proxy
   writes one of them, and may pass the other on as a stranger wrote it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final, TypeAlias

from attrs import frozen

from qmc_async import settings
from qmc_async.settings import Network

__all__ = ["Address", "Network", "Proxies", "Values", "is_in", "read_address", "read_networks"]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

Values: TypeAlias = Callable[[str], Sequence[str]]
"""The values of all headers of a name, in their order."""

_SOCKET: Final = "unix"
_MOST_HOPS: Final = 50  # proxies of ours in a row
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_PORT: Final = re.compile(r"(?::[0-9]{1,5})?", re.ASCII)
# One pair, and what ends it. A value without quotes need not be a token: `for=$remote_addr` of an
# IPv6 peer is none, and is common.
_PAIR: Final = re.compile(
    r"""[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^",; \t]*))?[ \t]*([;,]|$)"""
)


def read_address(text: str) -> Address | None:
    """An address, None where it is none; what IPv6 only carries is IPv4 (RFC 4291, 2.5.5.2)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def read_networks(value: str | Iterable[str | Network]) -> tuple[Network, ...]:
    """The same as `settings.read_networks`; what IPv6 only carries is IPv4 here as well."""
    return tuple(_unmapped(network) for network in settings.read_networks(value))


def _unmapped(network: Network) -> Network:
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        inner = int(network.network_address) & 0xFFFFFFFF
        return ipaddress.IPv4Network((inner, network.prefixlen - _MAPPED.prefixlen))
    return network


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of the networks has it."""
    return any(address in network for network in networks)


@frozen
class Proxies:
    """The proxies whose word is taken.

    Attributes:
        networks: where they are.
        by_socket: whether who comes by a Unix socket is one.
    """

    networks: tuple[Network, ...] = ()
    by_socket: bool = False

    @classmethod
    def read(cls, value: str | Iterable[str | Network]) -> Proxies:
        """Networks and addresses as `read_networks` takes them, and ``unix``.

        Raises:
            ValueError: one of them is none.
        """
        given = [
            str(each).strip() for each in (value.split(",") if isinstance(value, str) else value)
        ]
        return cls(read_networks(each for each in given if each != _SOCKET), _SOCKET in given)

    def sender(self, peer: str | None, values: Values) -> Address | None:
        """Whose request it is, None where nobody can tell.

        Args:
            peer: the address of the connection's other end; None or empty for a Unix socket.
            values: of the request's headers.
        """
        address = read_address(peer) if peer else None
        if not self.by_socket if not peer else address is None or not is_in(address, self.networks):
            return address
        named = [
            self._first_stranger(hop for line in reversed(lines) for hop in hops_in(line))
            for lines, hops_in in (
                (values("X-Forwarded-For"), _hops_in),
                (values("Forwarded"), _hops_of),
            )
            if lines
        ]
        if not named:
            return address
        return named[0] if named[0] == named[-1] else None

    def _first_stranger(self, hops: Iterable[Address | None]) -> Address | None:
        last = None
        for hop in islice(hops, _MOST_HOPS):
            if hop is None or not is_in(hop, self.networks):
                return hop
            last = hop
        return last


def _hops_in(line: str) -> Iterable[Address | None]:
    """The addresses of one ``X-Forwarded-For`` line, from its end, read as they are wanted."""
    return map(_hop, reversed(line.split(",")))


def _hop(text: str) -> Address | None:
    """One address, maybe with a port."""
    text = text.strip(" \t")
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        port = port if closed else text  # which is no port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = f":{port}"
    else:
        host, port = text, ""
    return read_address(host) if _PORT.fullmatch(port) else None


def _hops_of(line: str) -> list[Address | None]:
    """The ``for`` of each element of one ``Forwarded`` line, from its end.

    One that is malformed anywhere names nobody.
    """
    hops: list[Address | None] = []
    hop: Address | None = None
    at = 0
    while True:
        pair = _PAIR.match(line, at)
        if pair is None:
            return [None]
        name, value, end = pair.groups()
        if name is not None and name.lower() == "for":
            hop = _hop(re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value)
        if end != ";":
            hops.append(hop)
            hop = None
        if not end:
            return hops[::-1]
        at = pair.end()
