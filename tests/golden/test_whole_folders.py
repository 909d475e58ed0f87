"""Folders of every layout, packed by the libraries themselves, converted to floats: the libraries' values, bit for bit.

The weights are those of fixtures/layouts, which every clone has, and the shared golden cases where they are there. Each
becomes a Hugging Face folder of two files with the scales in the other file than the codes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import layout_cases as cases
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from samples import DATA, ROOT, Run

from modelkit.encodings import _codes
from modelkit.operations.convert import Request, convert
from modelkit.operations.opening import open_model
from modelkit.operations.reading import open as open_reading
from modelkit.operations.validate import Request as Validate
from modelkit.operations.validate import validate
from modelkit.tensors import Tensor

PLACE = ROOT / "fixtures" / "layouts"
FIXTURES = {
    **{f"fixture/{name}": one for name, one in json.loads((PLACE / "libraries.json").read_text()).items()},
    **{
        f"fixture/{name}": {**one, "layout": "compressed_tensors", "config": {"quantization_config": one["config"]}}
        for name, one in json.loads((PLACE / "compressed_tensors.json").read_text()).items()
    },
}
FAMILIES = {
    "awq": "awq", "bnb": "bitsandbytes", "ct": "compressed_tensors", "deepseek": "fp8", "gptoss": "mxfp4",
    "gptq": "gptq", "hqq": "hqq", "mlx": "mlx",
}  # fmt: skip
GOLDEN = {
    f"golden/{path.name}": FAMILIES[path.name.partition("_")[0]]
    for path in sorted((DATA / "golden").glob("*_*"))
    if path.name.partition("_")[0] in FAMILIES and "_neg_" not in path.name
}
KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}


@dataclass
class Case:
    layout: str
    config: dict[str, Any]
    stored: cases.Folder
    names: list[str]  # of the stored arrays that belong to the weight
    expected: np.ndarray  # float32
    dtype: str  # in which the library decodes


def case(name: str) -> Case:
    kind, _, short = name.partition("/")
    if kind == "fixture":
        said = FIXTURES[name]
        file = "libraries" if "dtype" not in said else "compressed_tensors"
        stored = cases.Folder(PLACE, f"{file}.safetensors")
        names = [one for one in stored.arrays().parts if one.startswith(f"{short}/") and one != f"{short}/expected"]
        wanted = stored.raw(f"{short}/expected")
        dtype = said.get("dtype") or next(dtype for dtype, kind in KINDS.items() if wanted.dtype == kind)
        return Case(said["layout"], said["config"], stored, names, wanted.astype(np.float32), dtype)
    stored, spec = cases.golden(short)
    names = [one for one in stored.arrays().parts if not one.startswith("__")]
    wanted = cases.expected(stored)
    if short.startswith("gptoss"):
        wanted = np.ascontiguousarray(wanted.swapaxes(1, 2))  # transformers turns each matrix round
    return Case(GOLDEN[name], _config(short, spec), stored, names, wanted, spec["expected_dtype"].rpartition(".")[2])


def _config(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a golden case."""
    family = name.partition("_")[0]
    if family == "mlx":
        return {"quantization": spec["args"], "quantization_config": spec["args"]}
    if family == "ct":
        group = {"targets": ["Linear"], "weights": spec["args"]}
        form = spec.get("format", "pack-quantized")
        found = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}
        return {"quantization_config": found}
    methods = {"bnb": "bitsandbytes", "hqq": "hqq", "gptoss": "mxfp4"}
    return {
        "quantization_config": spec.get("quantization_config")
        or spec.get("config")
        or {"quant_method": methods[family]}
    }


def folder(path: Path, one: Case) -> Path:
    """A model of this weight and a norm: its first array in one file, all that belongs to it in another."""
    path.mkdir()
    renamed = {name: "model.layers.0.mlp." + name.rpartition("/")[2] for name in one.names}
    files = {"model-00001-of-00002.safetensors": one.names[:1], "model-00002-of-00002.safetensors": one.names[1:]}
    parts = one.stored.arrays().parts
    for file, names in files.items():
        arrays = {renamed[name]: one.stored.raw(name) for name in names}
        dtypes = {renamed[name]: parts[name].dtype for name in names}
        if file.startswith("model-00001"):
            arrays["model.norm.weight"] = np.ones(8, np.float16)
        cases.folder(path, arrays, dtypes)
        (path / "model.safetensors").rename(path / file)
    weight_map = {renamed[name]: file for file, names in files.items() for name in names}
    weight_map["model.norm.weight"] = "model-00001-of-00002.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (path / "config.json").write_text(json.dumps({"model_type": "of_tests", **one.config}))
    return path


def in_the_librarys_steps(tensor: Tensor, stored: list[np.ndarray], dtype: str) -> np.ndarray | None:
    """float32 values as a library computes them that rounds on the way; None for those that round once, at the end."""
    encoding, rows = tensor.encoding, slice(0, int(np.prod(tensor.shape[:-1])))
    if encoding.name.startswith("hqq"):
        codes, scales, zeros = encoding.stored(stored, tensor.shape, rows)
        return narrow(narrow(codes.astype(np.float32) - zeros, dtype) * scales, dtype)
    if encoding.name.startswith("mlx:bits"):
        codes = replace(encoding, offset="float").codes(stored, tensor.shape, rows)
        scales, biases = (_codes.spread(one, codes, tensor.shape[-1]) for one in (codes.scales, codes.biases))
        return narrow(narrow(codes.codes * scales, dtype) + biases, dtype)
    if getattr(encoding, "overall", "none") == "divisor":
        codes = encoding.codes(stored, tensor.shape, rows)
        scales = np.repeat(codes.scales / np.float32(codes.divisor), 16, 1)
        return narrow(_codes.small_floats("e2m1")[codes.codes] * scales, dtype)
    return None


