"""Where a recording may be fetched from: its URL comes from outside, and must not lead inside.

The check stands where a connection's socket is made. There is no way round it: neither by a name
that resolves to one address now and to another one later, nor by a redirect, nor by an address
that is spelt so that one library reads it otherwise than the next.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmc_async.settings import Network

__all__ = ["AddressInfo", "ForbiddenAddressError", "RecordingHosts"]

AddressInfo: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` has them."""

# All that is given to hosts of the internet; `is_global` takes the unassigned rest for global too.
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# Protocol assignments, and documentation (RFC 6890, 9637).
_NOT_PUBLIC: Final = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("3fff::/20"))
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")


class ForbiddenAddressError(PermissionError):
    """A recording has no business to be there; no connection was made.

    Attributes:
        address: without the port.
    """

    def __init__(self, address: str) -> None:
        # One text for all: of a name's addresses aiohttp keeps the error only if all say the same.
        super().__init__("this address is not allowed")
        self.address = address


class RecordingHosts:
    """The addresses that recordings may be fetched from.

    Args:
        own: the platform's base addresses. Their hosts, by their schemes and ports, are allowed
            whatever they resolve to: it was our side that named them.
        networks: allowed besides the internet's public addresses.
    """

    def __init__(self, own: Iterable[str] = (), networks: Iterable[Network] = ()) -> None:
        self._own = {_origin(URL(address)) for address in own}
        self._networks = tuple(networks)

    def owns(self, url: URL) -> bool:
        """Whether the address is on one of the platform's own hosts."""
        return _origin(url) in self._own

    def open_socket(self, addr_info: AddressInfo) -> socket.socket:
        """The socket of a connection to be; aiohttp calls it for each address that it tries.

        Raises:
            ForbiddenAddressError: no recording may be there.
        """
        family, kind, protocol, _, where = addr_info
        host = str(where[0])
        if not self.allows(host):
            raise ForbiddenAddressError(host)
        return socket.socket(family, kind, protocol)

    def allows(self, host: str) -> bool:
        """Whether a connection may be made to this address: four numbers, or IPv6."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:  # then asyncio would look it up, and nobody would check what it finds
            return False
        # The address that the packets go to in the end.
        inner = _inner(address) if isinstance(address, ipaddress.IPv6Address) else address
        if any(address in network or inner in network for network in self._networks):
            return True
        return _is_public(inner)


def _origin(url: URL) -> tuple[str, str, int | None]:
    # Not `url.origin()`: there a port that is the scheme's own makes a difference.
    return url.scheme, (url.raw_host or "").lower(), url.port


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 address stands for, or the address itself."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _UNICAST or address in _TEREDO
    ):
        return False
    # Some groups and some reserved addresses count as global, and to older versions of Python more.
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _NOT_PUBLIC)
    )
