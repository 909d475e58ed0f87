"""Export a model as a folder of two files that needs nothing else."""

from __future__ import annotations

from typing import Any

import click

from modelkit.commands import _conversion
from modelkit.commands._options import conversion_options


@click.command(
    epilog="""\b
Examples:
  modelkit export model/ out/ --two-files
  python out/run.py out/model.gguf "Once upon a time"
  modelkit export model.gguf out/ --two-files --to f16 --force

\b
Exit codes: 0 done, 1 refused or failed, 2 usage, 130 interrupted."""
)
@click.argument("model")
@click.argument("out")
@click.option("--two-files", is_flag=True, help="Parameters and a program: model.gguf and run.py.")
@click.option(
    "--to",
    type=click.Choice(["f32", "f16", "bf16", "q8_0", "pure:q4_0", "pure:q4_1"], case_sensitive=False),
    default="q8_0",
    show_default=True,
    metavar="NAME",
    help="Encoding: f32 f16 bf16 q8_0 pure:q4_0 pure:q4_1.",
)
@conversion_options
def command(model: str, out: str, to: str, two_files: bool, **options: Any) -> None:
    """Make a folder OUT of exactly two files out of MODEL.

    model.gguf holds parameters and tokenizer. run.py is one program to read and to run: Python 3.11 and
    numpy are all it needs. It runs the families llama, qwen2 and qwen3; others are refused.
    """
    if not two_files:
        raise click.UsageError("say what to export: --two-files")
    _conversion.run(model, out, to, options, operation="export")
