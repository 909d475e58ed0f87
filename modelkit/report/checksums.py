"""Digests as lines that sha256sum reads, as JSON, and what a list said about what is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from modelkit.errors import ModelkitError
from modelkit.report.text import counted, escape
from modelkit.sums import Entry, line

if TYPE_CHECKING:
    from modelkit.operations.checksum import FileDigest, NamedModel, TensorDigest
    from modelkit.operations.checksum_check import Checked, Report
    from modelkit.operations.checksum_files import Unread


def lines(entries: Iterable[Entry], *, tag: bool) -> list[str]:
    """`HEX  NAME`, or with `tag` `SHA256 (NAME) = HEX`."""
    return [line(entry, tag=tag) for entry in entries]


def file_problems(files: Iterable[FileDigest]) -> list[ModelkitError]:
    """Files whose own name says another digest."""
    return [
        ModelkitError(
            f"{file.path}: is not what {file.known.says} says ({file.known.algorithm} {file.known.digest})",
            "it has rotted or is incomplete: delete it and fetch it again",
        )
        for file in files
        if file.rotten and file.known is not None
    ]


def file_notes(files: Iterable[FileDigest]) -> list[str]:
    """Pointers that stand where files should be."""
    return [f"{file.path}: this is a git-lfs pointer, not the file" for file in files if file.pointer]


def unread_problems(unread: Iterable[Unread]) -> list[ModelkitError]:
    """One for each file that was not read."""
    return [
        one.error or ModelkitError(f"{one.path}: not read: {one.reason.removeprefix(f'{one.path}: ')}")
        for one in unread
    ]


def left_out_notes(paths: Iterable[str]) -> list[str]:
    """What a list does not name since it is the list."""
    return [f"{path}: left out, since this list is being written to it" for path in paths]


def _unread(unread: Iterable[Unread]) -> list[dict[str, Any]]:
    return [{"path": one.path, "reason": one.reason} for one in unread]


def file_document(files: Sequence[FileDigest], unread: Sequence[Unread]) -> dict[str, Any]:
    """`checksum --json`."""
    return {
        "schema_version": 1,
        "files": [
            {"path": f.path, "bytes": f.size, "algorithm": "sha256", "digest": f.digest, "rotten": f.rotten}
            for f in files
        ],
        "unread": _unread(unread),
    }


def tensor_document(tensors: Sequence[TensorDigest], unread: Sequence[Unread] = ()) -> dict[str, Any]:
    """`checksum --tensors --json`."""
    return {
        "schema_version": 1,
        "tensors": [
            {
                "path": one.array.path,
                "tensor": one.array.name,
                "offset": one.array.span.start,
                "bytes": one.array.span.size,
                "algorithm": "sha256",
                "digest": one.digest,
            }
            for one in tensors
        ],
        "unread": _unread(unread),
    }


def model_notes(models: Iterable[NamedModel]) -> list[str]:
    """What a digest is of, where that is not the canonical form of a whole model."""
    return [f"{one.path}: {text}" for one in models for text in one.model.notes]


def model_document(models: Sequence[NamedModel], unread: Sequence[Unread] = ()) -> dict[str, Any]:
    """`checksum --model --json`: the digest and the records behind it."""
    return {
        "schema_version": 1,
        "models": [
            {
                "path": one.path,
                "algorithm": one.entry.algorithm,
                "digest": one.model.digest,
                "form": one.model.form,
                "family": one.model.family,
                "notes": list(one.model.notes),
                "records": [
                    {
                        "name": record.name,
                        "kind": record.kind,
                        "shape": list(record.shape),
                        "sha256": record.sha256,
                        "stored_name": record.stored,
                    }
                    for record in one.model.records
                ],
            }
            for one in models
        ],
        "unread": _unread(unread),
    }


WORDS = {"OK": "OK", "FAILED": "FAILED", "MISSING": "FAILED open or read", "UNREADABLE": "FAILED open or read"}


def check_lines(report: Report, *, quiet: bool) -> list[str]:
    """`NAME: OK` or `NAME: FAILED`, as sha256sum says it; only the failures when quiet."""
    return [f"{escape(one.entry.name)}: {WORDS[one.state]}" for one in report.checked if not quiet or one.state != "OK"]


def check_problems(report: Report) -> list[ModelkitError]:
    """What is wrong with each entry that is not right: wanted, found, and the likely cause."""
    return [_problem(one) for one in report.checked if one.state != "OK"] + unread_problems(report.unread)


def _problem(one: Checked) -> ModelkitError:
    name = one.entry.name
    if one.state != "FAILED":
        return ModelkitError(f"{name}: {one.hint.removeprefix(f'{name}: ')}")
    return ModelkitError(f"{name}: {one.found} found, {one.entry.digest} expected: {one.hint}")


def check_summary(report: Report) -> list[str]:
    """Counts of what is wrong, or was not looked at."""
    wrong = sum(one.state != "OK" for one in report.checked)
    found = [f"{wrong:,} of {len(report.checked):,} did not match"] if wrong else []
    if report.unreadable:
        found.append(f"{counted(report.unreadable, 'line')} of the list {_are(report.unreadable)} no digest")
    if report.skipped:
        found.append(f"{report.skipped:,} of the list's digests {_are(report.skipped)} about other paths")
    return found


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def check_document(report: Report) -> dict[str, Any]:
    """`checksum --check FILE --json`."""
    return {
        "schema_version": 1,
        "ok": report.exit_code == 0,
        "results": [
            {
                "name": one.entry.name,
                "kind": one.kind,
                "state": one.state,
                "algorithm": one.entry.algorithm,
                "expected": one.entry.digest,
                "found": one.found,
                "hint": one.hint,
            }
            for one in report.checked
        ],
        "unreadable_lines": report.unreadable,
        "skipped": report.skipped,
        "unread": _unread(report.unread),
    }
