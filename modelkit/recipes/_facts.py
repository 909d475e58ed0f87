"""What a recipe asks about a model and its matrices: family, size, and the place of each matrix among its kind.

Kinds and counts are those of llama-quantize, which walks over the tensors by layer and then by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelkit.tensors import Tensor

KINDS = (
    "output", "embedding", "attention_v", "attention_k", "attention_q", "attention_output", "ffn_up", "ffn_gate",
    "ffn_down",
)  # fmt: skip

PARTS_OF_NAMES = (
    ("attn_qkv.weight", "attention_v"),  # a fused one holds v, and counts as v
    ("attn_kv_b.weight", "attention_v"),
    ("attn_v.weight", "attention_v"),
    ("attn_k.weight", "attention_k"),
    ("attn_q.weight", "attention_q"),
    ("attn_output.weight", "attention_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)
"""The first part that a GGUF name contains says the kind."""

PARTS_OF_OTHER_NAMES = (
    ("v_proj.weight", "attention_v"),  # also the end of qkv_proj, which holds v
    ("k_proj.weight", "attention_k"),
    ("q_proj.weight", "attention_q"),
    ("o_proj.weight", "attention_output"),
    ("up_proj.weight", "ffn_up"),  # also of gate_up_proj, which GGUF calls ffn_up
    ("gate_proj.weight", "ffn_gate"),
    ("down_proj.weight", "ffn_down"),
)
"""The same for the names of Hugging Face."""

EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")

EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)\.weight$")
HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.weight$")
"""The same in the words of Hugging Face and llama2.c."""

KEPT_PARTS = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "time_mix_first.weight",
    "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight",
    "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight",
    "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
    "attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd",
    ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
"""Matrices that llama-quantize leaves as they are: small, or sensitive."""

KEPT_NAMES = ("position_embd.weight", "token_types.weight")
LAYER = re.compile(r"(?:^|\.)(?:blk|layers|h)\.(\d{1,9})\.")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the model; "" and 0 where nothing is."""

    architecture: str = ""
    layers: int = 0
    heads: int = 0
    key_value_heads: int = 0
    experts: int = 0

    @property
    def grouped(self) -> int:
        """Query heads for each key head."""
        return self.heads // self.key_value_heads if self.key_value_heads else 0

    @property
    def size(self) -> str:
        """ "70B" where llama.cpp says so; its recipes ask for no other size."""
        by_layers = {"llama": 80, "deci": 80, "olmo": 80, "qwen2": 80, "jais2": 68}
        ungrouped_llama = self.architecture == "llama" and (self.heads == self.key_value_heads or self.experts == 8)
        return "70B" if self.layers == by_layers.get(self.architecture) and not ungrouped_llama else ""


@dataclass(frozen=True, slots=True)
class Place:
    """A matrix: its written name, kind ("" for none), and that it is number `number` of `count` of its kind."""

    name: str
    kind: str
    number: int
    count: int


def from_gguf_keys(keys: Mapping[str, Any]) -> Facts:
    """From key-values as a GGUF has them; a list by layer counts with its first."""
    family = keys.get("general.architecture")
    if not isinstance(family, str):
        return Facts()

    def number(name: str) -> int:
        value = keys.get(f"{family}.{name}")
        value = value[0] if isinstance(value, list | tuple) and value else value
        return int(value) if isinstance(value, int | float) else 0

    heads = number("attention.head_count")
    grouped = number("attention.head_count_kv") if f"{family}.attention.head_count_kv" in keys else heads
    return Facts(family, number("block_count"), heads, grouped, number("expert_count"))


def places(named: Sequence[tuple[str, Tensor]], facts: Facts, *, gguf: bool) -> dict[str, Place]:
    """The place of every matrix that may be quantised, by name; the others are not in it.

    `gguf`: a GGUF is written, where only its own names have a kind, as in llama-quantize.
    """
    kind_of = _kind if gguf else _kind_elsewhere
    tied = all(kind_of(name, tied=False) != "output" for name, _ in named)
    kinds = {name: kind_of(name, tied=tied) for name, _ in named}
    values = sum(kind == "attention_v" for kind in kinds.values())
    seen: dict[str, int] = {}
    found = {}
    for name, tensor in sorted(named, key=lambda pair: (_layer(pair[0]), pair[0])):
        kind = kinds[name]
        if not quantisable(name, tensor, facts):
            continue
        number, count = seen.get(kind, 0), values if kind == "attention_v" else facts.layers
        seen[kind] = number + 1
        if not kind or (kind.startswith("ffn") and facts.experts > 1):
            number = _layer(name)  # experts' matrices are not counted one by one
        found[name] = Place(name, kind, number, count)
    return found


def quantisable(name: str, tensor: Tensor, facts: Facts) -> bool:
    """Whether llama-quantize would touch it; of a family that is not known, every matrix."""
    if len(tensor.shape) < 2 or (facts.architecture and all(size == 1 for size in tensor.shape[:-1])):
        return False
    if not facts.architecture:
        return True
    return name.endswith("weight") and name not in KEPT_NAMES and not any(part in name for part in KEPT_PARTS)


def _kind(name: str, *, tied: bool) -> str:
    if name == "output.weight" or (tied and name in EMBEDDINGS):
        return "output"
    if name in EMBEDDINGS:
        return "embedding"
    return next((kind for part, kind in PARTS_OF_NAMES if part in name), "")


def _kind_elsewhere(name: str, *, tied: bool) -> str:
    """The same in the words of Hugging Face and llama2.c."""
    if HEAD.search(name) or (tied and EMBEDDING.search(name)):
        return "output"
    if EMBEDDING.search(name):
        return "embedding"
    return next((kind for part, kind in PARTS_OF_OTHER_NAMES if name.endswith(part)), "")


def _layer(name: str) -> int:
    match = LAYER.search(name)
    return int(match[1]) if match else -1
