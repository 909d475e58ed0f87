"""config.json of Hugging Face to and from Config: keys of transformers 4 and 5 are read, those of 4 written.

A family file says in its `Family` what transformers takes for absent keys and what only this family has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelkit.architectures import _huggingface_rope
from modelkit.architectures._contract import Activation, Codec, Config, Facts, Probe
from modelkit.architectures._huggingface_keys import MOST, Keys
from modelkit.errors import Unsupported

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
WRITTEN = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
OVERRULED = (
    "_sliding_window_pattern", "layer_types", "max_window_layers", "original_max_position_embeddings",
    "partial_rotary_factor", "rope_local_base_freq", "rope_parameters", "rope_scaling", "sliding_window",
    "sliding_window_pattern", "use_sliding_window",
)  # fmt: skip
"""Keys of either generation that say again what `write` says: an original config's are dropped."""

UNUSUAL: Mapping[str, Any] = {
    "rotary": None,
    "window": None,
    "sliding": (),
    "local_theta": None,
    "score_scale": None,
    "score_softcap": None,
    "logit_softcap": None,
    "embedding_scale": 1.0,
    "bias": (),
}
"""Config fields that few families have, and their values where they have not."""

Rope = Callable[[Keys, tuple[str, ...], int, int], dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """One model_type. `defaults` are transformers' own; `own` are keys that other families must not have.

    `read` gives, from the fields read so far, Config fields beyond the common ones, which are named in `says`; `write` gives the keys for them.
    """

    model_type: str
    classes: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    scalings: tuple[str, ...] = ("linear", "dynamic", "yarn", "llama3")
    activation: str = "hidden_act"
    own: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    rope: Rope = _huggingface_rope.flat
    read: Callable[[Keys, Mapping[str, Any]], Mapping[str, Any]] = lambda keys, fields: {}
    write: Callable[[Config], Mapping[str, Any]] = lambda config: {}

    def fits(self, config: Config) -> bool:
        """Whether config.json of this type has words for the config."""
        if config.rope.get("rope_type") not in (None, *self.scalings):
            return False
        return all(getattr(config, name) == usual for name, usual in UNUSUAL.items() if name not in self.says)


def codec(*families: Family) -> Codec:
    """The codec of one or more model types that share their tensors and arithmetic."""
    return Codec(
        lambda facts: facts["config"].get("model_type"),
        lambda facts, probe: read(_called(families, facts["config"]), facts, probe),
        lambda config: {"config": write(_fitting(families, config), config)},
    )


def read(family: Family, facts: Facts, probe: Probe) -> Config:
    """Hyper-parameters from config.json; absent keys mean what transformers means by their absence."""
    keys = Keys(facts["config"], family.defaults)
    keys.refuse_other_arithmetic(family.own)
    heads, hidden = keys.whole("num_attention_heads"), keys.whole("hidden_size")
    layers = keys.whole("num_hidden_layers", most=MOST)
    kv_heads, head_dim = (
        keys.whole("num_key_value_heads", heads),
        keys.whole("head_dim", hidden // heads or None, most=MOST),
    )
    context = keys.whole("max_position_embeddings", 2048)
    if heads % kv_heads or head_dim % 2:
        raise keys.broken(f"{heads} heads of {head_dim} dimensions and {kv_heads} for keys do not fit together")
    activation = keys.get(family.activation) or "silu"
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise keys.unsupported(f"activation '{activation}'", f"those known are: {', '.join(ACTIVATIONS)}")
    fields: dict[str, Any] = {
        "context": context,
        "hidden": hidden,
        "feed_forward": keys.whole("intermediate_size"),
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocabulary": keys.whole("vocab_size"),
        "eps": keys.real("rms_norm_eps", 1e-6),
        "tied": bool(keys.get("tie_word_embeddings")),
        "activation": ACTIVATIONS[activation],
        "name": str(keys.get("_name_or_path") or ""),
        "original": facts["config"],
    }
    fields |= family.rope(keys, family.scalings, context, head_dim)
    return Config(**(fields | dict(family.read(keys, fields))))


def write(family: Family, config: Config) -> dict[str, Any]:
    """config.json: the original one where it means the same; else with what it says and Config does not know."""
    own = config.original.get("model_type") == family.model_type
    if own and same(read(family, {"config": config.original}, lambda name: None), config):
        return dict(config.original)
    settings: dict[str, Any] = {
        "architectures": [family.classes],
        "model_type": family.model_type,
        "head_dim": config.head_dim,
        family.activation: WRITTEN[config.activation],
        "hidden_size": config.hidden,
        "intermediate_size": config.feed_forward,
        "max_position_embeddings": config.context,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.eps,
        "rope_scaling": dict(config.rope) or None,
        "rope_theta": config.theta,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocabulary,
    }
    kept = {key: value for key, value in config.original.items() if key not in OVERRULED}
    unknown = {"pad_token_id": None}  # a family's default may lie beyond the vocabulary, and then nothing loads
    return {**unknown, **kept, **settings, **family.write(config)}


def same(one: Config, other: Config) -> bool:
    """Whether two configs mean the same model; names and origins aside."""
    fields = [name for name in Config.__slots__ if name not in ("original", "name")]
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def _called(families: tuple[Family, ...], config: Mapping[str, Any]) -> Family:
    found = str(config.get("model_type"))
    return next((one for one in families if one.model_type == found), Family(found, f"{found.title()}ForCausalLM"))


def _fitting(families: tuple[Family, ...], config: Config) -> Family:
    """The original's own type if it has the words, else the first that has."""
    own = config.original.get("model_type", families[0].model_type if families else "llama")
    ordered = sorted(families, key=lambda one: one.model_type != own)
    for one in ordered:
        if one.fits(config):
            return one
    if families:
        raise Unsupported(f"config.json of {families[0].model_type} has no words for this model", "convert to GGUF")
    return _called((), {"model_type": own})
