"""A config.json under its family's defaults: checked numbers, and what must not be overlooked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelkit.architectures._contract import Config
from modelkit.errors import BrokenFile, Unsupported

FIX = "fetch the model's own config.json again"
LARGEST = 2**40  # no size in a config comes near; products of four of them still print
MOST = 65_536  # layers, and dimensions of a head: lists are made of them; known models have some hundred

OTHER_ARITHMETIC: Mapping[str, tuple[object, ...]] = {
    "alibi": (False,),
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "attn_temperature_tuning": (False, 0),
    "clip_qkv": (),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (),
    "is_causal": (True,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "n_routed_experts": (0,),
    "no_rope_layers": ([],),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "parallel_attn": (False,),
    "qk_layernorm": (False,),
    "qk_norm": (False,),
    "query_pre_attn_scalar": (),
    "residual_multiplier": (1,),
    "rope_interleaved": (False,),
    "rotary_pct": (1,),
    "scale_depth": (),
    "scale_emb": (1,),
    "use_bidirectional_attention": (False,),
    "use_parallel_residual": (False,),
    "use_qk_norm": (False,),
}
"""Keys of one family that change the arithmetic when another's config has them, and the values that change
nothing (null never does). `pretraining_tp` is not among them: it orders the same sums differently, and
transformers 5 has dropped it."""


class Keys:
    """Reads one config.json. `defaults` is what transformers takes for keys that are absent."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.config = config
        self.family = str(config.get("model_type"))
        self.defaults = defaults

    def get(self, key: str) -> Any:
        """The value as it stands, null included; the default only where the key is absent."""
        return self.config[key] if key in self.config else self.defaults.get(key)

    def whole(self, key: str, otherwise: int | None = None, most: int = LARGEST) -> int:
        """A positive whole number; `otherwise` for null, or where there is no default."""
        value = self.get(key)
        return self.count(key, otherwise if value is None else value, most)

    def count(self, key: str, value: Any, most: int = LARGEST) -> int:
        """`value`, if it is a positive whole number."""
        if type(value) is not int or not 0 < value <= most:
            limit = f" of at most {most:,}" if isinstance(value, int) and value > most else ""
            raise self.broken(f"{key} is {value!r}, a positive whole number{limit} expected")
        return value

    def real(self, key: str, otherwise: float | None = None) -> float:
        """A positive number; `otherwise` for null."""
        value = self.get(key)
        return self.number(key, otherwise if value is None else value)

    def cap(self, key: str) -> float | None:
        """A positive number, or null."""
        return None if self.get(key) is None else self.real(key)

    def number(self, key: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 2**100:
            raise self.broken(f"{key} is {value!r}, a positive number expected")
        return float(value)

    def numbers(self, key: str, value: Any, count: int) -> list[float]:
        """As many positive numbers as expected."""
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != count:
            found = f"a list of {len(value)}" if isinstance(value, list) else repr(value)
            raise self.broken(f"{key} is {found}, a list of {count} numbers expected")
        return [self.number(key, item) for item in value]

    def mapping(self, key: str) -> dict[str, Any]:
        """An object; {} for null or nothing."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.broken(f"{key} is {value!r}, an object expected")
        return dict(value or {})

    def biases(self, *kinds: str) -> tuple[str, ...]:
        """By the flags of "attention" (q, k, v and output) and "mlp"."""
        flagged = {"attention": ("attention", "output"), "mlp": ("mlp",)}
        return tuple(bias for kind in kinds if self.get(f"{kind}_bias") for bias in flagged[kind])

    def layer_types(self, layers: int) -> tuple[bool, ...] | None:
        """By layer: whether it slides; None where config.json does not list them."""
        types = self.get("layer_types")
        if types is None:
            return None
        if not isinstance(types, list) or len(types) != layers:
            raise self.broken(f"layer_types does not name {layers} layers")
        for one in types:
            if one not in ("full_attention", "sliding_attention"):
                raise self.unsupported(f"layers of type '{one}'")
        return tuple(one == "sliding_attention" for one in types)

    def refuse_other_arithmetic(self, known: Sequence[str]) -> None:
        """Name a key that this family does not have and that would change its results."""
        for key, neutral in OTHER_ARITHMETIC.items():
            value = self.config.get(key)
            if value is not None and key not in known and value not in neutral:
                raise self.unsupported(f"{key} is {value!r}")

    def broken(self, message: str) -> BrokenFile:
        return BrokenFile(f"config.json: {message}", FIX, "config-shape-mismatch")

    def unsupported(self, what: str, fix: str = "") -> Unsupported:
        fix = fix or "this is no plain model of its family; a .safetensors file carries its weights as they are"
        return Unsupported(f"unsupported architecture {self.family}: {what}", fix)


def attention_bias(config: Config) -> bool:
    """The flag that stands for q, k, v and output together. Raises Unsupported where only some of them have one."""
    some = {"attention", "output"} & set(config.bias)
    if len(some) == 1:
        there, absent = ("q, k and v", "output") if "attention" in some else ("output", "q, k and v")
        message = f"a config.json cannot say that {there} have biases and {absent} none"
        raise Unsupported(message, "keep it in GGUF, where the tensors say it")
    return bool(some)
