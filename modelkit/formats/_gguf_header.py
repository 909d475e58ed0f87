"""The header of one GGUF file: head, key-values and tensor infos, with every count bounded by the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from modelkit.encodings import by_ggml
from modelkit.errors import BrokenFile
from modelkit.faults import Faults
from modelkit.formats._gguf_values import Cursor, Value, read_value
from modelkit.formats._impostors import impostor
from modelkit.sources import HEAD, Source
from modelkit.tensors import Shape

MAGIC = b"GGUF"
ALIGNMENT = 32  # where general.alignment is absent
REMOVED = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
LEAST_INFO = 8 + 4 + 4 + 8  # bytes of the shortest tensor info
LEAST_PAIR = 8 + 4 + 1  # bytes of the shortest key-value
LONGEST_KEY = 65_535  # of the specification
LONGEST_NAME = 64  # of the specification; engines keep the closing NUL within it
MOST_DIMENSIONS = 4
MOST_TENSORS = 1_000_000  # the largest models have some ten thousand
MOST_PAIRS = 100_000  # keys; models have less than a hundred
LARGEST_NUMBER = 2**63 - 1
AGAIN = "the file is damaged or the download incomplete: fetch it again"
REWRITE = "write it again with a current converter"


@dataclass(frozen=True, slots=True)
class Info:
    """One tensor info; `shape` slowest axis first, `offset` from the start of the data."""

    name: str
    shape: Shape
    type: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    file: str
    version: int
    values: Mapping[str, Value]
    infos: tuple[Info, ...]
    data: int  # address of the first byte of data


def read_header(source: Source, faults: Faults) -> Header | None:
    """Parse and check one file; None when faults leave nothing to describe."""
    cursor = Cursor(source)
    try:
        counts = _head(cursor, faults)
        if counts is None:
            return None
        version, tensor_count, pair_count = counts
        values = _values(cursor, pair_count, faults)
        alignment = _alignment(source.name, values, faults)
        infos = [info for _ in range(tensor_count) if (info := _info(cursor, faults)) is not None]
    except BrokenFile as error:  # the walk cannot go on behind a broken length
        message = error.message.removeprefix(f"{source.name}: ")
        faults.add(error.rule, source.name, message, error.fix, offset=error.offset)
        return None
    data = cursor.at + -cursor.at % alignment
    _check_names(source.name, infos, faults)
    _check_offsets(source, infos, data, alignment, faults)
    return Header(source.name, version, values, tuple(infos), data)


def _head(cursor: Cursor, faults: Faults) -> tuple[int, int, int] | None:
    file = cursor.source.name
    if cursor.source.size < 24:
        faults.add("too-short", file, f"only {cursor.source.size} bytes; a GGUF head has 24", AGAIN)
        return None
    found = impostor(file, cursor.source.read(0, min(cursor.source.size, HEAD)), cursor.source.size)
    if found is not None:
        faults.add(found.rule, file, found.message, found.fix, offset=found.offset)
        return None
    magic, version = cursor.take(4, "magic"), cursor.number("I", "version")
    if magic != MAGIC:
        faults.add("bad-magic", file, f"begins with {magic!r}, not 'GGUF'", "fetch the right file", offset=0)
        return None
    if version & 0xFFFF == 0 and version:
        message = f"version {version:#x} is {version >> 24} in big-endian order; modelkit reads little-endian files"
        faults.add("wrong-endianness", file, message, "fetch the little-endian file", offset=4)
        return None
    if version not in (2, 3):
        faults.add("unsupported-version", file, f"GGUF version {version}; 2 and 3 are known", REWRITE, offset=4)
        return None
    counts = cursor.number("Q", "tensor count"), cursor.number("Q", "key-value count")
    for count, least, most, what in (
        (counts[0], LEAST_INFO, MOST_TENSORS, "tensors"),
        (counts[1], LEAST_PAIR, MOST_PAIRS, "key-values"),
    ):
        if count * least > cursor.left or count > most:
            message = f"{count:,} {what} are impossible in a file of {cursor.source.size:,} bytes"
            message += f"; {most:,} are read at most" if count > most else ""
            faults.add("impossible-count", file, message, AGAIN, offset=8)
            return None
    return version, *counts


def _values(cursor: Cursor, count: int, faults: Faults) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for _ in range(count):
        at, name = cursor.at, cursor.text("key")
        try:
            key = name.decode()
        except UnicodeDecodeError:
            key = name.decode("utf-8", "surrogateescape")
            faults.add("bad-key", cursor.source.name, f"key at byte {at:,} is not UTF-8", REWRITE, offset=at)
        if not 0 < len(name) <= LONGEST_KEY:
            faults.add("bad-key", cursor.source.name, f"key at byte {at:,} has {len(name):,} bytes", REWRITE, offset=at)
        value = read_value(cursor, f"key '{key}'")
        if key in values:
            faults.add("duplicate-key", cursor.source.name, f"'{key}' is there twice", REWRITE, offset=at)
        values[key] = value
    return values


def _alignment(file: str, values: Mapping[str, Value], faults: Faults) -> int:
    value = values.get("general.alignment")
    if value is None:
        return ALIGNMENT
    found = value.value
    if not isinstance(found, int) or isinstance(found, bool) or found < 1 or found & (found - 1) or found > 2**31:
        faults.add("bad-alignment", file, f"general.alignment is {found}; it must be a power of two", REWRITE)
        return ALIGNMENT
    if found % 8:
        message = f"general.alignment is {found}; the specification asks for a multiple of 8"
        faults.add("bad-alignment", file, message, REWRITE, severity="warning")
    elif value.type_name != "u32":
        message = f"general.alignment is stored as {value.type_name}; loaders ask for u32"
        faults.add("bad-alignment", file, message, REWRITE, severity="warning")
    return found


def _info(cursor: Cursor, faults: Faults) -> Info | None:
    at = cursor.at
    name = cursor.text("tensor name").decode("utf-8", "surrogateescape")
    dimensions = cursor.number("I", f"tensor '{name}'")

    def fault(rule: str, message: str, fix: str = REWRITE) -> None:
        faults.add(rule, cursor.source.name, f"'{name}' {message}", fix, offset=at, tensor=name)

    if dimensions > MOST_DIMENSIONS:
        fault("too-many-dimensions", f"has {dimensions:,} dimensions; at most {MOST_DIMENSIONS} are known")
        if dimensions * 8 > cursor.left:
            raise cursor.broken("too-many-dimensions", f"'{name}' has {dimensions:,} dimensions", at)
    shape = tuple(cursor.number("Q", f"tensor '{name}'") for _ in range(dimensions))[::-1]
    type_number, offset = cursor.number("I", f"tensor '{name}'"), cursor.number("Q", f"tensor '{name}'")
    if dimensions > MOST_DIMENSIONS:
        return None
    encoding = by_ggml().get(type_number)
    if encoding is None:
        known = f" ({REMOVED[type_number]}, removed from ggml)" if type_number in REMOVED else ""
        fault("unknown-dtype", f"has ggml type {type_number}{known}", "a newer modelkit may know it")
        return None
    if 0 in shape:
        fault("bad-shape", f"has shape {list(shape)}; no dimension may be 0")
        return None
    if prod(shape) > LARGEST_NUMBER or offset > LARGEST_NUMBER:
        fault("shape-overflow", f"of shape {list(shape)} at {offset:,} cannot be addressed")
        return None
    misfit = encoding.misfit(shape or (1,))
    if misfit is not None:
        fault("row-not-block-multiple", f"in {encoding.name}: {misfit}")
        return None
    return Info(name, shape, type_number, offset, sum(part.size for part in encoding.parts(name, shape)))


def _check_names(file: str, infos: list[Info], faults: Faults) -> None:
    seen: set[str] = set()
    for info in infos:
        if info.name in seen:
            faults.add("duplicate-tensor-name", file, f"'{info.name}' is there twice", REWRITE, tensor=info.name)
        seen.add(info.name)
        length = len(info.name.encode("utf-8", "surrogateescape"))
        if length >= LONGEST_NAME:
            severe = length > LONGEST_NAME
            message = f"name of {length} bytes; engines take {LONGEST_NAME - 1}"
            fix = "rename the tensor"
            faults.add("name-too-long", file, message, fix, tensor=info.name, severity="error" if severe else "warning")


def _check_offsets(source: Source, infos: list[Info], data: int, alignment: int, faults: Faults) -> None:
    """Each tensor begins where the one before it ends, rounded up; the last one ends with the file."""
    at, before = 0, ""
    for info in sorted(infos, key=lambda info: info.offset):

        def fault(rule: str, message: str, fix: str = REWRITE, where: Info = info) -> None:
            faults.add(rule, source.name, message, fix, offset=data + where.offset, tensor=where.name)

        end = info.offset + info.size
        if info.offset % alignment:
            fault("misaligned-tensor", f"'{info.name}': offset {info.offset:,} is no multiple of {alignment}")
        elif data + end > source.size and info.offset > at + -at % alignment:
            message = f"'{info.name}' ends at byte {data + end:,}, the file has {source.size:,}"
            fault("tensor-out-of-bounds", message, AGAIN)
        elif info.offset < at:
            fault("overlapping-tensors", f"'{info.name}' overlaps '{before}'")
        elif info.offset > at + -at % alignment:
            message = f"{info.offset - at:,} bytes before '{info.name}' belong to no tensor"
            fault("gap-between-tensors", message)
        if end > at:
            at, before = end, info.name
    if data + at > source.size and infos:
        missing = data + at - source.size
        message = f"ends at byte {source.size:,}, {data + at:,} expected ({missing:,} bytes missing, '{before}' is cut)"
        faults.add(
            "truncated-file", source.name, message, "the download is incomplete: fetch it again", offset=source.size
        )
    elif data + at + -at % alignment < source.size and infos:
        extra = source.size - data - at
        faults.add("trailing-bytes", source.name, f"{extra:,} bytes after the last tensor", REWRITE, severity="warning")
