"""Gemma 3, text only (`gemma3_text`; GGUF: gemma3, also for the text part of the larger models).

Gemma 2 with an RMS norm over each head of q and k before rotation, without caps on scores, and with two ropes:
sliding layers have their own unscaled base (10,000), every sixth layer sees everything with base 1,000,000 and,
in the larger models, linear scaling. A GGUF need not say the pattern and the local base where they are these.
llama.cpp scales scores by the head size, and by hidden / heads for the 27B model, known by its 62 layers.

Files of transformers 4 say rope_theta, rope_local_base_freq, rope_scaling and sliding_window_pattern; those of 5
rope_parameters for each type of layer, and layer_types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.architectures import _gemma, _gguf, _gguf_rope, _huggingface, _huggingface_rope
from modelkit.architectures._contract import Architecture, table
from modelkit.architectures._gguf_convention import Convention
from modelkit.architectures._huggingface import Family
from modelkit.architectures._huggingface_keys import Keys

TABLE = table("""
gguf                               | hugging face                                      | shape             | rows     | when
token_embd.weight                  | model.embed_tokens.weight                         | vocabulary hidden |          |
blk.{}.attn_norm.weight            | model.layers.{}.input_layernorm.weight            | hidden            | plus_one |
blk.{}.attn_q.weight               | model.layers.{}.self_attn.q_proj.weight           | q hidden          | heads    |
blk.{}.attn_q.bias                 | model.layers.{}.self_attn.q_proj.bias             | q                 | heads    | attention bias
blk.{}.attn_q_norm.weight          | model.layers.{}.self_attn.q_norm.weight           | head              | plus_one |
blk.{}.attn_k.weight               | model.layers.{}.self_attn.k_proj.weight           | kv hidden         | kv_heads |
blk.{}.attn_k.bias                 | model.layers.{}.self_attn.k_proj.bias             | kv                | kv_heads | attention bias
blk.{}.attn_k_norm.weight          | model.layers.{}.self_attn.k_norm.weight           | head              | plus_one |
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

PERIOD = 6


def two_ropes(keys: Keys, scalings: tuple[str, ...], context: int, head_dim: int) -> dict[str, Any]:
    """`theta` and `rope` of full layers, `local_theta` of sliding ones."""
    nested = keys.mapping("rope_parameters")
    for kind in ("full_attention", "sliding_attention"):
        if not isinstance(nested.get(kind) or {}, Mapping):
            raise keys.broken(f"rope_parameters.{kind} is {nested[kind]!r}, an object expected")
    full, local = (dict(nested.get(kind) or {}) for kind in ("full_attention", "sliding_attention"))
    full |= keys.mapping("rope_scaling")
    for found in (full, local, keys.config):
        if found.get("partial_rotary_factor") not in (None, 1):
            raise keys.unsupported(f"partial_rotary_factor is {found['partial_rotary_factor']!r}")
    if local.get("rope_type", local.get("type", "default")) != "default":
        raise keys.unsupported("rope scaling of sliding layers")
    return {
        "theta": keys.number("rope_theta", full.get("rope_theta", keys.get("rope_theta"))),
        "local_theta": keys.number("rope_local_base_freq", local.get("rope_theta", keys.get("rope_local_base_freq"))),
        "rope": _huggingface_rope.scaling(keys, full, scalings, context, head_dim),
    }


def read(keys: Keys, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Scales, the cap of logits, and which layers slide."""
    if keys.get("attn_logit_softcapping") is not None:  # transformers has the key and does not use it
        raise keys.unsupported(f"attn_logit_softcapping is {keys.get('attn_logit_softcapping')!r}")
    windows = _gemma.windows(keys, fields, keys.whole("sliding_window_pattern", PERIOD))
    return {**_gemma.scales(keys), **windows, "logit_softcap": keys.cap("final_logit_softcapping")}


GEMMA3 = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    _gemma.DEFAULTS
    | {
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    },
    scalings=("linear", "dynamic"),
    activation="hidden_activation",
    own=("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
    says=(*_gemma.SAYS, "local_theta", "logit_softcap"),
    rope=two_ropes,
    read=read,
    write=lambda config: {
        **_gemma.keys(config, PERIOD),
        "rope_local_base_freq": config.local_theta or 10_000.0,
        "final_logit_softcapping": config.logit_softcap,
    },
)

CONVENTION = Convention(
    scalings=("linear", "dynamic"),
    activation="gelu_tanh",
    period=PERIOD,
    states_window=True,
    local_theta=10_000.0,
    caps={"logit_softcap": None},
    wide=62,
    scaled_embedding=True,
)

architecture = Architecture(
    name="gemma3_text",
    called={"huggingface": ("gemma3_text",), "gguf": ("gemma3",)},
    table=TABLE,
    dialects={
        "huggingface": _huggingface.codec(GEMMA3),
        "gguf": _gguf.codec("gemma3", CONVENTION, (GEMMA3,)),
    },
    derived=_gguf_rope.tensors,
)
