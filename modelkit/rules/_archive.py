"""The CRC-32 that a zip archive has of each member, and that of the data, taken along while a file is read.

numpy holds every array against it; torch never looks, so that a flipped bit is loaded without a word. torch leaves
it out in two cases, and what then stands there is 0: of every member after `set_crc32_options(False)`, of the
storages alone under `skip_data`. That contradicts nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from modelkit.faults import Faults
from modelkit.formats._impostors import is_zip
from modelkit.formats._zip_directory import STORED, Member, directory, without_checksums
from modelkit.formats._zip_inflate import DEFLATED, Inflating
from modelkit.sources import Source

PIECE = 1 << 20
NUMPY = ".npz"
FOLLOWED = (".pkl", ".pickle", ".p", ".joblib")  # held against theirs when the header is read


def key(file: str, member: Member) -> str:
    """Where the checksum of a member's data stands in Folder.digests, as eight digits."""
    return f"crc32:{file}:{member.header}"


def members(source: Source) -> list[Member]:
    """Those with a checksum to hold their data against, as they lie in the file; none where it is no archive.

    A directory that contradicts itself is told elsewhere, and nothing of it is believed here.
    """
    if not is_zip(source.read(0, min(4, source.size))):
        return []
    faults = Faults(strict=False)
    found = directory(source, faults) or []
    if faults.errors:
        return []
    if source.name.endswith(NUMPY):
        kept = [member for member in found if member.method in (STORED, DEFLATED)]
    elif without_checksums(found):
        return []
    else:
        kept = [member for member in found if member.method == STORED and not _left_out(member)]
    return sorted((member for member in kept if member.start is not None), key=lambda member: member.header)


def _left_out(member: Member) -> bool:
    """A storage that was written under `skip_data`, or a pickle."""
    return member.name.endswith(FOLLOWED) or ("/data/" in member.name and member.crc == 0)


def checksum(source: Source, member: Member) -> str:
    """The CRC-32 of a member's data, read piece by piece."""
    found = 0
    for piece in _stored(source, member) if member.method == STORED else Inflating(source, member):
        found = zlib.crc32(piece, found)
    return f"{found:08x}"


def _stored(source: Source, member: Member) -> Iterator[bytes]:
    start = member.start or 0
    for at in range(start, start + member.stored, PIECE):
        yield source.read(at, min(PIECE, start + member.stored - at))


class Checksums:
    """Those of the members that are stored as they are, from the pieces of a file in their order."""

    def __init__(self, source: Source) -> None:
        stored = [member for member in members(source) if member.method == STORED]
        self._file = source.name
        self._left = stored[::-1]  # the next one last; none lies over another
        self._found = dict.fromkeys(stored, 0)

    def feed(self, data: memoryview, start: int) -> None:
        """The next piece, which begins at `start`."""
        end = start + len(data)
        while self._left and (first := self._left[-1].start or 0) < end:
            member = self._left[-1]
            piece = data[max(first - start, 0) : first + member.stored - start]
            self._found[member] = zlib.crc32(piece, self._found[member])
            if first + member.stored > end:
                return
            self._left.pop()

    def digests(self) -> dict[str, str]:
        """By key, once every piece was fed."""
        return {key(self._file, member): f"{found:08x}" for member, found in self._found.items()}
