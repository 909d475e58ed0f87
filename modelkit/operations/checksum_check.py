"""Hold files, tensors and models against a list of digests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modelkit.errors import BadRequest, ModelkitError
from modelkit.operations.checksum_files import GIT_INDEX, Content, Unread, content, pointer_name, size_of
from modelkit.operations.checksum_known import pointer
from modelkit.operations.checksum_list import Listing, read_list
from modelkit.operations.checksum_places import Places
from modelkit.operations.checksum_work import Meter, Progress, side_by_side
from modelkit.sums import EMPTY, GIT, Entry, Kind

State = Literal["OK", "FAILED", "MISSING", "UNREADABLE"]


@dataclass(frozen=True, slots=True)
class Checked:
    """One entry of a list, held against what is there. `found` is "" where nothing could be read; `hint` says why."""

    entry: Entry
    kind: Kind
    state: State
    found: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Every entry's outcome, in the list's order; `skipped` are not among the paths of the call."""

    checked: tuple[Checked, ...]
    unreadable: int
    skipped: int
    unread: tuple[Unread, ...]

    @property
    def exit_code(self) -> int:
        """1 when anything is wrong, 2 when nothing is but not everything could be checked."""
        if any(one.state != "OK" for one in self.checked):
            return 1
        return 2 if self.unreadable or self.unread else 0


@dataclass(frozen=True, slots=True)
class _Target:
    """An entry and the place that it names."""

    entry: Entry
    path: str
    tensor: str
    kind: Kind


