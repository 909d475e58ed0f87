"""One function for each parser: any bytes in, no exception out but those that mean a broken file.

Bytes stand in memory under the name that the format expects; nothing is written to disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from modelkit.errors import BrokenFile, Unsupported
from modelkit.faults import Faults
from modelkit.formats import FORMATS
from modelkit.formats._impostors import impostor
from modelkit.formats._npy_header import parse
from modelkit.formats._pickle_walk import walk
from modelkit.formats._torch_records import records
from modelkit.formats._zip_directory import directory
from modelkit.rules import RULES
from modelkit.rules._contract import Subject
from modelkit.rules._templates import reaches
from modelkit.sources import HEAD


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


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (safetensors, gguf, llama2c, pytorch, npz, folder, pickle, archive, npy, template)
}
ENDINGS = {
    "safetensors": (".safetensors",), "gguf": (".gguf",), "llama2c": (".bin",), "pytorch": (".pt", ".pkl", ".bin"),
    "npz": (".npz", ".npy"), "pickle": (".pkl",), "archive": (".pt", ".npz"), "npy": (".npy",),
}  # fmt: skip
LARGEST_SEED = 100_000


def seeds(target: str, museum: Path) -> Iterator[bytes]:
    """Inputs to begin with: what the museum has of the kind."""
    if target == "folder":
        for config in sorted(museum.rglob("config.json")):
            index, shard = (
                config.with_name(n) for n in ("model.safetensors.index.json", "model-00001-of-00002.safetensors")
            )
            pieces = [path.read_bytes() if path.is_file() else b"{}" for path in (config, index, shard)]
            if sum(map(len, pieces)) < LARGEST_SEED:
                yield b"\0\0".join(pieces)
    elif target == "template":
        yield b"{% for m in messages %}{{ m.__class__ | attr('x') }}{% endfor %}"
    for path in sorted(museum.rglob("*")):
        if path.suffix in ENDINGS.get(target, ()) and path.is_file() and path.stat().st_size < LARGEST_SEED:
            yield path.read_bytes()
