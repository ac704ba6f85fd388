"""How a command runs: its errors are one line and an exit status."""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec

import click
from rich.console import Console

from qmc_async.errors import ArgumentError, CallOutcomeUnknown, ConfigError, QmcError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = [
    "CALLBACK_PORT",
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
        except BrokenPipeError:
            raise  # whoever read the output has enough, which click knows how to end with
        except (QmcError, OSError) as error:
            fail(str(error), _status(error))
        except KeyboardInterrupt:
            sys.exit(_INTERRUPTED)

    return run


def fail(message: str, status: int = FAILED) -> NoReturn:
    """End the program with one line on the standard error, and a status."""
    click.echo(f"qmc: {message}", err=True)
    sys.exit(status)


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
