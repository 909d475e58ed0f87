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
  modelkit quantize model/ model-gptq/ --to gptq --group-size 64
  modelkit quantize model/ model-w4/ --to compressed-tensors --asymmetric
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
    help="Recipe, encoding or layout: q4_k_m q8_0 pure:q4_0 gptq awq mlx compressed-tensors llama2c:group=64 ...",
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
    type=click.Choice(["rtn", "mse"]),
    help="How codes are found: rtn = round to nearest, mse = search of clipped ranges. [default: mse]",
)
@click.option("--group-size", type=click.IntRange(1, 65_536), metavar="N", help="Weights that share a scale.")
@click.option("--symmetric/--asymmetric", default=None, help="Zero in the middle of the codes, or each group its own.")
@conversion_options
def command(
    src: str, dst: str, to: str, method: str | None, group_size: int | None, symmetric: bool | None, **options: Any
) -> None:
    """Quantise SRC into DST; DST's ending chooses the format.

    A layout (gptq awq mlx compressed-tensors) takes parameters after a colon, or as options. Of a source that is
    quantised already only the quantised weights move.
    """
    if not to and not options["recipe"]:
        raise click.UsageError("say what to quantise into: --to NAME or --recipe FILE")
    if not to and (method, group_size, symmetric) != (None, None, None):
        raise click.UsageError("a recipe says the parameters of its encodings itself")
    words = {"group": group_size, "symmetric": symmetric, "method": method}
    _conversion.run(src, dst, to, {**options, "words": words})
