"""The body of `convert`, `quantize` and `export`: plan, do, report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from modelkit.commands._options import Interrupted, run_safely
from modelkit.errors import CannotAccess, ModelkitError


def run(source: str, destination: str, to: str | None, options: Mapping[str, Any], operation: str = "convert") -> None:
    """`operation` names the module whose `prepare` decides the output; all else is the same."""
    run_safely(lambda: _body(source, destination, to, options, operation))


def _body(source: str, destination: str, to: str | None, options: Mapping[str, Any], prepares: str) -> int:
    from modelkit.operations import convert as operation
    from modelkit.operations.reports import check_receipt
    from modelkit.report import console, conversion
    from modelkit.report.progress import progress

    request = operation.Request(
        source,
        destination,
        operation.with_options(to, **options["words"]) if "words" in options else to,
        tokenizer=options["tokenizer"],
        resume=options["resume"],
        force=options["force"],
        allow_requantize=options["allow_requantize"],
        workers=options["workers"],
        memory=operation.parse_size(options["memory"]),
        recipe=options["recipe"],
        keep=options.get("keep", ()),
        importance=options.get("importance"),
        rest=options["requantize_rest"],
    )
    prepared = import_module(f"modelkit.operations.{prepares}").prepare(request)
    if not options["quiet"]:
        for text in _folded(prepared.notes):
            console.note(text)
    if options["plan_only"]:
        _show_plan(prepared, request.workers, as_json=options["as_json"])
        return 0
    operation.check(prepared)
    if options["receipt"]:
        check_receipt(options["receipt"], operation.model_paths(prepared), force=options["force"])
    try:
        with progress(Path(destination).name, prepared.plan.layout.size, quiet=options["quiet"]) as bar:
            result = operation.carry_out(prepared, bar)
    except KeyboardInterrupt:
        raise Interrupted("; run the same command with --resume to go on") from None
    if options["receipt"]:
        _write_receipt(options["receipt"], result)
    for text in () if options["quiet"] else result.cautions:
        console.note(text)
    if options["as_json"]:
        console.document(conversion.result_document(result))
    elif not options["quiet"]:
        console.data(conversion.result_lines(result))
    return 0


def _show_plan(prepared: Any, workers: int | None, *, as_json: bool) -> None:
    from modelkit.operations.estimate import estimate
    from modelkit.report import console, conversion

    guess = estimate(prepared.plan, str(prepared.destination.path.parent), workers)
    if as_json:
        console.document(conversion.plan_document(prepared, guess))
    else:
        console.data(conversion.plan_lines(prepared, guess))


def _write_receipt(path: str, result: Any) -> None:
    """What was asked for is not all there without it: exit 1, and the words say that DST is whole all the same."""
    from modelkit.operations.receipt import receipt
    from modelkit.sources import write_report

    whole = f"{result.prepared.request.destination} is whole, but its receipt was not written"
    try:
        write_report(path, json.dumps(receipt(result), indent=2) + "\n")
    except ModelkitError as error:
        fix = "; then ".join(filter(None, (error.fix, "run again with --force to have both")))
        raise CannotAccess(f"{whole}: {error.message}", fix) from error
    except KeyboardInterrupt:
        raise Interrupted(f"; {whole}") from None


def _folded(notes: tuple[str, ...]) -> list[str]:
    """The first notes in full; a model with hundreds of alike remarks is not scrolled away."""
    most = 12
    return [*notes[:most], f"... and {len(notes) - most} more notes"] if len(notes) > most else list(notes)
