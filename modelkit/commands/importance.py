"""Compute which columns of each matrix matter most."""

from __future__ import annotations

from typing import Any

import click

from modelkit.commands._options import json_option, quiet_option, run_safely


@click.command(
    epilog="""\b
Examples:
  modelkit importance model/ --text book.txt -o imatrix.gguf
  modelkit importance model.gguf --text book.txt -o imatrix.gguf --chunks 100
  modelkit importance model/ --tokens-file ids.npy -o imatrix.gguf --process-output
  modelkit quantize model/ small.gguf --to q4_k_m --importance imatrix.gguf

\b
Exit codes: 0 written, 1 refused or failed, 2 usage, 130 interrupted."""
)
@click.argument("model")
@click.option("--text", metavar="FILE", help="The text to measure on: like what the model will be used for.")
@click.option("--tokens-file", metavar="IDS.npy", help="Token ids instead: integers [tokens] or [rows, tokens].")
@click.option("-o", "--output", metavar="FILE", required=True, help="Where to write it.")
@click.option("--tokenizer", metavar="FILE", help="A tokenizer that lies elsewhere (json, model, bin).")
@click.option(
    "--chunk",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens that see each other; a text begins anew in each chunk.",
)
@click.option("--chunks", type=click.IntRange(1), metavar="N", help="At most so many. [default: all of the text]")
@click.option("--process-output", "head", is_flag=True, help="Also the matrix that makes the logits.")
@click.option("--force", is_flag=True, help="Replace an existing FILE.")
@quiet_option
@json_option
def command(as_json: bool, quiet: bool, **options: Any) -> None:
    """Compute the importance matrix of MODEL: what `quantize --importance` and llama-quantize read.

    Runs the text through the model, one layer in memory at a time, and adds up the squares of what each column
    of each matrix is multiplied by. Any format and encoding that `run` takes; names in the file are GGUF's.
    """
    run_safely(lambda: _body(options, quiet=quiet, as_json=as_json))


def _body(options: dict[str, Any], *, quiet: bool, as_json: bool) -> int:
    from modelkit.operations.compute_importance import Request, compute
    from modelkit.report import console, importance
    from modelkit.report.progress import progress
    from modelkit.runner.threads import use_free_cores

    use_free_cores()
    with progress("importance", None, quiet=quiet) as bar:
        found = compute(Request(**options), bar)
    for text in () if quiet else found.notes:
        console.note(text)
    if as_json:
        console.document(importance.document(found))
    elif not quiet:
        console.data(importance.lines(found))
    return 0
