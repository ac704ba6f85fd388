"""Whether a database server keeps what it has committed, as far as its settings tell."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from qmc_async.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

__all__ = ["can_skip_locked", "check_durability"]

logger = logging.getLogger(__name__)

_OFF: Final = {"off", "0", "no", "false"}
_POSTGRESQL: Final = ("fsync", "full_page_writes", "synchronous_commit")
_SETTINGS: Final = {
    "postgresql": text(
        "SELECT name, setting FROM pg_settings WHERE name IN "
        "('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names', "
        "'server_encoding')"
    ),
    "mysql": text(
        "SHOW VARIABLES WHERE Variable_name IN ('innodb_flush_log_at_trx_commit', "
        "'innodb_doublewrite', 'log_bin', 'sync_binlog', 'rpl_semi_sync_source_enabled', "
        "'rpl_semi_sync_master_enabled', 'read_only')"
    ),
}
_ENCODINGS: Final = {"UTF8", "SQL_ASCII"}  # the second keeps any bytes as they are
_IS_STANDBY: Final = text(
    "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean"
)
_VERSION: Final = text("SELECT VERSION()")


def check_durability(connection: Connection, *, allow_data_loss: bool, is_first: bool) -> None:
    """Read what decides whether a commit outlives the server, and the machine that it runs on.

    Args:
        connection: in a transaction.
        allow_data_loss: only warn.
        is_first: warn; on later connections the same would be said again.

    Raises:
        ConfigError: it does not, or not every character; or the server only follows another one.
    """
    kind = connection.dialect.name
    found = {name: str(value) for name, value in connection.execute(_SETTINGS[kind])}
    if kind == "postgresql":
        is_standby = bool(connection.execute(_IS_STANDBY).scalar())
        problems, is_alone = _of_postgresql(found)
    else:
        is_standby = found.get("read_only", "").lower() in {"on", "1"}
        problems, is_alone = _of_mysql(found)
    if is_standby:
        raise ConfigError(
            "store: the database server takes no writes (it is a standby, or read-only): name the "
            "primary, or all of them, such as postgresql://a,b/qmc?target_session_attrs=read-write",
            setting="store",
        )
    encoding = found.get("server_encoding", "UTF8")
    if encoding not in _ENCODINGS:
        raise ConfigError(
            f"store: the database's encoding is {encoding}, which has no place for every "
            "character: make one with ENCODING 'UTF8'",
            setting="store",
        )
    if problems and not allow_data_loss:
        raise ConfigError(
            f"store: the database server may lose what it has committed ({', '.join(problems)}): "
            "change that, or pass Store(url, allow_data_loss=True)",
            setting="store",
        )
    if not is_first:
        return
    if problems:
        logger.warning("the database server may lose what it commits: %s", ", ".join(problems))
    elif is_alone:
        logger.warning(
            "the database has no synchronous standby: if its machine is lost, so is what it holds"
        )


def _of_postgresql(found: Mapping[str, str]) -> tuple[list[str], bool]:
    problems = [
        f"{name}={found[name]}" for name in _POSTGRESQL if found.get(name, "on").lower() in _OFF
    ]
    is_local = found.get("synchronous_commit") == "local"
    return problems, is_local or not found.get("synchronous_standby_names")


def _of_mysql(found: Mapping[str, str]) -> tuple[list[str], bool]:
    wrong = {
        # 2 writes at once, and syncs once a second; MariaDB's 3 syncs more often than 1.
        "innodb_flush_log_at_trx_commit": found.get("innodb_flush_log_at_trx_commit", "1")
        not in {"1", "3"},
        "innodb_doublewrite": found.get("innodb_doublewrite", "on").lower()
        in {*_OFF, "detect_only"},
        # What is not in its binary log, a server that has one takes back as it recovers.
        "sync_binlog": found.get("log_bin", "off").lower() not in _OFF
        and found.get("sync_binlog", "1") != "1",
    }
    names = ("rpl_semi_sync_source_enabled", "rpl_semi_sync_master_enabled")
    is_alone = all(found.get(name, "off").lower() in _OFF for name in names)
    return [f"{name}={found[name]}" for name, is_wrong in wrong.items() if is_wrong], is_alone


def can_skip_locked(connection: Connection) -> bool:
    """Whether rows that others have locked can be left out, not only waited for."""
    if connection.dialect.name == "postgresql":
        return True
    with connection.begin():
        version = str(connection.execute(_VERSION).scalar())
    # Behind it may stand another: of the operating system, or of who speaks MySQL's protocol.
    # Before it, MariaDB once had one that old clients took for MySQL's.
    found = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)\.(\d+)", version)
    numbers = tuple(map(int, found.groups())) if found else (0,)
    if "TiDB" in version:
        return False
    return numbers >= ((10, 6, 0) if "MariaDB" in version else (8, 0, 1))
