"""Weights packed by compressed-tensors, decoded bit for bit; and our rounding against the library's."""

from __future__ import annotations

import json
from dataclasses import replace

import layout_cases as cases
import ml_dtypes
import numpy as np
import pytest
from samples import DATA

from modelkit.encodings import _codes
from modelkit.encodings._ct_integers import Integers
from modelkit.errors import BrokenFile

INTEGERS = sorted(path.name for path in (DATA / "golden").glob("ct_*") if path.name.startswith(("ct_pack", "ct_int")))
PADDED = sorted(path.name for path in (DATA / "golden").glob("ct_legacy*"))


def settings(spec: dict) -> dict:
    """The config that belongs to a case."""
    form = spec.get("format", "pack-quantized")
    group = {"targets": ["Linear"], "weights": spec["args"]}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


@pytest.mark.parametrize("told", [True, False], ids=["with config", "arrays alone"])
@pytest.mark.parametrize("name", INTEGERS or ["ct_pack_w4_sym_g128_bf16"])
def test_decodes_bit_for_bit(name, told):
    place, spec = cases.golden(name)
    found, faults = place.fold("compressed_tensors", settings(spec) if told else {})
    (tensor,) = found.values()
    assert not faults.found
    assert (tensor.name, tensor.shape) == ("layer.weight", tuple(spec["shape"]))
    encoding = tensor.encoding
    assert isinstance(encoding, Integers)
    assert (encoding.bits, encoding.offset == "middle") == (spec["args"]["num_bits"], spec["args"]["symmetric"])
    assert encoding.padded is False
    assert cases.same(cases.rounded(cases.decoded(place, tensor), spec), cases.expected(place))


@pytest.mark.parametrize("name", PADDED or ["ct_legacy_w3_sym_g64_f16"])
def test_the_old_packing_is_told_by_its_width(name):
    place, spec = cases.golden(name)
    found, faults = place.fold("compressed_tensors", settings(spec))
    (tensor,) = found.values()
    assert tensor.encoding.padded
    (fault,) = faults.found
    assert (fault.rule, fault.severity, fault.judged) == ("old-packing", "warning", "error")
    assert cases.same(cases.rounded(cases.decoded(place, tensor), spec), cases.expected(place))


def test_a_missing_scale_is_named():
    place, _ = cases.golden("ct_neg_missing_scale")
    with pytest.raises(BrokenFile, match=r"'layer\.weight_packed' has no 'layer\.weight_scale'") as caught:
        place.fold("compressed_tensors", {})
    assert caught.value.rule == "missing-companion"


SYMMETRIC = [name for name in INTEGERS if "asym" not in name]


@pytest.mark.parametrize("name", SYMMETRIC or ["ct_pack_w4_sym_g128_bf16"])
def test_symmetric_rounding_is_the_librarys_but_for_its_division(name):
    """Scales come out bit for bit. Codes do where the quotient is rounded as the library rounds it.

    compressed-tensors divides in the dtype of the weight, so that a quotient is rounded twice; modelkit rounds once,
    to the nearest code. With float32 there is no difference.
    """
    _, values, encoding, theirs, kind = judged(name)
    ours = encoding.codes(replace(encoding, method="rtn").pack(values), values.shape, slice(0, len(values)))
    assert cases.same(ours.scales, theirs.scales)
    middle = 2 ** (encoding.bits - 1)
    scales = np.repeat(theirs.scales, encoding.group or values.shape[1], axis=1)
    twice = np.rint((values / scales).astype(kind).astype(np.float32)) + middle
    assert np.array_equal(np.clip(twice, 0, 2 * middle - 1), theirs.codes)
    if kind is np.float32:
        assert np.array_equal(ours.codes, theirs.codes)
    ours_off, theirs_off = (np.abs(_codes.values(one).astype(np.float64) - values) for one in (ours, theirs))
    assert (ours_off <= theirs_off).all()  # no value lies farther away for it


@pytest.mark.parametrize("name", sorted(set(INTEGERS) - set(SYMMETRIC)) or ["ct_pack_w4_asym_g32_bf16"])
def test_asymmetric_rounding_is_the_librarys_but_for_its_steps(name):
    """The library rounds the range, its quotient, the zero and each code to the weight's dtype; modelkit rounds once.

    Its steps, repeated here, give its arrays bit for bit; ours differ by the last bit of a scale, a zero by one.
    """
    _, values, encoding, theirs, kind = judged(name)
    ours = encoding.codes(replace(encoding, method="rtn").pack(values), values.shape, slice(0, len(values)))
    narrow = lambda figures: figures.astype(kind).astype(np.float32)  # noqa: E731
    group, middle = encoding.group or values.shape[1], 2 ** (encoding.bits - 1)
    stretch = values.reshape(len(values), -1, group)
    low, high = np.minimum(stretch.min(2), 0), np.maximum(stretch.max(2), 0)
    scales = narrow(narrow(high - low) / np.float32(2 * middle - 1))
    assert cases.same(scales, theirs.scales)
    zeros = np.rint(np.clip(narrow(-middle - narrow(low / scales)), -middle, middle - 1))
    assert np.array_equal(zeros + middle, theirs.zeros)
    quotients = narrow(stretch / scales[:, :, None])
    codes = np.rint(np.clip(narrow(quotients + zeros[:, :, None]), -middle, middle - 1)) + middle
    assert np.array_equal(codes.reshape(values.shape), theirs.codes)
    assert np.abs(ours.scales / theirs.scales - 1).max() <= ml_dtypes.finfo(kind).eps
    assert np.abs(ours.zeros - theirs.zeros).max() <= 1


def judged(name):
    """A case: its folder, the floats, the encoding, the library's codes, the dtype that it works in."""
    place, spec = cases.golden(name)
    (tensor,) = place.fold("compressed_tensors", settings(spec))[0].values()
    theirs = tensor.encoding.codes(place.stored(tensor), tensor.shape, slice(0, tensor.shape[0]))
    kind = cases.ROUND[spec["dtype"].removeprefix("torch.")]
    return place, place.raw("__original__"), replace(tensor.encoding, method="rtn"), theirs, kind


def test_golden_cases_are_all_looked_at():
    if not (DATA / "golden").is_dir():
        pytest.skip("the shared test data is not there (MODELKIT_SHARED_DATA names it)")
    specs = [json.loads((DATA / "golden" / name / "spec.json").read_text()) for name in INTEGERS]
    assert {spec["format"] for spec in specs} == {"pack-quantized", "int-quantized"}
    assert len(PADDED) >= 2
