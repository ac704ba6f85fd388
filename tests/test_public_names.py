"""What the package offers: the names as they are promised, and a docstring for each."""

from __future__ import annotations

import builtins
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import qmc_async
from qmc_async import errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

MODULES: dict[str, ModuleType] = {
    name: importlib.import_module(name)
    for name in [
        "qmc_async",
        *(found.name for found in pkgutil.walk_packages(qmc_async.__path__, "qmc_async.")),
    ]
}
_LISTED = {name: list(getattr(module, "__all__", ())) for name, module in MODULES.items()}
_IN_RAISES = re.compile(r"^ *((?:[A-Z]\w+)(?:, [A-Z]\w+)*):", re.MULTILINE)


def _public() -> Iterator[tuple[str, object]]:
    """Every function and class that a module lists, under its whole name."""
    for module_name, names in _LISTED.items():
        for name in names:
            thing = getattr(MODULES[module_name], name)
            if inspect.isclass(thing) or inspect.isroutine(thing):
                yield f"{module_name}.{name}", thing


def _members() -> Iterator[tuple[str, object]]:
    """Every public method and property that a listed class defines itself."""
    for class_name, cls in _public():
        if inspect.isclass(cls):
            for name, member in vars(cls).items():
                is_code = inspect.isroutine(member) or isinstance(member, property)
                if is_code and not name.startswith("_"):
                    yield f"{class_name}.{name}", member


PUBLIC = dict(_public())
MEMBERS = dict(_members())
EXCEPTIONS = {
    cls.__name__
    for cls in [*vars(builtins).values(), *PUBLIC.values()]
    if inspect.isclass(cls) and issubclass(cls, Exception)
}


def test_the_public_names() -> None:
    """These are the names that users import; one that goes breaks their program."""
    assert qmc_async.__all__ == [
        "ApiError",
        "ArgumentError",
        "AsyncQmcClient",
        "AuthenticationError",
        "Call",
        "CallOutcomeUnknown",
        "CallState",
        "CallbackServer",
        "ConfigError",
        "Conflict",
        "Credentials",
        "DecodeError",
        "Delivery",
        "Disconnected",
        "DuplicateCall",
        "ExchangeError",
        "LedgerEntry",
        "NotificationMissing",
        "Overdue",
        "Postpone",
        "QmcError",
        "RateLimited",
        "Reason",
        "Recording",
        "RecordingArchive",
        "RecordingError",
        "RecordingFile",
        "RecordingResult",
        "Refusal",
        "Reject",
        "Retry",
        "Signer",
        "StoreError",
        "TransportError",
        "UnknownNotification",
        "mask",
        "normalise",
    ]


def test_every_exception_is_public() -> None:
    """What the library raises can be caught by a name of the package itself."""
    assert set(errors.__all__) <= set(qmc_async.__all__)


@pytest.mark.parametrize("name", [name for name, listed in _LISTED.items() if listed])
def test_listed_names_exist(name: str) -> None:
    """What a module lists is there, listed once, in order, and not private."""
    listed = _LISTED[name]
    assert [one for one in listed if not hasattr(MODULES[name], one)] == []
    assert len(set(listed)) == len(listed)
    assert [one for one in listed if one.startswith("_")] == []
    # Ruff's order: constants, classes, then the rest.
    assert listed == sorted(listed, key=lambda one: (not one.isupper(), not one[0].isupper(), one))


@pytest.mark.parametrize("name", MODULES)
def test_listed_names_are_said(name: str) -> None:
    """Every module says what it offers, or is a program; names of our own are listed at home."""
    if name.endswith("__main__"):
        return
    assert hasattr(MODULES[name], "__all__")
    for listed in _LISTED[name]:
        thing = getattr(MODULES[name], listed)
        is_defined = inspect.isclass(thing) or inspect.isroutine(thing)  # a value has no home
        home = thing.__module__ if is_defined else name
        if home in _LISTED:
            assert listed in _LISTED[home]


def test_star_import() -> None:
    """`import *` gives exactly the public names, and the objects that modules define."""
    names: dict[str, object] = {}
    exec("from qmc_async import *", names)  # noqa: S102 - our own line
    del names["__builtins__"]
    assert sorted(names) == sorted(qmc_async.__all__)
    assert all(names[name] is getattr(qmc_async, name) for name in names)


def test_import_is_quiet_and_small() -> None:
    """Importing the package prints and starts nothing, and loads neither sandbox nor program.

    Nor does it load what only a server needs.
    """
    program = (
        "import sys, threading, qmc_async\n"
        "from qmc_async import AsyncQmcClient\n"
        "ours = {f'qmc_async.{name}' for name in ('callback', 'cli', 'demo', 'sandbox', 'store')}\n"
        "others = {*ours, 'sqlalchemy', 'phonenumbers', 'obstore'}\n"
        "print(sorted(others & set(sys.modules)), threading.active_count())"
    )
    done = subprocess.run(  # noqa: S603 - our own line
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == ("[] 1\n", "")


def test_what_comes_later_is_there() -> None:
    """Each public name is found, and shown, before it was imported; another one is not."""
    program = (
        "import qmc_async\n"
        "print(set(qmc_async.__all__) - set(dir(qmc_async)))\n"
        "print([name for name in qmc_async.__all__ if not hasattr(qmc_async, name)])\n"
        "try:\n"
        "    from qmc_async import CallbackSever\n"
        "except ImportError as error:\n"
        "    print(error.name)"
    )
    done = subprocess.run(  # noqa: S603 - our own line
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "set()\n[]\nqmc_async\n"
    with pytest.raises(AttributeError, match="no attribute 'CallbackSever'"):
        _ = qmc_async.CallbackSever  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", MODULES)
def test_modules_have_docstrings(name: str) -> None:
    """Every module says what it is about."""
    assert (MODULES[name].__doc__ or "").strip()


def test_something_is_public() -> None:
    """The search for public things itself works."""
    assert {"qmc_async.CallbackServer", "qmc_async.store.store.Store"} <= set(PUBLIC)
    assert {"qmc_async.CallbackServer.url", "qmc_async.Signer.verify"} <= set(MEMBERS)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_things_have_docstrings(name: str) -> None:
    """Every class and function that a module lists has a docstring of its own."""
    doc = getattr(PUBLIC[name], "__dict__", {}).get("__doc__") or getattr(
        PUBLIC[name], "__doc__", None
    )
    assert isinstance(doc, str)
    assert doc.strip()
    # What `attrs` and `dataclasses` would write, were there nothing.
    assert not doc.startswith(name.rpartition(".")[2] + "(")


@pytest.mark.parametrize("name", MEMBERS)
def test_public_methods_have_docstrings(name: str) -> None:
    """Every public method and property of such a class has one, too."""
    assert (inspect.getdoc(MEMBERS[name]) or "").strip()


@pytest.mark.parametrize("name", [*PUBLIC, *MEMBERS])
def test_exceptions_in_docstrings_exist(name: str) -> None:
    """What a docstring's "Raises" names is an exception of Python or of this library."""
    doc = inspect.getdoc({**PUBLIC, **MEMBERS}[name]) or ""
    _, found, raises = doc.partition("\nRaises:\n")
    section = re.split(r"\n\S", raises)[0] if found else ""
    for line in _IN_RAISES.findall(section):
        for exception in line.split(", "):
            assert exception in EXCEPTIONS
