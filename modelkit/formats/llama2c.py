"""llama2.c .bin: seven numbers and the weights of a Llama, in a fixed order. Little endian, no names.

    version 0 (f32)       version 1 (f32)        version 2 (int8 groups)
    --------------------  ---------------------  ----------------------------------------------
    7 x i32 (28 bytes)    u32 "ak42", i32 1,     u32 "ak42", i32 2, 7 x i32, u8 shared,
                          7 x i32, u8 shared     i32 group size at byte 37, zeros to 256
                          zeros to byte 256

The seven: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len. In version 0 a
negative vocab_size says that the classifier is a tensor of its own. A file is recognised by its magic
or, in version 0, by its size or by numbers that models have. Each kind of weight holds all layers before
the next kind begins.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from modelkit.encodings.llama2c import Llama2c
from modelkit.errors import Unsupported
from modelkit.faults import Faults
from modelkit.formats._contract import Facts, Format
from modelkit.formats._llama2c_header import FIELDS, HEADER, MAGIC, Header, is_usual, parse, placed, size
from modelkit.lazy import np
from modelkit.sources import Opener, head
from modelkit.tensors import Encoding, Layout, Model, OutputFile, Span

AGAIN = "the file is damaged or the download incomplete: fetch it again"
LARGEST_TABLE = 1 << 28  # bytes; a context of 131,072 tokens and heads of 128 need 64 MiB
THETA = 10000.0  # fixed in the programs that run these files


def sniff(opener: Opener) -> bool:
    """By the magic, or in version 0 by a header that accounts for every byte; in a .bin, by usual numbers in it."""
    data = head(opener)
    if data[:4] == MAGIC.to_bytes(4, "little"):
        return True
    if opener.main is None:
        return False
    try:
        header = parse(data)
    except ValueError:
        return False
    named = opener.main.endswith(".bin") and is_usual(header)  # one that is cut off, or has too many bytes
    return named or size(header) == opener.open(opener.main).size


def read(opener: Opener, faults: Faults) -> Model | None:
    """Tensors in file order; version 0 ends with two tables that are no weights."""
    source = opener.open(str(opener.main))
    try:
        header = parse(head(opener))
    except ValueError as error:
        faults.add("bad-header", source.name, str(error), AGAIN, offset=0)
        return None
    expected = size(header)
    if source.size != expected:
        rule, difference = ("truncated-file", "missing") if source.size < expected else ("trailing-bytes", "too many")
        message = (
            f"ends at byte {source.size:,}, {expected:,} expected ({abs(expected - source.size):,} bytes {difference})"
        )
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
    """f32 (version 0) and int8 groups (version 2)."""
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
        _check_table(header, name)
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


def _check_table(header: Header, name: str) -> None:
    """The table is as long as the context that a config claims, whatever the weights need."""
    context, width = header.fields["max_seq_len"], header.sizes["head_dim"]
    if 4 * context * width > LARGEST_TABLE:
        message = f"{name}: a context of {context:,} tokens needs a rotary table of {4 * context * width:,} bytes"
        raise Unsupported(message, f"at most {LARGEST_TABLE:,} are written: convert to GGUF or a Hugging Face folder")


def _rotary_table(header: Header) -> bytes:
    """cos, then sin, of position * theta^(-2i / head_dim): [max_seq_len, head_dim / 2] float32 each."""
    half = header.sizes["head_dim"] // 2
    steps = np.arange(0, 2 * half, 2, dtype=np.float32) / np.float32(2 * half)
    angles = np.outer(np.arange(header.fields["max_seq_len"], dtype=np.float32), 1 / np.float32(THETA) ** steps)
    table: bytes = np.stack([np.cos(angles), np.sin(angles)]).astype("<f4").tobytes()
    return table


format = Format("llama2.c", "llama2c", (".bin",), sniff, read, facts, stores, layout)
