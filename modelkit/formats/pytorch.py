"""PyTorch checkpoints: a zip of a pickle and raw storages, or the older stream of pickles. Read without running them.

    ROOT/data.pkl         a pickle that rebuilds tensors; never unpickled, only followed (`_pickle_walk.py`)
    ROOT/data/KEY         one storage each: raw elements, stored without compression
    ROOT/byteorder        "little"; ROOT/version

    before 1.6            pickles of a magic number, a version, a description of the machine, the object and the
                          list of storage keys; then for each key a u64 count and the raw elements

A tensor views a storage from an offset with strides; it is read from where it lies in the archive. Checkpoints in
shards have pytorch_model.bin.index.json, as Hugging Face folders do. Read only: modelkit writes no pickles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from modelkit.faults import Faults
from modelkit.formats import _torch_archive, _torch_stream
from modelkit.formats._contract import Facts, Format
from modelkit.formats._impostors import impostor, is_pickle, is_zip
from modelkit.formats._side_files import SIDE_FILES, read_json, side_files
from modelkit.sources import HEAD, Opener, head
from modelkit.tensors import Encoding, Model, Span, Tensor

INDEX = "pytorch_model.bin.index.json"
SINGLE = "pytorch_model.bin"
PICKLES = (".pkl", ".pickle", ".p", ".joblib")
DOWNLOAD = "download the missing file"


def sniff(opener: Opener) -> bool:
    """A zip or a pickle by its first bytes; a folder by the names that Hugging Face uses."""
    if opener.main is None:
        return any(name in (INDEX, SINGLE) for name in opener.names())
    data = head(opener)
    return is_zip(data) or is_pickle(data, opener.open(opener.main).size) or opener.main.endswith(PICKLES)


def read(opener: Opener, faults: Faults) -> Model | None:
    """The tensors of one file, or of all shards of a folder."""
    if opener.main is not None:
        return _file(opener, opener.main, faults)
    models = {}
    for name in _shards(opener, faults):
        if not opener.holds(name):
            faults.add("missing-shard", name, "named by the index, but not there", DOWNLOAD)
            continue
        model = _file(opener, name, faults)
        if model is not None:
            models[name] = model
    return _joined(opener, models, faults)


def facts(model: Model, opener: Opener) -> Facts:
    """{"config": dict, "files": {name: bytes}, "metadata": {}} from beside the file."""
    config: Any = read_json(opener, "config.json", Faults()) if opener.holds("config.json") else {}
    config = config if isinstance(config, dict) else {}
    return {"config": config, "files": side_files(opener, SIDE_FILES), "metadata": {}}


def stores(encoding: Encoding) -> bool:
    """It is never written, so nothing is put into it."""
    return False


def _file(opener: Opener, name: str, faults: Faults) -> Model | None:
    source = opener.open(name)
    data = source.read(0, min(source.size, HEAD))
    found = impostor(name, data, source.size)
    if found is not None:
        faults.add(found.rule, name, found.message, found.fix, offset=found.offset)
        return None
    read_one = _torch_archive.read if is_zip(data) else _torch_stream.read
    return read_one(source, faults)


def _shards(opener: Opener, faults: Faults) -> list[str]:
    if not opener.holds(INDEX):
        return [SINGLE]
    found = read_json(opener, INDEX, faults)
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        faults.add("index-not-json", INDEX, "has no weight_map of names to files", "fetch it again")
        return []
    for file in sorted(set(weight_map.values())):
        if not file or re.search(r"[/\\\x00]|^\.\.?$|^[A-Za-z]:", file):
            faults.add("index-path-escapes", INDEX, f"weight_map points to '{file}'", "do not load it")
    return sorted(
        file for file in set(weight_map.values()) if file and not re.search(r"[/\\\x00]|^\.\.?$|^[A-Za-z]:", file)
    )


def _joined(opener: Opener, models: Mapping[str, Model], faults: Faults) -> Model:
    tensors: list[Tensor] = []
    spans: dict[str, Span] = {}
    for file, tensor in _all(models):
        if tensor.name in spans:
            message = f"'{tensor.name}' is also in {spans[tensor.name].file}"
            faults.add("duplicate-tensor-in-shards", file, message, "keep one of the two", tensor=tensor.name)
            continue
        tensors.append(tensor)
        spans[tensor.name] = models[file].spans[tensor.name]
    config = read_json(opener, "config.json", faults) if opener.holds("config.json") else {}
    return Model(tuple(tensors), spans, {"config": config if isinstance(config, dict) else {}, "metadata": {}})


def _all(models: Mapping[str, Model]) -> Iterator[tuple[str, Tensor]]:
    for file, model in models.items():
        for tensor in model.tensors:
            yield file, tensor


format = Format("PyTorch", "huggingface", (".pt", ".pth", ".ckpt"), sniff, read, facts, stores)
