"""The header of a llama2.c file: its fields, and from them the order, place and size of everything.

The byte table stands in `llama2c.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from modelkit.encodings import ENCODINGS
from modelkit.encodings.llama2c import Llama2c
from modelkit.tensors import Encoding, Shape, Span, Tensor

MAGIC = 0x616B3432
FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len")
HEADER = 256  # bytes before the weights in versions 1 and 2
LARGEST = 2**31 - 1
USUAL = {"dim": 1 << 16, "hidden_dim": 1 << 18, "n_layers": 1 << 10, "n_heads": 1 << 10, "n_kv_heads": 1 << 10,
         "vocab_size": 1 << 20, "max_seq_len": 1 << 20}  # fmt: skip
"""Beyond these seven numbers are taken for chance, where a file's size does not follow from them."""

PER_LAYER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attention_norm", ("dim",)),
    ("attention.wq", ("dim", "dim")),
    ("attention.wk", ("kv", "dim")),
    ("attention.wv", ("kv", "dim")),
    ("attention.wo", ("dim", "dim")),
    ("ffn_norm", ("dim",)),
    ("feed_forward.w1", ("hidden_dim", "dim")),
    ("feed_forward.w2", ("dim", "hidden_dim")),
    ("feed_forward.w3", ("hidden_dim", "dim")),
)
ENDS = {
    "tok_embeddings.weight": ("vocab_size", "dim"),
    "norm.weight": ("dim",),
    "freqs": ("max_seq_len", "head_dim"),
    "output.weight": ("vocab_size", "dim"),
}


@dataclass(frozen=True, slots=True)
class Header:
    """Version and fields of one file."""

    version: int
    fields: Mapping[str, int]  # the seven, vocab_size positive, and shared (0 or 1)
    group: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        head_dim = self.fields["dim"] // self.fields["n_heads"]
        return {**self.fields, "head_dim": head_dim, "kv": head_dim * self.fields["n_kv_heads"]}

    @property
    def start(self) -> int:
        return HEADER if self.version else 28


def order(header: Header) -> Iterator[tuple[str, Shape]]:
    """Names and shapes in file order; `freqs` is the unused rotary table of version 0."""
    sizes, norms = header.sizes, [row for row in PER_LAYER if "norm" in row[0]]
    weights = [row for row in PER_LAYER if "norm" not in row[0]]

    def end(name: str) -> tuple[str, Shape]:
        return name, tuple(sizes[field] for field in ENDS[name])

    def layers(rows: list[tuple[str, tuple[str, ...]]]) -> Iterator[tuple[str, Shape]]:
        for kind, fields in rows:
            for layer in range(sizes["n_layers"]):
                yield f"layers.{layer}.{kind}.weight", tuple(sizes[field] for field in fields)

    if header.version == 0:
        yield end("tok_embeddings.weight")
        yield from layers(list(PER_LAYER))
        yield end("norm.weight")
        yield end("freqs")
    else:
        yield from layers(norms)
        yield end("norm.weight")
        yield end("tok_embeddings.weight")
        yield from layers(weights)
    if not sizes["shared"]:
        yield end("output.weight")


def placed(header: Header, file: str) -> tuple[list[Tensor], dict[str, Span], int]:
    """Every tensor with its span, and the size of the file. Counts are bounded by the caller."""
    f32 = ENCODINGS["f32"]
    tensors, spans, at = [], {}, header.start
    for name, shape in order(header):
        if name == "freqs":
            at += 4 * prod(shape)
            continue
        grouped = header.version == 2 and len(shape) == 2
        encoding: Encoding = Llama2c(header.group) if grouped else f32
        tensor = Tensor(name, shape, encoding, encoding.parts(name, shape))
        for part in tensor.parts:
            spans[part.name] = Span(file, at, part.size)
            at += part.size
        tensors.append(tensor)
    return tensors, spans, at


def size(header: Header) -> int:
    """Bytes of the whole file, from one layer's: a hostile layer count must cost nothing."""

    def total(layers: int) -> int:
        fields = {**header.fields, "n_layers": layers}
        return placed(Header(header.version, fields, header.group), "")[2]

    return total(0) + (total(1) - total(0)) * header.fields["n_layers"]


def is_usual(header: Header) -> bool:
    """Whether the sizes are those of models in use: a cut-off file of version 0 shows nothing else of what it is."""
    return all(header.fields[field] <= most for field, most in USUAL.items())


def parse(data: bytes) -> Header:
    """The header fields; raises ValueError with the reason when they cannot be a model."""
    version, group = 0, 0
    if len(data) >= HEADER and struct.unpack_from("<I", data)[0] == MAGIC:
        version = struct.unpack_from("<i", data, 4)[0]
        numbers = struct.unpack_from("<7i", data, 8)
        fields = {**dict(zip(FIELDS, numbers, strict=True)), "shared": data[36]}
        if version not in (1, 2):
            raise ValueError(f"version {version}, known are 0, 1 and 2")
        if version == 2:
            group = struct.unpack_from("<i", data, 37)[0]
    elif len(data) >= 28:
        fields = dict(zip(FIELDS, struct.unpack_from("<7i", data), strict=True))
        fields["shared"] = int(fields["vocab_size"] > 0)
        fields["vocab_size"] = abs(fields["vocab_size"])
    else:
        raise ValueError(f"only {len(data)} bytes; a header has 28")
    _check(version, fields, group)
    return Header(version, fields, group)


def _check(version: int, fields: Mapping[str, int], group: int) -> None:
    for name in FIELDS:
        if fields[name] <= 0:
            raise ValueError(f"{name} is {fields[name]}, must be positive")
    if fields["dim"] % fields["n_heads"] or (fields["dim"] // fields["n_heads"]) % 2:
        raise ValueError(f"dim {fields['dim']} does not give {fields['n_heads']} heads of even size")
    if fields["n_heads"] % fields["n_kv_heads"]:
        raise ValueError(f"{fields['n_heads']} heads do not share {fields['n_kv_heads']} key/value heads")
    if version == 2 and (group <= 0 or fields["dim"] % group):
        raise ValueError(f"group size {group} does not divide dim {fields['dim']}")
