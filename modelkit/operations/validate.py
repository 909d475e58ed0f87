"""Judge models: read headers, ask every rule, and with more effort look at the bytes.

A check that could not do what its level promises is listed under `skipped` and the answer is never clean; a rule
that does not apply (no config, an unknown architecture) is listed under `not_applicable` and is no gap.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from modelkit.errors import BadRequest, BrokenFile, CannotAccess, ModelkitError, Unsupported
from modelkit.faults import MOST, Fault, Faults, Severity
from modelkit.formats import FORMATS, Format
from modelkit.formats._impostors import impostor
from modelkit.operations.validate_layouts import folding
from modelkit.operations.validate_places import WEIGHTS, Candidate, Place, places
from modelkit.operations.validate_report import SEVERITIES, UNCHECKED, Coverage, Found, Report, finished
from modelkit.rules import RULES, word
from modelkit.rules._contract import LEVELS, Finding, Folder, Level, Rule, Subject
from modelkit.rules._policy import Policy
from modelkit.sources import Opener, head, is_url
from modelkit.tensors import Model

PARTIAL = (*UNCHECKED, "compressed-array")
"""Faults that leave out a part of a file; the rest is sound."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to judge, how thoroughly, by which policy. `baseline`: fingerprints of findings that are known."""

    paths: tuple[str, ...]
    level: Level = "header"
    fail_on: Severity = "error"
    policy: Policy | None = None
    baseline: frozenset[str] = frozenset()
    allow_unchecked: bool = False
    lfs_ok: bool = False


@dataclass
class _Run:
    """The state of one call."""

    request: Request
    progress: Callable[[int], None] | None = None
    found: list[Found] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)
    rules: dict[str, Rule] = field(default_factory=dict)
    judged: set[object] = field(default_factory=set)  # files and split sets that were named
    counted: set[str] = field(default_factory=set)  # the files of these

    def add(self, place: Place, rule: str, finding: Finding, severity: Severity) -> None:
        self.found.append(Found(place.shown(finding.file), rule, finding, finding.severity or severity))

    def ask(self, place: Place, rule: str, file: str, found: Iterator[Finding]) -> None:
        """Everything that a rule finds. One that fails has checked nothing, and that is said."""
        kept = more = 0
        try:
            for finding in found:
                if place.covers(finding.file) or self.rules[rule].folder is None:
                    if kept < MOST:
                        self.add(place, rule, finding, self.rules[rule].severity)
                    else:
                        more += 1
                    kept += 1
            if more:
                self.others(place, rule, file, more, self.rules[rule].severity)
        except ModelkitError as error:
            self.gap(place, file, f"rule {rule} could not finish: {error.message}")
        except Exception as error:  # noqa: BLE001 - a fault of ours must not look like a clean file
            self.gap(place, file, f"rule {rule} failed ({type(error).__name__}: {error}); please report it")

    def others(self, place: Place, rule: str, file: str, count: int, severity: Severity) -> None:
        """Findings that are counted and not kept."""
        finding = Finding(file, f"{count:,} more that are not listed")
        self.found.append(Found(place.shown(file), rule, finding, finding.severity or severity, count))

    def count(self, place: Place, file: str) -> bool:
        """Count a file; False where it is counted already: a damaged shard is judged by itself, then with its set."""
        shown = place.shown(file)
        new = place.main is None or shown not in self.counted
        self.counted.add(shown)
        return new

    def gap(self, place: Place, file: str, why: str) -> None:
        """Something was not checked."""
        self.coverage.skip(place.shown(file), "not-fully-checked", why)
        self.add(place, "not-fully-checked", Finding(file, why), "error")


def validate(request: Request, progress: Callable[[int], None] | None = None) -> Report:
    """Judge every path. Findings come back sorted and folded; the same input gives the same report."""
    _refuse_words(request)
    run = _Run(request, progress, rules={word(name): RULES[name] for name in RULES})
    run.coverage.level = request.level
    with _patient_collector():
        for path in request.paths:
            try:
                _path(run, path)
            except CannotAccess as error:
                shown = path.partition("?")[0] if is_url(path) else path  # what follows may be a signature
                message = error.message.removeprefix(f"{shown}: ")
                run.coverage.skip(shown, "unreadable-file", message)
                run.found.append(Found(shown, "unreadable-file", Finding(shown, message, error.fix), "error"))
    return finished(run.found, run.coverage, request.fail_on, request.policy, request.baseline, request.allow_unchecked)


def _path(run: _Run, path: str) -> None:
    """Everything at a path; a file once, and a split set once, however many of its shards are named."""
    before, holds = len(run.found), False
    for place in places(path):
        if place.once is not None and place.once in run.judged:
            return
        run.judged.add(place.once)
        _judge(run, place)
        holds = holds or bool(place.folder.weights or place.faults)
    if not holds and len(run.found) == before:
        run.coverage.skip(path, "not-fully-checked", "holds no model file: nothing was judged")


