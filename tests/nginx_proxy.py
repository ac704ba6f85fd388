"""A real nginx between a sender and a callback server."""

from __future__ import annotations

import asyncio
import shutil
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

__all__ = ["find_nginx", "nginx"]

_CONFIG = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 200; }}
http {{
    access_log off;
    {temporary}
    server {{
        listen 127.0.0.1:{port};
        listen [::]:{port} ipv6only=on;
        location / {{
            {headers}
            proxy_bind {source};
            proxy_pass http://{upstream};
        }}
    }}
}}
"""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def find_nginx() -> str | None:
    """Where it is, None where this machine has none."""
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@asynccontextmanager
async def nginx(
    folder: Path, upstream: str, *headers: str, source: str = "127.0.0.1"
) -> AsyncGenerator[int]:
    """An nginx that passes everything on.

    Args:
        folder: for its files.
        upstream: host and port.
        headers: what it sends besides, such as ``X-Forwarded-For $remote_addr``.
        source: the address that it comes from.

    Yields:
        Its port, on IPv4 and IPv6.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    config = folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            folder=folder,
            temporary="\n    ".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY),
            port=port,
            headers="\n            ".join(f"proxy_set_header {header};" for header in headers),
            source=source,
            upstream=upstream,
        )
    )
    program = find_nginx()
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program, "-p", str(folder), "-c", str(config), stderr=asyncio.subprocess.PIPE
    )
    try:
        await _listens(port, process)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def _listens(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                assert process.returncode is None, await process.communicate()
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
