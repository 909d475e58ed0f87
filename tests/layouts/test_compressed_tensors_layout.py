"""compressed-tensors in a folder: what its arrays and its config mean together, every refusal, the written config."""

from __future__ import annotations

import struct

import layout_cases as cases
import numpy as np
import pytest

from modelkit.encodings import _padded_bits, find
from modelkit.encodings._ct_integers import Integers
from modelkit.errors import BrokenFile, Unsupported
from modelkit.layouts import LAYOUTS
from modelkit.layouts._ignore_lists import Listed, say_what_is_listed
from modelkit.layouts._module_names import names
from modelkit.tensors import Part, Tensor

CT = LAYOUTS["compressed_tensors"]


def settings(ignore=(), targets=("Linear",), form="pack-quantized", **weights):
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, **weights}
    group = {"targets": list(targets), "weights": weights, "format": form}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": list(ignore)}


def arrays_of(encoding, shape=(40, 64), name="a.weight", seed=0):
    """Stored arrays of random weights, by name."""
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    made = zip(encoding.parts(name, shape), encoding.pack(values), strict=True)
    return {part.name: data.view(cases.DTYPES[part.dtype]).reshape(part.shape) for part, data in made}


def padded_words(codes, bits):
    """The old packing: 32 // bits codes in a word."""
    per = 32 // bits
    full = np.zeros((len(codes), _padded_bits.words(codes.shape[1], bits) * per), np.uint32)
    full[:, : codes.shape[1]] = codes
    shifted = full.reshape(len(codes), -1, per) << (np.arange(per, dtype=np.uint32) * np.uint32(bits))
    return np.bitwise_or.reduce(shifted, axis=2).view(np.int32)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [3, 5, 6, 7])
@pytest.mark.parametrize("columns", [16, 32, 96, 192])
def test_old_and_new_packing_read_alike_or_say_that_they_look_alike(tmp_path, bits, columns, zeros):
    """Both have one width below about a hundred columns; then the top bits of words decide, and zeros are told."""
    encoding, shape = Integers(bits, 16, offset="integer" if zeros else "middle"), (40, columns)
    stored = arrays_of(encoding, shape)
    flat = [array.reshape(-1).view(np.uint8) for array in stored.values()]
    codes = encoding.codes(flat, shape, slice(0, 40))
    config = settings(num_bits=bits, group_size=16, symmetric=not zeros)
    new, faults = cases.folder(tmp_path, stored).fold("compressed_tensors", config)
    assert not faults.found
    values = encoding.unpack(flat, shape)
    assert new["a.weight"].encoding == encoding
    old = {**stored, "a.weight_packed": padded_words(codes.codes, bits)}
    if zeros:
        old["a.weight_zero_point"] = np.ascontiguousarray(padded_words(codes.zeros.T.astype(np.uint8), bits).T)
    place = cases.folder(tmp_path, old)
    found, faults = place.fold("compressed_tensors", config)
    tensor = found["a.weight"]
    assert tensor.encoding.padded
    assert np.array_equal(cases.decoded(place, tensor), values)
    part = tensor.encoding.values(place.stored(tensor), shape, slice(7, 23))
    assert np.array_equal(part, values[7:23])
    alike = stored["a.weight_packed"].shape == old["a.weight_packed"].shape and (
        not zeros or stored["a.weight_zero_point"].shape == old["a.weight_zero_point"].shape
    )
    (fault,) = faults.found
    assert (fault.rule, fault.severity) == ("old-packing", "warning")
    assert ("as wide in both packings" in fault.message) == alike
    assert fault.judged == "error"


