"""The bytes of a zip archive that none of its records describes: what lies there is seen by nobody who unpacks it.

Between two members nothing may lie but what the format itself puts there: behind the data of a member whose sizes
were not known beforehand, a descriptor.

    offset   size   field
    0        4      "PK" 7 8, which may be left out
    4        4      CRC-32 of the data
    8        4, 8   size in the archive: u32, or u64 in an archive of zip64
    12, 16   4, 8   size when unpacked

Padding that aligns the data of torch's storages stands within the extra field of a member, and so belongs to it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelkit.faults import Faults
from modelkit.formats._pickle_report import is_program, report, report_rest
from modelkit.formats._pickle_walk import walk
from modelkit.sources import Source

if TYPE_CHECKING:
    from modelkit.formats._zip_directory import Member

DESCRIPTOR = b"PK\x07\x08"
FORMS = ("<4sIII", "<4sIQQ", "<III", "<IQQ")
LONGEST_FORM = 24
DO_NOT = "it may hide a member; do not load it, ask for safetensors"


def check(source: Source, members: Sequence[Member], end: int, faults: Faults) -> None:
    """Report what lies before, between and after the members, and over another. `end`: where the directory begins."""
    placed = [member for member in members if member.start is not None]
    at, before, gaps = 0, None, len(placed) == len(members)  # where one that is not placed ends cannot be said
    for member in sorted(placed, key=lambda one: one.header):
        if member.header < at or (member.start or 0) + member.stored > end:
            message = f"'{member.name}' lies over another member or the directory"
            fix = "do not load it; ask for safetensors"
            faults.add("zip-inconsistent", source.name, message, fix, offset=member.header)
        if gaps:
            _gap(source, before, at, member.header, faults)
        at, before = max(at, (member.start or 0) + member.stored), member
    if gaps:
        _gap(source, before, at, end, faults)


def check_rest(source: Source, comment: int, last: int, faults: Faults) -> None:
    """Look at the comment of the archive, report what follows its `last` byte; pickles are followed in both.

    The search for the end bounds what is read.
    """
    if last > source.size:
        message = f"the comment of the archive would end at byte {last:,}, beyond the file"
        faults.add("zip-inconsistent", source.name, message, DO_NOT, offset=source.size)
        return
    followed = walk(source.read(comment, last - comment))
    if is_program(followed):
        report(followed, source.name, "the comment of the archive", comment, faults)
    if last < source.size:
        rest = source.read(last, source.size - last)
        report_rest(rest, source.name, "", last, faults, "follow the end of the archive", "error")


def _gap(source: Source, before: Member | None, start: int, end: int, faults: Faults) -> None:
    """What lies from `start` to `end`, behind a member."""
    if start < end and before is not None and before.flags & 8:
        start += _descriptor(source.read(start, min(LONGEST_FORM, end - start)), before)
    if start < end:
        where = f"behind '{before.name}'" if before is not None else "before the first member"
        message = f"{end - start:,} bytes {where} belong to no member of the directory"
        faults.add("zip-inconsistent", source.name, message, DO_NOT, offset=start)


def _descriptor(data: bytes, member: Member) -> int:
    """The length of the descriptor at the beginning of `data`, 0 where there is none of this member."""
    for form in FORMS:
        length = struct.calcsize(form)
        if len(data) < length:
            continue
        *mark, crc, stored, size = struct.unpack_from(form, data)
        if mark in ([], [DESCRIPTOR]) and (crc, stored, size) == (member.crc, member.stored, member.size):
            return length
    return 0
