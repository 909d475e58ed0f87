"""Parity volumes: any M lost ones of a set of K + M volumes come back, and so does any stripe of them.

Cauchy Reed-Solomon over GF(2^8), done as XOR of eighths of a stripe (Blomer and others 1995; Plank 2005 for the choice
of the matrix). docs/design/parity.md has the field, the matrix and the layout with an example to check by hand.

    A[i][j]   element of parity volume i for data volume j; P[i] = sum of A[i][j] * D[j]
    stripe    the same run of bytes of every volume, cut into 8 parts; bit b of the field's elements lies in part b
    number    0 .. K-1 are the data volumes, K .. K+M-1 the parity volumes

Data volumes may pass in any order: `accumulate` adds one stripe of one volume to the parity stripes (P ^= A * D).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from modelkit.errors import BadRequest, Refused
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array

    Bytes = bytes | bytearray | memoryview | Array

FIELD = 0x11D
"""x^8 + x^4 + x^3 + x^2 + 1, in which 2 generates all 255 elements other than 0."""

MOST = 256  # volumes in all: each needs an element of the field of its own
PARTS = 8  # bits of an element
STRIPE = 1 << 20
"""Bytes of a stripe: what is damaged and repaired at once. Small volumes have shorter ones."""

Matrix = tuple[tuple[int, ...], ...]


# ---- the field: a byte is a polynomial over GF(2), modulo FIELD


@cache
def powers() -> tuple[int, ...]:
    """2^n for n in 0 .. 509: twice around, so that sums of two logarithms need no modulus."""
    found = [1]
    while len(found) < 2 * 255:
        twice = found[-1] << 1
        found.append(twice ^ FIELD if twice >> 8 else twice)
    return tuple(found)


@cache
def logarithms() -> tuple[int, ...]:
    """The n of 2^n, for every element but 0 (whose place holds a 0 that means nothing)."""
    found = [0] * 256
    for exponent, element in enumerate(powers()[:255]):
        found[element] = exponent
    return tuple(found)


def multiply(one: int, other: int) -> int:
    """The product of two elements of the field."""
    return powers()[logarithms()[one] + logarithms()[other]] if one and other else 0


def inverse(element: int) -> int:
    """The element whose product with this one is 1; `element` is not 0."""
    return powers()[255 - logarithms()[element]]


@cache
def bit_matrix(element: int) -> tuple[tuple[int, ...], ...]:
    """Multiplication by an element: for each bit of the product, which bits of the other factor it is the XOR of."""
    columns = [multiply(element, 1 << bit) for bit in range(PARTS)]
    return tuple(tuple(bit for bit in range(PARTS) if columns[bit] >> row & 1) for row in range(PARTS))


@cache
def ones(element: int) -> int:
    """How many parts are XORed when a stripe is multiplied by an element."""
    return sum(map(len, bit_matrix(element)))


# ---- the matrix


@cache
def matrix(parity: int, columns: int) -> Matrix:
    """M rows of 256 - M elements, as many data volumes as there can be; any K of K + M volumes determine all.

    Element j of row i does not depend on K, so volumes can be added while data passes; row 0 is a plain XOR. `columns`
    is the planned K, for which the other rows are made cheap. Raises BadRequest for more than 256 volumes.
    """
    check(columns, parity)
    rows = [[inverse((MOST - 1 - i) ^ j) for j in range(MOST - parity)] for i in range(parity)]
    if rows:
        scale = [inverse(element) for element in rows[0]]
        rows = [[multiply(element, factor) for element, factor in zip(row, scale, strict=True)] for row in rows]
    return tuple(tuple(row) if number == 0 else _cheapest(row, columns) for number, row in enumerate(rows))


def check(data: int, parity: int) -> None:
    """Raises BadRequest for numbers of volumes that the field has no elements for."""
    if data < 1 or parity < 0 or data + parity > MOST:
        message = f"{data} volumes and {parity} of parity: at least one and at most {MOST} in all can be protected"
        raise BadRequest(message, "make the volumes larger, or fewer of parity")


def _cheapest(row: list[int], columns: int) -> tuple[int, ...]:
    """A row times the constant that leaves the fewest parts to XOR, the least such constant: what it protects stays."""
    factor = min(range(1, 256), key=lambda factor: sum(ones(multiply(e, factor)) for e in row[:columns]))
    return tuple(multiply(element, factor) for element in row)


# ---- coding


def padded(size: int) -> int:
    """The length of a stripe that holds `size` bytes: a stripe is cut into parts of whole bytes."""
    return -(-size // PARTS) * PARTS


def accumulate(into: Sequence[Array], elements: Sequence[int], stripe: Bytes) -> None:
    """`into[i]` ^= `elements[i]` * stripe, for equally long uint8 arrays whose length divides by 8.

    To encode, `elements` is a column of the matrix and `into` begins as zeros; to rebuild, it comes from a Recovery.
    """
    source = np.frombuffer(stripe, np.uint8)
    if source.size % PARTS or any(target.size != source.size for target in into):
        message = f"stripes of {source.size} and {[target.size for target in into]} bytes: equal multiples of 8 are due"
        raise ValueError(message)
    parts = _parts(source)
    for target, element in zip(into, elements, strict=True):
        if element == 1:
            words, others = _words(target), _words(source)
            np.bitwise_xor(words, others, out=words)
        elif element:
            for part, summands in zip(_parts(target), bit_matrix(element), strict=True):
                for number in summands:
                    np.bitwise_xor(part, parts[number], out=part)


def _parts(stripe: Array) -> list[Array]:
    part = stripe.size // PARTS
    return [_words(stripe[number * part : (number + 1) * part]) for number in range(PARTS)]


def _words(run: Array) -> Array:
    """Eight bytes at a time where the length allows it."""
    return run if run.size % 8 else run.view(np.uint64)


def encode(stripes: Sequence[Bytes], rows: Matrix) -> list[Array]:
    """The stripes of M parity volumes from one stripe of each data volume: uint8 arrays. `rows` is the matrix."""
    check(len(stripes), len(rows))
    into = [np.zeros(len(stripes[0]), np.uint8) for _ in rows]
    for number, stripe in enumerate(stripes):
        accumulate(into, [row[number] for row in rows], stripe)
    return into


# ---- rebuilding


@dataclass(frozen=True, slots=True)
class Recovery:
    """How lost stripes come back: lost[i] = sum over u of columns[u][i] * the stripe of volume use[u]."""

    lost: tuple[int, ...]
    use: tuple[int, ...]
    columns: Matrix


def recovery(data: int, rows: Matrix, lost: Iterable[int], missing: Iterable[int] = ()) -> Recovery:
    """What to read to rebuild the stripes of the volumes `lost`, when those of `missing` cannot be read either.

    `data` is how many data volumes there are, `rows` the matrix. Raises Refused when more are gone than there are
    parity volumes.
    """
    check(data, len(rows))
    wanted, parity = tuple(sorted(set(lost))), len(rows)
    gone = {*wanted, *missing}
    holes = [number for number in range(data) if number in gone]
    if len(gone) > parity:
        message = f"{len(gone)} of {data} + {parity} volumes are damaged at the same place, {parity} can be rebuilt"
        raise Refused(message, "copy one of them again from where the bundle was made")
    helpers = [row for row in range(parity) if data + row not in gone][: len(holes)]
    solved = _inverted([[rows[row][hole] for hole in holes] for row in helpers])  # (hole, helper)
    use = [number for number in range(data) if number not in gone] + [data + row for row in helpers]
    restored = {
        hole: [_share(solved[at], rows, helpers, number, data) for number in use] for at, hole in enumerate(holes)
    }
    found = [restored[n] if n < data else _again(rows[n - data][:data], restored, use) for n in wanted]
    return Recovery(wanted, tuple(use), tuple(zip(*found, strict=True)))


def _share(solved: list[int], rows: Matrix, helpers: list[int], number: int, data: int) -> int:
    """What a volume that is there counts in a lost data volume.

    Of parity volume h is known P[h] - sum of A[h][j] * D[j] over the volumes j that are there = A[h][holes] * D[holes].
    """
    if number >= data:
        return solved[helpers.index(number - data)]
    return _sum(multiply(factor, rows[row][number]) for factor, row in zip(solved, helpers, strict=True))


def _again(row: tuple[int, ...], restored: Mapping[int, list[int]], use: list[int]) -> list[int]:
    """A lost parity volume from what is there: its row, with the lost data volumes put in."""
    return [
        (row[number] if number < len(row) else 0)
        ^ _sum(multiply(row[hole], shares[at]) for hole, shares in restored.items())
        for at, number in enumerate(use)
    ]


def _sum(elements: Iterable[int]) -> int:
    """In this field a sum is the XOR."""
    total = 0
    for element in elements:
        total ^= element
    return total


def _inverted(square: list[list[int]]) -> list[list[int]]:
    """Gauss and Jordan; every square part of the matrix has an inverse."""
    size = len(square)
    rows = [[*row, *(int(at == number) for at in range(size))] for number, row in enumerate(square)]
    for column in range(size):
        pivot = next(number for number in range(column, size) if rows[number][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        factor = inverse(rows[column][column])
        rows[column] = [multiply(element, factor) for element in rows[column]]
        for number in range(size):
            factor = rows[number][column]
            if number != column and factor:
                rows[number] = [
                    e ^ multiply(factor, other) for e, other in zip(rows[number], rows[column], strict=True)
                ]
    return [row[size:] for row in rows]
