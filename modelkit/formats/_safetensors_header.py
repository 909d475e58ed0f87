"""The safetensors header, shared by single files and the shards of a folder.

    offset   size   field
    0        8      n            u64, length of the header
    8        n      header       JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...}
    8 + n           data         arrays back to back; offsets count from here

`__metadata__` maps strings to strings. The header may end in spaces; data begins at a multiple of 8.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from modelkit.encodings import by_dtype
from modelkit.faults import Faults
from modelkit.formats._impostors import impostor
from modelkit.formats._safetensors_checks import RESAVE, check_entry, check_ranges, check_sizes, metadata
from modelkit.formats._safetensors_entries import Entry, NotJson, entries
from modelkit.formats._side_files import holds_half_a_character, utf8
from modelkit.sources import HEAD, Source
from modelkit.tensors import BITS, Model, Part, Span, Tensor

LARGEST_HEADER = 100_000_000  # the reference reader's own limit
AGAIN = "the file is damaged or the download incomplete: fetch it again"


def read(source: Source, faults: Faults) -> Model | None:
    """Describe one file; its own metadata stands under Model.metadata as strings."""
    data = _header_bytes(source, faults)
    if data is None:
        return None
    start = 8 + len(data)
    text = _text(source.name, data, faults)
    if text is None:
        return None
    del data  # a header may be large, and its text is as large again
    if start % 8:
        message = f"data starts at byte {start:,}, not a multiple of 8: no zero-copy reading"
        fix = "`modelkit convert` writes it aligned"
        faults.add("misaligned-data", source.name, message, fix, offset=start, severity="warning")
    reading = _Reading(source.name, start, faults)
    try:
        for entry in entries(text):
            reading.add(entry)
    except NotJson as error:
        at = 8 + len(text[: error.at].encode())
        faults.add(
            "header-not-json", source.name, f"header is not JSON at byte {at:,}: {error.reason}", RESAVE, offset=at
        )
        return None
    if "\\ud" in text.lower() and holds_half_a_character(text.encode(), [*reading.spans, reading.metadata]):
        message = "header has an escape like \\ud800, which is half a character"
        faults.add("header-not-utf8", source.name, message, RESAVE)
        return None
    return reading.finish(source)


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


def _header_bytes(source: Source, faults: Faults) -> bytes | None:
    found = impostor(source.name, source.read(0, min(source.size, HEAD)), source.size)
    if found is not None:
        faults.add(found.rule, source.name, found.message, found.fix, offset=found.offset)
        return None
    if source.size < 8:
        faults.add("too-short", source.name, f"only {source.size} bytes; a header needs 8", AGAIN)
        return None
    length = int.from_bytes(source.read(0, 8), "little")
    if not 2 <= length <= min(LARGEST_HEADER, source.size - 8):
        message = f"header length {length:,} is impossible in a file of {source.size:,} bytes"
        faults.add("header-length", source.name, message, AGAIN, offset=0)
        return None
    return source.read(8, length)


def _text(file: str, data: bytes, faults: Faults) -> str | None:
    """The header as text that begins with a brace."""
    if data[:1] != b"{":
        try:
            json.loads(data)
            rule, message = "header-start", f"header begins with {data[:1]!r}, not '{{'"
            if data.lstrip()[:1] != b"{":
                rule, message = "header-not-object", "header is JSON, but no object"
        except (ValueError, RecursionError):
            rule, message = "header-start", f"header begins with {data[:1]!r}, not '{{'"
        faults.add(rule, file, message, RESAVE, offset=8)
        return None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        at = 8 + error.start
        faults.add("header-not-utf8", file, f"header is not UTF-8 at byte {at:,}", RESAVE, offset=at)
        return None


class _Reading:
    """Collects entries as they are read, then holds their ranges against each other."""

    def __init__(self, file: str, start: int, faults: Faults) -> None:
        self.file = file
        self.start = start
        self.faults = faults
        self.metadata: dict[str, str] = {}
        self.described = False  # whether the metadata was there
        self.unplaced = False  # whether an entry is too wrong to say which bytes are its own
        self.tensors: list[Tensor] = []
        self.spans: dict[str, Span] = {}
        self.ranges: list[tuple[int, int, str]] = []
        self.encodings = by_dtype()

    def add(self, entry: Entry) -> None:
        name = entry.name
        if name == "__metadata__":
            if self.described:
                self.faults.add("duplicate-key", self.file, "'__metadata__' is there twice", RESAVE)
            self.described = True
            self.metadata = metadata(self.file, _loose(entry), self.faults)
            return
        checked = (
            check_sizes(self.file, name, entry.info, self.faults)
            if entry.usual
            else check_entry(self.file, name, entry.info, self.faults)
        )
        if checked is None:
            self.unplaced = True
            return
        dtype, shape, begin, end = checked
        self.ranges.append((begin, end, name))
        if name in self.spans:
            self.faults.add("duplicate-tensor-name", self.file, f"'{name}' is there twice", RESAVE, tensor=name)
            return
        self.tensors.append(Tensor(name, shape, self.encodings[dtype], (Part(name, dtype, shape),)))
        self.spans[name] = Span(self.file, self.start + begin, end - begin)

    def finish(self, source: Source) -> Model:
        if any(one > other for one, other in pairwise(begin for begin, _, _ in self.ranges)):
            message = "the header lists tensors in another order than their bytes lie in"
            self.faults.add("unsorted-tensors", self.file, message, severity="info")
            self.tensors.sort(key=lambda tensor: self.spans[tensor.name].start)
            self.ranges.sort()
        check_ranges(source, self.start, self.ranges, self.faults, unplaced=self.unplaced)
        return Model(tuple(self.tensors), self.spans, self.metadata)


def _loose(entry: Entry) -> object:
    """What stands behind a key; a tensor in place of the metadata as the object that it is."""
    return dict(zip(("dtype", "shape", "data_offsets"), entry.info, strict=False)) if entry.usual else entry.info
