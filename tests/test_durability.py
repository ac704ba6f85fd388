"""What servers say of themselves that the tests cannot start: MySQL, TiDB, and older ones."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import messages

from qmc_async import ConfigError
from qmc_async.store.durability import can_skip_locked, check_durability

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Server:
    """A connection to a server that has a version and settings, and nothing else."""

    dialect = SimpleNamespace(name="mysql")

    def __init__(self, version: str = "", **settings: str) -> None:
        self._version = version
        self._settings = settings

    def begin(self) -> AbstractContextManager[None]:
        """A transaction."""
        return nullcontext()

    def execute(self, statement: object) -> Any:  # noqa: ANN401 - rows, or a result
        """What it answers."""
        if "VERSION()" in str(statement):
            return SimpleNamespace(scalar=lambda: self._version)
        return list(self._settings.items())


@pytest.mark.parametrize(
    ("version", "can"),
    [
        ("8.0.36", True),
        ("8.0.36-0ubuntu0.20.04.1", True),
        ("8.0.1-dmr", True),
        ("8.4.3", True),
        ("9.1.0", True),
        ("8.0.0-dmr", False),
        ("5.7.44-log", False),
        ("5.7.33-0ubuntu0.18.04.1", False),
        ("10.11.6-MariaDB-0+deb12u1", True),
        ("10.6.0-MariaDB", True),
        ("11.4.2-MariaDB-ubu2404", True),
        ("5.5.5-10.11.6-MariaDB-log", True),
        ("10.5.23-MariaDB-0+deb11u1", False),
        ("10.3.39-MariaDB-0ubuntu0.20.04.2", False),
        ("5.5.5-10.3.39-MariaDB-0ubuntu0.20.04.2", False),
        ("8.0.11-TiDB-v7.5.0", False),
        ("5.7.25-OceanBase-v4.2.1.0", False),
        ("of somebody's own", False),
        ("", False),
    ],
)
def test_who_can_skip_locked(version: str, *, can: bool) -> None:
    """MySQL since 8.0.1, MariaDB since 10.6; whoever is not known is not asked to."""
    assert can_skip_locked(Server(version)) is can  # type: ignore[arg-type]  # it stands for one


SAFE = {
    "innodb_flush_log_at_trx_commit": "1",
    "innodb_doublewrite": "ON",
    "log_bin": "ON",
    "sync_binlog": "1",
    "read_only": "OFF",
    "rpl_semi_sync_source_enabled": "ON",
}


def _check(**settings: str) -> None:
    server: Any = Server(**settings)
    check_durability(server, allow_data_loss=False, is_first=True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"innodb_flush_log_at_trx_commit": "2"}, "innodb_flush_log_at_trx_commit=2"),
        ({"innodb_doublewrite": "DETECT_ONLY"}, "innodb_doublewrite=DETECT_ONLY"),
        ({"innodb_doublewrite": "OFF"}, "innodb_doublewrite=OFF"),
        ({"sync_binlog": "1000"}, "sync_binlog=1000"),
        ({"read_only": "ON"}, "takes no writes"),
    ],
)
def test_what_mysql_8_may_lose(changed: dict[str, str], said: str) -> None:
    """It is refused, by the setting's name."""
    with pytest.raises(ConfigError, match=said):
        _check(**(SAFE | changed))


@pytest.mark.parametrize(
    ("changed", "is_alone"),
    [
        ({}, False),
        ({"log_bin": "OFF", "sync_binlog": "0"}, False),
        ({"innodb_doublewrite": "DETECT_AND_RECOVER"}, False),
        ({"rpl_semi_sync_source_enabled": "OFF"}, True),
    ],
)
def test_what_mysql_8_does_not_lose(
    changed: dict[str, str], caplog: pytest.LogCaptureFixture, *, is_alone: bool
) -> None:
    """It is used, with a warning where all depends on one machine."""
    _check(**(SAFE | changed))
    assert bool(messages(caplog, logging.WARNING)) is is_alone


def test_what_tells_nothing() -> None:
    """A database that only speaks the protocol has no such settings: it is used as it is."""
    _check()
