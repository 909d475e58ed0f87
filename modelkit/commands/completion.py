"""Completion for the shell: commands, options, and the words of --to, --format, --level and rule ids."""

from __future__ import annotations

import click

from modelkit.commands._options import json_option, run_safely

SHELLS = ("bash", "zsh", "fish")
WHERE = {
    "bash": 'eval "$(modelkit completion bash)"      # in ~/.bashrc',
    "zsh": 'eval "$(modelkit completion zsh)"       # in ~/.zshrc, after compinit',
    "fish": "modelkit completion fish | source       # in ~/.config/fish/config.fish",
}


@click.command(
    epilog="""\b
Examples:
  eval "$(modelkit completion bash)"      # in ~/.bashrc
  eval "$(modelkit completion zsh)"       # in ~/.zshrc, after compinit
  modelkit completion fish > ~/.config/fish/completions/modelkit.fish

\b
Exit codes: 0 printed, 2 usage."""
)
@click.argument("shell", type=click.Choice(SHELLS))
@json_option
def command(shell: str, as_json: bool) -> None:
    """Print the script that lets SHELL complete modelkit's words."""
    run_safely(lambda: _print(shell, as_json=as_json))


def _print(shell: str, *, as_json: bool) -> int:
    from click.shell_completion import get_completion_class

    from modelkit.report import console

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - SHELLS are those that click knows
    script = kind.source_template % {
        "complete_func": "_modelkit_completion",
        "complete_var": "_MODELKIT_COMPLETE",
        "prog_name": "modelkit",
    }
    if as_json:
        console.document({"schema_version": 1, "shell": shell, "script": script, "where": WHERE[shell]})
    else:
        console.data([f"# {WHERE[shell]}", script])
    return 0
