"""FP8, MXFP and NVFP4 of compressed-tensors, DeepSeek and gpt-oss decoded bit for bit; our rounding beside theirs."""

from __future__ import annotations

import layout_cases as cases
import ml_dtypes
import numpy as np
import pytest
from samples import DATA

from modelkit.encodings import _codes

FLOATS = sorted(p.name for p in (DATA / "golden").glob("ct_*") if p.name.startswith(("ct_float", "ct_mx", "ct_nv")))
SOME = FLOATS or ["ct_nvfp4_bf16"]


def settings(spec):
    group = {"targets": ["Linear"], "weights": spec["args"]}
    return {"quant_method": "compressed-tensors", "format": spec["format"], "config_groups": {"group_0": group}}


def only(place, layout, config):
    found, faults = place.fold(layout, config)
    assert not faults.found
    (tensor,) = found.values()
    return tensor


def narrow(figures, spec):
    return cases.rounded(figures, spec)


@pytest.mark.parametrize("told", [True, False], ids=["with config", "arrays alone"])
@pytest.mark.parametrize("name", SOME)
def test_compressed_tensors_decodes_bit_for_bit(name, told):
    place, spec = cases.golden(name)
    tensor = only(place, "compressed_tensors", settings(spec) if told else {})
    assert (tensor.name, tensor.shape) == ("layer.weight", tuple(spec["shape"]))
    assert tensor.encoding.format == spec["format"]
    found = cases.decoded(place, tensor)
    if spec["format"] == "nvfp4-pack-quantized":  # the library rounds scale / global before the product
        codes = tensor.encoding.codes(place.stored(tensor), tensor.shape, slice(0, tensor.shape[0]))
        table = _codes.small_floats("e2m1")[codes.codes]
        theirs = table * np.repeat(codes.scales / np.float32(codes.divisor), 16, axis=1)
        assert (np.abs(found - theirs) <= 2.0**-23 * np.abs(theirs)).all()
        found = theirs
    assert cases.same(narrow(found, spec), cases.expected(place))


@pytest.mark.parametrize("name", SOME)
def test_rounding_is_the_librarys(name):
    """From the original floats to the stored arrays.

    Powers of two divide without rounding: the MX formats come out bit for bit. Elsewhere the library divides in the
    dtype of the weight (bf16), so that quotients, and the scales of NVFP4, are rounded twice; with its steps repeated
    here its arrays come out, and ours are nearer to the original or as near.
    """
    place, spec = cases.golden(name)
    tensor = only(place, "compressed_tensors", settings(spec))
    encoding, shape = tensor.encoding, tensor.shape
    values, stored = place.raw("__original__"), place.stored(tensor)
    rows = slice(0, shape[0])
    theirs, ours = encoding.codes(stored, shape, rows), encoding.codes(encoding.pack(values), shape, rows)
    if encoding.scale == "E8M0":
        assert [part.tobytes() for part in encoding.pack(values)] == [part.tobytes() for part in stored]
        return
    group = encoding.group or shape[1]
    if encoding.overall == "divisor":
        assert ours.divisor == theirs.divisor
        largest = np.abs(values).reshape(shape[0], -1, group).max(2)
        local = narrow(largest / np.float32(6), spec) * np.float32(theirs.divisor)
        assert cases.same(local.astype(ml_dtypes.float8_e4m3fn).astype(np.float32), theirs.scales)
        by = np.repeat(theirs.scales / np.float32(theirs.divisor), group, axis=1)
        codes = np.clip(values / by, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
        assert np.array_equal(codes, theirs.codes)
        return
    assert cases.same(ours.scales, theirs.scales)
    by = np.repeat(theirs.scales, group, axis=1)[:, : shape[1]]
    twice = np.clip(narrow(values / by, spec), -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    assert np.array_equal(twice, theirs.codes)
    errors = [np.abs(_codes.values(codes).astype(np.float64) - values) for codes in (ours, theirs)]
    assert (errors[0] <= errors[1]).all()


@pytest.mark.parametrize("told", [True, False], ids=["with config", "arrays alone"])
def test_deepseek_decodes_bit_for_bit(told):
    place, spec = cases.golden("deepseek_fp8_block128_256x384")
    tensor = only(place, "fp8", spec["config"] if told else {})
    assert cases.same(cases.rounded(cases.decoded(place, tensor), spec), cases.expected(place))
    assert tensor.encoding.grid.tile == 128


def test_gpt_oss_decodes_bit_for_bit():
    place, spec = cases.golden("gptoss_mxfp4_blocks")
    tensor = only(place, "mxfp4", {"quant_method": "mxfp4"})
    assert (tensor.name, tensor.shape) == ("experts.gate_up_proj", (2, 8, 96))
    found = cases.rounded(cases.decoded(place, tensor), spec)
    assert cases.same(np.ascontiguousarray(found.swapaxes(1, 2)), cases.expected(place))
