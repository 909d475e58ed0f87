"""Convert a model into another format or encoding."""

from __future__ import annotations

from typing import Any

import click

from modelkit.commands import _conversion
from modelkit.commands._options import conversion_options, encoding_names


@click.command(
    epilog="""\b
Examples:
  modelkit convert model/ model.gguf --to q8_0
  modelkit convert model.gguf model-hf/ --to bf16
  modelkit convert model-gptq/ model-mlx/ --to mlx
  modelkit convert model/ model.bin --to llama2c:group=64
  modelkit convert model.safetensors half.safetensors --to f16 --plan

\b
Exit codes: 0 done, 1 refused or failed, 2 usage, 130 interrupted."""
)
@click.argument("src")
@click.argument("dst")
@click.option(
    "--to",
    metavar="NAME",
    shell_complete=encoding_names,
    help="Encoding, recipe or layout: f32 f16 bf16 q8_0 q4_k_m pure:q4_0 gptq awq mlx compressed-tensors ...",
)
@conversion_options
def command(src: str, dst: str, to: str | None, **options: Any) -> None:
    """Convert SRC into DST; DST's ending chooses the format.

    .safetensors, .gguf, .bin (llama2.c), or a folder when it ends in a slash (Hugging Face). Without
    --to every tensor keeps its encoding. SRC is never changed, an existing DST is kept unless --force.
    """
    _conversion.run(src, dst, to, options)
