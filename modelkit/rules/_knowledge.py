"""What is known of a model beyond its tensors: config, architecture, quantisation. Read from headers alone.

An unknown architecture is no fault, and neither is one that modelkit knows but whose config asks for more than
it can: the rules that need it do not apply then, and say why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelkit.architectures import recognise
from modelkit.architectures._contract import Architecture, Config
from modelkit.errors import BrokenFile, Unsupported
from modelkit.faults import Faults
from modelkit.formats._gguf_values import Value, load
from modelkit.formats._side_files import read_json
from modelkit.rules._contract import Subject

NUMBERED = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|gguf|bin)")
COUNTED = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
           "attention.key_length", "attention.value_length", "rope.dimension_count")  # fmt: skip
LARGEST_COUNT = 1 << 24
CONVERT = "write the file again with a current converter"
LONG_ARRAY = 1024  # items; per-layer arrays are shorter
LARGEST_PROBE = 65_536
LARGEST_CONFIG = 8 * 2**20


@dataclass(frozen=True)
class Knowledge:
    """`config` is config.json as found, `keys` the plain values of a GGUF. `why` says why sizes are not known."""

    place: str  # the file that says it
    config: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None  # the architecture's own name for itself
    architecture: Architecture | None = None
    sizes: Config | None = None
    why: str = ""
    fault: BrokenFile | None = None

    def table(self) -> tuple[Architecture, Config]:
        """Architecture and sizes, for rules that need both."""
        assert self.architecture is not None and self.sizes is not None  # noqa: S101, PT018 - `needs` says so
        return self.architecture, self.sizes

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """quantization_config, or MLX's `quantization`; empty for none."""
        for key in ("quantization_config", "quantization"):
            found = self.config.get(key)
            if isinstance(found, dict) and found:
                return found
        return {}

    @property
    def method(self) -> str:
        """gptq, awq, compressed-tensors, fp8, mxfp4, bitsandbytes, mlx ...; "" for none."""
        found = self.quantisation
        if not found:
            return ""
        return str(found.get("quant_method") or ("mlx" if "group_size" in found and "bits" in found else "unknown"))


def understand(subject: Subject) -> Knowledge:
    """Read the config and recognise the architecture; never raises for what a file says."""
    dialect = subject.format.dialect
    if dialect == "gguf":
        known = Knowledge(subject.name, keys=_plain(subject))
        family = known.keys.get("general.architecture")
        facts: Mapping[str, Any] = known.keys
    elif dialect == "huggingface":
        place, config = _config(subject)
        known = Knowledge(place, config=config)
        family, facts = config.get("model_type"), {"config": config, "metadata": {}, "files": {}}
    else:
        known, family, facts = Knowledge(subject.name), "llama", subject.model.metadata
    known = replace(known, family=str(family) if family else None)
    return _recognised(known, subject, facts)


def _recognised(known: Knowledge, subject: Subject, facts: Mapping[str, Any]) -> Knowledge:
    dialect = subject.format.dialect
    if known.family is None:
        return replace(known, why="no config says what the model is")
    architecture = recognise(dialect, facts)
    if architecture is None:
        return replace(known, why=f"architecture '{known.family}' is not known")
    known = replace(known, architecture=architecture)
    absurd = next((key for key in COUNTED if _number(known.keys.get(f"{known.family}.{key}")) > LARGEST_COUNT), None)
    if absurd is not None:
        message = f"{known.family}.{absurd} is {known.keys[f'{known.family}.{absurd}']:,}, which no model has"
        return replace(known, why=message, fault=BrokenFile(message, CONVERT, "config-shape-mismatch"))
    try:
        sizes = architecture.dialects[dialect].read(facts, lambda name: _probe(subject, name))
    except Unsupported as error:
        return replace(known, why=error.message)
    except BrokenFile as error:
        return replace(known, why=error.message, fault=error)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        message = f"the config cannot be read ({type(error).__name__})"
        return replace(known, why=message, fault=BrokenFile(message, "fetch it again", "config-not-json"))
    return replace(known, sizes=_with_tensors(sizes, architecture, subject) if dialect == "gguf" else sizes)


def _number(value: object) -> int:
    return value if type(value) is int else 0


def _probe(subject: Subject, name: str) -> bytes | None:
    """A small table that belongs to the config (rope_freqs): it lies among the tensors."""
    span = subject.model.spans.get(name)
    if span is None or span.size > LARGEST_PROBE or span.file in subject.broken:
        return None
    if next(tensor.encoding.name for tensor in subject.model.tensors if tensor.name == name) != "f32":
        raise BrokenFile(f"'{name}' is not stored as f32", "write the file with a current converter", "wrong-dtype")
    return subject.opener.open(span.file).read(span.start, span.size)


def _with_tensors(sizes: Config, architecture: Architecture, subject: Subject) -> Config:
    """What the tensors of a GGUF say better than its keys: whether there is a head, and which biases."""
    there = {tensor.name for tensor in subject.model.tensors}
    return replace(sizes, tied="output.weight" not in there, bias=architecture.biases(there, "gguf"))


def _plain(subject: Subject) -> dict[str, Any]:
    """Key-values; a long array (a vocabulary) is not loaded, only its length is known."""
    found: dict[str, Any] = {}
    for key, value in subject.model.metadata.items():
        if isinstance(value, Value):
            long = value.count is not None and value.count > LONG_ARRAY
            found[key] = range(value.count or 0) if long else load(value, subject.opener.open(value.span.file))
    return found


def _config(subject: Subject) -> tuple[str, Mapping[str, Any]]:
    """config.json of the folder, of the file's own metadata, or from beside a file that holds a whole model."""
    metadata = subject.model.metadata
    if not subject.name:
        return "config.json", metadata.get("config") or {}
    embedded = metadata.get("modelkit.config")
    if isinstance(embedded, str) and len(embedded) <= LARGEST_CONFIG:
        return subject.name, _object(embedded)
    if (
        subject.is_beside
        or subject.name.startswith("adapter_")
        or NUMBERED.fullmatch(subject.name)
        or not subject.opener.holds("config.json")
    ):
        return subject.name, {}
    found = read_json(subject.opener, "config.json", Faults(strict=False))
    return "config.json", found if isinstance(found, dict) else {}


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
