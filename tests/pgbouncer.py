"""PgBouncer for the tests, where it is installed: there is no wheel of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import psycopg
from server_process import HOST, ServerProcess, find_program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from postgres_server import PostgresServer

_SETTINGS: Final = {
    "listen_addr": HOST,
    "unix_socket_dir": "",
    "auth_type": "trust",
    "pool_mode": "transaction",
    "max_client_conn": "200",
    "default_pool_size": "20",
    # Else it waits for 15 s before it tries again to reach a server that was away.
    "server_login_retry": "1",
}


class PgBouncer(ServerProcess):
    """PgBouncer in transaction mode before all databases of a server.

    Its `settings` are read at each start.
    """

    def __init__(self, server: PostgresServer, settings: Mapping[str, str] | None = None) -> None:
        super().__init__("pgbouncer")
        self.settings = dict(settings or {})
        self._server = server

    @staticmethod
    def missing_reason() -> str | None:
        """Why it cannot be started here, None if it can."""
        if sys.platform != "linux":
            return "the tests start PgBouncer on Linux only"
        if find_program("pgbouncer") is None:
            return "pgbouncer is not installed (Debian's package has this name)"
        return None

    def url_of(self, database: str) -> str:
        """A database of the server's, through PgBouncer, for SQLAlchemy."""
        return f"postgresql+psycopg://postgres@{HOST}:{self.port}/{database}"

    def _command(self) -> Sequence[str | Path]:
        program = find_program("pgbouncer")
        assert program is not None
        users = self._write("users.txt", '"postgres" ""\n')
        settings = {
            **_SETTINGS,
            "listen_port": str(self.port),
            "auth_file": str(users),
            **self.settings,
        }
        lines = [
            "[databases]",
            f"* = host={HOST} port={self._server.port}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        return [program, self._write("pgbouncer.ini", "\n".join([*lines, ""]))]

    def _answers(self) -> bool:
        try:
            psycopg.connect(
                host=HOST, port=self.port, user="postgres", dbname="postgres", connect_timeout=10
            ).close()
        except psycopg.OperationalError:
            return False
        return True
