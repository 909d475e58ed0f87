"""What commands share: options, and the one place where errors become words and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from modelkit.errors import CannotAccess, ModelkitError

C = TypeVar("C", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.")


def encoding_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: recipes and encodings by their file names; nothing is imported."""
    from pathlib import Path

    from modelkit.encodings import ENCODINGS

    recipes = (path.stem for path in (Path(__file__).parent.parent / "recipes").glob("*.toml"))
    names = {*recipes, *ENCODINGS, *(f"pure:{name}" for name in ENCODINGS)}
    return sorted(name for name in names if name.startswith(incomplete))


def conversion_options(function: C) -> C:
    """The options that every conversion has."""
    for option in reversed(
        (
            click.option("--recipe", metavar="FILE", help="Instead of --to: a TOML file (docs/reference/recipes.md)."),
            click.option("--tokenizer", metavar="FILE", help="A tokenizer that lies elsewhere (json, model, bin)."),
            click.option("--plan", "plan_only", is_flag=True, help="Show what would be done; write nothing."),
            click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped."),
            click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Threads. [default: cores]"),
            click.option("--memory", metavar="SIZE", default="256MiB", show_default=True, help="For work in flight."),
            click.option("--allow-requantize", is_flag=True, help="Quantise what is quantised already."),
            click.option("--requantize-rest", is_flag=True, help="Of a quantised source, quantise the floats too."),
            click.option("--receipt", metavar="FILE", help="Write digests, versions and verdicts as JSON."),
            click.option("--force", is_flag=True, help="Replace an existing DST or --receipt FILE."),
            quiet_option,
            json_option,
        )
    ):
        function = option(function)
    return function


def _drop_output() -> None:
    """What could not be written is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what to do now."""


def _document(message: str, fix: str = "", rule: str = "") -> None:
    """The error as JSON, where the call asked for JSON."""
    from modelkit.report import console

    context = click.get_current_context(silent=True)
    asked = context.params if context is not None else {}
    formats = asked.get("formats", ())  # of validate: the last ones go to files
    if not asked.get("as_json") and "json" not in formats[: len(formats) - len(asked.get("outputs", ()))]:
        return
    try:
        console.error_document(message, fix, rule)
    except OSError:
        _drop_output()  # nobody listens; the exit code says it


def run_safely(work: Callable[[], int]) -> None:
    """Run a command's body and exit: no traceback for anything that an input or the system can cause.

    Who asked for JSON finds one document on stdout in any case; the words for people are on stderr.
    """
    from modelkit.report import console

    try:
        code = work()
    except ModelkitError as problem:
        console.error(problem)
        code = problem.exit_code
        _document(problem.message, problem.fix, getattr(problem, "rule", ""))
    except KeyboardInterrupt as problem:
        words = f"interrupted{problem}"
        sys.stderr.write(f"{words}\n")
        code = 130
        _document(words)
    except BrokenPipeError:
        _drop_output()
        code = 0
    except OSError as problem:  # the library explains its own; what is left is the way out: a full disk, mostly
        _drop_output()
        where = "output" if problem.filename is None else os.fsdecode(problem.filename)
        console.error(CannotAccess(f"{where}: {problem.strerror or problem}"))
        code = 1
    sys.exit(code)
