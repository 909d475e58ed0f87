"""MLX: golden cases, settings of single modules, damage, and codes that come back as they were."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_arrays import RULES, case, cases, copied, data, dense, expected, folded, parts_of, rounded, saved, values

from modelkit.encodings import find
from modelkit.encodings._codes import spread
from modelkit.encodings.gptq import Gptq
from modelkit.encodings.mlx import Mlx
from modelkit.errors import BadRequest, BadValue, BrokenFile, Unsupported
from modelkit.layouts import LAYOUTS
from modelkit.tensors import Grid, Tensor

GROUP = 32
FLOATS = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32}


def stored(
    bits: int = 4, scale: str = "F16", shape: tuple[int, ...] = (40, 96), name: str = "m", seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays of a weight and its values, packed bit by bit."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, shape)
    groups = (*shape[:-1], shape[-1] // GROUP)
    scales, biases = (rng.standard_normal(groups).astype(FLOATS[scale]) for _ in range(2))
    wide = [np.repeat(one.astype(np.float64), GROUP, -1) for one in (scales, biases)]
    words = dense(codes.reshape(-1, shape[-1]), bits)
    arrays = {f"{name}.weight": words.reshape(*shape[:-1], -1), f"{name}.scales": scales, f"{name}.biases": biases}
    return arrays, (codes * wide[0] + wide[1]).astype(np.float32)


def config(**more: Any) -> dict[str, Any]:
    return {"bits": 4, "group_size": GROUP, **more}


@pytest.mark.parametrize("name", [name for name in cases("mlx") if "_neg_" not in name])
def test_golden_cases_are_what_the_library_reads(name: str) -> None:
    """The library rounds twice, in the dtype of its scales; the values here are rounded once."""
    arrays, spec = case(name)
    assert LAYOUTS["mlx"].recognises(spec["args"], arrays)
    (tensor,), faults = folded("mlx", arrays, spec["args"])
    assert not faults.found
    parts, found = parts_of(arrays, tensor), values(arrays, tensor)
    if tensor.encoding.mode == "affine":
        codes = tensor.encoding.codes(parts, tensor.shape, slice(0, tensor.shape[0]))
        product = rounded(codes.codes * spread(codes.scales, codes, tensor.shape[1]), spec["expected_dtype"])
        found = product + spread(codes.biases, codes, tensor.shape[1])
    assert np.array_equal(rounded(found, spec["expected_dtype"]), expected(arrays))
    assert copied(tensor.encoding, parts, tensor.shape) == [part.tobytes() for part in parts]


@pytest.mark.parametrize("name", [name for name in cases("mlx") if "_neg_" not in name])
def test_golden_weights_are_quantised_as_the_library_does(name: str) -> None:
    arrays, spec = case(name)
    (tensor,), _ = folded("mlx", arrays, spec["args"])
    encoding = find(f"{tensor.encoding.name},method=rtn") if tensor.encoding.mode == "affine" else tensor.encoding
    original = data(arrays, "__original__").view("<f4").reshape(tensor.shape)
    theirs = parts_of(arrays, tensor)
    mine = encoding.pack(original)
    assert all(np.array_equal(one, other) for one, other in zip(mine[1:], theirs[1:], strict=True))  # scales, biases
    at_once = slice(0, tensor.shape[0])
    one, other = (encoding.codes(parts, tensor.shape, at_once).codes.astype(int) for parts in (mine, theirs))
    if encoding.mode == "affine":  # MLX computes codes in the dtype of its scales: some fall to the next one
        assert np.abs(one - other).max() <= 1
        assert (one == other).mean() > 0.97
    else:
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", [name for name in cases("mlx") if "_neg_" in name])
def test_golden_damage_is_refused(name: str) -> None:
    arrays, spec = case(name)
    with pytest.raises(BrokenFile, match="scales"):
        folded("mlx", arrays, spec["args"])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("scale", ["F16", "BF16", "F32"])
def test_every_width_is_read_rounded_once(tmp_path, bits, scale) -> None:
    made, real = stored(bits, scale)
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("mlx", arrays, config(bits=bits))
    assert np.array_equal(values(arrays, tensor), real)
    assert tensor.encoding.scale == scale
    parts = parts_of(arrays, tensor)
    if bits > 1:
        assert copied(tensor.encoding, parts, tensor.shape) == [part.tobytes() for part in parts]
    else:
        with pytest.raises(Unsupported, match="not written"):
            tensor.encoding.pack(real)


@pytest.mark.parametrize("scale", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_biases_in_the_middle_make_a_symmetric_weight(tmp_path, scale, bits) -> None:
    """The first of them are looked at when the file is opened (all, of few bits), all of them when they are read."""
    made, _ = stored(bits, scale, (64, 1536))
    made["m.biases"] = (made["m.scales"].astype(np.float32) * -(2 ** (bits - 1))).astype(FLOATS[scale])
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("mlx", arrays, config(bits=bits))
    assert tensor.encoding == Mlx(bits, GROUP, scale, offset="middle")
    found, parts = values(arrays, tensor), parts_of(arrays, tensor)
    assert np.array_equal(found, Mlx(bits, GROUP, scale).unpack(parts, tensor.shape))
    assert copied(tensor.encoding, parts, tensor.shape) == [part.tobytes() for part in parts]
    assert Gptq().adopt(tensor.encoding.grid, tensor.shape) == Gptq(bits, GROUP)
    made["m.biases"][-1, -1] *= 2
    arrays = saved(tmp_path, made)
    if bits > 3:
        with pytest.raises(BrokenFile, match="a bias is"):
            values(arrays, tensor)
        made["m.biases"][0, 3] *= 2
    (tensor,), _ = folded("mlx", saved(tmp_path, made), config(bits=bits))
    assert tensor.encoding.offset == "float"


def test_two_bits_are_not_taken_for_symmetric_by_their_first_groups(tmp_path) -> None:
    """Nearly every group of 2 bits has its zero in the middle: a later one that has not breaks no file."""
    made, _ = stored(2, "F16", (64, 1536))
    made["m.biases"] = (made["m.scales"].astype(np.float32) * -2).astype(np.float16)
    made["m.biases"][-1, -1] = made["m.scales"][-1, -1] * np.float16(-3)
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("mlx", arrays, config(bits=2))
    assert tensor.encoding.offset == "float"
    found = values(arrays, tensor)
    step = float(made["m.scales"][-1, -1])
    assert set(np.round(found[-1, -GROUP:] / step)) <= {-3, -2, -1, 0}


def test_symmetric_weights_are_made_from_floats_too() -> None:
    encoding = find("mlx:symmetric=yes,method=rtn")
    weights = np.random.default_rng(0).standard_normal((8, 128)).astype(np.float32)
    parts = [np.frombuffer(part.tobytes(), np.uint8) for part in encoding.pack(weights)]
    assert np.array_equal(encoding.unpack(parts, (8, 128)), Mlx().unpack(parts, (8, 128)))
    assert np.abs(encoding.unpack(parts, (8, 128)) - weights).max() < 0.5


def test_stacked_experts_are_one_weight(tmp_path) -> None:
    made, real = stored(3, shape=(4, 10, 64))
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("mlx", arrays, config(bits=3))
    assert tensor.shape == (4, 10, 64)
    assert np.array_equal(values(arrays, tensor), real)


def test_modules_have_numbers_of_their_own(tmp_path) -> None:
    one, first = stored(4, name="m")
    other, second = stored(8, name="lm_head", seed=1)
    floats = {"norm.weight": np.ones(8, np.float32)}
    arrays = saved(tmp_path, {**one, **other, **floats})
    words = config(lm_head={"bits": 8, "group_size": GROUP}, norm=False, m=True)
    found, faults = folded("mlx", arrays, words)
    assert not faults.found
    assert {tensor.name: tensor.encoding.bits for tensor in found} == {"m.weight": 4, "lm_head.weight": 8}
    for tensor in found:
        assert np.array_equal(values(arrays, tensor), first if tensor.name == "m.weight" else second)
    with pytest.raises(BrokenFile, match="not quantised"):
        folded("mlx", arrays, config(lm_head=False))


def test_an_affine_module_of_a_model_of_small_floats(tmp_path) -> None:
    """mlx-lm's numbers of one module are affine unless they name a mode."""
    one, real = stored(4, name="m")
    packed = {"n.weight": np.arange(64, dtype=np.uint32).reshape(4, 16), "n.scales": np.full((4, 4), 127, np.uint8)}
    arrays = saved(tmp_path, {**one, **packed})
    found, _ = folded("mlx", arrays, {"mode": "mxfp4", "bits": 4, "group_size": 32, "m": {"bits": 4, "group_size": 32}})
    assert {tensor.name: tensor.encoding.mode for tensor in found} == {"m.weight": "affine", "n.weight": "mxfp4"}
    assert np.array_equal(values(arrays, next(tensor for tensor in found if tensor.name == "m.weight")), real)
    written = LAYOUTS["mlx"].settings(found)["quantization"]
    again, _ = folded("mlx", arrays, written)
    assert [tensor.encoding for tensor in again] == [tensor.encoding for tensor in found]


