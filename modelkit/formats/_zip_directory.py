"""The members of a zip archive, both of their descriptions read and held against each other. Nothing is unpacked.

    directory entry    "PK" 1 2, versions, flags, method, time, crc, sizes, lengths, ..., offset, name, extra
    local header       "PK" 3 4, version, flags, method, time, crc, sizes, lengths, name, extra, then the data

Sizes of 0xFFFFFFFF stand in the extra field with id 1 (zip64). The standard library's reader looks at one of
the two descriptions only, and takes any size of directory into memory.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from modelkit.errors import BrokenFile
from modelkit.faults import Faults
from modelkit.formats import _zip_coverage, _zip_end
from modelkit.formats._zip_inflate import DEFLATED
from modelkit.sources import Source

STORED = 0
ENTRY, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
ENTRY_SIZE, LOCAL_SIZE = 46, 30
LARGEST_DIRECTORY = 64 * 2**20  # bytes; torch writes about 100 for each tensor
MOST_MEMBERS = 500_000
LARGEST_INFLATED = 16 * 2**20  # bytes that are inflated to look at a member
ESCAPES = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:|\\|\x00")
DO_NOT = "do not load it; ask for safetensors"


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive. `start` is where its data begins in the archive, None where that cannot be said."""

    name: str
    method: int
    flags: int
    crc: int
    stored: int  # bytes in the archive
    size: int  # bytes when unpacked
    header: int  # address of the local header
    start: int | None = None


def directory(source: Source, faults: Faults | None = None) -> list[Member] | None:
    """Every member; None for a file that ends in no directory. Without `faults` nothing but that is asked."""
    place = _zip_end.find(source)
    if place is None:
        return None
    start, size, shift = place.start, place.size, place.shift
    impossible = size > LARGEST_DIRECTORY or place.count > MOST_MEMBERS or shift < 0 or place.end - size < 0
    if impossible or (shift and faults is not None):
        if faults is not None:
            what = f"{shift:,} bytes lie before it" if shift > 0 else f"a directory of {size:,} bytes is impossible"
            faults.add("zip-inconsistent", source.name, f"the archive: {what}", DO_NOT, offset=max(start, 0))
        return None
    found, read = _entries(source.read(place.end - size, size))
    if faults is None:
        return found
    if len(found) != place.count:
        message = f"its directory promises {place.count:,} members and has {len(found):,}"
        faults.add("zip-inconsistent", source.name, message, DO_NOT, offset=start)
    if read < size or place.loose:
        message = f"{size - read or place.loose:,} bytes behind the last entry of its directory describe nothing"
        faults.add("zip-inconsistent", source.name, message, DO_NOT, offset=start + read)
    _zip_coverage.check_rest(source, place.last - place.comment, place.last, faults)
    return _checked(source, found, start, faults)


def without_checksums(members: Iterable[Member]) -> bool:
    """Whether the archive has none at all: torch writes 0 for each when it is told to leave them out."""
    return not any(member.crc for member in members)


def contents(source: Source, member: Member, most: int = LARGEST_INFLATED) -> bytes | None:
    """A member's bytes, unpacked, whatever its checksum says; None when they are too many or cannot be unpacked."""
    if member.start is None or member.stored > most:
        return None
    data = source.read(member.start, min(member.stored, source.size - member.start))
    if member.method == STORED:
        return data
    if member.method != DEFLATED:
        return None
    try:
        inflater = zlib.decompressobj(-15)
        unpacked = inflater.decompress(data, most)
    except zlib.error:
        return None
    return None if inflater.unconsumed_tail else unpacked


def _entries(data: bytes) -> tuple[list[Member], int]:
    """The members, and how many bytes of the directory their entries take."""
    members, at = [], 0
    while data[at : at + 4] == ENTRY and at + ENTRY_SIZE <= len(data):
        flags, method = struct.unpack_from("<HH", data, at + 8)
        crc, stored, size, name, extra, comment = struct.unpack_from("<IIIHHH", data, at + 16)
        header = struct.unpack_from("<I", data, at + 42)[0]
        text = data[at + ENTRY_SIZE : at + ENTRY_SIZE + name]
        more = data[at + ENTRY_SIZE + name : at + ENTRY_SIZE + name + extra]
        size, stored, header = _long(more, size, stored, header)
        members.append(Member(text.decode("utf-8", "surrogateescape"), method, flags, crc, stored, size, header))
        at += ENTRY_SIZE + name + extra + comment
    return members, at


def _long(extra: bytes, *values: int) -> list[int]:
    """Values of 0xFFFFFFFF, replaced in their order by those of the zip64 extra field."""
    found, at = list(values), 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            longs = [
                struct.unpack_from("<Q", extra, at + 4 + 8 * n)[0] for n in range(min(length, len(extra) - at - 4) // 8)
            ]
            for place, value in enumerate(found):
                if value == 0xFFFFFFFF and longs:
                    found[place] = longs.pop(0)
        at += 4 + length
    return found


def _checked(source: Source, members: list[Member], end: int, faults: Faults) -> list[Member]:
    """The members with their data's place, after their local headers were read."""
    found, names = [], set()
    for member in members:
        if ESCAPES.search(member.name):
            message = f"member '{member.name}' leaves the folder"
            faults.add("zip-path-escapes", source.name, message, "do not unpack it", offset=member.header)
        if member.name in names:
            message = f"member '{member.name}' is there twice"
            faults.add("zip-path-escapes", source.name, message, "do not unpack it", offset=member.header)
        names.add(member.name)
        found.append(_located(source, member, faults))
    _zip_coverage.check(source, found, end, faults)
    return found


def _located(source: Source, member: Member, faults: Faults) -> Member:
    def fault(message: str) -> None:
        faults.add("zip-inconsistent", source.name, f"'{member.name}': {message}", DO_NOT, offset=member.header)

    try:
        header = source.read(member.header, LOCAL_SIZE) if member.header + LOCAL_SIZE <= source.size else b""
    except BrokenFile:
        header = b""
    if header[:4] != LOCAL:
        fault("there is no header where the directory says")
        return member
    flags, method, _, crc, stored, size, name, extra = struct.unpack_from("<HHIIIIHH", header, 6)
    start = member.header + LOCAL_SIZE + name + extra
    if start + member.stored > source.size:
        fault("its data ends beyond the file")
        return member
    tail = source.read(member.header + LOCAL_SIZE, name + extra)
    size, stored = _long(tail[name:], size, stored)
    later = bool(flags & 8)  # sizes and checksum follow the data
    described = [
        ("name", tail[:name].decode("utf-8", "surrogateescape"), member.name),
        ("flags", flags, member.flags),
        ("method", method, member.method),
        *([] if later and crc == 0 else [("checksum", crc, member.crc)]),
        *([] if later and stored == 0 else [("stored size", stored, member.stored)]),
        *([] if later and size == 0 else [("size", size, member.size)]),
    ]
    for what, local, listed in described:
        if local != listed:
            fault(f"its {what} is {local} before the data and {listed} in the directory")
    if member.flags & 1:
        fault("it is marked as encrypted")
    if member.method == STORED and member.stored != member.size:
        fault(f"stored as it is, yet {member.stored:,} bytes become {member.size:,}")
    return Member(
        member.name, member.method, member.flags, member.crc, member.stored, member.size, member.header, start
    )
