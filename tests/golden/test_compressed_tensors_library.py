"""Our files in the hands of compressed-tensors itself, where it is installed: the same values, bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import layout_cases as cases
import numpy as np
import pytest

from modelkit.encodings import _codes, _refitting, find
from modelkit.layouts import LAYOUTS
from modelkit.tensors import Tensor

pytestmark = pytest.mark.reference
CT = LAYOUTS["compressed_tensors"]
WORDS = [
    *(f"bits={bits},group=32,scale={scale}" for bits in range(2, 9) for scale in ("f16", "bf16", "f32")),
    *(f"bits={bits},group=64,symmetric=no,scale=bf16" for bits in (2, 3, 4, 5, 7, 8)),
    "bits=1,group=32", "bits=1,group=32,symmetric=no",
    "bits=4,group=row", "bits=5,group=row,symmetric=no", "bits=8,scales=tensor", "method=mse",
    "format=int-quantized", "format=int-quantized,group=32,symmetric=no", "format=int-quantized,scales=tensor",
    "format=float-quantized", "format=float-quantized,scales=tensor,scale=f32", "format=float-quantized,block=128x128",
    "format=float-quantized,block=100x60",
    "format=mxfp4-pack-quantized", "format=mxfp6-pack-quantized", "format=mxfp8-quantized",
    "format=nvfp4-pack-quantized",
]  # fmt: skip
DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


@pytest.fixture(scope="module")
def library():
    """(compressor of a format, scheme of a config group); skips where the library is not installed."""
    pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    def both(config):
        (scheme,) = QuantizationConfig.model_validate(config).config_groups.values()
        return BaseCompressor.get_value_from_registry(str(scheme.format or config["format"])), scheme

    return both


def loaded(path):
    from safetensors.torch import load_file

    return {name.removeprefix("a."): array for name, array in load_file(path / "model.safetensors").items()}


def as_the_library_rounds(encoding, stored, shape, dtype):
    """Our real values rounded once; NVFP4 rounds scale / global to float32 before."""
    values = encoding.unpack(stored, shape)
    if encoding.grid.overall == "divisor":
        codes = encoding.codes(stored, shape, slice(0, shape[0]))
        scales = np.repeat(codes.scales / np.float32(codes.divisor), 16, axis=1)
        values = _codes.small_floats("e2m1")[codes.codes] * scales
    return values.astype(cases.ROUND[dtype]).astype(np.float32)


@pytest.mark.parametrize("shape", [(96, 256), (40, 192)])
@pytest.mark.parametrize("words", WORDS)
def test_the_library_reads_what_we_write(tmp_path, library, words, shape):
    """Arrays and config of ours, decompressed by its own code."""
    encoding = find(f"compressed-tensors:{words}")
    if encoding.misfit(shape):
        pytest.skip(f"{shape}: {encoding.misfit(shape)}")
    values = np.random.default_rng(5).standard_normal(shape, dtype=np.float32)
    place = cases.of_weight(tmp_path, encoding, values)
    tensor = Tensor("a.weight", shape, encoding, encoding.parts("a.weight", shape))
    compressor, scheme = library(json.loads(json.dumps(CT.settings([tensor])["quantization_config"])))
    found = compressor.decompress(loaded(tmp_path), scheme)["weight"]
    dtype = DTYPES.get(encoding.grid.scale, "bfloat16")
    assert str(found.dtype) == f"torch.{dtype}"
    wanted = as_the_library_rounds(encoding, place.stored(tensor), shape, dtype)
    assert cases.same(found.float().numpy(), wanted)


def arguments(words, encoding):
    """What the library is asked for in the terms of our config."""
    tensor = Tensor("a.weight", (128, 128), encoding, encoding.parts("a.weight", (128, 128)))
    return CT.settings([tensor])["quantization_config"]


@pytest.mark.parametrize("words", WORDS)
def test_we_read_what_the_library_writes(tmp_path, library, words):
    """Its scales, its rounding, its packing; folded and decoded by us."""
    import torch
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
    from safetensors.torch import save_file

    encoding, shape = find(f"compressed-tensors:{words}"), (160, 256)
    config = arguments(words, encoding)
    compressor, scheme = library(config)
    kind = getattr(torch, DTYPES.get(encoding.grid.scale, "bfloat16"))
    weight = torch.from_numpy(np.random.default_rng(6).standard_normal(shape, dtype=np.float32)).to(kind)
    low, high = extremes(torch, weight, encoding.grid)
    overall = None
    if encoding.grid.overall != "none":
        overall = generate_gparam(weight.min().reshape(1).float(), weight.max().reshape(1).float())
    scale, zero = calculate_qparams(low, high, scheme.weights, global_scale=overall)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    if overall is not None:
        state["weight_global_scale"] = overall
    packed = {name: array for name, array in compressor.compress(state, scheme).items() if array is not None}
    wanted = compressor.decompress(dict(packed), scheme)["weight"].float().numpy()
    save_file({f"a.{name}": array.contiguous() for name, array in packed.items()}, tmp_path / "model.safetensors")
    place = cases.Folder(tmp_path)
    found, faults = place.fold("compressed_tensors", config)
    tensor = found["a.weight"]
    assert not faults.found
    assert tensor.encoding == encoding
    assert {part.name for part in tensor.parts} == {part.name for part in encoding.parts("a.weight", shape)}
    values = as_the_library_rounds(encoding, place.stored(tensor), shape, str(kind).removeprefix("torch."))
    assert cases.same(values, wanted)


def extremes(torch, weight, grid):
    """The least and the largest of each group, as its observers give them."""
    rows, columns = weight.shape
    if grid.tile == 0:
        return weight.min().reshape(1), weight.max().reshape(1)
    if grid.tile > 1:
        tall, wide = -(-rows // grid.tile), -(-columns // grid.group)
        padding = (0, wide * grid.group - columns, 0, tall * grid.tile - rows)
        blocks = torch.nn.functional.pad(weight, padding).reshape(tall, grid.tile, wide, grid.group)
        return blocks.amin((1, 3)), blocks.amax((1, 3))
    groups = weight.reshape(rows, -1, grid.group or columns)
    return groups.amin(2), groups.amax(2)


@pytest.mark.parametrize("words", ["bits=4,group=32,scale=bf16", "format=mxfp4-pack-quantized", "bits=8,scale=bf16"])
def test_transformers_loads_a_folder_of_ours(tmp_path, run, stories, library, words):
    """The embedded model, quantised, loaded and decompressed by transformers: its weights are what we decode."""
    transformers = pytest.importorskip("transformers")
    import torch

    out, plain = tmp_path / "out", tmp_path / "plain"
    for target, source, encoding in ((out, stories, f"compressed-tensors:{words}"), (plain, out, "bf16")):
        done = run("convert", source, f"{target}{os.sep}", "--to", encoding)
        assert done.returncode == 0, done.stderr
    assert not done.stdout or Path(plain / "config.json").exists()
    config = transformers.CompressedTensorsConfig(run_compressed=False)
    ours = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.bfloat16).state_dict()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, quantization_config=config, dtype=torch.bfloat16)
    found = theirs.state_dict()
    names = [name for name in ours if name.endswith("proj.weight")]
    assert len(names) == 21
    for name in names:
        assert torch.equal(found[name], ours[name]), name


def test_blocks_are_those_of_its_dequantiser(tmp_path, library):
    """DeepSeek's blocks, the last ones short, as compressed-tensors multiplies them."""
    import torch
    from compressed_tensors.entrypoints.convert.converters import FP8BlockDequantizer
    from safetensors.torch import save_file

    codes = torch.from_numpy(np.random.default_rng(7).standard_normal((300, 200), dtype=np.float32))
    scales = torch.from_numpy(np.random.default_rng(8).random((3, 2), dtype=np.float32))
    arrays = {"a.weight": codes.to(torch.float8_e4m3fn), "a.weight_scale_inv": scales}
    save_file(arrays, tmp_path / "model.safetensors")
    wanted = FP8BlockDequantizer(targets=["a"], dtype=torch.bfloat16).process(dict(arrays))["a.weight"]
    place = cases.Folder(tmp_path)
    (tensor,) = place.fold("fp8", {"quant_method": "fp8"})[0].values()
    found = cases.decoded(place, tensor).astype(cases.ROUND["bfloat16"]).astype(np.float32)
    assert cases.same(found, wanted.float().numpy())