@pytest.mark.parametrize(
    ("damage", "words", "told"),
    [
        (lambda a: a.pop("m.scales"), {}, "has no scales"),
        (lambda a: a.pop("m.biases"), {}, "has no biases"),
        (lambda a: a.update({"m.scales": a["m.scales"][:, :-1]}), {}, r"scales' is F16 \[40, 2\]"),
        (lambda a: a.update({"m.biases": a["m.biases"][:-1]}), {}, r"biases' is F16 \[39, 3\]"),
        (lambda a: a.update({"m.biases": a["m.biases"].astype(np.float32)}), {}, r"biases' is F32"),
        (lambda a: a.update({"m.scales": a["m.scales"].astype(np.int16)}), {}, "scales of I16"),
        (lambda a: a.update({"m.weight": a["m.weight"][:, :-1]}), {}, "no matrix of 4 bits"),
        (lambda a: a.update({"m.weight": a["m.weight"].reshape(-1)}), {}, "no matrix"),
        (lambda a: None, {"bits": 3}, "no matrix of 3 bits|need"),
        (lambda a: None, {"bits": 7}, "cannot have 7 bits"),
        (lambda a: None, {"bits": 8}, "no matrix|need"),
        (lambda a: None, {"group_size": 64}, "no matrix|need"),
        (lambda a: None, {"group_size": 0}, "groups of 0"),
        (lambda a: None, {"group_size": None}, "does not say"),
        (lambda a: None, {"bits": "4"}, "does not say"),
        (lambda a: None, {"mode": "mxfp5"}, "mxfp5"),
        (lambda a: None, {"mode": "nvfp4"}, "not with 4 bits in groups of 32"),
        (lambda a: None, {"mode": "mxfp4"}, "need U8"),
    ],
)
def test_damage_is_told_with_what_is_wrong(tmp_path, damage, words, told) -> None:
    made, _ = stored()
    damage(made)
    with pytest.raises(BrokenFile, match=told) as caught:
        folded("mlx", saved(tmp_path, made), config(**words))
    assert caught.value.rule in RULES
    assert caught.value.fix


