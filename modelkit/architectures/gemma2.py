"""Gemma 2: norms before and after both halves of a block, caps on scores and logits, every other layer slides.

Norms multiply by 1 + w: Hugging Face stores w, GGUF the factor. Embeddings enter times sqrt(hidden), the tied
head uses the bare table. Scores are scaled by query_pre_attn_scalar ** -0.5, which no key of GGUF that llama.cpp
reads can say: it takes the head size, and hidden / heads for the 27B model, known by its 46 layers.
`post_attention_layernorm` is here the norm of attention's output, not the one before the feed-forward part.
"""

from __future__ import annotations

from modelkit.architectures import _gemma, _gguf, _gguf_rope, _huggingface
from modelkit.architectures._contract import Architecture, table
from modelkit.architectures._gguf_convention import Convention
from modelkit.architectures._huggingface import Family

TABLE = table("""
gguf                               | hugging face                                      | shape             | rows     | when
token_embd.weight                  | model.embed_tokens.weight                         | vocabulary hidden |          |
blk.{}.attn_norm.weight            | model.layers.{}.input_layernorm.weight            | hidden            | plus_one |
blk.{}.attn_q.weight               | model.layers.{}.self_attn.q_proj.weight           | q hidden          | heads    |
blk.{}.attn_q.bias                 | model.layers.{}.self_attn.q_proj.bias             | q                 | heads    | attention bias
blk.{}.attn_k.weight               | model.layers.{}.self_attn.k_proj.weight           | kv hidden         | kv_heads |
blk.{}.attn_k.bias                 | model.layers.{}.self_attn.k_proj.bias             | kv                | kv_heads | attention bias
blk.{}.attn_v.weight               | model.layers.{}.self_attn.v_proj.weight           | kv hidden         |          |
blk.{}.attn_v.bias                 | model.layers.{}.self_attn.v_proj.bias             | kv                |          | attention bias
blk.{}.attn_output.weight          | model.layers.{}.self_attn.o_proj.weight           | hidden q          |          |
blk.{}.attn_output.bias            | model.layers.{}.self_attn.o_proj.bias             | hidden            |          | output bias
blk.{}.post_attention_norm.weight  | model.layers.{}.post_attention_layernorm.weight   | hidden            | plus_one |
blk.{}.ffn_norm.weight             | model.layers.{}.pre_feedforward_layernorm.weight  | hidden            | plus_one |
blk.{}.ffn_gate.weight             | model.layers.{}.mlp.gate_proj.weight              | ff hidden         |          |
blk.{}.ffn_up.weight               | model.layers.{}.mlp.up_proj.weight                | ff hidden         |          |
blk.{}.ffn_down.weight             | model.layers.{}.mlp.down_proj.weight              | hidden ff         |          |
blk.{}.post_ffw_norm.weight        | model.layers.{}.post_feedforward_layernorm.weight | hidden            | plus_one |
output_norm.weight                 | model.norm.weight                                 | hidden            | plus_one |
output.weight                      | lm_head.weight                                    | vocabulary hidden |          | untied
""")  # fmt: skip

GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    _gemma.DEFAULTS
    | {
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    scalings=("linear", "dynamic", "yarn"),
    activation="hidden_activation",
    own=("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
    says=(*_gemma.SAYS, "score_softcap", "logit_softcap"),
    read=lambda keys, fields: {
        **_gemma.scales(keys),
        **_gemma.windows(keys, fields, 2),
        "score_softcap": keys.cap("attn_logit_softcapping"),
        "logit_softcap": keys.cap("final_logit_softcapping"),
    },
    write=lambda config: {
        **_gemma.keys(config, 2),
        "attn_logit_softcapping": config.score_softcap,
        "final_logit_softcapping": config.logit_softcap,
    },
)

CONVENTION = Convention(
    activation="gelu_tanh",
    period=2,
    states_window=True,
    window=lambda keys: 4096,
    caps={"score_softcap": 50.0, "logit_softcap": 30.0},
    wide=46,
    scaled_embedding=True,
    own_head=False,
    always=("window", "score_softcap", "logit_softcap"),
)

architecture = Architecture(
    name="gemma2",
    called={"huggingface": ("gemma2",), "gguf": ("gemma2",)},
    table=TABLE,
    dialects={
        "huggingface": _huggingface.codec(GEMMA2),
        "gguf": _gguf.codec("gemma2", CONVENTION, (GEMMA2,)),
    },
    derived=_gguf_rope.tensors,
)
