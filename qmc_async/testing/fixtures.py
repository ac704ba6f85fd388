"""The plugin's fixtures, once for each event loop that a test may run on.

pytest-asyncio runs a fixture on the loop that its own scope, or the configuration, says, and a test
on the loop that its marker says. A server only answers on a loop that runs, so these fixtures have
to be on the test's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import pytest_asyncio

from qmc_async.callback import CallbackServer
from qmc_async.client import AsyncQmcClient
from qmc_async.sandbox import Sandbox, VirtualClock
from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    import pytest

__all__ = ["LoopScope", "name_on_loop"]

LoopScope: TypeAlias = Literal["function", "class", "module", "package", "session"]
"""Whose event loop it is, in pytest-asyncio's words."""

_IN_MEMORY: Final = "sqlite://"
_PATIENCE: Final = 5.0  # seconds; as long as the sandbox waits, however busy the machine is
_SHUTDOWN: Final = 1.0  # seconds that handlers have when the test is over


def name_on_loop(fixture: str, scope: LoopScope) -> str:
    """The name of the fixture that does the work of `fixture` on such a loop."""
    return f"_{fixture}_on_{scope}_loop"


class _Server(CallbackServer):
    """Takes handlers also while it runs: a test is handed it before it can register them."""

    async def start(self) -> None:
        """See `CallbackServer.start`."""
        await super().start()
        self._handlers.thaw()


def _options_of(markers: Iterable[pytest.Mark]) -> dict[str, Any]:
    """What is said nearest to the test comes last, and holds."""
    options: dict[str, Any] = {"clock": VirtualClock()}
    for marker in reversed(list(markers)):
        if marker.args:
            raise TypeError("@pytest.mark.qmc_sandbox takes options by name, such as assumed=...")
        options |= marker.kwargs
    return options


def _lead_to(platform: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("QMC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QMC_APP_ID", str(platform.credentials.app_id))
    monkeypatch.setenv("QMC_APP_SECRET", platform.credentials.app_secret)
    monkeypatch.setenv("QMC_BASE_URL", platform.base_url)
    monkeypatch.setenv("QMC_RECORD_BASE_URL", platform.base_url)
    monkeypatch.setenv("QMC_STORE", _IN_MEMORY)


def _fixtures_on(scope: LoopScope) -> dict[str, object]:
    @pytest_asyncio.fixture(loop_scope=scope, name=name_on_loop("qmc_sandbox", scope))
    async def qmc_sandbox_on_loop(
        request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncGenerator[Sandbox]:
        async with Sandbox(**_options_of(request.node.iter_markers("qmc_sandbox"))) as platform:
            _lead_to(platform, monkeypatch)
            yield platform

    @pytest_asyncio.fixture(loop_scope=scope, name=name_on_loop("qmc_client", scope))
    async def qmc_client_on_loop(qmc_sandbox: Sandbox) -> AsyncGenerator[AsyncQmcClient]:
        # Not by the environment: no test of whatever fixture may ring a telephone.
        async with AsyncQmcClient(
            qmc_sandbox.credentials.app_id,
            qmc_sandbox.credentials.app_secret,
            base_url=qmc_sandbox.base_url,
            record_base_url=qmc_sandbox.base_url,
            store=Store(_IN_MEMORY, patience=_PATIENCE),
        ) as client:
            yield client

    @pytest_asyncio.fixture(loop_scope=scope, name=name_on_loop("callback_server", scope))
    async def callback_server_on_loop(
        qmc_sandbox: Sandbox, qmc_client: AsyncQmcClient
    ) -> AsyncGenerator[CallbackServer]:
        async with _Server(client=qmc_client, port=0, shutdown_timeout=_SHUTDOWN) as server:
            qmc_sandbox.callback_url = server.url
            yield server

    made = (qmc_sandbox_on_loop, qmc_client_on_loop, callback_server_on_loop)
    return {f"{fixture.__name__}_{scope}": fixture for fixture in made}


for _scope in get_args(LoopScope):
    globals().update(_fixtures_on(_scope))
