"""Run a model with the reference runner."""

from __future__ import annotations

from typing import Any

import click

from modelkit.commands._options import json_option, quiet_option, run_safely


@click.command(
    epilog="""\b
Examples:
  modelkit run model.gguf "Once upon a time"
  modelkit run model/ "What is a tensor?" --chat --max-tokens 200
  modelkit run model.bin "" --tokenizer tokenizer.bin --temperature 0.8 --seed 7
  modelkit run model/ --tokens-file ids.npy --logits logits.npy
  echo "Once upon a time" | modelkit run model.gguf --json

\b
Exit codes: 0 done, 1 refused or failed, 2 usage, 130 interrupted."""
)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--tokens-file", metavar="IDS.npy", help="Token ids instead of a prompt: [tokens] or [batch, tokens].")
@click.option("--logits", metavar="OUT.npy", help="Write the logits of every token, float32; generate nothing.")
@click.option("--tokenizer", metavar="FILE", help="A tokenizer that lies elsewhere (json, model, bin).")
@click.option("--max-tokens", type=click.IntRange(0), default=64, show_default=True, metavar="N", help="At most.")
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, metavar="T", help="0: greedy.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    metavar="P",
    help="Draw from the likeliest tokens that have this probability together.",
)
@click.option("--seed", type=click.IntRange(0), metavar="S", help="The same seed draws the same tokens.")
@click.option("--chat", is_flag=True, help="PROMPT is a message: put it into the model's chat template.")
@click.option("--memory", metavar="SIZE", help="For everything; weights beyond it are streamed. [default: half]")
@quiet_option
@json_option
def command(model: str, as_json: bool, quiet: bool, memory: str | None, **options: Any) -> None:
    """Run MODEL: text that goes on from PROMPT, or the logits of given tokens.

    Computes in float32 with numpy, exactly as transformers does. PROMPT is read from stdin when it is not given;
    control tokens written in it are tokens. Text goes to stdout as it comes.
    """
    run_safely(lambda: _body(model, options, memory, quiet=quiet, as_json=as_json))


def _body(model: str, options: dict[str, Any], memory: str | None, *, quiet: bool, as_json: bool) -> int:
    from modelkit.operations import run as operation
    from modelkit.operations.convert import parse_size
    from modelkit.report import console, generation
    from modelkit.report.progress import progress
    from modelkit.runner.threads import use_free_cores

    use_free_cores()
    if options["prompt"] is None and options["tokens_file"] is None:
        options["prompt"] = _prompt_of_stdin()
    request = operation.Request(model, memory=parse_size(memory) if memory else None, **options)
    prepared = operation.prepare(request)
    if not quiet:
        for text in prepared.notes:
            console.note(text)
    if request.logits is not None:
        with progress("logits", prepared.size, quiet=quiet) as bar:
            outcome = operation.write_logits(prepared, bar)
        if not quiet and not as_json:
            console.data(generation.logits_lines(prepared, outcome))
    else:
        outcome = operation.Outcome()
        with progress("prompt", prepared.size, quiet=quiet) as bar:
            tokens = generation.begun(operation.generate(prepared, outcome, bar))
        generation.show(tokens, has_text=prepared.text is not None, silent=as_json)
        if not quiet and not as_json:
            generation.summary(outcome)
    if as_json:
        console.document(generation.document(prepared, outcome))
    return 0


def _prompt_of_stdin() -> str:
    import sys

    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("a prompt is needed: as an argument, on stdin, or as ids with --tokens-file.")
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape").removesuffix("\n")