@given(
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]), groups=st.integers(1, 3), rows=st.integers(1, 70),
    scale=st.sampled_from(["F16", "BF16", "F32"]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=60)
def test_codes_come_back_as_they_were_placed(bits, groups, rows, scale, seed) -> None:
    made, real = stored(bits, scale, (rows, GROUP * groups), seed=seed)
    encoding = Mlx(bits, GROUP, scale)
    parts = [np.frombuffer(array.tobytes(), np.uint8) for array in made.values()]
    assert copied(encoding, parts, real.shape) == [part.tobytes() for part in parts]
    assert np.array_equal(encoding.unpack(parts, real.shape), real)


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_small_floats_err_by_half_a_step_of_their_own(mode) -> None:
    encoding = Mlx.of_mode(mode)
    rng = np.random.default_rng(0)
    weights = (
        rng.standard_normal((20, 128)) * np.exp(rng.standard_normal((20, 1)) * (1 if mode == "nvfp4" else 4))
    ).astype(np.float32)
    weights[3] = 0
    parts = [np.frombuffer(part.tobytes(), np.uint8) for part in encoding.pack(weights)]
    found = encoding.unpack(parts, weights.shape)
    scales = np.repeat(encoding.codes(parts, weights.shape, slice(0, 20)).scales, encoding.group, 1)
    step = 2.0 ** (-2 if encoding.bits == 4 else -4)
    rough = 1.07 if mode == "nvfp4" else 1  # its scale may be rounded down
    assert (np.abs(found - weights) <= np.abs(weights) * step * rough + 1.01 * scales * step).all()
    assert not found[3].any()
    assert np.array_equal(encoding.unpack(encoding.pack(found), found.shape), found)
    weights[7, 5] = np.inf
    with pytest.raises(BadValue) as caught:
        encoding.pack(weights)
    assert caught.value.index == 7 * 128 + 5


