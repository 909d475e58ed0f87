"""The bytes of a volume that are neither pieces nor text: head, footer, piece table.

    volume = head (64) | body (stripes) | tail
    tail   = 32 x stripes digests | description | [manifest] | footer (96)

Every field stands in docs/design/bundle-format.md.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from modelkit.bundles import limits
from modelkit.bundles.transforms import Transform
from modelkit.errors import BrokenFile

Kind = Literal["data", "parity"]
KINDS: tuple[Kind, Kind] = ("data", "parity")

VERSION = 1
HEAD_MAGIC = b"\x89MKV\r\n\x1a\n"
FOOTER_MAGIC = b"\x89MKT\r\n\x1a\n"
HEAD = 64
FOOTER = 96
DIGEST = 32
LAST = 1  # flag of the last data volume

_HEAD = struct.Struct("<8sHHI32sI8s")
_FOOTER = struct.Struct("<8sQQIIQQI32s8s")
_ENTRY = struct.Struct("<BBHI")
_PLACE = struct.Struct("<IQ")

RAW, ZSTD, DEFLATE, CONSTANT = range(4)
NUMBER_BITS = 30
_NUMBER = (1 << NUMBER_BITS) - 1


def name_of(kind: Kind, number: int) -> str:
    """`vol-0001.mkv`, `par-0001.mkv`."""
    return f"{'vol' if kind == 'data' else 'par'}-{number:04d}.mkv"


@dataclass(frozen=True, slots=True)
class Head:
    """The first 64 bytes of a volume."""

    kind: Kind
    number: int
    bundle: bytes  # 32
    stripe: int

    def pack(self) -> bytes:
        data = _HEAD.pack(HEAD_MAGIC, VERSION, KINDS.index(self.kind), self.number, self.bundle, self.stripe, bytes(8))
        return data + struct.pack("<I", zlib.crc32(data))


def read_head(data: bytes, name: str) -> Head:
    """Raises BrokenFile."""
    if len(data) < HEAD or data[:8] != HEAD_MAGIC:
        raise BrokenFile(f"{name}: is no volume of a bundle (its first bytes are wrong)", "copy it again")
    _, version, kind, number, bundle, stripe, _ = _HEAD.unpack(data[:60])
    if struct.unpack("<I", data[60:HEAD])[0] != zlib.crc32(data[:60]):
        raise BrokenFile(f"{name}: its head is damaged", "copy it again, or repair the bundle")
    if version != VERSION or kind >= len(KINDS) or stripe not in limits.STRIPES or not 1 <= number <= limits.VOLUMES:
        raise BrokenFile(f"{name}: has a head of version {version} that this version does not read")
    return Head(KINDS[kind], number, bundle, stripe)


@dataclass(frozen=True, slots=True)
class Footer:
    """The last 96 bytes of a volume: where everything lies."""

    body: int
    table: int
    table_size: int
    pieces: int
    description: int
    manifest: int
    last: bool
    digest: bytes  # SHA-256 of the tail before the footer

    def pack(self) -> bytes:
        numbers = (self.body, self.table, self.table_size, self.pieces, self.description, self.manifest, int(self.last))
        data = _FOOTER.pack(FOOTER_MAGIC, *numbers, self.digest, bytes(8))
        return data + struct.pack("<I", zlib.crc32(data))


def read_footer(data: bytes, name: str) -> Footer:
    """Raises BrokenFile."""
    if len(data) < FOOTER or data[:8] != FOOTER_MAGIC:
        raise BrokenFile(
            f"{name}: ends too early, or its last bytes are damaged", "copy it again, or repair the bundle"
        )
    _, body, table, table_size, pieces, description, manifest, flags, digest, _ = _FOOTER.unpack(data[:92])
    if struct.unpack("<I", data[92:FOOTER])[0] != zlib.crc32(data[:92]):
        raise BrokenFile(f"{name}: its last bytes are damaged", "copy it again, or repair the bundle")
    if description > limits.DESCRIPTION or manifest > limits.MANIFEST or table_size > limits.TABLE:
        raise BrokenFile(f"{name}: claims tables beyond every limit of the format", "do not trust this volume")
    return Footer(body, table, table_size, pieces, description, manifest, bool(flags & LAST), digest)


@dataclass(frozen=True, slots=True)
class Coded:
    """How one plane is stored: codec, and its stored bytes or (constant) the byte's value."""

    codec: int
    number: int

    @property
    def stored(self) -> int:
        """Bytes in the body."""
        return 0 if self.codec == CONSTANT else self.number


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file of the tree, or of the base."""

    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece as the table has it."""

    transform: int
    length: int
    planes: tuple[Coded, ...]
    targets: tuple[Place, ...]
    base: Place | None = None

    @property
    def stored(self) -> int:
        return sum(plane.stored for plane in self.planes)

    def pack(self) -> bytes:
        head = _ENTRY.pack(self.transform, int(self.base is not None), len(self.targets), self.length)
        words = struct.pack(
            f"<{len(self.planes)}I", *(plane.codec << NUMBER_BITS | plane.number for plane in self.planes)
        )
        places = (*self.targets, *([self.base] if self.base is not None else ()))
        return head + words + b"".join(_PLACE.pack(place.file, place.offset) for place in places)


