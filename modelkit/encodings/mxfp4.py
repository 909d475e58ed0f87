"""MXFP4: 32 floats of 4 bits (e2m1) share a power of two. 17 bytes a block, 4.25 bits a weight.

offset  size  field
0       1     e    e8m0     2**(e - 127)
1       16    qs   e2m1[32] byte j = q[j] low, q[j + 16] high
                            values 0 0.5 1 1.5 2 3 4 6, the top bit is the sign; its zero is 0 here, not -0

The codes and scales of MXFP4 in any other layout, with the codes of a block laid out anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkit.encodings._classic_blocks import low_halves
from modelkit.encodings._grouped import exactly, floats
from modelkit.encodings._kinds import Block
from modelkit.errors import BrokenFile
from modelkit.lazy import np
from modelkit.tensors import Codes, Grid, matrix

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Shape

GRID = Grid(4, 32, "E8M0", number="e2m1")
SIZES = (0, 1, 2, 3, 4, 6, 8, 12)
"""Twice the value of each code; ggml halves the scale instead."""

BETWEEN = (0.5, 1.5, 2.5, 3.5, 5, 7, 10)
"""Halfway between them; a value there goes to the smaller one."""


def encode(blocks: F32) -> Array:
    """float32 [block, 32] -> uint8 [block, 17], as ggml rounds it.

    ggml takes the logarithm in float32, so that what lies a hair below a power of two counts as that power.
    """
    sizes = np.abs(blocks)
    largest = sizes.max(axis=1)  # (block,)
    with np.errstate(divide="ignore"):
        power = np.floor(np.log2(largest.astype(np.float64)).astype(np.float32))
    stored = np.where(largest > 0, np.clip(power + 125, 0, 255), 0).astype(np.uint8)
    steps = sizes / _halves(stored)[:, None]
    codes = np.zeros(blocks.shape, np.uint8)
    for edge in BETWEEN:
        codes += steps > np.float32(edge)
    codes |= ((blocks < 0) & (codes > 0)).astype(np.uint8) << 3
    return np.concatenate([stored[:, None], low_halves(codes.T)], axis=1)


def decode(blocks: Array) -> F32:
    """uint8 [block, 17] -> float32 [block, 32]."""
    table = np.array([*SIZES, *(-size for size in SIZES)], np.float32)
    table[8] = 0
    values: F32 = table[_nibbles(blocks)]
    values *= _halves(blocks[:, 0])[:, None]
    return values


def _halves(stored: Array) -> F32:
    """2**(e - 128), for 255 too, which is no number elsewhere: uint8 [block] -> float32."""
    halves: F32 = np.ldexp(np.float32(1), stored.astype(np.int32) - 128)
    return halves


def _nibbles(blocks: Array) -> Array:
    """uint8 [block, 17] -> uint8 [block, 32]."""
    packed = blocks[:, 1:]
    return np.concatenate([packed & 15, packed >> 4], axis=1)


@dataclass(frozen=True, slots=True)
class Mxfp4(Block):
    """A block whose codes and scales go over into the MXFP4 of other layouts as they are."""

    @property
    def grid(self) -> Grid:
        return GRID

    def codes(self, parts: Sequence[Array], shape: Shape, rows: slice) -> Codes:
        """Raises BrokenFile for a scale of 255."""
        run = self._blocks(parts, shape)[rows]  # (row, block, byte)
        stored = np.ascontiguousarray(run[:, :, 0])
        if (stored == 255).any():
            raise BrokenFile("a scale of MXFP4 is 255, which is no number", "fetch the file again", "nan-weights")
        codes = _nibbles(run.reshape(-1, self.bytes)).reshape(len(run), -1)
        return Codes(GRID, codes, floats(stored.reshape(-1), "F8_E8M0").reshape(stored.shape))

    def place(self, codes: Codes, parts: Sequence[Array], shape: Shape, rows: slice) -> None:
        run = self._blocks(parts, shape)[rows]
        run[:, :, 0] = exactly(codes.scales, "F8_E8M0").reshape(codes.scales.shape)
        run[:, :, 1:] = low_halves(codes.codes.reshape(-1, 32).T).reshape(*run.shape[:2], 16)

    def adopt(self, grid: Grid, shape: Shape) -> Mxfp4 | str:
        """Itself, for MXFP4 of any layout."""
        if grid != GRID:
            return f"{self.name} holds e2m1 in groups of 32 with powers of two, nothing else"
        return self.misfit(shape) or self

    def _blocks(self, parts: Sequence[Array], shape: Shape) -> Array:
        """uint8 [row, block, byte]."""
        rows, columns = matrix(shape)
        return parts[0].reshape(rows, columns // 32, self.bytes)


encoding = Mxfp4("mxfp4", values=32, bytes=17, encode=encode, decode=decode, ggml=39)
