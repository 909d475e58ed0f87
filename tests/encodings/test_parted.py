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

from modelkit.encodings import ENCODINGS, _codes, _refitting, find
from modelkit.encodings._ct_integers import Integers
from modelkit.encodings._small_floats import SmallFloats
from modelkit.errors import BadRequest, BadValue, BrokenFile, Unsupported
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
    "compressed-tensors:format=float-quantized",
    "compressed-tensors:format=float-quantized,scales=tensor,scale=f32",
    "compressed-tensors:format=float-quantized,block=16x32",
    "compressed-tensors:format=float-quantized,block=128x128,scale=f32",
    "compressed-tensors:format=mxfp4-pack-quantized",
    "compressed-tensors:format=nvfp4-pack-quantized",
    "compressed-tensors:format=mxfp6-pack-quantized",
    "compressed-tensors:format=mxfp8-quantized",
)
SHAPES = ((37, 128), (64, 256), (1, 128))
few = settings(max_examples=40)


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
    encoding, values = find(words), weights(shape)
    encoding = replace(encoding, method="rtn") if hasattr(encoding, "method") else encoding
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
    grid = encoding.grid
    share = {"integer": 1.05 / max(1, 2 ** (grid.bits - 1) - 1), "e2m1": 0.2, "e2m3": 0.05, "e4m3": 0.06}[grid.number]
    assert np.abs(found - values).max(initial=0) <= share * np.abs(values).max(initial=0)


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
        (Grid(4, 16, "F16", number="e2m1"), "no e2m1"),
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


FP4 = Grid(4, 32, "E8M0", number="e2m1")
NV = Grid(4, 16, "F8_E4M3", number="e2m1")
FP8 = Grid(8, 0, "F32", number="e4m3")


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        (FP4, FP4, "EXACT"),
        (NV, replace(NV, overall="divisor"), "EXACT"),
        (replace(NV, overall="factor"), replace(NV, overall="divisor"), "ROUNDED"),
        (replace(NV, overall="divisor"), NV, "NONE"),
        (NV, FP4, "NONE"),
        (FP4, Grid(4, 32, "F16"), "NONE"),
        (FP8, replace(FP8, scale="BF16"), "ROUNDED"),
        (replace(FP8, scale="E8M0"), FP8, "EXACT"),
        (replace(FP8, scale="BF16"), FP8, "EXACT"),
        (replace(FP8, tile=128, group=128), FP8, "NONE"),
        (replace(FP8, tile=128, group=128), replace(FP8, tile=128, group=64), "EXACT"),
    ],
)
def test_where_small_floats_go(source, target, wanted):
    assert _codes.fits(source, target) == wanted


def test_a_factor_becomes_a_divisor_rounded_once():
    source = replace(NV, overall="factor")
    codes = _codes.Codes(
        source, np.full((2, 32), 7, np.uint8), np.full((2, 2), 3, np.float32), factor=float(np.float32(0.1))
    )
    turned = _refitting.refit(codes, replace(NV, overall="divisor"), (2, 32))
    assert (turned.factor, turned.divisor) == (1, float(np.float32(1 / np.float32(0.1))))
    assert np.allclose(_codes.values(turned), 1.8, rtol=2**-22)
    back = _refitting.refit(turned, source, (2, 32))
    assert back.divisor == 1
    plain = _refitting.refit(_codes.Codes(NV, codes.codes, codes.scales), replace(NV, overall="divisor"), (2, 32))
    assert (plain.factor, plain.divisor) == (1, 1)
    with pytest.raises(BadValue, match="for its inverse"):
        _refitting.refit(replace(codes, factor=2.0**-149), replace(NV, overall="divisor"), (2, 32))


def test_a_short_last_block_keeps_its_scale_in_smaller_ones():
    source = replace(FP8, tile=2, group=128)
    codes = _codes.Codes(source, np.full((2, 320), 0x38, np.uint8), np.array([[1, 2, 3]] * 2, np.float32))
    found = _refitting.refit(codes, replace(source, group=64), (2, 320))
    assert found.scales.tolist() == [[1, 1, 2, 2, 3]] * 2
    assert np.array_equal(_codes.values(found), _codes.values(codes))


def test_scales_of_zero_and_of_the_ends_are_held():
    """Zeros quantise to zeros; a power of two reaches both ends of float32; nothing is lost that was there."""
    for words in WRITTEN:
        encoding, zeros = find(words), np.zeros((128, 128), np.float32)
        assert not np.any(encoding.unpack(encoding.pack(zeros), zeros.shape)), words
    encoding = find("compressed-tensors:format=mxfp4-pack-quantized")
    for size in (2.0**-126, 2.0**-149, 6 * 2.0**124, 2.0**127):
        values = np.full((1, 32), size, np.float32)
        found = encoding.unpack(encoding.pack(values), values.shape)
        assert np.abs(found / values - 1).max() <= (0.26 if size > 2.0**-140 else 1)


