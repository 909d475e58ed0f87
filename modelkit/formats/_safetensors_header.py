"""The safetensors header, shared by single files and the shards of a folder.

    offset   size   field
    0        8      n            u64, length of the header
    8        n      header       JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...}
    8 + n           data         arrays back to back; offsets count from here

`__metadata__` maps strings to strings. The header may end in spaces; data begins at a multiple of 8.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from modelkit.encodings import by_dtype
from modelkit.faults import Faults
from modelkit.formats._side_files import holds_half_a_character, utf8
from modelkit.sources import HEAD, PULL, Source, lfs_pointer
from modelkit.tensors import BITS, Model, Part, Span, Tensor

LARGEST_HEADER = 100_000_000  # the reference reader's own limit
LARGEST_NUMBER = 2**63 - 1  # sizes beyond cannot be addressed
AGAIN = "the file is damaged or the download incomplete: fetch it again"
RESAVE = "save it again with a current safetensors library"


def read(source: Source, faults: Faults) -> Model | None:
    """Describe one file; its own metadata stands under Model.metadata as strings."""
    text = _header_text(source, faults)
    if text is None:
        return None
    header = _parse(source.name, text, faults)
    if header is None:
        return None
    start = 8 + len(text)
    if start % 8:
        faults.add(
            "misaligned-data",
            source.name,
            f"data starts at byte {start:,}, not a multiple of 8: no zero-copy reading",
            "`modelkit convert` writes it aligned",
            offset=start,
            severity="warning",
        )
    metadata = _metadata(source.name, header.pop("__metadata__", {}), faults)
    entries = {name: entry for name, info in header.items() if (entry := _entry(source.name, name, info, faults))}
    _check_ranges(source, start, entries, faults)
    encodings = by_dtype()
    tensors, spans = [], {}
    for name, (dtype, shape, begin, end) in entries.items():
        tensors.append(Tensor(name, shape, encodings[dtype], (Part(name, dtype, shape),)))
        spans[name] = Span(source.name, start + begin, end - begin)
    tensors.sort(key=lambda tensor: spans[tensor.name].start)
    return Model(tuple(tensors), spans, metadata)


def write(tensors: Iterable[Tensor], metadata: Mapping[str, str], file: str) -> tuple[bytes, dict[str, Span], int]:
    """The header bytes, the span of every part, and the size of the file.

    Parts are ordered by falling element size, so that each lies at a multiple of its own.
    """
    parts = sorted((part for tensor in tensors for part in tensor.parts), key=lambda part: -BITS[part.dtype])
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for part in parts:
        header[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": [at, at + part.size]}
        at += part.size
    text = utf8(json.dumps(header, separators=(",", ":"), ensure_ascii=False), file)
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    spans = {part.name: Span(file, start + header[part.name]["data_offsets"][0], part.size) for part in parts}
    return len(text).to_bytes(8, "little") + text, spans, start + at


def fixed_size(metadata: Mapping[str, str]) -> int:
    """Bytes of a file without tensors, its padding at the most."""
    return len(write((), metadata, "")[0]) + 7


def cost(tensor: Tensor, largest: int) -> int:
    """Bytes that a tensor adds to a file whose offsets are at most `largest`; never too few."""
    offsets = [largest, largest]
    entry = {part.name: {"dtype": part.dtype, "shape": part.shape, "data_offsets": offsets} for part in tensor.parts}
    return tensor.size + len(json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode())


def looks_right(head: bytes, size: int) -> bool:
    """Whether the frame fits: a length within the file, then an opening brace."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and head[8:9] == b"{" and 2 <= length <= min(LARGEST_HEADER, size - 8)


def _header_text(source: Source, faults: Faults) -> bytes | None:
    if source.size < 8:
        faults.add("too-short", source.name, f"only {source.size} bytes; a header needs 8", AGAIN)
        return None
    length = int.from_bytes(source.read(0, 8), "little")
    pointer = lfs_pointer(source.read(0, min(source.size, HEAD)))
    if pointer is not None:
        faults.add("lfs-pointer", source.name, pointer, PULL, offset=0)
        return None
    if not 2 <= length <= min(LARGEST_HEADER, source.size - 8):
        message = f"header length {length:,} is impossible in a file of {source.size:,} bytes"
        faults.add("header-length", source.name, message, AGAIN, offset=0)
        return None
    return source.read(8, length)


def _parse(file: str, text: bytes, faults: Faults) -> dict[str, Any] | None:
    """The header as a dictionary; a key that is written twice is a fault, not a silent overwrite."""
    twice: list[str] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            twice.extend(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        return table

    if text[:1] != b"{":
        faults.add("header-start", file, f"header begins with {text[:1]!r}, not '{{'", RESAVE, offset=8)
        return None
    try:
        header = json.loads(text.decode(), object_pairs_hook=keep, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        faults.add(
            "header-not-utf8", file, f"header is not UTF-8 at byte {8 + error.start:,}", RESAVE, offset=8 + error.start
        )
        return None
    except (ValueError, RecursionError) as error:
        at = 8 + getattr(error, "pos", 0)
        reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
        faults.add("header-not-json", file, f"header is not JSON at byte {at:,}: {reason}", RESAVE, offset=at)
        return None
    if holds_half_a_character(text, header):
        message = "header has an escape like \\ud800, which is half a character"
        faults.add("header-not-utf8", file, message, RESAVE)
        return None
    for name in twice:
        faults.add("duplicate-tensor-name", file, f"'{name}' is there twice", RESAVE, tensor=name)
    assert isinstance(header, dict)  # noqa: S101 - the text begins with '{'
    return header


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _metadata(file: str, found: object, faults: Faults) -> dict[str, str]:
    if not isinstance(found, dict):
        faults.add("bad-metadata", file, "__metadata__ is no object of strings", RESAVE)
        return {}
    for key, value in found.items():
        if not isinstance(value, str):
            faults.add("bad-metadata", file, f"metadata '{key}' is {_kind(value)}; it must be a string", RESAVE)
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _entry(file: str, name: str, info: object, faults: Faults) -> tuple[str, tuple[int, ...], int, int] | None:
    """One tensor's dtype, shape, begin and end, or None after reporting what is wrong with it."""

    def fault(rule: str, message: str) -> None:
        faults.add(rule, file, f"'{name}': {message}", RESAVE, tensor=name)

    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        keys = ", ".join(sorted(map(str, info))) if isinstance(info, dict) else _kind(info)
        fault("tensor-entry-incomplete", f"needs dtype, shape and data_offsets; has {keys or 'nothing'}")
        return None
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in by_dtype():
        fault("unknown-dtype", f"dtype {dtype}, which does not exist")
        return None
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        fault("bad-shape", f"shape {shape}: must be a list of whole numbers, none negative")
        return None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        fault("bad-offsets", f"data_offsets {offsets}: must be two whole numbers, none negative")
        return None
    begin, end = offsets
    if begin > end:
        fault("bad-offsets", f"data_offsets [{begin:,}, {end:,}] run backwards")
        return None
    count = _count(shape)
    if count is None or count * BITS[dtype] > LARGEST_NUMBER * 8 or end > LARGEST_NUMBER:
        fault("shape-overflow", f"shape {shape} cannot be addressed")
        return None
    if count * BITS[dtype] != (end - begin) * 8:
        needs = count * BITS[dtype] / 8
        fault("size-mismatch", f"{dtype}{shape} needs {needs:,.10g} bytes, has {end - begin:,}")
        return None
    return dtype, tuple(shape), begin, end


def _count(shape: list[int]) -> int | None:
    """Number of elements; None beyond what can be addressed (a long shape must not cost minutes)."""
    count = 1
    for size in shape:
        count *= size
        if count > LARGEST_NUMBER:
            return None
    return count


def _check_ranges(
    source: Source, start: int, entries: Mapping[str, tuple[str, tuple[int, ...], int, int]], faults: Faults
) -> None:
    """Ranges must follow each other without a gap or an overlap and end with the file."""
    at, before = 0, ""
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin < at:
            message = f"'{name}' overlaps '{before}' in bytes {begin:,} to {min(at, end):,} of the data"
            fix = "shared weights: store them once, or save them as separate copies"
            faults.add("overlapping-tensors", source.name, message, fix, offset=start + begin, tensor=name)
        elif begin > at:
            message = f"{begin - at:,} bytes at {start + at:,} belong to no tensor"
            faults.add("gap-between-tensors", source.name, message, "they may hide data: " + RESAVE, offset=start + at)
        if end > at:
            at, before = end, name
    missing = start + at - source.size
    if missing > 0:
        message = (
            f"ends at byte {source.size:,}, {start + at:,} expected ({missing:,} bytes missing, '{before}' is cut)"
        )
        faults.add(
            "truncated-file", source.name, message, "the download is incomplete: fetch it again", offset=source.size
        )
    elif missing < 0:
        message = f"{-missing:,} bytes after the last tensor"
        faults.add("trailing-bytes", source.name, message, "they may hide data: " + RESAVE, offset=start + at)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a bool", int: "a number", float: "a number"}
    return names.get(type(value), "null")
