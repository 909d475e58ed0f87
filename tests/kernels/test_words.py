"""Codes in words: C and numpy leave the same bytes, and both are what a loop over single bits says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkit import kernels
from modelkit.kernels import words

pytestmark = pytest.mark.usefixtures("every_kernel")
few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32)
widths = st.integers(1, 8)


def in_numpy(work: Callable[..., Any], *arguments: Any) -> Any:
    """The same without the extension."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "native", lambda: None)
        return work(*arguments)


def bits_of(row: np.ndarray, bits: int) -> list[int]:
    return [int(code) >> place & 1 for code in row for place in range(bits)]


@given(bits=widths, rows=st.integers(0, 5), count=st.integers(1, 75), room=st.integers(0, 9), seed=seeds)
@few
def test_dense_codes_are_a_stream_of_bits(bits: int, rows: int, count: int, room: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, count), np.uint8)
    size = -(-count * bits // 8) + room
    packed = words.pack(codes, bits, size)
    assert packed.shape == (rows, size)
    for row, stored in zip(codes, packed, strict=True):
        stream = np.unpackbits(stored, bitorder="little").tolist()
        assert stream == bits_of(row, bits) + [0] * (8 * size - bits * count)
    assert np.array_equal(words.unpack(packed, bits, count), codes)
    assert np.array_equal(in_numpy(words.pack, codes, bits, size), packed)


@given(bits=widths, rows=st.integers(1, 4), count=st.integers(1, 90), room=st.integers(0, 5), seed=seeds)
@few
def test_any_bytes_are_unpacked_alike(bits: int, rows: int, count: int, room: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    packed = rng.integers(0, 256, (rows, -(-count * bits // 8) + room + 3), np.uint8)[:, 3:]  # not contiguous
    assert np.array_equal(words.unpack(packed, bits, count), in_numpy(words.unpack, packed, bits, count))
    padded = rng.integers(0, 256, (rows, 4 * (-(-count // (32 // bits)) + room)), np.uint8)
    found = words.unpack_padded(padded, bits, count)
    assert np.array_equal(found, in_numpy(words.unpack_padded, padded, bits, count))
    assert found[0, 0] == padded[0, 0] & (2**bits - 1)


@given(rows=st.integers(1, 40), wide=st.integers(1, 60), cut=st.tuples(seeds, seeds), seed=seeds)
@few
def test_words_are_turned_and_put_back(rows: int, wide: int, cut: tuple[int, int], seed: int) -> None:
    matrix = np.random.default_rng(seed).integers(0, 2**32, (rows, wide), np.uint32)
    first = cut[0] % wide
    columns = slice(first, first + 1 + cut[1] % (wide - first))
    turned = words.turned(matrix, columns)
    assert np.array_equal(turned, matrix[:, columns].T) and turned.flags.c_contiguous
    other = ~matrix
    words.put_turned(turned, other, columns)
    matrix[:, : columns.start], matrix[:, columns.stop :] = ~matrix[:, : columns.start], ~matrix[:, columns.stop :]
    assert np.array_equal(other, matrix)


@given(n=st.integers(1, 30), eights=st.integers(1, 20), cut=st.tuples(seeds, seeds), seed=seeds)
@few
def test_nibbles_of_awq(n: int, eights: int, cut: tuple[int, int], seed: int) -> None:
    stored = np.random.default_rng(seed).integers(0, 2**32, (n, eights), np.uint32)
    first = cut[0] % eights
    places = slice(first, first + 1 + cut[1] % (eights - first))
    codes = words.from_awq(stored, places)
    run = stored[:, places]
    wanted = np.empty((run.shape[1], 8, n), np.uint8)
    for nibble, row in enumerate(words.ORDER):
        wanted[:, row] = (run >> np.uint32(4 * nibble) & np.uint32(15)).T
    assert np.array_equal(codes, wanted.reshape(-1, n))
    assert np.array_equal(codes, in_numpy(words.from_awq, stored, places))
    other = ~stored
    words.to_awq(codes, other, places)
    stored[:, : places.start], stored[:, places.stop :] = ~stored[:, : places.start], ~stored[:, places.stop :]
    assert np.array_equal(other, stored)


FIGURES = st.sampled_from([0.0, -0.0, 1.0, -3.0, 1e-40, 2.0**-24, 65504.0, 3e38, float("inf"), float("nan")])


@given(
    bits=widths, rows=st.integers(1, 4), columns=st.integers(1, 140), group=st.sampled_from([1, 7, 8, 32, 64, 128]),
    offset=st.sampled_from(["middle", "integer", "float"]), odd=FIGURES, seed=seeds,
)  # fmt: skip
@few
def test_values_of_codes(bits: int, rows: int, columns: int, group: int, offset: str, odd: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, (rows, columns), np.uint8)
    shape = (rows, -(-columns // group))
    scales, biases = np.ldexp(rng.standard_normal((2, *shape), np.float32), rng.integers(-30, 30, (2, *shape)))
    scales[0, 0] = odd
    zeros = rng.integers(-300, 300, shape).astype(np.int16) if offset == "integer" else None
    bias = biases.astype(np.float32) if offset == "float" else None
    found = np.empty(codes.shape, np.float32)
    words.values(codes, group, 2 ** (bits - 1), scales.astype(np.float32), zeros, bias, found)
    for row in range(rows):
        for column in range(columns):
            at = row, column // group
            with np.errstate(all="ignore"):
                if bias is not None:
                    wanted = np.float32(np.float64(codes[row, column]) * np.float64(scales[at]) + np.float64(bias[at]))
                else:
                    zero = 2 ** (bits - 1) if zeros is None else int(zeros[at])
                    wanted = np.float32(np.float32(int(codes[row, column]) - zero) * scales[at])
            same = found[row, column].tobytes() == wanted.tobytes()
            assert same or (np.isnan(found[row, column]) and np.isnan(wanted))
