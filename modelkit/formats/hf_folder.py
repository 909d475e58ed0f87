"""Hugging Face folder: config.json, tokenizer files, and safetensors in one file or in indexed shards.

config.json                        hyper-parameters
model.safetensors                  all weights, or
model-00001-of-00003.safetensors   shards, and
model.safetensors.index.json       {"metadata": {"total_size"}, "weight_map": {tensor: shard}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from modelkit.faults import Faults, Severity
from modelkit.formats import _safetensors_header as header
from modelkit.formats._contract import Facts, Format, Limit
from modelkit.formats._grouping import groups
from modelkit.formats._side_files import SIDE_FILES, read_json, side_files, utf8
from modelkit.sources import Opener
from modelkit.tensors import Encoding, Layout, Model, OutputFile, Span, Tensor

INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
LARGEST_SHARD = 5_000_000_000
"""Bytes of tensors in one file; what the hub's own tools use."""

DOWNLOAD = "download the missing file"
DOWNLOAD_AGAIN = "download index and shards again, from one place: they do not belong together"
REWRITE = "convert the folder once more: modelkit writes a right index"
WITHOUT = "if every shard is here, delete the index: numbered shards are read without it, and convert writes a new one"


def sniff(opener: Opener) -> bool:
    """A folder with weights in safetensors."""
    return opener.main is None and any(name == INDEX or name.endswith(".safetensors") for name in opener.names())


def read(opener: Opener, faults: Faults) -> Model | None:
    """All shards as one Model; the index is held against them."""
    config = read_json(opener, "config.json", faults) if opener.holds("config.json") else {}
    if not isinstance(config, dict):
        if not any(fault.file == "config.json" for fault in faults.found):  # that it is no JSON is told already
            faults.add("config-not-json", "config.json", f"holds {type(config).__name__}, not an object")
        config = {}
    names = opener.names()
    _check_links(opener, names, faults)
    index = _index(opener, faults) if INDEX in names else None
    shards = _shards(names, index, faults)
    models: dict[str, Model] = {}
    for name in shards:
        if name in names and opener.holds(name):
            model = header.read(opener.open(name), faults)
            if model is not None:
                models[name] = model
        else:
            faults.add("missing-shard", name, "named by the index or by the other shards, but not there", DOWNLOAD)
    if index is not None and shards == sorted(set(index.values())):
        _check_index(index, models, faults)
    return _joined(models, config, faults)


def joins(opener: Opener, file: str) -> bool:
    """Whether a new file of this name would change which weights are read of a folder."""
    faults, names = Faults(strict=False), opener.names()
    index = _index(opener, faults) if INDEX in names else None
    return _shards(sorted({*names, file}), index, faults) != _shards(sorted(names), index, faults)


def facts(model: Model, opener: Opener) -> Facts:
    """{"config": dict, "files": {name: bytes}, "metadata": {str: str}}."""
    return {
        "config": dict(model.metadata["config"]),
        "files": side_files(opener, SIDE_FILES),
        "metadata": dict(model.metadata["metadata"]),
    }


def stores(encoding: Encoding) -> bool:
    """Whatever has a safetensors dtype, and what a quantised layout stores in several arrays."""
    return encoding.dtype is not None or bool(getattr(encoding, "layout", None))


def layout(model: Model, name: str) -> Layout:
    """`model.metadata` as `facts` gives it. `name` is not used: the files have fixed names."""
    return _laid(model, groups(model.tensors, Limit(LARGEST_SHARD), lambda tensor: tensor.size, 0, 0))


def split(model: Model, name: str, limit: Limit) -> Layout:
    """The same with files of limited size; here a limit of bytes counts the header too."""
    strings = _strings(model)
    total = sum(tensor.size for tensor in model.tensors)
    head = header.fixed_size(strings)
    return _laid(model, groups(model.tensors, limit, lambda tensor: header.cost(tensor, total), head, head))


def _strings(model: Model) -> dict[str, str]:
    return {"format": "pt", **model.metadata.get("metadata", {})}


