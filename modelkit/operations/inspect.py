"""What a model is, from its headers alone: no tensor data, no numpy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from modelkit.errors import BadRequest
from modelkit.faults import Fault
from modelkit.formats._gguf_values import ARRAY, Value, load
from modelkit.formats.safetensors import CONFIG
from modelkit.operations.opening import Opened, open_model, read_model
from modelkit.sources import is_url
from modelkit.tensors import Tensor

NUMBER = re.compile(r"\.([0-9]{1,9})\.")
"""Of a layer; longer ones are no numbers of anything, and some thousand digits are more than int() takes."""


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a model is stored in one encoding."""

    encoding: str
    tensors: int
    values: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Branch:
    """Tensors that differ by nothing but the layer: `times` of them, `name` with the layers' range."""

    name: str
    times: int
    shape: tuple[int, ...]
    encoding: str
    bytes: int


def summary(opened: Opened) -> dict[str, Any]:
    """Format, architecture, parameters, encodings, size, context and health, as plain values."""
    model = opened.model
    stored = sum(span.size for span in model.spans.values())
    files = sorted({span.file for span in model.spans.values()})
    return {
        "path": opened.opener.title,
        "format": opened.format.title,
        "architecture": _architecture(opened),
        "name": _plain(opened, "general.name", "_name_or_path"),
        "parameters": model.parameters,
        "tensors": len(model.tensors),
        "bytes": stored,
        "bits_per_weight": round(stored * 8 / model.parameters, 2) if model.parameters else 0.0,
        "files": len(files),
        "context": _context(opened),
        "encodings": [asdict(use) for use in uses(model.tensors)],
        "health": health(opened),
    }


def uses(tensors: Iterable[Tensor]) -> list[Use]:
    """Encodings by bytes, the largest first."""
    found: dict[str, list[int]] = {}
    for tensor in tensors:
        sums = found.setdefault(tensor.encoding.name, [0, 0, 0])
        for place, amount in enumerate((1, tensor.count, tensor.size)):
            sums[place] += amount
    return sorted((Use(name, *sums) for name, sums in found.items()), key=lambda use: -use.bytes)


def health(opened: Opened) -> dict[str, Any]:
    """What reading the headers found: faults, each with its fix."""
    faults: list[Fault] = opened.faults.found
    return {
        "ok": not opened.faults.errors,
        "faults": [
            {"rule": f.rule, "severity": f.severity, "file": f.file, "message": f.message, "fix": f.fix} for f in faults
        ],
    }


def tree(tensors: Iterable[Tensor], pattern: str | None = None) -> list[Branch]:
    """Layers folded: one line for all tensors whose names differ by a number and that are alike."""
    groups: dict[tuple[str, tuple[int, ...], str], list[tuple[int | None, Tensor]]] = {}
    for tensor in (tensor for tensor in tensors if _matches(pattern, tensor.name)):
        match = NUMBER.search(tensor.name)
        name = tensor.name if match is None else f"{tensor.name[: match.start()]}.[N].{tensor.name[match.end() :]}"
        layer = int(match[1]) if match else None
        groups.setdefault((name, tensor.shape, tensor.encoding.name), []).append((layer, tensor))
    shapes: dict[str, int] = {}
    for name, _, _ in groups:
        shapes[name] = shapes.get(name, 0) + 1
    branches = []
    for (name, shape, encoding), members in groups.items():
        layers = [layer for layer, _ in members if layer is not None]
        shown = name.replace("[N]", f"[{ranges(layers)}]") if shapes[name] > 1 else name
        branches.append(Branch(shown, len(members), shape, encoding, sum(tensor.size for _, tensor in members)))
    return branches


def ranges(numbers: list[int]) -> str:
    """0-3,7: runs of whole numbers."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def tensors(opened: Opened, pattern: str | None = None, largest: int | None = None) -> list[dict[str, Any]]:
    """Every tensor with its place; those whose name matches, the largest first if so asked."""
    return [_described(opened, tensor) for tensor in chosen(opened, pattern, largest)]


def chosen(opened: Opened, pattern: str | None = None, largest: int | None = None) -> list[Tensor]:
    """The tensors whose name matches; of these the largest, if so asked. Raises BadRequest for a bad pattern."""
    found = [tensor for tensor in opened.model.tensors if _matches(pattern, tensor.name)]
    return found if largest is None else sorted(found, key=lambda tensor: -tensor.size)[:largest]


def metadata(opened: Opened, key: str | None = None, pattern: str | None = None) -> dict[str, Any]:
    """Key-values as the file states them; long arrays by length, type and ends, unless asked for by key."""
    pairs = flat(opened.model.metadata)
    if key is not None:
        if key not in pairs:
            raise BadRequest(f"{opened.opener.title}: has no key '{key}'", "see all of them with --metadata")
        return {key: _whole(opened, pairs[key])}
    return {name: _short(opened, value) for name, value in pairs.items() if _matches(pattern, name)}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def inspect(path: str) -> Opened:
    """Open a model for a look, on disk or behind a URL; faults that leave something to describe are kept."""
    if not is_url(path):
        return open_model(path, strict=False)
    from modelkit.remote import Remote

    return read_model(Remote(path), strict=False)


def _matches(pattern: str | None, name: str) -> bool:
    try:
        return pattern is None or re.search(pattern, name) is not None
    except re.error as error:
        raise BadRequest(f"--grep '{pattern}' is no regular expression: {error}") from None


def _described(opened: Opened, tensor: Tensor) -> dict[str, Any]:
    span = opened.model.spans[tensor.parts[0].name]
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "encoding": tensor.encoding.name,
        "bytes": tensor.size,
        "file": span.file,
        "offset": span.start,
    }


def _whole(opened: Opened, value: object) -> object:
    return load(value, opened.opener.open(value.span.file)) if isinstance(value, Value) else value


def _short(opened: Opened, value: object) -> object:
    if isinstance(value, Value) and value.kind != ARRAY:
        return value.value
    if isinstance(value, Value):
        items = load(value, opened.opener.open(value.span.file))
        kind = value.type_name
    elif isinstance(value, list) and len(value) > 8:
        items, kind = value, "list"
    else:
        return value
    assert isinstance(items, list)  # noqa: S101 - arrays load as lists
    return {"type": kind, "length": len(items), "first": items[:3], "last": items[-3:]}


def _plain(opened: Opened, *keys: str) -> Any:
    values = {**opened.model.metadata, **_config(opened)}
    for key in keys:
        value = values.get(key)
        if value is not None:
            return value.value if isinstance(value, Value) else value
    return None


def _config(opened: Opened) -> Mapping[str, Any]:
    """Of a folder, or what a single safetensors file has of its own in its header."""
    config = opened.model.metadata.get("config")
    if opened.format.dialect == "huggingface" and isinstance(kept := opened.model.metadata.get(CONFIG), str):
        with suppress(ValueError, RecursionError):  # what is no JSON says nothing
            config = json.loads(kept)
    return config if isinstance(config, dict) else {}


def _architecture(opened: Opened) -> str | None:
    if opened.format.dialect == "llama2c":
        return "llama"
    found = _plain(opened, "general.architecture", "model_type")
    return None if found is None else str(found)


def _context(opened: Opened) -> Any:
    if opened.format.dialect == "gguf":
        return _plain(opened, f"{_architecture(opened)}.context_length")
    return _plain(opened, "max_position_embeddings", "max_seq_len", "n_positions")
