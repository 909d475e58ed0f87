"""Flat memory, measured: a run stays within its budget, the process's own high-water mark, numpy included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

MIB = 1 << 20
SCRIPT = """
import json, sys
from modelkit.operations.run import Request, generate, prepare, write_logits
options = json.loads(sys.argv[1])
prepared = prepare(Request(**options))
print(write_logits(prepared) if prepared.request.logits else [token.identity for token in generate(prepared)])
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
print(int(peak.split()[1]) * 1024)
"""


def run(options: dict[str, object]) -> tuple[str, int]:
    """What it printed and its peak in bytes."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the high-water mark is read from /proc, which is not here")
    command = [sys.executable, "-c", SCRIPT, json.dumps(options)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return lines[0], int(lines[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 88 million values: 176 MB in bf16, 352 MB in float32."""
    folder = tmp_path_factory.mktemp("model")
    hidden, ff, layers, vocabulary = 768, 3072, 8, 8192
    config = {"model_type": "llama", "hidden_size": hidden, "intermediate_size": ff, "num_hidden_layers": layers,
              "num_attention_heads": 12, "vocab_size": vocabulary, "max_position_embeddings": 4096,
              "tie_word_embeddings": True, "rms_norm_eps": 1e-5}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (vocabulary, hidden), "model.norm": (hidden,)}
    for layer in range(layers):
        start = f"model.layers.{layer}."
        shapes |= {f"{start}self_attn.{letter}_proj": (hidden, hidden) for letter in "qkvo"}
        shapes |= {f"{start}mlp.{name}_proj": (ff, hidden) for name in ("gate", "up")}
        shapes |= {f"{start}mlp.down_proj": (hidden, ff)}
        shapes |= {f"{start}{name}": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
    noise = np.random.default_rng(0).standard_normal(1 << 20, np.float32) * 0.04
    save_file({f"{name}.weight": np.resize(noise + (len(size) == 1), size).astype(ml_dtypes.bfloat16)
               for name, size in shapes.items()}, folder / "model.safetensors")  # fmt: skip
    return folder


def test_logits_within_a_budget(model: Path, tmp_path: Path) -> None:
    """Streamed: less memory than the weights need, and the same bits."""
    np.save(tmp_path / "ids.npy", np.arange(600)[None])
    options = {"model": str(model), "tokens_file": str(tmp_path / "ids.npy"), "logits": str(tmp_path / "small.npy")}
    budget = 280 * MIB
    _, small = run({**options, "memory": budget})
    _, large = run({**options, "logits": str(tmp_path / "large.npy"), "memory": 2048 * MIB})
    print(f"600 tokens: {small / MIB:.0f} MiB of {budget / MIB:.0f}, {large / MIB:.0f} MiB with weights kept")
    assert small <= budget < large
    assert (tmp_path / "small.npy").read_bytes() == (tmp_path / "large.npy").read_bytes()


def test_text_within_a_budget(model: Path, tmp_path: Path) -> None:
    """Some of the layers are kept, the others streamed."""
    np.save(tmp_path / "ids.npy", np.arange(40))
    options = {"model": str(model), "tokens_file": str(tmp_path / "ids.npy"), "max_tokens": 3}
    budget = 330 * MIB
    small, peak = run({**options, "memory": budget})
    large, most = run({**options, "memory": 2048 * MIB})
    print(f"text: {peak / MIB:.0f} MiB of {budget / MIB:.0f}, {most / MIB:.0f} MiB with weights kept")
    assert peak <= budget < most and small == large
