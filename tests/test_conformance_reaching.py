"""Servers that cannot be reached, or do not let us in: said clearly, and without the password."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from callback_peer import body_of
from conformance import ON_MARIADB, ON_POSTGRESQL, on_mariadb, on_postgresql, on_servers
from mariadb_server import MariadbServer
from server_process import free_port
from sqlalchemy import make_url
from store_support import database_of, keep

from qmc_async import CallbackServer, ConfigError
from qmc_async.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_servers import TestDatabase

SECRET = "pa55-w0rd"
URLS = [
    *(f"postgresql://user:{SECRET}@127.0.0.1:{free_port()}/qmc" for _ in ON_POSTGRESQL[:1]),
    *(f"mysql://user:{SECRET}@127.0.0.1:{free_port()}/qmc" for _ in ON_MARIADB),
]


@pytest.fixture(autouse=True)
def _spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMC_SPOOL", str(tmp_path / "spool"))


async def _is_refused(url: str, said: str) -> None:
    """No server starts there, and nothing that is raised holds the password."""
    with pytest.raises(ConfigError, match=said) as caught:
        await CallbackServer(store=url, port=0).start()
    assert caught.value.setting == "store"
    problem: BaseException | None = caught.value
    while problem is not None:
        for shown in (str(problem), repr(problem), str(problem.args), str(vars(problem))):
            assert SECRET not in shown
        problem = problem.__cause__ or problem.__context__


@pytest.fixture
def strict(database: TestDatabase) -> Iterator[str]:
    """A URL of the database with a wrong password, which it asks for."""
    server = database.server
    if isinstance(server, MariadbServer):
        yield make_url(database.url).set(password=SECRET).render_as_string(hide_password=False)
        return
    [(name,)] = server.execute("SHOW hba_file")
    before = Path(name).read_text(encoding="utf-8")
    server.execute("DROP ROLE IF EXISTS strict")
    server.execute("CREATE ROLE strict LOGIN PASSWORD 'another'")
    url = make_url(server.url_of("qmc")).set(username="strict", password=SECRET)
    try:
        Path(name).write_text(f"host all strict all scram-sha-256\n{before}", encoding="utf-8")
        with server.configured({}):  # it reads the file again
            yield url.render_as_string(hide_password=False)
    finally:
        Path(name).write_text(before, encoding="utf-8")
        with server.configured({}):
            server.execute("DROP ROLE strict")


@on_servers
async def test_a_wrong_password(strict: str) -> None:
    """What the server says of it is told."""
    await _is_refused(strict, r"^store: \w+://127.*(password authentication failed|Access denied)")


@on_servers
async def test_a_database_that_is_not_there(database: TestDatabase) -> None:
    """It is not made: nobody knows whether its name is right."""
    await _is_refused(f"{database.url}x", r"^store: .*qmcx: .*(not exist|Unknown database)")


@pytest.mark.parametrize("url", URLS, ids=[url.partition(":")[0] for url in URLS])
async def test_nobody_listens(url: str) -> None:
    """That is said at once: who starts first must not find out by way of the spool."""
    await _is_refused(url, r"^store: \w+://127\.0\.0\.1:\d+/qmc: .*refused")


@pytest.mark.parametrize("url", URLS, ids=[url.partition(":")[0] for url in URLS])
@pytest.mark.parametrize("missing", ["module", "library"])
def test_a_driver_that_is_not_installed(
    url: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What to install is said when the store is made."""
    driver, extra = ("pymysql", "mysql") if url.startswith("mysql") else ("psycopg", "postgres")
    if missing == "module":
        monkeypatch.setitem(sys.modules, driver, None)
    else:
        dialect = make_url(url.replace("://", f"+{driver}://")).get_dialect()

        def fail() -> None:
            raise ImportError("no pq wrapper available")

        monkeypatch.setattr(dialect, "import_dbapi", fail)
    said = rf"^store: {driver} is missing: pip install 'qmc-async\[{extra}\]'$"
    with pytest.raises(ConfigError, match=said) as caught:
        Store(url)
    assert caught.value.setting == "store"


BAD_OPTIONS = [
    *(
        ("postgresql", option)
        for option in (
            "nonsense=1",
            "connect_timeout=abc",
            "host=a&host=b&port=c",
            "sslmode=verify-full&sslrootcert=/nowhere",
        )
        for _ in ON_POSTGRESQL[:1]
    ),
    *(
        ("mysql", option)
        for option in ("nonsense=1", "connect_timeout=abc", "charset=nonsense", "ssl_ca=/nowhere")
        for _ in ON_MARIADB
    ),
]


@pytest.mark.parametrize(("scheme", "option"), BAD_OPTIONS)
async def test_an_option_that_no_driver_takes(
    scheme: str, option: str, request: pytest.FixtureRequest
) -> None:
    """It is refused when the store is made, or before the port opens."""
    name = "mariadb_server" if scheme == "mysql" else "postgres_server"
    server = request.getfixturevalue(name)
    url = f"{scheme}://user:{SECRET}@127.0.0.1:{server.port}/qmc?{option}"
    await _is_refused(url, rf"^store: {scheme}://127\.0\.0\.1")


@on_mariadb
async def test_a_password_that_cannot_be_sent(database: TestDatabase) -> None:
    """The driver cannot encode it, and it is not told to the log."""
    url = make_url(database.url).set(password=f"密{SECRET}").render_as_string(hide_password=False)
    await _is_refused(url, r"does not take what its URL says \(UnicodeEncodeError\)$")


@on_postgresql
async def test_an_option_of_ours_gives_way(database: TestDatabase) -> None:
    """What the URL says comes before what this library would say."""
    async with Store(f"{database.url}?keepalives_idle=77&application_name=crm") as store:
        driver = database_of(store)._connection.connection.driver_connection
        parameters = driver.info.get_parameters()
        assert parameters["keepalives_idle"] == "77"
        assert parameters["keepalives_interval"] == "2"
        names = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'crm'"
        assert database.select(names)[0][0] >= 1
        await keep(store, body_of())
