"""Groups of integer codes that share a scale and perhaps a zero: value = (code - zero) * scale.

What int8 and int4 layouts have in common; how a scale follows from a group is each layout's own rule.
And products with a vector, for reading a model token by token without unpacking it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit import kernels
from modelkit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelkit.tensors import F32, Array


def extremes(groups: F32) -> tuple[F32, F32]:
    """The smallest and the largest value of each group: float32 [group, value] -> [group] twice."""
    extension = kernels.native()
    if extension is None or not groups.size:
        return groups.min(axis=1), groups.max(axis=1)
    low, high = np.empty(len(groups), np.float32), np.empty(len(groups), np.float32)
    extension.extremes(np.ascontiguousarray(groups), low, high)
    return low, high


def codes(groups: F32, scales: F32, zeros: Array | None, lowest: int, highest: int) -> Array:
    """x / scale rounded half to even, plus zero, cut to lowest..highest: int8 [group, value]; zeros are int8.

    A group whose scale is 0 gets its zero. Dividing is not the same as multiplying by 1/scale.
    """
    extension = kernels.native()
    if extension is None:
        return codes_in_numpy(groups, scales, zeros, lowest, highest)
    out = np.empty(groups.shape, np.int8)
    extension.group_codes(np.ascontiguousarray(groups), scales, zeros, lowest, highest, out)
    return out


def codes_in_numpy(groups: F32, scales: F32, zeros: Array | None, lowest: int, highest: int) -> Array:
    """`codes` without the extension."""
    with np.errstate(all="ignore"):
        found = groups / np.where(scales == 0, np.float32(np.inf), scales)[:, None]
    np.rint(found, out=found)
    if zeros is not None:
        found += zeros[:, None].astype(np.float32)
    return np.clip(found, lowest, highest, out=found).astype(np.int16).astype(np.int8)


def values(codes: Array, scales: F32, zeros: Array | None) -> F32:
    """float32 [group, value] from int8 codes, one product each, rounded once."""
    extension = kernels.native()
    if extension is None:
        return values_in_numpy(codes, scales, zeros)
    out = np.empty(codes.shape, np.float32)
    extension.group_values(np.ascontiguousarray(codes), scales, zeros, out)
    return out


def values_in_numpy(codes: Array, scales: F32, zeros: Array | None) -> F32:
    """`values` without the extension."""
    whole = codes if zeros is None else codes.astype(np.int16) - zeros[:, None]
    with np.errstate(all="ignore"):  # a damaged scale may be infinite: 0 * infinity is NaN, not a fault here
        found: F32 = np.multiply(whole, scales[:, None], dtype=np.float32)
    return found


def multiply_blocks(name: str, blocks: Array, vector: F32, decode: Callable[[Array], F32]) -> F32:
    """A matrix of ggml blocks times a vector: uint8 [row, bytes of the row], float32 [column] -> float32 [row].

    `name` is the encoding, `decode` its numpy function; rows are decoded to real values, rounded, and added up
    as `product` says.
    """
    extension = kernels.native()
    if extension is None or name not in kernels.BLOCKS:
        with np.errstate(all="ignore"):
            return product(decode(blocks).reshape(len(blocks), -1), vector)
    out = np.empty(len(blocks), np.float32)
    extension.multiply(name, np.ascontiguousarray(blocks), np.ascontiguousarray(vector), out)
    return out


def multiply_groups(codes: Array, scales: F32, zeros: Array | None, vector: F32) -> F32:
    """A matrix of int8 groups times a vector: int8 [row, column], scales [row * groups of a row] -> float32 [row].

    A group is a multiple of 32 values and does not straddle rows.
    """
    extension = kernels.native()
    if extension is None:
        unpacked = values_in_numpy(codes.reshape(len(scales), -1), scales, zeros)
        return product(unpacked.reshape(codes.shape), vector)
    out = np.empty(len(codes), np.float32)
    extension.multiply_groups(np.ascontiguousarray(codes), scales, zeros, np.ascontiguousarray(vector), out)
    return out


def product(matrix: F32, vector: F32) -> F32:
    """matrix @ vector, added up in 32 running sums (column i in sum i mod 32) whose halves are added up then.

    The same bits on every machine. The number of columns is a multiple of 32.
    """
    terms = (matrix * vector).reshape(len(matrix), -1, 32)  # (row, step, sum)
    sums = np.zeros((len(matrix), 32), np.float32)
    for step in range(terms.shape[1]):
        sums += terms[:, step]
    for width in (16, 8, 4, 2, 1):
        sums = sums[:, :width] + sums[:, width:]
    return sums.reshape(-1)
