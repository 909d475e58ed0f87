"""What lies beside a model and what its keys say: other weights, small files, counts, the tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from altered_models import judged
from rules_museum import museum_script

parts = museum_script.sys.modules["parts"]
SIDE = ("generation_config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json")
CONSOLIDATED = [parts.tensor("layers.0.attention.wq.weight", 32, 32), parts.tensor("tok_embeddings.weight", 64, 32)]
OTHERS = {
    "optimizer.safetensors": [parts.tensor("z.weight", 2, dtype="F32")],
    "pytorch_lora_weights.safetensors": [parts.tensor("unet.up.lora_A.weight", 4, 32)],
    "consolidated.safetensors": CONSOLIDATED,
}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", list(OTHERS))
def test_the_config_is_not_of_other_files(name: str, shards: int, tmp_path: Path) -> None:
    parts.folder(tmp_path / "m", shards=shards)
    (tmp_path / "m" / name).write_bytes(parts.safetensors(OTHERS[name], {"format": "pt"}))
    assert judged(tmp_path / "m") == judged(tmp_path / "m" / name) == []


def test_the_config_is_of_a_lone_file_by_any_name(tmp_path: Path) -> None:
    parts.folder(tmp_path / "m", parts.llama()[1:])
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "weights.safetensors")
    assert [rule for rule, _, _ in judged(tmp_path / "m" / "weights.safetensors")] == ["missing-tensor"]


@pytest.mark.parametrize("name", SIDE)
@pytest.mark.parametrize("data", [b"{", b"[]", b"<html>", b"", b"not json", b'{"a": "\\ud800"}'])
def test_small_files_are_json_objects(name: str, data: bytes, tmp_path: Path) -> None:
    parts.folder(tmp_path / "m")
    (tmp_path / "m" / name).write_bytes(data)
    assert [(rule, severity) for rule, severity, _ in judged(tmp_path / "m", "header")] == [
        ("config-not-json", "error")
    ]
    (tmp_path / "m" / name).write_bytes(b'\xef\xbb\xbf{"a": [1]}\n')
    assert judged(tmp_path / "m", "header") == []


@pytest.mark.parametrize(("cut", "rules"), [(0, []), (5, ["config-not-json"])])
def test_a_large_tokenizer_is_whole(cut: int, rules: list[str], tmp_path: Path) -> None:
    parts.folder(tmp_path / "m")
    text = json.dumps({"model": {"vocab": {f"token {n}": n for n in range(80_000)}}}) + "\n"
    (tmp_path / "m" / "tokenizer.json").write_text(text[: len(text) - cut])
    assert [rule for rule, _, _ in judged(tmp_path / "m", "header")] == rules


def test_small_files_without_a_model_are_nothing_to_judge(tmp_path: Path) -> None:
    for name in SIDE:
        (tmp_path / name).write_text("[")
    assert judged(tmp_path, "header") == []


@pytest.mark.parametrize(("size", "rule"), [(1_000_000, "truncated-file"), (1_056_544, "trailing-bytes")])
def test_a_llama2c_file_of_another_size(size: int, rule: str, shared_data: Path, tmp_path: Path) -> None:
    data = (shared_data / "real" / "llama2c" / "stories260K.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(data.ljust(size, b"a")[:size])
    ((found, severity, message),) = judged(tmp_path / "a.bin", "header")
    assert (found, severity) == (rule, "error") and f"{len(data):,} expected" in message


def test_numbers_by_chance_are_no_llama2c_header(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(np.array([1 << 20, 8, 1, 2, 2, 6, 4, 0, 0, 0], "<i4").tobytes())
    assert [rule for rule, _, _ in judged(tmp_path / "a.bin", "header")] == ["wrong-file-type"]


def test_a_tensor_that_the_index_lacks_is_an_error(tmp_path: Path) -> None:
    parts.folder(tmp_path / "m", shards=2, index=lambda index: index["weight_map"].pop("model.norm.weight"))
    assert [(rule, severity) for rule, severity, _ in judged(tmp_path / "m")] == [("tensor-not-in-index", "error")]


def zeroed(count: int, before: int) -> bytes:
    """A Llama whose last tensors, and some bytes before them, are zero."""
    tensors = parts.llama()
    for at in range(len(tensors) - count, len(tensors)):
        name, dtype, shape, stored = tensors[at]
        tensors[at] = name, dtype, shape, bytes(len(stored))
    name, dtype, shape, stored = tensors[-count - 1]
    tensors[-count - 1] = name, dtype, shape, stored[: len(stored) - before] + bytes(before)
    return bytes(parts.safetensors(tensors, {"format": "pt"}))


@pytest.mark.parametrize(("count", "before", "found"), [(6, 0, True), (6, 2, True), (2, 0, False), (2, 2, True)])
def test_a_tail_of_zeros(count: int, before: int, found: bool, tmp_path: Path) -> None:
    """The last of a Llama are two matrices, three norms and the head; the head and one norm alone are no sign."""
    (tmp_path / "a.safetensors").write_bytes(zeroed(count, before))
    assert ("zero-tail" in [rule for rule, _, _ in judged(tmp_path / "a.safetensors")]) is found


def without(*keys: str) -> list[bytes]:
    return [pair for pair in parts.pairs() if not any(parts.text(key) == pair[: 8 + len(key)] for key in keys)]


GGUFS: dict[str, tuple[Callable[[], list[bytes]], str, str]] = {
    "no tokens": (lambda: without("tokenizer.ggml.tokens"), "missing-key", "no tokenizer.ggml.tokens"),
    "no merges": (lambda: without("tokenizer.ggml.merges"), "missing-key", "no tokenizer.ggml.merges"),
    "no scores": (
        lambda: [*without("tokenizer.ggml.model"), parts.pair("tokenizer.ggml.model", 8, "llama")],
        "missing-key", "no tokenizer.ggml.scores",
    ),
    "a number for a family": (
        lambda: [*without("general.architecture"), parts.pair("general.architecture", 4, 7)],
        "missing-key", "general.architecture is 7",
    ),
    "no name for a family": (
        lambda: [*without("general.architecture"), parts.pair("general.architecture", 8, "")],
        "missing-key", "general.architecture is ''",
    ),
    "endless heads": (
        lambda: parts.pairs(llama__attention__value_length=2**32 - 1),
        "config-shape-mismatch", "llama.attention.value_length is 4,294,967,295",
    ),
    "endless rotation": (
        lambda: parts.pairs(llama__rope__dimension_count=2**32 - 1),
        "config-shape-mismatch", "llama.rope.dimension_count is 4,294,967,295",
    ),
    "an alignment of 8 bytes": (
        lambda: [*without("general.alignment"), parts.pair("general.alignment", 10, (32).to_bytes(8, "little"))],
        "bad-alignment", "general.alignment is stored as u64",
    ),
    "another vocabulary": (
        lambda: parts.pairs(llama__vocab_size=2**32 - 1),
        "config-shape-mismatch", "llama.vocab_size is 4,294,967,295, and 'token_embd.weight' has 64 rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(GGUFS))
def test_keys_of_a_gguf(what: str, tmp_path: Path) -> None:
    keys, rule, words = GGUFS[what]
    (tmp_path / "a.gguf").write_bytes(parts.gguf(keys=keys()))
    found = [one for one in judged(tmp_path / "a.gguf", "header") if one[1] != "info"]
    assert {one[0] for one in found} == {rule} and any(message.startswith(words) for _, _, message in found)


def test_a_gguf_that_says_it_has_no_tokenizer_needs_none(tmp_path: Path) -> None:
    keys = [pair for pair in without("tokenizer.ggml.model") if b"tokenizer.ggml." not in pair]
    (tmp_path / "a.gguf").write_bytes(parts.gguf(keys=[*keys, parts.pair("tokenizer.ggml.model", 8, "none")]))
    assert judged(tmp_path / "a.gguf", "header") == []


def test_a_bias_that_the_config_denies(tmp_path: Path) -> None:
    bias = "model.layers.0.self_attn.q_proj.bias"
    config = {**parts.CONFIG, "attention_bias": False}
    parts.folder(tmp_path / "m", [*parts.llama(), parts.tensor(bias, 32)], config)
    ((rule, severity, message),) = judged(tmp_path / "m", "header")
    assert (rule, severity) == ("unknown-tensor", "warning") and bias in message
    shutil.rmtree(tmp_path / "m")
    biases = [parts.tensor(f"model.layers.0.self_attn.{name}_proj.bias", size) for name, size in
              (("q", 32), ("k", 16), ("v", 16), ("o", 32))]  # fmt: skip
    parts.folder(tmp_path / "m", [*parts.llama(), *biases], {**config, "attention_bias": True})
    assert judged(tmp_path / "m", "header") == []
