"""Cut a model into files of limited size. Encodings, names and order stay: a conversion that only moves bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from modelkit.errors import BadRequest, BrokenFile, Unsupported
from modelkit.formats import Format, Limit
from modelkit.formats.gguf import SPLIT
from modelkit.operations import convert
from modelkit.operations.checksum_model import ModelDigest, digest_of
from modelkit.operations.convert import MEMORY, Prepared, Progress, Result
from modelkit.operations.destination import Destination
from modelkit.operations.opening import Opened, destination_format, read_model, refuse_empty
from modelkit.operations.receipt import fingerprints
from modelkit.operations.shard_files import facts
from modelkit.operations.shard_set import check_set, open_set
from modelkit.plan import Assignment, make
from modelkit.tensors import Layout, Model

NO_LIMIT = Limit()


@dataclass(frozen=True, slots=True)
class Request:
    """What to cut, or to join, into what. `digest`: whether the model digest of both sides is computed and compared."""

    source: str
    destination: str
    limit: Limit = NO_LIMIT
    resume: bool = False
    force: bool = False
    workers: int | None = None
    memory: int = MEMORY
    digest: bool = True


@dataclass(frozen=True, slots=True)
class Regrouped:
    """A model that lies in other files now; digests of before and after are equal, None where none was wanted.

    `copying` and `digesting` are seconds.
    """

    result: Result
    before: ModelDigest | None
    after: ModelDigest | None
    copying: float
    digesting: float


def prepare(request: Request) -> Prepared:
    """Decide every file from headers alone. Raises BadRequest, BrokenFile for shards that do not belong together."""
    if request.limit.size is None and request.limit.tensors is None:
        raise BadRequest("no limit is given", "say how large files may be: --max-size 5GB, or --max-tensors N")
    if any(limit is not None and limit < 1 for limit in (request.limit.size, request.limit.tensors)):
        raise BadRequest("a file has at least one byte and one tensor", "give a larger limit")
    opened = open_set(request.source)
    target = own_format(opened, request.destination)
    if target.split is None:
        fix = "end the destination in a slash: a folder holds shards and their index"
        raise Unsupported(f"{request.destination}: {target.title} is one file", fix)
    destination = Destination(request.destination)
    name = destination.name
    if target.dialect == "gguf":
        name = _stem(opened, destination)
    split, limit = target.split, request.limit
    prepared = plan(request, opened, destination, lambda model: split(model, name, limit))
    return replace(prepared, notes=(*prepared.notes, *_oversized(prepared, limit)))


def shard(request: Request, progress: Progress | None = None) -> Regrouped:
    """All of it. On failure nothing stands under the destination's name."""
    return carry_out(prepare(request), request, progress)


def plan(request: Request, opened: Opened, destination: Destination, layout: Callable[[Model], Layout]) -> Prepared:
    """The plan that moves every tensor as it is into the files of a layout."""
    if request.memory < 1 or (request.workers is not None and request.workers < 1):
        raise BadRequest("memory and workers are numbers from 1 on")
    refuse_empty(opened)
    sources = fingerprints(opened, as_read=True)
    notes = check_set(opened)
    placed = layout(Model(opened.model.tensors, {}, facts(opened, notes)))
    ways = [Assignment(tensor, tensor) for tensor in opened.model.tensors]
    options = convert.Request(
        request.source,
        request.destination,
        resume=request.resume,
        force=request.force,
        workers=request.workers,
        memory=request.memory,
    )
    return Prepared(
        options, opened, destination, make(ways, opened.model, placed), (*opened.faults.notes, *notes), sources
    )


def carry_out(prepared: Prepared, request: Request, progress: Progress | None = None) -> Regrouped:
    """Digest, move, digest what was written before it gets its name, and compare."""
    convert.check(prepared)
    began = time.monotonic()
    before = digest_of(prepared.opened, workers=request.workers) if request.digest else None
    after: list[ModelDigest] = []
    spent = [time.monotonic() - began]

    def proof() -> None:
        started = time.monotonic()
        if before is not None:
            after.append(_proved(prepared, before, request.workers))
        spent.append(time.monotonic() - started)

    result = convert.carry_out(prepared, progress, proof)
    digesting = sum(spent)
    return Regrouped(result, before, after[0] if after else None, time.monotonic() - began - digesting, digesting)


def _proved(prepared: Prepared, before: ModelDigest, workers: int | None) -> ModelDigest:
    """The digest of what was written, read back through its own headers."""
    destination = prepared.destination
    first = prepared.plan.layout.files[0].name
    gguf = prepared.opened.format.dialect == "gguf"
    written = read_model(destination.unfinished(first if gguf or not destination.folder else None))
    after = digest_of(written, workers=workers)
    if after.digest != before.digest:
        message = f"{destination.path}: the model digest is {after.digest} after, {before.digest} before"
        raise BrokenFile(message, "the disk did not keep what was written: try another one", "digest-differs")
    return after


def own_format(opened: Opened, destination: str) -> Format:
    """The format that the destination names, of the source's own kind."""
    if opened.format.layout is None:
        message = f"{opened.opener.title}: {opened.format.title} is read, not written; shard and merge keep the format"
        raise Unsupported(message, "convert it into a folder first: modelkit convert SRC DST/")
    target = destination_format(destination)
    gguf_folder = opened.format.dialect == "gguf" and destination.endswith(("/", os.sep))
    if gguf_folder:
        return opened.format
    if target.dialect != opened.format.dialect:
        message = f"{destination}: would be {target.title}, and {opened.opener.title} is {opened.format.title}"
        raise BadRequest(message, "shard and merge keep the format; `modelkit convert` changes it")
    return target


def _stem(opened: Opened, destination: Destination) -> str:
    """The name that GGUF shards are numbered after: of the destination, in a folder of the source."""
    name = str(opened.opener.main) if destination.folder else destination.name
    match = SPLIT.fullmatch(name)
    if match is not None and not destination.folder:
        raise BadRequest(f"{destination.path}: the numbers are added by themselves", f"name it {match[1]}.gguf")
    return f"{match[1]}.gguf" if match is not None else name


def _oversized(prepared: Prepared, limit: Limit) -> list[str]:
    """Files that are larger than asked for: a tensor is never split."""
    if limit.size is None:
        return []
    held = {span.file for span in prepared.plan.layout.model.spans.values()}
    large = [file for file in prepared.plan.layout.files if file.name in held and file.size > limit.size]
    if not large:
        return []
    worst = max(large, key=lambda file: file.size)
    found = f"{len(large):,} files are larger than {limit.size:,} bytes ({worst.name}: {worst.size:,})"
    return [f"{found}: a tensor is not split, and all keys of a GGUF are in its first file"]
