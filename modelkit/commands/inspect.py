"""Show what a model file or folder holds, from its headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelkit.commands._options import json_option, run_safely

if TYPE_CHECKING:
    from modelkit.operations.opening import Opened


@click.command(
    epilog="""\b
Examples:
  modelkit inspect model.gguf
  modelkit inspect model/ --tree
  modelkit inspect model.gguf --metadata --key tokenizer.chat_template
  modelkit inspect model.safetensors --top 10 --json
  modelkit inspect model.gguf --stats --grep ffn_down
  modelkit inspect https://example.com/model.gguf

\b
Exit codes: 0 read and sound, 1 broken or refused, 2 usage, or --stats could not decode every tensor."""
)
@click.argument("path")
@click.option("--tree", is_flag=True, help="Tensors with the layers folded.")
@click.option("--tensors", is_flag=True, help="Every tensor: encoding, shape, place.")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="The N largest tensors.")
@click.option("--metadata", is_flag=True, help="All key-values; long arrays by length.")
@click.option("--key", metavar="K", help="With --metadata: one key, in full.")
@click.option("--stats", is_flag=True, help="Reads all values: range, mean, deviation, zeros, NaN, Inf.")
@click.option("--grep", metavar="RE", help="Only names that match.")
@json_option
def command(path: str, top: int | None, key: str | None, grep: str | None, as_json: bool, **flags: bool) -> None:
    """Show what PATH holds: format, architecture, parameters, encodings, size, context, health.

    Reads headers only: a model of any size answers at once; --stats reads every value once. PATH may be the https URL
    of one file: a few range requests fetch its header.
    """
    view = _view(flags, top, key, grep)
    run_safely(lambda: _show(path, view, top, key, grep, as_json))


def _view(flags: dict[str, bool], top: int | None, key: str | None, grep: str | None) -> str | None:
    """What is to be shown; None for the summary. Options that ask for two things are a wrong call."""
    asked = [f"--{name}" for name, wanted in flags.items() if wanted]
    if top is not None and not (flags["tensors"] or flags["stats"]):
        asked.append("--top")
    if key is not None and not flags["metadata"]:
        asked.append("--key")
    if len(asked) > 1:
        raise click.UsageError(f"{' and '.join(asked)} exclude each other: each shows something else")
    if key is not None and grep is not None:
        raise click.UsageError("--key and --grep exclude each other: --key names one")
    if not asked:
        return None if grep is None else "tensors"
    return {"--top": "tensors", "--key": "metadata"}.get(asked[0], asked[0].removeprefix("--"))


def _show(path: str, view: str | None, top: int | None, key: str | None, grep: str | None, as_json: bool) -> int:
    from dataclasses import asdict

    from modelkit.operations import inspect as operation
    from modelkit.report import console, inspection

    opened = operation.inspect(path)
    if view == "stats":
        return _statistics(opened, top, grep, as_json=as_json)
    facts = operation.summary(opened)
    found: object
    if view == "tree":
        branches = operation.tree(opened.model.tensors, grep)
        found, lines = [asdict(branch) for branch in branches], inspection.tree_lines(branches)
    elif view == "tensors":
        found = operation.tensors(opened, grep, top)
        lines = inspection.tensor_lines(found)
    elif view == "metadata":
        pairs = operation.metadata(opened, key, grep)
        found, lines = pairs, inspection.metadata_lines(pairs, whole=key is not None)
    else:
        found, lines = None, inspection.summary_lines(facts)
    if as_json:
        console.document(
            {"schema_version": 1, **facts} if view is None else {"schema_version": 1, "path": path, view: found}
        )
    else:
        console.data(
            lines if view is None or facts["health"]["ok"] else lines + inspection.health_lines(facts["health"])
        )
    return 0 if facts["health"]["ok"] else 1


def _statistics(opened: Opened, top: int | None, grep: str | None, *, as_json: bool) -> int:
    from dataclasses import asdict

    from modelkit.operations import inspect as operation
    from modelkit.operations.statistics import statistics
    from modelkit.report import console, inspection
    from modelkit.report.progress import progress

    path, health, tensors = opened.opener.title, operation.health(opened), operation.chosen(opened, grep, top)
    with progress(f"reading {path}", sum(tensor.size for tensor in tensors), quiet=as_json) as report:
        found = statistics(opened, tensors, report)
    if as_json:
        console.document({"schema_version": 1, "path": path, "stats": [asdict(one) for one in found]})
    else:
        lines = inspection.statistics_lines(found)
        console.data(lines if health["ok"] else lines + inspection.health_lines(health))
    if not health["ok"]:
        return 1
    return 2 if any(one.why for one in found) else 0