def _laid(model: Model, cut: list[list[Tensor]]) -> Layout:
    strings = _strings(model)
    files, spans, weight_map = [], {}, {}
    for number, group in enumerate(cut, 1):
        file = "model.safetensors" if len(cut) == 1 else f"model-{number:05d}-of-{len(cut):05d}.safetensors"
        text, placed, size = header.write(group, strings, file)
        files.append(OutputFile(file, size, ((0, text),)))
        spans.update(placed)
        weight_map.update({part.name: file for tensor in group for part in tensor.parts})
    if len(cut) > 1:
        total = sum(span.size for span in spans.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        files.append(_small(INDEX, _json(index, INDEX)))
    beside: dict[str, bytes] = model.metadata["files"]
    if model.metadata["config"] and "config.json" not in beside:
        files.append(_small("config.json", _json(model.metadata["config"], "config.json")))
    files += [_small(file, data) for file, data in beside.items()]
    return Layout(tuple(files), Model(model.tensors, spans, model.metadata))


def _index(opener: Opener, faults: Faults) -> dict[str, str] | None:
    """The weight_map, or None after reporting what is wrong with it."""
    found = read_json(opener, INDEX, faults)
    if found is None:
        return None
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        faults.add("index-not-json", INDEX, "has no weight_map of names to files", WITHOUT)
        return None
    outside = sorted({file for file in weight_map.values() if not _plain(file)})
    for file in outside:
        faults.add(
            "index-path-escapes", INDEX, f"weight_map points to '{file}'", "do not load it: it leaves the folder"
        )
    return {tensor: file for tensor, file in weight_map.items() if file not in outside}


def _plain(file: str) -> bool:
    return bool(file) and file not in (".", "..") and not re.search(r"[/\\\x00]|^[A-Za-z]:", file)


def _shards(names: list[str], index: Mapping[str, str] | None, faults: Faults) -> list[str]:
    """The weight files to read: those of the index, else the single file, else the numbered ones."""
    there = [name for name in names if name.endswith(".safetensors")]
    if index is not None:
        named = sorted(set(index.values()))
        if any(name in there for name in named) or not there:
            return named
        faults.add("stale-index", INDEX, "none of its shards is here", "delete it", severity="warning")
    if "model.safetensors" in there:
        return ["model.safetensors"]
    numbered = [match for name in there if (match := SHARD.fullmatch(name))]
    if numbered:
        stem, _, count = numbered[0].groups()
        return [f"{stem}-{n:05d}-of-{count}.safetensors" for n in range(1, min(int(count), 99_999) + 1)]
    return there


def _check_links(opener: Opener, names: list[str], faults: Faults) -> None:
    """A cache whose blobs were deleted has links to nothing: a model without its config is another model."""
    for name in ("config.json", *SIDE_FILES):
        if name in names and not opener.holds(name):
            message = f"'{name}' is no file, or a link that leads nowhere"
            severity: Severity = "error" if name == "config.json" else "warning"
            faults.add("config-not-json", name, message, "fetch the file again", severity=severity, judged="error")


def _check_index(index: Mapping[str, str], models: Mapping[str, Model], faults: Faults) -> None:
    held = {file: {part.name for tensor in model.tensors for part in tensor.parts} for file, model in models.items()}
    where = {tensor: file for file, tensors in held.items() for tensor in tensors}
    for tensor, file in index.items():
        if file in models and tensor not in held[file]:
            other, fix = (f"; it is in {where[tensor]}", WITHOUT) if tensor in where else ("", DOWNLOAD_AGAIN)
            faults.add("index-names-absent-tensor", INDEX, f"puts '{tensor}' in {file}, which lacks it{other}", fix)
    for tensor, file in sorted(where.items()):
        if tensor not in index:
            message = f"'{tensor}' of {file} is not listed"
            faults.add("tensor-not-in-index", INDEX, message, REWRITE, severity="warning", judged="error")


def _joined(models: Mapping[str, Model], config: dict[str, Any], faults: Faults) -> Model:
    tensors: list[Tensor] = []
    spans: dict[str, Span] = {}
    metadata: dict[str, str] = {}
    for file, model in models.items():
        for tensor in model.tensors:
            if tensor.name in spans:
                message = f"'{tensor.name}' is also in {spans[tensor.name].file}"
                faults.add("duplicate-tensor-in-shards", file, message, "keep one of the two", tensor=tensor.name)
            tensors.append(tensor)
        spans.update(model.spans)
        metadata.update(model.metadata)
    return Model(tuple(tensors), spans, {"config": config, "metadata": metadata})


def _small(name: str, data: bytes) -> OutputFile:
    return OutputFile(name, len(data), ((0, data),))


def _json(value: object, file: str) -> bytes:
    return utf8(json.dumps(value, indent=2, ensure_ascii=False) + "\n", file)


format = Format("Hugging Face folder", "huggingface", ("/",), sniff, read, facts, stores, layout, split)
