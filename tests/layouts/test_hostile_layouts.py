"""Arrays and configs that nobody would write: a fault, or a weight that decodes; never anything else."""

from __future__ import annotations

import layout_cases as cases
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkit.encodings import find
from modelkit.errors import BrokenFile, Unsupported
from modelkit.faults import Faults
from modelkit.layouts import LAYOUTS
from modelkit.tensors import BITS

OURS = ("compressed_tensors", "fp8", "modelopt", "mxfp4")
NAMES = (
    "weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx", "weight_scale_inv",
    "weight_global_scale", "weight_scale_2", "input_scale", "up_blocks", "up_scales",
)  # fmt: skip
DTYPES = ("I8", "U8", "I32", "I64", "F16", "BF16", "F32", "F8_E4M3", "F8_E8M0", "F8_E5M2", "BOOL")
SIDES = st.sampled_from([0, 1, 2, 3, 4, 8, 16, 32, 33, 64])
SHAPES = st.lists(SIDES, max_size=4).map(tuple)
NUMBERS = st.one_of(st.integers(-2, 10), st.sampled_from([16, 32, 64, 128, 2**40]), st.text(max_size=3), st.none())
WEIGHTS = st.fixed_dictionaries(
    {},
    optional={
        "num_bits": NUMBERS,
        "group_size": NUMBERS,
        "type": st.sampled_from(["int", "float", "x", 3]),
        "symmetric": st.sampled_from([True, False, None, 1]),
        "strategy": st.sampled_from(["group", "channel", "tensor", "block", "tensor_group", "y", []]),
        "block_structure": st.one_of(st.lists(NUMBERS, max_size=3), st.just("16x16"), st.none()),
    },
)
ARRAYS = st.dictionaries(st.sampled_from(NAMES), st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=6)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=ARRAYS, weights=WEIGHTS, seed=st.integers(0, 2**32), rows=SIDES, columns=SIDES)
def test_whatever_is_stored_is_a_fault_or_decodes(tmp_path, arrays, weights, seed, rows, columns):
    random = np.random.default_rng(seed)
    stored, dtypes = {}, {}
    for name, (dtype, shape) in arrays.items():
        size = int(np.prod(shape)) * BITS[dtype] // 8
        stored[f"a.{name}"] = Bytes(random.integers(0, 256, size, np.uint8), shape)
        dtypes[f"a.{name}"] = dtype
        if name == "weight_shape" and dtype == "I64" and shape == (2,):
            stored[f"a.{name}"] = Bytes(np.array([rows, columns]).view(np.uint8), shape)
    place = cases.folder(tmp_path, stored, dtypes)
    group = {"targets": ["Linear"], "weights": weights}
    for layout in OURS:
        for config in ({}, {"quant_method": layout, "config_groups": {"g": group}, "weight_block_size": [16, 16]}):
            check(place, layout, config)


class Bytes:
    """Stands for an array of any dtype when a file is made."""

    def __init__(self, data, shape):
        self.data, self.shape, self.nbytes = data, shape, data.nbytes

    def tobytes(self):
        return self.data.tobytes()

    def __array__(self, dtype=None, copy=None):
        return self.data


def check(place, layout, config):
    arrays, faults = place.arrays(), Faults(strict=False)
    LAYOUTS[layout].recognises(config, arrays)
    try:
        tensors = list(LAYOUTS[layout].fold(arrays, config, faults))
    except (BrokenFile, Unsupported):
        return
    for tensor in tensors:
        data = place.stored(tensor)
        try:
            with np.errstate(all="ignore"):
                found = tensor.encoding.unpack(data, tensor.shape)
        except BrokenFile:
            continue
        assert found.shape == tensor.shape
        assert [part.size for part in tensor.parts] == [len(part) for part in data]


BASES = (
    "bits=3,group=16,symmetric=no", "bits=4,group=32", "bits=8,scales=tensor", "format=int-quantized",
    "format=float-quantized,block=16x16", "format=mxfp6-pack-quantized", "format=nvfp4-pack-quantized",
)  # fmt: skip
SAME_WIDTH = {"I32": "F32", "F16": "BF16", "BF16": "F16", "U8": "I8", "I8": "F8_E4M3", "F8_E4M3": "U8", "F32": "I32"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.sampled_from(BASES),
    change=st.sampled_from(["drop", "data", "turn", "shorten", "dtype", "flat"]),
    which=st.integers(0, 3),
    seed=st.integers(0, 2**32),
    weights=st.one_of(st.none(), WEIGHTS),
)
def test_a_good_file_with_one_thing_changed_is_a_fault_or_decodes(tmp_path, words, change, which, seed, weights):
    encoding, shape = find(f"compressed-tensors:{words}"), (24, 96)
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape, dtype=np.float32)
    parts = encoding.parts("a.weight", shape)
    stored = {part.name: Bytes(data, part.shape) for part, data in zip(parts, encoding.pack(values), strict=True)}
    dtypes = {part.name: part.dtype for part in parts}
    name = parts[which % len(parts)].name
    old = stored[name]
    if change == "drop":
        del stored[name]
    elif change == "data":
        stored[name] = Bytes(random.integers(0, 256, old.nbytes, np.uint8), old.shape)
    elif change == "turn":
        stored[name] = Bytes(old.data, old.shape[::-1])
    elif change == "shorten":
        stored[name] = Bytes(
            old.data[: old.nbytes // old.shape[0] * (old.shape[0] - 1)], (old.shape[0] - 1, *old.shape[1:])
        )
    elif change == "dtype":
        dtypes[name] = SAME_WIDTH.get(dtypes[name], dtypes[name])
    else:
        stored[name] = Bytes(old.data, (int(np.prod(old.shape)),))
    place = cases.folder(tmp_path, stored, dtypes)
    config = {} if weights is None else {"config_groups": {"g": {"targets": ["Linear"], "weights": weights}}}
    check(place, "compressed_tensors", config)
