"""What pytest imports in every run of a project that has qmc-async installed: three fixtures.

It stands beside the package, because a module in the package cannot be imported without an HTTP
client, an HTTP server and a database. Whoever uses no fixture of it pays next to nothing; the
fixtures themselves are in `qmc_async.testing.fixtures`, which the first test to ask for one
registers.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from qmc_async import AsyncQmcClient, CallbackServer
    from qmc_async.sandbox import Sandbox

__all__ = ["callback_server", "pytest_configure", "qmc_client", "qmc_sandbox"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, so that ``--strict-markers`` lets it pass."""
    config.addinivalue_line(
        "markers",
        "qmc_sandbox(**options): what qmc_sandbox is started with, as for "
        "qmc_async.sandbox.Sandbox, such as assumed=Assumed(...)",
    )


@pytest.fixture
def qmc_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """The platform on a free port; time stands still until ``await qmc_sandbox.advance(...)``.

    QMC_APP_ID, QMC_APP_SECRET, QMC_BASE_URL and QMC_RECORD_BASE_URL lead to it, QMC_STORE keeps
    everything in memory, and every other QMC_* variable is unset, for the length of the test.
    ``@pytest.mark.qmc_sandbox(assumed=..., clock=...)`` gives it options of `Sandbox`.
    """
    platform: Sandbox = _on_the_loop_of_the_test(request)
    return platform


@pytest.fixture
def qmc_client(request: pytest.FixtureRequest) -> AsyncQmcClient:
    """An open client of qmc_sandbox, with a ledger in memory."""
    client: AsyncQmcClient = _on_the_loop_of_the_test(request)
    return client


@pytest.fixture
def callback_server(request: pytest.FixtureRequest) -> CallbackServer:
    """A running server for the calls of qmc_client, to which qmc_sandbox sends its notifications.

    It takes handlers although it runs: register them before the call is placed.
    """
    server: CallbackServer = _on_the_loop_of_the_test(request)
    return server


def _on_the_loop_of_the_test(request: pytest.FixtureRequest) -> Any:  # noqa: ANN401 - one of the three
    """Have the fixture's namesake run on the event loop that the test will run on.

    An async fixture runs on the loop that the configuration says for fixtures. Where the test has
    another, nothing that the fixture started would ever answer.
    """
    name = request.fixturename
    plugins = request.config.pluginmanager
    # Not by its name: there are several ways to load a plugin, each with a name of its own.
    asyncio_plugin = sys.modules.get("pytest_asyncio.plugin")
    if asyncio_plugin is None or not plugins.is_registered(asyncio_plugin):
        pytest.fail(f"{name} needs pytest-asyncio: pip install 'qmc-async[testing]'", pytrace=False)
    from pytest_asyncio import is_async_test  # noqa: PLC0415 - it may not be installed

    marker = request.node.get_closest_marker("asyncio")
    if marker is None or not is_async_test(request.node):
        pytest.fail(
            f"{name} lives on the event loop of an async test: define this one by async def, and "
            'mark it with @pytest.mark.asyncio, or set asyncio_mode = "auto"',
            pytrace=False,
        )
    scope = (
        marker.kwargs.get("loop_scope")
        or marker.kwargs.get("scope")
        or request.config.getini("asyncio_default_test_loop_scope")
    )
    from qmc_async.testing import fixtures  # noqa: PLC0415 - only who uses them pays for them

    if not plugins.is_registered(fixtures):
        plugins.register(fixtures)
    return request.getfixturevalue(fixtures.name_on_loop(str(name), scope))
