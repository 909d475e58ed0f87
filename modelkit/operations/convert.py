"""Convert a model: open, design, place, check, execute, seal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelkit.errors import BadRequest, BadValue, BrokenFile, CannotAccess, Refused, Unsupported
from modelkit.execute import Journal, execute, is_journal, locked, still_there, work
from modelkit.formats import Format
from modelkit.formats.gguf import SPLIT
from modelkit.formats.hf_folder import joins
from modelkit.jobs import Done
from modelkit.operations import importance
from modelkit.operations.design import Design, constant_tensors, design, refuse_requantising, understand
from modelkit.operations.design_layouts import (
    left_floating,
    of_few_engines,
    probed,
    refuse_other_shapes,
    refuse_plain_e4m3,
    refuse_readings,
)
from modelkit.operations.destination import Destination
from modelkit.operations.opening import Opened, destination_format, open_model, refuse_empty
from modelkit.operations.proving import prove
from modelkit.operations.receipt import Verdict, fingerprints, verdicts
from modelkit.operations.sizes import parse_size
from modelkit.plan import Plan, make
from modelkit.recipes import parse, with_options
from modelkit.tensors import Importance, Layout, Model

MEMORY = 256 * 2**20
"""Bytes that jobs in flight may plan to use together, by default."""

Progress = Callable[[int, int], None]
"""Called with (values done, values in all) after each job."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to convert, into what, and how. `to` is what the user types after --to (None = keep encodings).

    Or `recipe` names a TOML file. `keep` has PATTERN=NAME: encodings of what a pattern finds, whatever else holds.
    `importance` names an imatrix file of llama.cpp. `rest`: of a source that is quantised already, the floats are
    quantised too.
    """

    source: str
    destination: str
    to: str | None = None
    tokenizer: str | None = None
    resume: bool = False
    force: bool = False
    allow_requantize: bool = False
    workers: int | None = None
    memory: int = MEMORY
    recipe: str | None = None
    keep: tuple[str, ...] = ()
    importance: str | None = None
    rest: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversion that is decided but not begun. Only headers and the plan's probes have been read."""

    request: Request
    opened: Opened
    destination: Destination
    plan: Plan
    notes: tuple[str, ...]
    sources: Mapping[str, Any]  # the files that tensors are read from, as they were when headers were read


@dataclass(frozen=True, slots=True)
class Result:
    """A conversion that is done."""

    prepared: Prepared
    verdicts: tuple[Verdict, ...]
    resumed: int  # jobs that an earlier run had finished
    cautions: tuple[str, ...] = ()  # what engines may read otherwise, seen in what was written

    @property
    def notes(self) -> tuple[str, ...]:
        """What was said before, and what the written files say."""
        return (*self.prepared.notes, *self.cautions)


def prepare(request: Request) -> Prepared:
    """Steps 1 to 3: open, design, place."""
    from modelkit.operations.translate import metadata  # brings the tokenizers, which shard and merge do without

    if request.memory < 1 or (request.workers is not None and request.workers < 1):
        raise BadRequest("memory and workers are numbers from 1 on")
    target = destination_format(request.destination)
    _refuse_name_of_shard(request.destination, target)
    choice = parse(request.to, request.recipe, request.keep, rest=request.rest)
    opened = open_model(request.source)
    refuse_empty(opened)
    sources = fingerprints(opened, as_read=True)
    known = understand(opened, needed=opened.format.dialect != target.dialect)
    refuse_other_shapes(opened, known.architecture, known.config)
    weights = read_importance(request.importance, target, layout=choice.layout)
    made = design(opened, known, target, choice, weights)
    destination = Destination(request.destination)
    refuse_readings(made.ways)
    refuse_plain_e4m3(way.target for way in made.ways)
    made.notes += [*of_few_engines(made.ways), *left_floating(made.ways)]
    made.ways, samples = probed(opened, made.ways, symmetric="symmetric=" not in (request.to or ""))
    facts = metadata(opened, known, target, made, request.tokenizer)
    if choice.recipe is not None and choice.recipe.file_type is not None and target.dialect == "gguf":
        facts["general.file_type"] = choice.recipe.file_type
    if request.importance is not None and target.dialect == "gguf":
        facts["quantize.imatrix.file"] = os.path.basename(request.importance)
        facts["quantize.imatrix.entries_count"] = len(weights)
    tensors = (*(way.target for way in made.ways), *constant_tensors(made))
    assert target.layout is not None  # noqa: S101 - destination_format gives writable formats only
    layout = _with_constants(target.layout(Model(tensors, {}, facts), destination.name), made)
    probes = dict.fromkeys((*opened.probes, *known.probes, *samples))
    plan = make(made.ways, opened.model, layout, tuple(probes))
    if plan.memory > request.memory:
        made.notes.append(f"one tensor needs {plan.memory:,} bytes at once, more than --memory allows: it runs alone")
    return Prepared(request, opened, destination, plan, (*opened.faults.notes, *made.notes), sources)


