"""Reference runner against torch eager: prompt processing and decoding, float32 on the CPU, same weights, same run.

    python bench/run.py [15M] [135M] [1.1B]      needs torch and transformers beside modelkit

Weights are random and made on the spot in a temporary folder, as bf16. Measurements alternate, the best of
three counts; seconds are of the clock and, for one thread, of the processor (`OPENBLAS_NUM_THREADS=1`
sets both sides to one thread, otherwise both use all cores).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from modelkit.operations.runnable import runnable
from modelkit.runner.decoder import Decoder

SHAPES = {
    "15M": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6,
            "num_key_value_heads": 6, "vocab_size": 32000, "tie_word_embeddings": True},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    "1.1B": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
             "num_key_value_heads": 4, "vocab_size": 32000, "tie_word_embeddings": False},
}  # fmt: skip
PROMPT, DECODE, TIMES = 128, 32, 3


def make(folder: Path, shape: dict[str, object]) -> None:
    """A Llama of that shape with random weights."""
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5,
              "rope_theta": 10000.0, "max_position_embeddings": 2048, "torch_dtype": "bfloat16", **shape}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    hidden, ff, layers, heads, kv_heads, vocabulary = (int(str(shape[key])) for key in list(shape)[:6])
    kv = hidden // heads * kv_heads
    shapes = {"model.embed_tokens": (vocabulary, hidden), "model.norm": (hidden,)}
    if not shape["tie_word_embeddings"]:
        shapes["lm_head"] = (vocabulary, hidden)
    for layer in range(layers):
        start = f"model.layers.{layer}."
        for name, size in (("self_attn.q_proj", (hidden, hidden)), ("self_attn.k_proj", (kv, hidden)),
                           ("self_attn.v_proj", (kv, hidden)), ("self_attn.o_proj", (hidden, hidden)),
                           ("mlp.gate_proj", (ff, hidden)), ("mlp.up_proj", (ff, hidden)),
                           ("mlp.down_proj", (hidden, ff)), ("input_layernorm", (hidden,)),
                           ("post_attention_layernorm", (hidden,))):  # fmt: skip
            shapes[start + name] = size
    rng = np.random.default_rng(0)
    tensors = {}
    for name, size in shapes.items():
        values = np.ones(size, np.float32) if len(size) == 1 else rng.standard_normal(size, np.float32) * 0.02
        tensors[f"{name}.weight"] = values.astype(ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def ours(folder: Path) -> dict[str, Callable[[], object]]:
    """Our prompt and decode, weights kept."""
    model = runnable(folder)
    decoder = Decoder(model.weights(1 << 40), model.config, PROMPT + DECODE)
    streamed = Decoder(model.weights(0), model.config, PROMPT + DECODE)
    ids = np.arange(3, 3 + PROMPT)[None] * 7

    def decode(decoder: Decoder) -> None:
        cache = decoder.cache()
        for layer in cache:
            layer.filled = PROMPT  # of whatever is there: speed does not depend on it
            layer.keys[:, :, :PROMPT] = layer.values[:, :, :PROMPT] = 0.01
        for step in range(DECODE):
            decoder.logits(decoder.forward(ids[:, step : step + 1], cache))

    return {
        "prompt, all logits": lambda: decoder.logits(decoder.forward(ids)),
        "prompt, last logits": lambda: decoder.logits(decoder.forward(ids)[:, -1:]),
        "prompt, streamed": lambda: streamed.logits(streamed.forward(ids)),
        "decode": lambda: decode(decoder),
        "decode, streamed": lambda: decode(streamed),
    }


def theirs(folder: Path) -> dict[str, Callable[[], object]]:
    """The same in torch, through transformers, eager attention."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count() or 1))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.arange(3, 3 + PROMPT)[None] * 7

    def decode(cache: object) -> None:
        for step in range(DECODE):
            model(ids[:, step : step + 1], past_key_values=cache, use_cache=True)

    def filled() -> object:
        return model(ids, use_cache=True).past_key_values

    torch.set_grad_enabled(False)
    return {
        "prompt, all logits": lambda: model(ids, use_cache=False).logits,
        "prompt, last logits": lambda: model(ids, use_cache=False, logits_to_keep=1).logits,
        "decode": lambda: decode(filled()),
        "decode, its prompt": filled,
    }


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """(clock, processor) seconds."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main(names: list[str]) -> None:
    """Every shape: make, measure, print."""
    threads = os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count()
    print(f"{threads} threads, load {os.getloadavg()[0]:.1f}; tokens a second of the clock (of the processor)")
    for name in names or list(SHAPES):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            make(folder, SHAPES[name])
            sides = {"modelkit": ours(folder)}
            try:
                sides["torch"] = theirs(folder)
            except ImportError as problem:
                print(f"torch is not measured: {problem}")
            best: dict[tuple[str, str], tuple[float, float]] = {}
            for _ in range(1 + TIMES):  # the first time loads weights and warms up
                for side, works in sides.items():
                    for what, work in works.items():
                        found = measure(work)
                        key = (side, what)
                        best[key] = found if _ == 0 else min(found, best[key])
                if _ == 0:
                    best = {key: (float("inf"), float("inf")) for key in best}
        report(name, best)


def report(name: str, best: dict[tuple[str, str], tuple[float, float]]) -> None:
    """One line for each measurement; the prompt that fills torch's cache is taken off its decoding."""
    prompt = best.pop(("torch", "decode, its prompt"), (0.0, 0.0))
    if ("torch", "decode") in best:
        whole = best["torch", "decode"]
        best["torch", "decode"] = (whole[0] - prompt[0], whole[1] - prompt[1])
    for (side, what), (clock, processor) in sorted(best.items(), key=lambda item: item[0][1]):
        tokens = DECODE if what.startswith("decode") else PROMPT
        print(f"{name:6} {what:20} {side:10} {tokens / clock:9.1f} ({tokens / processor:.1f})")


if __name__ == "__main__":
    main(sys.argv[1:])