def check(
    listing: str,
    paths: Sequence[str] = (),
    kind: Kind = "unknown",
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """`modelkit checksum PATHS --check LISTING`; `kind` is what its plain lines are about, where the call says so.

    Raises BadRequest for a list of nothing, BrokenFile for a hostile one, before any file that it names is opened.
    """
    read = _rooted(read_list(listing), listing, paths)
    places = Places(paths, read.folder, listing)
    for entry in read.entries:
        places.admit(entry)
    targets = [_target(entry, places.find(entry, kind)) for entry in read.entries]
    chosen = [target for target in targets if target is not None]
    if not chosen:
        raise BadRequest(f"{listing}: names none of {', '.join(paths)}", "name the folder that the list is about")
    found = {**_files(chosen, workers, progress), **_tensors(chosen, workers, progress), **_models(chosen, workers)}
    found |= _meant(chosen, found, kind, workers)
    return Report(
        tuple(found[number] for number in range(len(chosen))), read.unreadable, len(targets) - len(chosen), read.unread
    )


def _rooted(read: Listing, listing: str, paths: Sequence[str]) -> Listing:
    """A folder that says its own digests is about the files in it, unless others are named."""
    if not os.path.isdir(listing) or paths:
        return read
    entries = tuple(replace(entry, name=os.path.join(listing, entry.name)) for entry in read.entries)
    return replace(read, entries=entries)


def _target(entry: Entry, place: tuple[str, str, Kind] | None) -> _Target | None:
    return _Target(entry, *place) if place is not None else None


def _files(targets: Sequence[_Target], workers: int | None, progress: Progress | None) -> dict[int, Checked]:
    wanted: dict[str, set[str]] = {}
    for target in targets:
        if target.kind == "file" and os.path.exists(target.path):
            wanted.setdefault(target.path, set()).add(target.entry.algorithm)

    def work(path: str, meter: Meter) -> Content | ModelkitError:
        try:
            return content(path, sorted(wanted[path]), meter)
        except ModelkitError as error:
            return error

    paths = list(wanted)
    found = dict(zip(paths, side_by_side(paths, work, size_of, workers, progress), strict=True))
    return {
        number: _file(target, found.get(target.path)) for number, target in enumerate(targets) if target.kind == "file"
    }


def _file(target: _Target, found: Content | ModelkitError | None) -> Checked:
    entry = target.entry
    if found is None:
        return Checked(entry, "file", "MISSING", hint="no such file")
    if isinstance(found, ModelkitError):
        return Checked(entry, "file", "UNREADABLE", hint=str(found))
    digest = found.digests[entry.algorithm]
    if entry.algorithm == GIT_INDEX and digest != entry.digest:
        through_lfs = pointer_name(found.digests["sha256"], found.size)
        digest = through_lfs if through_lfs == entry.digest else digest
    if digest == entry.digest:
        return Checked(entry, "file", "OK", digest)
    return Checked(entry, "file", "FAILED", digest, _hint(target, found))


def _hint(target: _Target, found: Content) -> str:
    """The usual causes, told apart."""
    entry = target.entry
    points = pointer(target.path)
    if points is not None and (points.digest == entry.digest or entry.algorithm in (GIT, GIT_INDEX)):
        return "this is a git-lfs pointer, not the file: run `git lfs pull`"
    if found.size == 0:
        return "the file is empty: fetch it again"
    if entry.digest == EMPTY:
        return "the list was made when the file was empty"
    if entry.size is not None and entry.size != found.size:
        word = "the download is incomplete" if found.size < entry.size else "it is another file"
        return f"it has {found.size:,} bytes, {entry.size:,} expected: {word}"
    return "the content differs"


def _grouped(targets: Sequence[_Target], kind: Kind) -> dict[str, list[int]]:
    """Positions of the targets of a kind, by path."""
    groups: dict[str, list[int]] = {}
    for number, target in enumerate(targets):
        if target.kind == kind:
            groups.setdefault(target.path, []).append(number)
    return groups


def _tensors(targets: Sequence[_Target], workers: int | None, progress: Progress | None) -> dict[int, Checked]:
    groups = _grouped(targets, "tensor")
    if not groups:
        return {}
    from modelkit.operations.checksum_tensors import StoredArray, arrays_of, stored_digests
    from modelkit.operations.opening import open_model

    found: dict[int, Checked] = {}
    asked: list[tuple[int, StoredArray]] = []
    for path, numbers in groups.items():
        try:
            stored = arrays_of(open_model(path, fold=False), path)
            arrays = {array.name: array for array in stored if array.path == path}
        except ModelkitError as error:
            state: State = "UNREADABLE" if os.path.exists(path) else "MISSING"
            found |= {number: Checked(targets[number].entry, "tensor", state, hint=str(error)) for number in numbers}
            continue
        for number in numbers:
            array = arrays.get(targets[number].tensor)
            if array is None:
                found[number] = Checked(targets[number].entry, "tensor", "MISSING", hint="no such tensor in the file")
            else:
                asked.append((number, array))
    digests = stored_digests([array for _, array in asked], workers, progress)
    for (number, array), digest in zip(asked, digests, strict=True):
        entry, span = targets[number].entry, array.span
        hint = (
            "" if digest == entry.digest else f"bytes {span.start:,} to {span.end - 1:,} of {array.path} have changed"
        )
        found[number] = Checked(entry, "tensor", "FAILED" if hint else "OK", digest, hint)
    return found


def _models(targets: Sequence[_Target], workers: int | None) -> dict[int, Checked]:
    groups = _grouped(targets, "model")
    found: dict[int, Checked] = {}
    for path, numbers in groups.items():
        outcome = _attempt(path, workers)
        for number in numbers:
            entry = targets[number].entry
            if isinstance(outcome, str):
                same = outcome == entry.digest
                hint = "" if same else "the real values, names or shapes differ"
                found[number] = Checked(entry, "model", "OK" if same else "FAILED", outcome, hint)
            else:
                state: State = "UNREADABLE" if os.path.exists(path) else "MISSING"
                found[number] = Checked(entry, "model", state, hint=str(outcome))
    return found


def _meant(
    targets: Sequence[_Target], found: Mapping[int, Checked], kind: Kind, workers: int | None
) -> dict[int, Checked]:
    """Plain lines that are not the digest of their file, where they are that of the model in it: `checksum --model`."""
    chosen = [
        number
        for number, one in found.items()
        if (one.state, one.kind, targets[number].entry.kind, kind) == ("FAILED", "file", "unknown", "unknown")
        and targets[number].entry.algorithm == "sha256"
    ]
    models = {path: _attempt(path, workers) for path in dict.fromkeys(targets[number].path for number in chosen)}
    return {
        number: Checked(entry, "model", "OK", entry.digest)
        for number in chosen
        if models[targets[number].path] == (entry := targets[number].entry).digest
    }


def _attempt(path: str, workers: int | None) -> str | ModelkitError:
    from modelkit.operations.checksum_model import model_digest

    try:
        return model_digest(path, workers=workers).digest
    except ModelkitError as error:
        return error
