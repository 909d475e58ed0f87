"""Phi-3 and Phi-4: Llama with q, k, v in one matrix and gate and up in another, in both dialects.

Rows of qkv: q, k, v; of gate_up: gate, up; rotation in halves. A head may rotate in part (Phi-4-mini: three
quarters). longrope divides the frequency of each rotary pair by a factor of its own, one list within the
original context and one beyond; GGUF stores the lists as tensors and the attention factor as a key.

transformers calls the scaling `su` or `yarn` in old files, and takes the original context from beside the
scaling, 4,096 where it is absent. llama.cpp does not apply the window at present; files without its key are
older than the key and mean what llama.cpp then took for each model.
"""

from __future__ import annotations

from typing import Any

from modelkit.architectures import _gguf, _gguf_rope, _huggingface, _huggingface_rope, _windows
from modelkit.architectures._contract import Architecture, Config, table
from modelkit.architectures._gguf_convention import Convention
from modelkit.architectures._gguf_keys import Keys as GgufKeys
from modelkit.architectures._huggingface import Family
from modelkit.architectures._huggingface_keys import Keys

TABLE = table("""
gguf                       | hugging face                                     | shape             | rows | when
token_embd.weight          | model.embed_tokens.weight                        | vocabulary hidden |      |
blk.{}.attn_norm.weight    | model.layers.{}.input_layernorm.weight           | hidden            |      |
blk.{}.attn_qkv.weight     | model.layers.{}.self_attn.qkv_proj.weight        | qkv hidden        |      |
blk.{}.attn_output.weight  | model.layers.{}.self_attn.o_proj.weight          | hidden q          |      |
blk.{}.ffn_norm.weight     | model.layers.{}.post_attention_layernorm.weight  | hidden            |      |
blk.{}.ffn_up.weight       | model.layers.{}.mlp.gate_up_proj.weight          | gate_up hidden    |      |
blk.{}.ffn_down.weight     | model.layers.{}.mlp.down_proj.weight             | hidden ff         |      |
output_norm.weight         | model.norm.weight                                | hidden            |      |
output.weight              | lm_head.weight                                   | vocabulary hidden |      | untied
""")  # fmt: skip


def rope(keys: Keys, scalings: tuple[str, ...], context: int, head_dim: int) -> dict[str, Any]:
    """`su` and `yarn` are early names of longrope."""
    for key in ("rope_scaling", "rope_parameters"):
        found = keys.mapping(key)
        if (found.get("rope_type") or found.get("type")) in ("su", "yarn"):
            keys = Keys({**keys.config, key: {**found, "rope_type": "longrope"}}, keys.defaults)
    return _huggingface_rope.flat(keys, scalings, context, head_dim)


def rope_keys(config: Config) -> dict[str, Any]:
    """Keys of config.json; transformers 4 wants three in rope_scaling and no other."""
    rotary = config.rotary or config.head_dim
    part, scaling = rotary / config.head_dim, dict(config.rope)
    original = scaling.pop("original_max_position_embeddings", None)
    if scaling:
        scaling["type"] = scaling.pop("rope_type")
    return {
        "rope_scaling": scaling or None,
        "partial_rotary_factor": part if int(config.head_dim * part) == rotary else (rotary + 0.5) / config.head_dim,
        "sliding_window": config.window,
        **({"original_max_position_embeddings": original} if original else {}),
    }


PHI3 = Family(
    "phi3",
    "Phi3ForCausalLM",
    {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-5,
    },
    scalings=("longrope",),
    says=("rotary", "window"),
    rope=rope,
    read=lambda keys, fields: _windows.settled(
        None if keys.get("sliding_window") is None else keys.whole("sliding_window"), ()
    ),
    write=rope_keys,
)


def absent_window(keys: GgufKeys) -> int | None:
    """What llama.cpp took for a file without the key: by layers, heads and context of the published models."""
    layers, context = keys.whole("block_count"), keys.whole("context_length")
    if layers in (32, 40) and context == 4096:
        return 2047
    if (
        layers == 32
        and keys.whole("attention.head_count_kv", keys.whole("attention.head_count")) == 32
        and context == 131072
    ):
        return 262144
    if layers == 40 and context == 131072:
        return 131072
    raise keys.unsupported("attention.sliding_window is absent, and this is no size that was published without it")


CONVENTION = Convention(scalings=("longrope",), states_window=True, window=absent_window, partial=True)

architecture = Architecture(
    name="phi3",
    called={"huggingface": ("phi3",), "gguf": ("phi3",)},
    table=TABLE,
    dialects={"huggingface": _huggingface.codec(PHI3), "gguf": _gguf.codec("phi3", CONVENTION, (PHI3,))},
    derived=_gguf_rope.tensors,
    ignored=_gguf_rope.FACTORS,
)
