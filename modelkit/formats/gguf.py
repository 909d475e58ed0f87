"""GGUF: typed key-values, tensor infos, then aligned data. Version 3 written, 2 and 3 read, splits too.

    part          bytes
    head          "GGUF", u32 version, u64 tensor count, u64 key-value count
    key-value     string key, u32 type, value                          (types in `_gguf_values.py`)
    tensor info   string name, u32 dimensions, u64 each, u32 type, u64 offset from the start of the data
    data          begins at a multiple of the alignment (general.alignment, else 32); so does each tensor

Dimensions stand fastest first: a weight [out, in] has dimensions (in, out), and blocks run along `in`.
A split set is named NAME-00001-of-00003.gguf: every shard has split.no (from 0), split.count and
split.tensors.count; all other keys are in the first.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from modelkit.encodings import by_ggml
from modelkit.errors import Unsupported
from modelkit.faults import Faults
from modelkit.formats._contract import Facts, Format, Limit
from modelkit.formats._gguf_file import alignment_of, padded_size, whole_file
from modelkit.formats._gguf_header import MAGIC, Header, read_header
from modelkit.formats._gguf_values import Value, load
from modelkit.formats._grouping import groups
from modelkit.sources import Opener, head
from modelkit.tensors import Encoding, Layout, Model, Span, Tensor

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
ALIGNMENT_KEY = "general.alignment"
MOST_FILES = 65_535  # split.count is a u16
FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 12, "q4_k": 15,
    "q5_k": 17, "q6_k": 18, "bf16": 32,
}  # fmt: skip
"""general.file_type: the encoding that most of the weights have."""


def sniff(opener: Opener) -> bool:
    """By the magic, or by the name of a file that should have it."""
    return head(opener)[:4] == MAGIC


def read(opener: Opener, faults: Faults) -> Model | None:
    """All files of a split set as one Model."""
    main = str(opener.main)
    names = _split_names(main)
    first = read_header(opener.open(names[0]), faults) if opener.holds(names[0]) else None
    if len(names) == 1:
        if first is not None:
            _check_whole(first, faults)
        return _model([first], faults) if first else None
    headers: list[Header] = []
    for name in names:
        if not opener.holds(name):
            faults.add(
                "missing-shard", name, f"{main} is one of {len(names)} shards; this one is not there", "download it"
            )
            continue
        header = first if name == names[0] else read_header(opener.open(name), faults)
        if header is not None:
            _check_split(header, names.index(name), len(names), faults)
            _check_kin(header, headers[0] if headers else header, faults)
            headers.append(header)
    return _model(headers, faults) if headers else None


def facts(model: Model, opener: Opener) -> Facts:
    """Every key-value as plain Python values; arrays are loaded."""
    return {key: load(value, opener.open(value.span.file)) for key, value in model.metadata.items()}


def stores(encoding: Encoding) -> bool:
    """Whatever has a ggml type number."""
    return encoding.ggml is not None


def layout(model: Model, name: str) -> Layout:
    """`model.metadata`: key -> plain value, or raw bytes (type number and value) to be carried as they are."""
    pairs = {key: value for key, value in model.metadata.items() if key not in SPLIT_KEYS}
    file, spans = whole_file(model.tensors, pairs, name, alignment_of(pairs.get(ALIGNMENT_KEY)))
    return Layout((file,), Model(model.tensors, spans, model.metadata))


def split(model: Model, name: str, limit: Limit) -> Layout:
    """NAME-00001-of-00003.gguf ...: all keys in the first file, in the others the alignment alone."""
    pairs = {key: value for key, value in model.metadata.items() if key not in SPLIT_KEYS}
    alignment = alignment_of(pairs.get(ALIGNMENT_KEY))
    common = {ALIGNMENT_KEY: pairs[ALIGNMENT_KEY]} if ALIGNMENT_KEY in pairs else {}
    heads = [whole_file((), {**keys, **_split_keys(0, 0, 0)}, name, alignment)[0].size for keys in (pairs, common)]
    first, other = (size + alignment for size in heads)  # infos may make the padding larger
    cut = groups(model.tensors, limit, lambda tensor: padded_size(tensor, alignment), first, other)
    if len(cut) > MOST_FILES:
        raise Unsupported(f"{name}: {len(cut):,} files; a split set has at most {MOST_FILES:,}", "allow larger files")
    files, spans = [], {}
    for number, group in enumerate(cut):
        keys = {**(common if number else pairs), **_split_keys(number, len(cut), len(model.tensors))}
        title = f"{name.removesuffix('.gguf')}-{number + 1:05d}-of-{len(cut):05d}.gguf"
        file, placed = whole_file(group, keys, title, alignment)
        files.append(file)
        spans.update(placed)
    return Layout(tuple(files), Model(model.tensors, spans, model.metadata))


def _split_keys(number: int, count: int, tensors: int) -> dict[str, bytes]:
    """In the types that llama.cpp reads (u16, u16, i32) and the order in which llama-gguf-split writes them."""
    return {
        "split.no": struct.pack("<IH", 2, number),
        "split.tensors.count": struct.pack("<Ii", 5, tensors),
        "split.count": struct.pack("<IH", 2, count),
    }


def file_type(tensors: tuple[Tensor, ...]) -> int:
    """The number for general.file_type: the encoding with most values among the matrices."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        if len(tensor.shape) > 1 or len(tensors) == 1:
            counts[tensor.encoding.name] = counts.get(tensor.encoding.name, 0) + tensor.count
    most = max(counts, key=lambda name: counts[name], default="f32")
    return FILE_TYPES.get(most, 1024)  # 1024 = guessed, llama.cpp's own word for "none of these"


