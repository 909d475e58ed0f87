"""llama2.c .bin: seven numbers and the weights of a Llama, in a fixed order. Little endian, no names.

    version 0 (f32)       version 1 (f32)        version 2 (int8 groups)
    --------------------  ---------------------  ----------------------------------------------
    7 x i32 (28 bytes)    u32 "ak42", i32 1,     u32 "ak42", i32 2, 7 x i32, u8 shared,
                          7 x i32, u8 shared     i32 group size at byte 37, zeros to 256
                          zeros to byte 256

The seven: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len. In version 0 a
negative vocab_size says that the classifier is a tensor of its own. A file is recognised by its magic
or, in version 0, by its size alone. Each kind of weight holds all layers before the next kind begins.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from modelkit.encodings import ENCODINGS
from modelkit.encodings.llama2c import Llama2c
from modelkit.errors import Unsupported
from modelkit.faults import Faults
from modelkit.formats._contract import Facts, Format
from modelkit.lazy import np
from modelkit.sources import Opener, head
from modelkit.tensors import Encoding, Layout, Model, OutputFile, Shape, Span, Tensor

MAGIC = 0x616B3432
FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len")
HEADER = 256  # bytes before the weights in versions 1 and 2
LARGEST = 2**31 - 1
AGAIN = "the file is damaged or the download incomplete: fetch it again"
THETA = 10000.0  # fixed in the programs that run these files

PER_LAYER = (
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


def sniff(opener: Opener) -> bool:
    data = head(opener)
    if data[:4] == MAGIC.to_bytes(4, "little"):
        return True
    try:
        return opener.main is not None and size(parse(data)) == opener.open(opener.main).size
    except ValueError:
        return False


def read(opener: Opener, faults: Faults) -> Model | None:
    source = opener.open(str(opener.main))
    try:
        header = parse(head(opener))
    except ValueError as error:
        faults.add("bad-header", source.name, str(error), AGAIN, offset=0)
        return None
    expected = size(header)
    if source.size != expected:
        rule, difference = ("truncated-file", "missing") if source.size < expected else ("trailing-bytes", "too many")
        message = f"ends at byte {source.size:,}, {expected:,} expected ({abs(expected - source.size):,} bytes {difference})"
        faults.add(rule, source.name, message, AGAIN, offset=min(source.size, expected))
        return None
    tensors, spans, _ = placed(header, source.name)
    return Model(tuple(tensors), spans, {**header.fields, "version": header.version, "group": header.group})


def facts(model: Model, opener: Opener) -> Facts:
    """The header fields and, under "tokenizer", the bytes of a tokenizer.bin beside the file (or None)."""
    stem = str(opener.main).removesuffix(".bin")
    beside = [name for name in (f"{stem}.tokenizer.bin", f"{stem}.tokenizer", "tokenizer.bin") if opener.holds(name)]
    source = opener.open(beside[0]) if beside else None
    return {**model.metadata, "tokenizer": source.read(0, source.size) if source else None}


def stores(encoding: Encoding) -> bool:
    return encoding.name == "f32" or isinstance(encoding, Llama2c)


def layout(model: Model, name: str) -> Layout:
    """Version 0 when all weights are f32, else version 2. `model.metadata` as `facts` gives it."""
    groups = {tensor.encoding.group for tensor in model.tensors if isinstance(tensor.encoding, Llama2c)}
    if len(groups) > 1:
        raise Unsupported(f"{name}: llama2.c holds one group size in a file, not {sorted(groups)}")
    fields = {field: model.metadata[field] for field in (*FIELDS, "shared")}
    header = Header(2 if groups else 0, fields, groups.pop() if groups else 0)
    tensors, spans, total = placed(header, name)
    asked = {tensor.name: tensor for tensor in model.tensors}
    for tensor in tensors:
        found = asked.get(tensor.name)
        if found is None or (found.shape, found.encoding) != (tensor.shape, tensor.encoding):
            needs = f"{list(tensor.shape)} in {tensor.encoding.name}"
            has = f"{list(found.shape)} in {found.encoding.name}" if found else "not there"
            raise Unsupported(f"{name}: llama2.c needs '{tensor.name}' as {needs}; it is {has}")
    literals = [(0, _header_bytes(header))]
    if header.version == 0:
        literals.append((_table_start(header, spans), _rotary_table(header)))
    files = [OutputFile(name, total, tuple(literals))]
    if model.metadata.get("tokenizer"):
        data = model.metadata["tokenizer"]
        files.append(OutputFile(name.removesuffix(".bin") + ".tokenizer.bin", len(data), ((0, data),)))
    return Layout(tuple(files), Model(tuple(tensors), spans, model.metadata))


def _header_bytes(header: Header) -> bytes:
    numbers = [header.fields[field] for field in FIELDS]
    if header.version == 0:
        numbers[5] *= 1 if header.fields["shared"] else -1
        return struct.pack("<7i", *numbers)
    fixed = struct.pack("<Ii7iB", MAGIC, header.version, *numbers, header.fields["shared"])
    return (fixed + (struct.pack("<i", header.group) if header.version == 2 else b"")).ljust(HEADER, b"\0")


def _table_start(header: Header, spans: Mapping[str, Span]) -> int:
    return spans["norm.weight"].end


def _rotary_table(header: Header) -> bytes:
    """cos, then sin, of position * theta^(-2i / head_dim): [max_seq_len, head_dim / 2] float32 each."""
    half = header.sizes["head_dim"] // 2
    steps = np.arange(0, 2 * half, 2, dtype=np.float32) / np.float32(2 * half)
    angles = np.outer(np.arange(header.fields["max_seq_len"], dtype=np.float32), 1 / np.float32(THETA) ** steps)
    return np.cos(angles).astype("<f4").tobytes() + np.sin(angles).astype("<f4").tobytes()


format = Format("llama2.c", "llama2c", (".bin",), sniff, read, facts, stores, layout)