def test_a_map_of_columns_is_followed_where_it_is_one(tmp_path):
    encoding, shape = Integers(group=32), (8, 96)
    stored = arrays_of(encoding, shape)
    plain = np.arange(96, dtype=np.int32) // 32
    values = cases.decoded(place := cases.folder(tmp_path, stored), place.fold("compressed_tensors", {})[0]["a.weight"])
    for order in (plain, np.full(96, -1, np.int32)):
        place = cases.folder(tmp_path, {**stored, "a.weight_g_idx": order})
        assert place.fold("compressed_tensors", settings())[0]["a.weight"].encoding == encoding
    mixed = np.random.default_rng(1).permutation(plain)
    place = cases.folder(tmp_path, {**stored, "a.weight_g_idx": mixed})
    (tensor,) = place.fold("compressed_tensors", settings())[0].values()
    assert tensor.encoding.grid.mapped
    scales = stored["a.weight_scale"].astype(np.float32)
    codes = encoding.codes([a.reshape(-1).view(np.uint8) for a in stored.values()], shape, slice(0, 8)).codes
    wanted = (codes.astype(np.float32) - 8) * scales[:, mixed]
    assert np.array_equal(cases.decoded(place, tensor), wanted)
    assert not np.array_equal(wanted, values)


def without(name):
    return lambda stored: stored.pop(f"a.{name}")


def replaced(name, array):
    return lambda stored: stored.update({f"a.{name}": array})


