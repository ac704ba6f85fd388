"""URLs that lead to no store: a clear error when the store is made, without any password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from callback_peer import url_in
from store_support import names_in

from qmc_async import CallbackServer, ConfigError
from qmc_async.store import Store

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "pa55:w/rd"
NO_STORES = [
    "nonsense",
    "://",
    "/var/lib/qmc.db",
    "qmc.db",
    "sqlite://qmc.db",
    "sqlite:/qmc.db",
    "sqlite+nonsense:///qmc.db",
    "sqlite+aiosqlite:///qmc.db",
    f"sqlite://user:{SECRET}@host/qmc.db",
    f"postgresql://user:{SECRET}@host",
    f"postgresql+psycopg2://user:{SECRET}@host:5432/db",
    f"postgresql+asyncpg://user:{SECRET}@host:5432/db",
    f"postgresql://user:a@b:{SECRET}@host:port/db",
    f"mysql+pymysql://user:{SECRET}@host/",
    f"mysql+mysqldb://user:{SECRET}@host/db",
    f"nonsense://user:{SECRET}@host/db",
    f"nonsense://{SECRET}",
]


@pytest.mark.parametrize("url", NO_STORES)
async def test_a_url_that_is_no_store(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clear error when the store is made, without the password, and nothing appears."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^store: .*sqlite:///") as caught:
        Store(url)
    assert caught.value.setting == "store"
    problem: BaseException | None = caught.value
    while problem is not None:
        assert not re.search("pa55|w/rd|rd@", str(problem))
        problem = problem.__cause__ or (
            None if problem.__suppress_context__ else problem.__context__
        )
    assert not names_in(tmp_path)
    monkeypatch.setenv("QMC_STORE", url)
    with pytest.raises(ConfigError, match=r"^store: "):
        CallbackServer()


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (f"postgresql://user:{SECRET}@host/db", "postgresql://host/db"),
        (f"postgres://user:{SECRET}@host/db", "postgresql://host/db"),
        (f"postgresql+psycopg://user:{SECRET}@host:5432/db", "postgresql://host:5432/db"),
        (
            f"postgresql://user@/db?host=a:1&host=b&password={SECRET}&target_session_attrs=any",
            "postgresql://a:1,b/db",
        ),
        (f"mysql://user:{SECRET}@host/db", "mysql://host/db"),
        (f"mariadb+pymysql://user:{SECRET}@host:33/db?charset=utf8", "mysql://host:33/db"),
    ],
)
def test_where_a_server_is(
    url: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told without user and password, and nothing is connected yet."""
    monkeypatch.chdir(tmp_path)
    store = Store(url)
    assert store.place == place
    assert repr(store) == f"<Store in {place}>"
    assert not names_in(tmp_path)


async def test_a_url_with_options(tmp_path: Path) -> None:
    """What would have to be ignored, or would lead elsewhere than it says, is refused."""
    for options in ("timeout=abc", "uri=true", "check_same_thread=true"):
        with pytest.raises(ConfigError, match=r"^store: "):
            Store(f"{url_in(tmp_path)}?{options}")
