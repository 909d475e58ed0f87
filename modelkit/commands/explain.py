"""Explain a rule, an encoding, a format, an architecture or a recipe."""

from __future__ import annotations

import click

from modelkit.commands._options import json_option, run_safely


def _names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: file names only, nothing is imported."""
    from modelkit.encodings import ENCODINGS
    from modelkit.formats import FORMATS
    from modelkit.rules import RULES, word

    return sorted(name for name in (*map(word, RULES), *ENCODINGS, *FORMATS) if name.startswith(incomplete))


@click.command(
    epilog="""\b
Examples:
  modelkit explain overlapping-tensors
  modelkit explain q8_0
  modelkit explain gguf --json

\b
Exit codes: 0 explained, 2 nothing has that name."""
)
@click.argument("name", metavar="RULE|ENCODING|FORMAT|...", shell_complete=_names)
@json_option
def command(name: str, as_json: bool) -> None:
    """Print the page of a rule, an encoding, a format, an architecture or a recipe."""
    run_safely(lambda: _explain(name, as_json=as_json))


def _explain(name: str, *, as_json: bool) -> int:
    from modelkit.operations import catalogue
    from modelkit.report import console, pages

    found = catalogue.explain(name)
    if as_json:
        console.document({"schema_version": 1, "name": name, "pages": [part.to_json() for part in found]})
    else:
        console.data(pages.lines(found))
    return 0
