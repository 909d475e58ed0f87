"""Join the shards of a model into one file."""

from __future__ import annotations

from typing import Any

import click

from modelkit.commands import _regrouping
from modelkit.commands._options import run_safely
from modelkit.commands._regrouping import regrouping_options


@click.command(
    epilog="""\b
Examples:
  modelkit merge sharded/ merged/
  modelkit merge sharded/ model.safetensors
  modelkit merge model-00001-of-00003.gguf model.gguf

\b
Exit codes: 0 done, 1 refused or failed, 2 usage, 130 interrupted."""
)
@click.argument("src")
@click.argument("dst")
@regrouping_options
def command(src: str, dst: str, **options: Any) -> None:
    """Join the shards of SRC into one file at DST, in SRC's own format.

    SRC is a folder of shards, or any shard of a GGUF. Shards that are cut off, missing, of another set or of
    another model are refused. Nothing is changed: the model digest before and after is the same, and is
    printed. SRC is never changed.
    """

    def work() -> int:
        from modelkit.operations.merge import prepare
        from modelkit.operations.shard import NO_LIMIT, Request

        request = Request(
            src, dst, NO_LIMIT, options["resume"], options["force"], options["workers"], digest=not options["no_digest"]
        )
        return _regrouping.run(prepare, request, options)

    run_safely(work)
