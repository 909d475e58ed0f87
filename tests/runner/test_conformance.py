"""The shared conformance cases: logits of transformers in float32, in one pass and replayed through the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelkit.operations.convert import Request, convert
from modelkit.operations.runnable import runnable
from modelkit.runner.decoder import Decoder

CASES = (
    "llama_gqa_tied", "llama_gqa_llama3rope", "llama_yarn_rope", "llama_bias", "llama_bf16_sharded", "llama_v4cfg", "mistral_swa",
    "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "phi3_longrope",
)  # fmt: skip
LIMIT = 1e-5  # of the largest logit


def decoder(path: Path, length: int, keep: int = 1 << 30) -> Decoder:
    model = runnable(path)
    return Decoder(model.weights(keep), model.config, length)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("form", ["folder", "gguf"])
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, form: str, shared_data: Path, tmp_path: Path) -> None:
    folder = path = shared_data / "conformance" / name
    if form == "gguf":
        path = tmp_path / "a.gguf"
        convert(Request(str(folder), str(path)))
    with np.load(folder / "expected.npz") as case:
        ids, expected = case["input_ids"], case["logits"]
    tokens = ids.shape[1]
    model = decoder(path, tokens)
    assert error(model.logits(model.forward(ids)), expected) <= LIMIT
    cache = model.cache(len(ids))
    outputs = [model.forward(ids[:, :8], cache)]
    outputs += [model.forward(ids[:, n : n + 1], cache) for n in range(8, tokens)]
    assert error(model.logits(np.concatenate(outputs, axis=1)), expected) <= LIMIT
