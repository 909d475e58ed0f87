"""The Python API: open a model, look, read values as the reference libraries read them."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import ROOT, small_weights

import modelkit
from modelkit.errors import BadRequest
from modelkit.operations import reading


def test_the_docstrings_tell_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for module in (modelkit, reading):
        result = doctest.testmod(module)
        assert result.attempted >= 3
        assert result.failed == 0


def test_importing_costs_nothing() -> None:
    code = "import sys, modelkit; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "click", "rich", "safetensors"} & set(found)


def test_values_are_those_that_were_saved(tmp_path: Path) -> None:
    weights = small_weights()
    weights |= {"half": weights["a.weight"].astype(np.float16), "brain": weights["a.weight"].astype(ml_dtypes.bfloat16)}
    weights |= {"mask": np.array([True, False, True]), "none": np.zeros((0, 4), np.float32), "one": np.float32(3.0)}
    save_file({name: np.asarray(value) for name, value in weights.items()}, tmp_path / "a.safetensors")
    model = modelkit.open(tmp_path / "a.safetensors")
    assert set(model) == weights.keys()
    for name, value in weights.items():
        found = model[name].numpy()
        assert found.dtype == np.asarray(value).dtype
        assert found.shape == np.shape(value)
        assert np.array_equal(found, value)


@pytest.mark.parametrize("to", ["q8_0", "pure:q5_1", "f16"])
def test_decoded_values_are_those_of_the_gguf_package(stories: Path, tmp_path: Path, to: str) -> None:
    modelkit.convert(stories, tmp_path / "a.gguf", to)
    model = modelkit.open(tmp_path / "a.gguf")
    for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors:
        wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        mine = model[tensor.name]
        assert np.array_equal(mine.numpy().astype(np.float32), wanted.reshape(mine.shape))
        assert np.array_equal(mine.rows(3, 5), wanted.reshape(mine.shape)[3:8])


def test_rows_that_are_not_there_are_refused(stories: Path) -> None:
    model = modelkit.open(stories)
    with pytest.raises(BadRequest, match="no rows 500 to 600"):
        model["model.embed_tokens.weight"].rows(500, 100)
    with pytest.raises(KeyError):
        model["absent"]
