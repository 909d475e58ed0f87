"""From a source model to the target's tensors: names, steps, encodings, and what follows from the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelkit.architectures import recognise
from modelkit.architectures._contract import Architecture, Config
from modelkit.encodings import ENCODINGS
from modelkit.encodings._strided import straightened
from modelkit.encodings.llama2c import Llama2c
from modelkit.errors import BrokenFile, Refused, Unsupported
from modelkit.formats import Format
from modelkit.operations.design_layouts import is_left_out, without_ties
from modelkit.operations.importance import of_tensor
from modelkit.operations.opening import Opened
from modelkit.plan import Assignment
from modelkit.recipes import Choice, Facts, from_gguf_keys
from modelkit.steps import Step
from modelkit.tensors import Encoding, Importance, Tensor

LARGEST_PROBE = 65_536  # bytes; rope_freqs has at most some hundred float32

SMALL_GROUP = 16
"""Values to a scale of llama2.c: a quarter of a byte for each weight; half as many values cost as much again."""

WIDEST_OFFERED = 512  # past it groups only lose precision


@dataclass(frozen=True, slots=True)
class Understanding:
    """What is known of the source beyond its tensors: its family and config, None where unknown."""

    facts: Mapping[str, Any]
    architecture: Architecture | None
    config: Config | None
    probes: tuple[str, ...] = ()


@dataclass(slots=True)
class Design:
    """Every tensor's way, tensors that follow from the config, and what should be said about it."""

    ways: list[Assignment] = field(default_factory=list)
    constants: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def understand(opened: Opened, *, needed: bool = True) -> Understanding:
    """Recognise the architecture and read its config; an unknown one is no error here.

    A config that is known but unsupported is an error where the knowledge is `needed`; a conversion that
    changes no names does without.
    """
    facts = opened.format.facts(opened.model, opened.opener)
    dialect = opened.format.dialect
    architecture = recognise(dialect, facts)
    if architecture is None:
        return Understanding(facts, None, None)
    probes: list[str] = []

    def probe(name: str) -> bytes | None:
        span = opened.model.spans.get(name)
        if span is None or span.size > LARGEST_PROBE:
            return None
        if next(tensor.encoding.name for tensor in opened.model.tensors if tensor.name == name) != "f32":
            raise BrokenFile(f"'{name}' is not stored as f32", "write the file with a current converter", "wrong-dtype")
        probes.append(name)
        return opened.opener.open(span.file).read(span.start, span.size)

    try:
        config = architecture.dialects[dialect].read(facts, probe)
    except Unsupported:
        if needed:
            raise
        return Understanding(facts, None, None)
    return Understanding(facts, architecture, _with_tensors(config, opened, architecture), tuple(probes))


def _with_tensors(config: Config, opened: Opened, architecture: Architecture) -> Config:
    """What the tensors themselves say better than the metadata: rows of the embedding, head, biases."""
    if opened.format.dialect != "gguf":
        return config
    shapes = {tensor.name: tensor.shape for tensor in opened.model.tensors}
    embedding = shapes.get("token_embd.weight", (config.vocabulary,))
    return replace(
        config,
        vocabulary=embedding[0],
        tied="output.weight" not in shapes,
        bias=architecture.biases(shapes, "gguf"),
    )


def design(
    opened: Opened, known: Understanding, target: Format, choice: Choice, importance: Mapping[str, Importance]
) -> Design:
    """Decide each tensor's target. Raises Unsupported or BrokenFile where a name or a shape does not fit.

    `importance`: by the names of GGUF, empty for none.
    """
    made = Design()
    source, dialect = opened.format.dialect, target.dialect
    translated = known.architecture is not None and source != dialect
    if translated and known.architecture is not None and dialect not in known.architecture.dialects:
        message = f"unsupported architecture {known.architecture.name}: it has no form in {target.title}"
        raise Unsupported(message, f"it has one in: {', '.join(sorted(known.architecture.dialects))}")
    ways: list[tuple[Tensor, str, tuple[Step, ...]]] = []
    for stored in _meant(opened, known, choice, made):
        tensor, order = straightened(stored)
        found = _translated(tensor, known, source, dialect, made) if translated else (tensor.name, ())
        if found is not None:
            ways.append((tensor, found[0], (*order, *found[1])))
    choose = choice.chooser(
        target, [(name, tensor) for tensor, name, _ in ways], _widened(known), _for_recipes(known, dialect),
        importance=bool(importance),
    )  # fmt: skip
    without = 0
    for tensor, name, steps in ways:
        chosen = choose(name, tensor)
        encoding = _group_that_divides(chosen.encoding, known.config, made)
        if encoding.name.startswith("f8_") and known.architecture is not None and len(tensor.shape) < 2:
            encoding = tensor.encoding  # norms of a known family keep their precision
        shape = tensor.shape
        parts = encoding.parts(name, shape)
        weights = None
        if importance and encoding.kind == "quantised" and encoding != tensor.encoding:
            weights = of_tensor(importance, _in_gguf(name, known, dialect), tensor, made.notes)
            without += weights is None
        if encoding == tensor.encoding and name == tensor.name:
            parts = tensor.parts  # as they are stored, whatever the encoding would call them
        made.ways.append(Assignment(tensor, Tensor(name, shape, encoding, parts), steps, chosen.why, weights))
    made.notes += _without_effect(choice, made.ways)
    if without:
        have = "tensor has" if without == 1 else "tensors have"
        made.notes.append(f"{without} quantised {have} no importance weights: all columns count alike")
    if translated:
        _check_complete(opened, known, source)
        _add_derived(made, known, dialect)
    if source != dialect and known.architecture is None:
        _name_unknown(made, opened, known, dialect)
    return made


