"""Quantise a model: convert, with the encoding named."""

from __future__ import annotations

from typing import Any

import click

from modelkit.commands import _conversion
from modelkit.commands._options import conversion_options, encoding_names


@click.command(
    epilog="""\b
Examples:
  modelkit quantize model/ model.gguf --to q4_k_m
  modelkit quantize model.gguf small.gguf --to pure:q4_0
  modelkit quantize model.gguf small.gguf --to q4_k_m --keep attn_v=q8_0
  modelkit quantize model.gguf small.gguf --recipe mine.toml
  modelkit quantize model.gguf small.gguf --to q4_k_m --importance imatrix.gguf
  modelkit quantize model/ model.bin --to llama2c:group=32

\b
Exit codes: 0 done, 1 refused or failed, 2 usage, 130 interrupted."""
)
@click.argument("src")
@click.argument("dst")
@click.option(
    "--to",
    metavar="NAME",
    shell_complete=encoding_names,
    help="Recipe or encoding: q4_k_m q6_k q8_0 pure:q4_0 llama2c:group=64 ...",
)
@click.option(
    "--keep",
    metavar="PATTERN=NAME",
    multiple=True,
    help="The encoding of tensors whose written name the regular expression finds. May be given again.",
)
@click.option("--importance", metavar="FILE", help="An imatrix file of llama.cpp: which columns matter most.")
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
    if not to and not options["recipe"]:
        raise click.UsageError("say what to quantise into: --to NAME or --recipe FILE")
    _conversion.run(src, dst, to, options)