def narrow(figures: np.ndarray, dtype: str) -> np.ndarray:
    return figures.astype(KINDS[dtype]).astype(np.float32)


@pytest.mark.parametrize("name", [*FIXTURES, *GOLDEN])
def test_a_folder_becomes_the_librarys_floats(name: str, tmp_path: Path) -> None:
    check(name, case(name), tmp_path)


def check(name: str, one: Case, place: Path) -> None:
    """Convert it to f32, and to the dtype in which the library decodes."""
    source = folder(place / "model", one)
    opened = open_model(source)
    assert opened.layout == one.layout
    (tensor,) = (tensor for tensor in opened.model.tensors if tensor.encoding.kind == "quantised")
    beside = {name.rpartition("/")[2] for name in one.names} - {
        part.name.rpartition("mlp.")[2] for part in tensor.parts
    }
    assert beside <= {"layer.input_global_scale", "layer.input_scale", "layer.bias"}
    result = convert(Request(str(source), f"{place}/exact/", "f32"))
    assert {verdict.verdict for verdict in result.verdicts} == {"EXACT"}
    exact = load_file(place / "exact" / "model.safetensors")
    bias = {name for name in ("model.layers.0.mlp.layer.bias",) if name in opened.model.spans}
    assert set(exact) == {tensor.name, "model.norm.weight", *bias}  # nothing of the layout is left behind
    steps = in_the_librarys_steps(tensor, open_reading(source)[tensor.name].stored(), one.dtype)
    if steps is not None:
        assert cases.same(steps, one.expected)
        unit = 2.0 ** (2 - _codes.MANTISSA[SHORT[one.dtype].upper()])
        assert np.abs(exact[tensor.name] - steps).max() <= unit * np.abs(steps).max()
        return
    convert(Request(str(source), f"{place}/out/", SHORT[one.dtype]))
    found = load_file(place / "out" / "model.safetensors")[tensor.name]
    assert found.dtype == KINDS[one.dtype]
    if "bnb_fp4" in name:  # its code for CPUs gives one of the two zeros of fp4 a sign that the stored table has not
        one.expected += np.float32(0)
    assert cases.same(found.astype(np.float32), one.expected)
    assert cases.same(exact[tensor.name].astype(KINDS[one.dtype]).astype(np.float32), one.expected)


@pytest.mark.parametrize("name", [*FIXTURES, *GOLDEN])
def test_validate_has_nothing_against_it(name: str, tmp_path: Path) -> None:
    """But for the packing of old, which the library that wrote it reads no more."""
    found = validate(Validate((str(folder(tmp_path / "model", case(name))),), "full")).findings
    wrong = {one.rule for one in found if one.severity != "info"}
    assert wrong == ({"old-packing"} if "legacy" in name else set()), [one.message for one in found]


def test_the_fixtures_are_of_every_layout() -> None:
    assert {one["layout"] for one in FIXTURES.values()} == {
        "awq", "bitsandbytes", "compressed_tensors", "fp8", "gptq", "hqq", "mlx", "modelopt", "mxfp4",
    }  # fmt: skip


def test_the_command_line_reads_them_too(tmp_path: Path, run: Run) -> None:
    one = case("fixture/bnb_nf4_nested")
    source = folder(tmp_path / "model", one)
    done = run("convert", source, f"{tmp_path}/out/", "--to", "bf16")
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.layer.weight"]
    assert cases.same(found.astype(np.float32), one.expected)


MAKERS = {
    "gptq": "gptqmodel", "awq": "awq", "mlx": "mlx", "bitsandbytes": "bitsandbytes", "hqq": "hqq",
    "floats": "compressed_tensors",
}  # fmt: skip


@pytest.mark.reference
@pytest.mark.parametrize("maker", MAKERS)
def test_what_an_installed_library_packs_now_is_read_as_it_reads_it(maker: str, tmp_path: Path) -> None:
    """Other weights than those of the fixtures, packed and decoded on the spot by the script that made these."""
    torch = pytest.importorskip("torch")
    if find_spec(MAKERS[maker]) is None:
        pytest.skip(f"{MAKERS[maker]} is not installed")
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == MAKERS[maker]}
    spec = spec_from_file_location("make_libraries", PLACE / "make_libraries.py")
    assert spec is not None and spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    torch.manual_seed(1000)
    try:
        getattr(script, maker)()
    except ImportError as error:
        pytest.skip(f"{MAKERS[maker]} lacks a package: {error}")
    finally:
        if maker == "awq":  # loaded without what the package loads first
            for name in [name for name in sys.modules if name.partition(".")[0] == "awq"]:
                del sys.modules[name]
            sys.modules.update(before)
    assert script.CASES
    for name, said in script.CASES.items():
        stored = {
            key.removeprefix(f"{name}/"): array for key, array in script.ARRAYS.items() if key.startswith(f"{name}/")
        }
        wanted = stored.pop("expected")
        place = tmp_path / name
        place.mkdir()
        script.save_file(stored, place / "stored.safetensors")
        dtype = str(wanted.dtype).removeprefix("torch.")
        folder_of = cases.Folder(place, "stored.safetensors")
        check(name, Case(said["layout"], said["config"], folder_of, list(stored), wanted.float().numpy(), dtype), place)
