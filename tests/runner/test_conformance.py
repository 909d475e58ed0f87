"""The shared conformance cases: logits of transformers in float32, in one pass, replayed, and after conversions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import LIMIT, error, replayed, runnable, whole

from modelkit.operations.convert import Request, convert
from modelkit.operations.run import Request as RunRequest
from modelkit.operations.run import generate, prepare

CASES = (
    "llama_gqa_tied", "llama_gqa_llama3rope", "llama_yarn_rope", "llama_bias", "llama_bf16_sharded", "llama_v4cfg",
    "mistral_swa", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "phi3_longrope",
)  # fmt: skip


@pytest.mark.parametrize("form", ["folder", "gguf"])
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, form: str, shared_data: Path, tmp_path: Path) -> None:
    folder = path = shared_data / "conformance" / name
    if form == "gguf":
        path = tmp_path / "a.gguf"
        convert(Request(str(folder), str(path)))
    with np.load(folder / "expected.npz") as case:
        ids, expected = case["input_ids"], case["logits"]
    model = runnable(path)
    assert error(whole(model, ids), expected) <= LIMIT
    assert error(replayed(model, ids), expected) <= LIMIT


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_are_those_of_transformers(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "conformance" / name
    with np.load(folder / "expected.npz") as case:
        wanted, margin = case["greedy_ids"][0].tolist(), float(case["greedy_margin"])
    if margin < 0.01:
        pytest.skip(f"{name}: two tokens are {margin:.1g} apart, too close to compare")
    np.save(tmp_path / "ids.npy", np.array(wanted[:8]))
    request = RunRequest(str(folder), tokens_file=str(tmp_path / "ids.npy"), max_tokens=len(wanted) - 8)
    found = [token.identity for token in generate(prepare(request))]
    assert found == wanted[8 : 8 + len(found)]
    assert len(found) == 16 or found[-1] == 2  # the reference went on after the end


@pytest.mark.slow
def test_the_shared_checker_finds_nothing_wrong(shared_data: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(shared_data / "conformance" / "check.py")],
        env={**os.environ, "MODELKIT": f"{sys.executable} -m modelkit", "MIN": str(len(CASES))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and " 0 WRONG" in done.stdout, done.stdout
