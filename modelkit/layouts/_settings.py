"""What layouts do alike with configs: read a number under any of its names, list what stays floats in a written one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelkit.layouts._contract import Settings
from modelkit.tensors import Encoding, Tensor

NOT_LINEAR = ("embed_tokens", "lm_head", "wte", "wpe", "embed_in", "embed_out", "tok_embeddings", "output")
"""Last words of modules that are embeddings or heads."""


def whole_number(settings: Settings, keys: Sequence[str]) -> int | None:
    """The first of some keys that is there, if it is a whole number; None where there is none."""
    for key in keys:
        found: Any = settings.get(key)
        if type(found) is int:
            return found
    return None


def linear_floats(tensors: Iterable[Tensor], quantised: Mapping[str, Encoding]) -> list[str]:
    """Modules of matrices that stay floats where an engine would expect them quantised: no embedding, no head."""
    found = []
    for tensor in tensors:
        module = tensor.name.removesuffix(".weight")
        linear = len(tensor.shape) == 2 and module != tensor.name and module.rpartition(".")[2] not in NOT_LINEAR
        if linear and module not in quantised:
            found.append(module)
    return found