def _refuse_name_of_shard(destination: str, target: Format) -> None:
    """A reader would look for the others of its set."""
    match = SPLIT.fullmatch(os.path.basename(destination)) if target.dialect == "gguf" else None
    if match is not None and int(match[3]) > 1:
        message = f"{destination}: is the name of one shard of {int(match[3]):,}, and a converted GGUF is one file"
        raise BadRequest(message, f"name it {match[1]}.gguf, and cut it with `modelkit shard`")


def read_importance(path: str | None, target: Format, *, layout: bool = False) -> Mapping[str, Importance]:
    """What --importance names, by the words of GGUF; only ggml types and `layout`s have encodings that use it."""
    if path is None:
        return {}
    if target.dialect != "gguf" and not layout:
        raise BadRequest(
            f"--importance helps to write GGUF or a quantised layout, not {target.title}",
            "leave it out, or write a .gguf",
        )
    return importance.read(path)


def check(prepared: Prepared) -> None:
    """Step 4: free disk, collisions, lossy on lossy."""
    refuse_requantising(list(prepared.plan.assignments), allowed=prepared.request.allow_requantize)
    _refuse_own_sources(prepared)
    if _interrupted(prepared):
        with locked(prepared.destination.journal):
            _take_back(prepared)
    _check_destination(prepared)


def _refuse_own_sources(prepared: Prepared) -> None:
    prepared.destination.refuse_sources(source_paths(prepared), prepared.plan)
    _refuse_joining(prepared)


def _refuse_joining(prepared: Prepared) -> None:
    """A file among the shards of the source may change what the next run reads there."""
    opened, made = prepared.opened, prepared.destination
    folder = opened.opener.main is None and opened.format.dialect == "huggingface" and not made.folder
    if folder and made.path.parent.resolve() == opened.disk.root.resolve() and joins(opened.opener, made.name):
        message = f"{made.path}: lies in the source, which would then be read with it or instead of what it is now"
        raise Refused(message, "write it outside of that folder")


def _check_destination(prepared: Prepared, *, new: bool = False) -> None:
    prepared.destination.check(source_paths(prepared), prepared.plan, force=prepared.request.force, new=new)


def _interrupted(prepared: Prepared) -> bool:
    """Whether this run goes on with one that was killed while files got their final names."""
    resumes = prepared.request.resume and is_journal(prepared.destination.journal)
    return resumes and _journal(prepared).was_sealing()


def _take_back(prepared: Prepared) -> None:
    """Under the lock: final names become partial ones again, to be sealed once more."""
    if _interrupted(prepared):
        prepared.destination.unseal(prepared.plan)


def source_paths(prepared: Prepared) -> list[Path]:
    """What is read and must stay as it is: the path that was named, its shards, a tokenizer, recipe and importance."""
    opener, request = prepared.opened.disk, prepared.request
    beside = [Path(path) for path in (request.tokenizer, request.recipe, request.importance) if path]
    return [opener.path, *beside, *(opener.root / name for name in prepared.sources)]


def model_paths(prepared: Prepared) -> list[Path]:
    """Every file that is read or written."""
    return [*source_paths(prepared), *map(prepared.destination.final, (f.name for f in prepared.plan.layout.files))]


def convert(request: Request, progress: Progress | None = None) -> Result:
    """All six steps. On failure nothing stands under the destination's name."""
    prepared = prepare(request)
    check(prepared)
    return carry_out(prepared, progress)


