"""Who has sent a request, through a real nginx and past it, in each shell."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import SIGNER, Reply, alone, body_of, path_of, request_bytes
from callback_shells import shells
from nginx_proxy import nginx
from server_process import find_program

if TYPE_CHECKING:
    from pathlib import Path

GOOD = "127.0.0.5"
"""The platform, as far as the server knows."""
BAD = "127.0.0.6"
PROXY = "127.0.0.7"
with_nginx = pytest.mark.skipif(
    find_program("nginx") is None, reason="nginx is not installed (Debian's package is nginx)"
)
GUARD = {"signer": SIGNER, "allowed_senders": f"{GOOD}, ::1", "trusted_proxies": PROXY}

APPENDS = ("X-Forwarded-For $proxy_add_x_forwarded_for",)
WRITES = ("X-Forwarded-For $remote_addr", 'Forwarded ""')
PORT = ("X-Forwarded-For $remote_addr:$remote_port",)
RFC = ('Forwarded "for=$remote_addr;proto=$scheme"', 'X-Forwarded-For ""')
RFC_APPENDS = ('Forwarded "$http_forwarded, for=$remote_addr"', 'X-Forwarded-For ""')
QUOTED = ('Forwarded "for=\\"[$remote_addr]:$remote_port\\""', 'X-Forwarded-For ""')
NOTHING = ('X-Forwarded-For ""', 'Forwarded ""')
IGNORANT = ("Via nginx",)
"""It passes on what it gets: the user was told that it must not."""


async def post_from(source: str, port: int, path: str, *headers: str) -> int:
    """Post from an address of this machine; the answer's status."""
    host = "::1" if ":" in source else "127.0.0.1"
    reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0))
    try:
        writer.write(request_bytes(body_of(), *headers, target=path))
        async with asyncio.timeout(20):
            return Reply(await reader.readuntil(b"\r\n\r\n")).status
    finally:
        writer.close()


LIES = [
    (),
    (f"X-Forwarded-For: {GOOD}",),
    (f"X-Forwarded-For: {GOOD}, {GOOD}",),
    (f"X-Forwarded-For: {GOOD}", f"X-Forwarded-For: {GOOD}"),
    (f"X-Forwarded-For: {GOOD}, {PROXY}",),
    (f"X-Forwarded-For: [::ffff:{GOOD}]:80",),
    ("X-Forwarded-For: garbage",),
    ("X-Forwarded-For:",),
    (f"x-FORWARDED-for: {GOOD}",),
    (f"X_Forwarded_For: {GOOD}",),
    (f"X-Real-IP: {GOOD}", f"True-Client-IP: {GOOD}", f"CF-Connecting-IP: {GOOD}"),
    (f"Forwarded: for={GOOD}",),
    (f'Forwarded: for="{GOOD}"',),
    (f'Forwarded: for={GOOD};by="',),
    (f"Forwarded: for={GOOD}", f"X-Forwarded-For: {GOOD}"),
    (f"X-Forwarded-For: {GOOD}\t",),
]
"""What strangers write, to be taken for the platform."""


@shells
@with_nginx
@pytest.mark.parametrize(
    "proxy",
    [APPENDS, WRITES, PORT, RFC, RFC_APPENDS],
    ids=["appends", "writes", "port", "RFC 7239", "RFC appends"],
)
async def test_through_nginx(listen: Any, proxy: tuple[str, ...], tmp_path: Path) -> None:  # noqa: ANN401 - one of the shells
    """The platform gets in, and nobody else does, whatever they write into their headers."""
    async with listen(**GUARD) as there:
        path = path_of(there.server)
        async with nginx(tmp_path, f"127.0.0.1:{there.port}", *proxy, source=PROXY) as port:
            for lie in LIES:
                assert await post_from(BAD, port, path, *lie) == 403, lie
            assert await post_from(GOOD, port, path) == 200
            if socket.has_dualstack_ipv6() and proxy is not PORT:  # where it would be no address
                assert await post_from("::1", port, path) == 200
        assert dict(there.server.refused) == {"sender": len(LIES)}


@with_nginx
async def test_ipv6_in_quotes(tmp_path: Path) -> None:
    """An IPv6 sender, as RFC 7239 has it written."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with alone(**GUARD) as there:
        path = path_of(there.server)
        async with nginx(tmp_path, f"127.0.0.1:{there.port}", *QUOTED, source=PROXY) as port:
            assert await post_from("::1", port, path) == 200
            assert await post_from(BAD, port, path) == 403


@with_nginx
async def test_a_proxy_that_names_nobody(tmp_path: Path) -> None:
    """Then all are the proxy; and one that passes on what strangers write cannot be trusted."""
    async with alone(**GUARD) as there:
        path = path_of(there.server)
        upstream = f"127.0.0.1:{there.port}"
        async with nginx(tmp_path, upstream, *NOTHING, source=PROXY) as port:
            for source in (GOOD, BAD):
                assert await post_from(source, port, path) == 403
        async with nginx(tmp_path, upstream, *IGNORANT, source=PROXY) as port:
            assert await post_from(BAD, port, path, f"X-Forwarded-For: {GOOD}") == 200


@with_nginx
async def test_a_proxy_that_nobody_trusts(tmp_path: Path) -> None:
    """What an untrusted proxy says of its sender is not looked at."""
    async with alone(**GUARD) as there:
        path = path_of(there.server)
        upstream = f"127.0.0.1:{there.port}"
        async with nginx(tmp_path, upstream, *APPENDS, source="127.0.0.8") as port:
            assert await post_from(GOOD, port, path) == 403
        async with nginx(tmp_path, upstream, *APPENDS, source=GOOD) as port:
            assert await post_from(BAD, port, path) == 200  # the proxy itself is allowed


@shells
async def test_directly(listen: Any) -> None:  # noqa: ANN401 - one of the shells
    """Past the proxy no header counts."""
    async with listen(**GUARD) as there:
        path = path_of(there.server)
        for lie in LIES:
            assert await post_from(BAD, there.port, path, *lie) == 403, lie
            assert await post_from(GOOD, there.port, path, *lie) == 200, lie
        assert dict(there.server.refused) == {"sender": len(LIES)}