def _split_names(main: str) -> list[str]:
    match = SPLIT.fullmatch(main)
    if match is None or int(match[3]) < 2:
        return [main]
    return [f"{match[1]}-{n:05d}-of-{match[3]}.gguf" for n in range(1, int(match[3]) + 1)]


def _check_whole(header: Header, faults: Faults) -> None:
    """A file whose name is that of no shard says of itself that it is one: the others cannot be found."""
    value = header.values.get("split.count")
    count = value.value if value is not None else 1
    if isinstance(count, int) and count > 1:
        message = f"is one of {count:,} shards, and its name does not say which"
        faults.add("wrong-shard", header.file, message, "give it its name back: NAME-00001-of-00002.gguf, and so on")


def _check_split(header: Header, number: int, count: int, faults: Faults) -> None:
    fix = "the shards are mixed up: download the set again"
    for key, expected in (("split.no", number), ("split.count", count)):
        value = header.values.get(key)
        if value is None or value.value != expected:
            found = value.value if value else "absent"
            faults.add("wrong-shard", header.file, f"{key} is {found}, {expected} expected by its name", fix)


def _check_kin(header: Header, first: Header, faults: Faults) -> None:
    """What two shards both state must be the same."""
    for key, value in header.values.items():
        other = first.values.get(key)
        if other is not None and key != "split.no" and (value.value, value.count) != (other.value, other.count):
            found, wanted = (repr(one.value)[:60] for one in (value, other))
            message = f"{key} is {found}, but {wanted} in {first.file}"
            faults.add(
                "wrong-shard", header.file, message, "the shards are of different models: download the set again"
            )


def _model(headers: list[Header], faults: Faults) -> Model:
    types = by_ggml()
    tensors: list[Tensor] = []
    spans: dict[str, Span] = {}
    values: dict[str, Value] = {}
    for header in headers:
        for info in header.infos:
            if info.name in spans:
                faults.add("duplicate-tensor-name", header.file, f"'{info.name}' is there twice", tensor=info.name)
                continue
            encoding = types[info.type]
            parts = encoding.parts(info.name, info.shape)
            tensors.append(Tensor(info.name, info.shape, encoding, parts))
            spans[info.name] = Span(header.file, header.data + info.offset, sum(part.size for part in parts))
        for key, value in header.values.items():
            values.setdefault(key, value)
    expected = values.get("split.tensors.count")
    if len(headers) > 1 and expected is not None and expected.value != len(tensors):
        faults.add(
            "missing-tensor",
            headers[0].file,
            f"split.tensors.count is {expected.value}; {len(tensors):,} tensors are there",
        )
    return Model(tuple(tensors), spans, {key: value for key, value in values.items() if key not in SPLIT_KEYS})


def carried(values: Mapping[str, Value], opener: Opener) -> dict[str, object]:
    """Key-values as raw bytes for `layout`: what one GGUF states, another repeats byte for byte."""
    raw: dict[str, object] = {}
    for key, value in values.items():
        data = opener.open(value.span.file).read(value.span.start, value.span.size)
        raw[key] = struct.pack("<I", value.kind) + data
    return raw


format = Format("GGUF", "gguf", (".gguf",), sniff, read, facts, stores, layout, split)
