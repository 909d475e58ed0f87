"""What the stored zeros of GPTQ weights say about the version that they were written in."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from modelkit.encodings import _bits
from modelkit.encodings._slabs import slabs
from modelkit.encodings.gptq import PLANES, Gptq, from_planes
from modelkit.layouts._contract import LARGEST_PROBE, Arrays
from modelkit.lazy import np
from modelkit.tensors import Tensor

if TYPE_CHECKING:
    from modelkit.tensors import Array

HEAD = 4096
"""Bytes of a weight's zeros that are looked at: a thousand zeros at least."""
SAMPLE = 65_536
"""Bytes of codes that are weighed against their zeros."""


def uniform(data: bytes, field: int, encoding: Gptq, rows: int) -> bool:
    """Whether the first bytes of stored zeros say the same `field` for every one of `rows` rows."""
    size = encoding.parts("x", (rows, 32))[1].shape[1] * 4
    row = _pattern(field, encoding) * ceil(size / (4 * encoding.bits))
    kept = int.from_bytes(row[:size], "little")
    if rows % 32 and not encoding.planar:
        kept &= (1 << rows * encoding.bits) - 1
    whole = kept.to_bytes(size, "little")
    return len(data) > 0 and data == (whole * ceil(len(data) / max(size, 1)))[: len(data)]


def _pattern(field: int, encoding: Gptq) -> bytes:
    """32 equal fields as they are packed."""
    bits = encoding.bits
    if not encoding.planar:
        return sum(field << bits * place for place in range(32)).to_bytes(4 * bits, "little")
    found, low = b"", 0
    for width in PLANES[bits]:
        part = field >> low & 2**width - 1
        found += sum(part << width * place for place in range(32 // width)).to_bytes(4, "little") * width
        low += width
    return found


def balance(arrays: Arrays, tensor: Tensor, encoding: Gptq) -> tuple[float, float] | None:
    """The mean of code - zero over a sample of a weight if the zeros are version 1, and if they are version 2.

    None where the sample is too large to be read at once.
    """
    rows, columns = tensor.shape
    zeros = tensor.parts[1]
    size = rows * encoding.bits * 4  # bytes of the codes of 32 columns
    count = min(columns, 32 * max(SAMPLE // max(size, 1), 1))
    if not rows or not columns or zeros.size > LARGEST_PROBE or count // 32 * size > LARGEST_PROBE:
        return None
    words = -(-count // 32) * encoding.bits if encoding.planar else _bits.words(count, encoding.bits)
    stored = np.frombuffer(arrays.read(tensor.parts[0].name, words * rows * 4), np.uint8)
    across = np.ascontiguousarray(stored.view("<u4").reshape(words, rows).T).view(np.uint8)
    codes = _read(across, encoding, count)
    packed = np.frombuffer(arrays.read(zeros.name), np.uint8).reshape(zeros.shape[0], -1)
    fields = _read(packed, encoding, rows)  # (group, row)
    if not encoding.mapped and encoding.group:
        shares = np.bincount(np.arange(count) // encoding.group, minlength=len(fields)) / count
    else:
        shares = np.full(len(fields), 1 / len(fields))
    means = [codes.mean() - float(shares @ field.mean(axis=1)) for field in (_plus_one(fields, encoding.bits), fields)]
    return float(means[0]), float(means[1])


def wrapped(stored: Array, encoding: Gptq, rows: int, groups: int) -> int:
    """How many zeros of version 1 are 0, stored as the topmost field. `stored`: the bytes of all qzeros."""
    packed, count = stored.reshape(groups, -1), 0
    for run in slabs(groups, rows):
        count += int((_read(packed[run], encoding, rows) == 2**encoding.bits - 1).sum())
    return count


def _read(packed: Array, encoding: Gptq, count: int) -> Array:
    return (from_planes if encoding.planar else _bits.unpack)(packed, encoding.bits, count)


def _plus_one(fields: Array, bits: int) -> Array:
    found: Array = (fields + np.uint8(1)) & np.uint8(2**bits - 1)
    return found
