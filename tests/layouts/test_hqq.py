"""HQQ: golden cases, both axes and every packing, and numbers beside a weight that cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stored_arrays import RULES, case, cases, expected, folded, parts_of, rounded, saved, values

from modelkit.encodings import find
from modelkit.encodings.hqq import Hqq
from modelkit.errors import BrokenFile, Unsupported
from modelkit.layouts import LAYOUTS

PACKINGS = {8: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8", 1: "1bit_u8"}
GROUP = 32


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """hqq's BitPack: equal shares of the rows, the first in the high bits; 3 bits are filled up to ten."""
    if bits == 3:
        codes = np.concatenate([codes, np.zeros((-len(codes) % 10, codes.shape[1]), codes.dtype)])
        shares = np.split(codes.astype(np.int32), 10)
        return np.bitwise_or.reduce([share << 27 - 3 * place for place, share in enumerate(shares)])
    shares = np.split(codes.astype(np.uint8), 8 // bits)
    return np.bitwise_or.reduce([share << 8 - bits - bits * place for place, share in enumerate(shares)]).astype(
        np.uint8
    )


def stored(bits: int = 4, axis: int = 1, *, real_bits: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays of a weight `m` and its values."""
    shape = (24, 64)
    rng = np.random.default_rng(0)
    view = (shape[0] * shape[1] // GROUP, GROUP) if axis == 1 else (GROUP, shape[0] * shape[1] // GROUP)
    codes = rng.integers(0, 2 ** (real_bits or bits), view)
    figures = (view[0], 1) if axis == 1 else (1, view[1])
    scale, zero = (rng.standard_normal(figures).astype(np.float16) for _ in range(2))
    real = ((codes - zero.astype(np.float64)) * scale.astype(np.float64)).astype(np.float32).reshape(shape)
    notes = {"axis": axis, "group_size": GROUP, "nbits": real_bits or bits}
    arrays = {f"m.{name}": np.array(number, np.int32) for name, number in notes.items()}
    arrays |= {"m.W_q": packed(codes, bits), "m.scale": scale, "m.zero": zero, "m.shape": np.array(shape, np.int64)}
    arrays["m.packing"] = np.frombuffer(PACKINGS[bits].encode(), np.uint8)
    arrays["m.quant_scale"] = np.array(0, np.uint8)
    return arrays, real


@pytest.mark.parametrize("name", cases("hqq"))
def test_golden_cases_are_what_the_library_reads(name: str) -> None:
    """The library rounds twice, in its compute dtype; the values here are rounded once."""
    arrays, spec = case(name)
    assert LAYOUTS["hqq"].recognises({}, arrays)
    (tensor,), faults = folded("hqq", arrays, {"quant_method": "hqq"})
    assert not faults.found
    assert {part.name for part in tensor.parts} == {name for name in arrays.parts if name.startswith("layer.")}
    codes, scales, zeros = tensor.encoding.stored(parts_of(arrays, tensor), tensor.shape, slice(0, tensor.shape[0]))
    difference = rounded(codes.astype(np.float32) - zeros, spec["expected_dtype"])
    assert np.array_equal(rounded(difference * scales, spec["expected_dtype"]), expected(arrays))
    once = ((codes.astype(np.float64) - zeros) * scales).astype(np.float32)
    assert np.array_equal(values(arrays, tensor), once)


@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_both_axes_and_every_packing(tmp_path, bits, axis) -> None:
    made, real = stored(bits, axis)
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("hqq", arrays, {})
    assert np.array_equal(values(arrays, tensor), real)
    assert {part.name for part in tensor.parts} == set(made)
    with pytest.raises(Unsupported, match="not written"):
        tensor.encoding.pack(real)


def test_codes_may_have_fewer_bits_than_their_bytes(tmp_path) -> None:
    made, real = stored(8, real_bits=5)
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("hqq", arrays, {})
    assert np.array_equal(values(arrays, tensor), real)


def test_the_config_says_what_is_not_stored(tmp_path) -> None:
    made, real = stored(4, 0)
    for name in ("m.axis", "m.group_size", "m.nbits", "m.packing"):
        del made[name]
    arrays = saved(tmp_path, made)
    inner = {"nbits": 4, "group_size": GROUP, "axis": 0}
    (tensor,), _ = folded("hqq", arrays, {"quant_method": "hqq", "quant_config": {"weight_quant_params": inner}})
    assert np.array_equal(values(arrays, tensor), real)


def one(number: int, kind: Any = np.int32) -> np.ndarray:
    return np.array(number, kind)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"m.scale": None}, "has no scale"),
        ({"m.zero": None}, "has no zero"),
        ({"m.shape": None}, "has no shape"),
        ({"m.zero": np.zeros((47, 1), np.float16)}, r"zero' is F16 \[47, 1\]"),
        ({"m.scale": np.zeros((48, 1), np.int16)}, "cannot be"),
        ({"m.W_q": np.zeros((23, 32), np.uint8)}, r"W_q' is U8 \[23, 32\]"),
        ({"m.W_q": np.zeros((24, 32), np.int32)}, r"W_q' is I32"),
        ({"m.shape": np.array([24, 2**60])}, "cannot be"),
        ({"m.shape": np.array([-24, -64])}, "cannot be"),
        ({"m.shape": np.array([24])}, "cannot be"),
        ({"m.shape": np.array([24.0, 64.0])}, "cannot be"),
        ({"m.shape": np.array([48, 64])}, "need"),
        ({"m.shape": np.array([24, 63])}, "no multiple of 32"),
        ({"m.nbits": one(9)}, "cannot be"),
        ({"m.nbits": one(0)}, "cannot be"),
        ({"m.nbits": one(8)}, "cannot be"),
        ({"m.axis": one(2)}, "cannot be"),
        ({"m.group_size": one(0)}, "cannot be"),
        ({"m.group_size": one(64)}, "need"),
        ({"m.packing": np.frombuffer(b"5bit_u8", np.uint8)}, "cannot be"),
        ({"m.packing": np.zeros(300, np.uint8)}, "300 bytes"),
        ({"m.quant_scale": one(1, np.uint8)}, "quantised themselves"),
    ],
)
def test_damage_is_told_with_what_is_wrong(tmp_path, damage, told) -> None:
    made, _ = stored()
    arrays = saved(tmp_path, {name: array for name, array in {**made, **damage}.items() if array is not None})
    with pytest.raises(BrokenFile, match=told) as caught:
        folded("hqq", arrays, {"quant_method": "hqq"})
    assert caught.value.rule in RULES


def test_names() -> None:
    for encoding in (Hqq(), Hqq(3, 128, "F32", 0), Hqq(8, 0)):
        assert find(encoding.name) == encoding