def test_a_tensor_scale_that_leaves_no_weights_is_refused():
    encoding, shape = find("compressed-tensors:format=nvfp4-pack-quantized"), (2, 32)
    for bad in (0, np.nan, np.inf, -np.inf):
        parts = [part.copy() for part in encoding.pack(weights(shape))]
        parts[2][:] = np.array([bad], np.float32).view(np.uint8)
        with pytest.raises(BrokenFile, match="divides the whole tensor"):
            encoding.unpack(parts, shape)


def test_rows_of_a_block_share_its_scale():
    encoding, shape = find("compressed-tensors:format=float-quantized,block=2x32"), (4, 64)
    parts = encoding.pack(weights(shape))
    codes = encoding.codes(parts, shape, slice(0, 4))
    codes.scales[1] *= 2
    with pytest.raises(BadValue, match="rows of one block"):
        encoding.place(codes, parts, shape, slice(0, 4))


def test_what_small_floats_adopt():
    block = find("compressed-tensors:format=float-quantized,block=128x128")
    assert block.adopt(replace(FP8, tile=128, group=128), (256, 256)).scale == "F32"
    assert block.adopt(FP4, (64, 64)).format == "mxfp4-pack-quantized"
    assert block.adopt(NV, (64, 64)).overall == "divisor"
    assert "not integers" in block.adopt(Grid(4, 32, "F16"), (64, 64))
    assert "no e2m1 in groups of 16" in block.adopt(replace(FP4, group=16), (64, 64))
    assert "no multiple" in block.adopt(FP4, (64, 65)) or "divide" in block.adopt(FP4, (64, 65))
    for grid in (FP4, NV, replace(FP8, tile=0)):  # from the door, too
        assert find("compressed-tensors").adopt(grid, (64, 64)).grid.number == grid.number


@pytest.mark.parametrize("layout", ["fp8", "modelopt", "mxfp4"])
def test_other_layouts_are_read_only(layout):
    encoding = SmallFloats("e2m1", 32, 1, "E8M0", layout=layout)
    with pytest.raises(Unsupported, match=f"{layout}.* is read, not written"):
        encoding.pack(weights((1, 2, 32)))


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
        ("format=mxfp4-pack-quantized,group=32", "no parameter 'group'"),
        ("format=float-quantized,bits=8", "no parameter 'bits'"),
        ("format=float-quantized,group=64", "block=128x128"),
        ("format=float-quantized,block=128", "rows x columns"),
        ("format=float-quantized,block=1x1", "rows x columns"),
        ("format=float-quantized,block=8x8,scales=tensor", "leave out"),
        ("format=float-quantized,scale=e4m3", "f16, bf16, f32"),
        ("format=float-quantized,scales=all", "row, tensor"),
    ],
)
def test_words_that_mean_nothing_are_answered(words, answer):
    with pytest.raises(BadRequest) as caught:
        find(f"compressed-tensors:{words}")
    assert answer in str(caught.value)


@pytest.mark.parametrize("text", ["gptq:", "mlx:", "awq:", "compressed-tensors:", "llama2c:", "f16:", "q8_0:"])
def test_a_colon_with_nothing_after_it_is_answered(text):
    with pytest.raises(BadRequest, match="nothing stands after the colon"):
        find(text)


def test_mxfp4_of_gguf_is_the_mxfp4_of_others_with_its_codes_laid_out_anew():
    """compressed-tensors -> GGUF -> compressed-tensors, in odd runs of rows: the same bytes, the same values."""
    other, gguf, shape = find("compressed-tensors:format=mxfp4-pack-quantized"), find("mxfp4"), (37, 96)
    assert gguf.adopt(other.grid, shape) == gguf
    assert other.adopt(gguf.grid, shape) == other
    assert _codes.fits(other.grid, gguf.grid) == _codes.fits(gguf.grid, other.grid) == "EXACT"
    stored = [np.random.default_rng(3).integers(0, 255, part.size, np.uint8) for part in other.parts("a", shape)]
    blocks = np.zeros(gguf.parts("a", shape)[0].size, np.uint8)
    back = [np.zeros_like(part) for part in stored]
    for first in range(0, 37, 5):
        run = slice(first, min(first + 5, 37))
        gguf.place(_refitting.refit(other.codes(stored, shape, run), gguf.grid, shape), [blocks], shape, run)
    for first in range(0, 37, 7):
        run = slice(first, min(first + 7, 37))
        other.place(_refitting.refit(gguf.codes([blocks], shape, run), other.grid, shape), back, shape, run)
    assert [part.tobytes() for part in back] == [part.tobytes() for part in stored]
    assert np.array_equal(gguf.unpack([blocks], shape), other.unpack(stored, shape))  # -0 is 0 in GGUF
    assert "nothing else" in gguf.adopt(NV, shape)
    blocks[0] = 255
    with pytest.raises(BrokenFile, match="255"):
        gguf.codes([blocks], shape, slice(0, 1))