def test_nvfp4_has_no_scale_for_what_is_too_large() -> None:
    weights = np.full((2, 16), 2689, np.float32)
    with pytest.raises(BadValue, match="at most 2,688"):
        Mlx.of_mode("nvfp4").pack(weights)


def test_names_are_words_that_mean_the_same_encoding() -> None:
    assert find("mlx") == Mlx()
    for one in (
        Mlx(3, 128, "BF16"),
        Mlx(method="rtn"),
        Mlx(offset="middle"),
        Mlx.of_mode("mxfp8"),
        Mlx.of_mode("nvfp4"),
    ):
        assert find(one.name) == one
    assert find("mlx:mode=affine,bits=8") == Mlx(8)
    for wrong in ("mlx:mode=mxfp4,bits=8", "mlx:mode=q", "mlx:symmetric=maybe", "mlx:scale=f8"):
        with pytest.raises(BadRequest):
            find(wrong)


@pytest.mark.parametrize(
    ("grid", "shape", "answer"),
    [
        (Gptq(4, 128).grid, (64, 256), Mlx(4, 128, offset="middle")),
        (Gptq(4, 0, "BF16").grid, (64, 192), Mlx(4, 64, "BF16", offset="middle")),
        (Gptq(4, 64, offset="integer").grid, (64, 192), Mlx(4, 64)),
        (Gptq(8, 256).grid, (64, 256), Mlx(8, 128, offset="middle")),
        (Grid(5, 32, "F16", "float"), (64, 256), Mlx(5, 32)),
        (Grid(7, 32, "F16"), (64, 256), "not 7"),
        (Grid(4, 16, "F16"), (64, 256), "32, 64 or 128"),
        (Grid(4, 32, "F16", mapped=True), (64, 256), "act-order"),
        (Grid(4, 32, "E8M0", number="e2m1"), (64, 256), Mlx.of_mode("mxfp4")),
        (Grid(8, 32, "E8M0", number="e4m3"), (64, 256), Mlx.of_mode("mxfp8")),
        (Grid(8, 128, "F32", number="e4m3", tile=128), (64, 256), "MLX has no e4m3"),
    ],
)
def test_what_it_takes_of_other_grids(grid, shape, answer) -> None:
    found = Mlx(method="rtn").adopt(grid, shape)
    assert found == answer if isinstance(answer, Mlx) else answer in found


def test_written_settings_describe_the_written_weights() -> None:
    def tensor(name, encoding):
        return Tensor(name, (64, 128), encoding, encoding.parts(name, (64, 128)))

    every = [tensor("a.weight", Mlx()), tensor("b.weight", Mlx()), tensor("lm_head.weight", Mlx(8)),
             tensor("d.weight", find("f32"))]  # fmt: skip
    found = json.loads(json.dumps(LAYOUTS["mlx"].settings(every)))
    assert found["quantization"] == {"bits": 4, "group_size": 64, "lm_head": {"bits": 8, "group_size": 64}}
    assert found["quantization_config"] == found["quantization"]
    assert LAYOUTS["mlx"].strings == {"format": "mlx"}
    assert not LAYOUTS["mlx"].leaves & {"embedding", "head"}