def test_modelopt_becomes_the_arrays_of_its_converter(tmp_path, library):
    import torch
    from compressed_tensors.entrypoints.convert.converters import ModelOptNvfp4Converter
    from safetensors.torch import save_file

    random = np.random.default_rng(9)
    arrays = {
        "a.weight": torch.from_numpy(random.integers(0, 256, (24, 32), np.uint8)),
        "a.weight_scale": torch.from_numpy(random.random((24, 4), dtype=np.float32)).to(torch.float8_e4m3fn),
        "a.weight_scale_2": torch.tensor(0.0123, dtype=torch.float32),
        "a.input_scale": torch.tensor(0.5, dtype=torch.float32),
    }
    save_file(arrays, tmp_path / "model.safetensors")
    wanted = ModelOptNvfp4Converter(targets=["a"]).process(dict(arrays))
    place = cases.Folder(tmp_path)
    (tensor,) = place.fold("modelopt", {})[0].values()
    target = find("compressed-tensors").adopt(tensor.encoding.grid, tensor.shape)
    codes = tensor.encoding.codes(place.stored(tensor), tensor.shape, slice(0, 24))
    parts = [np.zeros(part.size, np.uint8) for part in target.parts("a.weight", tensor.shape)]
    target.place(_refitting.refit(codes, target.grid, tensor.shape), parts, tensor.shape, slice(0, 24))
    for part, data in zip(target.parts("a.weight", tensor.shape), parts, strict=True):
        assert data.tobytes() == wanted[part.name].reshape(-1).view(torch.uint8).numpy().tobytes(), part.name
