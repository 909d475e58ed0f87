"""Llama: Llama 1 to 3, Mistral, SmolLM and everything that shares their names and arithmetic.

RMS norm before attention and before the feed-forward part, grouped query heads, rotary positions over
the whole head, SwiGLU. Hugging Face stores q and k for rotation in halves; GGUF and llama2.c in pairs.
Rotary scaling `linear` stands in GGUF's keys; `llama3` is the tensor rope_freqs.weight, which follows
from four numbers (`_rope_freqs.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from modelkit.architectures import _gguf, _huggingface, _llama2c
from modelkit.architectures._contract import Architecture, Config, table
from modelkit.architectures._rope_freqs import NAME, factors
from modelkit.tensors import Shape

TABLE = table("""
gguf                       | hugging face                                     | llama2.c                          | shape             | rows     | when
token_embd.weight          | model.embed_tokens.weight                        | tok_embeddings.weight             | vocabulary hidden |          |
blk.{}.attn_norm.weight    | model.layers.{}.input_layernorm.weight           | layers.{}.attention_norm.weight   | hidden            |          |
blk.{}.attn_q.weight       | model.layers.{}.self_attn.q_proj.weight          | layers.{}.attention.wq.weight     | q hidden          | heads    |
blk.{}.attn_q.bias         | model.layers.{}.self_attn.q_proj.bias            |                                   | q                 | heads    | bias
blk.{}.attn_k.weight       | model.layers.{}.self_attn.k_proj.weight          | layers.{}.attention.wk.weight     | kv hidden         | kv_heads |
blk.{}.attn_k.bias         | model.layers.{}.self_attn.k_proj.bias            |                                   | kv                | kv_heads | bias
blk.{}.attn_v.weight       | model.layers.{}.self_attn.v_proj.weight          | layers.{}.attention.wv.weight     | kv hidden         |          |
blk.{}.attn_v.bias         | model.layers.{}.self_attn.v_proj.bias            |                                   | kv                |          | bias
blk.{}.attn_output.weight  | model.layers.{}.self_attn.o_proj.weight          | layers.{}.attention.wo.weight     | hidden q          |          |
blk.{}.attn_output.bias    | model.layers.{}.self_attn.o_proj.bias            |                                   | hidden            |          | bias
blk.{}.ffn_norm.weight     | model.layers.{}.post_attention_layernorm.weight  | layers.{}.ffn_norm.weight         | hidden            |          |
blk.{}.ffn_gate.weight     | model.layers.{}.mlp.gate_proj.weight             | layers.{}.feed_forward.w1.weight  | ff hidden         |          |
blk.{}.ffn_gate.bias       | model.layers.{}.mlp.gate_proj.bias               |                                   | ff                |          | bias
blk.{}.ffn_up.weight       | model.layers.{}.mlp.up_proj.weight               | layers.{}.feed_forward.w3.weight  | ff hidden         |          |
blk.{}.ffn_up.bias         | model.layers.{}.mlp.up_proj.bias                 |                                   | ff                |          | bias
blk.{}.ffn_down.weight     | model.layers.{}.mlp.down_proj.weight             | layers.{}.feed_forward.w2.weight  | hidden ff         |          |
blk.{}.ffn_down.bias       | model.layers.{}.mlp.down_proj.bias               |                                   | hidden            |          | bias
output_norm.weight         | model.norm.weight                                | norm.weight                       | hidden            |          |
output.weight              | lm_head.weight                                   | output.weight                     | vocabulary hidden |          | untied
""")  # fmt: skip

CALLED = {"huggingface": ("llama", "mistral"), "gguf": ("llama",), "llama2c": ("llama2c",)}


def derived(config: Config, dialect: str) -> Mapping[str, tuple[Shape, bytes]]:
    """GGUF stores the llama3 scaling as one factor for each rotary pair."""
    if dialect != "gguf" or config.rope.get("rope_type") != "llama3":
        return {}
    return {NAME: ((config.head_dim // 2,), factors(config.rope, config.theta, config.head_dim))}


architecture = Architecture(
    name="llama",
    called=CALLED,
    table=TABLE,
    dialects={"huggingface": _huggingface.codec(), "gguf": _gguf.codec("llama"), "llama2c": _llama2c.codec()},
    pairs=("gguf", "llama2c"),
    derived=derived,
    ignored=(r"rope_freqs\.weight", r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
)
