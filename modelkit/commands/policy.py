"""Policies: what a project allows its models to be."""

from __future__ import annotations

import click

from modelkit.commands._options import json_option, run_safely


@click.group(
    epilog="""\b
Examples:
  modelkit policy init model/
  modelkit policy init model.gguf -o models/modelkit.toml --json

\b
Exit codes: 0 written, 1 refused, 2 usage."""
)
def command() -> None:
    """Say what models may be: formats, encodings, architectures, digests. `validate` reads it."""


@command.command(
    epilog="""\b
Examples:
  modelkit policy init model/
  modelkit policy init model.gguf -o models/modelkit.toml

\b
Exit codes: 0 written, 1 refused: the model has errors, or FILE is there; 2 usage."""
)
@click.argument("model")
@click.option("-o", "--output", metavar="FILE", default="modelkit.toml", show_default=True, help="Where to write it.")
@click.option("--force", is_flag=True, help="Replace an existing FILE.")
@json_option
def init(model: str, output: str, force: bool, as_json: bool) -> None:
    """Pin a good MODEL: the encoding and shape of every tensor and the digest of every file, like a lock file.

    The model is checked in full first; one with errors is not pinned.
    """
    run_safely(lambda: _init(model, output, force=force, as_json=as_json))


def _init(model: str, output: str, *, force: bool, as_json: bool) -> int:
    from modelkit.operations import policy_init
    from modelkit.report import console
    from modelkit.report.text import escape

    text = policy_init.init(model, output, force=force)
    pins = text.count('\nsha256 = "')
    if as_json:
        console.document({"schema_version": 1, "policy": output, "files": pins})
    else:
        console.data([f"{escape(output)}: pins {pins} {'file' if pins == 1 else 'files'} of {escape(model)}"])
    return 0
