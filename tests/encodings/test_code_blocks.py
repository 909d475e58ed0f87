"""ggml's classic blocks and llama2.c's groups as codes: the same values, the same bytes, nothing through floats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkit.encodings import ENCODINGS, find
from modelkit.encodings._codes import fits, values
from modelkit.encodings._refitting import refit
from modelkit.encodings.gptq import Gptq
from modelkit.encodings.mlx import Mlx
from modelkit.errors import BadValue
from modelkit.tensors import Codes, Grid

BLOCKS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
ALL = (*BLOCKS, "llama2c:group=32")
SHAPE = (9, 96)


def packed(name: str, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> list[np.ndarray]:
    weights = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return [np.frombuffer(np.ascontiguousarray(part).tobytes(), np.uint8) for part in find(name).pack(weights)]


def placed(encoding, codes: Codes, shape: tuple[int, ...]) -> list[np.ndarray]:
    parts = [np.zeros(part.size, np.uint8) for part in encoding.parts("x.weight", shape)]
    encoding.place(codes, parts, shape, slice(0, shape[0]))
    return parts


@pytest.mark.parametrize("name", ALL)
def test_codes_have_the_values_of_the_blocks_and_their_bytes(name) -> None:
    encoding, parts = find(name), packed(name)
    real = encoding.unpack(parts, SHAPE)
    places = [np.zeros(part.size, np.uint8) for part in encoding.parts("x.weight", SHAPE)]
    for run in (slice(0, 4), slice(4, 5), slice(5, 9)):
        codes = encoding.codes(parts, SHAPE, run)
        assert codes.codes.dtype == np.uint8
        assert codes.codes.max() < 2**encoding.grid.bits
        assert np.array_equal(values(codes), real[run])
        encoding.place(codes, places, SHAPE, run)
    assert [place.tobytes() for place in places] == [part.tobytes() for part in parts]


@pytest.mark.parametrize("name", BLOCKS)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5))
@settings(max_examples=40)
def test_any_bytes_come_back(name, seed, rows) -> None:
    """Scales and minima of any finite f16, codes of all bits."""
    encoding, shape = ENCODINGS[name], (rows, 64)
    blocks = np.random.default_rng(seed).integers(0, 256, (rows * 2, encoding.bytes), np.uint8)
    for field in encoding.fields:
        blocks[:, field + 1] &= 0xBB  # no infinity, no NaN
    codes = encoding.codes([blocks.reshape(-1)], shape, slice(0, rows))
    assert np.array_equal(values(codes), encoding.unpack([blocks.reshape(-1)], shape))
    assert placed(encoding, codes, shape)[0].tobytes() == blocks.tobytes()


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("q4_0", Gptq(4, 32)),
        ("q8_0", Gptq(8, 32)),
        ("q4_0", Mlx(4, 32, offset="middle")),
        ("q4_1", Mlx(4, 32)),
        ("q5_0", Mlx(5, 32, offset="middle")),
        ("q5_1", Mlx(5, 32)),
        ("q8_0", Mlx(8, 32, offset="middle")),
        ("llama2c:group=32", Mlx(8, 32, "F32", offset="middle")),
    ],
)
def test_the_lossless_pairs_go_over_and_keep_every_value(name, other) -> None:
    shape = (64, 96)
    source, parts = find(name), packed(name, shape=shape)
    codes = source.codes(parts, shape, slice(0, 64))
    assert other.adopt(source.grid, shape) == other
    assert fits(source.grid, other.grid) == "EXACT"
    there = refit(codes, other.grid, shape)
    stored = placed(other, there, shape)
    if isinstance(other, Gptq):
        stored[3] = np.frombuffer(other.constants("x.weight", shape)["x.g_idx"], np.uint8)
    assert np.array_equal(other.unpack(stored, shape), source.unpack(parts, shape))


@pytest.mark.parametrize("source", [Gptq(4, 128), Gptq(4, 0), Mlx(4, 64)])
def test_wide_groups_repeat_their_scale(source) -> None:
    weights = np.random.default_rng(0).standard_normal((32, 256), dtype=np.float32)
    parts = [np.frombuffer(part.tobytes(), np.uint8) for part in source.pack(weights)]
    target = ENCODINGS["q4_0" if source.grid.offset == "middle" else "q4_1"]
    assert target.adopt(source.grid, (32, 256)) == target
    there = refit(source.codes(parts, (32, 256), slice(0, 32)), target.grid, (32, 256))
    assert np.array_equal(target.unpack(placed(target, there, (32, 256)), (32, 256)), source.unpack(parts, (32, 256)))


@pytest.mark.parametrize(
    ("name", "grid", "shape", "answer"),
    [
        ("q4_0", Grid(4, 32, "F16", "integer"), (4, 64), "has no zeros"),
        ("q4_0", Grid(4, 32, "F16", "float"), (4, 64), "has no zeros"),
        ("q4_0", Grid(8, 32, "F16"), (4, 64), "4 bits, not 8"),
        ("q4_0", Grid(4, 16, "F16"), (4, 64), "groups of 16"),
        ("q8_0", Grid(8, 32, "F16", mapped=True), (4, 64), "act-order"),
        ("q8_0", Grid(8, 32, "E8M0", number="e4m3"), (4, 64), "integer codes"),
        ("q4_1", Grid(4, 64, "BF16", "integer"), (4, 64), None),
        ("q4_0", Grid(4, 0, "F16"), (4, 48), "groups of 48"),
        ("llama2c", Grid(8, 32, "F16"), (4, 64), "llama2c:group=32"),
        ("llama2c", Grid(8, 0, "F16"), (4, 128), None),
        ("llama2c", Grid(4, 64, "F16"), (4, 64), "8 bits around 0"),
        ("llama2c", Grid(8, 64, "F16", "integer"), (4, 64), "8 bits around 0"),
    ],
)
def test_what_they_take_of_other_grids(name, grid, shape, answer) -> None:
    found = find(name).adopt(grid, shape)
    assert found == find(name) if answer is None else answer in found


def test_groups_that_straddle_rows_count_as_smaller_ones() -> None:
    encoding, shape = find("llama2c:group=64"), (4, 96)
    parts = packed("llama2c:group=64", shape=shape)
    real = encoding.unpack(parts, shape)
    for run in (slice(0, 1), slice(1, 4)):
        codes = encoding.codes(parts, shape, run)
        assert codes.grid.group == 32
        assert np.array_equal(values(codes), real[run])


def test_a_scale_that_is_no_f16_is_refused() -> None:
    codes = Codes(ENCODINGS["q8_0"].grid, np.zeros((1, 32), np.uint8), np.full((1, 1), 1.0001, np.float32))
    with pytest.raises(BadValue, match="no scale of type F16"):
        placed(ENCODINGS["q8_0"], codes, (1, 32))
