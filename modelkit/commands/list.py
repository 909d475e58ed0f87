"""List what modelkit knows: formats, encodings, rules, architectures, recipes."""

from __future__ import annotations

import click

from modelkit.commands._options import json_option, run_safely

KINDS = ("formats", "encodings", "rules", "architectures", "recipes")


@click.command(
    epilog="""\b
Examples:
  modelkit list rules
  modelkit list encodings --json

\b
Exit codes: 0 listed, 2 usage."""
)
@click.argument("kind", type=click.Choice(KINDS))
@json_option
def command(kind: str, as_json: bool) -> None:
    """List every KIND with a line about each; `modelkit explain NAME` has its page."""
    run_safely(lambda: _list(kind, as_json=as_json))


def _list(kind: str, *, as_json: bool) -> int:
    from modelkit.operations import catalogue
    from modelkit.report import console
    from modelkit.report.text import table

    found = catalogue.parts(kind)
    if as_json:
        rows = [{"name": part.name, "title": part.title, **part.facts} for part in found]
        console.document({"schema_version": 1, kind: rows})
    else:
        console.data(table([(part.name, *part.facts.values(), part.title) for part in found]))
    return 0
