"""The end of a zip archive: where its directory lies, in the short form and in that of zip64.

end of directory   "PK" 5 6, ..., u16 members, u32 size and u32 offset of the directory, u16 comment, comment
zip64 locator      "PK" 6 7, u32, u64 offset of the zip64 end, u32; the 20 bytes before the end
zip64 end          "PK" 6 6, u64 bytes that follow, ..., u64 members, u64 size and u64 offset of the directory
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from modelkit.sources import Source

END, FAR_END, LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
END_SIZE, FAR_END_SIZE, LOCATOR_SIZE = 22, 56, 20
LONGEST_COMMENT = 65_535


@dataclass(frozen=True, slots=True)
class End:
    """`start`, `size` and `count` of the directory as stated; `end` is where it ends, `last` the end of the archive.

    `loose`: bytes between the directory and the end record that neither of the two forms describes.
    """

    start: int
    size: int
    count: int
    end: int
    last: int
    comment: int  # bytes of it, the last ones
    loose: int = 0

    @property
    def shift(self) -> int:
        """Bytes that were put before the archive; below 0 where the directory cannot be where it should."""
        return self.end - self.size - self.start


def find(source: Source) -> End | None:
    """The last end record of a file; None where there is none."""
    size = min(source.size, END_SIZE + LONGEST_COMMENT)
    tail = source.read(source.size - size, size)
    at = tail.rfind(END, 0, max(size - END_SIZE, 0) + len(END))
    if at < 0 or at + END_SIZE > size:
        return None
    count, length, offset, comment = struct.unpack_from("<HIIH", tail, at + 10)
    place = source.size - size + at
    last = place + END_SIZE + comment
    far = _far(source, place, last, comment)
    if count == 0xFFFF or 0xFFFFFFFF in (length, offset):
        return far
    if far is None:
        return End(offset, length, count, place, last, comment)
    return End(offset, length, count, far.end, last, comment, far.loose)


def _far(source: Source, place: int, last: int, comment: int) -> End | None:
    """The same from the zip64 end, which a locator of 20 bytes before the end points to; torch always writes both."""
    if place < LOCATOR_SIZE or (locator := source.read(place - LOCATOR_SIZE, LOCATOR_SIZE))[:4] != LOCATOR:
        return None
    at = struct.unpack_from("<Q", locator, 8)[0]
    if at + FAR_END_SIZE > source.size or (record := source.read(at, FAR_END_SIZE))[:4] != FAR_END:
        return None
    count, length, offset = struct.unpack_from("<QQQ", record, 32)
    return End(offset, length, count, at, last, comment, place - LOCATOR_SIZE - at - FAR_END_SIZE)
