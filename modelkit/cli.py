"""The command line: a click group whose commands are the files of `commands/`, each loaded when called."""

from __future__ import annotations

import io
import os
import sys

import click

from modelkit import __version__
from modelkit.shelf import Shelf

COMMANDS: Shelf[click.Command] = Shelf("modelkit.commands", "command")


class Commands(click.Group):
    """Lists the shelf of commands without importing more than is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return COMMANDS.get(name)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """What every command is for, its first paragraph whole: click would cut it to what fits into one line."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, (COMMANDS[name].help or "").partition("\n\n")[0]) for name in COMMANDS])

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; what is near to a command's name is answered with it."""
        try:
            return super().resolve_command(context, arguments)
        except click.UsageError as problem:
            from difflib import get_close_matches

            close = get_close_matches(arguments[0], COMMANDS, n=2)
            meant = f" Did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"{problem.message}{meant}", problem.ctx) from None


def say_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
    """Print the version and which kernels do the work, and exit."""
    if not wanted or context.resilient_parsing:
        return
    from modelkit import kernels
    from modelkit.errors import ModelkitError

    try:
        work = kernels.in_use()
    except ModelkitError as error:
        work = str(error)
    click.echo(f"modelkit {__version__}, kernels: {work}")
    context.exit()


@click.command(
    cls=Commands,
    epilog="""\b
Exit codes: 0 done and clean, 1 refused, failed or findings, 2 usage, 130 interrupted.
Example: modelkit convert model/ model.gguf --to q8_0""",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=say_version, help="Show the version."
)
def group() -> None:
    """The toolkit for model weight files: inspect, convert, quantise."""


def foreign_distribution() -> str | None:
    """The folder of another project's distribution that installs the same package and command, if any."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    for name in names:
        if name.startswith("modelkit-") and name.endswith((".dist-info", ".egg-info")):
            return os.path.join(folder, name)
    return None


def asked(arguments: list[str]) -> list[str]:
    """The options of a call that did not get as far as to be understood: all before a bare --."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def main() -> None:
    """The entry point of the `modelkit` command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`): what is said is heard by nobody
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a letter that the terminal's encoding lacks is written as \xe9
        sys.stdout.reconfigure(errors="backslashreplace")
    foreign = foreign_distribution()
    if foreign:
        sys.stderr.write(
            f"note: another project named modelkit is installed in the same place ({foreign}) and shares this command\n"
            "  fix: pip uninstall modelkit, then pip install --force-reinstall modelkit-weights (or use pipx)\n"
        )
    try:
        code = group.main(prog_name="modelkit", standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        code = problem.exit_code
        if "--json" in asked(sys.argv[1:]):
            from modelkit.report import console

            console.error_document(problem.format_message())
    except click.Abort:  # Ctrl-C before a command has begun
        sys.stderr.write("interrupted\n")
        code = 130
    except OSError as problem:  # the help did not get out
        sys.stderr.write(f"error: output: {problem.strerror or problem}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
