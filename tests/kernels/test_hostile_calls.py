"""Whatever is passed to the extension, it works within the memory it was given or raises.

Each call begins as one that fits; then some arguments are exchanged for hostile ones. test_compilers.py runs this with
the address sanitizer too.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkit.kernels import BLOCKS, FLOATS, words

SIZES = {
    "q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34, "q2_k": 84, "q3_k": 110, "q4_k": 144, "q5_k": 176,
    "q6_k": 210,
}  # fmt: skip
WIDTHS = {"f32": 4, "f16": 2, "bf16": 2, "f8_e4m3": 1, "f8_e5m2": 1}
REFUSALS = (ValueError, TypeError, BufferError, OverflowError)
NORESERVE = 0x4000  # Python names it from 3.13 on
GUARD = 64  # bytes on each side of what is passed; none may change
NUMBERS = (
    0, 1, -1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 64, 255, 256, 2**31 - 1, -(2**31), 2**32, 2**61, 2**62, 2**63 - 1,
    -(2**63), 2**64,
)  # fmt: skip

Draw = Callable[..., Any]


def array(draw: Draw, count: int, dtype: Any = np.uint8) -> np.ndarray:
    """Random bits, with guards before and behind them in the same memory."""
    size = count * np.dtype(dtype).itemsize
    data = np.full(size + 2 * GUARD, 0xA5, np.uint8)
    data[GUARD : GUARD + size] = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, size, np.uint8)
    return data[GUARD : GUARD + size].view(dtype)


def whole(found: np.ndarray) -> bool:
    data = found
    while data.base is not None:
        data = data.base
    return bool((data[:GUARD] == 0xA5).all() and (data[-GUARD:] == 0xA5).all())


def hostile(draw: Draw, argument: Any) -> Any:
    """Something else of the kind, or of no kind."""
    if isinstance(argument, str):
        return draw(st.sampled_from([*SIZES, *WIDTHS, "", "q4", "\0", "f64"]))
    if not isinstance(argument, np.ndarray):
        return draw(st.sampled_from([*NUMBERS, None, "x", 0.5, float("nan")]))
    kind = draw(st.sampled_from(["longer", "shorter", "empty", "odd", "strided", "fixed", "other", "apart", "none"]))
    size = len(argument)
    if kind in ("longer", "shorter"):
        return array(draw, max(size + (1 if kind == "longer" else -1) * draw(st.integers(1, 40)), 0), argument.dtype)
    if kind == "odd":  # not aligned
        width = argument.dtype.itemsize
        return array(draw, (size + 1) * width)[1 : 1 + size * width].view(argument.dtype)
    if kind == "fixed":
        argument.setflags(write=False)
        return argument
    return {
        "empty": argument[:0],
        "strided": array(draw, 2 * size, argument.dtype)[::2],
        "other": array(draw, size, draw(st.sampled_from([np.uint8, np.int16, np.float32, np.float64, np.complex128]))),
        "apart": array(draw, 2 * size, argument.dtype).reshape(2, size)[:, : size // 2],
        "none": draw(st.sampled_from([None, b"", b"abcd", 3, [1.0], memoryview(b"")])),
    }[kind]


def small(draw: Draw, *, least: int = 0) -> int:
    found: int = draw(st.integers(least, 20))
    return found


def of_block(draw: Draw) -> tuple[str, int, int]:
    name = draw(st.sampled_from(sorted(BLOCKS)))
    return name, 256 if name.endswith("_k") else 32, SIZES[name]


def encode(draw: Draw) -> list[Any]:
    name, values, size = of_block(draw)
    rows, columns = draw(st.integers(0, 3)), draw(st.integers(1, 4))
    importance = draw(st.booleans())
    weights = array(draw, columns * values, np.float32) if importance else None
    return [name, array(draw, rows * columns * values, np.float32), weights, array(draw, rows * columns * size)]


def decode(draw: Draw) -> list[Any]:
    name, values, size = of_block(draw)
    count = draw(st.integers(0, 4))
    return [name, array(draw, count * size), array(draw, count * values, np.float32)]


def multiply(draw: Draw) -> list[Any]:
    name, values, size = of_block(draw)
    rows, blocks = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    vector = array(draw, blocks * values, np.float32)
    return [name, array(draw, rows * blocks * size), vector, array(draw, rows, np.float32)]


def small_float(draw: Draw) -> tuple[str, np.ndarray, np.ndarray]:
    name, count = draw(st.sampled_from(sorted(WIDTHS))), small(draw)
    return name, array(draw, count, np.float32), array(draw, count, np.dtype(f"u{WIDTHS[name]}"))


def narrow(draw: Draw) -> list[Any]:
    return list(small_float(draw))


def widen(draw: Draw) -> list[Any]:
    name, values, codes = small_float(draw)
    return [name, codes, values]


def convert(draw: Draw) -> list[Any]:
    names = [draw(st.sampled_from([*SIZES, *WIDTHS])) for _ in range(2)]
    count = 256 * draw(st.sampled_from([0, 1, 2, 16, 17]))
    sides = [
        array(draw, count // (256 if name.endswith("_k") else 32) * SIZES[name])
        if name in SIZES
        else array(draw, count, np.dtype(f"u{WIDTHS[name]}"))
        for name in names
    ]
    return [names[0], sides[0], names[1], sides[1], draw(st.sampled_from([np.inf, 0.0, 65504.0])), draw(st.booleans())]


def scan(draw: Draw) -> list[Any]:
    return [array(draw, small(draw), np.float32)]


def statistics(draw: Draw) -> list[Any]:
    return [array(draw, small(draw), np.float32), 0.5]


def difference(draw: Draw) -> list[Any]:
    count = small(draw)
    return [array(draw, count, np.float32), array(draw, count, np.float32)]


def extremes(draw: Draw) -> list[Any]:
    groups, group = small(draw), small(draw, least=1)
    return [array(draw, count, np.float32) for count in (groups * group, groups, groups)]


def grouped(draw: Draw, groups: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    zeros = array(draw, groups, np.int8) if draw(st.booleans()) else None
    return array(draw, groups * group, np.int8), array(draw, groups, np.float32), zeros


def group_codes(draw: Draw) -> list[Any]:
    codes, scales, zeros = grouped(draw, small(draw), small(draw, least=1))
    return [array(draw, len(codes), np.float32), scales, zeros, draw(st.sampled_from([-128, -8, 0])), 15, codes]


def group_values(draw: Draw) -> list[Any]:
    codes, scales, zeros = grouped(draw, small(draw), small(draw, least=1))
    return [codes, scales, zeros, array(draw, len(codes), np.float32)]


def multiply_groups(draw: Draw) -> list[Any]:
    rows, groups, group = draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(st.sampled_from([32, 64]))
    vector, out = array(draw, groups * group, np.float32), array(draw, rows, np.float32)
    return [*grouped(draw, rows * groups, group), vector, out]


def dense(draw: Draw) -> tuple[np.ndarray, int, int, np.ndarray]:
    rows, bits, count = small(draw, least=1), draw(st.integers(1, 8)), small(draw)
    size = -(-count * bits // 8) + draw(st.integers(0, 9))
    return array(draw, rows * size), rows, bits, array(draw, rows * count)


def unpack_bits(draw: Draw) -> list[Any]:
    return list(dense(draw))


def pack_bits(draw: Draw) -> list[Any]:
    packed, rows, bits, codes = dense(draw)
    return [codes, rows, bits, packed]


def unpack_padded(draw: Draw) -> list[Any]:
    rows, bits, count = small(draw, least=1), draw(st.integers(1, 8)), small(draw)
    size = -(-count // (32 // bits)) + draw(st.integers(0, 2))
    return [array(draw, rows * size, np.uint32), rows, bits, array(draw, rows * count)]


def turn_words(draw: Draw) -> list[Any]:
    rows, columns, first, top = small(draw), small(draw), small(draw), small(draw)
    stride, high = max(first + columns, 1) + draw(st.integers(0, 3)), max(top + rows, 1) + draw(st.integers(0, 3))
    words, out = array(draw, rows * stride, np.uint32), array(draw, columns * high, np.uint32)
    return [words, stride, first, out, high, top, rows, columns]


def awq(draw: Draw) -> list[Any]:
    n, count, first = small(draw), small(draw), small(draw)
    stride = max(first + count, 1) + draw(st.integers(0, 3))
    return [array(draw, n * stride, np.uint32), stride, first, n, count, array(draw, -(-n // 8) * 8 * count, np.uint32)]


def code_values(draw: Draw) -> list[Any]:
    rows, columns, group = small(draw), small(draw, least=1), small(draw, least=1)
    groups = rows * -(-columns // group)
    zeros = array(draw, groups, np.int16) if draw(st.booleans()) else None
    biases = array(draw, groups, np.float32) if draw(st.booleans()) else None
    codes, scales = array(draw, rows * columns), array(draw, groups, np.float32)
    return [codes, columns, group, 8, scales, zeros, biases, array(draw, rows * columns, np.float32)]


CALLS = {
    builder.__name__: builder
    for builder in (
        encode, decode, multiply, narrow, widen, convert, scan, statistics, difference, extremes, group_codes,
        group_values, multiply_groups, unpack_bits, pack_bits, unpack_padded, turn_words, code_values,
    )
} | {"from_awq": awq, "to_awq": awq}  # fmt: skip


@pytest.fixture(scope="module")
def extension() -> Any:
    return pytest.importorskip("modelkit.kernels._native", reason="the C extension is not built")


def test_all_that_is_exported_is_called_here(extension: Any) -> None:
    assert {name for name in dir(extension) if not name.startswith("_")} == {*CALLS, "use"}
    assert set(SIZES) == BLOCKS and set(WIDTHS) == {*FLOATS, "f32"}


@pytest.mark.parametrize("name", sorted(CALLS))
@pytest.mark.parametrize("build", ["plain", "avx2"])
def test_it_stays_within_what_it_was_given(extension: Any, name: str, build: str) -> None:
    before = extension.use()
    try:
        extension.use(build)
    except ValueError as error:
        pytest.skip(str(error))

    @given(st.data())
    @settings(max_examples=60, database=None)
    def call(data: st.DataObject) -> None:
        arguments = CALLS[name](data.draw)
        for place in data.draw(st.lists(st.integers(0, len(arguments) - 1), max_size=3)):
            arguments[place] = hostile(data.draw, arguments[place])
        with suppress(*REFUSALS):
            getattr(extension, name)(*arguments)
        assert all(whole(one) for one in arguments if isinstance(one, np.ndarray))

    try:
        call()
    finally:
        extension.use(before)


def vast(count: int) -> np.ndarray:
    """float32 zeros that take no memory."""
    if sys.platform != "linux":
        pytest.skip("asks for memory that is not reserved as Linux has it")
    try:
        data = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
    except OSError as error:
        pytest.skip(f"the system gives no room for {4 * count:,} bytes ({error})")
    return np.frombuffer(data, np.float32)


def test_a_product_of_sizes_that_wraps_to_nothing_is_no_size(extension: Any) -> None:
    with pytest.raises(ValueError, match="sizes do not fit"):
        extension.multiply("q4_0", b"", vast(32 * 2**32), vast(2**32))
    with pytest.raises(ValueError, match="sizes do not fit"):
        extension.multiply_groups(b"", b"", None, vast(2**32), vast(2**32))


@pytest.mark.parametrize("bits", [3, 4])
def test_rows_of_nothing_take_no_time(extension: Any, bits: int) -> None:
    for work in (extension.unpack_bits, extension.pack_bits, extension.unpack_padded):
        work(b"", 2**62, bits, bytearray())  # it would count for years, and no signal ends it
    nothing = np.empty((2**62, 0), np.uint8)
    assert words.unpack(nothing, bits, 0).shape == words.pack(nothing, bits, 0).shape == nothing.shape


def test_objects_of_python_are_no_numbers(extension: Any) -> None:
    objects = np.array([object(), object()])
    for item in (np.float32, np.uint8):
        with pytest.raises(ValueError, match="items of"):
            extension.narrow("f32" if item is np.float32 else "f8_e4m3", np.ones(4, np.float32), objects)


def test_what_overlaps_is_moved(extension: Any) -> None:
    values = np.arange(64, dtype=np.float32)
    for work in (extension.narrow, extension.widen):
        kept = values.copy()
        work("f32", kept[:40], kept[8:48])
        assert np.array_equal(kept, np.concatenate([values[:8], values[:40], values[48:]]))