MISSING, MISMATCH = "missing-companion", "quantization-mismatch"
COMPANION, WIDTH, GROUP = "companion-mismatch", "packed-width", "group-size-mismatch"
SPOILT = {
    "no scale": (without("weight_scale"), "has no 'a.weight_scale'", MISSING),
    "no shape": (without("weight_shape"), "has no 'a.weight_shape'", MISSING),
    "no zeros": (without("weight_zero_point"), "has no 'a.weight_zero_point'", MISSING),
    "no codes": (without("weight_packed"), "has no weight beside it", MISSING),
    "more columns": (replaced("weight_shape", np.array([40, 4096])), "says 40 x 4,096", WIDTH),
    "other columns": (replaced("weight_shape", np.array([40, 80])), "80 columns do not divide", GROUP),
    "other rows": (replaced("weight_shape", np.array([41, 64])), "says 41 x 64", WIDTH),
    "huge": (replaced("weight_shape", np.array([40, 2**62])), "says 40 x 4,611", WIDTH),
    "negative": (replaced("weight_shape", np.array([40, -64])), "says 40 x -64", WIDTH),
    "three sides": (replaced("weight_shape", np.array([40, 64, 1])), "rows and columns are two", COMPANION),
    "f32 sides": (replaced("weight_shape", np.ones(2, np.float32)), "I64 or I32 is expected", COMPANION),
    "scales of rows": (replaced("weight_scale", np.ones((39, 2), np.float16)), "40 rows with 2 of 32", COMPANION),
    "one scale more": (replaced("weight_scale", np.ones((40, 3), np.float16)), "is [40, 3]", COMPANION),
    "another group": (replaced("weight_scale", np.ones((40, 4), np.float16)), "in groups of 32 need 2", GROUP),
    "no scales": (replaced("weight_scale", np.ones((40, 0), np.float16)), "is [40, 0]", COMPANION),
    "integer scales": (replaced("weight_scale", np.ones((40, 2), np.int32)), "F16 or BF16 or F32", COMPANION),
    "few zeros": (replaced("weight_zero_point", np.ones((4, 2), np.int32)), "zeros [4, 2]", WIDTH),
    "codes in bytes": (replaced("weight_packed", np.ones((40, 8), np.uint32)), "U32; I32 is expected", MISMATCH),
    "flat codes": (replaced("weight_packed", np.ones(320, np.int32)), "2 dimensions are expected", WIDTH),
    "short map": (replaced("weight_g_idx", np.zeros(63, np.int32)), "63 entries", COMPANION),
    "map beyond": (replaced("weight_g_idx", np.full(64, 2, np.int32)), "names group 2; there are 2", COMPANION),
    "map below": (replaced("weight_g_idx", np.array([-2] + [0] * 63, np.int32)), "names group -2", COMPANION),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_what_does_not_fit_is_one_clear_fault(tmp_path, what):
    spoil, message, rule = SPOILT[what]
    stored = arrays_of(Integers(group=32, offset="integer"))
    spoil(stored)
    place = cases.folder(tmp_path, stored)
    config = settings(symmetric=False)
    with pytest.raises(BrokenFile) as caught:
        place.fold("compressed_tensors", config)
    assert message in str(caught.value)
    assert caught.value.rule == rule
    assert caught.value.fix
    found, faults = place.fold("compressed_tensors", config, strict=False)
    assert not found
    assert [(fault.rule, fault.severity) for fault in faults.found] == [(rule, "error")]


def test_bits_and_strategy_of_the_config_are_held_against_the_arrays(tmp_path):
    place = cases.folder(tmp_path, arrays_of(Integers(group=32)))
    for config, message in (
        (settings(num_bits=8), "64 columns of 8 bits need 16"),
        (settings(group_size=64), "in groups of 64 need 1"),
        (settings(symmetric=False), "has no 'a.weight_zero_point'"),
        (settings(strategy="block", block_structure=[128, 128]), "integers in blocks"),
    ):
        with pytest.raises(BrokenFile, match="weight") as caught:
            place.fold("compressed_tensors", config)
        assert message in str(caught.value)
    place = cases.folder(tmp_path, arrays_of(Integers(8, 0, packed=False)))
    with pytest.raises(BrokenFile, match="16 bits of float"):
        place.fold("compressed_tensors", settings(num_bits=16, type="float"))
    (tensor,) = place.fold("compressed_tensors", settings(num_bits=4, strategy="channel"))[0].values()
    with pytest.raises(BrokenFile, match="a code of 4 bits is"):
        cases.decoded(place, tensor)


def test_width_that_several_bits_fit_needs_a_config(tmp_path):
    place = cases.folder(tmp_path, arrays_of(Integers(3, 0), (4, 8)))
    with pytest.raises(BrokenFile, match="1, 2, 3, 4 bits fit"):
        place.fold("compressed_tensors", {})
    assert place.fold("compressed_tensors", settings(num_bits=3, strategy="channel"))[0]["a.weight"].encoding.bits == 3


def test_groups_of_the_config_go_by_name_pattern_and_class(tmp_path):
    first, second, third = Integers(4, 32), Integers(8, 0, scale="BF16"), Integers(8, 0, packed=False)
    stored = {
        **arrays_of(first, name="layers.0.up.weight"),
        **arrays_of(second, name="layers.0.down.weight"),
        **arrays_of(third, name="layers.1.gate.weight"),
    }
    common = {"type": "int", "symmetric": True}
    config = {
        "format": "pack-quantized",
        "config_groups": {
            "a": {"targets": ["Linear"], "weights": {**common, "num_bits": 4, "group_size": 32}},
            "b": {"targets": ["re:.*down$"], "weights": {**common, "num_bits": 8, "group_size": -1}},
            "c": {"targets": ["layers.1.gate"], "weights": {**common, "num_bits": 8}, "format": "int-quantized"},
        },
        "ignore": ["lm_head", "re:layers.1.*"],
    }  # fmt: skip
    place = cases.folder(tmp_path, stored)
    assert CT.recognises(config, place.arrays())
    found, faults = place.fold("compressed_tensors", config)
    assert [tensor.encoding for tensor in found.values()] == [first, second, third]
    assert not faults.found
    arrays = place.arrays()
    say_what_is_listed(arrays, found.values(), Listed.of("compressed_tensors", config), faults)
    (warning,) = faults.found
    assert (warning.rule, warning.severity, warning.judged) == ("ignore-list-mismatch", "warning", "error")
    assert "layers.1.gate.weight' is quantised, but the config lists it" in warning.message


@pytest.mark.parametrize("pattern", ["(a+)+$", ".*.*.*x", "(?=a)", r"(a)\1", "[", "x{1000}", "a" * 300])
def test_a_pattern_that_may_run_for_years_is_not_tried(tmp_path, pattern):
    place = cases.folder(tmp_path, arrays_of(Integers(4, 32), name="a" * 400 + ".weight"))
    config = settings(ignore=[f"re:{pattern}"], targets=[f"re:{pattern}", "Linear"])
    found, faults = place.fold("compressed_tensors", config)
    assert len(found) == 1
    assert [fault.severity for fault in faults.found] == ["warning", "warning"]
    assert "not tried" in faults.found[0].message


def test_patterns_as_people_write_them_are_tried():
    for pattern, module in (
        (r".*layers\.\d+\.mlp\..*", "model.layers.11.mlp.up_proj"),
        (r"model\.layers\.[0-9]+\.self_attn\.(q|k|v)_proj$", "model.layers.0.self_attn.k_proj"),
        (r".*(self_attn|attention)$", "a.self_attn"),
        ("lm_head", "lm_head"),
        (r"^visual.*", "visual.blocks.0"),
    ):
        known = names([f"re:{pattern}"])
        assert known.match(module), pattern
        assert not known.match(f"other.{module[2:4]}"), pattern


@pytest.mark.parametrize(
    "config",
    [
        {"config_groups": []}, {"config_groups": {"a": 3}}, {"config_groups": {"a": {"weights": [1]}}},
        {"config_groups": {"a": {"targets": 7, "weights": {"num_bits": "4", "group_size": -9, "symmetric": 1}}}},
        {"config_groups": {"W4A16": ["Linear"]}, "ignore": {"a": 1}},
        {"config_groups": {"a": {"targets": ["Linear"], "weights": {"num_bits": 4, "block_structure": [0, 1]}}}},
    ],
)  # fmt: skip
def test_a_config_of_strange_types_says_nothing(tmp_path, config):
    encoding = Integers(4, 32)
    place = cases.folder(tmp_path, arrays_of(encoding))
    found, _ = place.fold("compressed_tensors", {"quant_method": "compressed-tensors", **config})
    assert found["a.weight"].encoding == encoding


def test_who_is_recognised(tmp_path):
    packed = cases.folder(tmp_path, arrays_of(Integers(4, 32))).arrays()
    assert CT.recognises({}, packed)
    assert CT.recognises({"quant_method": "compressed-tensors"}, packed)
    assert not CT.recognises({"quant_method": "gptq"}, packed)
    other = cases.folder(tmp_path, {"a.weight": np.ones((2, 2), np.float32)}).arrays()
    assert not CT.recognises({}, other)


def test_weight_shape_may_be_i32(tmp_path):
    stored = arrays_of(Integers(4, 32))
    stored["a.weight_shape"] = stored["a.weight_shape"].astype(np.int32)
    place = cases.folder(tmp_path, stored)
    arrays = place.arrays()
    (tensor,) = CT.fold(arrays, settings(), cases.Faults())
    assert arrays.probes == ["a.weight_shape"]
    assert tensor.parts[2].whole
    assert tensor.shape == (40, 64)


def described(name, encoding, shape=(64, 256)):
    return Tensor(name, shape, encoding, encoding.parts(name, shape))


def test_the_written_config_is_that_of_llm_compressor():
    floats = [
        Tensor(name, shape, find("bf16"), (Part(name, "BF16", shape),))
        for name, shape in (("model.embed_tokens.weight", (64, 256)), ("lm_head.weight", (64, 256)),
                            ("model.norm.weight", (256,)), ("model.layers.10.mlp.gate.weight", (8, 256)),
                            ("model.layers.2.mlp.gate.weight", (8, 256)))
    ]  # fmt: skip
    linear = [described(f"model.layers.{n}.up.weight", find("compressed-tensors")) for n in range(2)]
    written = CT.settings([*floats, *linear])
    assert written == {
        "quantization_config": {
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 4, "type": "int", "symmetric": True, "group_size": 128, "strategy": "group",
                        "dynamic": False,
                    },
                    "input_activations": None,
                    "output_activations": None,
                    "format": "pack-quantized",
                },
            },
            "format": "pack-quantized",
            "ignore": ["lm_head", "model.layers.2.mlp.gate", "model.layers.10.mlp.gate"],
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "version": "0.20.0",
        }
    }  # fmt: skip


