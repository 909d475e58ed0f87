"""Columns come in an order of their own (act-order).

g_idx says for each column which group it belongs to. Plain order, column // group size, is the usual case; another
one (desc_act without static_groups) is held by GPTQ alone. It is an error where the config denies it (`desc_act`
false): engines that believe the config do not look at the map.

Why: No other layout can hold such a weight: converting means decoding it and quantising it again, with a loss.

Fix: Keep the model in GPTQ, or convert from the original one.

    model.safetensors: 'model.layers.0.mlp.down_proj.weight' has columns in an order of their own (act-order)
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.tensors import Tensor

HELD = "; compressed-tensors of today, AWQ, MLX and GGUF cannot hold it, and converting there quantises again"
KEEP = "keep it in GPTQ, or convert from the original model"


def check(subject: Subject) -> Iterator[Finding]:
    weights = subject.weights
    mapped = [tensor for tensor in weights.tensors if _is_mapped(tensor)]
    if not mapped:
        return
    name, file = mapped[0].name, subject.file_of(mapped[0].parts[-1].name)
    more = f" and {len(mapped) - 1:,} more have" if len(mapped) > 1 else " has"
    yield Finding(file, f"'{name}'{more} columns in an order of their own (act-order){HELD}", KEEP, name)


def _is_mapped(tensor: Tensor) -> bool:
    return bool(getattr(tensor.encoding, "mapped", False))


rule = Rule("Columns come in an order of their own (act-order)", "info", "config", model=check)