def entry_size(planes: int, targets: int, *, base: bool) -> int:
    """Bytes of a piece in the table."""
    return _ENTRY.size + 4 * planes + _PLACE.size * (targets + base)


def read_table(
    data: bytes,
    pieces: int,
    room: int,
    transforms: Sequence[Transform],
    sizes: Sequence[int],
    name: str,
    base: Sequence[int] = (),
) -> Iterator[Entry]:
    """The entries of a piece table; what they store fills exactly `room` bytes.

    `sizes` and `base`: bytes of each file of the tree, and of the base.

    Raises BrokenFile for anything that the format does not allow.
    """
    at = used = 0
    for number in range(pieces):
        try:
            entry, at = _entry(data, at, transforms)
        except (struct.error, IndexError):
            raise _lie(name, number) from None
        good = 1 <= entry.length <= limits.PIECE and entry.length % transforms[entry.transform].block == 0
        used += entry.stored
        if not good or used > room or not entry.targets or not _planes_fit(entry, transforms[entry.transform]):
            raise _lie(name, number)
        for place in entry.targets:
            if place.file >= len(sizes) or place.offset + entry.length > sizes[place.file]:
                raise _lie(name, number)
        place = entry.base or Place(0, -entry.length)
        if place.offset + entry.length > (base[place.file] if place.file < len(base) else 0):
            raise _lie(name, number)
        yield entry
    if at != len(data) or used != room:
        raise _lie(name, pieces)


def _entry(data: bytes, at: int, transforms: Sequence[Transform]) -> tuple[Entry, int]:
    transform, flags, targets, length = _ENTRY.unpack_from(data, at)
    if flags > 1:
        raise IndexError(flags)  # bits without a meaning
    at += _ENTRY.size
    planes = len(transforms[transform].fields)
    words = struct.unpack_from(f"<{planes}I", data, at)
    at += 4 * planes
    places = [Place(*_PLACE.unpack_from(data, at + _PLACE.size * index)) for index in range(targets + (flags & 1))]
    at += _PLACE.size * len(places)
    base = places.pop() if flags & 1 else None
    coded = tuple(Coded(word >> NUMBER_BITS, word & _NUMBER) for word in words)
    return Entry(transform, length, coded, tuple(places), base), at


def _planes_fit(entry: Entry, transform: Transform) -> bool:
    blocks = entry.length // transform.block
    for plane, width in zip(entry.planes, transform.fields, strict=True):
        size = blocks * width
        if plane.codec == RAW and plane.number != size:
            return False
        if plane.codec in (ZSTD, DEFLATE) and not 0 < plane.number < size:
            return False
        if plane.codec == CONSTANT and plane.number > 255:
            return False
    return bool(transform.delta) == (entry.base is not None)


def _lie(name: str, number: int) -> BrokenFile:
    return BrokenFile(f"{name}: entry {number} of its piece table is impossible", "the volume is damaged or hostile")


def tail(digests: bytes, description: bytes, manifest: bytes, **numbers: int) -> bytes:
    """The whole tail: digests, texts and footer. `numbers`: body, table, table_size, pieces, last."""
    text = digests + description + manifest
    footer = Footer(
        numbers["body"],
        numbers["table"],
        numbers["table_size"],
        numbers["pieces"],
        len(description),
        len(manifest),
        bool(numbers["last"]),
        hashlib.sha256(text).digest(),
    )
    return text + footer.pack()
