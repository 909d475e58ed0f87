"""Quantise a model: convert, with the encoding named."""

from __future__ import annotations

from typing import Any

import click

from modelkit.commands import _conversion
from modelkit.commands._options import conversion_options


@click.command(
    epilog="""\b
Examples:
  modelkit quantize model/ model.gguf --to q8_0
  modelkit quantize model.gguf small.gguf --to pure:q4_0
  modelkit quantize model/ model.bin --to llama2c:group=32

\b
Exit codes: 0 done, 1 refused or failed, 2 usage, 130 interrupted."""
)
@click.argument("src")
@click.argument("dst")
@click.option("--to", metavar="NAME", required=True, help="Encoding: q8_0 pure:q4_0 pure:q5_1 llama2c:group=64 ...")
@click.option(
    "--method",
    type=click.Choice(["rtn"]),
    default="rtn",
    show_default=True,
    help="How codes are found: rtn = round to nearest, ggml types as ggml does it.",
)
@conversion_options
def command(src: str, dst: str, to: str, method: str, **options: Any) -> None:
    """Quantise SRC into DST; DST's ending chooses the format."""
    _conversion.run(src, dst, to, options)
