"""FP8, MXFP4 and NVFP4 as four ecosystems store them: what their arrays mean, across shards, and every refusal."""

from __future__ import annotations

import json

import layout_cases as cases
import ml_dtypes
import numpy as np
import pytest

from modelkit.encodings import _codes, _refitting, find
from modelkit.encodings._small_floats import SmallFloats
from modelkit.errors import BrokenFile
from modelkit.faults import Faults
from modelkit.formats import hf_folder
from modelkit.layouts import LAYOUTS, Arrays
from modelkit.sources import Disk
from modelkit.tensors import Tensor

E4M3 = ml_dtypes.float8_e4m3fn
MISSING, MISMATCH = "missing-companion", "quantization-mismatch"
COMPANION, WIDTH, GROUP = "companion-mismatch", "packed-width", "group-size-mismatch"
RANDOM = np.random.default_rng(0)


def ct(**weights):
    weights = {"type": "float", "symmetric": True, **weights}
    return {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"], "weights": weights}}}


def arrays_of(words, shape=(40, 64), name="a.weight"):
    encoding = find(words)
    values = RANDOM.standard_normal(shape, dtype=np.float32)
    made = zip(encoding.parts(name, shape), encoding.pack(values), strict=True)
    return {part.name: data.view(cases.DTYPES[part.dtype]).reshape(part.shape) for part, data in made}


def fp8(shape=(200, 300), block=(128, 128), name="a.weight"):
    """DeepSeek's arrays, random: codes and a scale for each block, the last ones short."""
    codes = RANDOM.standard_normal(shape, dtype=np.float32).astype(E4M3)
    scales = RANDOM.random((-(-shape[0] // block[0]), -(-shape[1] // block[1])), dtype=np.float32)
    wide = np.repeat(np.repeat(scales, block[0], 0), block[1], 1)[: shape[0], : shape[1]]
    return {name: codes, f"{name}_scale_inv": scales}, codes.astype(np.float32) * wide


def modelopt(shape=(40, 64), name="a.weight", second=0.37):
    codes = RANDOM.integers(0, 16, shape, np.uint8)
    scales = RANDOM.random((shape[0], shape[1] // 16), dtype=np.float32).astype(E4M3)
    arrays = {
        name: codes[:, ::2] | (codes[:, 1::2] << 4),
        f"{name}_scale": scales,
        f"{name}_scale_2": np.float32(second).reshape(()),
        "a.input_scale": np.ones((), np.float32),
    }
    exact = _codes.small_floats("e2m1")[codes] * np.repeat(scales.astype(np.float64), 16, 1) * np.float32(second)
    return arrays, exact.astype(np.float32)


def blocks(shape=(2, 8, 3, 16), name="experts.down_proj"):
    return {
        f"{name}_blocks": RANDOM.integers(0, 256, shape, np.uint8),
        f"{name}_scales": RANDOM.integers(100, 140, shape[:3], np.uint8),
    }


@pytest.mark.parametrize("block", [(128, 128), (64, 32)])
def test_blocks_with_short_ends_are_read_whole_and_in_runs(tmp_path, block):
    arrays, wanted = fp8(block=block)
    place = cases.folder(tmp_path, arrays)
    config = {"quant_method": "fp8", "weight_block_size": list(block), "modules_to_not_convert": ["lm_head"]}
    found, faults = place.fold("fp8", config)
    tensor = found["a.weight"]
    assert not faults.found
    assert tensor.encoding.name == f"fp8:scale=f32,block={block[0]}x{block[1]}"
    assert np.array_equal(cases.decoded(place, tensor), wanted)
    for run in (slice(0, 1), slice(120, 140), slice(190, 200)):
        assert np.array_equal(tensor.encoding.values(place.stored(tensor), tensor.shape, run), wanted[run])


def test_scales_may_lie_in_another_shard(tmp_path):
    arrays, wanted = fp8((256, 128))
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for file, name in zip(names, arrays, strict=True):
        cases.folder(tmp_path, {name: arrays[name]})
        (tmp_path / "model.safetensors").rename(tmp_path / file)
    weight_map = dict(zip(arrays, names, strict=True))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text("{}")
    opener = Disk(tmp_path)
    model = hf_folder.read(opener, Faults())
    held = Arrays(model, opener)
    (tensor,) = LAYOUTS["fp8"].fold(held, {"quant_method": "fp8"}, Faults())
    spans = [held.span(part.name) for part in tensor.parts]
    assert [span.file for span in spans] == names
    stored = [np.frombuffer(opener.open(s.file).read(s.start, s.size), np.uint8) for s in spans]
    assert np.array_equal(tensor.encoding.unpack(stored, tensor.shape), wanted)
    assert tensor.encoding.unit(tensor.shape) == 128 * 128


def test_scales_may_be_powers_of_two_in_bytes(tmp_path):
    arrays, _ = fp8((130, 140))
    powers = RANDOM.integers(110, 130, (2, 2), np.uint8)
    arrays["a.weight_scale_inv"] = powers
    wide = np.repeat(np.repeat(2.0 ** (powers - 127.0), 128, 0), 128, 1)[:130, :140].astype(np.float32)
    for dtype in ("U8", "F8_E8M0"):
        place = cases.folder(tmp_path, arrays, {"a.weight_scale_inv": dtype})
        (tensor,) = place.fold("fp8", {"quant_method": "fp8", "scale_fmt": "ue8m0"})[0].values()
        assert tensor.encoding.scale == "E8M0"
        assert np.array_equal(cases.decoded(place, tensor), arrays["a.weight"].astype(np.float32) * wide)


@pytest.mark.parametrize("shape", [(), (1,), (200, 1)])
def test_fp8_of_old_has_one_scale_or_one_for_each_row(tmp_path, shape):
    arrays, _ = fp8()
    scale = RANDOM.random(shape, dtype=np.float32)
    place = cases.folder(tmp_path, {"a.weight": arrays["a.weight"], "a.weight_scale": np.asarray(scale)})
    (tensor,) = place.fold("fp8", {"quant_method": "fp8"})[0].values()
    assert np.array_equal(cases.decoded(place, tensor), arrays["a.weight"].astype(np.float32) * scale)


def test_fp8_goes_to_compressed_tensors_by_its_codes(tmp_path):
    arrays, wanted = fp8()
    place = cases.folder(tmp_path, arrays)
    (tensor,) = place.fold("fp8", {})[0].values()
    target = find("compressed-tensors").adopt(tensor.encoding.grid, tensor.shape)
    assert _codes.fits(tensor.encoding.grid, target.grid) == "EXACT"
    assert [part.name for part in target.parts("a.weight", tensor.shape)] == ["a.weight", "a.weight_scale"]
    made = repacked(tensor, place.stored(tensor), target)
    assert np.array_equal(target.unpack(made, tensor.shape), wanted)
    assert made[0].tobytes() == arrays["a.weight"].tobytes()


def repacked(tensor, stored, target):
    rows = int(np.prod(tensor.shape[:-1]))
    shape = (rows, tensor.shape[-1])
    parts = [np.zeros(part.size, np.uint8) for part in target.parts("a.weight", shape)]
    for first in range(0, rows, 3):
        run = slice(first, min(first + 3, rows))
        codes = tensor.encoding.codes(stored, tensor.shape, run)
        target.place(_refitting.refit(codes, target.grid, (run.stop - first, shape[1])), parts, shape, run)
    return parts


def test_modelopt_multiplies_by_its_second_scale(tmp_path):
    arrays, wanted = modelopt()
    place = cases.folder(tmp_path, arrays)
    for config in ({}, {"quant_method": "modelopt"}, {"producer": {"name": "modelopt"}}):
        assert LAYOUTS["modelopt"].recognises(config, place.arrays())
    found, faults = place.fold("modelopt", {})
    (tensor,) = found.values()
    assert not faults.found
    assert len(tensor.parts) == 3  # the scale of activations is no part of it
    assert np.array_equal(cases.decoded(place, tensor), wanted)


@pytest.mark.parametrize("second", [0.25, 0.37])
def test_modelopt_goes_to_compressed_tensors_with_the_inverse(tmp_path, second):
    """Exactly for a power of two; else the inverse is rounded once, as the library's own converter rounds it."""
    arrays, wanted = modelopt(second=second)
    place = cases.folder(tmp_path, arrays)
    (tensor,) = place.fold("modelopt", {})[0].values()
    target = find("compressed-tensors").adopt(tensor.encoding.grid, tensor.shape)
    made = repacked(tensor, place.stored(tensor), target)
    assert made[2].view(np.float32)[0] == np.float32(1) / np.float32(second)
    found = target.unpack(made, tensor.shape)
    assert (np.abs(found - wanted) <= 2.0**-23 * np.abs(wanted)).all()
    assert np.array_equal(found, wanted) == (second == 0.25)


def test_fp8_of_modelopt(tmp_path):
    arrays, _ = fp8((16, 32))
    place = cases.folder(tmp_path, {"a.weight": arrays["a.weight"], "a.weight_scale": np.float32(0.5).reshape(())})
    (tensor,) = place.fold("modelopt", {"quant_method": "modelopt", "quant_algo": "FP8"})[0].values()
    assert np.array_equal(cases.decoded(place, tensor), arrays["a.weight"].astype(np.float32) * np.float32(0.5))


def test_a_stack_of_experts_is_read_in_runs_of_rows(tmp_path):
    arrays = blocks()
    place = cases.folder(tmp_path, arrays)
    assert LAYOUTS["mxfp4"].recognises({}, place.arrays())
    (tensor,) = place.fold("mxfp4", {"quant_method": "mxfp4"})[0].values()
    assert tensor.shape == (2, 8, 96)
    values = cases.decoded(place, tensor)
    low, high = arrays["experts.down_proj_blocks"] & 15, arrays["experts.down_proj_blocks"] >> 4
    codes = np.stack([low, high], -1).reshape(2, 8, 3, 32)
    scales = 2.0 ** (arrays["experts.down_proj_scales"] - 127.0)
    wanted = _codes.small_floats("e2m1")[codes] * scales[..., None].astype(np.float32)
    assert np.array_equal(values, wanted.reshape(2, 8, 96))
    part = tensor.encoding.values(place.stored(tensor), tensor.shape, slice(5, 13))  # over the edge of a matrix
    assert np.array_equal(part, values.reshape(16, 96)[5:13])
    assert tensor.encoding.unit(tensor.shape) == 96


def test_mxfp4_is_the_same_bytes_in_compressed_tensors(tmp_path):
    arrays = blocks((1, 16, 2, 16))
    place = cases.folder(tmp_path, arrays)
    (tensor,) = place.fold("mxfp4", {})[0].values()
    target = find("compressed-tensors:format=mxfp4-pack-quantized")
    made = repacked(tensor, place.stored(tensor), target)
    assert [part.tobytes() for part in made] == [array.tobytes() for array in arrays.values()]


def without(name):
    return lambda stored: stored.pop(name)


def given(name, array):
    return lambda stored: stored.update({name: array})


NV, MX, FP = "nvfp4-pack-quantized", "mxfp4-pack-quantized", "float-quantized"
SPOILT_CT = {
    "no scale": (NV, without("a.weight_scale"), {}, "has no 'a.weight_scale'", MISSING),
    "no global scale": (NV, without("a.weight_global_scale"), {}, "has no 'a.weight_global_scale'", MISSING),
    "zero": (NV, given("a.weight_global_scale", np.zeros(1, np.float32)), {}, "is 0; a finite number", "scale-range"),
    "nan": (NV, given("a.weight_global_scale", np.full(1, np.nan, np.float32)), {}, "is nan", "nan-weights"),
    "two": (NV, given("a.weight_global_scale", np.ones(2, np.float32)), {}, "has 2 numbers", COMPANION),
    "few groups": (NV, given("a.weight_scale", np.ones((40, 2), E4M3)), {}, "groups of 16 need 4", COMPANION),
    "few rows": (NV, given("a.weight_scale", np.ones((39, 4), E4M3)), {}, "[40, 4] is expected", COMPANION),
    "other group": (MX, None, {"group_size": 16}, "the config says 16", GROUP),
    "other bits": (MX, None, {"num_bits": 6}, "the config says 6 bits of float", MISMATCH),
    "integers": (MX, None, {"type": "int"}, "4 bits of int", MISMATCH),
    "odd width": (MX, given("a.weight_scale", np.ones((40, 3), np.uint8)), {}, "groups of 32 need 2", COMPANION),
    "float scales": (MX, given("a.weight_scale", np.ones((40, 2), np.float16)), {}, "F8_E4M3 or U8", COMPANION),
    "fp8 without scale": (FP, without("a.weight_scale"), {}, "has no 'a.weight_scale'", MISSING),
    "fp8 without weight": (FP, without("a.weight"), {}, "has no weight beside it", MISSING),
    "fp8 as 4 bits": (FP, None, {"num_bits": 4}, "is F8_E4M3, but the config says 4 bits", MISMATCH),
    "strange scales": (FP, given("a.weight_scale", np.ones((3, 3), np.float32)), {}, "[1, 1] is expected", COMPANION),
    "rows for blocks": (FP, None, {"strategy": "block", "block_structure": [8, 8]}, "[5, 8] is expected", COMPANION),
    "one for rows": (FP, given("a.weight_scale", np.ones(1, np.float32)), {"strategy": "channel"}, "is [1]", COMPANION),
}


@pytest.mark.parametrize("what", SPOILT_CT)
def test_compressed_tensors_refuses_what_does_not_fit(tmp_path, what):
    form, spoil, weights, message, rule = SPOILT_CT[what]
    stored = arrays_of(f"compressed-tensors:format={form}")
    if spoil is not None:
        spoil(stored)
    one_fault(cases.folder(tmp_path, stored), "compressed_tensors", ct(**weights), message, rule)


def one_fault(place, layout, config, message, rule):
    with pytest.raises(BrokenFile) as caught:
        place.fold(layout, config)
    assert message in str(caught.value)
    assert caught.value.rule == rule
    assert caught.value.fix
    found, faults = place.fold(layout, config, strict=False)
    assert not found
    assert [(fault.rule, fault.severity) for fault in faults.found] == [(rule, "error")]


SPOILT = {
    "fp8: no scale": ("fp8", without("a.weight_scale_inv"), "has no 'a.weight_scale_inv'", MISSING),
    "fp8: no weight": ("fp8", without("a.weight"), "has no weight beside it", MISSING),
    "fp8: few blocks": (
        "fp8",
        given("a.weight_scale_inv", np.ones((2, 2), np.float32)),
        "[2, 3] is expected",
        COMPANION,
    ),
    "fp8: a scale a row": ("fp8", given("a.weight_scale_inv", np.ones((200, 1), np.float32)), "[2, 3] is", COMPANION),
    "fp8: e5m2": ("fp8", given("a.weight", np.ones((200, 300), ml_dtypes.float8_e5m2)), "is F8_E5M2", MISMATCH),
    "fp8: a vector": ("fp8", given("a.weight", np.ones(200, E4M3)), "2 dimensions are expected", WIDTH),
    "modelopt: no scale": ("modelopt", without("a.weight_scale"), "has no 'a.weight_scale'", MISSING),
    "modelopt: no second": ("modelopt", without("a.weight_scale_2"), "has no 'a.weight_scale_2'", MISSING),
    "modelopt: zero": (
        "modelopt",
        given("a.weight_scale_2", np.zeros((), np.float32)),
        "multiplies the",
        "scale-range",
    ),
    "modelopt: groups": ("modelopt", given("a.weight_scale", np.ones((40, 3), E4M3)), "[40, 4] is expected", COMPANION),
    "mxfp4: no scales": ("mxfp4", without("a_scales"), "has no 'a_scales'", MISSING),
    "mxfp4: no blocks": ("mxfp4", without("a_blocks"), "has no blocks beside it", MISSING),
    "mxfp4: bytes": ("mxfp4", given("a_blocks", np.ones((2, 8, 3, 8), np.uint8)), "8 bytes a block", WIDTH),
    "mxfp4: groups": ("mxfp4", given("a_scales", np.ones((2, 8, 2), np.uint8)), "[2, 8, 3] is expected", COMPANION),
    "mxfp4: flat": ("mxfp4", given("a_blocks", np.ones((8, 3, 16), np.uint8)), "4 dimensions are expected", WIDTH),
}


@pytest.mark.parametrize("what", SPOILT)
def test_other_layouts_refuse_what_does_not_fit(tmp_path, what):
    layout, spoil, message, rule = SPOILT[what]
    stored = {"fp8": lambda: fp8()[0], "modelopt": lambda: modelopt()[0], "mxfp4": lambda: blocks(name="a")}[layout]()
    spoil(stored)
    config = {"quant_method": layout}
    place = cases.folder(tmp_path, stored, {"a.weight": "F8_E5M2"} if "e5m2" in what else None)
    one_fault(place, layout, config, message, rule)


def test_what_the_config_leaves_alone_may_be_without_scales(tmp_path):
    arrays, _ = fp8()
    place = cases.folder(tmp_path, {**arrays, "lm_head.weight": np.ones((4, 4), E4M3)})
    found, faults = place.fold("fp8", {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]})
    assert list(found) == ["a.weight"]
    assert not faults.found


def test_who_is_recognised(tmp_path):
    models = {
        "fp8": fp8()[0],
        "modelopt": modelopt()[0],
        "mxfp4": blocks(),
        "compressed_tensors": arrays_of("compressed-tensors:format=float-quantized"),
    }
    for layout, arrays in models.items():
        held = cases.folder(tmp_path, arrays).arrays()
        assert [name for name in models if LAYOUTS[name].recognises({}, held)] == [layout]
        config = {"quant_method": layout.replace("_", "-")}
        assert [name for name in models if LAYOUTS[name].recognises(config, held)] == [layout]


ACTIVATIONS = {
    "num_bits": 8,
    "type": "float",
    "symmetric": True,
    "group_size": None,
    "strategy": "token",
    "dynamic": True,
}


@pytest.mark.parametrize(
    ("words", "weights", "activations"),
    [
        ("format=float-quantized", {"strategy": "channel"}, ACTIVATIONS),
        ("format=float-quantized,scales=tensor", {"strategy": "tensor"}, ACTIVATIONS),
        (
            "format=float-quantized,block=128x128",
            {"strategy": "block", "block_structure": [128, 128]},
            {**ACTIVATIONS, "strategy": "group", "group_size": 128},
        ),
        (
            "format=mxfp4-pack-quantized",
            {"num_bits": 4, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
            None,
        ),
        (
            "format=nvfp4-pack-quantized",
            {"num_bits": 4, "strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"},
            None,
        ),
        ("format=int-quantized", {"type": "int", "strategy": "channel"}, {**ACTIVATIONS, "type": "int"}),
    ],
)
def test_the_written_config_is_the_librarys_preset(tmp_path, words, weights, activations):
    encoding = find(f"compressed-tensors:{words}")
    shape = (256, 256)
    tensor = Tensor("a.weight", shape, encoding, encoding.parts("a.weight", shape))
    (group,) = LAYOUTS["compressed_tensors"].settings([tensor])["quantization_config"]["config_groups"].values()
    usual = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None, "dynamic": False}
    assert group["weights"] == {**usual, **weights}
    assert group["input_activations"] == activations
    assert group["format"] == encoding.format
    place = cases.folder(tmp_path, arrays_of(f"compressed-tensors:{words}", shape))
    config = LAYOUTS["compressed_tensors"].settings([tensor])["quantization_config"]
    (found,) = place.fold("compressed_tensors", config)[0].values()
    assert found.encoding == encoding


@pytest.mark.parametrize("words", ["block=64x64", "block=128x128", "scales=tensor", "group=row"])
def test_shapes_of_scales_say_what_shares_them(tmp_path, words):
    place = cases.folder(tmp_path, arrays_of(f"compressed-tensors:format=float-quantized,{words}", (200, 300)))
    (tensor,) = place.fold("compressed_tensors", {})[0].values()
    assert tensor.encoding == find(f"compressed-tensors:format=float-quantized,{words}")


def test_fp8_may_have_groups_of_a_row(tmp_path):
    arrays, _ = fp8((40, 256))
    scales = RANDOM.random((40, 8), dtype=np.float32)
    place = cases.folder(tmp_path, {"a.weight": arrays["a.weight"], "a.weight_scale": scales})
    for config in ({}, ct(strategy="group", group_size=32)):
        (tensor,) = place.fold("compressed_tensors", config)[0].values()
        wanted = arrays["a.weight"].astype(np.float32) * np.repeat(scales, 32, 1)
        assert np.array_equal(cases.decoded(place, tensor), wanted)
    one_fault(place, "compressed_tensors", ct(strategy="group", group_size=64), "is [40, 8]", COMPANION)


def test_names_of_what_is_read():
    assert SmallFloats("e2m1", 16, 1, "F8_E4M3", "factor", "modelopt").name == "modelopt"
    assert SmallFloats("e2m1", 32, 1, "E8M0", layout="mxfp4").name == "mxfp4"
    assert SmallFloats("e4m3", 128, 128, "F32", layout="fp8").name == "fp8:scale=f32,block=128x128"
