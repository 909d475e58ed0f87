"""Integer codes of quantised layouts in words, and their real values.

Dense: code 0 in the lowest bits of a row, codes follow each other without gaps and may cross words, as bytes in
little-endian order. Padded: a word of 32 bits holds 32 // bits codes, what is left at its top is zero. AWQ: a word
holds eight rows of one column.

Each `..._in_numpy` is what its neighbour does without the extension; they leave the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit import kernels
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The row of its eight that nibble k of a word of AWQ holds."""


def unpack(packed: Array, bits: int, count: int) -> Array:
    """The first `count` dense codes of each row: uint8 [row, byte] -> uint8 [row, count]."""
    if bits == 8:
        return packed[:, :count]
    extension = kernels.native()
    if not (len(packed) and count):
        return np.empty((len(packed), count), np.uint8)
    if extension is None:
        return unpack_in_numpy(packed, bits, count)
    out = np.empty((len(packed), count), np.uint8)
    extension.unpack_bits(np.ascontiguousarray(packed), len(packed), bits, out)
    return out


def unpack_in_numpy(packed: Array, bits: int, count: int) -> Array:
    """`unpack` without the extension."""
    rows = len(packed)
    if bits == 4:
        return np.stack([packed & 15, packed >> 4], axis=2).reshape(rows, -1)[:, :count]
    if bits in (1, 2):
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        few: Array = (packed[:, :, None] >> shifts) & np.uint8(2**bits - 1)  # (row, byte, code)
        return few.reshape(rows, -1)[:, :count]
    runs = -(-count // 8)  # eight codes fill exactly `bits` bytes, and are cut from 64-bit numbers
    padded = np.zeros((rows, runs, 8), np.uint8)  # (row, run, byte of a u64)
    held = min(packed.shape[1], runs * bits)
    whole = np.zeros((rows, runs * bits), np.uint8)
    whole[:, :held] = packed[:, :held]
    padded[:, :, :bits] = whole.reshape(rows, runs, bits)
    places = np.arange(0, 8 * bits, bits, dtype=np.uint64)
    spread = (padded.view("<u8") >> places) & np.uint64(2**bits - 1)  # (row, run, code)
    return spread.astype(np.uint8).reshape(rows, -1)[:, :count]


def pack(codes: Array, bits: int, size: int) -> Array:
    """Dense codes, and zeros behind them: uint8 [row, code], each below 2**bits -> uint8 [row, size]."""
    if bits == 8 and codes.shape[1] == size:
        return codes
    extension = kernels.native()
    if not codes.size:
        return np.zeros((len(codes), size), np.uint8)
    if extension is None:
        return pack_in_numpy(codes, bits, size)
    out = np.empty((len(codes), size), np.uint8)
    extension.pack_bits(np.ascontiguousarray(codes), len(codes), bits, out)
    return out


def pack_in_numpy(codes: Array, bits: int, size: int) -> Array:
    """`pack` without the extension."""
    rows, count = codes.shape
    runs = -(-size // bits)
    padded = np.zeros((rows, runs * 8), np.uint8)
    padded[:, :count] = codes
    if bits == 4:
        return np.ascontiguousarray((padded[:, ::2] | padded[:, 1::2] << 4)[:, :size])
    shifts = np.arange(0, 8 * bits, bits, dtype=np.uint64)
    joined = np.bitwise_or.reduce(padded.reshape(rows, runs, 8).astype(np.uint64) << shifts, axis=2)  # (row, run)
    stored: Array = joined.astype("<u8").view(np.uint8).reshape(rows, runs, 8)[:, :, :bits]
    return np.ascontiguousarray(stored.reshape(rows, -1)[:, :size])


def unpack_padded(packed: Array, bits: int, count: int) -> Array:
    """The first `count` padded codes of each row: uint8 [row, byte] -> uint8 [row, count]."""
    extension = kernels.native()
    if extension is None or not packed.size:
        return unpack_padded_in_numpy(packed, bits, count)
    out = np.empty((len(packed), count), np.uint8)
    extension.unpack_padded(np.require(packed, requirements=("C", "A")).view("<u4"), len(packed), bits, out)
    return out


def unpack_padded_in_numpy(packed: Array, bits: int, count: int) -> Array:
    """`unpack_padded` without the extension."""
    stored = np.ascontiguousarray(packed).view("<u4")  # (row, word)
    shifts = np.arange(0, 32 // bits * bits, bits, dtype=np.uint32)
    spread: Array = (stored[:, :, None] >> shifts) & np.uint32(2**bits - 1)  # (row, word, code)
    return spread.astype(np.uint8).reshape(len(packed), -1)[:, :count]


def turned(words: Array, columns: slice) -> Array:
    """Some columns of a matrix as rows: uint32 [row, column] -> uint32 [columns, row]."""
    rows, wide = words.shape
    count = columns.stop - columns.start
    extension = kernels.native()
    if extension is None or not (words.size and count and _lies_well(words)):
        return np.ascontiguousarray(words[:, columns].T)
    out = np.empty((count, rows), np.uint32)
    extension.turn_words(words, wide, columns.start, out, rows, 0, rows, count)
    return out


def put_turned(turned: Array, words: Array, columns: slice) -> None:
    """Rows as some columns of a matrix: uint32 [columns, row] into uint32 [row, column]."""
    rows, wide = words.shape
    count = columns.stop - columns.start
    extension = kernels.native()
    if extension is None or not (words.size and count and _lies_well(words) and _lies_well(turned)):
        words[:, columns] = turned.T
    else:
        extension.turn_words(turned, rows, 0, words, wide, columns.start, count, rows)


def _lies_well(words: Array) -> bool:
    return words.flags.c_contiguous and words.flags.aligned


def from_awq(words: Array, places: slice) -> Array:
    """Codes of AWQ's words: uint32 [n, eight rows], of those at `places` -> uint8 [row, n]."""
    count = places.stop - places.start
    extension = kernels.native()
    if extension is None or not (words.size and count and _lies_well(words)):
        return from_awq_in_numpy(words[:, places])
    dense = np.empty((-(-len(words) // 8), 8 * count), np.uint32)  # (eight of n, row)
    extension.from_awq(words, words.shape[1], places.start, len(words), count, dense)
    return unpack(turned(dense, slice(0, 8 * count)).view(np.uint8), 4, len(words))


def from_awq_in_numpy(words: Array) -> Array:
    """`from_awq` of all words, without the extension.

    Words are turned round first and taken apart then: that turns half of the bytes that codes would be.
    """
    packed = np.ascontiguousarray(words.T).view(np.uint8).reshape(words.shape[1], len(words), 4)  # (word, n, byte)
    found = np.empty((words.shape[1], 8, len(words)), np.uint8)  # (word, row, n)
    for place in range(4):
        np.bitwise_and(packed[:, :, place], 15, out=found[:, ORDER[2 * place]])
        np.right_shift(packed[:, :, place], 4, out=found[:, ORDER[2 * place + 1]])
    straight: Array = found.reshape(-1, len(words))
    return straight


def to_awq(codes: Array, words: Array, places: slice) -> None:
    """Codes of whole eights of rows, uint8 [row, n], into AWQ's words at `places`: uint32 [n, eight rows]."""
    count, n = places.stop - places.start, len(words)
    extension = kernels.native()
    if extension is None or not (words.size and count and _lies_well(words)):
        words[:, places] = to_awq_in_numpy(codes)
        return
    eights = -(-n // 8)
    dense = np.empty((eights, 8 * count), np.uint32)
    put_turned(pack(codes, 4, 4 * eights).view("<u4"), dense, slice(0, 8 * count))
    extension.to_awq(words, words.shape[1], places.start, n, count, dense)


def to_awq_in_numpy(codes: Array) -> Array:
    """`to_awq` without the extension: uint8 [row, n] -> uint32 [n, eight rows]."""
    eights = codes.reshape(len(codes) // 8, 8, -1)  # (word, row, n)
    packed = np.empty((*eights[:, 0].shape, 4), np.uint8)
    for place in range(4):
        np.bitwise_or(eights[:, ORDER[2 * place]], eights[:, ORDER[2 * place + 1]] << 4, out=packed[:, :, place])
    stored: Array = packed.view("<u4")[:, :, 0].T
    return stored


def values(
    codes: Array, group: int, middle: int, scales: F32, zeros: Array | None, biases: F32 | None, out: F32
) -> None:
    """out = (code - zero) * scale, or code * scale + bias in float64, each rounded once to float32.

    codes uint8 and out [row, column]; scales, zeros (int16) and biases [row, group], the last group may be short.
    Without zeros and biases every zero is `middle`; a bias comes without a zero.
    """
    extension = kernels.native()
    if extension is None or not (codes.size and out.flags.c_contiguous):
        out[...] = values_in_numpy(codes, group, middle, scales, zeros, biases)
        return
    scale = np.ascontiguousarray(scales, np.float32)
    zero = None if zeros is None else np.ascontiguousarray(zeros, np.int16)
    bias = None if biases is None else np.ascontiguousarray(biases, np.float32)
    extension.code_values(np.ascontiguousarray(codes), codes.shape[1], group, middle, scale, zero, bias, out)


def values_in_numpy(codes: Array, group: int, middle: int, scales: F32, zeros: Array | None, biases: F32 | None) -> F32:
    """`values` without the extension. A product of a code and a float32 fits a float64, and so does most of the sum
    with a bias."""
    count = codes.shape[1]

    def spread(of_groups: Array) -> Array:
        wide = of_groups.shape[1] == 1 or group == 1
        return of_groups if wide else np.repeat(of_groups, group, axis=1)[:, :count]

    with np.errstate(all="ignore"):  # a damaged scale may be infinite: 0 * infinity is NaN, not a fault here
        if biases is not None:
            exact = codes.astype(np.float64) * spread(scales)
            exact += spread(biases)
            return exact.astype(np.float32)
        whole = codes.astype(np.float32)
        whole -= np.float32(middle) if zeros is None else spread(zeros.astype(np.float32))
        found: F32 = whole * spread(scales)
        return found
