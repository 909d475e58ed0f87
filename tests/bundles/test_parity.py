"""Parity: the field is zfec's, any K of K + M volumes suffice, and the published example is what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import ROOT

from modelkit.bundles.parity import (
    accumulate,
    bit_matrix,
    encode,
    inverse,
    matrix,
    multiply,
    padded,
    recovery,
)
from modelkit.errors import BadRequest, Refused

Stripe = Any
PAGE = (ROOT / "docs" / "design" / "parity.md").read_text()


def rebuild(
    data: int, rows: tuple[tuple[int, ...], ...], stripes: dict[int, Stripe], lost: Iterable[int]
) -> dict[int, np.ndarray]:
    """The stripes of the volumes `lost` from those that are there, by number: what repair does stripe by stripe."""
    plan = recovery(data, rows, lost, set(range(data + len(rows))) - set(stripes))
    into = [np.zeros(len(next(iter(stripes.values()))), np.uint8) for _ in plan.lost]
    for number, column in zip(plan.use, plan.columns, strict=True):
        accumulate(into, column, stripes[number])
    return dict(zip(plan.lost, into, strict=True))


def volumes(data: int, size: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (data, size), dtype=np.uint8))


def product(one: int, other: int) -> int:
    """Long multiplication of polynomials, then division by the field's: no table shared with the code."""
    total = 0
    for bit in range(8):
        total ^= (one << bit) * (other >> bit & 1)
    for bit in range(14, 7, -1):
        total ^= (0x11D << (bit - 8)) * (total >> bit & 1)
    return total


def elementwise(row: tuple[int, ...], stripes: list[np.ndarray]) -> np.ndarray:
    """One parity stripe by arithmetic on single elements, bit b of each taken from part b."""
    part = stripes[0].size // 8
    bits = [np.unpackbits(stripe.reshape(8, part), axis=1) for stripe in stripes]  # (part, element)
    total = np.zeros(8 * part, np.uint8)
    for element, planes in zip(row, bits, strict=True):
        values = (planes.astype(np.uint16) << np.arange(8, dtype=np.uint16)[:, None]).sum(0)
        total ^= np.array([product(element, value) for value in range(256)], np.uint8)[values]
    return np.packbits((total >> np.arange(8, dtype=np.uint8)[:, None] & 1), axis=1).reshape(-1)


def test_the_field() -> None:
    for one in range(256):
        for other in range(256):
            assert multiply(one, other) == product(one, other)
    assert all(multiply(element, inverse(element)) == 1 for element in range(1, 256))


def test_the_field_is_that_of_zfec() -> None:
    """Its share n of the blocks (0, b) is 2^(n-1) * b: with every n and every b the whole table of products."""
    zfec = pytest.importorskip("zfec", reason="zfec is not installed: the field is compared with long division alone")
    shares = zfec.Encoder(2, 256).encode([bytes(256), bytes(range(256))], list(range(2, 256)))
    power = 1
    for share in shares:
        power = multiply(power, 2)
        assert share == bytes(multiply(power, value) for value in range(256))


def test_zfec_and_parity_recover_from_the_same_losses() -> None:
    zfec = pytest.importorskip("zfec", reason="zfec is not installed: nothing to compare with")
    data = volumes(4, 64)
    ours = [*data, *encode(data, matrix(3, 4))]
    theirs = zfec.Encoder(4, 7).encode([stripe.tobytes() for stripe in data])
    for have in combinations(range(7), 4):
        blocks = zfec.Decoder(4, 7).decode([theirs[number] for number in have], list(have))
        lost = [number for number in range(7) if number not in have]
        back = rebuild(4, matrix(3, 4), {number: ours[number] for number in have}, lost)
        mine = [back.get(number, ours[number]) for number in range(4)]
        assert [stripe.tobytes() for stripe in mine] == [bytes(block) for block in blocks]


@pytest.mark.parametrize("element", [0, 1, 2, 3, 0x53, 0xCA, 255])
def test_a_bit_matrix_multiplies(element: int) -> None:
    for value in range(256):
        bits = [sum(value >> bit & 1 for bit in row) & 1 for row in bit_matrix(element)]
        assert sum(bit << place for place, bit in enumerate(bits)) == multiply(element, value)


@pytest.mark.parametrize(("data", "parity"), [(1, 1), (2, 2), (10, 2), (7, 4), (200, 3)])
def test_the_matrix_is_cauchy_and_its_first_row_is_a_plain_xor(data: int, parity: int) -> None:
    rows = matrix(parity, data)
    assert set(rows[0]) == {1}
    assert {len(row) for row in rows} == {256 - parity}
    for i, row in enumerate(rows[1:], 1):
        factors = {
            multiply(element, inverse(multiply(inverse((255 - i) ^ j), 255 ^ j))) for j, element in enumerate(row)
        }
        assert len(factors) == 1  # a constant times the row that Cauchy's matrix divided by its first row has


