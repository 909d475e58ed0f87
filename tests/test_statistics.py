"""`inspect --stats`: what it says is what numpy says of the decoded values, whatever they are stored as."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import Run, small_weights

from modelkit import kernels
from modelkit import open as open_model
from modelkit.kernels.arrays import statistics as in_use
from modelkit.kernels.arrays import statistics_in_numpy
from modelkit.operations import statistics as operation
from modelkit.operations.convert import Request, convert
from modelkit.operations.opening import open_model as opening
from modelkit.operations.statistics import statistics


def wanted(values: np.ndarray) -> dict[str, Any]:
    wide = values.astype(np.float64).reshape(-1)
    finite = wide[np.isfinite(wide)]
    known: dict[str, Any] = dict.fromkeys(("min", "max", "mean", "std", "abs_max"))
    if len(finite):
        known = {"min": finite.min(), "max": finite.max(), "mean": finite.mean(), "std": finite.std()}
        known["abs_max"] = np.abs(finite).max()
    counts = {"zeros": int((wide == 0).sum()), "nan": int(np.isnan(wide).sum()), "infinite": int(np.isinf(wide).sum())}
    return {**known, **counts, "values": wide.size}


def agrees(one: operation.Statistics, values: np.ndarray) -> None:
    for key, value in wanted(values).items():
        assert getattr(one, key) == (value if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)), key


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("to", ["f16", "q8_0", "q4_0", "q4_k_m", "f32"])
def test_a_model_in_any_encoding(
    native: bool, to: str, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(Request(str(stories), str(tmp_path / "a.gguf"), to))
    if not native:
        monkeypatch.setattr(kernels, "native", lambda: None)
    opened, model = opening(str(tmp_path / "a.gguf")), open_model(tmp_path / "a.gguf")
    found = statistics(opened, opened.model.tensors)
    assert [one.name for one in found] == list(model)
    for one in found:
        agrees(one, model[one.name].numpy())


def test_what_is_no_number_is_counted_and_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    odd = rng.standard_normal((300, 1001), dtype=np.float32)
    odd[0, :3], odd[299, 5:9], odd[7] = np.nan, [np.inf, -np.inf, np.nan, np.inf], 0
    weights = {
        "odd": odd,
        "half": odd.astype(np.float16),
        "brain": odd.astype(ml_dtypes.bfloat16),
        "all": np.full(5, np.nan, np.float32),
        "none": np.zeros((0, 4), np.float32),
        "same": np.full((4, 5), 0.1, np.float32),
        "wide": np.array([1e300, -1e299, 5e-324]),
        "whole": np.arange(-5, 2**40, 2**36),
        "mask": np.array([True, False, False]),
    }
    save_file(weights, tmp_path / "a.safetensors")
    opened = opening(str(tmp_path / "a.safetensors"))
    for one in statistics(opened, opened.model.tensors):
        if one.name == "wide":
            assert (one.min, one.max, one.std) == (-1e299, 1e300, None)  # its square is beyond f64
        else:
            agrees(one, weights[one.name])
        assert one.name != "same" or one.std == 0


@pytest.mark.parametrize("build", ["plain", "avx2"])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 4095, 4097, 20_011])
def test_the_kernel_equals_numpy(build: str, count: int) -> None:
    extension = pytest.importorskip("modelkit.kernels._native", reason="the C extension is not built")
    before = extension.use()
    try:
        extension.use(build)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        bits = np.random.default_rng(count).integers(0, 2**32, count, np.uint32)
        for x in (bits.view(np.float32), np.ldexp(bits.astype(np.float32), -40), np.zeros(count, np.float32)):
            around = float(x[0]) if count and math.isfinite(x[0]) else 0.0
            found, expected = in_use(x, around), statistics_in_numpy(x, around)
            assert found[:2] == expected[:2] and found[4:] == expected[4:]
            assert found[3] == pytest.approx(expected[3], rel=1e-9)
            assert found[2] == pytest.approx(expected[2], rel=1e-9, abs=1e-9 * math.sqrt(count * expected[3] + 1))
    finally:
        extension.use(before)


def test_the_command(run: Run, tmp_path: Path) -> None:
    weights = small_weights()
    weights["a.weight"][0, 0] = np.nan
    save_file(weights, tmp_path / "a.safetensors")
    done = run("inspect", tmp_path / "a.safetensors", "--stats")
    assert done.returncode == 0 and done.stderr == ""
    head, *rows = [line.split() for line in done.stdout.splitlines()]
    assert head == ["tensor", "encoding", "min", "max", "mean", "std", "abs", "max", "zeros", "NaN", "Inf"]
    assert {row[0]: row[-2:] for row in rows} == {name: ["1" if name == "a.weight" else "0", "0"] for name in weights}
    some = run("inspect", tmp_path / "a.safetensors", "--stats", "--grep", "weight", "--top", 2, "--json")
    document = json.loads(some.stdout)
    assert document["schema_version"] == 1 and document["path"] == str(tmp_path / "a.safetensors")
    assert [one["name"] for one in document["stats"]] == ["a.weight", "b.weight"]
    assert document["stats"][0]["nan"] == 1
    assert document["stats"][1]["mean"] == pytest.approx(float(weights["b.weight"].mean(dtype=np.float64)))


def test_what_cannot_be_decoded_is_said_and_the_exit_code_is_2(run: Run, tmp_path: Path) -> None:
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [8, 12]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    done = run("inspect", tmp_path / "a.safetensors", "--stats")
    assert done.returncode == 2
    assert "not looked at: b:" in done.stdout
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-1])
    assert run("inspect", tmp_path / "a.safetensors", "--stats").returncode == 1


@pytest.mark.parametrize("name", ["checkpoint.npz", "model.bin"])
def test_other_formats(name: str, stories: Path, tmp_path: Path) -> None:
    if name == "model.bin":
        convert(Request(str(stories), str(tmp_path / name), "llama2c:group=64"))
    else:
        np.savez(tmp_path / name, **small_weights(), turned=np.asfortranarray(small_weights()["a.weight"]))
    opened, model = opening(str(tmp_path / name)), open_model(tmp_path / name)
    for one in statistics(opened, opened.model.tensors):
        agrees(one, model[one.name].numpy())


@pytest.mark.parametrize("piece", [3000, operation.PIECE])
@pytest.mark.parametrize("layout", ["gptq", "awq", "mlx", "compressed-tensors"])
def test_layouts(layout: str, piece: int, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows may lie across the parts of a weight, and some of its parts belong to all rows alike."""
    monkeypatch.setattr(operation, "PIECE", piece)
    convert(Request(str(stories), f"{tmp_path}/a/", f"{layout}:group=64,symmetric=no"))
    opened, model = opening(str(tmp_path / "a")), open_model(tmp_path / "a")
    assert any(tensor.encoding.name.startswith(layout.replace("-", "_")) for tensor in opened.model.tensors)
    for one in statistics(opened, opened.model.tensors):
        agrees(one, model[one.name].numpy().astype(np.float32))