def _without_effect(choice: Choice, ways: list[Assignment]) -> Iterator[str]:
    """What --keep names in vain."""
    for pattern, encoding in choice.keep:
        kinds = {way.target.encoding.kind for way in ways if pattern.search(way.target.name)}
        if not kinds:
            yield f"--keep {pattern.pattern}: no tensor is called so; the plan shows the written names"
        elif encoding.kind == "quantised" and "quantised" not in kinds:
            yield f"--keep {pattern.pattern}: finds only what stays as floats, such as norms and biases"


def _in_gguf(name: str, known: Understanding, dialect: str) -> str:
    """What GGUF calls a tensor: importance files speak its words. The name itself where the family is not known."""
    found = known.architecture.find(name, dialect) if known.architecture is not None else None
    return found[0].names["gguf"].format(found[1]) if found is not None else name


def _meant(opened: Opened, known: Understanding, choice: Choice, made: Design) -> list[Tensor]:
    """The weights that are written: not what layouts store beside them, nor a second copy of a tied one."""
    config = known.facts.get("config")
    changes = bool(choice.text or choice.keep)
    layouts = choice.layout or (bool(opened.layout) and changes)
    kept = without_ties(opened.model.tensors, config if isinstance(config, dict) else {}, made.notes, quantised=layouts)
    return [tensor for tensor in kept if not (opened.layout and changes and is_left_out(tensor, made.notes))]


def _translated(
    tensor: Tensor, known: Understanding, source: str, target: str, made: Design
) -> tuple[str, tuple[Step, ...]] | None:
    """The tensor's new name and steps; None for one that is left out, with a note."""
    architecture, config = known.architecture, known.config
    assert architecture is not None and config is not None  # noqa: S101, PT018 - translated only then
    if architecture.is_ignored(tensor.name):
        made.notes.append(f"'{tensor.name}' follows from the config: it is computed, not copied")
        return None
    found = architecture.find(tensor.name, source)
    if found is None:
        fix = "convert to a .safetensors file, which carries any name"
        raise Unsupported(f"'{tensor.name}' is no tensor of {architecture.name}: it has no name in {target}", fix)
    row, layer = found
    if layer is not None and layer >= config.layers:
        message = f"'{tensor.name}' belongs to a layer beyond the {config.layers} of the config"
        raise BrokenFile(message, "config and weights do not belong together: fetch both again", "unknown-tensor")
    if row.when == "untied" and config.tied:
        made.notes.append(f"'{tensor.name}' is left out: the config ties it to the embedding")
        return None
    if not row.expected(config):
        message = f"'{tensor.name}' is there, but the config says that there is no {row.when}"
        raise BrokenFile(
            message, "config and weights do not belong together: fetch both again", "config-shape-mismatch"
        )
    name = row.names[target]
    if not name:
        raise Unsupported(f"'{tensor.name}' has no place in {target}", "convert to GGUF or a Hugging Face folder")
    expected = row.shape_in(config)
    if tensor.shape != expected:
        message = f"'{tensor.name}' has shape {list(tensor.shape)}; the config implies {list(expected)}"
        raise BrokenFile(
            message, "config and weights do not belong together: fetch both again", "config-shape-mismatch"
        )
    return name.format(layer), architecture.steps(row, config, source, target)


