"""Prove that a converted model still computes what the original computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelkit.commands._options import json_option, quiet_option, run_safely

if TYPE_CHECKING:
    from modelkit.operations.gates import Gate
    from modelkit.operations.verify import Request


@click.command(
    epilog="""\b
Examples:
  modelkit verify model/ model-q8_0.gguf --gate int8
  modelkit verify model/ model.gguf --gate lossless
  modelkit verify model/ model.gguf --text book.txt --local --html report.html
  modelkit verify model/ model.gguf --plan
  modelkit verify --seal bundle/ unpacked/

\b
Gates: lossless (not one bit), cast (mean KL 1e-3), int8 (5e-3, top-1 95 %), q6 (0.02, 93 %),
q5 (0.05, 90 %), int4 (0.1, 85 %). All but lossless also refuse locally damaged tensors.

\b
Exit codes: 0 measured, or the gate is passed, 1 the gate is failed, or refused, 2 usage, or the gate is inconclusive,
130 interrupted."""
)
@click.argument("original")
@click.argument("converted")
@click.option("--tokens-file", metavar="IDS.npy", help="Token ids to compare on: integers [tokens] or [rows, tokens].")
@click.option("--text", metavar="FILE", help="A text to compare on. [default: a built-in one]")
@click.option("--tokenizer", metavar="FILE", help="A tokenizer that lies elsewhere.")
@click.option("--gate", metavar="NAME", help="Judge by these limits, see below.")
@click.option("--max-kl", type=click.FloatRange(min=0), metavar="X", help="Judge by mean KL, in nats.")
@click.option("--min-top1", type=click.FloatRange(0, 1), metavar="Y", help="Judge by top-1 agreement, 0 to 1.")
@click.option("--local", is_flag=True, help="Also each layer's own error, fed with the original's input.")
@click.option("--seal", is_flag=True, help="ORIGINAL is a bundle: its seal is used. [gate: lossless]")
@click.option("--plan", "plan_only", is_flag=True, help="Time and memory, from headers alone.")
@click.option("--html", metavar="FILE", help="Write a page with plots.")
@quiet_option
@json_option
def command(
    original: str,
    converted: str,
    tokens_file: str | None,
    text: str | None,
    tokenizer: str | None,
    gate: str | None,
    max_kl: float | None,
    min_top1: float | None,
    local: bool,
    seal: bool,
    plan_only: bool,
    html: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run ORIGINAL and CONVERTED side by side and measure how far apart they are.

    Any two formats and encodings of one model, one layer of each in memory at a time. Shows where their
    hidden states, their predictions and their weights differ, and judges by a gate if one is named.
    """

    def work() -> int:
        from modelkit.operations import verify as operation
        from modelkit.operations.gates import choose

        if tokens_file is not None and text is not None:
            raise click.UsageError("--tokens-file and --text exclude each other")
        chosen = choose(gate, max_kl, min_top1)
        if seal:
            if tokens_file or text or tokenizer or local or plan_only or html:
                raise click.UsageError("--seal goes with --gate, --max-kl, --min-top1, --quiet and --json only")
            return _verify_seal(original, converted, chosen, quiet=quiet, as_json=as_json)
        request = operation.Request(original, converted, tokens_file, text, tokenizer, chosen, local)
        if plan_only:
            return _plan(request, as_json=as_json)
        return _verify(request, html, quiet=quiet, as_json=as_json)

    run_safely(work)


def _verify_seal(bundle: str, model: str, gate: Gate | None, *, quiet: bool, as_json: bool) -> int:
    from modelkit.runner.threads import use_free_cores

    use_free_cores()
    from modelkit.operations import seal
    from modelkit.report import console, sealing
    from modelkit.report.progress import progress

    with progress("verify", None, quiet=quiet) as bar:
        found = seal.check(seal.read(bundle), model, gate, bar)
    if as_json:
        console.document(sealing.comparison_document(found, bundle, model))
    elif not quiet:
        console.data(sealing.comparison_lines(found))
    return {"passed": 0, "failed": 1, "inconclusive": 2}[found.judgement.answer]


def _plan(request: Request, *, as_json: bool) -> int:
    from modelkit.operations.verify_plan import prepare
    from modelkit.report import console, verification

    plan = prepare(request)
    if as_json:
        console.document(verification.plan_document(plan))
    else:
        console.data(verification.plan_lines(plan))
    return 0


def _verify(request: Request, html: str | None, *, quiet: bool, as_json: bool) -> int:
    from modelkit.operations.reports import check_report_beside
    from modelkit.operations.verify import input_paths, verify
    from modelkit.report import console, verification
    from modelkit.report.progress import progress
    from modelkit.runner.threads import use_free_cores

    use_free_cores()
    if html is not None:
        check_report_beside(html, input_paths(request))
    with progress("verify", None, quiet=quiet) as bar:
        found = verify(request, bar)
    if html is not None:
        from modelkit.report.verification_page import write

        write(html, found, request)
    if as_json:
        console.document(verification.verification_document(found, request))
    elif not (quiet and found.judgement is not None):  # without a gate the figures are all that was asked for
        console.data(verification.verification_lines(found, request))
    answer = found.judgement.answer if found.judgement else "passed"
    if quiet and found.judgement is not None and answer != "passed":
        console.note(verification.judgement_line(found.judgement))
    return {"passed": 0, "failed": 1, "inconclusive": 2}[answer]
