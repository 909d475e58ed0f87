"""One function for each parser: any bytes in, no exception out but those that mean a broken file.

Bytes stand in memory under the name that the format expects; nothing is written to disk.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from modelkit import recipes, tokenizers
from modelkit.errors import BadRequest, BrokenFile, Unsupported
from modelkit.faults import Faults
from modelkit.formats import FORMATS
from modelkit.formats._impostors import impostor
from modelkit.formats._npy_header import parse
from modelkit.formats._pickle_walk import walk
from modelkit.formats._torch_records import records
from modelkit.formats._zip_directory import directory
from modelkit.operations import checksum_list, importance, policy_file
from modelkit.recipes import _recipe
from modelkit.remote import checked, is_loopback
from modelkit.rules import RULES
from modelkit.rules._contract import Subject
from modelkit.rules._templates import reaches
from modelkit.sources import HEAD
from modelkit.tokenizers._token_list import MOST_HOLES

ROOT = Path(__file__).resolve().parent.parent.parent
STORIES = ROOT / "fixtures" / "stories" / "model"
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
    """A list of digests, which names files: none is opened."""
    SCRATCH.write_bytes(data)
    with suppress(BrokenFile, BadRequest):
        for entry in checksum_list.read_list(str(SCRATCH)).entries:
            assert entry.name and "\0" not in entry.name


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
        safetensors, gguf, llama2c, pytorch, npz, folder, pickle, archive, npy, template, imatrix, recipe, policy, sums,
        tokenizer_json, tokenizer_model, tokenizer_bin, url,
    )
}  # fmt: skip
ENDINGS = {
    "safetensors": (".safetensors",), "gguf": (".gguf",), "llama2c": (".bin",), "pytorch": (".pt", ".pkl", ".bin"),
    "npz": (".npz", ".npy"), "pickle": (".pkl",), "archive": (".pt", ".npz"), "npy": (".npy",),
}  # fmt: skip
LARGEST_SEED = 100_000


def _written(target: str) -> Iterator[bytes]:
    """Inputs of kinds that the museum has not."""
    if target == "template":
        yield b"{% for m in messages %}{{ m.__class__ | attr('x') }}{% endfor %}"
    elif target == "recipe":
        yield from (path.read_bytes() for path in sorted(Path(str(recipes.__path__[0])).glob("*.toml")))
        yield b'base = "q4_k"\n[[rules]]\nmatch = "ffn_.*"\nto = "q6_k"\nlayers = "first 1/8"\narchitecture = ["a"]\n'
    elif target == "policy":
        yield b'[validate]\nlevel = "full"\n[policy]\nformats = ["gguf"]\nmax-file = "5GB"\nrequire = ["checksum"]\n'
        yield b'[[ignore]]\nrule = "a*"\nreason = "b"\nexpires = 2027-01-01\n[pins."a"]\nsha256 = "00"\nsize = 5\n'
    elif target == "sums":
        digest = "0123456789abcdef" * 4
        yield f"{digest}  a\n\\{digest} *a\\nb\nSHA256 (a) = {digest}\n# no\n".encode()
        yield json.dumps({"tensors": [{"path": "a", "tensor": "b", "algorithm": "sha256", "digest": digest}]}).encode()
        yield json.dumps([{"path": "a", "oid": digest[:40], "lfs": {"oid": digest, "size": 5}}]).encode()
        yield f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 5\n".encode()
    elif target == "imatrix":
        yield struct.pack("<ii1sii4f", 1, 1, b"a", 2, 4, *range(4))
        yield _imatrix_gguf()
    elif target == "tokenizer_json":
        yield b"\0\0".join((STORIES / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json"))
        yield b'{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}, "added_tokens": []}'
    elif target == "tokenizer_model":
        pieces = (b"<unk>", b"<s>", b"</s>", b"a", b"<0x00>")
        yield b"".join(b"\x0a%c\x0a%c%b\x15\0\0\0\0\x18\x01" % (len(one) + 9, len(one), one) for one in pieces)
    elif target == "tokenizer_bin":
        yield struct.pack("<i", 4) + b"".join(struct.pack("<fi2s", -n, 2, b"a%d" % (n % 10)) for n in range(32))
    elif target == "url":
        yield from (b"https://a.b/c?d#e", b"http://127.0.0.1:80/%20", b"https://[::1]/a", "https://ä.b/ü".encode())


def _imatrix_gguf() -> bytes:
    """Two tensors, `a.in_sum2` [1, 4] and `a.counts` [1]."""
    infos = b""
    for name, shape, offset in ((b"a.in_sum2", (4, 1), 0), (b"a.counts", (1, 1), 32)):
        infos += struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, *shape, 0, offset)
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + infos
    return head + bytes(-len(head) % 32) + struct.pack("<4f16xf28x", 1, 2, 3, 4, 2)


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
    yield from _written(target)
    for path in sorted(museum.rglob("*")):
        if path.suffix in ENDINGS.get(target, ()) and path.is_file() and path.stat().st_size < LARGEST_SEED:
            yield path.read_bytes()
