"""slowhttptest against the port, while a good sender posts: slow heads, bodies and readers."""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import SIGNER, SUCCESS, Listening, alone, body_of, path_of, until
from callback_shells import mounted
from fault_scene import FULL
from server_process import find_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

pytest_plugins = ["fault_plugin"]
pytestmark = pytest.mark.skipif(
    find_program("slowhttptest") is None,
    reason="slowhttptest is not installed (Debian's package has its name)",
)

SECONDS = 30 if FULL else 2
CONNECTIONS = 1000 if FULL else 400
ATTACKS = {
    "slow heads": ["-H", "-i", "1"],
    "slow bodies": ["-B", "-i", "1", "-s", "60000", "-t", "POST"],
    "slow readers": ["-X", "-k", "5", "-n", "1", "-z", "1", "-w", "1", "-y", "2"],
}


def by_uvicorn(**options: Any) -> Any:  # noqa: ANN401 - as `mounted`
    """Mounted, and served by uvicorn with our own edge."""
    return mounted(http="qmc_async.callback.uvicorn_edge:EdgeProtocol", **options)


async def post(there: Listening, call_id: str) -> float:
    """Post on a connection of its own; the seconds until the answer."""
    begun = time.perf_counter()
    reply = await there.post(body_of(call_id))
    assert reply.body == SUCCESS
    return time.perf_counter() - begun


async def posting(there: Listening, name: str, end: asyncio.Task[Any]) -> AsyncIterator[float]:
    """Post fifty times a second until something has ended."""
    number = 0
    while not end.done():
        yield await post(there, f"{name}-{number}")
        number += 1
        await asyncio.sleep(0.02)


async def attack(url: str, options: Sequence[str]) -> None:
    """Run slowhttptest for some seconds."""
    program = find_program("slowhttptest")
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program,
        *options,
        *("-u", url, "-c", str(CONNECTIONS), "-r", str(CONNECTIONS), "-l", str(SECONDS)),
        *("-p", "1"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("listen", [alone, by_uvicorn], ids=["aiohttp", "uvicorn"])
@pytest.mark.parametrize("name", ATTACKS)
async def test_slow(
    name: str,
    listen: Any,  # noqa: ANN401 - one of the two
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    """Every notification of the good sender is answered with success, kept and handled."""
    store = f"sqlite:///{tmp_path}/qmc.db"
    async with listen(signer=SIGNER, store=store) as there:
        quiet = asyncio.create_task(asyncio.sleep(0.5))
        before = [took async for took in posting(there, "before", quiet)]
        # Also who knows the path may be slow.
        url = f"http://127.0.0.1:{there.port}{path_of(there.server)}"
        attacking = asyncio.create_task(attack(url, ATTACKS[name]))
        during = [took async for took in posting(there, "during", attacking)]
        await attacking
        after = await post(there, "after")
        posted = len(before) + len(during) + 1
        await until(lambda: len({event.call_id for event in there.ended}) == posted)
    assert len(during) > SECONDS
    figure(
        f"{name}, {CONNECTIONS} connections for {SECONDS} s, {listen.__name__}: {len(during)} "
        f"posted meanwhile, all answered 200 and handled; p99 {_p99(during):.1f} ms, before "
        f"{_p99(before):.1f} ms, the longest {max(during) * 1000:.0f} ms; afterwards "
        f"{after * 1000:.1f} ms"
    )


def _p99(times: Sequence[float]) -> float:
    """In milliseconds."""
    return quantiles(times, n=100)[98] * 1000
