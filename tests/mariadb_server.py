"""MariaDB for the tests, where it is installed: there is no wheel of it."""

from __future__ import annotations

import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import pymysql  # type: ignore[import-untyped]  # it has no types of its own
from server_process import HOST, ServerProcess, find_program, run_program

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

_USER: Final = "qmc"
_PASSWORD: Final = "open-sesame"
_SETTINGS: Final = {
    "bind-address": HOST,
    "skip-name-resolve": "ON",
    "max-connections": "100",
    "innodb-buffer-pool-size": "32M",
    "innodb-log-file-size": "16M",
    "innodb-flush-log-at-trx-commit": "1",
    # As Debian has it: without case, and blind to spaces at the end.
    "character-set-server": "utf8mb4",
    "collation-server": "utf8mb4_general_ci",
    # As the users' servers have it: local time taken for UTC shows.
    "default-time-zone": "+08:00",
}


class MariadbServer(ServerProcess):
    """A MariaDB server, with one user, who may do everything.

    Its `settings` are options of ``mariadbd`` without the dashes in front, read at each start.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__("mariadb")
        self.settings = dict(settings or {})
        self._data = self.folder / "data"

    @staticmethod
    def missing_reason() -> str | None:
        """Why it cannot be started here, None if it can."""
        if sys.platform != "linux":
            return "the tests start MariaDB on Linux only"
        for program in ("mariadbd", "mariadb-install-db"):
            if find_program(program) is None:
                return f"{program} is not installed (Debian's package is mariadb-server)"
        return None

    @property
    def url(self) -> str:
        """The database that is always there, for SQLAlchemy."""
        return self.url_of("mysql")

    def url_of(self, database: str) -> str:
        """A database, for SQLAlchemy."""
        return f"mysql+pymysql://{_USER}:{_PASSWORD}@{HOST}:{self.port}/{database}"

    def execute(self, sql: str, *arguments: object, database: str | None = None) -> list[Any]:
        """Run a statement in a session and a transaction of its own; the rows, if it has any.

        An argument's place is ``%s``.
        """
        with closing(self._connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
            return list(cursor.fetchall())

    def create_database(self, name: str) -> str:
        """Create a database; its URL."""
        self.execute(f"CREATE DATABASE `{name}`")
        return self.url_of(name)

    def empty_database(self, name: str) -> str:
        """A database with nothing in it, and nobody; its URL."""
        sessions = "SELECT id FROM information_schema.processlist WHERE db = %s"
        for (session,) in self.execute(sessions, name):
            # An open transaction would not let the tables be dropped.
            self.execute(f"KILL {session}")
        self.execute(f"DROP DATABASE IF EXISTS `{name}`")
        return self.create_database(name)

    @contextmanager
    def configured(self, settings: Mapping[str, str | int]) -> Generator[None]:
        """Change settings that need no restart; they are as before afterwards."""
        before: dict[str, object] = {}
        try:
            for name, value in settings.items():
                [(before[name],)] = self.execute(f"SELECT @@GLOBAL.{name}")
                self.execute(f"SET GLOBAL {name} = %s", value)
            yield
        finally:
            for name, old in before.items():
                self.execute(f"SET GLOBAL {name} = %s", old)

    def _command(self) -> Sequence[str | Path]:
        server, install = map(find_program, ("mariadbd", "mariadb-install-db"))
        assert server is not None
        assert install is not None
        if not self._data.exists():
            run_program(
                install,
                "--no-defaults",
                f"--datadir={self._data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                f"--innodb-log-file-size={_SETTINGS['innodb-log-file-size']}",
                folder=self.folder,
            )
        account = f"'{_USER}'@'{HOST}'"
        users = self._write(
            "users.sql",
            f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{_PASSWORD}';\n"
            f"GRANT ALL ON *.* TO {account} WITH GRANT OPTION;\n",
        )
        settings = {**_SETTINGS, "port": str(self.port), **self.settings}
        return [
            server,
            "--no-defaults",
            f"--datadir={self._data}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--init-file={users}",
            *(f"--{name}={value}" for name, value in settings.items()),
        ]

    def _answers(self) -> bool:
        try:
            self._connect(None).close()
        except pymysql.OperationalError:
            return False
        return True

    def _connect(self, database: str | None) -> Any:  # noqa: ANN401 - the driver has no types
        return pymysql.connect(
            host=HOST,
            port=self.port,
            user=_USER,
            password=_PASSWORD,
            database=database,
            autocommit=True,
            ssl_disabled=True,  # on loopback it only costs: 30 ms a session
        )
