"""Weights that compressed-tensors has packed, kept in the repository: every format, decoded bit for bit."""

from __future__ import annotations

import json

import layout_cases as cases
import numpy as np
import pytest
from samples import ROOT

from modelkit.encodings import _codes

PLACE = ROOT / "fixtures" / "layouts"
CASES = json.loads((PLACE / "compressed_tensors.json").read_text())
STORED = cases.Folder(PLACE, "compressed_tensors.safetensors")


@pytest.mark.parametrize("told", [True, False], ids=["with config", "arrays alone"])
@pytest.mark.parametrize("name", CASES)
def test_the_librarys_arrays_decode_to_the_librarys_values(tmp_path, name, told):
    names = [one for one in STORED.arrays().parts if one.startswith(f"{name}/layer.")]
    dtypes = {one.removeprefix(f"{name}/"): STORED.arrays().parts[one].dtype for one in names}
    place = cases.folder(tmp_path, {one.removeprefix(f"{name}/"): STORED.raw(one) for one in names}, dtypes)
    found, faults = place.fold("compressed_tensors", CASES[name]["config"] if told or name == "fp8_blocks" else {})
    (tensor,) = found.values()
    assert not faults.found
    assert {part.name for part in tensor.parts} == set(dtypes)
    wanted = STORED.raw(f"{name}/expected")
    encoding, stored = tensor.encoding, place.stored(tensor)
    values = encoding.unpack(stored, tensor.shape)
    if encoding.grid.overall == "divisor":  # the library rounds scale / global to float32 first
        codes = encoding.codes(stored, tensor.shape, slice(0, tensor.shape[0]))
        table = _codes.small_floats("e2m1")[codes.codes]
        values = table * np.repeat(codes.scales / np.float32(codes.divisor), 16, axis=1)
    assert cases.same(cases.rounded(values, {"expected_dtype": CASES[name]["dtype"]}), wanted)
    again = [np.zeros_like(part) for part in stored]
    rows = slice(0, tensor.shape[0])
    encoding.place(encoding.codes(stored, tensor.shape, rows), again, tensor.shape, rows)
    literals = encoding.constants(tensor.name, tensor.shape)
    for part, one, other in zip(tensor.parts, stored, again, strict=True):
        assert one.tobytes() == literals.get(part.name, other.tobytes()), part.name
