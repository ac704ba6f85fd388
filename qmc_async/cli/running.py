"""How a command runs: its errors are one line, perhaps a hint, and an exit status."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import sys
import traceback
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec

import click
from rich.console import Console

from qmc_async.errors import (
    ArgumentError,
    AuthenticationError,
    CallOutcomeUnknown,
    ConfigError,
    QmcError,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

__all__ = [
    "CALLBACK_PORT",
    "EXIT_STATUSES",
    "FAILED",
    "NO_NOTIFICATION",
    "UNKNOWN",
    "WRONG",
    "console_for",
    "fail",
    "reporting",
    "running",
]

P = ParamSpec("P")

FAILED: Final = 1
WRONG: Final = 2
UNKNOWN: Final = 3
NO_NOTIFICATION: Final = 4
_INTERRUPTED: Final = 130

EXIT_STATUSES: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "done",
        FAILED: "it failed, or the answer is no",
        WRONG: "the command or a setting is wrong; nothing was sent",
        UNKNOWN: "nobody knows whether the call was placed",
        NO_NOTIFICATION: "no notification came in time",
        _INTERRUPTED: "stopped by Ctrl-C",
    }
)
"""What each exit status means."""

_TRACEBACK: Final = "QMC_TRACEBACK"
_PACKAGE: Final = Path(__file__).parents[1]
_WIDTH_OF_A_PIPE: Final = 120

CALLBACK_PORT: Final = 8080
"""Where `qmc call --wait` listens, and so where `qmc sandbox` sends its notifications."""


def running(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a command of a coroutine function."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(command(*args, **kwargs))

    return reporting(run)


def reporting(command: Callable[P, None]) -> Callable[P, None]:
    """Make every error of a command one line and an exit status."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (BrokenPipeError, click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click knows how to end with them; the first is a reader that has enough
        except (QmcError, OSError) as error:
            fail(str(error), _status(error), hint=_hint(error))
        except KeyboardInterrupt:
            sys.exit(_INTERRUPTED)
        except Exception as error:
            if os.environ.get(_TRACEBACK):
                raise
            # Not its text, which may be about anything.
            fail(
                f"{type(error).__name__}, which nobody expected, in {_place(error)}",
                hint=f"it is a mistake of qmc-async; with {_TRACEBACK}=1 it shows its traceback",
            )

    return run


def fail(message: str, status: int = FAILED, *, hint: str = "") -> NoReturn:
    """End the program with one line on the standard error, one of what to do, and a status."""
    click.echo(f"qmc: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(status)


def _hint(error: QmcError | OSError) -> str:
    match error:
        case ConfigError(setting="QMC_APP_ID" | "QMC_APP_SECRET" as name):
            is_set = os.environ.get(name, "").strip()
            return "" if is_set else "to try it without an account, run qmc sandbox"
        case CallOutcomeUnknown():
            return "do not place it again: if it was placed, qmc listen shows its notification"
        case AuthenticationError() | TransportError():
            return "qmc doctor tells what is wrong"
        case TimeoutError():
            return "qmc doctor --callback-url URL tells whether the address leads here"
        case OSError(errno=errno.EADDRINUSE):
            return "something listens there already: stop it, or choose another --port"
        case _:
            return ""


def _place(error: Exception) -> str:
    """The last line of ours that it went through."""
    ours = [
        f"{Path(frame.filename).relative_to(_PACKAGE)}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(_PACKAGE)
    ]
    return ours[-1]  # `reporting` itself is one


def _status(error: QmcError | OSError) -> int:
    match error:
        case CallOutcomeUnknown():
            return UNKNOWN
        case ConfigError() | ArgumentError():
            return WRONG
        case TimeoutError():
            return NO_NOTIFICATION
        case _:
            return FAILED


def console_for(*, stderr: bool = False) -> Console:
    """A console that shows text as it is."""
    console = Console(stderr=stderr, highlight=False)
    # A pipe has no width, and a table that breaks its lines for 80 columns cannot be searched.
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=_WIDTH_OF_A_PIPE)
    return console
