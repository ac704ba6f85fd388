"""What holds for every command: help with an example that is true, exit statuses, completion."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from qmc_async.cli import cli
from qmc_async.cli.running import EXIT_STATUSES

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence
    from pathlib import Path

    from qmc_async.sandbox import Sandbox


def _all(group: click.Group, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from _all(command, *above, name)


COMMANDS = dict(_all(cli))
PRINTING = {  # what prints data, and so prints it to programs as well
    *("call", "doctor", "end", "listen", "recording", "report", "sign", "trigger", "verify"),
    *("events list", "events show", "events dead"),
}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_example_of_a_command_is_true(words: tuple[str, ...]) -> None:
    """`--help` ends with one: it is this command, and its options and arguments are taken."""
    result = CliRunner().invoke(cli, [*words, "--help"])
    assert result.exit_code == 0
    assert "Example: qmc " in result.stdout
    command: click.Command = cli
    examples = re.findall(r"^ *Example: (qmc .*)$", COMMANDS[words].help or "", re.MULTILINE)
    [example] = examples
    context, rest = None, shlex.split(example)
    while rest:
        name, *rest = rest
        context = command.make_context(name, list(rest), parent=context)
        if not isinstance(command, click.Group):
            break
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, rest = found, [found.name or "", *rest]
    expected = COMMANDS[words]
    assert command is expected or command in getattr(expected, "commands", {}).values()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_prints_data_prints_json(words: tuple[str, ...]) -> None:
    """`--json` is there where a program has something to read, and nowhere else."""
    has_json = any("--json" in param.opts for param in COMMANDS[words].params)
    assert has_json == (" ".join(words) in PRINTING)


def _status(*words: str) -> int:
    return CliRunner().invoke(cli, words).exit_code


@pytest.mark.usefixtures("platform")
def test_every_exit_status(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """Each that is documented is produced, in `qmc --help` as well."""
    number, port = "13987654321", str(unused_tcp_port)
    statuses = [
        _status("call", number, "13912345678"),
        _status("end", "unknown"),
        _status("call", number, "no number"),
        _status("call", number, "13912340031"),
        _status("call", number, "13912340021", "--wait", "--timeout", "0.1", "--port", port),
    ]

    def interrupt(work: Coroutine[Any, Any, None]) -> None:
        work.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupt)
    statuses.append(_status("end", "1"))
    assert statuses == list(EXIT_STATUSES)
    text = CliRunner().invoke(cli, ["--help"]).stdout
    for status, meaning in EXIT_STATUSES.items():
        assert re.search(rf"^ +{status}  {meaning}$", text, re.MULTILINE)


# --- errors that nobody expected ---------------------------------------------------------------


@pytest.fixture
def _a_mistake(monkeypatch: pytest.MonkeyPatch, platform: Sandbox) -> None:
    del platform

    def wrong(*_: object) -> None:
        raise KeyError("13912345678")

    monkeypatch.setattr("qmc_async.client.AsyncQmcClient.end_call", wrong)


@pytest.mark.usefixtures("_a_mistake")
def test_a_mistake_of_ours_is_one_line() -> None:
    """It says what and where, without its text, and how to see more."""
    result = CliRunner().invoke(cli, ["end", "1"])
    assert result.exit_code == 1
    line, hint = result.stderr.splitlines()
    assert re.fullmatch(r"qmc: KeyError, which nobody expected, in cli/calls\.py, line \d+", line)
    assert "QMC_TRACEBACK=1" in hint
    assert "13912345678" not in result.output


@pytest.mark.usefixtures("_a_mistake")
def test_its_traceback_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `QMC_TRACEBACK` it is raised."""
    monkeypatch.setenv("QMC_TRACEBACK", "1")
    assert isinstance(CliRunner().invoke(cli, ["end", "1"]).exception, KeyError)


# --- hints -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "setting", "hint"),
    [
        (("call", "13987654321", "13912340031"), {}, "do not place it again"),
        (("end", "1"), {"QMC_APP_SECRET": "wrong"}, "qmc doctor"),
        (
            ("end", "1"),
            {"QMC_BASE_URL": "http://127.0.0.1:1", "QMC_MAX_RETRIES": "0"},
            "qmc doctor",
        ),
        (("end", "1"), {"QMC_APP_SECRET": ""}, "qmc sandbox"),
    ],
)
@pytest.mark.usefixtures("platform")
def test_what_to_do_stands_below(words: Sequence[str], setting: dict[str, str], hint: str) -> None:
    """Where something can be done, a second line says what."""
    result = CliRunner(env=setting).invoke(cli, words)
    line, advice = result.stderr.splitlines()
    assert line.startswith("qmc: ")
    assert advice.startswith("hint: ")
    assert hint in advice


# --- completion --------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    """It asks `qmc` itself, by the variable that click has for it."""
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert f"_QMC_COMPLETE={shell}_complete" in result.stdout


def test_no_such_shell() -> None:
    """It is wrong usage, and says which there are."""
    result = CliRunner().invoke(cli, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "zsh" in result.stderr


BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("tr", {"trigger"}),
        ("trigger Callee", {"CalleeBusy", "CalleeNoAnswer", "CalleeFailure"}),
        ("trigger callerb", {"CallerBusy"}),
        ("listen --fo", {"--forward"}),
        ("completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_in_bash(typed: str, completed: set[str], tmp_path: Path) -> None:
    """Commands, options and reasons complete."""
    script = tmp_path / "completion"
    script.write_text(CliRunner().invoke(cli, ["completion", "bash"]).stdout)
    words = ["qmc", *typed.split(" ")]
    program = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(words)}); "
        f'COMP_CWORD={len(words) - 1}; _qmc_completion qmc; printf "%s\\n" "${{COMPREPLY[@]}}"; '
        "complete -p qmc"
    )
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = subprocess.run(  # noqa: S603 - the program is above
        [BASH or sys.executable, "--norc", "-c", program],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    *found, registered = done.stdout.splitlines()
    assert (set(found), done.stderr) == (completed, "")
    assert registered == "complete -o nosort -F _qmc_completion qmc"
