"""Where each setting comes from, and what each of them takes."""

from __future__ import annotations

import ipaddress
import math
import os
from typing import Any

import pytest

from qmc_async.client import AsyncQmcClient
from qmc_async.errors import ConfigError
from qmc_async.settings import BASE_URL, RECORD_BASE_URL, RECORD_PATH, Settings

NEEDED: dict[str, str] = {"QMC_APP_ID": "42", "QMC_APP_SECRET": "planted"}

# argument, a value for the variable, what becomes of it, a value for the argument, the default
NO_LIST: list[object] = []

TABLE: list[tuple[str, str, object, object, object]] = [
    ("app_id", "1696054309969104898", 1696054309969104898, 7, None),
    ("app_secret", "from-variable", "from-variable", "from-argument", None),
    ("base_url", "http://variable:1", "http://variable:1", "https://argument", BASE_URL),
    (
        "record_base_url",
        "http://variable:2",
        "http://variable:2",
        "https://argument/prefix",
        RECORD_BASE_URL,
    ),
    ("record_path", "/variable", "/variable", "/argument", RECORD_PATH),
    ("timeout", "2.5", 2.5, 0.25, 10.0),
    ("deadline", "1e2", 100.0, 3, 30.0),
    ("max_retries", "5", 5, 0, 2),
    ("numbers", "strict", "strict", "off", "lenient"),
    ("missing_after", "90.5", 90.5, 172_800, 7200.0),
    ("ledger_numbers", "whole", "whole", "masked", "masked"),
    (
        "recording_networks",
        "10.0.0.0/8, fd00::/8",
        (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")),
        (ipaddress.ip_network("192.168.1.0/24"),),
        (),
    ),
]
NAMES = [row[0] for row in TABLE]


def load(environ: dict[str, str] | None = None, /, **given: Any) -> Settings:  # noqa: ANN401 - mistakes too
    """Load with the two that have no default."""
    return Settings.load(environ={**NEEDED, **(environ or {})}, **given)


def value(settings: Settings, name: str) -> object:
    """A setting by its argument's name."""
    return getattr(settings.credentials if name.startswith("app_") else settings, name)


def test_defaults() -> None:
    """What nobody set has the document's value, or ours."""
    settings = load()
    for name, _, _, _, default in TABLE[2:]:
        assert value(settings, name) == default, name
    assert BASE_URL == "http://api.v3.quanmayun.com:9090"
    assert RECORD_BASE_URL == "http://record.v3.quanmayun.com:9090"
    assert RECORD_PATH == "/api/qmc-cdr/openapi/v1/record"


@pytest.mark.parametrize(("name", "text", "meaning", "given", "default"), TABLE, ids=NAMES)
def test_precedence(name: str, text: str, meaning: object, given: object, default: object) -> None:
    """An argument wins over the variable, and the variable over the default."""
    variable = {f"QMC_{name.upper()}": text}
    assert value(load(variable), name) == meaning
    assert value(load(variable, **{name: given}), name) == given
    assert value(load(variable, **{name: None}), name) == meaning
    assert meaning not in {default, given}


@pytest.mark.parametrize(("name", "text", "meaning"), [row[:3] for row in TABLE], ids=NAMES)
def test_variable_reaches_the_client(
    name: str, text: str, meaning: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process's own environment is what a client reads, when it is made."""
    for variable, needed in NEEDED.items():
        monkeypatch.setenv(variable, needed)
    monkeypatch.setenv(f"QMC_{name.upper()}", f" {text}\n")
    assert value(AsyncQmcClient().settings, name) == meaning


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
@pytest.mark.parametrize(("name", "default"), [(row[0], row[4]) for row in TABLE[2:]])
def test_blank_variable_is_unset(name: str, default: object, blank: str) -> None:
    """A variable that holds nothing but space counts as not set."""
    assert value(load({f"QMC_{name.upper()}": blank}), name) == default


@pytest.mark.parametrize("blank", [None, "", " "])
@pytest.mark.parametrize("name", ["app_id", "app_secret"])
def test_needed(name: str, blank: str | None) -> None:
    """Without credentials the error names the variable, and the argument instead of it."""
    variable = f"QMC_{name.upper()}"
    environ = {key: text for key, text in NEEDED.items() if key != variable}
    if blank is not None:
        environ[variable] = blank
    with pytest.raises(ConfigError, match=f"{variable} is not set.*{name}=") as caught:
        Settings.load(environ=environ)
    assert caught.value.setting == variable


MALFORMED: list[tuple[str, str]] = [
    *(("app_id", text) for text in ("0", "-1", "1.5", "x", "１", str(2**63))),
    ("app_secret", "\udcff"),
    *(
        (name, text)
        for name in ("base_url", "record_base_url")
        for text in (
            "api.v3.quanmayun.com:9090",
            "//host",
            "ftp://host",
            "http://",
            "http:///path",
            "http://:9090",
            "http://user@host",
            "http://user:password@host",
            "http://host?query",
            "http://host/#fragment",
            "http://host:port",
            "http://host:99999",
            "http://host:0",
            "http://[::g]",
            "http://[host]",
            "http://a..b",
            "http://host/{x}",
            "http://[::1",
            "http://ho st",
            "http://host/a b",
            "http://host/a\nb",
            "http://全码云",
        )
    ),
    *(
        ("record_path", text)
        for text in ("x", "x/y", "/x?y", "/x#y", "/x y", "/x\ny", "/录音", "/../x", "/./x")
    ),
    *(
        (name, text)
        for name in ("timeout", "deadline", "missing_after")
        for text in ("0", "-1", "nan", "inf", "-inf", "1e999", "x", "1,5", "10s")
    ),
    ("missing_after", "172800.1"),  # two days; recordings are gone after three
    *(("max_retries", text) for text in ("-1", "1.0", "x", "1000", "٣", "+1", "1_0")),
    *(("numbers", text) for text in ("Strict", "none", "on")),
    *(("ledger_numbers", text) for text in ("Masked", "off", "whole,masked")),
    *(
        ("recording_networks", text)
        for text in (
            "localhost",
            "10.0.0.1/8",  # an address with a mask: which of the two is meant?
            "10.0.0.0/33",
            "10.0.0",
            "010.0.0.0/8",
            "fd00::/129",
            "10.0.0.0/8;192.168.0.0/16",
            "10.0.0.0/8,*",
            "http://10.0.0.1",
        )
    ),
]


@pytest.mark.parametrize(("name", "text"), MALFORMED)
def test_malformed(name: str, text: str) -> None:
    """A malformed setting is refused, and the error names where it came from."""
    variable = f"QMC_{name.upper()}"
    with pytest.raises(ConfigError, match=variable) as caught:
        load({variable: text})
    assert caught.value.setting == variable
    assert caught.value.__context__ is None
    with pytest.raises(ConfigError, match=name) as caught:
        load(**{name: text})
    assert caught.value.setting == name


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("app_id", wrong) for wrong in (True, 1.5, b"1", 0, -1, 2**63)),
        *(("app_secret", wrong) for wrong in (5, b"s", "", " ", "trailing\n")),
        *(
            (name, wrong)
            for name in ("base_url", "record_path")
            for wrong in (5, b"/x", "", NO_LIST)
        ),
        *(
            (name, wrong)
            for name in ("timeout", "deadline", "missing_after")
            for wrong in (True, False, 0, -1, math.nan, math.inf, 10**400, NO_LIST, 1j, b"1")
        ),
        ("missing_after", 172_801),
        *(("ledger_numbers", wrong) for wrong in ("", 5, NO_LIST, True)),
        *(
            ("recording_networks", wrong)
            for wrong in (5, True, 1.5, b"10.0.0.0/8", ["10.0.0.1/8"], [10], [None], [b"10"])
        ),
        *(("max_retries", wrong) for wrong in (True, 1.0, -1, 1000, NO_LIST, 10**400)),
        *(("numbers", wrong) for wrong in ("", 5, NO_LIST, True)),
    ],
)
def test_wrong_argument(name: str, given: object) -> None:
    """An argument of the wrong type is a `ConfigError` like any other."""
    with pytest.raises(ConfigError, match=name) as caught:
        load(**{name: given})
    assert caught.value.setting == name


