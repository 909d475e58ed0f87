"""The key-values of one GGUF architecture: checked numbers, and what must not be overlooked."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from modelkit.architectures._contract import Facts
from modelkit.errors import BrokenFile, Unsupported

FIX = "fetch the file again, or write it with a current converter"
LARGEST = 2**40  # no size comes near
MOST = 65_536  # layers, and dimensions of a head: lists are made of them; known models have some hundred

OTHER_ARITHMETIC: Mapping[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.output_scale": (0, 1),
    "attention.temperature_scale": (0, 1),
    "attention.temperature_length": (0,),
    "attention.shared_kv_layers": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "logit_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "residual_scale": (0, 1),
    "rope.dimension_sections": (),
    "rope.scaling.alpha": (0, 1),
    "router_logit_softcapping": (0,),
    "swin_norm": (False,),
    "use_parallel_residual": (False,),
}
"""Keys of other architectures that change the arithmetic, and the values that change nothing."""


class Keys:
    """Reads `NAME.key` of a GGUF; every number is real and positive, or it is refused with its key."""

    def __init__(self, name: str, facts: Facts) -> None:
        self.name = name
        self.facts = facts

    def get(self, key: str) -> Any:
        return self.facts.get(f"{self.name}.{key}")

    def whole(self, key: str, default: int | None = None, most: int = LARGEST) -> int:
        """A positive whole number. A list of one for each layer counts when all are equal."""
        value = self.get(key)
        if isinstance(value, list) and value:
            if any(one != value[0] for one in value):
                raise self.unsupported(f"{key} differs by layer")
            value = value[0]
        value = default if value is None else value
        if type(value) is not int or not 0 < value <= most:
            found = "absent" if value is None else repr(value)
            limit = f" of at most {most:,}" if isinstance(value, int) and value > most else ""
            raise self.broken(f"key '{self.name}.{key}' is {found}, a positive whole number{limit} expected")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A positive number, as the shortest decimal that is the same float32; a default is taken as it is."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 2**100:
            found = "absent" if value is None else repr(value)
            raise self.broken(f"key '{self.name}.{key}' is {found}, a positive number expected")
        return shortest(value)

    def cap(self, key: str, default: float | None) -> float | None:
        """A positive number; None for 0."""
        value = self.get(key)
        return default if value is None else None if value == 0 else self.real(key)

    def refuse_other_arithmetic(self) -> None:
        """Name a key that this architecture does not have and that would change its results."""
        for key, neutral in OTHER_ARITHMETIC.items():
            value = self.get(key)
            if value is not None and value not in neutral:
                raise self.unsupported(f"{key} is {value!r}")

    def broken(self, message: str) -> BrokenFile:
        return BrokenFile(message, FIX, "missing-key")

    def unsupported(self, what: str, fix: str = "") -> Unsupported:
        return Unsupported(
            f"unsupported architecture {self.name}: {what}",
            fix or "convert to GGUF, where keys and tensors are carried as they are",
        )


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 was written, 9.99999974e-06 is read."""
    number = float(value)
    for digits in range(1, 9):
        short = float(f"{number:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", number):
            return short
    return number
