"""One function for each parser: any bytes in, no exception out but those that mean a broken file.

Bytes stand in memory under the name that the format expects; nothing is written to disk.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from bundle_targets import manifest, sealed, signed, volume

from modelkit import tokenizers
from modelkit.errors import BadRequest, BadValue, BrokenFile, Unsupported
from modelkit.faults import Faults
from modelkit.formats import FORMATS
from modelkit.formats._impostors import impostor
from modelkit.formats._npy_header import parse
from modelkit.formats._pickle_walk import walk
from modelkit.formats._torch_records import records
from modelkit.formats._zip_directory import directory
from modelkit.layouts._folding import fold
from modelkit.layouts._opening import quantisation
from modelkit.operations import checksum_list, importance, policy_file
from modelkit.operations.reading import LazyTensor
from modelkit.recipes import _recipe
from modelkit.remote import checked, is_loopback
from modelkit.rules import RULES
from modelkit.rules._contract import Subject
from modelkit.rules._templates import reaches
from modelkit.sources import HEAD
from modelkit.tokenizers._token_list import MOST_HOLES

if TYPE_CHECKING:
    from modelkit.operations.opening import Opened

MOST_VALUES = 100_000
SCRATCH = Path(tempfile.mkdtemp()) / "input"


class Memory:
    """Bytes in memory as a Source."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data
        self.size = len(data)

    def read(self, start: int, size: int) -> bytes:
        if start < 0 or size < 0 or start + size > self.size:
            raise BrokenFile(f"{self.name}: read beyond its end", rule="truncated-file")
        return self.data[start : start + size]


class Shelf:
    """Files in memory as an Opener."""

    def __init__(self, files: Mapping[str, bytes], main: str | None) -> None:
        self.files = dict(files)
        self.main = main
        self.title = main or "folder"
        self.root = Path("nowhere")

    def names(self) -> list[str]:
        return sorted(self.files)

    def open(self, name: str) -> Memory:
        return Memory(name, self.files[name])

    def holds(self, name: str) -> bool:
        return name in self.files


def _read(kind: str, shelf: Shelf) -> None:
    """Read as a format does, then ask every rule about the model that came out."""
    faults = Faults(strict=False)
    format = FORMATS[kind]
    if shelf.main is not None:
        impostor(shelf.main, shelf.files[shelf.main][:HEAD], len(shelf.files[shelf.main]))
        format.sniff(shelf)
    try:
        model = format.read(shelf, faults)
    except (BrokenFile, Unsupported):
        return
    if model is None:
        assert faults.errors, "nothing was read and nothing was said"
        return
    for tensor in model.tensors:
        for part in tensor.parts:
            span = model.spans[part.name]
            inside = span.start >= 0 and span.end <= len(shelf.files[span.file])
            assert inside or faults.errors, f"{tensor.name} lies outside and nothing was said"
    subject = Subject(shelf.main or "", kind, format, model, shelf, tuple(shelf.files), broken=frozenset(shelf.files))
    for name in RULES:
        check = RULES[name].model
        if check is not None and all(_has(subject, need) for need in RULES[name].needs):
            for finding in check(subject):
                json.dumps(finding.message)


def _has(subject: Subject, need: str) -> bool:
    known = subject.knowledge
    return {
        "gguf": subject.kind == "gguf",
        "architecture": known.sizes is not None,
        "config": bool(known.config or known.keys),
        "quantisation": bool(known.quantisation),
    }.get(need, False)


def safetensors(data: bytes) -> None:
    _read("safetensors", Shelf({"a.safetensors": data}, "a.safetensors"))


def gguf(data: bytes) -> None:
    _read("gguf", Shelf({"a.gguf": data}, "a.gguf"))


def llama2c(data: bytes) -> None:
    _read("llama2c", Shelf({"a.bin": data}, "a.bin"))


def pytorch(data: bytes) -> None:
    _read("pytorch", Shelf({"a.pt": data}, "a.pt"))


def npz(data: bytes) -> None:
    _read("npz", Shelf({"a.npz": data}, "a.npz"))


