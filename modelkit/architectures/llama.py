"""Llama: Llama 1 to 3, Mistral, SmolLM and everything that shares their names and arithmetic.

RMS norm before attention and before the feed-forward part, grouped query heads, rotary positions over
the whole head, SwiGLU. Hugging Face stores q and k for rotation in halves; GGUF and llama2.c in pairs.
Mistral adds a sliding window on all layers, which GGUF's key can hold but llama.cpp does not read.

Rotary scaling: `linear` and `yarn` stand in GGUF's keys; `llama3` is the tensor rope_freqs.weight, which
follows from four numbers (`_rope_freqs.py`); `dynamic` has no form there and is kept in modelkit's own key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.architectures import _gguf, _gguf_rope, _huggingface, _llama2c, _windows
from modelkit.architectures._contract import Architecture, table
from modelkit.architectures._gguf_convention import Convention
from modelkit.architectures._huggingface import Family
from modelkit.architectures._huggingface_keys import Keys, attention_bias

TABLE = table("""
gguf                       | hugging face                                     | llama2.c                          | shape             | rows     | when
token_embd.weight          | model.embed_tokens.weight                        | tok_embeddings.weight             | vocabulary hidden |          |
blk.{}.attn_norm.weight    | model.layers.{}.input_layernorm.weight           | layers.{}.attention_norm.weight   | hidden            |          |
blk.{}.attn_q.weight       | model.layers.{}.self_attn.q_proj.weight          | layers.{}.attention.wq.weight     | q hidden          | heads    |
blk.{}.attn_q.bias         | model.layers.{}.self_attn.q_proj.bias            |                                   | q                 | heads    | attention bias
blk.{}.attn_k.weight       | model.layers.{}.self_attn.k_proj.weight          | layers.{}.attention.wk.weight     | kv hidden         | kv_heads |
blk.{}.attn_k.bias         | model.layers.{}.self_attn.k_proj.bias            |                                   | kv                | kv_heads | attention bias
blk.{}.attn_v.weight       | model.layers.{}.self_attn.v_proj.weight          | layers.{}.attention.wv.weight     | kv hidden         |          |
blk.{}.attn_v.bias         | model.layers.{}.self_attn.v_proj.bias            |                                   | kv                |          | attention bias
blk.{}.attn_output.weight  | model.layers.{}.self_attn.o_proj.weight          | layers.{}.attention.wo.weight     | hidden q          |          |
blk.{}.attn_output.bias    | model.layers.{}.self_attn.o_proj.bias            |                                   | hidden            |          | output bias
blk.{}.ffn_norm.weight     | model.layers.{}.post_attention_layernorm.weight  | layers.{}.ffn_norm.weight         | hidden            |          |
blk.{}.ffn_gate.weight     | model.layers.{}.mlp.gate_proj.weight             | layers.{}.feed_forward.w1.weight  | ff hidden         |          |
blk.{}.ffn_gate.bias       | model.layers.{}.mlp.gate_proj.bias               |                                   | ff                |          | mlp bias
blk.{}.ffn_up.weight       | model.layers.{}.mlp.up_proj.weight               | layers.{}.feed_forward.w3.weight  | ff hidden         |          |
blk.{}.ffn_up.bias         | model.layers.{}.mlp.up_proj.bias                 |                                   | ff                |          | mlp bias
blk.{}.ffn_down.weight     | model.layers.{}.mlp.down_proj.weight             | layers.{}.feed_forward.w2.weight  | hidden ff         |          |
blk.{}.ffn_down.bias       | model.layers.{}.mlp.down_proj.bias               |                                   | hidden            |          | mlp bias
output_norm.weight         | model.norm.weight                                | norm.weight                       | hidden            |          |
output.weight              | lm_head.weight                                   | output.weight                     | vocabulary hidden |          | untied
""")  # fmt: skip

SIZES = {"vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}


LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    SIZES | {"intermediate_size": 11008, "max_position_embeddings": 2048},
    read=lambda keys, fields: {"bias": keys.biases("attention", "mlp")},
    write=lambda config: {"attention_bias": attention_bias(config), "mlp_bias": "mlp" in config.bias},
    says=("bias",),
)


def mistral(keys: Keys, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The window holds on all layers. A list of types belongs to Ministral, which transformers reads by another name."""
    if keys.get("layer_types") is not None and keys.get("sliding_window"):
        raise keys.unsupported("a Mistral with layer_types")
    return _windows.settled(None if keys.get("sliding_window") is None else keys.whole("sliding_window"), ())


MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    SIZES
    | {"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    read=mistral,
    write=lambda config: {"sliding_window": config.window},
    says=("window",),
)

architecture = Architecture(
    name="llama",
    called={"huggingface": ("llama", "mistral"), "gguf": ("llama",), "llama2c": ("llama2c",)},
    table=TABLE,
    dialects={
        "huggingface": _huggingface.codec(LLAMA, MISTRAL),
        "gguf": _gguf.codec(
            "llama", Convention(("linear", "dynamic", "yarn", "llama3"), output_bias=True), (LLAMA, MISTRAL)
        ),
        "llama2c": _llama2c.codec(),
    },
    pairs=("gguf", "llama2c"),
    derived=_gguf_rope.tensors,
    ignored=(*_gguf_rope.FREQS, r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
)
