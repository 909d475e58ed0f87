"""How a piece is cut into planes: bytes that are alike stand together, so that each plane is coded by itself.

    BF16, F32   rotate each word left by 3, one plane for each byte: exponent and the first bits of the mantissa fill
                the top byte; sign and the nearly constant high bits of the exponent go to the lowest
    F16         one plane for each byte
    ggml        one plane for each field of the block; scales byte by byte

Measured on SmolLM2 in bf16 (stored / original): rotated by 1 .6662, by 2 .6624, by 3 .6619, by 4 .6625.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkit.bundles import limits
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array

WORDS = (0, 16, 32, 64)
DELTAS = (0, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Transform:
    """`fields`: bytes of each field of a block; `word`: bits of the word that is rotated left by `rotate`."""

    fields: tuple[int, ...]
    word: int = 0
    rotate: int = 0
    delta: int = 0

    @property
    def block(self) -> int:
        """Bytes of a block: pieces are whole blocks."""
        return sum(self.fields)

    def to_json(self) -> dict[str, object]:
        return {"word": self.word, "rotate": self.rotate, "delta": self.delta, "fields": list(self.fields)}


BYTES = Transform((1,))
HALVES = Transform((1, 1))
BF16 = Transform((1, 1), word=16, rotate=3)
F32 = Transform((1, 1, 1, 1), word=32, rotate=3)
F64 = Transform((1,) * 8, word=64, rotate=3)

BY_DTYPE = {"BF16": BF16, "F16": HALVES, "F32": F32, "C64": F32, "F64": F64, "I64": Transform((1,) * 8)}
"""By the safetensors name of a dtype; others are bytes."""

BY_BLOCK = {
    "q4_0": Transform((1, 1, 16)),
    "q4_1": Transform((1, 1, 1, 1, 16)),
    "q5_0": Transform((1, 1, 4, 16)),
    "q5_1": Transform((1, 1, 1, 1, 4, 16)),
    "q8_0": Transform((1, 1, 32)),
    "q2_k": Transform((16, 64, 1, 1, 1, 1)),
    "q3_k": Transform((32, 64, 12, 1, 1)),
    "q4_k": Transform((1, 1, 1, 1, 12, 128)),
    "q5_k": Transform((1, 1, 1, 1, 12, 32, 128)),
    "q6_k": Transform((128, 64, 16, 1, 1)),
}
"""By the name of a ggml encoding: the fields of its block in their order."""

HARDER = {
    BF16: tuple(Transform((1, 1), 16, turns) for turns in (2, 1, 4)),
    HALVES: tuple(Transform((1, 1), 16, turns) for turns in (1, 2, 3)),
    F32: tuple(Transform((1, 1, 1, 1), 32, turns) for turns in (2, 1, 4)),
}
"""What `--max` also tries, piece by piece."""


class Room:
    """Buffers that are used for one piece after the other: new ones cost several times the arithmetic (page faults)."""

    def __init__(self) -> None:
        self.source, self.base = (memoryview(bytearray(limits.PIECE)) for _ in range(2))
        self._one, self._other, self._planes = (np.empty(limits.PIECE, np.uint8) for _ in range(3))

    def words(self, size: int, bits: int) -> tuple[Array, Array]:
        """Two arrays for the words of `size` bytes."""
        return self._one[:size].view(f"<u{bits // 8}"), self._other[:size].view(f"<u{bits // 8}")

    def planes(self, transform: Transform, size: int) -> list[Array]:
        """An array for each plane of a piece of `size` bytes."""
        blocks, found, start = size // transform.block, [], 0
        for width in transform.fields:
            found.append(self._planes[start : start + blocks * width])
            start += blocks * width
        return found


_rooms = threading.local()


def room() -> Room:
    """The buffers of this thread: what is in them is lost with the next piece."""
    if not hasattr(_rooms, "room"):
        _rooms.room = Room()
    found: Room = _rooms.room
    return found


def split(data: memoryview, transform: Transform) -> list[Array]:
    """The planes of a piece, uint8, one for each field: in this thread's buffers, or `data` itself."""
    source = np.frombuffer(data, np.uint8)
    if len(transform.fields) == 1:
        return [source]
    planes = room().planes(transform, len(source))
    if set(transform.fields) == {1} and len(transform.fields) in (2, 4, 8):
        _split_words(source, transform, planes)
        return planes
    blocks = source.reshape(-1, transform.block)  # (block, byte)
    start = 0
    for plane, width in zip(planes, transform.fields, strict=True):
        np.copyto(plane.reshape(-1, width), blocks[:, start : start + width])
        start += width
    return planes


def _split_words(source: Array, transform: Transform, planes: list[Array]) -> None:
    """Shift and narrow: twice the speed of strided copies."""
    bits = 8 * transform.block
    words = source.view(f"<u{transform.block}")
    turned, part = room().words(len(source), bits)
    if transform.word:
        np.left_shift(words, transform.rotate, out=turned)
        np.right_shift(words, bits - transform.rotate, out=part)
        np.bitwise_or(turned, part, out=turned)
        words = turned
    for number, plane in enumerate(planes):
        if number:
            words = np.right_shift(words, 8, out=turned)
        np.copyto(plane, words, casting="unsafe")


def join(planes: Sequence[Array], transform: Transform, into: Array) -> None:
    """The bytes of a piece from its planes, into a uint8 array of its size."""
    if len(planes) == 1:
        np.copyto(into, planes[0])
    elif set(transform.fields) == {1} and len(transform.fields) in (2, 4, 8):
        _join_words(planes, transform, into)
    else:
        blocks, start = into.reshape(-1, transform.block), 0
        for plane, width in zip(planes, transform.fields, strict=True):
            np.copyto(blocks[:, start : start + width], plane.reshape(-1, width))
            start += width


def _join_words(planes: Sequence[Array], transform: Transform, into: Array) -> None:
    bits = 8 * transform.block
    words = into.view(f"<u{transform.block}")
    part, _ = room().words(len(into), bits)
    np.copyto(words, planes[-1])
    for plane in reversed(planes[:-1]):
        np.left_shift(words, 8, out=words)
        np.copyto(part, plane)
        np.bitwise_or(words, part, out=words)
    if transform.word:
        np.left_shift(words, bits - transform.rotate, out=part)
        np.right_shift(words, transform.rotate, out=words)
        np.bitwise_or(words, part, out=words)
