"""Cut a model into files of limited size."""

from __future__ import annotations

from typing import Any

import click

from modelkit.commands import _regrouping
from modelkit.commands._options import run_safely
from modelkit.commands._regrouping import regrouping_options


@click.command(
    epilog="""\b
Examples:
  modelkit shard model/ sharded/ --max-size 5GB
  modelkit shard model.gguf model-split.gguf --max-size 2GB
  modelkit shard model.gguf split/ --max-tensors 128 --plan

\b
Exit codes: 0 done, 1 refused or failed, 2 usage, 130 interrupted."""
)
@click.argument("src")
@click.argument("dst")
@click.option("--max-size", metavar="SIZE", help="Bytes of the largest file: 5GB, 4GiB.")
@click.option("--max-tensors", type=click.IntRange(min=1), metavar="N", help="Tensors in a file at most.")
@regrouping_options
def command(src: str, dst: str, max_size: str | None, max_tensors: int | None, **options: Any) -> None:
    """Cut SRC into files of limited size under DST, in SRC's own format.

    DST/ takes the shards of a Hugging Face folder with their index, or those of a GGUF; NAME.gguf stands for
    NAME-00001-of-00003.gguf and so on. No tensor is split and none is changed: the model digest before and
    after is the same, and is printed. SRC is never changed.
    """
    if (max_size is None) == (max_tensors is None):
        raise click.UsageError("give one of --max-size and --max-tensors")

    def work() -> int:
        from modelkit.formats import Limit
        from modelkit.operations.convert import parse_size
        from modelkit.operations.shard import Request, prepare

        limit = Limit(parse_size(max_size) if max_size is not None else None, max_tensors)
        request = Request(
            src, dst, limit, options["resume"], options["force"], options["workers"], digest=not options["no_digest"]
        )
        return _regrouping.run(prepare, request, options)

    run_safely(work)