def folder(data: bytes) -> None:
    """Config, index and a shard, cut from one input at its NULs."""
    config, _, rest = data.partition(b"\0\0")
    index, _, shard = rest.partition(b"\0\0")
    files = {"config.json": config, "model.safetensors.index.json": index, "model-00001-of-00002.safetensors": shard}
    _read("hf_folder", Shelf(files, None))


def quantised(data: bytes) -> None:
    """config.json and a shard, cut at its NULs: folded as a layout, and what is small enough decoded."""
    config, _, shard = data.partition(b"\0\0")
    shelf, faults = Shelf({"a.safetensors": shard}, "a.safetensors"), Faults(strict=False)
    try:
        said = json.loads(config)
        model = FORMATS["safetensors"].read(shelf, faults)
        if not isinstance(said, dict) or model is None:
            return
        folded = fold(model, shelf, quantisation(said), faults).model
    except (ValueError, RecursionError, BrokenFile, Unsupported):
        return
    if faults.errors:
        return
    opened = cast("Opened", SimpleNamespace(model=folded, opener=shelf))
    for tensor in folded.tensors:
        if prod(tensor.shape) < MOST_VALUES:
            with suppress(BadValue, BrokenFile, Unsupported):
                assert LazyTensor(tensor, opened).numpy().shape == tensor.shape


def pickle(data: bytes) -> None:
    found = walk(data, 100_000)
    assert found.broken or found.end
    for one in records(found.value):
        assert one.name is not None


def archive(data: bytes) -> None:
    faults = Faults(strict=False)
    members = directory(Memory("a.zip", data), faults)
    for member in members or ():
        if member.start is not None:
            assert member.start + member.stored <= len(data)


def npy(data: bytes) -> None:
    parse(data)


def template(data: bytes) -> None:
    reaches(data.decode("utf-8", "replace"))


def imatrix(data: bytes) -> None:
    """The reader opens a path, so the bytes stand in a file; what is not finite must not come through."""
    SCRATCH.write_bytes(data)
    with suppress(BrokenFile, Unsupported):
        for one in importance.read(str(SCRATCH)).values():
            assert one.columns * len(one.counts) * 4 + one.start <= len(data)


def recipe(data: bytes) -> None:
    with suppress(BadRequest):
        _recipe.read(_recipe._table(data.decode("utf-8", "replace"), "a.toml"), "a.toml")


def policy(data: bytes) -> None:
    SCRATCH.write_bytes(data.decode("utf-8", "replace").encode())
    with suppress(BadRequest):
        policy_file.load(str(SCRATCH))


def sums(data: bytes) -> None:
    """A list of digests, which names files and tensors: none is opened."""
    SCRATCH.write_bytes(data)
    with suppress(BrokenFile, BadRequest):
        for entry in checksum_list.read_list(str(SCRATCH)).entries:
            assert entry.name and (entry.kind != "file" or "\0" not in entry.name)


def tokenizer_json(data: bytes) -> None:
    """tokenizer.json and tokenizer_config.json, cut from one input."""
    document, _, config = data.partition(b"\0\0")
    with suppress(BrokenFile, Unsupported):
        known = tokenizers.tokenizer_json.read({"tokenizer.json": document, "tokenizer_config.json": config or b"{}"})
        assert len(known.tokens) < 2 * len(data) + MOST_HOLES


def tokenizer_model(data: bytes) -> None:
    with suppress(BrokenFile, Unsupported):
        tokenizers.tokenizer_json.read({"tokenizer.model": data})


def tokenizer_bin(data: bytes) -> None:
    with suppress(BrokenFile, Unsupported):
        tokenizers.tokenizer_bin.read(data, 32)


def url(data: bytes) -> None:
    """What is not followed is refused; what is sent and printed has no control characters, and names a real host."""
    with suppress(BadRequest):
        found = checked(data.decode("utf-8", "surrogateescape"))
        assert found.scheme == "https" or is_loopback(found.hostname or "")
        assert found.geturl().isascii() and found.geturl().isprintable() and " " not in found.geturl()
        assert "@" not in found.netloc


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        safetensors, gguf, llama2c, pytorch, npz, folder, quantised, pickle, archive, npy, template, imatrix, recipe,
        policy, sums, tokenizer_json, tokenizer_model, tokenizer_bin, url, manifest, volume, sealed, signed,
    )
}  # fmt: skip
