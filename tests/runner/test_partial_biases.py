"""A Llama in GGUF with biases on q, k and v and none on the output, as converters of Qwen's forerunners wrote it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ml_dtypes  # noqa: F401 - numpy knows bfloat16 by it
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from modelkit.errors import BrokenFile, Unsupported
from modelkit.formats import gguf
from modelkit.operations.convert import Request, convert
from modelkit.operations.opening import open_model
from modelkit.operations.run import Request as RunRequest
from modelkit.operations.run import prepare, write_logits
from modelkit.operations.validate import Request as ValidateRequest
from modelkit.operations.validate import validate
from modelkit.tensors import Model


@pytest.fixture
def whole(stories: Path, tmp_path: Path) -> Path:
    """The story model with biases everywhere in attention; those of the output are 0."""
    folder = tmp_path / "whole"
    shutil.copytree(stories, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_bias": True}))
    weights, chance = load_file(folder / "model.safetensors"), np.random.default_rng(0)
    for name in [name for name in weights if "self_attn" in name]:
        rows = len(weights[name])
        bias = np.zeros(rows) if "o_proj" in name else chance.standard_normal(rows)
        weights[name.replace(".weight", ".bias")] = bias.astype(np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    convert(Request(str(folder), str(tmp_path / "whole.gguf"), "f32"))
    return tmp_path / "whole.gguf"


def without(source: Path, target: Path, ending: str) -> Path:
    """The same GGUF less the tensors of an ending, and less the config.json that it keeps."""
    opened = open_model(source)
    kept = tuple(tensor for tensor in opened.model.tensors if not tensor.name.endswith(ending))
    keys = {
        k: v for k, v in gguf.carried(opened.model.metadata, opened.opener).items() if "huggingface.config" not in k
    }
    layout = gguf.layout(Model(kept, {}, keys), target.name)
    data = bytearray(layout.files[0].size)
    for start, literal in layout.files[0].literals:
        data[start : start + len(literal)] = literal
    for name, place in layout.model.spans.items():
        span = opened.model.spans[name]
        data[place.start : place.end] = opened.opener.open(span.file).read(span.start, span.size)
    target.write_bytes(data)
    return target


def logits(model: Path, folder: Path) -> np.ndarray:
    np.save(folder / "ids.npy", np.arange(40))
    request = RunRequest(str(model), tokens_file=str(folder / "ids.npy"), logits=str(folder / "out.npy"))
    write_logits(prepare(request))
    return np.load(folder / "out.npy")


def test_it_computes_what_zero_biases_compute(whole: Path, tmp_path: Path) -> None:
    part = without(whole, tmp_path / "part.gguf", "attn_output.bias")
    assert np.array_equal(logits(part, tmp_path), logits(whole, tmp_path))
    assert not np.array_equal(logits(without(part, tmp_path / "none.gguf", ".bias"), tmp_path), logits(part, tmp_path))
    assert validate(ValidateRequest((str(part),))).exit_code == 0
    convert(Request(str(part), str(tmp_path / "q8.gguf"), "q8_0"))


def test_what_no_config_can_say_is_refused(whole: Path, tmp_path: Path) -> None:
    part = without(whole, tmp_path / "part.gguf", "attn_output.bias")
    with pytest.raises(Unsupported, match="q, k and v have biases and output none"):
        convert(Request(str(part), f"{tmp_path}/out/"))
    some = whole
    for name in "qkv":
        some = without(some, tmp_path / f"{name}.gguf", f"attn_{name}.bias")
    with pytest.raises(Unsupported, match="output have biases and q, k and v none"):
        convert(Request(str(some), f"{tmp_path}/out/"))
    assert not (tmp_path / "out").exists()


def test_one_bias_that_is_missing_is_still_missed(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenFile, match=r"attn_v\.bias' is missing"):
        logits(without(whole, tmp_path / "part.gguf", "blk.1.attn_v.bias"), tmp_path)
