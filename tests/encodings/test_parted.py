"""What every encoding of several parts promises: runs of rows, codes there and back, constants, refusals."""

from __future__ import annotations

import pickle
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_cases import run_of

from modelkit.encodings import ENCODINGS, _codes, find
from modelkit.encodings._ct_integers import Integers
from modelkit.errors import BadRequest, BadValue, Unsupported
from modelkit.layouts import LAYOUTS
from modelkit.tensors import Grid

WRITTEN = (
    "compressed-tensors",
    "compressed-tensors:bits=3,group=64",
    "compressed-tensors:bits=4,group=32,symmetric=no,scale=bf16",
    "compressed-tensors:bits=5,group=row,symmetric=no",
    "compressed-tensors:bits=8,scales=tensor,scale=f32",
    "compressed-tensors:bits=4,scales=tensor,symmetric=no",
    "compressed-tensors:format=int-quantized",
    "compressed-tensors:format=int-quantized,group=64,symmetric=no,scale=f32",
)
SHAPES = ((37, 128), (64, 256), (1, 128))
few = settings(max_examples=40, deadline=None)


def weights(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("words", WRITTEN)
def test_its_name_is_what_makes_it(words):
    encoding = find(words)
    assert find(encoding.name) == encoding == pickle.loads(pickle.dumps(encoding))
    assert encoding.name.partition(":")[0] in ENCODINGS
    assert encoding.layout in LAYOUTS
    assert encoding.holds(encoding)
    assert not encoding.holds(find("f32"))
    assert find("f32").holds(encoding)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("words", WRITTEN)
def test_what_is_packed_is_what_the_parts_say_and_close_to_what_was_given(words, shape):
    encoding, values = replace(find(words), method="rtn"), weights(shape)
    parts = encoding.parts("a.weight", shape)
    stored = encoding.pack(values)
    assert [array.nbytes for array in stored] == [part.size for part in parts]
    assert all(array.dtype == np.uint8 and array.ndim == 1 for array in stored)
    names = [part.name for part in parts]
    assert all(name.startswith("a.weight") for name in names)
    for name, data in encoding.constants("a.weight", shape).items():
        assert stored[names.index(name)].tobytes() == data
        assert parts[names.index(name)].whole
    found = encoding.unpack(stored, shape)
    assert found.dtype == np.float32
    assert found.shape == shape
    step = max(1, 2 ** (encoding.grid.bits - 1) - 1) if encoding.grid.number == "integer" else 8
    assert np.abs(found - values).max(initial=0) <= 1.05 / step * np.abs(values).max(initial=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("words", WRITTEN)
def test_runs_of_rows_are_the_rows_of_all(words, shape):
    """Cut by its unit as a reader cuts it, and by rows in whole parts."""
    encoding = find(words)
    parts, stored = encoding.parts("a.weight", shape), encoding.pack(weights(shape))
    values, rows = encoding.unpack(stored, shape), shape[0]
    for first in range(0, rows, 5):
        run = slice(first, min(first + 5, rows))
        assert np.array_equal(encoding.values(stored, shape, run), values[run])
    unit = encoding.unit(shape)
    assert prod(shape) % unit == 0
    count = unit // shape[1]
    for first in range(0, rows, count):
        cut = run_of(parts, stored, first, count, rows)
        assert np.array_equal(encoding.unpack(cut, (count, shape[1])), values[first : first + count])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("words", WRITTEN)
def test_codes_put_back_run_by_run_are_the_same_bytes(words, shape):
    encoding, rows = find(words), shape[0]
    parts, stored = encoding.parts("a.weight", shape), encoding.pack(weights(shape))
    again = [array.copy() if part.name in encoding.constants("a.weight", shape) else np.full_like(array, 255)
             for part, array in zip(parts, stored, strict=True)]  # fmt: skip
    for first in range(0, rows, 7):
        run = slice(first, min(first + 7, rows))
        encoding.place(encoding.codes(stored, shape, run), again, shape, run)
    assert [array.tobytes() for array in again] == [array.tobytes() for array in stored]


@pytest.mark.parametrize("words", WRITTEN)
def test_values_are_those_of_the_codes_and_its_own_grid_is_adopted(words):
    encoding, shape = find(words), (64, 256)
    stored = encoding.pack(weights(shape))
    codes = encoding.codes(stored, shape, slice(0, 64))
    assert codes.grid == encoding.grid
    assert np.array_equal(_codes.values(codes), encoding.unpack(stored, shape))
    adopted = encoding.adopt(encoding.grid, shape)
    assert adopted.grid == encoding.grid
    assert adopted.parts("a", shape) == encoding.parts("a", shape)


@pytest.mark.parametrize("words", WRITTEN)
def test_a_shape_that_does_not_fit_is_refused_in_words(words):
    encoding = find(words)
    assert encoding.misfit((3,))
    assert encoding.misfit(())
    assert encoding.misfit((0, 256))
    assert encoding.misfit((64, 256)) is None
    if encoding.grid.group and encoding.grid.tile == 1:
        assert str(encoding.grid.group) in encoding.misfit((4, encoding.grid.group * 3 + 1))
    for value in (np.nan, np.inf):
        values = weights((4, 256))
        values[2, 5] = value
        with pytest.raises(BadValue) as caught:
            encoding.pack(values)
        assert caught.value.index == 2 * 256 + 5


@given(
    bits=st.integers(1, 8),
    rows=st.integers(1, 70),
    groups=st.integers(1, 4),
    group=st.sampled_from([1, 3, 8, 16, 32]),
    form=st.sampled_from(["symmetric", "zeros", "channel", "tensor", "bytes"]),
    data=st.data(),
)
@few
def test_codes_of_any_width_group_and_shape_come_back(bits, rows, groups, group, form, data):
    bits = 8 if form == "bytes" else bits
    encoding = Integers(
        bits, 0 if form in ("channel", "tensor") else group, 0 if form == "tensor" else 1,
        "middle" if form == "symmetric" else "integer",
        data.draw(st.sampled_from(["F16", "BF16", "F32"])), packed=form != "bytes",
    )  # fmt: skip
    shape = (rows, groups * group)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes = rng.integers(0, 2**bits, shape, np.uint8)
    count = 1 if encoding.group == 0 else groups
    of_groups = (1, 1) if encoding.tile == 0 else (rows, count)
    scales = np.repeat(rng.integers(-8, 8, of_groups), rows // of_groups[0], axis=0).astype(np.float32) / 4
    zeros = rng.integers(0, 2**bits, of_groups) if encoding.offset == "integer" else None
    zeros = None if zeros is None else np.repeat(zeros, rows // of_groups[0], axis=0).astype(np.int16)
    parts = [np.full(part.size, 255, np.uint8) for part in encoding.parts("a", shape)]
    given_codes = _codes.Codes(encoding.grid, codes, scales, zeros)
    encoding.place(given_codes, parts, shape, slice(0, rows))
    found = encoding.codes(parts, shape, slice(0, rows))
    assert np.array_equal(found.codes, codes)
    assert np.array_equal(found.scales, scales)
    assert zeros is None or np.array_equal(found.zeros, zeros)


def test_a_scale_that_its_dtype_does_not_hold_is_not_placed():
    encoding, shape = Integers(group=32), (2, 64)
    parts = encoding.pack(weights(shape))
    codes = encoding.codes(parts, shape, slice(0, 2))
    codes.scales[1, 1] = 1 + 2.0**-20
    with pytest.raises(BadValue, match="no scale of type F16"):
        encoding.place(codes, parts, shape, slice(0, 2))
    of_all = Integers(group=0, tile=0)
    codes = Integers(group=0).codes(Integers(group=0).pack(weights(shape)), shape, slice(0, 2))
    with pytest.raises(BadValue, match="one scale for all"):
        of_all.place(codes, of_all.pack(weights(shape)), shape, slice(0, 2))


def test_what_a_grid_needs_that_compressed_tensors_lacks_is_said():
    encoding, shape = Integers(), (64, 256)
    for grid, word in (
        (Grid(4, 128, "F16", mapped=True), "by a map"),
        (Grid(8, 128, "F16", tile=128), "within a row"),
        (Grid(4, 16, "F16", number="e2m1"), "not floats"),
        (Grid(4, 96, "F16"), "32"),
    ):
        assert word in encoding.adopt(grid, shape)
    assert "8 bits" in Integers(packed=False).adopt(Grid(4, 128, "F16"), shape)
    assert encoding.adopt(Grid(3, 64, "BF16", "integer"), shape) == Integers(3, 64, offset="integer", scale="BF16")
    assert encoding.adopt(Grid(4, 32, "F16", "float"), shape).offset == "integer"  # bias to the nearest zero


def test_what_is_read_only_says_so():
    for encoding in (Integers(bits=3, padded=True), Integers(mapped=True)):
        with pytest.raises(Unsupported, match="read, not written"):
            encoding.pack(weights((32, 128)))


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("bits=9", "1 to 8"),
        ("bits=four", "whole number"),
        ("group=0", "whole number"),
        ("group=rows", "whole number"),
        ("scale=f64", "f16, bf16, f32"),
        ("symmetric=maybe", "yes, no"),
        ("format=gguf", "pack-quantized"),
        ("width=4", "it has: format"),
        ("format=int-quantized,bits=4", "has 8 bits"),
        ("scales=tensor,group=32", "no groups"),
        ("method=magic", "rtn"),
    ],
)
def test_words_that_mean_nothing_are_answered(words, answer):
    with pytest.raises(BadRequest) as caught:
        find(f"compressed-tensors:{words}")
    assert answer in str(caught.value)
