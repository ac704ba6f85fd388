"""`qmc completion`: the shell completes commands, options and values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from qmc_async.cli.running import reporting

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@reporting
def completion(context: click.Context, shell: str) -> None:
    """Print a script by which SHELL completes commands, options and values.

    For bash, add this line to ~/.bashrc:

    eval "$(qmc completion bash)"

    For zsh, the same with zsh to ~/.zshrc. For fish:

    qmc completion fish > ~/.config/fish/completions/qmc.fish

    Example: qmc completion bash
    """
    complete = get_completion_class(shell)
    assert complete is not None  # noqa: S101 - click has all three
    click.echo(complete(context.find_root().command, {}, "qmc", "_QMC_COMPLETE").source())