def carry_out(prepared: Prepared, progress: Progress | None = None, proof: Callable[[], None] | None = None) -> Result:
    """Steps 5 and 6: execute and seal. `proof` looks at what was written before it gets its final name."""
    destination = prepared.destination
    with locked(destination.journal) as new:
        try:
            _take_back(prepared)
            _check_destination(prepared, new=new)  # once more: another run may have ended since
            done, resumed = _execute(prepared, progress)
            _refuse_changed(prepared)
            proved = prove(prepared)
            if proof is not None:
                proof()
            _journal(prepared).sealing()
            destination.seal(prepared.plan, force=prepared.request.force)
        except (BadValue, BrokenFile, Unsupported):
            destination.discard()  # running it again would end the same way
            raise
    return Result(prepared, verdicts(prepared.plan, done, proved.errors), resumed, proved.cautions)


def _journal(prepared: Prepared) -> Journal:
    return Journal(prepared.destination.journal, prepared.plan, prepared.sources)


def _refuse_changed(prepared: Prepared) -> None:
    """Bytes of two states of a source make no model."""
    if fingerprints(prepared.opened) != prepared.sources:
        message = f"{prepared.opened.opener.title}: changed while it was converted"
        raise BrokenFile(message, "run again when nothing writes to it")


def _execute(prepared: Prepared, progress: Progress | None) -> tuple[list[Done], int]:
    plan, destination, request = prepared.plan, prepared.destination, prepared.request
    folders = destination.folders(prepared.opened.disk)
    journal = _journal(prepared)
    found = journal.resume() if request.resume and destination.journal.exists() else []
    done = still_there(plan, folders, found) if found and all(p.exists() for p in destination.partials(plan)) else []
    if not done:
        destination.clear()
        journal.begin()
    destination.prepare(plan, fresh=not done)
    resumed = len(done)
    total = sum(work(job) for job in plan.jobs)
    ready = sum(work(plan.jobs[one.job]) for one in done)
    sync = destination.partials(plan)
    with ThreadPoolExecutor(request.workers or os.cpu_count() or 1) as executor:
        try:
            for one in execute(plan, folders, executor, request.memory, [d.job for d in done]):
                if one.beyond:
                    _refuse_moving(prepared, plan.jobs[one.job].tensor)
                done.append(one)
                journal.keep(one, sync)
                ready += work(plan.jobs[one.job])
                if progress:
                    progress(ready, total)
        except BadValue as error:
            raise _placed(error, prepared) from None
        except (KeyboardInterrupt, CannotAccess):
            executor.shutdown(cancel_futures=True)
            journal.flush(sync)  # keep what is done for --resume
            raise
    journal.flush(sync)
    return done, resumed


def _refuse_moving(prepared: Prepared, number: int) -> None:
    """A repack that moves a weight by more than the precision of its scale was not what headers and samples said."""
    way = prepared.plan.assignments[number]
    if prepared.request.allow_requantize:
        return
    prepared.destination.discard()
    message = (
        f"{prepared.opened.opener.title}: '{way.source.name}' would move by more than the precision of its scales "
        f"(REQUANTISED: {way.source.encoding.name} -> {way.target.encoding.name})"
    )
    raise Refused(message, "choose a layout that holds its zeros and scales, or accept it with --allow-requantize")


def _placed(error: BadValue, prepared: Prepared) -> BadValue:
    """Name the tensor and the index that a job's error belongs to."""
    shape = prepared.plan.assignments[error.tensor].source.shape
    index, place = error.index, list[int]()
    for size in reversed(shape):
        index, at = divmod(index, size)
        place.insert(0, at)
    name = prepared.plan.assignments[error.tensor].source.name
    message = f"{prepared.opened.opener.title}: '{name}' at {place}: {error.message}"
    return BadValue(message, error.fix or "repair the weights, or choose an encoding with a wider range")


def _with_constants(layout: Layout, made: Design) -> Layout:
    """Write what is known already into the literals of the file that holds it: whole tensors, and parts of weights."""
    known = dict(made.constants)
    for way in made.ways:
        known.update(way.constants)
    if not known:
        return layout
    beside: dict[str, list[tuple[int, bytes]]] = {}
    for name, data in known.items():
        span = layout.model.spans[name]
        beside.setdefault(span.file, []).append((span.start, data))
    files = [replace(file, literals=(*file.literals, *beside.get(file.name, ()))) for file in layout.files]
    return replace(layout, files=tuple(files))


__all__ = [
    "Prepared", "Refused", "Request", "Result", "carry_out", "check", "convert", "parse_size", "prepare",
    "with_options",
]  # fmt: skip
