"""GPTQ: golden cases, the version that the data say, damage, and codes that come back as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_arrays import RULES, case, cases, copied, data, dense, expected, folded, parts_of, saved, values

from modelkit.encodings import find
from modelkit.encodings.gptq import Gptq
from modelkit.errors import BadRequest, BadValue, BrokenFile, Unsupported
from modelkit.layouts import LAYOUTS
from modelkit.layouts._gptq_zeros import wrapped
from modelkit.tensors import Codes, Grid

GROUP = 32


def stored(
    bits: int = 4, version: str = "v1", *, symmetric: bool = False, shape: tuple[int, int] = (64, 96), seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays of a weight `m` and its values, packed bit by bit."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    weights = rng.standard_normal((rows, columns)).astype(np.float32)
    grouped = weights.reshape(rows, -1, GROUP)
    low, high = grouped.min(2), grouped.max(2)
    top = 2**bits - 1
    if symmetric:
        scales = (np.maximum(-low, high) * 2 / top).astype(np.float16).astype(np.float32)
        zeros = np.full(low.shape, 2 ** (bits - 1))
    else:
        scales = ((high - low) / top).astype(np.float16).astype(np.float32)
        zeros = np.clip(np.rint(-low / scales), 0, top)
    codes = np.clip(np.rint(grouped / scales[:, :, None]) + zeros[:, :, None], 0, top)
    real = ((codes - zeros[:, :, None]) * scales[:, :, None]).astype(np.float32).reshape(rows, columns)
    fields = (zeros - (version == "v1")) % 2**bits
    arrays = {
        "m.qweight": dense(codes.reshape(rows, columns), bits).T.view(np.int32),
        "m.qzeros": dense(fields.T, bits).view(np.int32),
        "m.scales": scales.T.astype(np.float16),
        "m.g_idx": (np.arange(columns) // GROUP).astype(np.int32),
    }
    return arrays, real


def config(**more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False, **more}


@pytest.mark.parametrize("name", [name for name in cases("gptq") if "_neg_" not in name])
def test_golden_cases_are_what_the_library_reads(name: str) -> None:
    arrays, spec = case(name)
    assert LAYOUTS["gptq"].recognises(spec["quantization_config"], arrays)
    (tensor,), faults = folded("gptq", arrays, spec["quantization_config"])
    assert np.array_equal(values(arrays, tensor), expected(arrays))
    assert [fault.rule for fault in faults.found] in ([], ["gptq-zero-convention"])  # a zero of 0 among the asymmetric
    assert all("stores a zero of 0" in fault.message for fault in faults.found)
    encoding = tensor.encoding
    if not encoding.mapped and not encoding.planar:  # what is written too
        parts = parts_of(arrays, tensor)
        assert copied(encoding, parts, tensor.shape) == [part.tobytes() for part in parts]


@pytest.mark.parametrize("name", [name for name in cases("gptq") if "_neg_" in name])
def test_golden_damage_is_refused(name: str) -> None:
    arrays, spec = case(name)
    with pytest.raises(BrokenFile):
        folded("gptq", arrays, spec["quantization_config"])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("labelled", ["gptq", "gptq_v2"])
def test_the_data_say_which_version_it_is(tmp_path, bits, version, symmetric, labelled) -> None:
    made, real = stored(bits, version, symmetric=symmetric)
    arrays = saved(tmp_path, made)
    (tensor,), faults = folded("gptq", arrays, config(bits=bits, sym=symmetric, checkpoint_format=labelled))
    assert np.array_equal(values(arrays, tensor), real)
    assert tensor.encoding.offset == ("middle" if symmetric else "integer")
    warned = any("the data are believed" in fault.message for fault in faults.found)
    assert warned == (labelled != {"v1": "gptq", "v2": "gptq_v2"}[version])
    assert {fault.severity for fault in faults.found} <= {"warning"}
    assert {fault.rule for fault in faults.found} <= {"gptq-zero-convention"}


def test_nothing_said_means_that_shapes_and_data_say_it(tmp_path) -> None:
    made, real = stored(8, "v2")
    arrays = saved(tmp_path, made)
    assert LAYOUTS["gptq"].recognises({}, arrays)
    (tensor,), _ = folded("gptq", arrays, {})
    assert tensor.encoding == Gptq(8, GROUP, offset="integer", zeros="v2")
    assert np.array_equal(values(arrays, tensor), real)


def test_older_names_of_the_settings_are_understood(tmp_path) -> None:
    made, real = stored()
    arrays = saved(tmp_path, made)
    for words in ({"w_bit": 4, "q_group_size": GROUP, "zero_point": True}, {"wbits": 4, "groupsize": GROUP}):
        (tensor,), _ = folded("gptq", arrays, words)
        assert np.array_equal(values(arrays, tensor), real)


def test_a_group_for_the_whole_row(tmp_path) -> None:
    made, real = stored(shape=(64, GROUP))
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("gptq", arrays, config(group_size=-1))
    assert tensor.encoding.group == 0
    assert np.array_equal(values(arrays, tensor), real)


def test_act_order_is_read_by_its_map_and_not_written(tmp_path) -> None:
    made, real = stored()
    order = np.random.default_rng(1).permutation(96)
    made["m.qweight"] = dense(unpacked(made["m.qweight"])[:, order], 4).T.view(np.int32)
    made["m.g_idx"] = made["m.g_idx"][order]
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("gptq", arrays, config(desc_act=True))
    assert tensor.encoding.mapped
    assert np.array_equal(values(arrays, tensor), real[:, order])
    with pytest.raises(Unsupported, match="not written"):
        tensor.encoding.pack(real)
    assert "act-order" in Gptq().adopt(tensor.encoding.grid, tensor.shape)


def unpacked(qweight: np.ndarray) -> np.ndarray:
    nibbles = np.ascontiguousarray(qweight.T).view(np.uint8)
    return np.stack([nibbles & 15, nibbles >> 4], 2).reshape(len(nibbles), -1)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_planes_hold_the_codes_bit_for_bit(bits) -> None:
    """The planes of 32 codes, from low to high: 4 bits, then 2, then 1, each dense in its own words."""
    codes = np.random.default_rng(bits).integers(0, 2**bits, (32, 64), np.uint8)
    widths = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}[bits]
    runs = []
    for run in (codes[:, :32], codes[:, 32:]):
        low = 0
        for width in widths:
            runs.append(dense(run >> low & 2**width - 1, width))
            low += width
    encoding = Gptq(bits, 32, zeros="v2", planar=True)
    zeros = np.concatenate(
        [dense(np.full((2, 32), 2 ** (bits - 1) >> low & 2**w - 1), w) for low, w in lows(widths)], 1
    )
    scales = np.ones((2, 32), np.float16)
    parts = [np.concatenate(runs, 1).T, zeros, scales, np.zeros(64, np.int32)]
    flat = [np.frombuffer(part.tobytes(), np.uint8) for part in parts]
    assert [part.nbytes for part in parts] == [part.size for part in encoding.parts("m.weight", (32, 64))]
    found = encoding.codes(flat, (32, 64), slice(3, 20))
    assert np.array_equal(found.codes, codes[3:20])


def lows(widths: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(sum(widths[:place]), width) for place, width in enumerate(widths)]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda a: a.pop("m.g_idx"), "has no g_idx"),
        (lambda a: a.pop("m.qzeros"), "has no qzeros"),
        (lambda a: a.pop("m.scales"), "has no scales"),
        (lambda a: a.update({"m.qzeros": a["m.qzeros"][:, :-1]}), r"qzeros' is I32 \[3, 7\]"),
        (lambda a: a.update({"m.scales": a["m.scales"][:-1]}), "2 groups of 96 columns"),
        (lambda a: a.update({"m.scales": a["m.scales"][:, :-1]}), r"scales' is F16 \[3, 63\]"),
        (lambda a: a.update({"m.scales": a["m.scales"].astype(np.int16)}), "is I16"),
        (lambda a: a.update({"m.qweight": a["m.qweight"][:-1]}), "has 11 words for 96 codes of 4 bits, which fill 12"),
        (lambda a: a.update({"m.qweight": a["m.qweight"].reshape(-1)}), "has 1 axes"),
        (lambda a: a.update({"m.g_idx": a["m.g_idx"][:-1]}), "has 12 words for 95 codes"),
        (lambda a: a.update({"m.g_idx": a["m.g_idx"][::-1] + np.int32(1)}), "names group 3, but there are 3"),
        (lambda a: a.update({"m.g_idx": a["m.g_idx"] - np.int32(1)}), "names group -1"),
    ],
)
def test_damage_is_told_with_what_is_wrong(tmp_path, damage, told) -> None:
    made, _ = stored()
    damage(made)
    with pytest.raises(BrokenFile, match=told) as caught:
        folded("gptq", saved(tmp_path, made), config())
    assert caught.value.rule in RULES
    assert caught.value.fix


WRONG = [{"bits": 8}, {"bits": 3}, {"bits": 5}, {"bits": 0}, {"group_size": 64}, {"group_size": 0}]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_config_that_the_shapes_contradict_is_refused(tmp_path, wrong) -> None:
    made, _ = stored()
    with pytest.raises(BrokenFile, match=r"expected|has 12 words|config says"):
        folded("gptq", saved(tmp_path, made), config(**wrong))


def test_zeros_that_differ_behind_the_probe_are_found_when_they_are_read(tmp_path) -> None:
    made, _ = stored(symmetric=True, shape=(1024, 512))
    made["m.qzeros"] = made["m.qzeros"].copy()
    made["m.qzeros"][-1, -1] = 0x77777776
    arrays = saved(tmp_path, made)
    (tensor,), _ = folded("gptq", arrays, config(sym=True))
    assert tensor.encoding.offset == "middle"
    with pytest.raises(BrokenFile, match="a zero is 7 where") as caught:
        values(arrays, tensor)
    assert caught.value.rule == "gptq-zero-convention"
    (tensor,), _ = folded("gptq", arrays, config(sym=False))
    assert tensor.encoding.offset == "integer"


def test_a_map_that_points_outside_is_refused_where_it_is_used() -> None:
    encoding = Gptq(4, 32, mapped=True)
    parts = [np.zeros(part.size, np.uint8) for part in encoding.parts("m.weight", (32, 64))]
    parts[1][:] = 0x77
    parts[3] = np.frombuffer(np.full(64, 2, "<i4").tobytes(), np.uint8)
    with pytest.raises(BrokenFile, match="group 2, but there are 2"):
        encoding.codes(parts, (32, 64), slice(0, 32))


@given(
    bits=st.sampled_from([2, 3, 4, 8]), groups=st.integers(1, 3), blocks=st.integers(1, 3),
    symmetric=st.booleans(), version=st.sampled_from(["v1", "v2"]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=60)
def test_codes_come_back_as_they_were_placed(bits, groups, blocks, symmetric, version, seed) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = 32 * blocks, 64 * groups
    encoding = Gptq(bits, 64, offset="middle" if symmetric else "integer", zeros=version)
    scales = rng.standard_normal((rows, groups)).astype(np.float16).astype(np.float32)
    zeros = None if symmetric else rng.integers(0, 2**bits, (rows, groups)).astype(np.int16)
    codes = Codes(encoding.grid, rng.integers(0, 2**bits, (rows, columns), np.uint8), scales, zeros)
    parts = [np.zeros(part.size, np.uint8) for part in encoding.parts("m.weight", (rows, columns))]
    encoding.place(codes, parts, (rows, columns), slice(0, rows))
    found = encoding.codes(parts, (rows, columns), slice(0, rows))
    assert np.array_equal(found.codes, codes.codes)
    assert np.array_equal(found.scales, scales)
    assert symmetric or np.array_equal(found.zeros, zeros)
    literal = encoding.constants("m.weight", (rows, columns))
    parts[3] = np.frombuffer(literal["m.g_idx"], np.uint8)
    assert copied(encoding, parts, (rows, columns)) == [part.tobytes() for part in parts]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_zeros_of_0_are_counted_in_version_1(bits) -> None:
    encoding, shape = Gptq(bits, 32, offset="integer"), (64, 96)
    zeros = np.random.default_rng(bits).integers(1, 2**bits, (64, 3)).astype(np.int16)
    zeros[[0, 31, 32, 63], [0, 1, 2, 0]] = 0
    codes = Codes(encoding.grid, np.zeros(shape, np.uint8), np.ones((64, 3), np.float32), zeros)
    parts = [np.zeros(part.size, np.uint8) for part in encoding.parts("m.weight", shape)]
    encoding.place(codes, parts, shape, slice(0, 64))
    assert wrapped(parts[1], encoding, 64, 3) == 4


def test_a_scale_that_f16_does_not_hold_is_refused() -> None:
    encoding = Gptq(4, 32)
    codes = Codes(encoding.grid, np.zeros((32, 32), np.uint8), np.full((32, 1), 1e6, np.float32))
    parts = [np.zeros(part.size, np.uint8) for part in encoding.parts("m.weight", (32, 32))]
    with pytest.raises(BadValue, match="1e\\+06"):
        encoding.place(codes, parts, (32, 32), slice(0, 32))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("offset", ["middle", "integer"])
@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_floats_are_packed_to_within_half_a_step(bits, offset, method) -> None:
    encoding = Gptq(bits, 32, offset=offset, method=method)
    weights = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    parts = [np.frombuffer(part.tobytes(), np.uint8) for part in encoding.pack(weights)]
    found = encoding.unpack(parts, weights.shape)
    step = np.repeat(np.abs(encoding.codes(parts, weights.shape, slice(0, 64)).scales), 32, axis=1)
    if method == "rtn":
        assert (np.abs(found - weights) <= step * 1.01 + 1e-3).all()
    assert np.square(found - weights).mean() < np.square(weights).mean() * {2: 0.4, 3: 0.1, 4: 0.02, 8: 1e-4}[bits]


def test_names_are_words_that_mean_the_same_encoding() -> None:
    assert find("gptq") == Gptq()
    assert find("gptq:bits=8,group=row,symmetric=no") == Gptq(8, 0, offset="integer")
    assert find("gptq:method=rtn").method == "rtn"
    for one in (Gptq(3, 64, "BF16", "integer", "v2"), Gptq(5, 0, planar=True, mapped=True), Gptq(method="rtn")):
        assert find(one.name) == one
        assert find(one.name).name == one.name
    for wrong in (
        "gptq:bits=x",
        "gptq:zero=1",
        "gptq:symmetric=maybe",
        "gptq:group=-1",
        "gptq:bits",
        "gptq:bits=4,bits=4",
    ):
        with pytest.raises(BadRequest):
            find(wrong)


@pytest.mark.parametrize(
    ("grid", "shape", "answer"),
    [
        (Grid(4, 128, "BF16"), (64, 256), Gptq(4, 128)),
        (Grid(4, 32, "F16", "float"), (64, 256), Gptq(4, 32, offset="integer")),
        (Grid(8, 0, "F32", "integer"), (64, 256), Gptq(8, 0, offset="integer")),
        (Grid(5, 32, "F16"), (64, 256), "not 5"),
        (Grid(4, 32, "F8_E8M0", number="e2m1"), (64, 256), "integer codes"),
        (Grid(4, 128, "F32", tile=128), (64, 256), "within a row"),
        (Grid(4, 128, "F16"), (64, 576), "groups of 64 or 32 do"),
        (Grid(4, 32, "F16"), (24, 64), "no multiples of 32"),
    ],
)
def test_what_it_takes_of_other_grids(grid, shape, answer) -> None:
    found = Gptq(method="rtn").adopt(grid, shape)
    assert found == answer if isinstance(answer, Gptq) else answer in found


def test_written_settings_describe_the_written_weights(tmp_path: Path) -> None:
    wide, small = Gptq(4, 64), Gptq(8, 64, offset="integer")
    shape = (64, 128)
    f32 = find("f32")
    from modelkit.tensors import Tensor

    def tensor(name, encoding):
        return Tensor(name, shape, encoding, encoding.parts(name, shape))

    every = [tensor("a.weight", wide), tensor("b.weight", wide), tensor("c.weight", small), tensor("d.weight", f32),
             tensor("model.embed_tokens.weight", f32)]  # fmt: skip
    found = json.loads(json.dumps(LAYOUTS["gptq"].settings(every)))["quantization_config"]
    assert (found["bits"], found["group_size"], found["sym"], found["desc_act"]) == (4, 64, True, False)
    assert (found["quant_method"], found["checkpoint_format"], found["lm_head"]) == ("gptq", "gptq", False)
    assert found["dynamic"] == {"+:^c$": {"bits": 8, "group_size": 64, "sym": False}, "-:^d$": {}}
    assert "dynamic" not in LAYOUTS["gptq"].settings(every[:2])["quantization_config"]


def test_weights_with_numbers_of_their_own_are_read_by_their_shapes(tmp_path) -> None:
    one, first = stored(4)
    other, second = stored(8, seed=1)
    arrays = saved(tmp_path, {**one, **{name.replace("m.", "n."): array for name, array in other.items()}})
    found, _ = folded("gptq", arrays, config(dynamic={"+:n": {"bits": 8}}))
    assert {tensor.name: tensor.encoding.bits for tensor in found} == {"m.weight": 4, "n.weight": 8}
    for tensor in found:
        assert np.array_equal(values(arrays, tensor), first if tensor.name == "m.weight" else second)
    with pytest.raises(BrokenFile):
        folded("gptq", arrays, config())
    assert data(arrays, "m.g_idx").nbytes == 384


@pytest.mark.parametrize(
    ("dynamic", "warned"),
    [
        ({r"+:^m$": {"sym": False}}, False),
        ({r".*": {"sym": False}}, False),
        ({r"+:m": {"bits": 4}, r".*": {"sym": False}}, True),  # the first one counts, and says nothing of zeros
        ({r"+:^other$": {"sym": False}}, True),
        ({r"+:(m+)+": {"sym": False}}, True),  # a pattern that may take years is not tried
        ({r"+:^m$": {"sym": "no"}}, True),
        ({r"+:^m$": None, "-:^x$": 3}, True),
    ],
)
def test_single_modules_may_have_zeros_of_their_own(tmp_path: Path, dynamic: dict[str, Any], warned: bool) -> None:
    made, real = stored(symmetric=False)
    arrays = saved(tmp_path, made)
    (tensor,), faults = folded("gptq", arrays, config(sym=True, dynamic=dynamic))
    assert np.array_equal(values(arrays, tensor), real)
    told = [fault for fault in faults.found if "the config says symmetric" in fault.message]
    assert [fault.fix for fault in told] == (["set sym to false in dynamic, for 'm'"] if warned else [])