def test_a_written_config_reads_back(tmp_path):
    """Several encodings at once; a quantised embedding is named, for the class Linear does not reach it."""
    encodings = {
        "model.embed_tokens.weight": Integers(8, 0),
        "lm_head.weight": Integers(8, 0),
        "model.layers.0.up.weight": Integers(4, 32),
        "model.layers.1.up.weight": Integers(4, 32),
        "model.layers.2.up.weight": Integers(4, 32),
        "model.layers.0.down.weight": Integers(3, 64, offset="integer", scale="BF16"),
        "model.layers.1.down.weight": Integers(8, 0, 0, packed=False),
    }
    stored = {}
    for name, encoding in encodings.items():
        stored.update(arrays_of(encoding, name=name))
    written = CT.settings([described(name, encoding, (40, 64)) for name, encoding in encodings.items()])
    config = written["quantization_config"]
    assert config["format"] == "mixed-precision"
    assert config["ignore"] == []
    assert config["config_groups"]["group_1"]["targets"] == ["lm_head", "model.embed_tokens"]
    found, faults = cases.folder(tmp_path, stored).fold("compressed_tensors", config)
    assert {name: tensor.encoding for name, tensor in found.items()} == encodings
    assert not faults.found


def test_weight_shape_is_written_as_torch_writes_it():
    assert Integers().constants("a.weight", (3, 256)) == {"a.weight_shape": struct.pack("<qq", 3, 256)}
    assert Integers(packed=False).constants("a.weight", (3, 256)) == {}


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"format": "marlin-24"}, "marlin-24"),
        ({"format": "dense", "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
        ({"transform_config": {"config_groups": {"R4": {"apply": [{"location": "input"}]}}}}, "at run time"),
    ],
)
def test_what_weights_alone_do_not_say_is_refused(tmp_path, config, word):
    place = cases.folder(tmp_path, arrays_of(Integers(4, 32)))
    with pytest.raises(Unsupported, match=word):
        place.fold("compressed_tensors", {**settings(), **config})
    fused = {"transform_config": {"config_groups": {"R1": {"apply": [{"location": "weight_input"}]}, "a": 3}}}
    assert place.fold("compressed_tensors", {**settings(), **fused, "sparsity_config": {}})[0]