def test_secret_is_never_shown() -> None:
    """No error and no repr shows the secret, not even a malformed one."""
    settings = load()
    assert "planted" not in repr(settings) + str(settings)
    with pytest.raises(ConfigError) as caught:
        load(app_secret="planted ")
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "http://[::1]:9090/x", "https://a-b.example:1", "http://host/%20"]
)
def test_address(url: str) -> None:
    """Names and addresses of both kinds, with a port and a path, are taken as they are."""
    assert load(base_url=url, record_base_url=url).base_url == url


@pytest.mark.parametrize(
    ("given", "networks"),
    [
        ("", []),
        (" , ", []),
        (NO_LIST, []),
        ("10.0.0.1", ["10.0.0.1/32"]),
        ("::1", ["::1/128"]),
        (" 10.0.0.0/8 ,\tfd00::/8,", ["10.0.0.0/8", "fd00::/8"]),
        (["10.0.0.0/255.0.0.0"], ["10.0.0.0/8"]),
        ({"10.0.0.0/8"}, ["10.0.0.0/8"]),
        ([ipaddress.ip_network("10.0.0.0/8"), "::1"], ["10.0.0.0/8", "::1/128"]),
    ],
)
def test_recording_networks(given: object, networks: list[str]) -> None:
    """Networks come as one text with commas, or one by one; an address is a network of one."""
    expected = tuple(ipaddress.ip_network(network) for network in networks)
    assert load(recording_networks=given).recording_networks == expected


def test_trailing_slash() -> None:
    """An address may end in a slash, which is not doubled."""
    assert load(base_url="http://host/prefix/").base_url == "http://host/prefix"


def test_changed() -> None:
    """A changed copy replaces what is given, keeps the rest, and leaves the original alone."""
    settings = load(timeout=1, deadline=2, max_retries=3, numbers="strict")
    assert settings.changed() == settings
    other = settings.changed(timeout=10, deadline=20, max_retries=0, numbers="off")
    assert (other.timeout, other.deadline, other.max_retries, other.numbers) == (10, 20, 0, "off")
    assert (settings.timeout, settings.deadline, settings.max_retries) == (1, 2, 3)
    assert other.credentials == settings.credentials
    assert other.base_url == settings.base_url


def test_changed_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a copy does not change stays, whatever the variables have become."""
    monkeypatch.setenv("QMC_TIMEOUT", "99")
    assert "QMC_TIMEOUT" in os.environ
    assert load(timeout=1).changed(deadline=5).timeout == 1


@pytest.mark.parametrize(
    "change", [{"timeout": 0}, {"deadline": -1}, {"max_retries": -1}, {"numbers": "?"}]
)
def test_changed_checks(change: dict[str, Any]) -> None:
    """A change is checked as the first value was."""
    with pytest.raises(ConfigError) as caught:
        load().changed(**change)
    assert [caught.value.setting] == list(change)