def test_every_square_part_of_two_rows_can_be_inverted() -> None:
    """2 x 2 minors of all of K = 252, M = 4: none vanishes."""
    rows = matrix(4, 252)
    for one, other in combinations(rows, 2):
        quotients = [multiply(a, inverse(b)) for a, b in zip(one, other, strict=True)]
        assert len(set(quotients)) == len(quotients)


@settings(max_examples=60)
@given(
    st.integers(1, 12), st.integers(1, 5), st.integers(1, 20), st.integers(1, 40), st.integers(0, 2**32 - 1), st.data()
)
def test_any_losses_up_to_the_parity_come_back(
    data: int, parity: int, planned: int, parts: int, seed: int, draw: st.DataObject
) -> None:
    whole = volumes(data, 8 * parts, seed)
    rows = matrix(parity, planned)
    whole += encode(whole, rows)
    lost = draw.draw(st.sets(st.integers(0, data + parity - 1), min_size=1, max_size=parity))
    wanted = draw.draw(st.sets(st.sampled_from(sorted(lost)), min_size=1))
    back = rebuild(data, rows, {n: s for n, s in enumerate(whole) if n not in lost}, wanted)
    assert set(back) == wanted
    assert all(np.array_equal(back[number], whole[number]) for number in wanted)


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_parity_is_the_arithmetic_of_the_field(data: int, parity: int, parts: int, seed: int) -> None:
    stripes = volumes(data, 8 * parts, seed)
    rows = matrix(parity, data)
    for row, stripe in zip(rows, encode(stripes, rows), strict=True):
        assert np.array_equal(stripe, elementwise(row[:data], stripes))


def test_volumes_may_pass_in_any_order() -> None:
    stripes, rows = volumes(5, 1 << 10), matrix(3, 5)
    into = [np.zeros(1 << 10, np.uint8) for _ in rows]
    for number in (3, 0, 4, 1, 2):
        accumulate(into, [row[number] for row in rows], stripes[number].tobytes())
    assert all(np.array_equal(a, b) for a, b in zip(into, encode(stripes, rows), strict=True))


def test_an_absent_stripe_of_zeros_changes_nothing() -> None:
    """The padding of the last volume need not be read."""
    stripes = [*volumes(3, 64), np.zeros(64, np.uint8)]
    rows = matrix(2, 4)
    into = [np.zeros(64, np.uint8) for _ in rows]
    for number in range(3):
        accumulate(into, [row[number] for row in rows], stripes[number])
    assert all(np.array_equal(a, b) for a, b in zip(into, encode(stripes, rows), strict=True))


def test_too_much_is_lost() -> None:
    with pytest.raises(Refused, match="3 of 4 \\+ 2 volumes are damaged at the same place, 2 can be rebuilt"):
        recovery(4, matrix(2, 4), [0, 1], missing=[5])


@pytest.mark.parametrize(("data", "parity"), [(0, 1), (255, 2), (3, -1), (256, 1)])
def test_numbers_of_volumes_that_the_field_has_no_elements_for(data: int, parity: int) -> None:
    with pytest.raises(BadRequest, match="at most 256 in all"):
        matrix(parity, data)


@pytest.mark.parametrize("sizes", [(12, 12), (16, 8), (8, 16)])
def test_stripes_of_other_lengths_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="equal multiples of 8"):
        accumulate([np.zeros(sizes[0], np.uint8)], [3], bytes(sizes[1]))


def test_padded() -> None:
    assert [padded(size) for size in (0, 1, 8, 9, 1 << 20)] == [0, 8, 8, 16, 1 << 20]


def test_the_example_of_the_page_is_what_the_code_does() -> None:
    rows = [tuple(map(int, row.split())) for row in re.findall(r"^A\[\d\] +((?:\d+ *)+)$", PAGE, re.MULTILINE)]
    assert rows == [row[:3] for row in matrix(2, 3)]
    shown = re.findall(r"^([DP])\[(\d)\] +((?:[0-9a-f]{2} ?){8})", PAGE, re.MULTILINE)
    stripes = {name + number: np.frombuffer(bytes.fromhex(text), np.uint8) for name, number, text in shown}
    data = [stripes[f"D{number}"] for number in range(3)]
    assert [stripe.tobytes() for stripe in encode(data, matrix(2, 3))] == [
        stripes["P0"].tobytes(),
        stripes["P1"].tobytes(),
    ]
    element, *lines = re.search(r"multiply by (\d+)\n((?:part \d = .*\n)+)", PAGE).groups()  # type: ignore[union-attr]
    parts = [tuple(map(int, re.findall(r"\d", line.split("=")[1]))) for line in lines[0].splitlines()]
    assert tuple(parts) == bit_matrix(int(element))
    plan = recovery(3, matrix(2, 3), [0, 2])
    shown = re.findall(r"^D\[(\d)\] = (\d+) \* D\[1\] \+ (\d+) \* P\[0\] \+ (\d+) \* P\[1\]", PAGE, re.MULTILINE)
    assert [int(number) for number, *_ in shown] == list(plan.lost)
    assert [tuple(map(int, factors)) for _, *factors in shown] == list(zip(*plan.columns, strict=True))
