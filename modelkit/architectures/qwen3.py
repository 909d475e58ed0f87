"""Qwen3, the dense sizes. Qwen2 with an RMS norm over each head of q and k before rotation, usually without biases.

Both dialects store q and k for rotation in halves. Windows are off unless `use_sliding_window` says so; then
the first `max_window_layers` layers see everything. llama.cpp does not read a window of this family.
"""

from __future__ import annotations

from modelkit.architectures import _gguf, _gguf_rope, _huggingface, _qwen
from modelkit.architectures._contract import Architecture, table
from modelkit.architectures._gguf_convention import Convention
from modelkit.architectures._huggingface import Family
from modelkit.architectures._huggingface_keys import attention_bias

TABLE = table("""
gguf                       | hugging face                                     | shape             | rows     | when
token_embd.weight          | model.embed_tokens.weight                        | vocabulary hidden |          |
blk.{}.attn_norm.weight    | model.layers.{}.input_layernorm.weight           | hidden            |          |
blk.{}.attn_q.weight       | model.layers.{}.self_attn.q_proj.weight          | q hidden          | heads    |
blk.{}.attn_q.bias         | model.layers.{}.self_attn.q_proj.bias            | q                 | heads    | attention bias
blk.{}.attn_q_norm.weight  | model.layers.{}.self_attn.q_norm.weight          | head              |          |
blk.{}.attn_k.weight       | model.layers.{}.self_attn.k_proj.weight          | kv hidden         | kv_heads |
blk.{}.attn_k.bias         | model.layers.{}.self_attn.k_proj.bias            | kv                | kv_heads | attention bias
blk.{}.attn_k_norm.weight  | model.layers.{}.self_attn.k_norm.weight          | head              |          |
blk.{}.attn_v.weight       | model.layers.{}.self_attn.v_proj.weight          | kv hidden         |          |
blk.{}.attn_v.bias         | model.layers.{}.self_attn.v_proj.bias            | kv                |          | attention bias
blk.{}.attn_output.weight  | model.layers.{}.self_attn.o_proj.weight          | hidden q          |          |
blk.{}.attn_output.bias    | model.layers.{}.self_attn.o_proj.bias            | hidden            |          | output bias
blk.{}.ffn_norm.weight     | model.layers.{}.post_attention_layernorm.weight  | hidden            |          |
blk.{}.ffn_gate.weight     | model.layers.{}.mlp.gate_proj.weight             | ff hidden         |          |
blk.{}.ffn_up.weight       | model.layers.{}.mlp.up_proj.weight               | ff hidden         |          |
blk.{}.ffn_down.weight     | model.layers.{}.mlp.down_proj.weight             | hidden ff         |          |
output_norm.weight         | model.norm.weight                                | hidden            |          |
output.weight              | lm_head.weight                                   | vocabulary hidden |          | untied
""")  # fmt: skip

QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    _qwen.DEFAULTS | {"head_dim": 128},
    says=("bias", "window", "sliding"),
    read=lambda keys, fields: {"bias": keys.biases("attention"), **_qwen.windows(keys, fields)},
    write=lambda config: {"attention_bias": attention_bias(config), **_qwen.window_keys(config)},
)

architecture = Architecture(
    name="qwen3",
    called={"huggingface": ("qwen3",), "gguf": ("qwen3",)},
    table=TABLE,
    dialects={
        "huggingface": _huggingface.codec(QWEN3),
        "gguf": _gguf.codec("qwen3", Convention(), (QWEN3,)),
    },
    derived=_gguf_rope.tensors,
)
