"""How a piece is cut into planes: bytes that are alike stand together, so that each plane is coded by itself.

    BF16, F32   rotate each word left by 3, one plane for each byte: exponent and the first bits of the mantissa fill
                the top byte; sign and the nearly constant high bits of the exponent go to the lowest
    F16         one plane for each byte
    ggml        one plane for each field of the block; scales byte by byte

Measured on SmolLM2 in bf16 (stored / original): rotated by 1 .6662, by 2 .6624, by 3 .6619, by 4 .6625.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def split(data: memoryview, transform: Transform) -> list[Array]:
    """The planes of a piece, uint8, one for each field."""
    source = np.frombuffer(data, np.uint8)
    if transform.word:
        source = _rotated(source, transform.word, transform.rotate)
    if len(transform.fields) == 1:
        return [source]
    if transform.fields == (1, 1):
        words = source.view("<u2")
        return [words.astype(np.uint8), (words >> 8).astype(np.uint8)]
    blocks = source.reshape(-1, transform.block)  # (block, byte)
    planes, start = [], 0
    for width in transform.fields:
        planes.append(np.ascontiguousarray(blocks[:, start : start + width]).reshape(-1))
        start += width
    return planes


def join(planes: Sequence[Array], transform: Transform) -> Array:
    """The bytes of a piece, uint8, from its planes."""
    if len(planes) == 1:
        joined = planes[0]
    elif transform.fields == (1, 1):
        words = planes[1].astype("<u2")
        words <<= 8
        words |= planes[0]
        joined = words.view(np.uint8)
    else:
        blocks = np.empty((len(planes[0]) // transform.fields[0], transform.block), np.uint8)
        start = 0
        for plane, width in zip(planes, transform.fields, strict=True):
            blocks[:, start : start + width] = plane.reshape(-1, width)
            start += width
        joined = blocks.reshape(-1)
    return _rotated(joined, transform.word, transform.word - transform.rotate) if transform.word else joined


def _rotated(data: Array, bits: int, left: int) -> Array:
    words = data.view(f"<u{bits // 8}")
    turned = words << left
    turned |= words >> (bits - left)
    return turned.view(np.uint8)
