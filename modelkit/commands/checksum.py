"""Digest files, tensors and models, and check them against a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from modelkit.commands._options import json_option, quiet_option, run_safely

if TYPE_CHECKING:
    from modelkit.operations.checksum_files import Unread


@click.command(
    epilog="""\b
Examples:
  modelkit checksum model/ > model.sums
  modelkit checksum --check model.sums
  modelkit checksum --tensors model.gguf
  modelkit checksum --model model/ model-bf16.gguf
  modelkit checksum --check ~/.cache/huggingface/hub/models--org--name

\b
Exit codes: 0 done, or all is as the list says, 1 something differs, is missing or refused, 2 usage,
or nothing differs but not everything could be read, 130 interrupted."""
)
@click.argument("path", nargs=-1)
@click.option("--tensors", is_flag=True, help="Each stored tensor: HEX  FILE:TENSOR.")
@click.option("--model", is_flag=True, help="What the model means, in whatever form it is stored.")
@click.option(
    "--check", "listing", metavar="FILE", help="Check a list (- is stdin), or a folder that says its own digests."
)
@click.option("--tag", is_flag=True, help="BSD lines: SHA256 (NAME) = HEX.")
@click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Threads. [default: cores]")
@quiet_option
@json_option
def command(path: tuple[str, ...], listing: str | None, tensors: bool, model: bool, **options: Any) -> None:
    """Print the sha256 of every file at PATH, in lines that sha256sum reads.

    A folder stands for all files below it. --model is one digest for all containers, shards and encodings
    that hold the same real values. --check reads lists of sha256sum, of BSD and of modelkit, and names what
    has rotted; of a Hugging Face cache or a git clone it knows the digests without a list.
    """
    if not path and listing is None:
        raise click.UsageError("name a PATH, or a list with --check")
    if listing is not None and options["tag"]:
        raise click.UsageError("--tag is about lines that are written; --check reads both kinds")
    if tensors and model:
        raise click.UsageError("--tensors and --model exclude each other: each digests something else")
    options["what"] = "tensor" if tensors else "model" if model else None
    run_safely(lambda: _check(path, listing, options) if listing is not None else _digest(path, options))


def _check(paths: tuple[str, ...], listing: str, options: dict[str, Any]) -> int:
    from modelkit.operations.checksum_check import check
    from modelkit.report import checksums, console
    from modelkit.report.progress import progress

    with progress("check", None, quiet=options["quiet"]) as bar:
        report = check(listing, paths, options["what"] or "unknown", workers=options["workers"], progress=bar)
    if options["as_json"]:
        console.document(checksums.check_document(report))
    else:
        console.data(checksums.check_lines(report, quiet=options["quiet"]))
        for problem in checksums.check_problems(report):
            console.error(problem)
        for text in checksums.check_summary(report) if not options["quiet"] else ():
            console.note(text)
    return report.exit_code


def _digest(paths: tuple[str, ...], options: dict[str, Any]) -> int:
    kinds = {"tensor": _tensors, "model": _models, None: _files}
    return kinds[options["what"]](paths, options)


def _tensors(paths: tuple[str, ...], options: dict[str, Any]) -> int:
    from modelkit.operations.checksum import digest_tensors
    from modelkit.report import checksums, console
    from modelkit.report.progress import progress

    unread: list[Unread] = []
    with progress("checksum", None, quiet=options["quiet"]) as bar:
        tensors = digest_tensors(paths, options["workers"], bar, unread)
    if options["as_json"]:
        console.document(checksums.tensor_document(tensors, unread))
    else:
        console.data(checksums.lines([one.entry for one in tensors], tag=options["tag"]))
    return _told(unread)


def _models(paths: tuple[str, ...], options: dict[str, Any]) -> int:
    from modelkit.operations.checksum import digest_models
    from modelkit.report import checksums, console
    from modelkit.report.progress import progress

    unread: list[Unread] = []
    with progress("checksum", None, quiet=options["quiet"]) as bar:
        models = digest_models(paths, options["workers"], bar, unread)
    if not options["quiet"]:
        for text in checksums.model_notes(models):
            console.note(text)
    if options["as_json"]:
        console.document(checksums.model_document(models, unread))
    else:
        console.data(checksums.lines([one.entry for one in models], tag=options["tag"]))
    return _told(unread)


def _files(paths: tuple[str, ...], options: dict[str, Any]) -> int:
    from modelkit.operations.checksum import digest_files
    from modelkit.operations.checksum_files import is_same, own_output
    from modelkit.report import checksums, console
    from modelkit.report.progress import progress

    output, own = own_output(), list[str]()

    def left_out(file: str) -> bool:
        if same := is_same(file, output):
            own.append(file)
        return same

    with progress("checksum", None, quiet=options["quiet"]) as bar:
        files, unread = digest_files(paths, options["workers"], bar, left_out)
    if options["as_json"]:
        console.document(checksums.file_document(files, unread))
    else:
        console.data(checksums.lines([file.entry for file in files], tag=options["tag"]))
    if not options["quiet"]:
        for text in [*checksums.file_notes(files), *checksums.left_out_notes(own)]:
            console.note(text)
    rotten = checksums.file_problems(files)
    for problem in rotten:
        console.error(problem)
    code = _told(unread)
    return 1 if rotten else code


def _told(unread: Sequence[Unread]) -> int:
    """Say what could not be read; the exit code: 1 for a path of the call, 2 for what a folder holds."""
    from modelkit.report import checksums, console

    for problem in checksums.unread_problems(unread):
        console.error(problem)
    return 1 if any(one.error for one in unread) else 2 if unread else 0
