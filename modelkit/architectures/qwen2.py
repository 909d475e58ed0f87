"""Qwen2: Qwen 1.5, 2 and 2.5. Llama with biases on q, k and v.

Both dialects store q and k for rotation in halves. Windows are off unless `use_sliding_window` says so; then
the first `max_window_layers` layers see everything. llama.cpp does not read a window of this family.
"""

from __future__ import annotations

from modelkit.architectures import _gguf, _gguf_rope, _huggingface, _qwen
from modelkit.architectures._contract import Architecture, table
from modelkit.architectures._gguf_convention import Convention
from modelkit.architectures._huggingface import Family

TABLE = table("""
gguf                       | hugging face                                     | shape             | rows     | when
token_embd.weight          | model.embed_tokens.weight                        | vocabulary hidden |          |
blk.{}.attn_norm.weight    | model.layers.{}.input_layernorm.weight           | hidden            |          |
blk.{}.attn_q.weight       | model.layers.{}.self_attn.q_proj.weight          | q hidden          | heads    |
blk.{}.attn_q.bias         | model.layers.{}.self_attn.q_proj.bias            | q                 | heads    | attention bias
blk.{}.attn_k.weight       | model.layers.{}.self_attn.k_proj.weight          | kv hidden         | kv_heads |
blk.{}.attn_k.bias         | model.layers.{}.self_attn.k_proj.bias            | kv                | kv_heads | attention bias
blk.{}.attn_v.weight       | model.layers.{}.self_attn.v_proj.weight          | kv hidden         |          |
blk.{}.attn_v.bias         | model.layers.{}.self_attn.v_proj.bias            | kv                |          | attention bias
blk.{}.attn_output.weight  | model.layers.{}.self_attn.o_proj.weight          | hidden q          |          |
blk.{}.ffn_norm.weight     | model.layers.{}.post_attention_layernorm.weight  | hidden            |          |
blk.{}.ffn_gate.weight     | model.layers.{}.mlp.gate_proj.weight             | ff hidden         |          |
blk.{}.ffn_up.weight       | model.layers.{}.mlp.up_proj.weight               | ff hidden         |          |
blk.{}.ffn_down.weight     | model.layers.{}.mlp.down_proj.weight             | hidden ff         |          |
output_norm.weight         | model.norm.weight                                | hidden            |          |
output.weight              | lm_head.weight                                   | vocabulary hidden |          | untied
""")  # fmt: skip

QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    _qwen.DEFAULTS,
    says=("bias", "window", "sliding"),
    read=lambda keys, fields: {"bias": ("attention",), **_qwen.windows(keys, fields)},
    write=_qwen.window_keys,
)

architecture = Architecture(
    name="qwen2",
    called={"huggingface": ("qwen2",), "gguf": ("qwen2",)},
    table=TABLE,
    dialects={
        "huggingface": _huggingface.codec(QWEN2),
        "gguf": _gguf.codec("qwen2", Convention(bias=("attention",)), (QWEN2,)),
    },
    derived=_gguf_rope.tensors,
)
