"""A compressed member of a zip archive, unpacked piece by piece, and what there is of it beyond its own end."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelkit.sources import Source

if TYPE_CHECKING:
    from modelkit.formats._zip_directory import Member

DEFLATED = 8
PIECE = 1 << 20  # bytes that are read or unpacked at once


class Inflating:
    """The data of a member, at most as long as the directory says; ends early where it cannot be unpacked.

    Once all pieces are taken, `longer` says whether the data goes on beyond that length, and `behind` how many bytes
    of the archive follow the end of the packed data within the member.
    """

    def __init__(self, source: Source, member: Member) -> None:
        self.source = source
        self.member = member
        self.longer = False
        self.behind = 0

    def __iter__(self) -> Iterator[bytes]:
        member = self.member
        if member.start is None or member.method != DEFLATED:
            return
        inflater, left = zlib.decompressobj(-15), member.size
        end = member.start + member.stored
        for at in range(member.start, end, PIECE):
            packed = self.source.read(at, min(PIECE, end - at))
            while not inflater.eof:
                try:
                    piece = inflater.decompress(packed, min(PIECE, left) or 1)
                except zlib.error:
                    return
                packed = inflater.unconsumed_tail
                if piece and not left:
                    self.longer = True
                    return
                left -= len(piece)
                if piece:
                    yield piece
                elif not packed:
                    break  # nothing is held back: more has to be read
            if inflater.eof:
                self.behind = len(inflater.unused_data) + end - min(at + PIECE, end)
                return
