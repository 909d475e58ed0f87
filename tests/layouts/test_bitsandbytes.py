"""bitsandbytes: golden cases, blocks that straddle rows, odd counts, and quant_states that lie."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from stored_arrays import RULES, case, cases, expected, folded, rounded, saved, values

from modelkit.encodings import find
from modelkit.encodings.bitsandbytes import Bitsandbytes
from modelkit.errors import BrokenFile, Unsupported
from modelkit.layouts import LAYOUTS

CONFIG = {"quant_method": "bitsandbytes", "load_in_4bit": True}
STATE = "m.weight.quant_state.bitsandbytes__nf4"


def json_array(words: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(words).encode(), np.uint8)


def stored(
    shape: tuple[int, int] = (5, 39), block: int = 64, nested: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays of a weight `m` and its values, code by code."""
    rng = np.random.default_rng(0)
    count = shape[0] * shape[1]
    codes = [int(one) for one in rng.integers(0, 16, count)]
    table = np.sort(rng.standard_normal(16)).astype(np.float32)
    blocks = -(-count // block)
    pairs = [*codes, 0][: 2 * -(-count // 2)]
    packed = np.array([high << 4 | low for high, low in zip(pairs[::2], pairs[1::2], strict=True)], np.uint8)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": block, "dtype": "float16", "shape": list(shape)}
    arrays = {"m.weight": packed[:, None], "m.weight.quant_map": table}
    if nested:
        inner, outer = (
            rng.integers(0, 256, blocks).astype(np.uint8),
            rng.random(-(-blocks // nested)).astype(np.float32),
        )
        wide = rng.standard_normal(256).astype(np.float32)
        state |= {"nested_blocksize": nested, "nested_offset": 0.25, "nested_dtype": "float32"}
        arrays |= {"m.weight.absmax": inner, "m.weight.nested_absmax": outer, "m.weight.nested_quant_map": wide}
        largest = [wide[one] * outer[place // nested] + np.float32(0.25) for place, one in enumerate(inner)]
    else:
        largest = list(rng.random(blocks).astype(np.float32))
        arrays["m.weight.absmax"] = np.array(largest, np.float32)
    arrays[STATE] = json_array(state)
    real = np.array([table[code] * largest[place // block] for place, code in enumerate(codes)], np.float32)
    return arrays, real.reshape(shape)


@pytest.mark.parametrize("name", [name for name in cases("bnb") if "_neg_" not in name])
def test_golden_cases_are_what_the_library_reads(name: str) -> None:
    arrays, spec = case(name)
    assert LAYOUTS["bitsandbytes"].recognises(CONFIG, arrays)
    assert LAYOUTS["bitsandbytes"].recognises({}, arrays)
    (tensor,), faults = folded("bitsandbytes", arrays, CONFIG)
    assert not faults.found
    assert np.array_equal(rounded(values(arrays, tensor), spec["expected_dtype"]), expected(arrays))
    assert {part.name for part in tensor.parts} == {name for name in arrays.parts if name.startswith("layer.")}


@pytest.mark.parametrize(("shape", "block"), [((5, 39), 64), ((3, 7), 4), ((1, 1), 64), ((50, 64), 64)])
@pytest.mark.parametrize("nested", [0, 2, 256])
def test_blocks_straddle_rows_and_bytes_hold_two_rows(tmp_path, shape, block, nested) -> None:
    made, real = stored(shape, block, nested)
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("bitsandbytes", arrays, CONFIG)
    assert tensor.shape == shape
    assert np.array_equal(values(arrays, tensor), real)
    assert {part.name for part in tensor.parts} == set(made)
    with pytest.raises(Unsupported, match="not written"):
        tensor.encoding.pack(real)


def test_codes_may_be_kept_as_floats(tmp_path) -> None:
    """`bnb_4bit_quant_storage`: the same bytes under another dtype."""
    made, real = stored((8, 32))
    made["m.weight"] = made["m.weight"].reshape(-1).view(np.float16)[:, None]
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("bitsandbytes", arrays, CONFIG)
    assert np.array_equal(values(arrays, tensor), real)


def test_rows_of_int8(tmp_path) -> None:
    rng = np.random.default_rng(0)
    codes, largest = rng.integers(-128, 128, (9, 20)).astype(np.int8), rng.random(9).astype(np.float32)
    made = {"m.weight": codes, "m.SCB": largest, "m.weight_format": np.array(0, np.uint8)}
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("bitsandbytes", arrays, CONFIG)
    real = codes.astype(np.float32) * largest[:, None] * np.float32(7.874015718698502e-3)
    assert np.array_equal(values(arrays, tensor), real)
    assert tensor.encoding.unit((9, 20)) == 20
    for damage, told in (
        ({"m.weight_format": np.array(2, np.uint8)}, "is 2; 0"),
        ({"m.SCB": largest[:-1]}, r"SCB' is F32 \[8\]"),
        ({"m.weight": codes.reshape(-1)}, "has 1 axes"),
    ):
        with pytest.raises(BrokenFile, match=told):
            folded("bitsandbytes", saved(tmp_path, {**made, **damage}), CONFIG)
    for gone, told in (("m.SCB", "has no SCB"), ("m.weight", "has no weight")):
        with pytest.raises(BrokenFile, match=told):
            folded("bitsandbytes", saved(tmp_path, {k: v for k, v in made.items() if k != gone}), CONFIG)


def said(**more: Any) -> dict[str, np.ndarray]:
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [5, 39], **more}
    return {STATE: json_array(state)}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (said(shape=[5, 40]), "needs 100 bytes; 'm.weight' has 98"),
        (said(shape=[5, 2**62]), "needs"),
        (said(shape=[]), "says shape"),
        (said(shape=[-5, -39]), "says shape"),
        (said(shape=[5.0, 39]), "says shape"),
        (said(shape=[1] * 9), "says shape"),
        (said(shape=None), "says shape"),
        (said(blocksize=0), "blocksize"),
        (said(blocksize="64"), "blocksize"),
        (said(blocksize=32), r"absmax' is F32 \[4\]"),
        (said(quant_type="fp4"), "quant_type"),
        (said(quant_type=["nf4"]), "quant_type"),
        (said(nested_blocksize=256), "has no weight.nested_absmax"),
        ({STATE: json_array([1])}, "is not the JSON"),
        ({STATE: np.frombuffer(b"[" * 4000, np.uint8)}, "is not the JSON"),
        ({STATE: np.zeros(70_000, np.uint8)}, "70,000 bytes"),
        ({STATE: None}, "has no quant_state"),
        ({"m.weight.absmax": None}, "has no weight.absmax"),
        ({"m.weight.quant_map": None}, "has no weight.quant_map"),
        ({"m.weight": None}, "has no weight"),
        ({"m.weight.quant_map": np.zeros(15, np.float32)}, r"quant_map' is F32 \[15\]"),
        ({"m.weight.absmax": np.zeros(3, np.float32)}, r"absmax' is F32 \[3\]"),
        ({"m.weight.absmax": np.zeros(4, np.uint8)}, r"absmax' is U8 \[4\]"),
        ({"m.weight": np.zeros((49, 2), np.uint8)}, r"weight' is U8 \[49, 2\]"),
        ({"m.weight": np.zeros(98, np.int64)}, "is I64"),
    ],
)
def test_damage_is_told_with_what_is_wrong(tmp_path, damage, told) -> None:
    made, _ = stored()
    arrays = saved(tmp_path, {name: array for name, array in {**made, **damage}.items() if array is not None})
    with pytest.raises(BrokenFile, match=told) as caught:
        folded("bitsandbytes", arrays, CONFIG)
    assert caught.value.rule in RULES


@pytest.mark.parametrize("offset", ["x", None, float("nan"), 2**70, True])
def test_an_offset_is_a_number(tmp_path, offset) -> None:
    made, _ = stored(nested=2)
    made |= said(nested_blocksize=2, nested_offset=offset)
    with pytest.raises(BrokenFile, match="nested_offset"):
        folded("bitsandbytes", saved(tmp_path, made), CONFIG)


def test_nested_scales_need_their_offset(tmp_path) -> None:
    made, _ = stored(nested=2)
    made |= said(nested_blocksize=2)
    with pytest.raises(BrokenFile, match="says no nested_offset"):
        folded("bitsandbytes", saved(tmp_path, made), CONFIG)


def test_names() -> None:
    for one in (Bitsandbytes(), Bitsandbytes("fp4", 128, 256), Bitsandbytes("int8")):
        assert find(one.name) == one
