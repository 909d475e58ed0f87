"""Blocks that are nothing but integer codes with an f16 scale and perhaps an f16 minimum: repacked without floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkit.encodings import _grouped
from modelkit.encodings._kinds import Block
from modelkit.encodings._slabs import f16_field
from modelkit.lazy import np
from modelkit.tensors import Codes, Grid, matrix

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBlock(Block):
    """A block whose first field is the scale; the second is the bias where the grid's offset is "float".

    `split` takes the codes out of the bytes behind these fields: uint8 [block, byte] -> uint8 [block, value];
    `join` goes back.
    """

    grid: Grid
    split: Callable[[Array], Array]
    join: Callable[[Array], Array]

    def codes(self, parts: Sequence[Array], shape: Shape, rows: slice) -> Codes:
        """What is stored of these rows, as `Grouped` has it."""
        blocks, columns = self._blocks(parts[0], shape, rows), shape[-1]
        each = columns // self.values
        head = f16_field(blocks, 0, len(self.fields))  # (block, field)
        scales, biases = head[:, 0].reshape(-1, each), head[:, 1:].reshape(-1, each) if len(self.fields) > 1 else None
        codes = self.split(blocks[:, 2 * len(self.fields) :]).reshape(-1, columns)
        return Codes(self.grid, codes, np.ascontiguousarray(scales), biases=biases)

    def place(self, codes: Codes, parts: Sequence[Array], shape: Shape, rows: slice) -> None:
        """Write codes of this grid into their place; raises BadValue for a scale that is no f16."""
        figures: list[F32] = [codes.scales] if codes.biases is None else [codes.scales, codes.biases]
        blocks = codes.codes.reshape(-1, self.values)
        fields = [
            _grouped.exactly(one, "F16", what).reshape(-1, 2)
            for one, what in zip(figures, ("scale", "minimum"), strict=False)
        ]
        stored = np.concatenate([*fields, self.join(blocks)], axis=1)
        parts[0].reshape(matrix(shape)[0], -1)[rows] = stored.reshape(rows.stop - rows.start, -1)

    def _blocks(self, stored: Array, shape: Shape, rows: slice) -> Array:
        found: Array = stored.view(np.uint8).reshape(matrix(shape)[0], -1)[rows].reshape(-1, self.bytes)
        return found

    def adopt(self, grid: Grid, shape: Shape) -> CodeBlock | str:
        """This encoding for codes of another grid as they are, or why it does not hold them."""
        wrong = _grouped.same_numbers(grid, self.name)
        if wrong is not None:
            return wrong
        if grid.bits != self.grid.bits:
            return f"{self.name} holds codes of {self.grid.bits} bits, not {grid.bits}"
        if self.grid.offset == "middle" and grid.offset != "middle":
            return f"{self.name} has no zeros: 0 is the code {2 ** (self.grid.bits - 1)} everywhere"
        if (grid.group or shape[-1]) % self.values:
            return f"groups of {grid.group or shape[-1]} are no multiples of {self.values}, the block of {self.name}"
        return self.misfit(shape) or self


def halves(stored: Array) -> Array:
    """Byte j holds code j low and code j + 16 high: uint8 [block, 16] -> uint8 [block, 32]."""
    return np.concatenate([stored & 15, stored >> 4], axis=1)


def joined_halves(codes: Array) -> Array:
    """uint8 [block, 32] -> uint8 [block, 16], the low four bits of each."""
    found: Array = (codes[:, :16] & 15) | (codes[:, 16:] << 4)
    return found


def five_bits(stored: Array) -> Array:
    """A u32 of fifth bits before the halves: uint8 [block, 20] -> uint8 [block, 32]."""
    high = np.unpackbits(stored[:, :4], axis=1, bitorder="little")
    found: Array = halves(stored[:, 4:]) | (high << 4)
    return found


def joined_five_bits(codes: Array) -> Array:
    """uint8 [block, 32] -> uint8 [block, 20]."""
    high = np.packbits(codes >> 4, axis=1, bitorder="little")
    return np.concatenate([high, joined_halves(codes)], axis=1)


def turned_sign(stored: Array) -> Array:
    """Signed bytes as codes 0 .. 255 with 0 at 128, and back: uint8 [block, 32] both."""
    found: Array = stored ^ np.uint8(0x80)
    return found