def _refuse_words(request: Request) -> None:
    if not request.paths:
        raise BadRequest("no path is given: nothing would be judged")
    for word_given, words in ((request.level, LEVELS), (request.fail_on, SEVERITIES)):
        if word_given not in words:
            raise BadRequest(f"'{word_given}': one of {', '.join(words)} expected")
    for path in request.paths:
        if is_url(path) and request.level != "header":
            fix = "use --level header, or download the file first"
            raise BadRequest(f"{path}: of a URL only headers are read, not at level {request.level}", fix)


@contextmanager
def _patient_collector() -> Iterator[None]:
    """A million tensors are a million objects without cycles: looking for cycles among them doubles the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _judge(run: _Run, place: Place) -> None:
    """One folder: its impostors, its models, then the rules about the folder itself."""
    digests: dict[str, str] = {}
    for fault in place.faults:
        _fault(run, place, fault)
    folder = replace(place.folder, policy=run.request.policy)
    judged = {file for file in folder.weights | {fault.file for fault in place.faults} if run.count(place, file)}
    run.coverage.bytes_total += sum(item.size for item in folder.items if item.name in folder.weights & judged)
    run.coverage.files += len(judged)
    run.coverage.paths += [place.shown(file) for file in sorted(judged)]
    for candidate in place.candidates:
        try:
            subject = _subject(run, place, candidate)
            if subject is not None:
                digests |= _model(run, place, subject)
        except BrokenFile as error:  # a file that changes while it is read
            _fault(run, place, Fault(error.rule or "truncated-file", candidate.main or "", error.message, error.fix))
        except CannotAccess as error:
            message = error.message.removeprefix(f"{place.shown(candidate.main or '')}: ")
            _fault(run, place, Fault("unreadable-file", candidate.main or "", message, error.fix))
    _folder(run, place, folder, digests)


def _subject(run: _Run, place: Place, candidate: Candidate) -> Subject | None:
    """Read the headers of one model; None when nothing is left to describe. Its faults are kept."""
    opener = place.of(candidate)
    faults = Faults(strict=False)
    kind, format = _format(opener, candidate, faults)
    model = _read(format, opener, faults) if format is not None else None
    for fault in faults.found:
        _fault(run, place, fault)
    for (rule, file), count in faults.more.items():
        if count and rule in run.rules:
            run.others(place, rule, file, count, run.rules[rule].severity)
    if format is None or model is None:
        return None
    files = sorted(
        {span.file for span in model.spans.values()} | {name for name in candidate.files if opener.holds(name)}
    )
    broken = {fault.file for fault in faults.errors if fault.rule not in PARTIAL}
    missing = {fault.file for fault in faults.found if fault.rule in ("missing-shard", "index-not-json")}
    broken |= {file for file in files if _unsound(place, file)}
    return Subject(
        candidate.main or "", kind, format, model, opener, tuple(files), run.request.level,
        frozenset(broken), frozenset(missing), run.request.policy, candidate.is_beside,
    )  # fmt: skip


def _unsound(place: Place, file: str) -> bool:
    return any(fault.file == file and fault.severity == "error" for fault in place.faults)


def _format(opener: Opener, candidate: Candidate, faults: Faults) -> tuple[str, Format | None]:
    """The format by the first bytes; what is none is reported."""
    if candidate.main is not None:
        found = impostor(candidate.main, head(opener), opener.open(candidate.main).size)
        if found is not None:
            faults.found.append(found)
            return "", None
    for name in FORMATS:
        if FORMATS[name].sniff(opener):
            return name, FORMATS[name]
    name = candidate.main or ""
    start = bytes(head(opener)[:8])
    if name.endswith(WEIGHTS):
        message = f"is no model file that modelkit knows (it begins with {start!r})"
        faults.add("wrong-file-type", name, message, "fetch the right file", offset=0)
    else:
        faults.add("not-fully-checked", name, f"is of no kind that modelkit knows (it begins with {start!r})")
    return "", None


def _read(format: Format, opener: Opener, faults: Faults) -> Model | None:
    try:
        return format.read(opener, faults)
    except Unsupported as error:
        faults.add("not-fully-checked", opener.main or "", error.message, error.fix)
    except BrokenFile as error:
        message = error.message.removeprefix(f"{opener.main}: ")
        faults.add(error.rule or "truncated-file", opener.main or "", message, error.fix, offset=error.offset)
    except CannotAccess as error:
        faults.add("unreadable-file", opener.main or "", error.message, error.fix)
    except (RecursionError, MemoryError) as error:
        faults.add("not-fully-checked", opener.main or "", f"its header cannot be read ({type(error).__name__})")
    return None


def _fault(run: _Run, place: Place, fault: Fault) -> None:
    """What a parser found becomes a finding; what it could not follow, a gap."""
    if fault.rule == "lfs-pointer" and run.request.lfs_ok:
        if place.shown(fault.file) not in run.coverage.pointers:
            run.coverage.pointers.append(place.shown(fault.file))
        return
    if fault.rule in UNCHECKED:
        run.coverage.skip(place.shown(fault.file), fault.rule, fault.message)
    finding = Finding(fault.file, fault.message, fault.fix, fault.tensor, fault.offset)
    severity: Severity = "error" if fault.rule in UNCHECKED else fault.judged or fault.severity
    if fault.rule == "compressed-array":
        severity = "info"  # it cannot be converted; that is no fault, and its values are unpacked to be looked at
    run.add(place, fault.rule, finding, severity)


def _model(run: _Run, place: Place, subject: Subject) -> dict[str, str]:
    """Every rule about models and values; the digests that the pass over the bytes gave."""
    coverage, lacks = run.coverage, dict[str, list[str]]()
    coverage.tensors_total += len(subject.model.tensors)
    asked = []
    for name, rule in run.rules.items():
        if rule.model is None and rule.values is None:
            continue
        if LEVELS.index(rule.level) > LEVELS.index(subject.level):
            continue
        why = next(filter(None, (_lacks(subject, need) for need in rule.needs)), "")
        if why:
            lacks.setdefault(why, []).append(name)
        else:
            asked.append((name, rule))
    for why, names in lacks.items():
        coverage.not_applicable.append((place.shown(subject.name), why, tuple(names)))
    fault = subject.knowledge.fault
    if fault is not None:
        run.add(
            place, fault.rule or "config-not-json", Finding(subject.knowledge.place, fault.message, fault.fix), "error"
        )
    before = len(run.found)
    for name, rule in asked:
        if rule.model is not None:
            run.ask(place, name, subject.name, rule.model(subject))
    digests: dict[str, str] = {}
    if subject.level == "header":
        coverage.tensors_checked += len(subject.model.tensors)
    else:
        digests = _values(run, place, subject, asked)
    later = {name for name, rule in run.rules.items() if LEVELS.index(rule.level) > LEVELS.index(subject.level)}
    for layout_fault in folding(subject, later, {(one.rule, one.finding.tensor) for one in run.found[before:]}):
        _fault(run, place, layout_fault)
    return digests


def _values(run: _Run, place: Place, subject: Subject, asked: list[tuple[str, Rule]]) -> dict[str, str]:
    from modelkit.operations import validate_values
    from modelkit.operations.validate_opinion import RULE, second_opinion

    run.ask(place, RULE, subject.name, second_opinion(subject))
    if subject.level == "full":
        values, read = validate_values.full(subject, run.progress)
    else:
        values, read = validate_values.sample(subject)
    run.coverage.bytes_read += read
    run.coverage.tensors_checked += len(values.tensors)
    run.coverage.tensors_total += sum(one.tensor.parts[0].name not in subject.model.spans for one in values.tensors)
    for file in sorted(subject.broken.intersection(subject.files)):
        run.coverage.skip(place.shown(file), "values", "its structure is broken: its values were not looked at")
    for name, rule in asked:
        if rule.values is not None:
            run.ask(place, name, subject.name, rule.values(subject, values))
    return {**values.digests, **values.checksums}


def _lacks(subject: Subject, need: str) -> str:
    """Why a rule does not apply to a model; "" when it does."""
    if need in ("gguf", "safetensors"):
        return "" if need == subject.kind else f"not a file of {need}"
    if need == "policy":
        return "" if subject.policy is not None else "there is no policy"
    known = subject.knowledge
    if need == "quantisation":
        return "" if known.quantisation else "the config names no quantisation"
    if need == "config":
        return "" if known.config or known.keys else "there is no config"
    return "" if known.sizes is not None else known.why


def _folder(run: _Run, place: Place, folder: Folder, digests: dict[str, str]) -> None:
    from modelkit.operations.validate_digests import missing_digests
    from modelkit.rules._sums import gaps

    if run.request.level == "full":
        digests |= missing_digests(folder, digests, run.coverage, place.covers)
        for name, why in gaps(folder, place.covers) if folder.weights else ():
            run.gap(place, name, why)
    folder = replace(folder, digests=digests)
    for name, rule in run.rules.items():
        if rule.folder is None or (place.main and rule.family not in ("integrity", "policy")):
            continue
        run.ask(place, name, "", rule.folder(folder))
