"""The databases that a store can be kept in, as fixtures: real servers, started once.

``QMC_TEST_DATABASES`` names others than the usual three to run the same tests on, for instance
``pgbouncer``.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest
from mariadb_server import MariadbServer
from pgbouncer import PgBouncer
from postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAME: Final = "qmc"
# Read when the tests are collected: no test sees a variable of ours from outside.
KINDS: Final = os.environ.get("QMC_TEST_DATABASES", "sqlite postgresql mariadb").split()


class TestDatabase:
    """A database of a test's own, empty at first, and what stands in it, past all code of ours."""

    __test__ = False

    def __init__(self, kind: str, url: str, where: Path | PostgresServer | MariadbServer) -> None:
        self.kind = kind
        """``sqlite``, ``postgresql`` (also behind PgBouncer) or ``mariadb``."""
        self.url = url
        """For the store."""
        self._where = where

    @property
    def server(self) -> PostgresServer | MariadbServer:
        """The server, to kill or to freeze: it is started again for the next test."""
        assert isinstance(self._where, PostgresServer | MariadbServer), "a file has no server"
        return self._where

    def select(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Ask the database itself, in a session of its own. An argument's place is ``?``."""
        if isinstance(self._where, PostgresServer | MariadbServer):
            if arguments:
                query = query.replace("%", "%%").replace("?", "%s")
            return self._where.execute(query, *arguments, database=_NAME)
        with closing(sqlite3.connect(self._where, timeout=30)) as file, file:
            return file.execute(query, arguments).fetchall()

    def execute(self, statement: str, *arguments: object) -> None:
        """Change what stands in it, and commit. An argument's place is ``?``."""
        self.select(statement, *arguments)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that all tests share: leave it as it was."""
    _need(PostgresServer.missing_reason())
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariadbServer]:
    """A MariaDB server that all tests share: leave it as it was."""
    _need(MariadbServer.missing_reason())
    with MariadbServer() as server:
        yield server


@pytest.fixture
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """PgBouncer before the PostgreSQL server, for one test: its sessions are not another's."""
    _need(PgBouncer.missing_reason())
    postgres_server.start()
    with PgBouncer(postgres_server) as bouncer:
        yield bouncer


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> TestDatabase:
    """An empty database, on each engine in turn.

    A test can ask for others: ``@pytest.mark.parametrize("database", ["pgbouncer"],
    indirect=True)``.
    """
    kind: str = request.param
    if kind == "sqlite":
        file = tmp_path / f"{_NAME}.db"
        return TestDatabase(kind, f"sqlite:///{file}", file)
    server: PostgresServer | MariadbServer
    server = request.getfixturevalue("mariadb_server" if kind == "mariadb" else "postgres_server")
    server.start()  # unless it runs: the test before may have killed it
    url = server.empty_database(_NAME)
    if kind == "pgbouncer":
        bouncer: PgBouncer = request.getfixturevalue("pgbouncer")
        return TestDatabase("postgresql", bouncer.url_of(_NAME), server)
    return TestDatabase(kind, url, server)


def _need(missing_reason: str | None) -> None:
    if missing_reason:
        pytest.skip(missing_reason)
