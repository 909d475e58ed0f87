"""The body of `shard` and `merge`: plan, move, prove, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelkit.commands._options import Interrupted, json_option, quiet_option

if TYPE_CHECKING:
    from modelkit.operations.convert import Prepared
    from modelkit.operations.shard import Request

C = TypeVar("C", bound=Callable[..., Any])


def regrouping_options(function: C) -> C:
    """The options that both have."""
    for option in reversed(
        (
            click.option("--plan", "plan_only", is_flag=True, help="Show what would be done; write nothing."),
            click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped."),
            click.option("--force", is_flag=True, help="Replace an existing DST."),
            click.option("--no-digest", is_flag=True, help="Do not compute and compare the model digest."),
            click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Threads. [default: cores]"),
            quiet_option,
            json_option,
        )
    ):
        function = option(function)
    return function


def run(prepare: Callable[[Request], Prepared], request: Request, options: Mapping[str, Any]) -> int:
    """Plan, and unless only that was asked for, carry out; the exit code."""
    from modelkit.operations.shard import carry_out
    from modelkit.report import console, sharding
    from modelkit.report.progress import progress

    prepared = prepare(request)
    if not options["quiet"]:
        for text in prepared.notes:
            console.note(text)
    if options["plan_only"]:
        if options["as_json"]:
            console.document(sharding.plan_document(prepared))
        else:
            console.data(sharding.plan_lines(prepared))
        return 0
    try:
        title = Path(request.destination).name
        with progress(title, prepared.plan.layout.size, quiet=options["quiet"]) as bar:
            done = carry_out(prepared, request, bar)
    except KeyboardInterrupt:
        raise Interrupted("; run the same command with --resume to go on") from None
    if not options["quiet"]:
        for text in done.before.notes if done.before else ():
            console.note(text)
    if options["as_json"]:
        console.document(sharding.result_document(done))
    elif not options["quiet"]:
        console.data(sharding.result_lines(done))
    return 0
