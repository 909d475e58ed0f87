"""AWQ: golden cases of the three versions, which version it is, damage, and codes that come back as they were."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_arrays import RULES, case, cases, copied, dense, expected, folded, parts_of, rounded, saved, values

from modelkit.encodings import find
from modelkit.encodings.awq import Awq
from modelkit.encodings.gptq import Gptq
from modelkit.errors import BrokenFile, Unsupported
from modelkit.layouts import LAYOUTS
from modelkit.tensors import Codes, Grid, Tensor

GROUP = 32
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def stored(
    version: str = "gemm", shape: tuple[int, int] = (64, 128), *, symmetric: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays of a weight `m` and its values, packed bit by bit."""
    rng = np.random.default_rng(0)
    rows, columns = shape
    groups = columns // GROUP
    codes = rng.integers(0, 16, shape)
    zeros = np.full((rows, groups), 8) if symmetric else rng.integers(0, 16, (rows, groups))
    scales = (rng.random((rows, groups)) + 0.5).astype(np.float16)
    spread = np.repeat(zeros, GROUP, 1), np.repeat(scales.astype(np.float32), GROUP, 1)
    real = ((codes - spread[0]) * spread[1]).astype(np.float32)
    if version == "gemm":
        order = np.concatenate([8 * word + np.array(ORDER) for word in range(rows // 8)])
        arrays = {
            "m.qweight": dense(codes.T[:, order], 4),
            "m.qzeros": dense(zeros.T[:, order], 4),
            "m.scales": scales.T,
        }
    else:
        filled = -(-groups // 32) * 32
        padded = np.zeros((rows, filled), np.float16)
        padded[:, :groups] = scales
        wide = np.zeros((rows, filled), np.int64)
        wide[:, :groups] = zeros
        arrays = {"m.qweight": dense(codes, 4), "m.qzeros": dense(wide, 4), "m.scales": padded}
    return {name: array.view(np.int32) if array.dtype == np.uint32 else array for name, array in arrays.items()}, real


def config(**more: Any) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm", **more}


@pytest.mark.parametrize("name", cases("awq"))
def test_golden_cases_are_what_the_library_reads(name: str) -> None:
    arrays, spec = case(name)
    assert LAYOUTS["awq"].recognises(spec["quantization_config"], arrays)
    (tensor,), faults = folded("awq", arrays, spec["quantization_config"])
    assert np.array_equal(rounded(values(arrays, tensor), spec["expected_dtype"]), expected(arrays))
    assert not faults.found
    parts = parts_of(arrays, tensor)
    if tensor.encoding.version == "gemm":
        assert copied(tensor.encoding, parts, tensor.shape) == [part.tobytes() for part in parts]
    else:
        with pytest.raises(Unsupported, match="not written"):
            tensor.encoding.pack(expected(arrays))


@pytest.mark.parametrize("version", ["gemm", "gemv"])
@pytest.mark.parametrize("named", [True, False])
def test_shapes_say_the_version(tmp_path, version, named) -> None:
    made, real = stored(version)
    words = config(version=version.upper()) if named else {"w_bit": 4, "q_group_size": GROUP}
    arrays = saved(tmp_path, made)
    assert LAYOUTS["awq"].recognises(words, arrays)
    (tensor,), _ = folded("awq", arrays, words)
    assert tensor.encoding.version == version
    assert np.array_equal(values(arrays, tensor), real)


@pytest.mark.parametrize("version", ["gemm", "gemv"])
def test_a_square_weight_is_read_by_the_version_of_the_config_alone(tmp_path, version) -> None:
    made, real = stored(version, (128, 128))
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("awq", arrays, config(version=version))
    assert np.array_equal(values(arrays, tensor), real)
    with pytest.raises(BrokenFile, match="gemm or gemv, and the config does not say which") as caught:
        folded("awq", arrays, config(version=None))
    assert "set version" in caught.value.fix
    assert f"scales are as in {version}" in caught.value.message
    other = "gemv" if version == "gemm" else "gemm"
    with pytest.raises(BrokenFile, match=f"as in {version}; the config says {other}") as caught:
        folded("awq", arrays, config(version=other))
    assert caught.value.rule == "awq-variant"


def test_zeros_that_are_all_8_make_a_symmetric_weight(tmp_path) -> None:
    made, real = stored(symmetric=True)
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("awq", arrays, config())
    assert tensor.encoding.offset == "middle"
    assert np.array_equal(values(arrays, tensor), real)
    encoding = tensor.encoding
    parts = parts_of(arrays, tensor)
    parts[1] = parts[1].copy()
    parts[1][-1] = 0x87
    with pytest.raises(BrokenFile, match="a zero is 7 where"):
        encoding.codes(parts, tensor.shape, slice(0, 64))


@pytest.mark.parametrize(
    ("damage", "words", "told"),
    [
        (lambda a: a.pop("m.qzeros"), {}, "has no qzeros"),
        (lambda a: a.pop("m.scales"), {}, "has no scales"),
        (lambda a: a.update({"m.qzeros": a["m.qzeros"][:, :-1]}), {}, r"qzeros' is I32 \[4, 7\]"),
        (lambda a: a.update({"m.qzeros": a["m.qzeros"].astype(np.int16)}), {}, r"qzeros' is I16"),
        (lambda a: a.update({"m.scales": a["m.scales"][:-1]}), {}, r"scales' is F16 \[3, 64\]"),
        (lambda a: a.update({"m.scales": a["m.scales"][:, :-1]}), {}, "no version of AWQ"),
        (lambda a: a.update({"m.scales": a["m.scales"].astype(np.int16)}), {}, "F16 expected"),
        (lambda a: a.update({"m.qweight": a["m.qweight"].reshape(-1)}), {}, "has 1 axes"),
        (lambda a: a.update({"m.qweight": a["m.qweight"].astype(np.int16)}), {}, "the config says gemm"),
        (lambda a: None, {"version": "gemv"}, "the config says gemv"),
        (lambda a: None, {"bits": 8}, "4 bits only"),
        (lambda a: None, {"group_size": 48}, "groups of 48"),
        (lambda a: None, {"group_size": 64}, "need"),
        (lambda a: None, {"group_size": -1}, "need"),
    ],
)
def test_damage_is_told_with_what_is_wrong(tmp_path, damage, words, told) -> None:
    made, _ = stored()
    damage(made)
    with pytest.raises(BrokenFile, match=told) as caught:
        folded("awq", saved(tmp_path, made), config(**words))
    assert caught.value.rule in RULES
    assert caught.value.fix


def test_a_zero_of_gemv_fast_that_is_no_whole_number_is_refused() -> None:
    encoding = Awq(4, 128, offset="integer", version="gemv_fast")
    parts = [np.zeros(part.size, np.uint8) for part in encoding.parts("m.weight", (4, 128))]
    parts[2].view(np.float16)[:4] = 0.5
    parts[1].view(np.float16)[:4] = (-1, 0, -7.5, -0.5)
    assert encoding.codes(parts, (4, 128), slice(0, 4)).zeros.T.tolist() == [[2, 0, 15, 1]]
    for wrong in (-0.7, 1, -8, np.nan):
        parts[1].view(np.float16)[2] = wrong
        with pytest.raises(BrokenFile, match="no multiple"):
            encoding.codes(parts, (4, 128), slice(0, 4))


@given(words=st.integers(1, 9), groups=st.integers(1, 3), symmetric=st.booleans(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_codes_come_back_as_they_were_placed(words, groups, symmetric, seed) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = 8 * words, 40 * groups
    encoding = Awq(4, 40, offset="middle" if symmetric else "integer")
    scales = rng.standard_normal((rows, groups)).astype(np.float16).astype(np.float32)
    zeros = None if symmetric else rng.integers(0, 16, (rows, groups)).astype(np.int16)
    codes = Codes(encoding.grid, rng.integers(0, 16, (rows, columns), np.uint8), scales, zeros)
    parts = [np.zeros(part.size, np.uint8) for part in encoding.parts("m.weight", (rows, columns))]
    encoding.place(codes, parts, (rows, columns), slice(0, rows))
    found = encoding.codes(parts, (rows, columns), slice(0, rows))
    assert np.array_equal(found.codes, codes.codes)
    assert np.array_equal(found.scales, scales)
    assert symmetric or np.array_equal(found.zeros, zeros)
    assert copied(encoding, parts, (rows, columns)) == [part.tobytes() for part in parts]


def test_names_are_words_that_mean_the_same_encoding() -> None:
    assert find("awq") == Awq()
    for one in (Awq(4, 0), Awq(4, 64, "F32", "integer"), Awq(version="gemv_fast", method="rtn")):
        assert find(one.name) == one


@pytest.mark.parametrize(
    ("grid", "shape", "answer"),
    [
        (Gptq(4, 64).grid, (64, 256), Awq(4, 64)),
        (Grid(4, 32, "F16", "float"), (64, 256), Awq(4, 32, offset="integer")),
        (Grid(8, 32, "F16"), (64, 256), "4 bits only"),
        (Grid(4, 32, "F16", mapped=True), (64, 256), "act-order"),
        (Grid(4, 32, "F16"), (20, 64), "no multiples"),
    ],
)
def test_what_it_takes_of_other_grids(grid, shape, answer) -> None:
    found = Awq(method="rtn").adopt(grid, shape)
    assert found == answer if isinstance(answer, Awq) else answer in found


def test_written_settings_describe_the_written_weights() -> None:
    def tensor(name, encoding):
        return Tensor(name, (64, 128), encoding, encoding.parts(name, (64, 128)))

    every = [tensor("a.weight", Awq(4, 64)), tensor("d.weight", find("f32")), tensor("lm_head.weight", find("f32"))]
    found = json.loads(json.dumps(LAYOUTS["awq"].settings(every)))["quantization_config"]
    assert found == config(group_size=64, modules_to_not_convert=["d"])
    with pytest.raises(Unsupported, match="one group size"):
        LAYOUTS["awq"].settings([*every, tensor("b.weight", Awq(4, 32))])