def _check_complete(opened: Opened, known: Understanding, source: str) -> None:
    assert known.architecture is not None and known.config is not None  # noqa: S101, PT018
    there = {tensor.name for tensor in opened.model.tensors}
    for row, layer in known.architecture.expected(known.config):
        name = row.names[source].format(layer)
        if name not in there:
            fix = "the model is incomplete: fetch all of its files (a single shard cannot be converted)"
            raise BrokenFile(f"{opened.opener.title}: '{name}' is missing", fix, "missing-tensor")


def _add_derived(made: Design, known: Understanding, dialect: str) -> None:
    assert known.architecture is not None and known.config is not None  # noqa: S101, PT018
    for name, (_, data) in known.architecture.derived(known.config, dialect).items():
        made.constants[name] = data
        made.notes.append(f"'{name}' is made from the config")


def constant_tensors(made: Design) -> list[Tensor]:
    """The tensors whose bytes are known already: float32 vectors."""
    f32 = ENCODINGS["f32"]
    return [
        Tensor(name, (len(data) // 4,), f32, f32.parts(name, (len(data) // 4,)))
        for name, data in made.constants.items()
    ]


def _name_unknown(made: Design, opened: Opened, known: Understanding, dialect: str) -> None:
    """Names of an unknown family are carried; what cannot be done without knowing it is refused."""
    facts = known.facts
    config = facts.get("config")
    family = facts.get("general.architecture") or (config.get("model_type") if isinstance(config, dict) else None)
    called = f"architecture '{family}' is not known" if family else "the architecture is not stated"
    if dialect == "llama2c":
        raise Unsupported(
            f"{opened.opener.title}: unsupported architecture {family or 'unknown'}: {called}",
            "llama2.c holds Llamas only",
        )
    if dialect == "gguf":
        made.notes.append(f"{called}: names are carried and no engine will load this GGUF")
    else:
        made.notes.append(f"{called}: names are carried as they are")


def _for_recipes(known: Understanding, dialect: str) -> Facts:
    """What recipes ask about the model, in the words of GGUF; nothing where its family is not known."""
    if dialect != "gguf":
        return _of_config(known)
    if known.architecture is None or known.config is None:
        return from_gguf_keys(known.facts)
    keys = known.facts if "general.architecture" in known.facts else None
    return from_gguf_keys(keys or known.architecture.dialects["gguf"].write(known.config))


def _of_config(known: Understanding) -> Facts:
    if known.architecture is None or known.config is None:
        return Facts()
    called = known.architecture.called.get("gguf", (known.architecture.name,))
    return Facts(called[0], known.config.layers, known.config.heads, known.config.kv_heads)


def _widened(known: Understanding) -> Encoding | None:
    name = known.facts.get("modelkit.widened")
    return ENCODINGS[name] if isinstance(name, str) and name in ("bf16", "f16") else None


def _group_that_divides(encoding: Encoding, config: Config | None, made: Design) -> Encoding:
    """llama2.c halves the group until it divides the model's width; that is said, once.

    Raises Unsupported where that ends below SMALL_GROUP and a larger group divides: the file would be several times
    as large as it could be.
    """
    if not isinstance(encoding, Llama2c) or config is None:
        return encoding
    width, group = config.hidden, encoding.group
    while width % group:
        group //= 2
    if group == encoding.group:
        return encoding
    better = [size for size in range(group + 1, min(width, WIDEST_OFFERED) + 1) if width % size == 0]
    if group < SMALL_GROUP and better:
        offered = ", ".join(f"group={size}" for size in [size for size in better if size >= SMALL_GROUP] or better)
        words = f"groups of {encoding.group:,} do not divide the width of {width:,}"
        raise Unsupported(f"{words}, nor do their halves down to {group}", f"these divide it: {offered}")
    note = f"groups of {encoding.group:,} do not divide the width of {width:,}: groups of {group:,} are used"
    if note not in made.notes:
        made.notes.append(note)
    return Llama2c(group)


def refuse_requantising(ways: list[Assignment], *, allowed: bool) -> None:
    """Quantised weights go into another lossy encoding only when that was asked for."""
    found = [way for way in ways if way.expectation == "REQUANTISED"]
    if found and not allowed:
        first = found[0]
        what = "1 quantised tensor" if len(found) == 1 else f"{len(found):,} quantised tensors"
        message = (
            f"{what} would be quantised again "
            f"(REQUANTISED: '{first.source.name}' {first.source.encoding.name} -> {first.target.encoding.name}"
            f"{': ' + first.why if first.why else ''})"
        )
        raise Refused(message, "convert from the unquantised model, or accept the loss with --allow-requantize")