@pytest.mark.parametrize("old", [False, True])
def test_seven_bits_of_old_are_as_wide_as_eight_and_told_without_a_config(tmp_path, old):
    encoding = Integers(7 if old else 8, 0)
    stored = arrays_of(encoding, (40, 192))
    if old:
        codes = encoding.codes([a.reshape(-1).view(np.uint8) for a in stored.values()], (40, 192), slice(0, 40)).codes
        stored["a.weight_packed"] = padded_words(codes, 7)
    found, faults = cases.folder(tmp_path, stored).fold("compressed_tensors", {})
    assert (found["a.weight"].encoding.bits, found["a.weight"].encoding.padded) == ((7, True) if old else (8, False))
    assert [fault.severity for fault in faults.found] == ["warning"] * old
    assert not old or "7 or 8 bits" in faults.found[0].message


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("experts.gate_up_proj.weight_packed", {"": np.zeros((3, 16, 16), np.int32)}),
        ("experts.gate_up_proj.weight_packed", {"": np.zeros((3, 16, 64), np.uint8)}),
        ("experts.w2_weight.weight_packed", {"": np.zeros((3, 16, 64), np.uint8)}),
        ("experts.gate_up_proj_packed", {"": np.zeros((3, 16, 16), np.int32), "gate_up_proj_scale": (3, 16, 4)}),
        ("experts.gate_up_proj.weight", {"": np.zeros((3, 16, 32), np.int8), "gate_up_proj.weight_scale": (3, 16, 1)}),
        ("experts.w2_weight", {"": np.zeros((3, 16, 32), np.int8), "w2_weight_scale": (3, 16, 1)}),
        ("experts.w13_weight", {"": np.zeros((16, 32), np.int8), "w13_weight_scale": (16, 1)}),
    ],
)
def test_stacked_experts_are_refused_and_never_taken_for_floats(tmp_path, name, arrays):
    stored = {name: arrays[""]}
    stored |= {f"experts.{key}": np.ones(shape, np.float32) for key, shape in arrays.items() if key}
    with pytest.raises(Unsupported, match=r"several experts in one array") as caught:
        cases.folder(tmp_path, stored).fold("compressed_tensors", settings())
    assert "its own" in caught.value.fix


def test_scales_that_belong_to_no_codes_are_floats(tmp_path):
    """As routers and vision towers have them."""
    stored = {"router.per_expert_scale": np.ones(4, np.float32), "router.per_expert": np.ones(4, np.float32)}
    assert cases.folder(tmp_path, stored).fold("compressed_tensors", settings())[0] == {}
